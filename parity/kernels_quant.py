"""Writes the fixtures of crates/kernels/tests/dequantize.rs.

Versions: gguf 0.19.0 (its numpy dequantisers follow ggml-quants.c), numpy 2.x,
torch 2.x (for the 8-bit floats). Run: python parity/kernels_quant.py

For each block format: random blocks with ordinary scales (and one block with a
negative and one with a subnormal scale) and their values. For the 8-bit floats and
f16: the values of all codes. NaN is compared as NaN, everything else bit by bit.
"""

from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize

OUT = Path(__file__).resolve().parent.parent / "crates/kernels/tests/fixtures/quant"
# name: (type, bytes of a block, offsets of its f16 scales)
FORMATS = {
    "q8_0": (Q.Q8_0, 34, [0]),
    "q5_0": (Q.Q5_0, 22, [0]),
    "q4_0": (Q.Q4_0, 18, [0]),
    "q6_k": (Q.Q6_K, 210, [208]),
    "q5_k": (Q.Q5_K, 176, [0, 2]),
    "q4_k": (Q.Q4_K, 144, [0, 2]),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20260101)
    for name, (kind, size, scales) in FORMATS.items():
        blocks = rng.integers(0, 256, (5, size), dtype=np.uint8)
        for row, block in enumerate(blocks):
            for at in scales:
                value = np.float16([0.0123, -0.37, 3e-6, 1.75, 0.0][row])
                block[at : at + 2] = np.frombuffer(value.tobytes(), dtype=np.uint8)
        values = dequantize(blocks, kind).astype("<f4")
        (OUT / f"{name}.blocks").write_bytes(blocks.tobytes())
        (OUT / f"{name}.f32").write_bytes(values.tobytes())
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    for name, dtype in [("f8_e4m3", torch.float8_e4m3fn), ("f8_e5m2", torch.float8_e5m2)]:
        values = codes.view(dtype).to(torch.float32).numpy().astype("<f4")
        (OUT / f"{name}.blocks").write_bytes(codes.numpy().tobytes())
        (OUT / f"{name}.f32").write_bytes(values.tobytes())


if __name__ == "__main__":
    main()
