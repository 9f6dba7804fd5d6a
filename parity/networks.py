"""Records one forward of every network under `fixtures/networks/`.

Each folder holds a model as `save_pretrained` writes it (config.json and safetensors) and two files more:

    io.safetensors  inputs and outputs, every name prefixed by its case, f32 (ids i32, 8-bit pictures u8)
    cases.json      the cases in order, each with its name and the arguments which are not tensors

Layouts are the reference's: latents [B, C, T, H, W], pictures [B, C, F, H, W] in [-1, 1], tokens [B, L, D].
Run `python parity/networks.py`; the versions are pinned in requirements.txt.
"""

import json
import os
import shutil
import sys

import numpy as np
import torch
from safetensors.torch import save_file

import models
import tokenizer as tokenizers_

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "fixtures", "networks")


class Recorder:
    """Collects cases for one folder and writes io.safetensors and cases.json at the end."""

    def __init__(self, name, model=None):
        self.folder = os.path.join(OUT, name)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        if model is not None:
            model.save_pretrained(self.folder)
            # `_set_ar_attention` changes the configuration for later calls too, so remember where it started.
            self.configured_block = getattr(model.config, "num_frame_per_block", 1)
        self.tensors, self.cases = {}, []

    def add(self, case, arguments, **tensors):
        self.cases.append({"name": case, **arguments})
        for name, tensor in tensors.items():
            tensor = torch.as_tensor(tensor)
            if tensor.dtype != torch.uint8:
                tensor = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int32)
            self.tensors[f"{case}.{name}"] = tensor.detach().contiguous().clone()

    def write(self):
        save_file(self.tensors, os.path.join(self.folder, "io.safetensors"))
        self.write_cases()

    def write_cases(self):
        """One case a line; ASCII, so that invisible characters in prompts can be seen."""
        lines = ",\n".join(json.dumps(case) for case in self.cases)
        with open(os.path.join(self.folder, "cases.json"), "w", encoding="ascii") as file:
            file.write(f"[\n{lines}\n]\n")


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pad_text(text, length):
    """What the pipelines do: zero rows up to the padded length take part in cross-attention."""
    return torch.cat([text, text.new_zeros(1, length - text.shape[1], text.shape[2])], dim=1)


def watch(model, names):
    """Hooks that keep the outputs of the named submodules."""
    seen, hooks = {}, []
    modules = dict(model.named_modules())
    for name in names:

        def keep(_module, _inputs, output, name=name):
            seen[name] = output

        hooks.append(modules[name].register_forward_hook(keep))
    return seen, hooks


def run_transformer(recorder, model, case, seed, latent, timestep, text_rows, text_length, image=None, fps=None,
                    forcing=False, block=None, inner=False):
    """One forward. `latent` is [C, T, H, W]; the text is stored without its zero rows."""
    hidden = randn(seed, 1, *latent)
    text = randn(seed + 1, 1, text_rows, model.config.text_dim)
    arguments = {
        "diffusion_forcing": forcing,
        "fps_index": fps,
        "num_frame_per_block": block or recorder.configured_block,
        "text_length": text_length,
    }
    keywords = {}
    if hasattr(model, "_set_ar_attention"):
        model._set_ar_attention(arguments["num_frame_per_block"])
        keywords = {"enable_diffusion_forcing": forcing, "fps": None if fps is None else [fps]}
    image_embeds = None if image is None else randn(seed + 2, *image, model.config.image_dim)
    names = ["rope", "patch_embedding", "condition_embedder"] + [f"blocks.{i}" for i in range(len(model.blocks))]
    seen, hooks = watch(model, names)
    output = model(
        hidden_states=hidden,
        timestep=torch.tensor(timestep),
        encoder_hidden_states=pad_text(text, text_length),
        encoder_hidden_states_image=image_embeds,
        return_dict=False,
        **keywords,
    )[0]
    for hook in hooks:
        hook.remove()
    tensors = {
        "hidden_states": hidden,
        "timestep": torch.tensor(timestep, dtype=torch.float32),
        "encoder_hidden_states": text,
        "output": output,
    }
    if image_embeds is not None:
        tensors["encoder_hidden_states_image"] = image_embeds
    if inner:
        # Where a difference begins: the rotary tables [1, tokens, 1, head dim], the patches [1, tokens, dim],
        # the time embedding and its projection before the frame rate, and the tokens after every block.
        cos, sin = seen["rope"]
        temb, projection, context, context_image = seen["condition_embedder"]
        tensors |= {
            "inner.rope_cos": cos,
            "inner.rope_sin": sin,
            "inner.patches": seen["patch_embedding"].flatten(2).transpose(1, 2),
            "inner.temb": temb,
            "inner.timestep_proj": projection,
            "inner.context": context[:, : text_rows + 1],
        }
        if context_image is not None:
            tensors["inner.context_image"] = context_image
        for index in range(len(model.blocks)):
            tensors[f"inner.block_{index}"] = seen[f"blocks.{index}"]
    recorder.add(case, arguments, **tensors)


@torch.no_grad()
def transformers():
    # Diffusion forcing with the frame-rate embedding; 5 x 3 patches a frame.
    model = models.transformer(101, num_attention_heads=2, ffn_dim=71, inject_sample_info=True)
    recorder = Recorder("transformer_df", model)
    run_transformer(recorder, model, "per_frame_timesteps", 1, (16, 4, 6, 10), [[0, 250, 731, 999]], 9, 512,
                    fps=1, forcing=True, inner=True)
    run_transformer(recorder, model, "fps_16_one_timestep", 2, (16, 3, 10, 6), [[888, 888, 888]], 17, 17, fps=0,
                    forcing=True)
    run_transformer(recorder, model, "block_causal_2", 3, (16, 6, 4, 6), [[0, 0, 400, 400, 950, 950]], 5, 64,
                    fps=1, forcing=True, block=2, inner=True)
    run_transformer(recorder, model, "block_causal_3", 4, (16, 6, 6, 4), [[20, 20, 20, 999, 999, 999]], 1, 512,
                    fps=0, forcing=True, block=3)
    run_transformer(recorder, model, "one_frame", 5, (16, 1, 2, 2), [[613]], 3, 8, fps=1, forcing=True)
    recorder.write()

    # Diffusion forcing without the frame-rate embedding and with causal blocks in the configuration;
    # one head of 20 (rope 8 + 6 + 6), one layer, no norm before cross-attention.
    model = models.transformer(102, num_attention_heads=1, attention_head_dim=20, num_layers=1, ffn_dim=31,
                               cross_attn_norm=False, num_frame_per_block=2, eps=1e-5, text_dim=24)
    recorder = Recorder("transformer_df_plain", model)
    run_transformer(recorder, model, "configured_blocks", 11, (16, 4, 4, 6), [[100, 100, 700, 700]], 6, 32,
                    forcing=True)
    run_transformer(recorder, model, "no_blocks", 12, (16, 5, 4, 6), [[0, 1, 2, 3, 999]], 6, 6, forcing=True, block=1)
    run_transformer(recorder, model, "one_timestep", 13, (16, 3, 4, 4), [123], 4, 32, block=1)
    recorder.write()

    # Text to video: one timestep for the whole window; 5 heads x 8 (rope 4 + 2 + 2), 3 layers.
    model = models.transformer(103, num_attention_heads=5, attention_head_dim=8, num_layers=3, ffn_dim=51, freq_dim=18)
    recorder = Recorder("transformer_t2v", model)
    run_transformer(recorder, model, "one_timestep", 21, (16, 3, 6, 10), [875], 12, 512)
    run_transformer(recorder, model, "last_timestep", 22, (16, 2, 8, 4), [1], 2, 33)
    recorder.write()

    # Image to video, 36 channels in, image tokens as extra keys and values. The reference takes the last 512
    # rows of the context as text, so the text is padded to 512 here.
    model = models.transformer(104, num_attention_heads=2, attention_head_dim=20, num_layers=1, ffn_dim=47,
                               in_channels=36, image_dim=28, added_kv_proj_dim=40, freq_dim=20)
    recorder = Recorder("transformer_i2v", model)
    run_transformer(recorder, model, "image_tokens", 31, (36, 3, 6, 4), [642], 7, 512, image=(1, 10), inner=True)
    run_transformer(recorder, model, "another_window", 32, (36, 2, 4, 10), [17], 21, 512, image=(1, 10))
    recorder.write()

    # The same with the frame-rate embedding and learned positions for two images (first and last).
    model = models.transformer(105, num_attention_heads=2, attention_head_dim=16, num_layers=1, ffn_dim=29,
                               in_channels=36, image_dim=26, added_kv_proj_dim=32, freq_dim=20, pos_embed_seq_len=14,
                               inject_sample_info=True)
    recorder = Recorder("transformer_i2v_two_images", model)
    run_transformer(recorder, model, "first_and_last", 41, (36, 3, 4, 6), [642], 7, 512, image=(2, 7), fps=1,
                    inner=True)
    recorder.write()

    # Wan 2.1: text to video, image to video, first and last frame.
    model = models.transformer(106, kind="wan", num_attention_heads=2, attention_head_dim=14, num_layers=2, ffn_dim=55)
    recorder = Recorder("transformer_wan_t2v", model)
    run_transformer(recorder, model, "one_timestep", 51, (16, 3, 6, 10), [937], 12, 512, inner=True)
    recorder.write()
    model = models.transformer(107, kind="wan", num_attention_heads=2, attention_head_dim=16, num_layers=1, ffn_dim=37,
                               in_channels=36, image_dim=22, added_kv_proj_dim=32, freq_dim=20)
    recorder = Recorder("transformer_wan_i2v", model)
    run_transformer(recorder, model, "image_tokens", 61, (36, 3, 4, 6), [333], 5, 512, image=(1, 17))
    recorder.write()
    model = models.transformer(108, kind="wan", num_attention_heads=2, attention_head_dim=16, num_layers=1, ffn_dim=37,
                               in_channels=36, image_dim=22, added_kv_proj_dim=32, freq_dim=20, pos_embed_seq_len=20)
    recorder = Recorder("transformer_wan_flf2v", model)
    run_transformer(recorder, model, "first_and_last", 71, (36, 3, 4, 6), [333], 5, 512, image=(2, 10))
    recorder.write()


def film(seed, frames, height, width):
    """Smooth moving colours with a little grain, [1, 3, F, H, W] in [-1, 1]."""
    t = torch.arange(frames).view(1, 1, -1, 1, 1)
    y = torch.arange(height).view(1, 1, 1, -1, 1)
    x = torch.arange(width).view(1, 1, 1, 1, -1)
    phase = torch.tensor([0.0, 1.1, 2.3]).view(1, 3, 1, 1, 1) + seed
    waves = torch.sin(0.31 * x + 0.5 * t + phase) * torch.cos(0.23 * y - 0.4 * t + 2 * phase)
    return (0.8 * waves + 0.1 * randn(seed, 1, 3, frames, height, width)).clamp(-1, 1)


@torch.no_grad()
def vae():
    mean = torch.tensor(models.LATENTS_MEAN).view(1, 16, 1, 1, 1)
    std = torch.tensor(models.LATENTS_STD).view(1, 16, 1, 1, 1)

    def encode(recorder, model, case, seed, frames, height, width):
        pictures = film(seed, frames, height, width)
        raw = model.encode(pictures).latent_dist.mode()
        recorder.add(case, {"kind": "encode", "frames": frames, "height": height, "width": width},
                     pictures=pictures, latents_raw=raw, latents=(raw - mean) * (1.0 / std))

    def decode(recorder, model, case, seed, latents, height, width):
        normalised = randn(seed, 1, 16, latents, height // 8, width // 8)
        pictures = model.decode(normalised / (1.0 / std) + mean).sample
        recorder.add(case, {"kind": "decode", "frames": pictures.shape[2], "height": height, "width": width},
                     latents=normalised, pictures=pictures)

    model = models.vae(201, base_dim=4)
    recorder = Recorder("vae", model)
    encode(recorder, model, "encode_1_frame", 1, 1, 48, 80)
    encode(recorder, model, "encode_5_frames", 2, 5, 32, 48)
    encode(recorder, model, "encode_9_frames", 3, 9, 16, 32)
    encode(recorder, model, "encode_13_frames", 4, 13, 16, 16)
    decode(recorder, model, "decode_1_frame", 5, 1, 48, 80)
    decode(recorder, model, "decode_5_frames", 6, 2, 32, 16)
    decode(recorder, model, "decode_9_frames", 7, 3, 16, 32)
    decode(recorder, model, "decode_13_frames", 8, 4, 16, 16)
    recorder.write()

    # Three levels, two residual blocks a level, and time scaled at the first level.
    model = models.vae(202, base_dim=3, dim_mult=[1, 3, 2, 2], num_res_blocks=2,
                       temperal_downsample=[True, True, False])
    recorder = Recorder("vae_two_blocks", model)
    encode(recorder, model, "encode_9_frames", 9, 9, 32, 16)
    decode(recorder, model, "decode_9_frames", 10, 3, 16, 32)
    decode(recorder, model, "decode_1_frame", 11, 1, 16, 16)
    recorder.write()


PROMPTS = [
    "A red circle moves slowly to the right on a blue background.",
    "一个红色的圆形在蓝色的背景上向右移动。",
    "  two   spaces,\ttabs\nand lines  ",
    "Tom &amp; Jerry &lt;3 &amp;quot;cheese&amp;quot;",
    "a cafÃ© with a â€œsignâ€\x9d in the rain",
    "fireworks 🎆🎇 over the bay, 漢字 and kana かな",
    "ＦＵＬＬ ｗｉｄｔｈ！，　① ﬁne",
    "e\u0301clair, nai\u0308ve, zero\u200bwidth, nbsp\u00a0here",
    "It’s “quoted” — and … dashed",
    "",
    "\x1b[31mred\x1b[0m and a \ufeffmark and a soft\u00adhyphen",
    "Überraschung: schön, größer; ¿qué? ça va",
    "</s> <pad> <extra_id_0> literal specials",
    "&nbsp;&#20013;&#x56fd; &notanentity; &copy; 2024",
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量",
    "word " * 700,
]


@torch.no_grad()
def text():
    import sentencepiece as spm
    from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing import prompt_clean

    # Tokenizers: one with a charsmap, one without; ids are those of tokenizer.json, cut to 512 as the pipelines do.
    for name, with_rules in (("tokenizer", True), ("tokenizer_identity", False)):
        recorder = Recorder(name)
        spiece = tokenizers_.train(with_rules=with_rules)
        tokenizer = tokenizers_.write(recorder.folder, spiece)
        piece_tokenizer = spm.SentencePieceProcessor(model_proto=spiece)
        tokenizer.enable_truncation(512)
        for index, prompt in enumerate(PROMPTS):
            cleaned = prompt_clean(prompt)
            ids = tokenizer.encode(cleaned).ids
            arguments = {"prompt": prompt, "cleaned": cleaned, "ids": ids}
            from_pieces = piece_tokenizer.encode(cleaned)[:511] + [1]
            if from_pieces != ids:
                # Only where a special token is written out in the prompt.
                arguments["ids_of_spiece_model"] = from_pieces
            recorder.add(f"prompt_{index}", arguments)
        recorder.write_cases()

    # The encoder: attention is masked by length, rows past the length are zeroed afterwards.
    model = models.text_encoder(301, vocab_size=97)
    recorder = Recorder("text_encoder", model)
    for case, seed, length, padded in (
        ("full_length", 1, 23, 23),
        ("padded_to_40", 2, 11, 40),
        ("one_token", 3, 1, 7),
        ("beyond_the_last_distance", 4, 130, 130),
        ("padded_to_512", 5, 37, 512),
    ):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.zeros(1, padded, dtype=torch.long)
        ids[:, :length] = torch.randint(1, 97, (1, length), generator=generator)
        mask = torch.zeros(1, padded, dtype=torch.long)
        mask[:, :length] = 1
        states = model(ids, mask).last_hidden_state
        recorder.add(case, {"length": length, "padded": padded}, ids=ids[:, :length], hidden_states=states[:, :length])
    recorder.write()


@torch.no_grad()
def image():
    from PIL import Image
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size={"shortest_edge": 21}, crop_size={"height": 21, "width": 21})
    for name, changes in (("image_encoder", {}), ("image_encoder_quick_gelu", {"hidden_act": "quick_gelu",
                          "hidden_size": 20, "num_attention_heads": 2, "intermediate_size": 33, "image_size": 15,
                          "patch_size": 5, "num_hidden_layers": 2})):
        model = models.image_encoder(401, **changes)
        recorder = Recorder(name, model)
        size = model.config.image_size
        if name == "image_encoder":
            processor.save_pretrained(recorder.folder)
        for case, seed, (width, height) in (("landscape", 1, (80, 48)), ("portrait", 2, (33, 70)), ("square", 3, (21, 21))):
            if size == 21:
                pixels = ((film(seed, 1, height, width)[0, :, 0] + 1) * 127.5).round().to(torch.uint8)
                picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
                values = processor(images=picture, return_tensors="pt").pixel_values
                # What the processor scales the picture to before it cuts out the middle.
                scale = size / min(width, height)
                resized = picture.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
                extra = {"picture": torch.from_numpy(np.array(picture)), "resized": torch.from_numpy(np.array(resized))}
            else:
                values, extra = randn(seed, 1, 3, size, size), {}
            states = model(pixel_values=values, output_hidden_states=True).hidden_states
            recorder.add(case, {}, pixel_values=values, penultimate=states[-2], **extra)
        recorder.write()


STAGES = {"transformers": transformers, "vae": vae, "text": text, "image": image}

if __name__ == "__main__":
    for stage in sys.argv[1:] or STAGES:
        STAGES[stage]()
        print(stage, "written")
