"""The demo's tokenizer (whole words) and text encoder (a small `UMT5EncoderModel`).

The encoder is trained before the transformer, on captions alone: from each of its output vectors a linear
layer must name every attribute of the scene (first object's colour, second object's direction, ...). After
that any vector of a caption tells the transformer everything, so cross-attention has little left to learn.
The linear layers are thrown away; the encoder stays frozen.
"""

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

import films
from optimiser import MuonAdamW, split_parameters

TEXT_DIM = 96
MAX_WORDS = 48
# Words nobody's caption generator uses but people may type; they become neutral words in training.
_FILLER = """please show me make create draw picture image clip movie scene simple flat bright dark big small
little large nice shape object thing then there this that which its it of in at by for is are be very slightly
gently steadily smoothly constantly slowly quickly across screen frame view colored coloured solid plain empty
side edge top bottom middle center centre centred from into with and the a an one two single another""".split()


def words_of_captions(count=6000, seed=5) -> list:
    rng, words = random.Random(seed), set()
    for _ in range(count):
        text = films.caption(films.draw_scene(rng), rng).lower()
        words.update(text.replace(".", " . ").replace(",", " , ").replace(":", " : ").split())
    return sorted(words | set(_FILLER))


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for word in words_of_captions():
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def build_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary_size, d_model=TEXT_DIM, d_kv=24, d_ff=256, num_layers=2, num_heads=4,
            relative_attention_num_buckets=32, relative_attention_max_distance=64, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, tie_word_embeddings=True,
        )
    )


# One classification for each of these; index 0 always means "not there".
_CHOICES = dict(
    colour=["-", *films.COLOURS], shape=["-", *films.SHAPES], direction=["-", *films.DIRECTIONS],
    speed=["-", *films.SPEEDS], change=["-", *films.CHANGES], colour_after=["-", *films.COLOURS],
)


def attributes(scene: films.Scene) -> list:
    """Class indices of the background and of both objects' attributes."""
    result = [0 if "background" in scene.missing else 1 + list(films.BACKGROUNDS).index(scene.background)]
    for place in range(2):
        for name, choices in _CHOICES.items():
            value = getattr(scene.objects[place], name) if place < len(scene.objects) else "-"
            result.append(choices.index(value) if value in choices and (value or name == "speed") else 0)
    return result


def attribute_sizes() -> list:
    return [1 + len(films.BACKGROUNDS)] + 2 * [len(c) for c in _CHOICES.values()]


def encode_ids(tokenizer, texts, drop=0.0, rng=None):
    """Token ids [n, MAX_WORDS] and mask; with `drop`, that part of the words is replaced by <unk>."""
    batch = tokenizer(
        texts, padding="max_length", max_length=MAX_WORDS, truncation=True, return_tensors="pt",
        add_special_tokens=True,
    )
    return batch.input_ids, batch.attention_mask


def _noisy(text: str, rng: random.Random) -> str:
    """Now and then unknown or filler words get in between."""
    words = text.split()
    for _ in range(rng.choices([0, 1, 2], [70, 20, 10])[0]):
        words.insert(rng.randrange(len(words) + 1), rng.choice(["<unk>", "zzz", *_NEUTRAL]))
    return " ".join(words)


_NEUTRAL = [w for w in _FILLER if w not in {"from", "and", "two", "slowly", "quickly", "top", "bottom", "with", "one"}]


def train(minutes: float, out: Path, threads: int):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rng = random.Random(1)
    tokenizer = build_tokenizer()
    encoder = build_encoder(len(tokenizer))
    sizes = attribute_sizes()
    heads = torch.nn.Linear(TEXT_DIM, sum(sizes))
    matrices, others = split_parameters(encoder.named_parameters(), ("shared", "embed", "relative"))
    optimiser = MuonAdamW(matrices, [*others, *heads.parameters()], 3e-3)
    begun, step, losses = time.time(), 0, []
    while True:
        progress = (time.time() - begun) / (60 * minutes)
        scenes = [films.draw_scene(rng) for _ in range(96)]
        texts = [_noisy(films.caption(s, rng, rng.random() < 0.2), rng) for s in scenes]
        ids, mask = encode_ids(tokenizer, texts)
        longest = int(mask.sum(1).max())
        ids, mask = ids[:, :longest], mask[:, :longest]
        target = torch.tensor([attributes(s) for s in scenes])
        output = encoder(ids, mask).last_hidden_state
        scores = heads(output).split(sizes, dim=-1)
        loss, right = 0.0, torch.ones(len(scenes), dtype=torch.bool)
        for i, score in enumerate(scores):
            wanted = target[:, i, None].expand(-1, longest).masked_fill(mask == 0, -100)
            loss = loss + F.cross_entropy(score.transpose(1, 2), wanted, ignore_index=-100)
            mean = (score * mask[..., None]).sum(1)
            right &= mean.argmax(-1) == target[:, i]
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 30) * max(0.02, min(1.0, 2 * (1 - progress)))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 5.0)
        optimiser.step()
        step += 1
        losses.append((loss.item(), right.float().mean().item()))
        if step % 50 == 0 or progress >= 1:
            mean = torch.tensor(losses).mean(0).tolist()
            print(f"step {step} {time.time() - begun:.0f} s loss {mean[0]:.3f} captions all right {mean[1]:.3f}", flush=True)
            losses = []
            encoder.save_pretrained(out / "text_encoder")
            tokenizer.save_pretrained(out / "tokenizer")
            if progress >= 1:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    train(args.minutes, args.out, args.threads)
