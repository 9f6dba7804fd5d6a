"""Records names and shapes of every tensor of the published models under `fixtures/layouts/`.

The lists come from the classes that wrote the files, built without memory on torch's meta device: Diffusers'
and transformers' for their folders, the official code of both families for theirs, and gguf's own table for
llama.cpp's names of the text encoder.

Versions: diffusers 0.42.1, transformers 5.24.0, torch 2.15, gguf 0.19.0, and check-outs of
github.com/Wan-Video/Wan2.1 (commit 9737cba) and github.com/SkyworkAI/SkyReels-V2 (commit abed76f), of which
only the files of the networks are imported:

    python parity/layouts.py WAN_CHECKOUT SKYREELS_CHECKOUT

`models.json` gives for each published model its Diffusers and official `config.json` and the lists it has; a list
is `NAME.tsv` with a tensor in each line: name, tab, axes. A number N in braces stands for 0, 1, ... N-1.
`odd.json` holds configurations that nobody published, to see that sizes are computed and not known.
"""

import importlib
import json
import os
import re
import sys
import types

import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection
from transformers import UMT5Config, UMT5EncoderModel

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "layouts")

SMALL = {"heads": 12, "ffn": 8960, "layers": 30}
LARGE = {"heads": 40, "ffn": 13824, "layers": 40}
# Name, official model_type, sizes, frame-rate embedding.
MODELS = [
    ("SkyReels-V2-DF-1.3B-540P", "t2v", SMALL, True),
    ("SkyReels-V2-DF-14B-540P", "t2v", LARGE, False),
    ("SkyReels-V2-DF-14B-720P", "t2v", LARGE, False),
    ("SkyReels-V2-T2V-14B-540P", "t2v", LARGE, False),
    ("SkyReels-V2-T2V-14B-720P", "t2v", LARGE, False),
    ("SkyReels-V2-I2V-1.3B-540P", "i2v", SMALL, False),
    ("SkyReels-V2-I2V-14B-540P", "i2v", LARGE, False),
    ("SkyReels-V2-I2V-14B-720P", "i2v", LARGE, False),
    ("Wan2.1-T2V-1.3B", "t2v", SMALL, False),
    ("Wan2.1-T2V-14B", "t2v", LARGE, False),
    ("Wan2.1-I2V-14B-480P", "i2v", LARGE, False),
    ("Wan2.1-I2V-14B-720P", "i2v", LARGE, False),
    ("Wan2.1-FLF2V-14B-720P", "flf2v", LARGE, False),
]


def member_of(name):
    def get(member):
        if member.startswith("__"):
            raise AttributeError(f"{name}.{member}")

    return get


def stub(name, **members):
    """A module that the official files import and the networks do not need."""
    module = types.ModuleType(name)
    module.__dict__.update(members, __file__=name, __getattr__=member_of(name))
    sys.modules[name] = module
    return module


def official(package, folder):
    """Imports single files of a package whose own `__init__` imports far more."""
    stub(package).__path__ = [folder]
    stub(f"{package}.tokenizers")
    stub(f"{package}.attention")
    return lambda name: importlib.import_module(f"{package}.{name}")


def shapes(build):
    with torch.device("meta"):
        model = build()
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}, model


def collapse(tensors):
    """Puts blocks that are alike into one line."""
    groups = {}
    for name, shape in tensors.items():
        match = re.match(r"((?:.*?\.)?(?:blocks?|layers?|layer|transformer|blk))\.(\d+)\.(.*)", name)
        key = (match[1], match[3], tuple(shape)) if match else (name, None, tuple(shape))
        groups.setdefault(key, []).append(int(match[2]) if match else 0)
    lines = []
    for (head, tail, shape), numbers in groups.items():
        axes = ",".join(map(str, shape))
        if tail is None:
            lines.append(f"{head}\t{axes}")
        elif len(numbers) > 1 and sorted(numbers) == list(range(len(numbers))):
            lines.append(f"{head}.{{{len(numbers)}}}.{tail}\t{axes}")
        else:
            lines.extend(f"{head}.{number}.{tail}\t{axes}" for number in numbers)
    return lines


def expand(lines):
    found = {}
    for line in lines:
        name, axes = line.split("\t")
        shape = [int(n) for n in axes.split(",") if n]
        match = re.search(r"\{(\d+)\}", name)
        for number in range(int(match[1])) if match else [0]:
            found[name.replace(match[0], str(number)) if match else name] = shape
    return found


LISTS = {}


def record(name, tensors):
    """Writes a list once; lists that are equal share a file, whose name is returned."""
    lines = collapse(tensors)
    assert expand(lines) == tensors, name
    text = "\n".join(lines) + "\n"
    known = next((other for other, content in LISTS.items() if content == text), None)
    if known is None:
        LISTS[name] = text
        with open(os.path.join(OUT, f"{name}.tsv"), "w", encoding="ascii") as file:
            file.write(text)
    return known or name


def plain_config(model):
    return {key: value for key, value in json.loads(model.to_json_string()).items() if key != "_name_or_path"}


def transformer(name, model_type, size, frame_rate, wan, sky):
    skyreels = name.startswith("SkyReels")
    image = model_type != "t2v"
    dim = size["heads"] * 128
    arguments = {
        "num_attention_heads": size["heads"],
        "attention_head_dim": 128,
        "in_channels": 36 if image else 16,
        "out_channels": 16,
        "ffn_dim": size["ffn"],
        "num_layers": size["layers"],
        "image_dim": 1280 if image else None,
        "added_kv_proj_dim": dim if image else None,
        "pos_embed_seq_len": 514 if model_type == "flf2v" else None,
    }
    if skyreels:
        arguments["inject_sample_info"] = frame_rate
    ours = SkyReelsV2Transformer3DModel if skyreels else WanTransformer3DModel
    diffusers_names, diffusers_model = shapes(lambda: ours(**arguments))
    arguments = {
        "model_type": model_type,
        "in_dim": 36 if image else 16,
        "dim": dim,
        "ffn_dim": size["ffn"],
        "num_heads": size["heads"],
        "num_layers": size["layers"],
    }
    if skyreels:
        arguments["inject_sample_info"] = frame_rate
    theirs = sky("transformer") if skyreels else wan("model")
    official_names, official_model = shapes(lambda: theirs.WanModel(**arguments))
    return {
        "diffusers": record(f"{name}.diffusers", diffusers_names),
        "original": record(f"{name}.original", official_names),
        "diffusers_config": plain_config(diffusers_model),
        "official_config": plain_config(official_model),
    }


def odd():
    """Networks of unusual sizes."""
    cases = []
    for skyreels, arguments in [
        (True, {"num_attention_heads": 3, "attention_head_dim": 24, "in_channels": 5, "out_channels": 7, "ffn_dim": 50,
                "text_dim": 9, "freq_dim": 14, "num_layers": 2, "cross_attn_norm": False, "patch_size": (1, 3, 1),
                "inject_sample_info": True}),
        (False, {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 36, "out_channels": 16,
                 "ffn_dim": 31, "text_dim": 10, "freq_dim": 8, "num_layers": 1, "image_dim": 11,
                 "added_kv_proj_dim": 24, "pos_embed_seq_len": 18}),
        (False, {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16, "out_channels": None,
                 "ffn_dim": 31, "text_dim": 10, "freq_dim": 8, "num_layers": 3, "image_dim": 11}),
    ]:
        build = SkyReelsV2Transformer3DModel if skyreels else WanTransformer3DModel
        tensors, model = shapes(lambda: build(**arguments))
        cases.append({"component": "transformer", "config": plain_config(model), "tensors": tensors})
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    for arguments in [
        {"base_dim": 6, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True], **statistics},
        {"base_dim": 4, "decoder_base_dim": 8, "z_dim": 4, "dim_mult": [1, 3, 2], "num_res_blocks": 3,
         "temperal_downsample": [False, True], **statistics},
        {"base_dim": 4, "z_dim": 4, "dim_mult": [2], "num_res_blocks": 2, "temperal_downsample": [], **statistics},
    ]:
        tensors, model = shapes(lambda: AutoencoderKLWan(**arguments))
        cases.append({"component": "vae", "config": plain_config(model), "tensors": tensors})
    config = UMT5Config(vocab_size=77, d_model=10, d_kv=3, d_ff=17, num_layers=2, num_heads=5,
                        relative_attention_num_buckets=8, is_encoder_decoder=False)
    tensors, _ = shapes(lambda: UMT5EncoderModel(config))
    cases.append({"component": "text", "config": config.to_diff_dict(), "tensors": tensors})
    config = CLIPVisionConfig(hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=3,
                              image_size=21, patch_size=7, projection_dim=5)
    tensors, _ = shapes(lambda: CLIPVisionModel(config))
    cases.append({"component": "clip", "config": config.to_diff_dict(), "tensors": tensors})
    return cases


def gguf_text_names(tensors):
    """llama.cpp's names for the text encoder, from the table its converter uses."""
    import gguf

    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 24)
    names = {}
    for name, shape in tensors.items():
        if name == "encoder.embed_tokens.weight":
            continue
        found = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        names[found] = shape
    return names


def main(wan_folder, sky_folder):
    os.makedirs(OUT, exist_ok=True)
    # Asked for when a file is imported, whether there is a GPU or not.
    torch.cuda.current_device = lambda: 0
    for name in ["torchvision", "torchvision.transforms", "einops", "ftfy", "regex"]:
        stub(name)
    if not hasattr(torch.backends.cuda, "sdp_kernel"):
        torch.backends.cuda.sdp_kernel = None
    wan = official("wan_modules", os.path.join(wan_folder, "wan", "modules"))
    sky = official("sky_modules", os.path.join(sky_folder, "skyreels_v2_infer", "modules"))

    models = {name: transformer(name, kind, size, rate, wan, sky) for name, kind, size, rate in MODELS}
    vae, vae_model = shapes(AutoencoderKLWan)
    text_config = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                             is_encoder_decoder=False)
    text, _ = shapes(lambda: UMT5EncoderModel(text_config))
    clip_config = CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                                   num_attention_heads=16, patch_size=14, projection_dim=1024, hidden_act="gelu")
    clip, _ = shapes(lambda: CLIPVisionModel(clip_config))
    projected, _ = shapes(lambda: CLIPVisionModelWithProjection(clip_config))
    original_vae = dict(dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                        temperal_downsample=[False, True, True], dropout=0.0)
    for name, module in [("Wan", wan), ("SkyReels", sky)]:
        original, _ = shapes(lambda: module("vae").WanVAE_(**original_vae))
        assert record("vae.original", original) == "vae.original", name
        # The arguments of `clip_xlm_roberta_vit_h_14`, which also asks for pictures' transforms.
        original, _ = shapes(lambda: module("clip").XLMRobertaCLIP(
            embed_dim=1024, image_size=224, patch_size=14, vision_dim=1280, vision_mlp_ratio=4, vision_heads=16,
            vision_layers=32, vision_pool="token", activation="gelu", vocab_size=250002, max_text_len=514,
            type_size=1, pad_id=1, text_dim=1024, text_heads=16, text_layers=24, text_post_norm=True))
        assert record("clip.original", original) == "clip.original", name
        original, _ = shapes(lambda: module("t5").umt5_xxl(encoder_only=True, return_tokenizer=False, device="meta"))
        assert record("text.original", original) == "text.original", name
    content = {
        "models": models,
        "vae": {"diffusers": record("vae.diffusers", vae), "original": "vae.original",
                "diffusers_config": plain_config(vae_model)},
        "text": {"diffusers": record("text.diffusers", text), "original": "text.original",
                 "llama_cpp": record("text.llama_cpp", gguf_text_names(text)),
                 "diffusers_config": text_config.to_diff_dict()},
        "clip": {"diffusers": record("clip.diffusers", clip), "original": "clip.original",
                 "with_projection": record("clip.with_projection", projected),
                 "diffusers_config": clip_config.to_diff_dict()},
    }
    for name, data in [("models", content), ("odd", odd())]:
        with open(os.path.join(OUT, f"{name}.json"), "w", encoding="ascii") as file:
            json.dump(data, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
