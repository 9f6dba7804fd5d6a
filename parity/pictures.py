"""Pictures and films drawn by formula, used as conditions."""

import subprocess

import numpy as np
from PIL import Image


def picture(path, seed, width, height):
    """A PNG of smooth colours with grain, exactly `width` x `height`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = [
        0.5 + 0.4 * np.sin(0.21 * x + 1.3 * c + seed) * np.cos(0.17 * y - 0.7 * c) + 0.05 * rng.standard_normal((height, width))
        for c in range(3)
    ]
    Image.fromarray((np.stack(channels, -1).clip(0, 1) * 255).round().astype(np.uint8)).save(path)


def gray_film(path, seed, frames, width, height, fps=24):
    """An H.264 film of flat 8 x 8 squares in the four greys that every YUV conversion maps to the same RGB.

    Luma 16, 89, 162 and 235 are 0, 85, 170 and 255 exactly, the colour planes are constant, and H.264 decoding
    is exact by definition: the pictures do not depend on who decodes them.
    """
    rng = np.random.default_rng(seed)
    levels = np.array([16, 89, 162, 235], np.uint8)
    squares = rng.integers(0, 4, (height // 8, width // 8))
    luma = []
    for frame in range(frames):
        if frame % 2 == 1:
            squares = np.roll(squares, 1, axis=1)
        if frame % 3 == 2:
            squares[rng.integers(height // 8), rng.integers(width // 8)] = rng.integers(4)
        luma.append(np.kron(levels[squares], np.ones((8, 8), np.uint8)))
    chroma = np.full((height // 2, width), 128, np.uint8)
    raw = b"".join(plane.tobytes() + chroma.tobytes() for plane in luma)
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{width}x{height}", "-r", str(fps),
         "-i", "-", "-c:v", "libx264", "-profile:v", "baseline", "-qp", "4", "-threads", "1", "-bf", "0", "-map_metadata", "-1",
         "-fflags", "+bitexact", "-flags:v", "+bitexact", path],
        input=raw, check=True,
    )
