"""Fixtures of crates/media: images and videos made by other programs.

Regenerate with `python parity/media.py` (Pillow 13.0.0, numpy; ffmpeg 5.1 with x264 for the videos).
Images: what Pillow decodes, turned by ImageOps.exif_transpose, is stored as a plain PNG beside each file.
Resizing: Pillow's LANCZOS on 8-bit RGB, which diffusers' VideoProcessor uses.
Videos: frame i is a grey of 20 + 4 i with a moving bar, so that a test sees the order of frames.
"""

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

OUT = Path(__file__).resolve().parent.parent / "crates" / "media" / "tests" / "fixtures"


def picture(width, height):
    """A smooth picture with sharp edges and a corner mark that shows how it is turned."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rgb = np.stack([x * 255 / width, y * 255 / height, 128 + 100 * np.sin(x / 5) * np.cos(y / 7)], -1)
    rgb[(x - width * 0.6) ** 2 + (y - height * 0.5) ** 2 < (height / 4) ** 2] = (240, 220, 30)
    rgb[: height // 4, : width // 4] = (255, 0, 0)
    return Image.fromarray(rgb.round().astype(np.uint8))


def resizing():
    source = picture(61, 47)
    source.save(OUT / "resize_source.png")
    for width, height in [(32, 32), (96, 128), (17, 80), (61, 20)]:
        source.resize((width, height), Image.Resampling.LANCZOS).save(OUT / f"resize_{width}x{height}.png")
    for width, height in ((17, 80), (61, 20), (40, 10)):
        source.resize((width, height), Image.Resampling.BICUBIC).save(OUT / f"bicubic_{width}x{height}.png")
    # A region that does not begin at whole pixels, as a centred crop needs it.
    box = (7.5, 0.0, 53.5, 47.0)
    source.resize((46, 47), Image.Resampling.LANCZOS, box=box).save(OUT / "resize_region.png")


def images():
    source = picture(40, 24)

    def keep(name, image, want=None, **options):
        path = OUT / name
        image.save(path, **options)
        shown = ImageOps.exif_transpose(Image.open(path)).convert("RGB") if want is None else want
        shown.save(OUT / (name + ".png"))

    def exif(orientation):
        block = Image.Exif()
        block[0x0112] = orientation
        return block

    keep("photo.jpg", source, quality=90, exif=exif(6))
    keep("progressive.jpg", source, quality=90, progressive=True, subsampling=0)
    keep("grey.jpg", source.convert("L"), quality=90)
    keep("cmyk.jpg", source.convert("CMYK"), quality=95)
    keep("lossless.webp", source, lossless=True, exif=exif(8))
    keep("lossy.webp", source, quality=90)
    keep("palette.png", source.quantize(16))
    keep("turned.png", source, exif=exif(3))
    keep("deep.png", Image.fromarray((np.asarray(source.convert("L")).astype(np.uint16) * 257)),
         want=source.convert("L").convert("RGB"))
    clear = source.copy()
    clear.putalpha(Image.linear_gradient("L").resize(source.size))
    white = Image.new("RGBA", source.size, (255, 255, 255, 255))
    keep("clear.png", clear, want=Image.alpha_composite(white, clear).convert("RGB"))


def videos():
    width, height, count = 96, 64, 40
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 20 + 4 * i, np.uint8)
        frame[:, 2 * i : 2 * i + 8] = (200, 60, 40)
        frames.append(frame.tobytes())

    def encode(name, *options):
        command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size",
                   f"{width}x{height}", "-framerate", "25", "-i", "-", "-vf",
                   "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709",
                   "-fflags", "+bitexact", "-crf", "16", *options, str(OUT / name)]
        subprocess.run(command, input=b"".join(frames), check=True)

    x264 = ["-c:v", "libx264", "-threads", "1", "-pix_fmt", "yuv420p"]
    encode("main_b_frames.mp4", *x264, "-profile:v", "main", "-bf", "3", "-g", "12")
    encode("high_fragmented.mp4", *x264, "-profile:v", "high", "-bf", "2", "-g", "10",
           "-movflags", "+frag_keyframe+empty_moov+default_base_moof")
    encode("fast_start.mp4", *x264, "-profile:v", "baseline", "-movflags", "+faststart")
    encode("open_groups.mp4", *x264, "-bf", "3", "-g", "12", "-x264-params", "open-gop=1")
    # Pixels twice as wide as high: shown in the size of the others.
    encode("oblong.mp4", *x264, "-vf", f"scale={width // 2}:{height}:out_color_matrix=bt709:out_range=tv,setsar=2")
    encode("ten_bit.mp4", "-c:v", "libx264", "-threads", "1", "-pix_fmt", "yuv420p10le")
    encode("vp9.webm", "-c:v", "libvpx-vp9", "-b:v", "0", "-pix_fmt", "yuv420p")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    resizing()
    images()
    videos()
