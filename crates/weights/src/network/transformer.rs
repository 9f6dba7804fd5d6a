//! The transformer's tensors. Reference: `SkyReelsV2Transformer3DModel` and `WanTransformer3DModel` of
//! Diffusers.

use super::{ExpectedTensor, List, Shapes};
use crate::WeightsError;
use crate::config::TransformerConfig;

pub(super) fn expected(config: &TransformerConfig) -> Vec<ExpectedTensor> {
    let dim = config.dim();
    let [pt, ph, pw] = config.patch_size;
    let mut list = List::default();
    list.layer("patch_embedding", &[dim, config.in_channels, pt, ph, pw]);
    let condition = |name: &str| format!("condition_embedder.{name}");
    list.layer(&condition("time_embedder.linear_1"), &[dim, config.freq_dim]);
    list.layer(&condition("time_embedder.linear_2"), &[dim, dim]);
    list.layer(&condition("time_proj"), &[6 * dim, dim]);
    list.layer(&condition("text_embedder.linear_1"), &[dim, config.text_dim]);
    list.layer(&condition("text_embedder.linear_2"), &[dim, dim]);
    if let Some(image) = config.image_dim {
        list.layer(&condition("image_embedder.norm1"), &[image]);
        list.layer(&condition("image_embedder.ff.net.0.proj"), &[image, image]);
        list.layer(&condition("image_embedder.ff.net.2"), &[dim, image]);
        list.layer(&condition("image_embedder.norm2"), &[dim]);
        if let Some(tokens) = config.pos_embed_seq_len {
            list.tensor(condition("image_embedder.pos_embed"), &[1, tokens, image]);
        }
    }
    if config.inject_sample_info {
        list.tensor("fps_embedding.weight".into(), &[2, dim]);
        list.layer("fps_projection.net.0.proj", &[dim, dim]);
        list.layer("fps_projection.net.2", &[6 * dim, dim]);
    }
    for block in 0..config.num_layers {
        let part = |name: &str| format!("blocks.{block}.{name}");
        for attention in ["attn1", "attn2"] {
            for layer in ["to_q", "to_k", "to_v", "to_out.0"] {
                list.layer(&part(&format!("{attention}.{layer}")), &[dim, dim]);
            }
            list.tensor(part(&format!("{attention}.norm_q.weight")), &[dim]);
            list.tensor(part(&format!("{attention}.norm_k.weight")), &[dim]);
        }
        if let Some(width) = config.added_kv_proj_dim {
            list.layer(&part("attn2.add_k_proj"), &[dim, width]);
            list.layer(&part("attn2.add_v_proj"), &[dim, width]);
            list.tensor(part("attn2.norm_added_k.weight"), &[dim]);
        }
        if config.cross_attn_norm {
            list.layer(&part("norm2"), &[dim]);
        }
        list.layer(&part("ffn.net.0.proj"), &[config.ffn_dim, dim]);
        list.layer(&part("ffn.net.2"), &[dim, config.ffn_dim]);
        list.tensor(part("scale_shift_table"), &[1, 6, dim]);
    }
    list.layer("proj_out", &[config.out_channels * pt * ph * pw, dim]);
    list.tensor("scale_shift_table".into(), &[1, 2, dim]);
    list.0
}

/// Width of a head in every published model; tensors do not tell it.
const HEAD_DIM: usize = 128;

pub(super) fn infer(shapes: &Shapes<'_>) -> Result<TransformerConfig, WeightsError> {
    // Other members of the wider family share most names, so they are told apart before sizes are.
    const OTHERS: [(&str, &str); 5] = [
        ("vace_blocks.0.after_proj.weight", "VACE"),
        ("motion_encoder.enc.fc.0.weight", "Wan-Animate"),
        ("control_adapter.conv.weight", "a camera-control model"),
        ("ref_conv.weight", "a Fun-Control model"),
        ("audio_proj.proj1.weight", "an audio-driven model"),
    ];
    for (name, what) in OTHERS {
        if shapes.has(name) {
            return Err(WeightsError::Config {
                component: "transformer",
                field: format!("the tensor {name}"),
                value: what.into(),
                rule: "only SkyReels-V2 and Wan 2.1 T2V, I2V, FLF2V and DF models are supported"
                    .into(),
            });
        }
    }
    let patch = shapes.get("patch_embedding.weight").unwrap_or_default();
    let &[dim, in_channels, pt, ph, pw] = patch else {
        return Err(shapes.ask("patch_embedding.weight", format!("a tensor of shape {patch:?}")));
    };
    if dim == 0 || !dim.is_multiple_of(HEAD_DIM) {
        return Err(shapes.ask("the width of a token", dim));
    }
    let patch_values = pt.saturating_mul(ph).saturating_mul(pw);
    let outputs = shapes.axis("proj_out.weight", 0)?;
    if patch_values == 0 || !outputs.is_multiple_of(patch_values) {
        return Err(shapes.ask("proj_out.weight", format!("{outputs} outputs")));
    }
    let added = shapes.axis("blocks.0.attn2.add_k_proj.weight", 1).ok();
    let json = serde_json::json!({
        "_class_name": if shapes.has("fps_embedding.weight") {
            crate::config::SKYREELS
        } else {
            crate::config::WAN
        },
        "patch_size": [pt, ph, pw],
        "num_attention_heads": dim / HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "in_channels": in_channels,
        "out_channels": outputs / patch_values,
        "text_dim": shapes.axis("condition_embedder.text_embedder.linear_1.weight", 1)?,
        "freq_dim": shapes.axis("condition_embedder.time_embedder.linear_1.weight", 1)?,
        "ffn_dim": shapes.axis("blocks.0.ffn.net.0.proj.weight", 0)?,
        "num_layers": shapes.count("blocks."),
        "cross_attn_norm": shapes.has("blocks.0.norm2.weight"),
        "qk_norm": "rms_norm_across_heads",
        "image_dim": shapes.image_dim(),
        "added_kv_proj_dim": added,
        "pos_embed_seq_len": shapes.image_positions(),
        "inject_sample_info": shapes.has("fps_embedding.weight"),
    });
    // Through the same door as a file's configuration, so that the same bounds hold.
    TransformerConfig::from_json(&json.to_string())
}
