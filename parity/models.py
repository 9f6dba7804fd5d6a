"""Tiny, seeded, deliberately awkward models built with the reference's own classes.

Nothing here is trained.  The weights are drawn so that no part of a network is idle: norm scales differ
from one, biases and modulation tables differ from zero, and every layer keeps the size of its signal, so
that a slip in any one operation shows in the output.

Reference: diffusers 0.42.1, transformers 5.24.0, tokenizers 0.23.3 (requirements.txt).
"""

import math

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    UMT5Config,
    UMT5EncoderModel,
)

torch.set_num_threads(1)

# Means and deviations of the 16 latent channels, unlike the published ones and unlike each other.
LATENTS_MEAN = [round(0.45 * math.sin(1.7 * i + 0.3), 4) for i in range(16)]
LATENTS_STD = [round(0.9 + 0.55 * math.cos(0.9 * i), 4) for i in range(16)]


@torch.no_grad()
def draw_weights(model, seed):
    """Fills every parameter of `model` from `seed`, in the order of the parameters' names.

    The last part of a name and the shape tell what a parameter is: tables and biases get small non-zero
    values, norm scales lie around one, and matrices and kernels keep the variance of what goes through them.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape):
        return torch.randn(shape, generator=generator)

    for name, parameter in sorted(model.named_parameters()):
        shape = tuple(parameter.shape)
        leaf = name.rsplit(".", 1)[-1]
        if "scale_shift_table" in name:
            value = 0.3 * normal(shape)
        elif "relative_attention_bias" in name:
            value = 0.7 * normal(shape)
        elif leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
            value = 1.0 + 0.2 * normal(shape)
        elif leaf == "bias":
            value = 0.15 * normal(shape)
        elif "pos_embed" in name or "class_embedding" in name or "position_embedding" in name:
            value = 0.4 * normal(shape)
        elif name.startswith("shared.") or "embed_tokens" in name or "fps_embedding" in name:
            value = normal(shape)
        else:
            fan_in = math.prod(shape[1:])
            # The time projection drives shifts, scales and gates, and gates are products: keep them modest.
            gain = 0.5 if ("time_proj" in name or "fps_projection.net.2" in name) else 1.0
            value = gain * normal(shape) / math.sqrt(fan_in)
        parameter.copy_(value)
    return model.eval()


def transformer(seed, kind="skyreels", **changes):
    """A transformer of 3 heads x 22 (rope splits 22 into 10 + 6 + 6) with 2 layers unless told otherwise."""
    config = dict(
        patch_size=(1, 2, 2),
        num_attention_heads=3,
        attention_head_dim=22,
        in_channels=16,
        out_channels=16,
        text_dim=40,
        freq_dim=36,
        ffn_dim=109,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=1e-6,
        rope_max_seq_len=64,
    )
    config.update(changes)
    cls = {"skyreels": SkyReelsV2Transformer3DModel, "wan": WanTransformer3DModel}[kind]
    torch.manual_seed(seed)
    return draw_weights(cls(**config), seed)


def vae(seed, **changes):
    """A VAE of base width 6 with levels 6, 12, 12, 18: the multipliers are not the published ones."""
    config = dict(
        base_dim=6,
        z_dim=16,
        dim_mult=[1, 2, 2, 3],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        dropout=0.0,
        latents_mean=LATENTS_MEAN,
        latents_std=LATENTS_STD,
    )
    config.update(changes)
    torch.manual_seed(seed)
    return draw_weights(AutoencoderKLWan(**config), seed)


def text_encoder(seed, vocab_size, **changes):
    """UMT5 with 3 heads x 10 on a model width of 40, so that heads x d_kv is not the model width."""
    config = dict(
        vocab_size=vocab_size,
        d_model=40,
        d_kv=10,
        d_ff=53,
        num_layers=3,
        num_decoder_layers=1,
        num_heads=3,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=50,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    config.update(changes)
    torch.manual_seed(seed)
    return draw_weights(UMT5EncoderModel(UMT5Config(**config)), seed)


def image_encoder(seed, projection=True, **changes):
    """A CLIP vision tower of 3 heads x 12 with 21 x 21 pixels in patches of 7 (9 patches and the class).

    SkyReels-V2 folders hold the class with a projection (unused), Wan folders the one without.
    """
    config = dict(
        hidden_size=36,
        intermediate_size=59,
        projection_dim=20,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_channels=3,
        image_size=21,
        patch_size=7,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        attention_dropout=0.0,
    )
    config.update(changes)
    torch.manual_seed(seed)
    cls = CLIPVisionModelWithProjection if projection else CLIPVisionModel
    return draw_weights(cls(CLIPVisionConfig(**config)), seed)


def scheduler(flow_shift=8.0, **changes):
    """UniPC as the published SkyReels-V2 folders configure it."""
    config = dict(
        num_train_timesteps=1000,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=flow_shift,
        solver_order=2,
        solver_type="bh2",
        thresholding=False,
        predict_x0=True,
        lower_order_final=True,
    )
    config.update(changes)
    return UniPCMultistepScheduler(**config)


def euler(flow_shift=8.0):
    """Euler, as some repackaged checkpoints name it."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=flow_shift)
