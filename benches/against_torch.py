"""Speed of torch at the shapes of crates/kernels/benches/kernels.rs, and of both in turn.

Run: python benches/against_torch.py THREADS            torch alone
     python benches/against_torch.py THREADS BENCH ...  torch and the bench binary in turn,
                                                       case by case, with the ratio
Versions: torch 2.x. Other programs on the machine slow both down alike: compare ratios.
"""

import math
import os
import re
import subprocess
import sys
import time

THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
os.environ["OMP_NUM_THREADS"] = str(THREADS)
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(THREADS)
torch.manual_seed(0)


def linear(rows, k, n, dtype=torch.float32):
    x = torch.randn(rows, k, dtype=dtype)
    w, b = torch.randn(n, k, dtype=dtype), torch.randn(n, dtype=dtype)
    return 2e-9 * rows * k * n, lambda: F.linear(x, w, b)


def attention(heads, queries, keys, size, dtype=torch.float32):
    q, k, v = (torch.randn(1, heads, n, size, dtype=dtype) for n in (queries, keys, keys))
    return 4e-9 * heads * queries * keys * size, lambda: F.scaled_dot_product_attention(q, k, v)


def conv(size, i, o, kernel):
    # As the reference's causal convolution: padded in time before, in space by the call.
    x = torch.randn(1, i, size[0] + kernel[0] - 1, size[1], size[2])
    w, b = torch.randn(o, i, *kernel), torch.randn(o)
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    flops = 2e-9 * math.prod(size) * i * o * math.prod(kernel)
    return flops, lambda: F.conv3d(x, w, b, padding=padding)


def upsampled(size, i, o):
    x = torch.randn(size[0], i, size[1], size[2])
    w, b = torch.randn(o, i, 3, 3), torch.randn(o)
    flops = 2e-9 * 4 * math.prod(size) * i * o * 9
    return flops, lambda: F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"), w, b, padding=1)


def channel_norm():
    x, g = torch.randn(1, 96, 4, 120, 208), torch.ones(96, 1, 1, 1)
    return 8e-9 * x.numel(), lambda: F.silu(F.normalize(x, dim=1) * 96**0.5 * g)


def layer_norm():
    x = torch.randn(2048, 1536)
    return 8e-9 * x.numel(), lambda: F.layer_norm(x, (1536,))


def rms_norm():
    x, g = torch.randn(2048, 1536), torch.ones(1536)
    return 8e-9 * x.numel(), lambda: F.rms_norm(x, (1536,), g)


def gelu():
    x = torch.randn(2048, 1536)
    return 8e-9 * x.numel(), lambda: F.gelu(x, approximate="tanh")


CASES = {}
for r, k, n in [(2048, 1536, 1536), (2048, 1536, 8960), (2048, 8960, 1536), (900, 192, 192),
                (900, 192, 768), (64, 256, 256), (144, 192, 192), (144, 192, 512), (144, 512, 192), (5, 1536, 1536)]:
    CASES[f"linear {r}x{k}x{n} f32"] = lambda r=r, k=k, n=n: linear(r, k, n)
CASES["linear 2048x1536x1536 bf16"] = lambda: linear(2048, 1536, 1536, torch.bfloat16)
for k, n in [(1536, 1536), (1536, 8960), (8960, 1536)]:
    CASES[f"linear 2048x{k}x{n} bf16 x bf16"] = lambda k=k, n=n: linear(2048, k, n, torch.bfloat16)
CASES["linear 1x1536x9216 bf16"] = lambda: linear(1, 1536, 9216, torch.bfloat16)
for h, q, k, s in [(12, 2048, 2048, 128), (12, 2048, 512, 128), (4, 900, 900, 64),
                   (4, 900, 64, 48), (2, 500, 500, 20), (6, 144, 144, 32), (6, 144, 12, 32)]:
    CASES[f"attention {h}x{q}x{k}x{s}"] = lambda a=(h, q, k, s): attention(*a)
for k in (2048, 512):
    CASES[f"attention 12x2048x{k}x128 bf16"] = lambda k=k: attention(12, 2048, k, 128, torch.bfloat16)
for s, i, o, kernel in [
    ((4, 120, 208), 96, 96, (3, 3, 3)), ((1, 30, 52), 384, 384, (3, 3, 3)),
    ((4, 60, 104), 192, 192, (1, 3, 3)), ((4, 128, 128), 16, 16, (3, 3, 3)),
    ((4, 32, 32), 64, 64, (3, 3, 3)), ((1, 16, 16), 64, 64, (3, 3, 3)),
    ((4, 128, 128), 16, 3, (3, 3, 3)), ((4, 128, 128), 3, 16, (3, 3, 3)),
    ((33, 64, 64), 8, 8, (3, 3, 3)), ((33, 64, 64), 8, 3, (3, 3, 3)), ((33, 32, 32), 16, 16, (3, 3, 3)),
    ((4, 60, 104), 192, 384, (3, 1, 1)), ((4, 64, 64), 96, 192, (1, 1, 1)),
]:
    name = f"conv3d {i}->{o} {'x'.join(map(str, kernel))} {'x'.join(map(str, s))}"
    CASES[name] = lambda a=(s, i, o, kernel): conv(*a)
CASES["upsampled_conv 192->96 4x60x104"] = lambda: upsampled((4, 60, 104), 192, 96)
CASES["channel_norm silu 96 4x120x208"] = channel_norm
CASES["layer_norm 2048x1536"] = layer_norm
CASES["rms_norm 2048x1536"] = rms_norm
CASES["gelu_tanh 2048x1536"] = gelu


def best_of(body):
    """The best round: by the clock, or with one thread by its CPU time."""
    clock = time.thread_time if THREADS == 1 else time.perf_counter
    body()
    start, best, rounds = time.perf_counter(), math.inf, 0
    while rounds < 3 or (time.perf_counter() - start < 0.35 and rounds < 2000):
        begun = clock()
        body()
        best = min(best, clock() - begun)
        rounds += 1
    return best


@torch.inference_mode()
def main():
    bench = sys.argv[2] if len(sys.argv) > 2 else None
    words = sys.argv[3:]
    for name, make in CASES.items():
        if words and not any(word in name for word in words):
            continue
        work, body = make()
        theirs = ours = 0.0
        for _ in range(3 if bench else 1):
            theirs = max(theirs, work / best_of(body))
            if bench:
                environment = dict(os.environ, RAYON_NUM_THREADS=str(THREADS))
                run = subprocess.run([bench, name], capture_output=True, text=True, env=environment)
                ours = max(ours, float(re.search(r"([\d.]+) G", run.stdout)[1]))
        print(f"{name:36} torch {theirs:8.1f}" + (f"  ours {ours:8.1f}  ratio {ours / theirs:5.2f}" if bench else ""), flush=True)


if __name__ == "__main__":
    main()
