"""The demo's autoencoder: an `AutoencoderKLWan` of 8 base channels, its initialisation and a whole-clip forward.

The class in diffusers works on four frames at a time. `encode` and `decode` below run the same modules over a
whole clip at once, with the first frame kept apart in the temporal resamplers, which gives the same numbers
(`check_whole_clip`) and is several times faster to train.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, WanResidualBlock

LATENT_CHANNELS = 16


def build(base_dim=8, dim_mult=(1, 2, 4, 8), num_res_blocks=1) -> AutoencoderKLWan:
    vae = AutoencoderKLWan(
        base_dim=base_dim,
        dim_mult=list(dim_mult),
        num_res_blocks=num_res_blocks,
        z_dim=LATENT_CHANNELS,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    initialise(vae)
    return vae


@torch.no_grad()
def initialise(vae):
    """Variance-keeping convolutions that look mostly at the current frame, and quiet residual branches."""
    for module in vae.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            weight = module.weight
            fan_in = weight[0].numel()
            if weight.dim() == 5 and weight.shape[2] == 3:
                # The past counts a third of the present at the start.
                taps = torch.tensor([0.2, 0.2, 1.0]).view(1, 1, 3, 1, 1)
                fan_in = weight[0, :, 0].numel() * float((taps**2).sum())
                weight.copy_(torch.randn_like(weight) * taps / fan_in**0.5)
            else:
                weight.normal_(0, fan_in**-0.5)
            module.bias.zero_()
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight.mul_(0.2)
        if isinstance(module, WanResample) and hasattr(module, "time_conv"):
            weight = module.time_conv.weight
            weight.mul_(0.3)
            if "upsample" in module.mode:
                for half in range(2):
                    weight[half * module.dim : (half + 1) * module.dim, :, 2, 0, 0] += torch.eye(module.dim)
            else:
                weight[:, :, 1:, 0, 0] += 0.5 * torch.eye(module.dim)[:, :, None]
    for block in (vae.encoder.mid_block, vae.decoder.mid_block):
        block.attentions[0].proj.weight.mul_(0.2)
    vae.quant_conv.bias[LATENT_CHANNELS:] = -6.0
    vae.quant_conv.weight[LATENT_CHANNELS:] = 0.0


def _resample_space(module, x):
    b, c, t, h, w = x.shape
    x = module.resample(x.transpose(1, 2).reshape(b * t, c, h, w))
    return x.view(b, t, *x.shape[1:]).transpose(1, 2)


def _resample(module, x):
    if module.mode == "upsample3d" and x.shape[2] > 1:
        first, rest = x[:, :, :1], x[:, :, 1:]
        b, c, t, h, w = rest.shape
        rest = module.time_conv(rest).view(b, 2, c, t, h, w).transpose(1, 2).transpose(2, 3)
        x = torch.cat([first, rest.reshape(b, c, 2 * t, h, w)], 2)
    x = _resample_space(module, x)
    if module.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], module.time_conv(x)], 2)
    return x


def encode(vae, frames: torch.Tensor) -> torch.Tensor:
    """Latent means [B, 16, T, H/8, W/8] of whole clips [B, 3, 4T-3, H, W]."""
    encoder = vae.encoder
    x = encoder.conv_in(frames)
    for layer in encoder.down_blocks:
        x = _resample(layer, x) if isinstance(layer, WanResample) else layer(x)
    x = encoder.mid_block(x)
    x = encoder.conv_out(F.silu(encoder.norm_out(x)))
    return vae.quant_conv(x)[:, :LATENT_CHANNELS]


def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """Frames [B, 3, 4T-3, 8h, 8w], not clamped, of latents [B, 16, T, h, w]."""
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = resnet(x)
        if block.upsamplers is not None:
            x = _resample(block.upsamplers[0], x)
    return decoder.conv_out(F.silu(decoder.norm_out(x)))


@torch.no_grad()
def check_whole_clip(vae, frames: torch.Tensor) -> tuple:
    """Largest differences of (latents, frames) from the class's own streaming encode and decode."""
    ours, theirs = encode(vae, frames), vae.encode(frames).latent_dist.mode()
    back, back_theirs = decode(vae, theirs).clamp(-1, 1), vae.decode(theirs).sample
    return (ours - theirs).abs().max().item(), (back - back_theirs).abs().max().item()


__all__ = ["build", "encode", "decode", "check_whole_clip", "WanCausalConv3d"]
