"""Fixtures of crates/sampling: what the reference computes, as small JSON files.

Regenerate with `python parity/sampling.py` (diffusers 0.42.1, torch, numpy; see requirements.txt).
The schedulers, the timetable and the film loop are the reference's own objects; the step caches and the noise are
simulated here independently, from the papers and the authors' code, since no package offers them.
"""

import contextlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import diffusers
import diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing as pipeline_module
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing import (
    SkyReelsV2DiffusionForcingPipeline as T2V,
)
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing_v2v import (
    SkyReelsV2DiffusionForcingVideoToVideoPipeline as V2V,
)

VERSION = "0.42.1"
OUT = Path(__file__).resolve().parent.parent / "crates" / "sampling" / "tests" / "fixtures"


def floats(values):
    """f32 values as the shortest JSON numbers that read back as the same f32."""
    return [float(str(x)) for x in np.float32(values).reshape(-1)]


def settings(scheduler):
    """The scheduler's configuration as a checkpoint stores it."""
    return json.loads(scheduler.to_json_string())


def unipc(**config):
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, **config
    )


def schedules():
    cases = []
    for shift in (1.0, 3.0, 5.0, 8.0):
        for steps in (1, 2, 3, 5, 10, 30, 50):
            for final in ("zero", "sigma_min") if steps == 5 else ("zero",):
                scheduler = unipc(flow_shift=shift, final_sigmas_type=final)
                scheduler.set_timesteps(steps)
                cases.append({
                    "config": settings(scheduler),
                    "steps": steps,
                    "timesteps": floats(scheduler.timesteps),
                    "sigmas": floats(scheduler.sigmas),
                })
    odd = unipc(flow_shift=4.7, num_train_timesteps=900)
    odd.set_timesteps(13)
    cases.append({"config": settings(odd), "steps": 13,
                  "timesteps": floats(odd.timesteps), "sigmas": floats(odd.sigmas)})
    for shift in (1.0, 3.0, 8.0):
        for steps in (1, 2, 7, 20):
            scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
            scheduler.set_timesteps(steps)
            cases.append({
                "config": settings(scheduler),
                "steps": steps,
                "timesteps": floats(scheduler.timesteps),
                "sigmas": floats(scheduler.sigmas),
            })
    # The few-step tables of LightX2V and Self Forcing: torch.linspace, shifted, indexed.
    few = []
    for shift in (1.0, 3.0, 5.0, 8.0):
        table = torch.linspace(1.0, 0.0, 1001)[:-1]
        table = shift * table / (1 + (shift - 1) * table)
        for steps in ([1000, 750, 500, 250], [1000, 937, 833, 624, 1], [800, 333]):
            warped = table[[1000 - s for s in steps]]
            nearest = [(table * 1000 - s).abs().argmin().item() for s in steps]
            few.append({"steps": steps, "flow_shift": shift, "warp": True,
                        "timesteps": floats(warped * 1000), "sigmas": floats(warped) + [0.0]})
            few.append({"steps": steps, "flow_shift": shift, "warp": False,
                        "timesteps": [float(s) for s in steps], "sigmas": floats(table[nearest]) + [0.0]})
    return {"schedules": cases, "few_step": few}


def solvers():
    generator = torch.Generator().manual_seed(7)
    randn = lambda *shape: torch.randn(*shape, generator=generator)
    cases = []

    def run(scheduler, steps, name):
        scheduler.set_timesteps(steps)
        sample = randn(1, 1, 5)
        case = {"name": name, "config": settings(scheduler), "steps": steps,
                "start": floats(sample), "velocities": [], "samples": []}
        for t in scheduler.timesteps:
            velocity = randn(1, 1, 5)
            sample = scheduler.step(velocity, t, sample, return_dict=False)[0]
            case["velocities"].append(floats(velocity))
            case["samples"].append(floats(sample))
        assert all(math.isfinite(x) for row in case["samples"] for x in row), name
        cases.append(case)

    for order in (1, 2, 3):
        for steps in (1, 2, 3, 9):
            run(unipc(flow_shift=8.0, solver_order=order), steps, f"bh2 order {order}, {steps} steps")
        run(unipc(flow_shift=3.0, solver_order=order, disable_corrector=[0, 2]), 6,
            f"bh2 order {order}, corrector off at 0 and 2")
    run(unipc(flow_shift=5.0), 50, "bh2 order 2, 50 steps")
    # bh1 to noise level 0 is NaN in the reference, so its end is a level above 0.
    for order in (1, 2):
        run(unipc(flow_shift=5.0, solver_order=order, solver_type="bh1",
                  final_sigmas_type="sigma_min"), 7, f"bh1 order {order}")
    run(unipc(flow_shift=5.0, solver_order=2, lower_order_final=False,
              final_sigmas_type="sigma_min"), 6, "bh2 order 2 kept to the end")
    for steps in (1, 6):
        run(FlowMatchEulerDiscreteScheduler(shift=5.0), steps, f"euler, {steps} steps")

    # Few-step renoising in f64, from the definition.
    sigmas = np.array([1.0, 0.9375, 0.8333333, 0.625, 0.0])
    x = randn(6).double().numpy()
    renoise = {"sigmas": sigmas.tolist(), "start": x.tolist(), "velocities": [], "noises": [], "samples": []}
    for i in range(4):
        velocity, noise = randn(6).double().numpy(), randn(6).double().numpy()
        x0 = x - sigmas[i] * velocity
        x = x0 if i == 3 else (1 - sigmas[i + 1]) * x0 + sigmas[i + 1] * noise
        renoise["velocities"].append(velocity.tolist())
        renoise["noises"].append(noise.tolist())
        renoise["samples"].append(x.tolist())
    return {"cases": cases, "renoise": renoise}


def toy_model(latents, timesteps):
    """A velocity that depends on the frame, its timestep and the frame before it, in f32."""
    before = torch.cat([torch.zeros_like(latents[:1]), latents[:-1]])
    return 0.5 * latents - 0.25 * before + 0.001 * timesteps[:, None]


def reference_matrix(frames, template, base, ar_step, ready, block):
    return T2V.generate_timestep_matrix(None, frames, template, base, ar_step, ready, block)


def fnv1a(text):
    digest = 0xCBF29CE484222325
    for byte in text.encode():
        digest = ((digest ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"


def row_texts(result, frames):
    """Rows as text: timesteps, positions, updated or not, and the interval within the window."""
    matrix, index, mask, interval = result
    return [
        f"{','.join(map(str, matrix[i].tolist()))};{','.join(map(str, index[i].tolist()))};"
        f"{''.join('01'[u] for u in mask[i].tolist())};{interval[i][0]}-{min(interval[i][1], frames)}"
        for i in range(len(matrix))
    ]


def timetables():
    explicit, grids, refused = [], [], []
    for block in (1, 2, 3, 5):
        for steps in (1, 2, 4, 7):
            scheduler = unipc(flow_shift=8.0)
            scheduler.set_timesteps(steps)
            template = scheduler.timesteps
            count, text = 0, ""
            for blocks in range(1, 7):
                for base_blocks in range(1, blocks + 2):
                    for ar_step in range(0, 9):
                        for ready in range(0, blocks):
                            args = (blocks * block, template, base_blocks * block, ar_step,
                                    ready * block, block)
                            shape = {"frames": args[0], "base": args[2], "ar_step": ar_step,
                                     "prefix": args[4], "block": block, "steps": steps}
                            try:
                                rows = row_texts(reference_matrix(*args), args[0])
                            except ValueError as error:
                                least = int("".join(c for c in str(error) if c.isdigit()))
                                if len(refused) < 40 and (count + len(refused)) % 11 == 0:
                                    refused.append({**shape, "least": least})
                                text += f"refused {least}\n"
                                count += 1
                                continue
                            text += "\n".join(rows) + "\n"
                            count += 1
                            if (blocks, ready) in ((3, 0), (4, 1)) and base_blocks >= blocks - 1 \
                                    and ar_step in (0, 2, 5) and steps == 4 and block in (1, 3) \
                                    and base_blocks <= blocks:
                                explicit.append({**shape, "timesteps": floats(template), "rows": rows})
            grids.append({"block": block, "steps": steps, "timesteps": floats(template),
                          "count": count, "digest": fnv1a(text)})
    return {"explicit": explicit, "grids": grids, "refused": refused}


def denoised_windows():
    """The denoising loop of the pipelines on a toy model: one solver for each latent frame."""
    generator = torch.Generator().manual_seed(11)
    cases = []
    for name, frames, prefix, base, block, ar_step, addnoise, end, steps, shift in [
        ("synchronous", 6, 0, 6, 1, 0, 0, 0, 6, 8.0),
        ("asynchronous blocks", 6, 0, 6, 2, 3, 0, 0, 5, 8.0),
        ("asynchronous frames after a prefix with noise", 7, 3, 7, 1, 2, 20, 0, 6, 5.0),
        ("synchronous blocks after a prefix with noise", 9, 3, 9, 3, 0, 20.5, 0, 4, 5.0),
        ("sliding interval", 8, 0, 4, 2, 4, 0, 0, 5, 3.0),
        ("first and last image", 6, 1, 6, 1, 0, 0, 1, 5, 5.0),
        ("first and last image, asynchronous", 5, 1, 5, 1, 2, 10, 1, 4, 5.0),
    ]:
        scheduler = unipc(flow_shift=shift)
        scheduler.set_timesteps(steps)
        latents = torch.randn(frames + end, 4, generator=generator)
        start = latents.clone()
        window = frames + end
        solvers = []
        for _ in range(window):
            solver = unipc(flow_shift=shift)
            solver.set_timesteps(steps)
            solvers.append(solver)
        matrix, _, mask, interval = reference_matrix(
            window, scheduler.timesteps, base + end, ar_step, prefix, block)
        if end:
            matrix[:, -end:] = 0
            mask[:, -end:] = False
        noises = []
        for i, t in enumerate(matrix):
            first, last = interval[i]
            shown, timestep = latents[first:last].clone(), t[first:last].clone()
            noise = torch.randn(prefix, 4, generator=generator)
            noises.append(floats(noise))
            if addnoise > 0 and first < prefix:
                factor = 0.001 * addnoise
                shown[first:prefix] = shown[first:prefix] * (1.0 - factor) + noise[first:prefix] * factor
                timestep[first:prefix] = addnoise
            velocity = toy_model(shown, timestep)
            for frame in range(first, last):
                if mask[i][frame].item():
                    latents[frame] = solvers[frame].step(
                        velocity[frame - first][None], t[frame], latents[frame][None], return_dict=False)[0][0]
        cases.append({
            "name": name, "frames": frames, "prefix": prefix, "base": base, "block": block,
            "ar_step": ar_step, "addnoise": addnoise, "end": end, "steps": steps, "flow_shift": shift,
            "start": floats(start), "noises": noises if addnoise else [], "final": floats(latents),
        })
    return {"cases": cases}


class ToyTransformer(torch.nn.Module):
    """`toy_model` in the transformer's place; the prompt's embedding is a number that scales a term."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(in_channels=1, num_frame_per_block=1)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def _set_ar_attention(self, causal_block_size):
        self.config.num_frame_per_block = causal_block_size

    def cache_context(self, name):
        return contextlib.nullcontext()

    def forward(self, hidden_states, timestep, encoder_hidden_states, **_):
        frames = hidden_states[0, 0].flatten(1)
        velocity = toy_model(frames, timestep[0]) + encoder_hidden_states.item() * frames
        return (velocity.view_as(hidden_states),)


def films():
    """Whole films of several segments by the real text-to-video pipeline on a toy transformer."""
    generator = torch.Generator().manual_seed(5)
    pipe = T2V(tokenizer=None, text_encoder=None, transformer=ToyTransformer(), vae=None, scheduler=unipc())
    pipe.set_progress_bar_config(disable=True)
    noises = []

    def recorded(shape, **_):
        noises.append(torch.randn(shape, generator=generator))
        return noises[-1].clone()

    pipeline_module.randn_tensor = recorded
    randn_like, torch.randn_like = torch.randn_like, lambda x: recorded(x.shape)
    cases = []
    for name, total, base, overlap, block, ar_step, addnoise, guidance, steps, shift in [
        ("one window with guidance", 5, 5, None, 1, 0, 0, 3.0, 6, 8.0),
        ("four segments with condition noise", 13, 5, 2, 1, 0, 20, 2.0, 4, 5.0),
        ("three segments, asynchronous blocks, condition noise", 12, 6, 2, 2, 2, 10, 1.0, 3, 8.0),
        ("one window, asynchronous frames", 6, 6, None, 1, 3, 0, 1.0, 5, 3.0),
    ]:
        noises.clear()
        pipe.scheduler = unipc(flow_shift=shift)
        latents = pipe(
            prompt=None, prompt_embeds=torch.full((1, 1, 1), 0.25),
            negative_prompt_embeds=torch.full((1, 1, 1), -0.125), height=16, width=16,
            num_frames=4 * (total - 1) + 1, base_num_frames=4 * (base - 1) + 1,
            overlap_history=overlap and 4 * (overlap - 1) + 1, num_inference_steps=steps,
            guidance_scale=guidance, addnoise_condition=addnoise, ar_step=ar_step,
            causal_block_size=block, output_type="latent", return_dict=False)[0]
        cases.append({
            "name": name, "total": total, "base": base, "overlap": overlap or 0, "block": block,
            "ar_step": ar_step, "addnoise": addnoise, "guidance": guidance, "steps": steps,
            "flow_shift": shift, "cond": 0.25, "uncond": -0.125,
            # In the order of use: the start of a segment, then its condition noise row by row.
            "noises": [floats(noise) for noise in noises], "final": floats(latents),
        })
    torch.randn_like = randn_like
    return {"cases": cases}


def segments():
    """Windows of long films, from the pipelines' own prepare_latents."""
    pipe = SimpleNamespace(vae_scale_factor_temporal=4, vae_scale_factor_spatial=8)
    encode = lambda video: SimpleNamespace(latents=torch.zeros(1, 16, (video.shape[2] - 1) // 4 + 1, 1, 1))
    pipe.vae = SimpleNamespace(
        dtype=torch.float32, encode=encode,
        config=SimpleNamespace(latents_mean=[0.0] * 16, latents_std=[1.0] * 16, z_dim=16))
    cases = []
    for block in (1, 2, 5):
        for base in (2 * block, 3 * block + (0 if block > 1 else 4), 5 * block):
            for overlap in range(block, base, block):
                for total in range(block, 5 * base + 1, block):
                    for start in ("noise", "video"):
                        if start == "noise" and total <= base or start == "video" and total <= overlap:
                            continue
                        if (total * 7 + overlap * 3 + base) % 11:
                            continue
                        num_frames = (total - 1) * 4 + 1
                        n_iter = 1 + (total - base - 1) // (base - overlap) + 1
                        film, windows = None, []
                        for i in range(n_iter):
                            common = dict(
                                batch_size=1, num_channels_latents=16, height=8, width=8,
                                num_frames=num_frames, dtype=torch.float32, device="cpu",
                                video_latents=film, base_latent_num_frames=base,
                                causal_block_size=block, overlap_history_latent_frames=overlap,
                                long_video_iter=i)
                            if start == "noise":
                                latents, window, _, prefix = T2V.prepare_latents(pipe, **common)
                            else:
                                latents, window, _, prefix = V2V.prepare_latents(
                                    pipe, video=torch.zeros(1, 1, 3, 4 * base + 1, 8, 8),
                                    overlap_history=(overlap - 1) * 4 + 1, **common)
                            windows.append([window, prefix])
                            film = latents if film is None else torch.cat([film, latents[:, :, overlap:]], dim=2)
                        assert film.shape[2] == total
                        cases.append([block, base, overlap, total, start, windows])
    return {"fields": "block, base, overlap, total, start, [[window, prefix], ...]", "cases": cases}


def teacache_decisions(observed, coefficients, threshold, warmup, cutoff):
    """One branch of TeaCache as its Wan code intends it: rows counted, not calls."""
    computed, accumulated, previous = [], 0.0, None
    for row, value in enumerate(observed):
        value = np.float32(value)
        if row < warmup or row >= cutoff:
            compute = True
        else:
            distance = float(np.abs(value - previous).mean(dtype=np.float64)
                             / np.abs(previous).mean(dtype=np.float64))
            accumulated += float(np.poly1d(coefficients)(distance))
            compute = not accumulated < threshold
        if compute:
            accumulated = 0.0
        computed.append(compute)
        previous = value
    return computed


def easycache_run(inputs, outputs, threshold, warmup):
    """EasyCache's conditional branch; `outputs[row]` is what the model would say."""
    computed, results = [], []
    k = previous = last_in = last_out = residual = None
    accumulated = 0.0
    for row, (x, y) in enumerate(zip(inputs, outputs)):
        compute = True
        if warmup <= row < len(inputs) - 1 and k is not None:
            accumulated += k * np.abs(x - previous).mean() / np.abs(last_out).mean()
            compute = not accumulated < threshold
        if compute:
            accumulated = 0.0
            if last_in is not None:
                k = np.abs(y - last_out).mean() / np.abs(x - last_in).mean()
            last_in, last_out, residual = x, y, y - x
        computed.append(compute)
        results.append(floats(y if compute else x + residual))
        previous = x
    return computed, results


def caches():
    # Coefficients as the official repository prints them (initialize_teacache).
    published = {
        ("Text1_3B", True): [-5.21862437e+04, 9.23041404e+03, -5.28275948e+02, 1.36987616e+01, -4.99875664e-02],
        ("Text14B", True): [-3.03318725e+05, 4.90537029e+04, -2.65530556e+03, 5.87365115e+01, -3.15583525e-01],
        ("Image540P", True): [2.57151496e+05, -3.54229917e+04, 1.40286849e+03, -1.35890334e+01, 1.32517977e-01],
        ("Image720P", True): [8.10705460e+03, 2.13393892e+03, -3.72934672e+02, 1.66203073e+01, -4.17769401e-02],
        ("Text1_3B", False): [2.39676752e+03, -1.31110545e+03, 2.01331979e+02, -8.29855975e+00, 1.37887774e-01],
        ("Text14B", False): [-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404],
        ("Image540P", False): [-3.02331670e+02, 2.23948934e+02, -5.25463970e+01, 5.87348440e+00, -2.01973289e-01],
        ("Image720P", False): [-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683],
    }
    rng = np.random.default_rng(3)
    rows = 24
    tea = []
    for (family, ret), coefficients in published.items():
        # Steps of a size at which the polynomials say something: per cent, growing to the end.
        size = (0.02 if ret else 0.12) * np.linspace(0.6, 1.6, rows)[:, None]
        observed = np.float32(1.0 + np.cumsum(rng.normal(size=(rows, 6)) * size, axis=0))
        for threshold in (0.1, 0.3):
            computed = teacache_decisions(observed, coefficients, threshold,
                                          5 if ret else 1, rows if ret else rows - 1)
            tea.append({"family": family, "use_ret_steps": ret, "threshold": threshold,
                        "observed": [floats(row) for row in observed],
                        "computed": computed})
    easy = []
    for threshold, warmup in ((0.05, 3), (0.2, 3), (0.1, 10)):
        inputs = rng.normal(size=6) + np.cumsum(rng.normal(size=(rows, 6)) * 0.03, axis=0)
        outputs = 0.7 * inputs + 0.3 * np.sin(3 * inputs)
        inputs, outputs = np.float32(inputs).astype(float), np.float32(outputs).astype(float)
        computed, results = easycache_run(inputs, outputs, threshold, warmup)
        easy.append({"threshold": threshold, "warmup": warmup, "inputs": [floats(row) for row in inputs],
                     "outputs": [floats(row) for row in outputs], "computed": computed, "results": results})
    return {"teacache": tea, "easycache": easy}


def philox(counter, key):
    """Philox4x32-10 from the paper's description, with Python integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def noise():
    cases = []
    for seed, segment, frame, purpose, row, first in [
        (0, 0, 0, 1, 0, 0), (42, 0, 3, 1, 0, 0), (42, 7, 3, 1, 0, 5), (2**64 - 1, 1, 24, 2, 49, 4096),
        (1024, 3, 1, 3, 2, 2**33 + 1),
    ]:
        key = philox((purpose, 0, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))[:2]
        values = []
        for position in range(first, first + 10):
            words = philox((position // 4, frame, segment, row), key)
            u, v = words[0:2] if position % 4 < 2 else words[2:4]
            radius = math.sqrt(-2.0 * math.log((u + 1) / 2**32))
            angle = 2 * math.pi * v / 2**32
            values.append(float(np.float32(radius * (math.sin(angle) if position % 2 else math.cos(angle)))))
        cases.append({"seed": str(seed), "segment": segment, "latent_frame": frame, "purpose": purpose,
                      "row": row, "first": first, "values": values})
    return {"cases": cases}


def main():
    assert diffusers.__version__ == VERSION, f"diffusers {VERSION} is the reference, not {diffusers.__version__}"
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    made_by = {"by": "parity/sampling.py", "diffusers": VERSION, "torch": torch.__version__,
               "numpy": np.__version__}
    for make in (schedules, solvers, timetables, denoised_windows, films, segments, caches, noise):
        path = OUT / f"{make.__name__}.json"
        path.write_text(json.dumps({"made": made_by, **make()}, separators=(",", ":")) + "\n")
        print(f"{path.name}: {path.stat().st_size / 1024:.1f} KB")


if __name__ == "__main__":
    main()
