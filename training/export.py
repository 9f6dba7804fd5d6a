"""Writes what the trainings left in their work folder as one Diffusers folder in bf16, with its film defaults."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler,
)
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

import text as text_module
import transformer as transformer_module

DEFAULTS = dict(
    width=64, height=64, num_frames=97, base_num_frames=33, overlap_history=9, steps=20, guidance_scale=5.0,
    guidance_interval="0.85..1", shift=3.0, fps=24, negative_prompt="",
)


def load_transformer(folder: Path) -> SkyReelsV2Transformer3DModel:
    """The averaged weights; untrained ones when there is no checkpoint yet."""
    torch.manual_seed(0)
    model = transformer_module.build(text_module.TEXT_DIM)
    checkpoint = folder / "transformer.pt"
    if checkpoint.exists():
        model.load_state_dict(torch.load(checkpoint)["average"])
    return model


def pipeline(folder: Path, shift: float) -> SkyReelsV2DiffusionForcingPipeline:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    # Training leaves its own padding behind; whoever loads the tokenizer chooses theirs.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return SkyReelsV2DiffusionForcingPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        transformer=load_transformer(folder),
        vae=AutoencoderKLWan.from_pretrained(folder / "vae"),
        scheduler=UniPCMultistepScheduler(
            num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift,
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="work folder of the trainings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.out.exists():
        for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
            shutil.rmtree(args.out / part, ignore_errors=True)
    pipe = pipeline(args.model, DEFAULTS["shift"])
    for module in (pipe.transformer, pipe.vae, pipe.text_encoder):
        module.to(torch.bfloat16)
    pipe.save_pretrained(args.out, safe_serialization=True)
    # transformers 5 writes a class name that version 4 does not know; both know this one.
    for config in (args.out / "model_index.json", args.out / "tokenizer" / "tokenizer_config.json"):
        config.write_text(config.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    config = args.out / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    for name in ("is_local", "local_files_only", "max_length", "stride", "truncation_side", "truncation_strategy",
                 "pad_to_multiple_of", "pad_token_type_id", "padding_side"):
        settings.pop(name, None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
    # Where the autoencoder was loaded from concerns nobody.
    config = args.out / "vae" / "config.json"
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
    (args.out / "longreel.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    for file in args.out.rglob("*.safetensors"):
        file.chmod(0o644)
    print(f"{size / 1e6:.2f} MB in {args.out}")
    SkyReelsV2DiffusionForcingPipeline.from_pretrained(args.out)


if __name__ == "__main__":
    main()
