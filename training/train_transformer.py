"""Trains the transformer on the solved encoder's latents, for a given time (diffusion forcing, flow matching).

Every latent frame has a timestep of its own. Windows are cut from long films: those at the start of a film
have its lone first frame as their first latent, the others go on from a clean (or nearly clean) history, as
segments of a long film do. Windows are short at first, since colours and shapes can be learnt from three
latent frames; the length that films are made with comes later.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

import films
import linear_encoder
import text as text_module
import transformer as transformer_module
from optimiser import Average, MuonAdamW, split_parameters

STREAM_LATENTS = 37
# Where the prompt changes in a film with a turn: the first latent frame of the new scene.
TURN_LATENT = 14
TWO_OBJECTS = 0.55
# What is easy from early on (one object that does not change, a circle above all) is drawn less often.
EASY_DROPPED = {"circle": 0.6}
EASY_DROPPED_OTHERWISE = 0.35
TURNS = 0.12
SHIFT = 3.0
CAPTION_DROPOUT = 0.1
WORDINGS = 4


def draw_scene(rng):
    while True:
        scene = films.draw_scene(rng, two=TWO_OBJECTS)
        first = scene.objects[0]
        easy = len(scene.objects) == 1 and first.change == "none"
        if not easy or rng.random() >= EASY_DROPPED.get(first.shape, EASY_DROPPED_OTHERWISE):
            return scene


class Films:
    """Encoded films with several wordings of their captions; grows by one film at a time."""

    def __init__(self, folder, size, seed):
        _, self.encode, self.mean, self.deviation = linear_encoder.load(folder / "vae")
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        self.encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").float().eval()
        self.size, self.rng = size, random.Random(seed)
        self.latents, self.covers, self.texts, self.turns = [], [], [], []
        self.empty = self.embed([""])[0]

    @torch.no_grad()
    def embed(self, texts):
        """Embeddings [length, dim] of each text, end token included."""
        ids, mask = text_module.encode_ids(self.tokenizer, texts)
        longest = int(mask.sum(1).max())
        output = self.encoder(ids[:, :longest], mask[:, :longest]).last_hidden_state
        return [output[i, : int(n)].clone() for i, n in enumerate(mask.sum(1))]

    def add(self):
        rng, count = self.rng, 4 * STREAM_LATENTS - 3
        scene = draw_scene(rng)
        turn = rng.random() < TURNS
        if turn:
            at = 4 * TURN_LATENT - 3
            before, scene = scene, films.draw_turn(scene, at, rng)
            parts = films.render(before, 0, at, self.size), films.render(scene, 0, count - at, self.size)
            frames, cover = (torch.cat(part) for part in zip(*parts))
        else:
            frames, cover = films.render(scene, 0, count, self.size)
        self.turns.append(turn)
        latents = self.encode(frames.transpose(0, 1)[None])
        self.latents.append(((latents - self.mean) / self.deviation)[0].half())
        cover = torch.cat([cover[:1].expand(3, -1, -1, -1), cover]).view(STREAM_LATENTS, 4, 1, self.size, self.size)
        cover = torch.nn.functional.max_pool2d(cover.amax(1), 8)
        self.covers.append(cover.transpose(0, 1).half())
        wordings = [films.caption(scene, rng, plain=i == 0) for i in range(WORDINGS)]
        self.texts.append(self.embed([wordings[0]] + [text_module._noisy(w, rng) for w in wordings[1:]]))

    def windows(self, count, length, history, from_start):
        """(latents [count, 16, length, h, w], object cover [count, 1, length, h, w], texts, how many leading latent
        frames are history: a number, or None where that is free)."""
        latents, covers, texts, known = [], [], [], []
        for _ in range(count):
            i = self.rng.randrange(len(self.latents))
            history_here = min(history, length - 1)
            if self.turns[i]:
                start, prefix = TURN_LATENT - history_here, history_here
            elif self.rng.random() < from_start:
                start, prefix = 0, None if self.rng.random() < 0.12 else 0
            else:
                start = self.rng.randrange(1, STREAM_LATENTS - length + 1)
                prefix = history_here if self.rng.random() < 0.6 else None
            latents.append(self.latents[i][:, start : start + length].float())
            covers.append(self.covers[i][:, start : start + length].float())
            dropped = self.rng.random() < CAPTION_DROPOUT
            texts.append(self.empty if dropped else self.rng.choice(self.texts[i]))
            known.append(prefix)
        return torch.stack(latents), torch.stack(covers), texts, known


def pad_texts(texts):
    """Texts as one tensor [B, longest + 1, dim] with a zero vector last, and its `padding_bias`."""
    longest = max(len(t) for t in texts)
    padded = torch.zeros(len(texts), longest + 1, texts[0].shape[1])
    for i, t in enumerate(texts):
        padded[i, : len(t)] = t
    return padded, transformer_module.padding_bias(torch.tensor([len(t) for t in texts]), longest)


def draw_sigmas(known, length, rng):
    """Noise levels [B, length] and how many leading frames of each window are history."""
    sigmas, prefixes = torch.zeros(len(known), length), []
    for i, prefix in enumerate(known):
        shifted = lambda u: SHIFT * u / (1 + (SHIFT - 1) * u)  # noqa: E731
        kind = rng.random()
        if prefix is None:
            prefix = rng.randrange(1, length)
        rest = length - prefix
        if kind > 0.88:
            # Frames further ahead are noisier, as in an asynchronous timetable.
            level = torch.rand(rest).sort().values if rng.random() < 0.7 else torch.rand(rest)
        else:
            level = torch.rand(1).expand(rest)
        sigmas[i, prefix:] = shifted(level)
        prefixes.append(prefix)
    return sigmas, prefixes


def spoil_history(latents, sigmas, known, rng):
    """Makes histories as imperfect as generated ones: a little noise, or colours that have drifted a little."""
    clean = latents.clone()
    for i, prefix in enumerate(known):
        if prefix == 0:
            continue
        if rng.random() < 0.4:
            sigmas[i, :prefix] = 0.06 * rng.random()
        if rng.random() < 0.6:
            part = clean[i, :, :prefix]
            part += 0.12 * rng.random() * torch.randn_like(part)
            part += 0.07 * torch.randn(part.shape[0], 1, 1, 1)
            part *= 1 + 0.05 * torch.randn(())
    return clean


def loss_of(model, batch, rng):
    latents, covers, texts, known = batch
    sigmas, known = draw_sigmas(known, latents.shape[2], rng)
    given = spoil_history(latents, sigmas, known, rng)
    noise = torch.randn_like(latents)
    sigma = sigmas[:, None, :, None, None]
    padded, bias = pad_texts(texts)
    velocity = transformer_module.forward(model, given + sigma * (noise - given), 1000 * sigmas, padded, bias)
    weight = 1 + 5 * covers
    for i, prefix in enumerate(known):
        weight[i, :, :prefix] = 0
    error = (velocity - (noise - latents)) ** 2 * weight
    return error.sum() / (weight.sum() * latents.shape[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with vae/, text_encoder/ and tokenizer/")
    parser.add_argument("--minutes", type=float, default=100, help="processor time for each thread, over all runs")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--films", type=int, default=4000, help="films drawn at most")
    parser.add_argument("--history", type=int, default=3, help="latent frames of history in most windows")
    parser.add_argument(
        "--lengths", type=json.loads, default=[[0.2, 3, 32], [0.45, 5, 24], [1.0, 9, 16]],
        help="[part of the time until which, latent frames, batch], ...",
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = Films(args.model, args.size, seed=0)
    model = transformer_module.build(text_module.TEXT_DIM)
    keep_out = ("patch_embedding", "proj_out", "scale_shift_table", "time_embedder", "time_proj")
    matrices, others = split_parameters(model.named_parameters(), keep_out)
    optimiser = MuonAdamW(matrices, others, args.lr, weight_decay=0.01)
    average, step, spent = Average(model, 0.997), 0, 0.0
    checkpoint = args.model / "transformer.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["live"])
        optimiser.load_state_dict(saved["optimiser"])
        average.shadow, step, spent = saved["average"], saved["step"], saved["spent"]
        data.rng.seed(step)
        torch.manual_seed(step)
    for _ in range(min(160, 60 + step)):
        data.add()
    print("films drawn", flush=True)
    begun, said, losses, rng = time.process_time(), time.time(), [], random.Random(step)
    while True:
        spent_now = spent + (time.process_time() - begun) / args.threads
        progress = spent_now / (60 * args.minutes)
        length, count = next((t, n) for until, t, n in args.lengths if progress <= until or until == args.lengths[-1][0])
        # Constant, then down to nothing over the last 45%.
        rate = args.lr * min(1.0, (step + 1) / 60) * min(1.0, max(0.01, (1 - progress) / 0.45))
        for group in optimiser.param_groups:
            group["lr"] = rate if group["muon"] else 0.7 * rate
        if len(data.latents) < args.films and (len(data.latents) < 400 or step % 2 == 0):
            data.add()
        loss = loss_of(model, data.windows(count, length, args.history, from_start=0.7), rng)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimiser.step()
            average.update(model, step)
        step += 1
        losses.append(loss.item())
        if time.time() - said > 120 or progress >= 1:
            print(
                f"step {step} {spent_now:.0f} s length {length} films {len(data.latents)} "
                f"loss {sum(losses) / len(losses):.4f}", flush=True,
            )
            state = dict(live=model.state_dict(), optimiser=optimiser.state_dict(), average=average.shadow,
                         step=step, spent=spent_now)
            torch.save(state, args.model / "transformer.tmp")
            (args.model / "transformer.tmp").replace(checkpoint)
            said, losses = time.time(), []
        if progress >= 1:
            break


if __name__ == "__main__":
    main()
