"""A small Unigram tokenizer with byte fallback, laid out as the published UMT5 one.

Trained by sentencepiece 0.2.3 on the sentences below; `tokenizer.json` holds the same pieces and scores with
the normaliser and pre-tokeniser that transformers' own conversion of a sentencepiece model writes.
"""

import io
import json
import os

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

CORPUS = """
A red circle moves slowly to the right on a blue background.
Two yellow stars fall from the sky while a green square turns around.
A woman in a white dress walks along the beach at sunset, cinematic lighting.
The camera follows a small boat that drifts down a quiet river in the morning fog.
A cat sits on the window sill and watches the rain; soft light, shallow depth of field.
An old man reads a newspaper in a crowded cafe, 35mm film, warm colours.
Snow falls on the mountain village, smoke rises from the chimneys.
The astronaut opens the door, and the light of three moons fills the room.
A dog runs through the tall grass, slow motion, high quality, detailed.
Bright tones, overexposed, static, blurred details, subtitles, worst quality, low quality.
一个红色的圆形在蓝色的背景上向右移动。
一位女士在日落时沿着海滩散步，电影般的灯光。
雪落在山村里，烟囱里冒出烟。
色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量
""".strip().split("\n")

# A handful of rules stands for the published charsmap: full-width forms, a ligature, an exotic space.
NORMALISATION_RULES = {"！": "!", "，": ",", "Ａ": "A", "ﬁ": "fi", "\u3000": " ", "\u00a0": " ", "①": "1", "㌔": "キロ"}


def train(vocab_size=440, with_rules=True):
    """Returns the bytes of a sentencepiece model: <pad> 0, </s> 1, <s> 2, <unk> 3, 256 bytes, then pieces."""
    out = io.BytesIO()
    options = dict(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=out,
        model_type="unigram",
        vocab_size=vocab_size,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        character_coverage=0.98,
        add_dummy_prefix=True,
        num_threads=1,
        minloglevel=2,
    )
    if with_rules:
        import tempfile

        with tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False) as rules:
            for source, target in NORMALISATION_RULES.items():
                rules.write(f"{' '.join(f'{ord(c):X}' for c in source)}\t{' '.join(f'{ord(c):X}' for c in target)}\n")
        options["normalization_rule_tsv"] = rules.name
    else:
        options["normalization_rule_name"] = "identity"
    spm.SentencePieceTrainer.train(**options)
    if with_rules:
        os.unlink(rules.name)
    model = sentencepiece_model_pb2.ModelProto.FromString(out.getvalue())
    # The name of the temporary rule file must not end up in the model.
    model.trainer_spec.ClearField("input")
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    return model.SerializeToString()


def to_tokenizers(spiece):
    """The `tokenizers` form of a sentencepiece model."""
    model = sentencepiece_model_pb2.ModelProto.FromString(spiece)
    pieces = [(p.piece, p.score) for p in model.pieces]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=True))
    steps = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    charsmap = model.normalizer_spec.precompiled_charsmap
    if charsmap:
        steps.insert(0, normalizers.Precompiled(charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    return tokenizer


def write(folder, spiece):
    """Writes `spiece.model`, `tokenizer.json` and `tokenizer_config.json` and returns the tokenizer."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "spiece.model"), "wb") as file:
        file.write(spiece)
    tokenizer = to_tokenizers(spiece)
    tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "bos_token": "<s>",
        "unk_token": "<unk>",
        "model_max_length": 512,
        "padding_side": "right",
    }
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        json.dump(config, file, indent=1)
    return tokenizer
