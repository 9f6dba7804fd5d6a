"""Times longreel and diffusers on the same checkpoint, in turn, and prints the ratios.

    python benches/compare.py MODEL [--size 96x96] [--frames 97] [--steps 20] [--rounds 3] [--threads 2]

MODEL is a Diffusers folder, such as demo/. Needs torch, diffusers, transformers, accelerate and ftfy
(see parity/requirements.txt). Everything runs in f32 on the CPU. The two programs take turns, so that a
machine whose speed drifts drifts for both; of each the best round counts.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = "a red circle moves right on a blue background"


def build():
    subprocess.run(
        ["cargo", "build", "--release", "-p", "longreel", "-p", "longreel-film",
         "--bin", "longreel", "--example", "network_times"],
        cwd=ROOT, check=True,
    )
    meta = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"],
        cwd=ROOT, check=True, capture_output=True,
    )
    target = pathlib.Path(json.loads(meta.stdout)["target_directory"]) / "release"
    return target / "longreel", target / "examples" / "network_times"


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--size", default="96x96")
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    width, height = (int(v) for v in args.size.split("x"))
    longreel, network_times = build()

    import torch
    from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler

    torch.set_num_threads(args.threads)
    pipe = SkyReelsV2DiffusionForcingPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    pipe.scheduler = UniPCMultistepScheduler.from_config(
        pipe.scheduler.config, flow_shift=args.shift)
    pipe.set_progress_bar_config(disable=True)
    latent_frames = (args.frames - 1) // 4 + 1
    shape = (1, 16, latent_frames, height // 8, width // 8)
    latents = torch.randn(shape)
    ours = {}
    theirs = {}

    def keep(table, name, seconds):
        table[name] = min(seconds, table.get(name, float("inf")))

    with torch.no_grad():
        ids = pipe.tokenizer(PROMPT, return_tensors="pt")
        text = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)[0]
        for _ in range(args.rounds):
            keep(theirs, "text", timed(lambda: pipe.text_encoder(**ids))[0])
            keep(theirs, "forward", timed(lambda: pipe.transformer(
                hidden_states=latents, timestep=torch.full((1, latent_frames), 500),
                encoder_hidden_states=text, enable_diffusion_forcing=True, fps=[1]))[0])
            seconds, video = timed(lambda: pipe.vae.decode(latents).sample)
            keep(theirs, "vae_decode", seconds)
            keep(theirs, "vae_encode", timed(lambda: pipe.vae.encode(video))[0])
            found = json.loads(subprocess.run(
                [network_times, args.model, str(width), str(height), str(args.frames), "2"],
                check=True, capture_output=True,
                env={"RAYON_NUM_THREADS": str(args.threads)}).stdout)
            for name, seconds in found.items():
                keep(ours, name, seconds)

            with tempfile.TemporaryDirectory() as folder:
                command = [
                    longreel, "generate", PROMPT, "--model", args.model, "--size", args.size,
                    "--num-frames", str(args.frames), "--base-num-frames", str(args.frames),
                    "--steps", str(args.steps), "--guidance-scale", str(args.guidance),
                    "--shift", str(args.shift), "--seed", "1", "--threads", str(args.threads),
                    "-o", f"{folder}/film.mp4"]
                keep(ours, "whole command", timed(
                    lambda: subprocess.run(command, check=True, capture_output=True))[0])
                script = (
                    "import sys, torch\n"
                    "from diffusers import SkyReelsV2DiffusionForcingPipeline as P, "
                    "UniPCMultistepScheduler as S\n"
                    "from diffusers.utils import export_to_video\n"
                    f"torch.set_num_threads({args.threads})\n"
                    f"p = P.from_pretrained({args.model!r}, torch_dtype=torch.float32)\n"
                    f"p.scheduler = S.from_config(p.scheduler.config, flow_shift={args.shift})\n"
                    f"v = p({PROMPT!r}, height={height}, width={width}, num_frames={args.frames}, "
                    f"base_num_frames={args.frames}, num_inference_steps={args.steps}, "
                    f"guidance_scale={args.guidance}, "
                    "generator=torch.Generator().manual_seed(1)).frames[0]\n"
                    f"export_to_video(v, {folder + '/film.mp4'!r}, fps=24)\n")
                keep(theirs, "whole command", timed(lambda: subprocess.run(
                    [sys.executable, "-c", script], check=True, capture_output=True))[0])

    print(f"{'':16}{'diffusers s':>12}{'longreel s':>12}{'ratio':>8}")
    for name in ["whole command", "forward", "vae_decode", "vae_encode", "text"]:
        print(f"{name:16}{theirs[name]:12.3f}{ours[name]:12.3f}{theirs[name] / ours[name]:8.1f}")


if __name__ == "__main__":
    main()
