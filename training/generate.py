"""Makes films from many prompts at once with the model in a training's work folder, to be scored or looked at.

This is the pipeline's synchronous timetable with latents carried from segment to segment, for a whole batch of
prompts, on the lean forward. Films are written as NNN.npy, uint8 [frames, height, width, 3].
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image

import linear_encoder
import train_transformer
import transformer as transformer_module
import vae as autoencoder
from export import DEFAULTS, load_transformer


class Generator:
    def __init__(self, folder: Path):
        self.data = train_transformer.Films(folder, DEFAULTS["width"], seed=0)
        self.vae, _, self.mean, self.deviation = linear_encoder.load(folder / "vae")
        self.model = load_transformer(folder).bfloat16().float().eval()

    @torch.no_grad()
    def latents(self, prompts, latent_frames, base, overlap, steps, guidance, interval, shift, seed, addnoise=0.0):
        """Normalised latents [B, 16, latent_frames, h, w] of one film for each prompt."""
        texts = self.data.embed(prompts)
        both = train_transformer.pad_texts(texts + [self.data.empty] * len(texts))
        alone = train_transformer.pad_texts(texts)
        random = torch.Generator().manual_seed(seed)
        side = self.data.size // 8
        film = torch.zeros(len(prompts), autoencoder.LATENT_CHANNELS, 0, side, side)
        while film.shape[2] < latent_frames:
            history = film[:, :, -overlap:] if film.shape[2] else film
            known = history.shape[2]
            count = min(base, latent_frames - film.shape[2] + known)
            new = torch.randn(len(prompts), autoencoder.LATENT_CHANNELS, count - known, side, side, generator=random)
            scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
            )
            scheduler.set_timesteps(steps)
            for timestep in scheduler.timesteps:
                noise = torch.randn(history.shape, generator=random)
                held = history + addnoise * 0.001 * (noise - history)
                x = torch.cat([held, new], 2)
                t = torch.full((len(prompts), count), float(timestep))
                t[:, :known] = addnoise
                guided = guidance > 1 and interval[0] <= float(timestep) / 1000 <= interval[1]
                velocity = self.velocity(x, t, both if guided else alone, guidance if guided else 1)[:, :, known:]
                new = scheduler.step(velocity, timestep, new, return_dict=False)[0]
            film = torch.cat([film, new], 2)
        return film

    def velocity(self, x, t, given, guidance):
        text, bias = given
        if guidance <= 1:
            return transformer_module.forward(self.model, x, t, text, bias)
        both = transformer_module.forward(self.model, torch.cat([x, x]), torch.cat([t, t]), text, bias)
        cond, uncond = both.chunk(2)
        return uncond + guidance * (cond - uncond)

    @torch.no_grad()
    def frames(self, latents):
        """uint8 [F, H, W, 3] of latents [16, T, h, w]; decoded whole, which equals decoding as a stream."""
        x = autoencoder.decode(self.vae, latents[None] * self.deviation + self.mean)[0].clamp(-1, 1)
        return ((x + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def contact_sheet(films, columns, path, scale=2):
    """One row a film, `columns` frames spread over it."""
    rows = [np.concatenate([f[i] for i in np.linspace(0, len(f) - 1, columns).round().astype(int)], 1) for f in films]
    sheet = Image.fromarray(np.concatenate(rows, 0))
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.NEAREST).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("held_out.json"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--frames", type=int, default=DEFAULTS["num_frames"])
    parser.add_argument("--base", type=int, default=DEFAULTS["base_num_frames"])
    parser.add_argument("--overlap", type=int, default=DEFAULTS["overlap_history"])
    parser.add_argument("--steps", type=int, default=DEFAULTS["steps"])
    parser.add_argument("--guidance", type=float, default=DEFAULTS["guidance_scale"])
    parser.add_argument("--interval", type=float, nargs=2, metavar=("LOW", "HIGH"),
                        default=[float(sigma) for sigma in DEFAULTS["guidance_interval"].split("..")])
    parser.add_argument("--shift", type=float, default=DEFAULTS["shift"])
    parser.add_argument("--addnoise", type=float, default=DEFAULTS.get("addnoise_condition", 0.0))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = Generator(args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    cases = json.loads(args.prompts.read_text())[args.first : args.first + args.count]
    made = []
    for start in range(0, len(cases), args.batch):
        batch = cases[start : start + args.batch]
        latents = generator.latents(
            [c["prompt"] for c in batch], (args.frames - 1) // 4 + 1, (args.base - 1) // 4 + 1,
            (args.overlap - 1) // 4 + 1, args.steps, args.guidance, args.interval, args.shift, args.seed + start, args.addnoise,
        )
        for i, one in enumerate(latents):
            frames = generator.frames(one)
            np.save(args.out / f"{args.first + start + i:03d}.npy", frames)
            made.append(frames[-100:] if len(frames) > 200 else frames)
    contact_sheet(made[:16], 9, args.out / "sheet.png")


if __name__ == "__main__":
    main()
