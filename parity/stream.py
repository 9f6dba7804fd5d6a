"""Records a film of a causal few-step model as the code of Self Forcing makes it: `fixtures/streams/`.

`pipeline/causal_inference.py` of Self Forcing in its own words, on the tiny Wan model of `fixtures/models/wan_t2v`: each
block of three latent frames alone through the network against a cache of keys and values, four times with x0
prediction and fresh noise, then once at timestep 0, which fills the cache. A later segment begins with the last block
of the one before, at timestep 0 and from position 0. The noise is that of `longreel` (Philox4x32-10 and Box-Muller,
crates/sampling/src/noise.rs), so a seed stands for it.

    python parity/stream.py
"""

import math
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import pipelines

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
PROMPT, SEED = "a red circle", 41
HEIGHT, WIDTH, BLOCK, BLOCKS, SEGMENTS = 4, 6, 3, 3, 2
STEPS, SHIFT = [1000, 750, 500, 250], 5.0
INITIAL, RENOISE = 1, 3


def philox(counter, key):
    counter, key = list(counter), list(key)
    for round in range(10):
        if round:
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(p1 >> 32) ^ counter[1] ^ key[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ counter[3] ^ key[1], p0 & 0xFFFFFFFF]
    return counter


def frame_noise(segment, frame, purpose, row):
    key = philox([purpose, 0, 0, 0], [SEED & 0xFFFFFFFF, SEED >> 32])[:2]
    values = []
    for block in range(16 * HEIGHT * WIDTH // 4):
        words = philox([block, frame, segment, row], key)
        for a, b in (words[:2], words[2:]):
            radius = math.sqrt(-2 * math.log((a + 1) / 2**32))
            values += [radius * math.cos(math.tau * b / 2**32), radius * math.sin(math.tau * b / 2**32)]
    return torch.tensor(values, dtype=torch.float64).float().view(16, HEIGHT, WIDTH)


def noise(segment, frames, purpose, row=0):
    """[1, 16, frames, h, w]"""
    return torch.stack([frame_noise(segment, frame, purpose, row) for frame in frames], 1)[None]


class CausalAttention:
    """`CausalWanSelfAttention` with its cache. Keys are kept as they are after the rotation."""

    def __init__(self):
        self.kept = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None, **_):
        heads = lambda x: x.unflatten(2, (attn.heads, -1))
        query = heads(attn.norm_q(attn.to_q(hidden_states)))
        key, value = heads(attn.norm_k(attn.to_k(hidden_states))), heads(attn.to_v(hidden_states))
        cos, sin = rotary_emb

        def rotate(x):
            even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
            c, s = cos[..., 0::2], sin[..., 1::2]
            return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(3)

        query, key = rotate(query), rotate(key)
        self.last = (key, value)
        if self.kept is not None:
            key, value = torch.cat([self.kept[0], key], 1), torch.cat([self.kept[1], value], 1)
        seen = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        return attn.to_out[0](seen.transpose(1, 2).flatten(2))

    def keep(self):
        self.kept = self.last if self.kept is None else tuple(torch.cat(pair, 1) for pair in zip(self.kept, self.last))


class Causal:
    """The network on one block behind those that it has kept."""

    def __init__(self, transformer, context):
        self.transformer, self.context = transformer, context
        self.attentions = [CausalAttention() for _ in transformer.blocks]
        for block, attention in zip(transformer.blocks, self.attentions):
            block.attn1.set_processor(attention)
        self.start, self.rope = 0, transformer.rope.forward
        transformer.rope.forward = self.rotations

    def rotations(self, hidden_states):
        batch, channels, frames, height, width = hidden_states.shape
        up_to = hidden_states.new_zeros(batch, channels, self.start + frames, height, width)
        tokens = frames * (HEIGHT // 2) * (WIDTH // 2)
        return tuple(table[:, -tokens:] for table in self.rope(up_to))

    def velocity(self, latents, timestep):
        timestep = torch.full((1,), timestep)
        return self.transformer(latents, timestep, self.context, return_dict=False)[0]

    def keep(self, latents):
        self.velocity(latents, 0.0)
        for attention in self.attentions:
            attention.keep()
        self.start += latents.shape[2]

    def forget(self):
        self.start = 0
        for attention in self.attentions:
            attention.kept = None


@torch.no_grad()
def main():
    pipeline = pipelines.load(os.path.join(FIXTURES, "models", "wan_t2v"), "wan_t2v")
    context, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=512)
    causal = Causal(pipeline.transformer, context)
    levels = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in (step / 1000 for step in STEPS)] + [0.0]
    film = None
    for segment in range(SEGMENTS):
        causal.forget()
        blocks, row = [], 0
        if film is not None:
            blocks.append(film[:, :, -BLOCK:])
            causal.keep(blocks[0])
        while len(blocks) < BLOCKS:
            frames = range(len(blocks) * BLOCK, (len(blocks) + 1) * BLOCK)
            x = noise(segment, frames, INITIAL)
            for sigma, following in zip(levels, levels[1:]):
                clean = x - sigma * causal.velocity(x, 1000 * sigma)
                x = (1 - following) * clean + following * noise(segment, frames, RENOISE, row)
                row += 1
            causal.keep(x)
            blocks.append(x)
        new = torch.cat(blocks[0 if film is None else 1 :], 2)
        film = new if film is None else torch.cat([film, new], 2)
    folder = os.path.join(FIXTURES, "streams")
    os.makedirs(folder, exist_ok=True)
    save_file({"final_latents": film.contiguous()}, os.path.join(folder, "expected.safetensors"))


if __name__ == "__main__":
    main()
