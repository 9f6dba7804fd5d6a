"""Finds the objects in a film's frames and compares them with what its prompt asked for.

    score.py --films FOLDER [--prompts held_out.json] [--last 100]

FOLDER holds one film for each prompt, named by the prompt's number: 000.npy (uint8 [frames, height, width, 3]),
000.mp4 or another video that ffmpeg reads, 000/ with PNG frames, or film-001.mp4 and so on, counted from 1, as
`longreel --prompts` names its films. `--truth` scores the drawn films themselves, `--round-trip MODEL` the drawn
films after encoding and decoding, which is what the scorer and the autoencoder allow at best.

What is measured, over the frames looked at (every fourth):
  background  the nearest named colour of the median pixel
  objects     connected regions, across the picture's edges, that differ from the background
  colour      the nearest named colour of a region's inner pixels
  shape       the drawn shape of equal area that overlaps the region best
  direction   the region's displacement on the torus: one of eight directions, or still
A film is right when the number of objects, the background and every object's colour, shape, direction and
change (if asked for) are right.
"""

import argparse
import json
import random
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import films

STRIDE = 4
# RGB distance from the background at which a pixel belongs to an object, and the smallest area (part of the picture).
DIFFERENT, AREA_MIN = 60.0, 0.008
# Parts of the width for each frame: half of the slowest drawn speed.
STILL_BELOW = 0.003


def nearest(colour, palette) -> str:
    return min(palette, key=lambda name: float(((np.asarray(palette[name]) - colour) ** 2).sum()))


def regions(mask):
    """Connected regions of a mask on the torus, as a list of boolean masks, largest first."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        grown = labels
        for axis in (0, 1):
            for step in (1, -1):
                grown = np.maximum(grown, np.roll(grown, step, axis))
        grown = np.where(mask, grown, 0)
        if (grown == labels).all():
            break
        labels = grown
    found = [labels == n for n in np.unique(labels) if n]
    found = [r for r in found if r.mean() >= AREA_MIN]
    return sorted(found, key=lambda r: -r.sum())


def inner(mask):
    """The mask without its rim, if anything is left."""
    core = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            core &= np.roll(mask, step, axis)
    return core if core.sum() >= 6 else mask


def centre_on_torus(mask):
    """Centroid (x, y) in parts of the width, by circular means."""
    result = []
    for axis in (0, 1):
        size = mask.shape[1 - axis]
        weights = mask.sum(axis)
        angle = np.angle((weights * np.exp(2j * np.pi * (np.arange(size) + 0.5) / size)).sum())
        result.append(angle / (2 * np.pi) % 1)
    return np.array(result)


_AREA_OF_UNIT = {}


def shape_of(mask, centre):
    """Overlap (intersection over union) with each shape of the same area, best over small shifts."""
    size = mask.shape[0]
    axis = torch.arange(size).float() + 0.5
    overlaps = {}
    for shape in films.SHAPES:
        if shape not in _AREA_OF_UNIT:
            grid = (torch.arange(400).float() + 0.5) / 100 - 2
            inside = films._distance(shape, grid[None].expand(400, 400), grid[:, None].expand(400, 400), torch.tensor(1.0)) < 0
            _AREA_OF_UNIT[shape] = (inside.float().mean().item() * 16, centroid_offset(inside))
        area, offset = _AREA_OF_UNIT[shape]
        radius = (mask.sum() / area) ** 0.5
        best = 0.0
        for shift_x in (-1.0, 0.0, 1.0):
            for shift_y in (-1.0, 0.0, 1.0):
                x = (axis[None] - centre[0] * size + shift_x + size / 2) % size - size / 2
                y = (axis[:, None] - centre[1] * size + shift_y + size / 2) % size - size / 2
                x, y = x + offset[0] * radius, y + offset[1] * radius
                drawn = (films._distance(shape, x.expand(size, size), y.expand(size, size), torch.tensor(radius)) < 0).numpy()
                best = max(best, (drawn & mask).sum() / max(1, (drawn | mask).sum()))
        overlaps[shape] = best
    return overlaps


def centroid_offset(inside):
    y, x = torch.nonzero(inside, as_tuple=True)
    return ((x.float().mean() + 0.5).item() / 100 - 2, (y.float().mean() + 0.5).item() / 100 - 2)


def looks(frame, expected_colours):
    """(background name, regions with colour name, centre, area, shape overlaps) of one frame."""
    pixels = frame.astype(np.float32)
    middle = np.median(pixels.reshape(-1, 3), 0)
    background = nearest(middle, films.BACKGROUNDS)
    mask = np.sqrt(((pixels - middle) ** 2).sum(-1)) > DIFFERENT
    found = []
    for region in regions(mask):
        colour = np.median(pixels[inner(region)], 0)
        centre = centre_on_torus(region)
        found.append(
            dict(colour=nearest(colour, films.COLOURS), rgb=colour, centre=centre, area=region.mean(),
                 shapes=shape_of(region, centre))
        )
    return background, found


def direction_of(moved):
    """Name of a displacement (parts of the width for each frame, y downwards)."""
    if np.hypot(*moved) < STILL_BELOW:
        return "still"
    unit = moved / np.hypot(*moved)
    return max((d for d in films.DIRECTIONS if d != "still"), key=lambda d: float(np.dot(films.DIRECTIONS[d], unit)))


def score_film(frames, case, first_frame=0):
    """Dict of attribute -> bool for frames [F, H, W, 3]; `first_frame` is the first one's place in the film."""
    wanted = case["objects"]
    picked = np.arange(0, len(frames), STRIDE)
    seen = [looks(frames[i], wanted) for i in picked]
    background = Counter(b for b, _ in seen).most_common(1)[0][0]
    counts = Counter(len(f) for _, f in seen)
    result = {
        "background": background == case["background"],
        "count": counts[len(wanted)] >= 0.7 * len(seen),
        "colour": True, "shape": True, "direction": True,
    }
    detail = dict(background=background, counts=dict(counts), objects=[])
    for thing in wanted:
        # In each frame the region nearest in colour to what is expected then and near to where it was is the object.
        track, shapes, colours, areas = [], Counter(), [], []
        for i, (_, found) in zip(picked, seen):
            if not found:
                continue
            state = films.object_state(films.Object(**thing), torch.tensor([float(first_frame + i)]))
            colour = state[2][0].numpy()
            others = [o for o in wanted if o is not thing]

            def fit(region):
                own = np.linalg.norm(region["rgb"] - colour)
                rival = min((np.linalg.norm(region["rgb"] - np.array(films.COLOURS[o["colour"]])) for o in others), default=0)
                return own - rival

            region = min(found, key=fit)
            track.append((i, region["centre"]))
            shapes.update(region["shapes"])
            colours.append((first_frame + i, region["colour"]))
            areas.append((first_frame + i, region["area"]))
        if len(track) < max(2, 0.5 * len(seen)):
            result.update(colour=False, shape=False, direction=False)
            continue
        moved = [
            ((b - a + 0.5) % 1 - 0.5) / (j - i) for (i, a), (j, b) in zip(track, track[1:]) if j - i == STRIDE
        ]
        # The median ignores the odd frame in which two regions were mistaken for each other.
        step = np.median(moved, 0) if moved else np.zeros(2)
        direction = direction_of(step)
        shape = shapes.most_common(1)[0][0]
        result["direction"] &= direction == thing["direction"]
        result["shape"] &= shape == thing["shape"]
        before = [c for f, c in colours if f <= films.COLOUR_CHANGE_FRAMES[0]]
        after = [c for f, c in colours if f >= films.COLOUR_CHANGE_FRAMES[1]]
        if thing["change"] == "colour":
            # Early frames must show the first colour and late ones the second, as far as the film has both.
            if before:
                result["colour"] &= Counter(before).most_common(1)[0][0] == thing["colour"]
            if after:
                result["change"] = Counter(after).most_common(1)[0][0] == thing["colour_after"]
        else:
            result["colour"] &= Counter(c for _, c in colours).most_common(1)[0][0] == thing["colour"]
        if thing["change"] in ("grows", "shrinks"):
            early = [a for f, a in areas if f <= 8]
            late = [a for f, a in areas if f >= 60]
            if early and late:
                ratio = np.median(late) / np.median(early)
                result["change"] = bool(ratio > 1.6 if thing["change"] == "grows" else ratio < 1 / 1.6)
        detail["objects"].append(
            dict(colours=dict(Counter(c for _, c in colours)), shape=shape, direction=direction,
                 speed=round(float(np.hypot(*step)), 4))
        )
    result = {k: bool(v) for k, v in result.items()}
    result["all"] = all(result.values())
    result["four"] = all(result[k] for k in ("background", "colour", "shape", "direction"))
    return result, detail


def make_cases(count=100, seed=2024):
    """The held-out prompts: combinations that the transformer's training never draws, half of them reworded."""
    rng, cases, texts = random.Random(seed), [], set()
    while len(cases) < count:
        scene = films.draw_scene(rng, held_out=True)
        prompt = films.caption(scene, rng, plain=len(cases) % 2 == 0)
        if prompt in texts:
            continue
        texts.add(prompt)
        cases.append(dict(prompt=prompt, background=scene.background, objects=[asdict(o) for o in scene.objects]))
    return cases


def scene_of(case):
    return films.Scene([films.Object(**o) for o in case["objects"]], case["background"])


def read_film(folder: Path, number: int):
    """uint8 [F, H, W, 3], or None when there is no such film."""
    array = folder / f"{number:03d}.npy"
    if array.exists():
        return np.load(array)
    if (folder / f"{number:03d}").is_dir():
        from PIL import Image

        return np.stack([np.asarray(Image.open(p).convert("RGB")) for p in sorted((folder / f"{number:03d}").glob("*.png"))])
    numbered = {f"{number:03d}", *(f"-{number + 1:0{digits}d}" for digits in (1, 2, 3))}
    for video in sorted(folder.iterdir()):
        is_it = any(video.stem == name or (name[0] == "-" and video.stem.endswith(name)) for name in numbered)
        if is_it and video.suffix in (".mp4", ".webm", ".gif", ".mkv"):
            probe = ["ffprobe", "-v", "error", "-show_entries", "stream=width,height", "-of", "csv=p=0", video]
            width, height = map(int, subprocess.run(probe, capture_output=True, check=True).stdout.split(b",")[:2])
            decode = ["ffmpeg", "-v", "error", "-i", video, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
            frames = subprocess.run(decode, capture_output=True, check=True).stdout
            return np.frombuffer(frames, np.uint8).reshape(-1, height, width, 3)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path)
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("held_out.json"))
    parser.add_argument("--write-prompts", action="store_true", help="draw the held-out prompts anew and stop")
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--round-trip", type=Path)
    parser.add_argument("--frames", type=int, default=97, help="length of the films drawn by --truth and --round-trip")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--last", type=int, help="score only that many frames at the end")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--json", type=Path, help="write every film's result there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.write_prompts:
        args.prompts.write_text(json.dumps(make_cases(), indent=1) + "\n")
        return
    cases = json.loads(args.prompts.read_text())
    if args.round_trip:
        import linear_encoder
        import vae as autoencoder

        model, encode, _, _ = linear_encoder.load(args.round_trip / "vae")
    totals, counts, results = Counter(), Counter(), []
    for number, case in enumerate(cases[: args.count]):
        if args.truth or args.round_trip:
            drawn, _ = films.render(scene_of(case), 0, args.frames, args.size)
            if args.round_trip:
                with torch.no_grad():
                    drawn = autoencoder.decode(model, encode(drawn.transpose(0, 1)[None]))[0].transpose(0, 1).clamp(-1, 1)
            frames = ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        else:
            frames = read_film(args.films, number)
            if frames is None:
                continue
        first = max(0, len(frames) - args.last) if args.last else 0
        result, detail = score_film(frames[first:], case, first)
        results.append(dict(number=number, prompt=case["prompt"], result=result, seen=detail))
        for key, value in result.items():
            totals[key] += value
            counts[key] += 1
        if not result["all"]:
            wrong = [k for k, v in result.items() if not v and k not in ("all", "four")]
            print(f"{number:03d} {case['prompt']!r}: wrong {', '.join(wrong)}; seen {detail}")
    if not results:
        raise SystemExit(f"no films found in {args.films}; they are named 000.npy, 000.mp4 or 000/")
    print(f"{len(results)} films")
    for key in ("background", "colour", "shape", "direction", "count", "change", "four", "all"):
        if counts[key]:
            print(f"{key:12} {totals[key]:3d} of {counts[key]:3d}  {100 * totals[key] / counts[key]:.0f}%")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
