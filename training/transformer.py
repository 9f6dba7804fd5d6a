"""The demo's diffusion transformer: the class from diffusers, its initialisation and a lean forward for training.

`forward` gives the numbers of `SkyReelsV2Transformer3DModel.forward` with text padded to 512 (checked by
`check_forward`) for a fraction of the time: modulation is applied by latent frame instead of by token, and
the zero vectors that pad a text, being all alike, are one key whose score is raised by the logarithm of
their number.
"""

import torch
import torch.nn.functional as F
from diffusers import SkyReelsV2Transformer3DModel

import vae as autoencoder

TEXT_LENGTH = 512


def build(text_dim: int, heads=6, head_dim=32, layers=6, ffn_dim=512) -> SkyReelsV2Transformer3DModel:
    model = SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=head_dim,
        in_channels=autoencoder.LATENT_CHANNELS, out_channels=autoencoder.LATENT_CHANNELS, text_dim=text_dim,
        freq_dim=128, ffn_dim=ffn_dim, num_layers=layers, cross_attn_norm=True, rope_max_seq_len=1024,
        inject_sample_info=False,
    )
    initialise(model)
    return model


@torch.no_grad()
def initialise(model):
    """Quiet branches, open gates, and cross-attention that looks at the words rather than at the padding.

    500 padding vectors against a dozen words would drown the text. A padding vector's key is the key's bias
    alone, so query and key biases of opposite sign make it score low from the start.
    """
    dim = model.config.num_attention_heads * model.config.attention_head_dim
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5)
            module.bias.zero_()
    embedder = model.condition_embedder
    embedder.time_proj.weight.zero_()
    model.scale_shift_table.zero_()
    model.proj_out.weight.zero_()
    for block in model.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, 2] = 1.0
        block.scale_shift_table[:, 5] = 1.0
        for out in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
            out.weight.mul_(0.3)
        sign = torch.randn(dim).sign()
        block.attn2.to_k.bias.copy_(0.1 * sign)
        block.attn2.to_q.bias.copy_(-1.5 * sign)
        block.attn2.norm_k.weight.fill_(1.7)


def padding_bias(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """Score biases [B, 1, 1, longest + 1] for texts of the given lengths followed by one zero vector."""
    position = torch.arange(longest)
    bias = torch.zeros(len(lengths), longest + 1)
    bias[:, :longest] = torch.where(position < lengths[:, None], 0.0, -torch.inf)
    bias[:, longest] = (TEXT_LENGTH - lengths).float().log()
    return bias[:, None, None]


def _rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rope).flatten(-2)


def _rope(model, frames, height, width) -> torch.Tensor:
    """Complex rotations [1, tokens, 1, head_dim / 2]."""
    like = torch.empty(1, 1, frames, 2 * height, 2 * width)
    cos, sin = model.rope(like)
    return torch.complex(cos[..., 0::2].float(), sin[..., 0::2].float())


def forward(model, latents, timesteps, text, bias) -> torch.Tensor:
    """Velocity [B, 16, T, h, w] from latents [B, 16, T, h, w], timesteps [B, T] in 0..1000, text
    [B, longest + 1, text_dim] whose last vector is zero, and `padding_bias`."""
    b, channels, t, h, w = latents.shape
    heads, embedder = model.config.num_attention_heads, model.condition_embedder
    x = latents.view(b, channels, t, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 4 * channels)
    x = F.linear(x, model.patch_embedding.weight.flatten(1), model.patch_embedding.bias)
    dim = x.shape[-1]
    rope = _rope(model, t, h // 2, w // 2)
    temb = embedder.time_embedder(embedder.timesteps_proj(timesteps.flatten()).float()).view(b, t, 1, dim)
    modulation = embedder.time_proj(F.silu(temb)).view(b, t, 1, 6, dim)
    text = embedder.text_embedder(text)

    def modulate(x, scale, shift):
        x = F.layer_norm(x, (dim,), eps=model.config.eps).view(b, t, -1, dim)
        return torch.addcmul(shift, x, 1 + scale).view(b, -1, dim)

    def gated(x, branch, gate):
        return torch.addcmul(x.view(b, t, -1, dim), branch.view(b, t, -1, dim), gate).view(b, -1, dim)

    for block in model.blocks:
        parts = (block.scale_shift_table + modulation).unbind(3)
        attn = block.attn1
        y = modulate(x, parts[1], parts[0])
        q = _rotate(attn.norm_q(attn.to_q(y)).unflatten(2, (heads, -1)), rope).transpose(1, 2)
        k = _rotate(attn.norm_k(attn.to_k(y)).unflatten(2, (heads, -1)), rope).transpose(1, 2)
        v = attn.to_v(y).unflatten(2, (heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = gated(x, attn.to_out[0](y), parts[2])
        attn = block.attn2
        q = attn.norm_q(attn.to_q(block.norm2(x))).unflatten(2, (heads, -1)).transpose(1, 2)
        k = attn.norm_k(attn.to_k(text)).unflatten(2, (heads, -1)).transpose(1, 2)
        v = attn.to_v(text).unflatten(2, (heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        x = x + attn.to_out[0](y)
        x = gated(x, block.ffn(modulate(x, parts[4], parts[3])), parts[5])
    table = model.scale_shift_table.unsqueeze(1) + temb
    x = model.proj_out(modulate(x, table[:, :, 1:2], table[:, :, 0:1]))
    x = x.view(b, t, h // 2, w // 2, 2, 2, channels).permute(0, 6, 1, 2, 4, 3, 5)
    return x.reshape(b, channels, t, h, w)


@torch.no_grad()
def check_forward(model, text_dim) -> float:
    """Largest difference from the class's own forward on random input (weights shaken first, as some are zero)."""
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    latents, lengths = torch.randn(2, 16, 3, 8, 8), torch.tensor([5, 9])
    timesteps = torch.tensor([[0.0, 500, 999], [20, 300, 301]])
    text = torch.randn(2, TEXT_LENGTH, text_dim) * (torch.arange(TEXT_LENGTH) < lengths[:, None])[..., None]
    theirs = model(latents, timesteps, text, enable_diffusion_forcing=True, return_dict=False)[0]
    short = torch.cat([text[:, :9], torch.zeros(2, 1, text_dim)], 1)
    ours = forward(model, latents, timesteps, short, padding_bias(lengths, 9))
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


__all__ = ["build", "forward", "padding_bias", "check_forward"]
