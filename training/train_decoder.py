"""Trains the autoencoder's decoder on the latents of the solved encoder, for a given time.

Stopped and started again it goes on from its last checkpoint. The first part of the time goes to small
crops of five frames (a convolutional network learns the same from them for a fraction of the cost), the
rest to whole pictures of nine and seventeen frames.
"""

import argparse
import random
import time
from pathlib import Path

import torch

import films
import linear_encoder
import vae as autoencoder
from optimiser import Average, MuonAdamW, split_parameters


class Pool:
    """Ready-drawn clips, so that a batch costs next to nothing; one is renewed with every batch."""

    def __init__(self, clips, frames, size, seed, encode):
        self.rng, self.frames, self.size, self.encode = random.Random(seed), frames, size, encode
        self.clips = [self.draw() for _ in range(clips)]

    def draw(self):
        scene = films.draw_scene(self.rng)
        first = 0 if self.rng.random() < 0.5 else self.rng.randrange(0, 120)
        frames, cover = films.render(scene, first, self.frames, self.size)
        return frames.transpose(0, 1)[None].contiguous(), cover.transpose(0, 1)[None].contiguous()

    def batch(self, count, frames, side):
        """(latents, frames [count, 3, frames, side, side], cover [count, 1, frames, side, side])."""
        pictures, covers = [], []
        if self.rng.random() < 0.3:
            self.clips[self.rng.randrange(len(self.clips))] = self.draw()
        while len(pictures) < count:
            picture, cover = self.rng.choice(self.clips)
            t = self.rng.randrange(self.frames - frames + 1)
            y, x = (8 * self.rng.randrange((self.size - side) // 8 + 1) for _ in range(2))
            window = (..., slice(t, t + frames), slice(y, y + side), slice(x, x + side))
            if cover[window].max() == 0 and self.rng.random() < 0.85:
                continue
            pictures.append(picture[window])
            covers.append(cover[window])
        pictures = torch.cat(pictures)
        return self.encode(pictures), pictures, torch.cat(covers)


def loss_of(model, latents, frames, cover, noise):
    # The transformer's latents are never exact: the decoder learns to see through some noise.
    amount = noise * torch.rand(len(latents), 1, 1, 1, 1)
    back = autoencoder.decode(model, latents + amount * torch.randn_like(latents))
    # The object and its rim are a small part of the picture and the whole of the film.
    near = torch.nn.functional.max_pool3d(cover, (1, 5, 5), 1, (0, 2, 2))
    weight = 1 + 3 * near
    weight = weight / weight.mean()
    error = back - frames
    return (weight * error.abs()).mean() + 2 * (weight * error**2).mean()


@torch.no_grad()
def psnr(model, encode, clips):
    """PSNR in dB over held-out clips, of all pixels and of the objects' pixels."""
    total, on_object, pixels = 0.0, 0.0, 0.0
    for frames, cover in clips:
        back = autoencoder.decode(model, encode(frames)).clamp(-1, 1)
        square = ((back - frames) / 2) ** 2
        total += square.mean().item() / len(clips)
        on_object += (square * cover).sum().item() / 3
        pixels += cover.sum().item()
    return -10 * torch.log10(torch.tensor([total, on_object / pixels])).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with vae/ from linear_encoder.py")
    parser.add_argument("--minutes", type=float, default=45, help="wall time of the whole training")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=4e-3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, encode, _, _ = linear_encoder.load(args.model / "vae")
    trained = torch.nn.ModuleDict(dict(decoder=model.decoder, post_quant_conv=model.post_quant_conv))
    matrices, others = split_parameters(trained.named_parameters(), ("conv_in", "conv_out", "quant_conv"))
    optimiser = MuonAdamW(matrices, others, args.lr)
    average, step, spent = Average(trained, 0.99), 0, 0.0
    checkpoint = args.model / "decoder.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        trained.load_state_dict(saved["live"])
        optimiser.load_state_dict(saved["optimiser"])
        average.shadow, step, spent = saved["average"], saved["step"], saved["spent"]
    pool = Pool(100, 17, args.size, step, encode)
    held_out = Pool(0, 33, args.size, -1, encode)
    clips = [held_out.draw() for _ in range(6)]
    begun, said, losses = time.time() - spent, time.time(), []
    while True:
        progress = (time.time() - begun) / (60 * args.minutes)
        if progress < 0.35:
            shape = (8, 5, args.size // 2)
        else:
            shape = (1, 17, args.size) if step % 4 == 0 else (2, 9, args.size)
        # Constant, then down to nothing over the last 60%.
        rate = args.lr * min(1.0, (step + 1) / 20) * min(1.0, max(0.01, (1 - progress) / 0.6))
        for group in optimiser.param_groups:
            group["lr"] = rate if group["muon"] else 0.5 * rate
        loss = loss_of(model, *pool.batch(*shape), noise=0.15)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        if torch.isfinite(norm):
            optimiser.step()
            average.update(trained, step)
        step += 1
        losses.append(loss.item())
        if time.time() - said > 90 or progress >= 1:
            live = {k: v.clone() for k, v in trained.state_dict().items()}
            trained.load_state_dict(average.shadow)
            whole, thing = psnr(model, encode, clips[: 6 if progress >= 1 else 2])
            model.save_pretrained(args.model / "vae")
            trained.load_state_dict(live)
            print(
                f"step {step} {time.time() - begun:.0f} s loss {sum(losses) / len(losses):.4f} "
                f"psnr {whole:.2f} dB, on objects {thing:.2f} dB, cpu {time.process_time():.0f}", flush=True,
            )
            torch.save(
                dict(live=live, optimiser=optimiser.state_dict(), average=average.shadow, step=step,
                     spent=time.time() - begun), checkpoint,
            )
            said, losses = time.time(), []
        if progress >= 1:
            break


if __name__ == "__main__":
    main()
