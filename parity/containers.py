"""Writes small model files with the programs of the field: crates/weights reads them in its tests.

Versions: torch 2.15, safetensors 0.8.0, gguf 0.19.0, diffusers 0.42.1, peft 0.21.2, lycoris-lora 4.1.3. Run:

    python parity/containers.py        # or: containers, lora

`fixtures/containers/`: PyTorch archives and a GGUF file, with the values they hold as f32 in safetensors;
`generator.pt` has the transformer of `fixtures/models/wan_t2v` as the code of Self Forcing saves it.
`fixtures/lora/`: a tiny image-to-video transformer, LoRAs for it as Diffusers (PEFT), kohya's scripts and ComfyUI name
them, and for each the tensors that it changes, after `fuse_lora(WEIGHT)`. LoKr, LoHa and DoRA beside them are made by
LyCORIS and PEFT, and their tensors go WEIGHT of the way to what those programs make of them at full strength.
"""

import collections
import json
import os
import sys

import gguf
import numpy as np
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, _pack_dict_with_prefix
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
# Other than 1, so that a forgotten weight shows.
WEIGHT = 0.7
# Block formats, and where the f16 scales of a block lie.
BLOCKS = {Q.Q8_0: [0], Q.Q5_0: [0], Q.Q4_0: [0], Q.Q6_K: [208], Q.Q5_K: [0, 2], Q.Q4_K: [0, 2]}


def folder(name):
    path = os.path.join(FIXTURES, name)
    os.makedirs(path, exist_ok=True)
    return lambda file: os.path.join(path, file)


def pytorch(path):
    """Everything that a state dict of the field has: formats, views, shared storage, parameters, and counters."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(6, 4, generator=generator)
    state = collections.OrderedDict()
    state["f32"] = base
    state["f16"] = base.half()
    state["bf16"] = base.bfloat16()
    state["f8_e4m3"] = base.to(torch.float8_e4m3fn)
    state["f8_e5m2"] = base.to(torch.float8_e5m2)
    state["transposed"] = base.t()
    state["column"] = base[:, 1]
    state["rows"] = base[2:4]
    state["parameter"] = torch.nn.Parameter(base * 2)
    state["one"] = torch.tensor(1.5)
    state["empty"] = torch.zeros(0, 3)
    values = {name: tensor.detach().float().contiguous().clone() for name, tensor in state.items()}
    save_file(values, path("state.safetensors"))
    torch.save(state, path("state.pth"))
    torch.save({"state_dict": dict(state), "epoch": 3, "optimizer": {"lr": 1e-3}}, path("wrapped.pth"))
    torch.save(state, path("legacy.pth"), _use_new_zipfile_serialization=False)
    # A module with buffers carries `_metadata` as an attribute of the dict.
    torch.save(torch.nn.BatchNorm1d(3).state_dict(), path("module.pth"))
    torch.save(torch.nn.Linear(2, 2), path("whole_module.pth"))


# Diffusers' names as the official code has them (`convert_wan_transformer_to_diffusers`, backwards).
OFFICIAL = [
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    (".attn1.", ".self_attn."), (".attn2.", ".cross_attn."), (".to_out.0", ".o"),
    (".add_k_proj", ".k_img"), (".add_v_proj", ".v_img"), (".to_q", ".q"), (".to_k", ".k"), (".to_v", ".v"), (".norm2.", ".norm3."),
    (".ffn.net.0.proj", ".ffn.0"), (".ffn.net.2", ".ffn.2"), ("proj_out", "head.head"),
]


def distilled(path):
    """What `trainer/distillation.py` of Self Forcing saves: the generator's weights, the last ones and their average,
    inside the wrapper `WanDiffusionWrapper`; the critic's lie beside them."""
    name = "models/wan_t2v/transformer/diffusion_pytorch_model.safetensors"
    state = load_file(os.path.join(FIXTURES, name))

    def official(key):
        if key.endswith("scale_shift_table"):
            return key.replace("scale_shift_table", "modulation" if key.startswith("blocks") else "head.modulation")
        for ours, theirs in OFFICIAL:
            key = key.replace(ours, theirs)
        return key

    average = {f"model.{official(key)}": value for key, value in state.items()}
    last = {key.replace("model.", "model._fsdp_wrapped_module.", 1): value * 2 for key, value in average.items()}
    torch.save({"generator": last, "critic": {"model.other": torch.zeros(2)}, "generator_ema": average},
               path("generator.pt"))
    torch.save({"generator": last, "critic": {"model.other": torch.zeros(2)}}, path("generator_last.pt"))


def ggml(path):
    rng = np.random.default_rng(20260102)
    writer = gguf.GGUFWriter(path("formats.gguf"), "wan")
    writer.add_string("general.name", "formats")
    writer.add_array("some.list", [1, 2, 3])
    values = {}

    def add(name, data, kind=None, value=None):
        writer.add_tensor(name, data, raw_dtype=kind)
        values[name] = torch.from_numpy(np.ascontiguousarray(data if value is None else value).astype("<f4"))

    plain = rng.standard_normal((3, 5)).astype(np.float32)
    add("f32", plain)
    add("f16", plain.astype(np.float16))
    bf16 = torch.from_numpy(plain).bfloat16()
    add("bf16", bf16.view(torch.uint8).numpy(), Q.BF16, bf16.float().numpy())
    for kind, scales in BLOCKS.items():
        size = gguf.GGML_QUANT_SIZES[kind][1]
        blocks = rng.integers(0, 256, (4, size), dtype=np.uint8)
        for at in scales:
            blocks[:, at : at + 2] = np.array([0.01], dtype="<f2").view(np.uint8)
        add(kind.name.lower(), blocks, kind, dequantize(blocks, kind))
    # As ComfyUI's converter keeps the shape of a convolution in three dimensions.
    conv = rng.standard_normal((2, 3, 1, 2, 2)).astype(np.float32)
    writer.add_array("comfy.gguf.orig_shape.conv", list(conv.shape))
    add("conv", conv.reshape(2, 12), None, conv)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(values, path("formats.safetensors"))


def tiny():
    torch.manual_seed(11)
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=6, in_channels=9, out_channels=4, text_dim=7, freq_dim=4, ffn_dim=10,
        num_layers=2, image_dim=5, added_kv_proj_dim=12,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "ffn.net.0.proj", "ffn.net.2"]
OUTER = ["proj_out", "condition_embedder.time_proj", "condition_embedder.text_embedder.linear_1",
         "condition_embedder.image_embedder.ff.net.0.proj"]


def fused(lora_state):
    """What the model's tensors are after the reference has loaded and fused a LoRA: those that changed."""
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_lora_adapter(dict(lora_state), prefix="transformer")
    model.fuse_lora(lora_scale=WEIGHT)
    model.unload_lora()
    after = model.state_dict()
    assert after.keys() == before.keys()
    return {name: after[name].contiguous() for name in before if not torch.equal(before[name], after[name])}


def lora(path):
    model = tiny()
    save_file(model.state_dict(), path("model.safetensors"))
    with open(path("config.json"), "w", encoding="ascii") as file:
        file.write(model.to_json_string())
    generator = torch.Generator().manual_seed(13)
    rand = lambda *shape: torch.randn(*shape, generator=generator) * 0.3

    # Diffusers: written by PEFT, the alphas in the header, one of its own, and rank-stabilised.
    for name, settings in [
        ("diffusers", {"r": 3, "lora_alpha": 5, "alpha_pattern": {"attn2.to_k": 2, "proj_out": 1},
                       "rank_pattern": {"attn1.to_q": 2}}),
        ("diffusers_rslora", {"r": 4, "lora_alpha": 6, "use_rslora": True, "lora_bias": True}),
    ]:
        model = tiny()
        model.add_adapter(LoraConfig(target_modules=LINEAR + OUTER, **settings))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    parameter.copy_(rand(*parameter.shape))
        state = {f"transformer.{key}": value for key, value in get_peft_model_state_dict(model).items()}
        metadata = model.peft_config["default"].to_dict()
        packed = _pack_dict_with_prefix(metadata, "transformer")
        packed = {k: (list(v) if isinstance(v, set) else v) for k, v in packed.items()}
        header = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(packed, indent=2, sort_keys=True, default=str)}
        save_file({key: value.contiguous() for key, value in state.items()}, path(f"{name}.safetensors"), header)
        model.fuse_lora(lora_scale=WEIGHT)
        model.unload_lora()
        before, after = tiny().state_dict(), model.state_dict()
        changed = {key: after[key].contiguous() for key in before if not torch.equal(before[key], after[key])}
        save_file(changed, path(f"{name}.fused.safetensors"))

    # kohya (musubi-tuner) and ComfyUI: the original names, the alphas as tensors.
    shapes = {key: tuple(value.shape) for key, value in tiny().state_dict().items()}
    names = {"self_attn.q": "attn1.to_q", "self_attn.k": "attn1.to_k", "self_attn.v": "attn1.to_v",
             "self_attn.o": "attn1.to_out.0", "cross_attn.q": "attn2.to_q", "cross_attn.k": "attn2.to_k",
             "cross_attn.v": "attn2.to_v", "cross_attn.o": "attn2.to_out.0", "cross_attn.k_img": "attn2.add_k_proj",
             "cross_attn.v_img": "attn2.add_v_proj", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
    kohya, comfy = {}, {}
    for block in range(2):
        for original, ours in names.items():
            outputs, inputs = shapes[f"blocks.{block}.{ours}.weight"]
            module = f"blocks.{block}.{original}"
            under = "lora_unet_" + module.replace(".", "_")
            kohya[f"{under}.lora_down.weight"] = rand(2, inputs)
            kohya[f"{under}.lora_up.weight"] = rand(outputs, 2)
            kohya[f"{under}.alpha"] = torch.tensor(1.0 + block)
            comfy[f"diffusion_model.{module}.lora_down.weight"] = rand(3, inputs)
            comfy[f"diffusion_model.{module}.lora_up.weight"] = rand(outputs, 3)
            comfy[f"diffusion_model.{module}.alpha"] = torch.tensor(2.0)
            comfy[f"diffusion_model.{module}.diff_b"] = rand(outputs)
    for original, ours in [("head.head", "proj_out"), ("time_projection.1", "condition_embedder.time_proj")]:
        outputs, inputs = shapes[f"{ours}.weight"]
        comfy[f"diffusion_model.{original}.lora_down.weight"] = rand(3, inputs)
        comfy[f"diffusion_model.{original}.lora_up.weight"] = rand(outputs, 3)
        comfy[f"diffusion_model.{original}.diff_b"] = rand(outputs)
    for name, state, convert in [
        ("kohya", kohya, _convert_musubi_wan_lora_to_diffusers),
        ("comfyui", comfy, _convert_non_diffusers_wan_lora_to_diffusers),
    ]:
        save_file(state, path(f"{name}.safetensors"))
        converted = convert({key: value.clone() for key, value in state.items()})
        save_file(fused(converted), path(f"{name}.fused.safetensors"))


def original(name):
    """The official name of a module."""
    for ours, theirs in OFFICIAL:
        name = name.replace(ours, theirs)
    return name


def part_of_the_way(before, after):
    """The tensors that an adapter changes, as they are at WEIGHT."""
    return {
        name: (before[name] + WEIGHT * (after[name] - before[name])).contiguous()
        for name in before
        if not torch.equal(before[name], after[name])
    }


# Class, module, settings. Every form that LyCORIS writes for linear layers and convolutions: whole, one and both
# factors as products, the cores of Tucker, and DoRA along both axes.
LYCORIS = {
    "lycoris_lokr": [
        (LokrModule, "blocks.0.attn1.to_q", dict(full_matrix=True)),
        (LokrModule, "blocks.0.attn1.to_out.0", dict(lora_dim=1, alpha=3)),
        (LokrModule, "blocks.0.ffn.net.0.proj", dict(lora_dim=2, factor=2, alpha=3)),
        (LokrModule, "blocks.0.ffn.net.2", dict(lora_dim=2, factor=2, unbalanced_factorization=True)),
        (LokrModule, "condition_embedder.time_proj", dict(lora_dim=3, alpha=2, decompose_both=True)),
        (LokrModule, "blocks.1.attn2.to_k", dict(lora_dim=1, weight_decompose=True)),
        (LokrModule, "blocks.1.attn2.add_k_proj", dict(weight_decompose=True, wd_on_out=False)),
        (LokrModule, "patch_embedding", dict(lora_dim=1, alpha=2, factor=2, use_tucker=True)),
        (LokrModule, "proj_out", dict(lora_dim=2, factor=4, weight_decompose=True, wd_on_out=False)),
    ],
    "lycoris_loha": [
        (LohaModule, "blocks.0.attn1.to_k", dict(lora_dim=2, alpha=1)),
        (LohaModule, "blocks.1.ffn.net.0.proj", dict(lora_dim=3, weight_decompose=True)),
        (LohaModule, "blocks.1.ffn.net.2", dict(lora_dim=3, alpha=2, weight_decompose=True, wd_on_out=False)),
        (LohaModule, "patch_embedding", dict(lora_dim=2, alpha=3, use_tucker=True)),
    ],
    "lycoris_dora": [
        (LoConModule, "blocks.0.attn1.to_v", dict(lora_dim=2, alpha=3, weight_decompose=True)),
        (LoConModule, "blocks.0.ffn.net.2", dict(lora_dim=3, weight_decompose=True, wd_on_out=False)),
        (LoConModule, "patch_embedding", dict(lora_dim=2, use_tucker=True, weight_decompose=True, wd_on_out=False)),
    ],
}


def lycoris(path):
    for name, adapters in LYCORIS.items():
        generator = torch.Generator().manual_seed(17)
        model = tiny()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        after, state = dict(before), {}
        for kind, module, settings in adapters:
            layer = model.get_submodule(module)
            adapter = kind(module.replace(".", "_"), layer, 1.0, **settings)
            with torch.no_grad():
                for key, parameter in adapter.named_parameters():
                    if not key.startswith("org_"):
                        draw = torch.randn(parameter.shape, generator=generator)
                        # Lengths stay about those of the weight.
                        parameter.copy_(parameter * (1 + 0.3 * draw) if key == "dora_scale" else draw * 0.5)
                shape = layer.weight.shape
                change = adapter.make_weight() * adapter.scale if kind is LoConModule else adapter.get_weight(shape)
                merged = layer.weight + change.reshape(shape)
                if settings.get("weight_decompose"):
                    merged = adapter.apply_weight_decompose(merged)
            after[f"{module}.weight"] = merged.detach()
            # LyCORIS' own names for kohya's programs, ComfyUI's for the others.
            prefix = f"diffusion_model.{original(module)}"
            if name == "lycoris_lokr":
                prefix = "lycoris_" + original(module).replace(".", "_")
            for key, value in adapter.custom_state_dict().items():
                state[f"{prefix}.{key}"] = value.detach().clone().contiguous()
        # Differences of norms.
        prefix = "lycoris_blocks_1_norm3" if name == "lycoris_lokr" else "diffusion_model.blocks.1.norm3"
        for key, leaf in [("w_norm", "weight"), ("b_norm", "bias")]:
            change = torch.randn(12, generator=generator) * 0.3
            state[f"{prefix}.{key}"] = change
            after[f"blocks.1.norm2.{leaf}"] = before[f"blocks.1.norm2.{leaf}"] + change
        save_file(state, path(f"{name}.safetensors"))
        save_file(part_of_the_way(before, after), path(f"{name}.fused.safetensors"))


PEFT = {
    "peft_lokr": LoKrConfig(
        r=2, alpha=3, decompose_factor=2, decompose_both=True, target_modules=["to_k", "time_proj", "ffn.net.2"],
        rank_pattern={"ffn.net.2": 1}, alpha_pattern={"time_proj": 5},
    ),
    "peft_loha": LoHaConfig(r=3, alpha=2, target_modules=["to_q", "proj_out"], rank_pattern={"proj_out": 2}),
    "peft_dora": LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["to_v", "ffn.net.0.proj"]),
}


def peft(path):
    for name, config in PEFT.items():
        model = tiny()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(19)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.requires_grad:
                    draw = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(parameter * (1 + 0.3 * draw) if "magnitude" in key else draw * 0.5)
        model.save_pretrained(path(name))
        os.remove(os.path.join(path(name), "README.md"))
        after = model.merge_and_unload().state_dict()
        save_file(part_of_the_way(before, after), path(f"{name}.fused.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ["containers", "lora"]
    if "containers" in wanted:
        pytorch(folder("containers"))
        distilled(folder("containers"))
        ggml(folder("containers"))
    if "lora" in wanted:
        lora(folder("lora"))
        lycoris(folder("lora"))
        peft(folder("lora"))
