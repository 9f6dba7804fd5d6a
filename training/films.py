"""Films drawn by code: moving shapes on plain backgrounds, with the captions that describe them.

A film is a `Scene`: one or two objects and a background. Space is a torus: what leaves the picture on one
side comes in on the other, so every motion goes on for ever and its direction is visible in any second of
an endless film. Edges are soft (about one and a half pixels), which the autoencoder reproduces far better
than hard ones.
"""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import torch

COLOURS = {
    "red": (222, 38, 38),
    "green": (40, 165, 60),
    "blue": (40, 80, 225),
    "yellow": (245, 215, 40),
    "purple": (145, 45, 180),
    "orange": (250, 135, 25),
}
BACKGROUNDS = {
    "black": (16, 16, 16),
    "white": (240, 240, 240),
    "gray": (128, 128, 128),
    "blue": COLOURS["blue"],
    "green": COLOURS["green"],
    "pink": (250, 170, 200),
}
SHAPES = ("circle", "square", "triangle", "star")
# Unit vectors in picture coordinates: x to the right, y downwards.
_DIAGONAL = 0.5**0.5
DIRECTIONS = {
    "right": (1.0, 0.0),
    "left": (-1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up-right": (_DIAGONAL, -_DIAGONAL),
    "up-left": (-_DIAGONAL, -_DIAGONAL),
    "down-right": (_DIAGONAL, _DIAGONAL),
    "down-left": (-_DIAGONAL, _DIAGONAL),
    "still": (0.0, 0.0),
}
# Speed in parts of the picture's width for each frame (24 frames a second).
SPEEDS = {"slowly": 0.006, "": 0.0115, "quickly": 0.021}
CHANGES = ("none", "colour", "grows", "shrinks")
# Frames over which a change runs; before and after it the object keeps its state for ever. A change is over
# within the first segment of a film (33 frames): a later segment sees nine frames of history and no clock, so
# it could not tell how far a slow change has come.
COLOUR_CHANGE_FRAMES = (4, 28)
SIZE_CHANGE_FRAMES = (0, 28)
RADIUS = 0.175
RADIUS_OF_TWO = 0.15
RADIUS_SMALL, RADIUS_BIG = 0.125, 0.235


@dataclass
class Object:
    """One moving shape. Positions and radii are in parts of the picture's width."""

    shape: str
    colour: str
    direction: str
    speed: str = ""
    change: str = "none"
    colour_after: str = ""
    radius: float = RADIUS
    start: tuple = (0.5, 0.5)


@dataclass
class Scene:
    """What a film shows. `missing` names what the caption leaves out."""

    objects: list
    background: str
    missing: set = field(default_factory=set)


def is_held_out(scene: Scene) -> bool:
    """One combination in eleven of (shape, colour, direction, background) is kept out of the training."""
    thing = scene.objects[0]
    number = (
        SHAPES.index(thing.shape)
        + 2 * list(COLOURS).index(thing.colour)
        + 3 * list(BACKGROUNDS).index(scene.background)
        + 5 * list(DIRECTIONS).index(thing.direction)
    )
    return number % 11 == 0


def draw_scene(rng: random.Random, held_out=False, two=0.2) -> Scene:
    """A random scene whose first object's combination belongs to the training or, if asked, to the held-out set;
    with two objects in the given part of the cases."""
    while True:
        scene = _draw_any_scene(rng, two)
        if is_held_out(scene) == held_out:
            return scene


def draw_turn(scene: Scene, frame: int, rng: random.Random) -> Scene:
    """What may follow a scene when the prompt changes at `frame`: its objects go on from where they are then, in
    another direction, colour or shape, or on another background."""
    while True:
        after = Scene([replace(thing) for thing in scene.objects], scene.background)
        for thing in after.objects:
            position, _, _ = object_state(thing, torch.tensor([float(frame)]))
            thing.start = tuple(float(x) % 1 for x in position[0])
            thing.colour, thing.colour_after = thing.colour_after or thing.colour, ""
            if thing.change in ("grows", "shrinks"):
                thing.radius = RADIUS_BIG if thing.change == "grows" else RADIUS_SMALL
            thing.change = "none"
        changed, what = rng.choice(after.objects), rng.choice(["direction", "direction", "colour", "colour", "shape", "background"])
        taken = {thing.colour for thing in after.objects} | {after.background}
        if what == "direction":
            # Two objects keep to their lanes.
            lane = len(after.objects) == 2
            upright = lane and abs(after.objects[0].start[0] - after.objects[1].start[0]) > 0.4
            ways = (["up", "down"] if upright else ["left", "right"]) if lane else list(DIRECTIONS)
            changed.direction = rng.choice([d for d in ways if d != changed.direction])
            changed.speed = "" if changed.direction == "still" else rng.choice(list(SPEEDS))
        elif what == "colour":
            changed.colour = rng.choice([c for c in COLOURS if c not in taken])
        elif what == "shape":
            changed.shape = rng.choice([s for s in SHAPES if s != changed.shape])
        else:
            after.background = rng.choice([b for b in BACKGROUNDS if b not in taken])
        if not is_held_out(after):
            return after


def _draw_any_scene(rng: random.Random, two: float) -> Scene:
    """One object, or two in lanes of their own."""
    background = rng.choice(list(BACKGROUNDS))
    colours = [name for name in COLOURS if name != background]

    def speed():
        return rng.choices(list(SPEEDS), [0.27, 0.46, 0.27])[0]

    if rng.random() < 1 - two:
        direction = rng.choices(list(DIRECTIONS), [15, 15, 15, 15, 6, 6, 6, 6, 16])[0]
        thing = Object(rng.choice(SHAPES), rng.choice(colours), direction)
        thing.speed = "" if direction == "still" else speed()
        # What stands still would make a dull film too often, so it changes more often.
        chances = [25, 35, 20, 20] if direction == "still" else [66, 18, 8, 8]
        thing.change = rng.choices(CHANGES, chances)[0]
        if thing.change == "colour":
            thing.colour_after = rng.choice([c for c in colours if c != thing.colour])
        thing.start = (0.5 + rng.uniform(-0.12, 0.12), 0.5 + rng.uniform(-0.12, 0.12))
        thing.radius = RADIUS * rng.uniform(0.95, 1.05)
        return Scene([thing], background)
    vertical = rng.random() < 0.5
    ways = ["up", "down"] if vertical else ["right", "left"]
    things = []
    first, second = rng.sample(colours, 2)
    for lane, colour in ((0.25, first), (0.75, second)):
        direction = rng.choice(ways) if rng.random() < 0.9 else "still"
        thing = Object(rng.choice(SHAPES), colour, direction, radius=RADIUS_OF_TWO)
        thing.speed = "" if direction == "still" else speed()
        along = 0.5 + rng.uniform(-0.12, 0.12)
        thing.start = (lane, along) if vertical else (along, lane)
        things.append(thing)
    return Scene(things, background)


_VERBS = ["moves", "moving", "moves", "moves", "drifts", "glides", "travels", "goes", "flies", "slides", "floats"]
_STILL = ["stays still", "stands still", "is still", "does not move", "stays in place", "rests", "standing still"]
_GROWS = ["grows", "grows bigger", "gets bigger", "grows larger", "growing", "becomes larger", "expands"]
_SHRINKS = ["shrinks", "shrinks smaller", "gets smaller", "shrinking", "becomes smaller", "shrinks down"]
_SPEED_WORDS = {"slowly": ["slowly", "slowly", "slow"], "quickly": ["quickly", "quickly", "fast", "rapidly"], "": [""]}
_TOWARDS = {
    "right": ["right", "right", "to the right", "rightwards", "from left to right", "towards the right"],
    "left": ["left", "left", "to the left", "leftwards", "from right to left", "towards the left"],
    "up": ["up", "up", "upwards", "upward", "to the top"],
    "down": ["down", "down", "downwards", "downward", "to the bottom"],
}
for _v in ("up", "down"):
    for _h in ("right", "left"):
        _TOWARDS[f"{_v}-{_h}"] = [f"{_v} and {_h}", f"{_v} and to the {_h}", f"diagonally {_v} and {_h}", f"{_v} {_h}"]


def _motion_phrase(thing: Object, rng: random.Random, plain: bool) -> str:
    if thing.direction == "still":
        return "stays still" if plain else rng.choice(_STILL)
    verb = "moves" if plain else rng.choice(_VERBS)
    towards = _TOWARDS[thing.direction][0] if plain else rng.choice(_TOWARDS[thing.direction])
    speed = thing.speed if plain else rng.choice(_SPEED_WORDS[thing.speed])
    words = [verb, speed, towards] if plain or rng.random() < 0.6 else [verb, towards, speed]
    return " ".join(w for w in words if w)


def _change_phrase(thing: Object, rng: random.Random, plain: bool) -> str:
    if thing.change == "colour":
        if plain:
            return f"changes from {thing.colour} to {thing.colour_after}"
        return rng.choice(
            [
                f"changes from {thing.colour} to {thing.colour_after}",
                f"turns from {thing.colour} to {thing.colour_after}",
                f"turns {thing.colour_after}",
                f"becomes {thing.colour_after}",
                f"changes colour to {thing.colour_after}",
                f"changes color to {thing.colour_after}",
                f"changes to {thing.colour_after}",
                f"fades to {thing.colour_after}",
            ]
        )
    if thing.change == "grows":
        return "grows" if plain else rng.choice(_GROWS)
    if thing.change == "shrinks":
        return "shrinks" if plain else rng.choice(_SHRINKS)
    return ""


def _noun(thing: Object, rng: random.Random, plain: bool) -> str:
    article = "an" if thing.colour == "orange" else "a"
    if not plain:
        article = rng.choice([article, article, article, "the", "one", ""])
    return f"{article} {thing.colour} {thing.shape}".strip()


def caption(scene: Scene, rng: random.Random, plain: bool = False) -> str:
    """A sentence for the scene; `plain` gives the one canonical wording, otherwise wording and order vary."""
    grey = "gray" if plain else rng.choice(["gray", "grey"])
    background_name = grey if scene.background == "gray" else scene.background
    parts = []
    for thing in scene.objects:
        motion, change = _motion_phrase(thing, rng, plain), _change_phrase(thing, rng, plain)
        if change and thing.direction == "still" and (plain or rng.random() < 0.7):
            motion, change = change, ""
        phrases = [p for p in (motion, change) if p]
        if not plain and rng.random() < 0.3:
            phrases.reverse()
        joiner = " and " if plain else rng.choice([" and ", " and ", ", ", " while it ", " then "])
        parts.append((_noun(thing, rng, plain), joiner.join(phrases)))
    style = 0 if plain else rng.choices([0, 1, 2, 3], [55, 18, 15, 12])[0]
    surface = f"on a {background_name} background"
    if not plain:
        surface = rng.choice(
            [surface, surface, surface, f"on {background_name}", f"over a {background_name} background",
             f"against a {background_name} background", f"in front of a {background_name} background",
             f"with a {background_name} background"]
        )
    joint = " and " if plain else rng.choice([" and ", " and ", ", ", " while ", ", and "])
    if "background" in scene.missing:
        surface = ""
    if style == 3:
        text = ", ".join([f"{n}, {p}" for n, p in parts] + ([f"{background_name} background"] if surface else []))
    elif style == 1:
        text = (surface + rng.choice([" ", ", "]) if surface else "") + joint.join(f"{n} {p}" for n, p in parts)
    elif style == 2 and len(parts) == 1:
        text = f"{parts[0][0]} {surface} {parts[0][1]}"
    else:
        text = joint.join(f"{n} {p}" for n, p in parts) + (" " + surface if surface else "")
    if not plain:
        if rng.random() < 0.12:
            text = rng.choice(["a video of ", "a film of ", "film: ", "an animation of ", "we see "]) + text
        if rng.random() < 0.2:
            text += "."
    return " ".join(text.split())


def _distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Signed distance in the units of x and y (negative inside); areas are alike for all shapes."""
    if shape == "circle":
        return (x * x + y * y).sqrt() - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.88 * radius
    if shape == "triangle":
        inner, y = 0.70 * radius, y - 0.18 * radius
        planes = [(0.0, 1.0), (0.866, -0.5), (-0.866, -0.5)]
        return torch.stack([a * x + b * y for a, b in planes]).amax(0) - inner
    if shape == "star":
        # A pentagram is where at least four of five half planes hold, so its distance is the second largest.
        angles = np.deg2rad(-90 + 72 * np.arange(5))
        inner, y = 0.52 * radius, y - 0.08 * radius
        planes = torch.stack([float(np.cos(a)) * x + float(np.sin(a)) * y for a in angles])
        return planes.topk(2, dim=0).values[1] - inner
    raise ValueError(f"unknown shape {shape!r}; choose one of {SHAPES}")


def _ramp(frames: torch.Tensor, span: tuple) -> torch.Tensor:
    return ((frames - span[0]) / (span[1] - span[0])).clamp(0, 1)


def object_state(thing: Object, frames: torch.Tensor):
    """Position [F, 2], radius [F] (parts of the width) and colour [F, 3] (0..255) at the given frame numbers."""
    velocity = torch.tensor(DIRECTIONS[thing.direction]) * SPEEDS[thing.speed]
    position = torch.tensor(thing.start) + frames[:, None] * velocity
    radius = torch.full_like(frames, thing.radius)
    if thing.change == "grows":
        radius = RADIUS_SMALL + (RADIUS_BIG - RADIUS_SMALL) * _ramp(frames, SIZE_CHANGE_FRAMES)
    if thing.change == "shrinks":
        radius = RADIUS_BIG + (RADIUS_SMALL - RADIUS_BIG) * _ramp(frames, SIZE_CHANGE_FRAMES)
    colour = torch.tensor(COLOURS[thing.colour]).float().expand(len(frames), 3)
    if thing.change == "colour":
        after = torch.tensor(COLOURS[thing.colour_after]).float()
        colour = colour + (after - colour) * _ramp(frames, COLOUR_CHANGE_FRAMES)[:, None]
    return position, radius, colour


def render(scene: Scene, first_frame: int, count: int, size: int, edge: float = 1.5):
    """Frames [count, 3, size, size] in [-1, 1] and the objects' cover [count, 1, size, size] in [0, 1]."""
    frames = torch.arange(first_frame, first_frame + count).float()
    axis = torch.arange(size).float() + 0.5
    picture = torch.tensor(BACKGROUNDS[scene.background]).float().view(1, 3, 1, 1).expand(count, 3, size, size)
    cover = torch.zeros(count, 1, size, size)
    for thing in scene.objects:
        position, radius, colour = object_state(thing, frames)
        dx = (axis[None, :] - position[:, :1] * size + size / 2) % size - size / 2
        dy = (axis[None, :] - position[:, 1:] * size + size / 2) % size - size / 2
        distance = _distance(
            thing.shape,
            dx[:, None, :].expand(count, size, size),
            dy[:, :, None].expand(count, size, size),
            radius[:, None, None] * size,
        )
        alpha = (0.5 - distance / edge).clamp(0, 1)[:, None]
        picture = picture + (colour[:, :, None, None] - picture) * alpha
        cover = torch.maximum(cover, alpha)
    return picture / 127.5 - 1, cover
