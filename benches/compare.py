"""Times longreel and diffusers on the same checkpoint in turn, and prints the ratios.

    python benches/compare.py [MODEL] [--threads 1] [--rounds 2]

MODEL is a Diffusers folder of a text-to-video model, demo/ by default; its longreel.json, if there is
one, gives size, frames and steps, and flags override it. Needs torch, diffusers, transformers,
accelerate and ftfy (parity/requirements.txt) and a Rust toolchain; the first run builds for some
minutes, after that the demo model takes two to four.

Both compute in f32 on the CPU with the same number of threads, and take turns, so that a machine whose
speed drifts drifts for both; the best round counts. One thread (the default) is timed by the CPU
seconds it used, which other programs disturb little; several by the clock on the wall.

"whole command" is one process from start to finished MP4. diffusers' part of it that is not the start of
Python, the imports and the loading stands below it as "without start"; without imageio-ffmpeg it writes
no film, which is to its advantage. The text encoder is given twice: as the pipeline calls it (512
positions, most of them padding) and on the same tokens alone.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = "a red circle moves right on a blue background"
SHORTEST_SECONDS = 0.5

WHOLE_FILM = """
import importlib.util, json, resource, sys, time
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler
from diffusers.utils import export_to_video

def clock():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter() if threads > 1 else used.ru_utime + used.ru_stime

model, threads, shift, prompt, options, file = json.loads(sys.argv[1])
torch.set_num_threads(threads)
pipe = SkyReelsV2DiffusionForcingPipeline.from_pretrained(model, dtype=torch.float32)
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=shift)
pipe.set_progress_bar_config(disable=True)
begun = clock()
frames = pipe(prompt, generator=torch.Generator().manual_seed(1), **options).frames[0]
if importlib.util.find_spec("imageio_ffmpeg"):
    export_to_video(list(frames), file, fps=24)
print("seconds", clock() - begun)
"""


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


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(ROOT / "demo"))
    parser.add_argument("--size")
    for name in ["num_frames", "base_num_frames", "overlap_history", "steps"]:
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    for name in ["guidance_scale", "shift"]:
        parser.add_argument("--" + name.replace("_", "-"), type=float)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    known = {"width": 96, "height": 96, "num_frames": 97, "base_num_frames": 97, "overlap_history": 17,
             "steps": 20, "guidance_scale": 4.0, "shift": 3.0}
    defaults = pathlib.Path(args.model) / "longreel.json"
    if defaults.is_file():
        known |= json.loads(defaults.read_text())
    known["size"] = f"{known['width']}x{known['height']}"
    for name, value in vars(args).items():
        if value is None:
            setattr(args, name, known[name])
    return args


class Best:
    """The shortest time of each name, for each of the two programs."""

    def __init__(self, threads):
        self.threads = threads
        self.seconds = {"diffusers": {}, "longreel": {}}

    def keep(self, who, name, seconds):
        self.seconds[who][name] = min(seconds, self.seconds[who].get(name, float("inf")))

    def time(self, who, name, work):
        """Times a function of this process, repeated until it has taken long enough."""
        clock = time.perf_counter if self.threads > 1 else time.process_time
        work()
        spent, rounds, shortest = 0.0, 0, float("inf")
        while spent < SHORTEST_SECONDS:
            begun = clock()
            work()
            took = clock() - begun
            spent, rounds, shortest = spent + took, rounds + 1, min(shortest, took)
        self.keep(who, name, shortest)

    def time_process(self, who, name, command):
        """Times a whole process and returns what it printed."""
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            sys.exit(f"{command[0]} failed:\n{done.stderr}")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.keep(who, name, wall if self.threads > 1 else used)
        return done.stdout

    def print(self, names):
        print(f"{'seconds':36}{'diffusers':>11}{'longreel':>11}{'ratio':>8}")
        for name in names:
            theirs, ours = self.seconds["diffusers"][name], self.seconds["longreel"][name]
            print(f"{name:36}{theirs:11.4f}{ours:11.4f}{theirs / ours:8.1f}")


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    width, height = (int(v) for v in args.size.split("x"))
    longreel, network_times = build()

    import diffusers
    import torch

    torch.set_num_threads(args.threads)
    pipe = diffusers.SkyReelsV2DiffusionForcingPipeline.from_pretrained(
        args.model, dtype=torch.float32)
    long = args.num_frames > args.base_num_frames
    latent_frames = (args.base_num_frames - 1) // 4 + 1
    latents = torch.randn(1, 16, latent_frames, height // 8, width // 8)
    timesteps = torch.full((1, latent_frames), 500)
    options = {
        "height": height, "width": width, "num_frames": args.num_frames,
        "base_num_frames": args.base_num_frames, "num_inference_steps": args.steps,
        "guidance_scale": args.guidance_scale, "negative_prompt": "",
    } | ({"overlap_history": args.overlap_history} if long else {})
    best = Best(args.threads)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        ids = pipe.tokenizer(PROMPT, return_tensors="pt")
        text = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)[0]
        video = pipe.vae.decode(latents).sample
        for _ in range(args.rounds):
            time_both = [
                ("text encoder, padded to 512",
                 lambda: pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)),
                ("text encoder, the same tokens", lambda: pipe.text_encoder(**ids)),
                (f"forward, {latent_frames} latent frames", lambda: pipe.transformer(
                    hidden_states=latents, timestep=timesteps, encoder_hidden_states=text,
                    enable_diffusion_forcing=True,
                    fps=torch.tensor([1]) if pipe.transformer.config.inject_sample_info else None)),
                (f"VAE decode, {args.base_num_frames} frames", lambda: pipe.vae.decode(latents)),
                (f"VAE encode, {args.base_num_frames} frames", lambda: pipe.vae.encode(video)),
            ]
            names = [name for name, _ in time_both]
            for name, work in time_both:
                best.time("diffusers", name, work)
            ours = json.loads(subprocess.run(
                [network_times, args.model, str(width), str(height), str(args.base_num_frames),
                 str(args.threads)],
                check=True, capture_output=True).stdout)
            for name, key in zip(names, ["text", "text", "forward", "vae_decode", "vae_encode"]):
                best.keep("longreel", name, ours[key])
            print(".", end="", file=sys.stderr, flush=True)

            command = [
                longreel, "generate", PROMPT, "--model", args.model, "--size", args.size,
                "--num-frames", str(args.num_frames), "--base-num-frames", str(args.base_num_frames),
                "--steps", str(args.steps), "--guidance-scale", str(args.guidance_scale),
                "--shift", str(args.shift), "--negative-prompt", "", "--seed", "1",
                "--threads", str(args.threads), "-o", f"{folder}/ours.mp4", "--overwrite",
            ] + (["--overlap-history", str(args.overlap_history)] if long else [])
            best.time_process("longreel", "whole command", command)
            script = json.dumps([args.model, args.threads, args.shift, PROMPT, options,
                                 f"{folder}/theirs.mp4"])
            printed = best.time_process(
                "diffusers", "whole command", [sys.executable, "-c", WHOLE_FILM, script])
            best.keep("diffusers", "  without start", float(printed.split("seconds")[-1]))
            print(".", end="", file=sys.stderr, flush=True)
    best.keep("longreel", "  without start", best.seconds["longreel"]["whole command"])

    kind = "CPU time" if args.threads == 1 else "wall-clock time"
    print(f"\n{args.model}: {args.num_frames} frames of {args.size} in segments of "
          f"{args.base_num_frames}, {args.steps} steps; {args.threads} thread(s), {kind}; "
          f"torch {torch.__version__}, diffusers {diffusers.__version__}")
    best.print(["whole command", "  without start", *names[2:], *names[:2]])


if __name__ == "__main__":
    main()
