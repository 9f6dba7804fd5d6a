"""Whole pipelines of the tiny models, and one recorded run of the reference.

`record` runs a diffusers 0.42.1 pipeline with every random draw replaced by one of ours, so that the same
numbers can be handed to `longreel generate --noise`, and returns them with the final latents.
"""

import contextlib
import dataclasses
import importlib
import os
import subprocess
import tempfile

import numpy as np
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from PIL import Image
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

import models
import tokenizer as tokenizers_

CLASSES = {
    "df": SkyReelsV2DiffusionForcingPipeline,
    "df_image": SkyReelsV2DiffusionForcingImageToVideoPipeline,
    "df_video": SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    "t2v": SkyReelsV2Pipeline,
    "i2v": SkyReelsV2ImageToVideoPipeline,
    "wan_t2v": WanPipeline,
    "wan_i2v": WanImageToVideoPipeline,
}


def build(folder, kind, seed, transformer=None, vae=None, text=None, image=None, flow_shift=8.0, vocab_size=440,
          rules=True, scheduler=None, dtype=None, shard_bytes=None):
    """Saves a whole pipeline of tiny models as a Diffusers folder; the dicts change the builders' defaults.

    `scheduler` changes UniPC's settings, or is "euler"; weights are stored as `dtype`, in shards of `shard_bytes`.
    """
    spiece = tokenizers_.train(vocab_size, with_rules=rules)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizers_.write(scratch, spiece)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(scratch)
    parts = dict(
        tokenizer=tokenizer,
        text_encoder=models.text_encoder(seed + 1, vocab_size, **(text or {})),
        transformer=models.transformer(seed + 2, "wan" if kind.startswith("wan") else "skyreels", **(transformer or {})),
        vae=models.vae(seed + 3, **(vae or {})),
        scheduler=models.euler(flow_shift) if scheduler == "euler" else models.scheduler(flow_shift, **(scheduler or {})),
    )
    if kind in ("i2v", "wan_i2v"):
        parts["image_encoder"] = models.image_encoder(seed + 4, projection=kind == "i2v", **(image or {}))
        side = parts["image_encoder"].config.image_size
        parts["image_processor"] = CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
    pipeline = CLASSES[kind](**parts)
    if dtype is not None:
        pipeline.to(dtype)
    pipeline.save_pretrained(folder, **({} if shard_bytes is None else {"max_shard_size": shard_bytes}))
    # The sentencepiece model lies beside tokenizer.json in the published folders.
    with open(os.path.join(folder, "tokenizer", "spiece.model"), "wb") as file:
        file.write(spiece)
    return pipeline


def load(folder, kind):
    """Loads a folder made by `build` as the pipeline of `kind` (a DF folder serves text, image and video)."""
    return CLASSES[kind].from_pretrained(folder, dtype=torch.float32)


@dataclasses.dataclass
class Film:
    """One run, in the terms of the command line. Sizes in pixels, lengths in pixel frames."""

    kind: str
    prompt: str
    width: int
    height: int
    num_frames: int
    steps: int
    guidance_scale: float
    shift: float
    negative_prompt: str = ""
    seed: int = 0
    fps: int = 24
    base_num_frames: int | None = None
    overlap_history: int | None = None
    addnoise_condition: float = 0
    ar_step: int = 0
    causal_block_size: int | None = None
    image: str | None = None
    end_image: str | None = None
    video: str | None = None

    def arguments(self, model, noise, latents, frames, film):
        """The `longreel` arguments that must give the same result."""
        out = ["generate", self.prompt, "--model", model, "--size", f"{self.width}x{self.height}"]
        out += ["--num-frames", str(self.num_frames)]
        if self.base_num_frames is not None:
            out += ["--base-num-frames", str(self.base_num_frames)]
        out += ["--steps", str(self.steps), "--guidance-scale", str(self.guidance_scale), "--shift", str(self.shift)]
        out += ["--seed", str(self.seed), "--fps", str(self.fps)]
        # Always said, even when empty: the command's own default differs from the reference's.
        out += ["--negative-prompt", self.negative_prompt]
        if self.kind.startswith("df"):
            out += ["--ar-step", str(self.ar_step), "--addnoise-condition", f"{self.addnoise_condition:g}"]
        if self.causal_block_size is not None:
            out += ["--causal-block-size", str(self.causal_block_size)]
        if self.overlap_history is not None:
            out += ["--overlap-history", str(self.overlap_history)]
        for flag, value in (("--image", self.image), ("--end-image", self.end_image), ("--video", self.video)):
            if value is not None:
                out += [flag, value]
        out += ["--noise", noise, "--dump-latents", latents]
        if frames is not None:
            out += ["--dump-frames", frames]
        return out + ["-o", film, "--device", "cpu"]


@contextlib.contextmanager
def recorded_noise(pipeline, seed, noise, scale=0.0):
    """Replaces the pipeline's two sources of randomness and keeps what they gave in `noise`.

    Every segment begins with one `randn_tensor`; every `torch.randn_like` after it is the condition's noise
    of one row. `scale` perturbs the initial noise, to measure how strongly a run amplifies rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    module = importlib.import_module(type(pipeline).__module__)
    plain_tensor, plain_like = module.randn_tensor, torch.randn_like
    rows = []

    def finish():
        if rows:
            noise[f"condition_noise_{len(noise_segments) - 1}"] = torch.stack(rows)
            rows.clear()

    noise_segments = []

    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None):
        finish()
        value = torch.randn(shape, generator=initial)
        noise[f"segment_{len(noise_segments)}"] = value.clone()
        noise_segments.append(tuple(shape))
        if scale:
            value = value + scale * torch.randn(shape, generator=perturbation)
        return value.to(dtype)

    def randn_like(tensor, **_):
        value = torch.randn(tensor.shape, generator=initial).to(tensor.dtype)
        rows.append(value.clone())
        return value

    initial, perturbation = generator, torch.Generator().manual_seed(seed + 1)
    module.randn_tensor, torch.randn_like = randn_tensor, randn_like
    try:
        yield
        finish()
    finally:
        module.randn_tensor, torch.randn_like = plain_tensor, plain_like


def read_gray_video(path):
    """Decodes a film whose colour planes are constant: [F, H, W, 3] u8, R = G = B from luma, limited range."""
    size = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of", "csv=p=0", path],
        check=True, capture_output=True, text=True,
    ).stdout.strip().split(",")
    width, height = int(size[0]), int(size[1])
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"],
                         check=True, capture_output=True).stdout
    planes = np.frombuffer(raw, np.uint8).reshape(-1, height * 3 // 2, width)
    assert (planes[:, height:] == 128).all(), "the video is not grey"
    luma = (planes[:, :height].astype(np.float64) - 16) * 255 / 219
    assert np.abs(luma - luma.round()).max() < 1e-9, "a grey level that conversions may round either way"
    gray = luma.round().clip(0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


@torch.no_grad()
def record(pipeline, film, with_frames=False, scale=0.0):
    """Runs the reference. Returns (noise, final_latents [1,16,T,h,w], frames [F,H,W,3] in [0,1] or None)."""
    pipeline.set_progress_bar_config(disable=True)
    kind = type(pipeline.scheduler)
    shift = {"flow_shift" if kind is UniPCMultistepScheduler else "shift": film.shift}
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **shift)
    arguments = dict(
        prompt=film.prompt,
        negative_prompt=film.negative_prompt,
        height=film.height,
        width=film.width,
        num_frames=film.num_frames,
        num_inference_steps=film.steps,
        guidance_scale=film.guidance_scale,
        output_type="latent",
        return_dict=False,
    )
    if film.kind.startswith("df"):
        # The pipeline leaves an earlier call's block size in the configuration: put back what the folder says.
        configured = getattr(pipeline, "configured_block", pipeline.transformer.config.num_frame_per_block)
        pipeline.configured_block = configured
        pipeline.transformer._set_ar_attention(configured)
        arguments |= dict(
            fps=film.fps,
            base_num_frames=film.base_num_frames,
            overlap_history=film.overlap_history,
            addnoise_condition=film.addnoise_condition,
            ar_step=film.ar_step,
            causal_block_size=film.causal_block_size,
        )
    for name, path in (("image", film.image), ("last_image", film.end_image)):
        if path is not None:
            arguments[name] = Image.open(path).convert("RGB")
    if film.video is not None:
        arguments["video"] = [Image.fromarray(picture) for picture in read_gray_video(film.video)]
    noise = {}
    with recorded_noise(pipeline, film.seed, noise, scale):
        latents = pipeline(**arguments)[0]
    if film.kind == "df_image" and film.end_image is not None:
        # Decoding drops the last image's latent; asking for latents does not.
        latents = latents[:, :, :-1]
    frames = None
    if with_frames:
        config = pipeline.vae.config
        mean = torch.tensor(config.latents_mean).view(1, config.z_dim, 1, 1, 1)
        reciprocal = 1.0 / torch.tensor(config.latents_std).view(1, config.z_dim, 1, 1, 1)
        pictures = pipeline.vae.decode(latents / reciprocal + mean, return_dict=False)[0]
        frames = (pictures / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 3, 0).contiguous()
    return noise, latents.contiguous(), frames


def relative_l2(value, reference):
    """|value - reference| / |reference| over all elements, in f64."""
    value = np.asarray(value, np.float64)
    reference = np.asarray(reference, np.float64)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))
