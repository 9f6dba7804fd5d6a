//! The image encoder's tensors. Reference: `CLIPVisionModel` of transformers. The projection behind it is
//! not among them: video models use the hidden states.

use super::{ExpectedTensor, List, Shapes};
use crate::WeightsError;
use crate::config::ClipVisionConfig;

pub(super) fn expected(config: &ClipVisionConfig) -> Vec<ExpectedTensor> {
    let dim = config.hidden_size;
    let patch = config.patch_size;
    let mut list = List::default();
    let embeddings = |name: &str| format!("vision_model.embeddings.{name}");
    list.tensor(embeddings("class_embedding"), &[dim]);
    list.tensor(embeddings("patch_embedding.weight"), &[dim, config.num_channels, patch, patch]);
    list.tensor(embeddings("position_embedding.weight"), &[config.tokens(), dim]);
    list.layer("vision_model.pre_layrnorm", &[dim]);
    for index in 0..config.num_hidden_layers {
        let layer = |name: &str| format!("vision_model.encoder.layers.{index}.{name}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.layer(&layer(&format!("self_attn.{projection}")), &[dim, dim]);
        }
        list.layer(&layer("layer_norm1"), &[dim]);
        list.layer(&layer("layer_norm2"), &[dim]);
        list.layer(&layer("mlp.fc1"), &[config.intermediate_size, dim]);
        list.layer(&layer("mlp.fc2"), &[dim, config.intermediate_size]);
    }
    list.layer("vision_model.post_layernorm", &[dim]);
    list.0
}

/// Width of a head of CLIP ViT-H/14, the image encoder of the whole family.
const HEAD_DIM: usize = 80;

pub(super) fn infer(shapes: &Shapes<'_>) -> Result<ClipVisionConfig, WeightsError> {
    let patches = shapes.get("vision_model.embeddings.patch_embedding.weight").unwrap_or_default();
    let &[dim, channels, patch, _] = patches else {
        return Err(shapes.ask("patch_embedding", format!("a tensor of shape {patches:?}")));
    };
    if !dim.is_multiple_of(HEAD_DIM) {
        return Err(shapes.ask("num_attention_heads", format!("unknown for a width of {dim}")));
    }
    let positions = shapes.get("vision_model.embeddings.position_embedding.weight");
    let tokens = positions.and_then(|s| s.get(s.len().checked_sub(2)?).copied()).unwrap_or(0);
    let side = tokens.saturating_sub(1).isqrt();
    let json = serde_json::json!({
        "hidden_size": dim,
        "intermediate_size": shapes.axis("vision_model.encoder.layers.0.mlp.fc1.weight", 0)?,
        "num_hidden_layers": shapes.count("vision_model.encoder.layers."),
        "num_attention_heads": dim / HEAD_DIM,
        "num_channels": channels,
        "image_size": side.saturating_mul(patch),
        "patch_size": patch,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    });
    ClipVisionConfig::from_json(&json.to_string())
}
