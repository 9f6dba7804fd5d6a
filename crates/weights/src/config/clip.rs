//! The image encoder's sizes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{Fields, LAYERS_MAX, WIDTH_MAX, config_from_json};
use crate::WeightsError;

/// The sizes of `CLIPVisionModel` or `CLIPVisionModelWithProjection`, under the keys of the
/// transformers `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct ClipVisionConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Width of the projection, which video models do not use.
    pub projection_dim: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Picture channels (3).
    pub num_channels: usize,
    /// Height and width of the picture.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// `gelu` or `quick_gelu`.
    pub hidden_act: String,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
}

config_from_json!(ClipVisionConfig, "image encoder");

impl ClipVisionConfig {
    /// Tokens for one picture: its patches and one for the class.
    pub fn tokens(&self) -> usize {
        let side = self.image_size / self.patch_size;
        side * side + 1
    }

    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, WeightsError> {
        if fields.text("model_type")?.is_some_and(|name| name != "clip_vision_model") {
            return Err(fields.refuse_key("model_type", "only clip_vision_model is supported"));
        }
        if fields.has("quantization_config") {
            let rule = "quantised transformers folders are not read; use the original weights";
            return Err(fields.refuse_key("quantization_config", rule));
        }
        let config = Self {
            hidden_size: fields.count("hidden_size", 768, 1..=WIDTH_MAX)?,
            intermediate_size: fields.count("intermediate_size", 3072, 1..=WIDTH_MAX)?,
            projection_dim: fields.count("projection_dim", 512, 1..=WIDTH_MAX)?,
            num_hidden_layers: fields.count("num_hidden_layers", 12, 1..=LAYERS_MAX)?,
            num_attention_heads: fields.count("num_attention_heads", 12, 1..=1024)?,
            num_channels: fields.count("num_channels", 3, 1..=64)?,
            image_size: fields.count("image_size", 224, 1..=4096)?,
            patch_size: fields.count("patch_size", 32, 1..=4096)?,
            hidden_act: fields.text("hidden_act")?.unwrap_or("quick_gelu").to_owned(),
            layer_norm_eps: fields.epsilon("layer_norm_eps", 1e-5)?,
        };
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let rule = format!("it must be a multiple of the {} heads", config.num_attention_heads);
            return Err(fields.refuse_key("hidden_size", rule));
        }
        if config.patch_size > config.image_size {
            let rule = format!("it must not be above image_size, {}", config.image_size);
            return Err(fields.refuse_key("patch_size", rule));
        }
        if !matches!(config.hidden_act.as_str(), "gelu" | "quick_gelu") {
            return Err(fields.refuse_key("hidden_act", "only gelu and quick_gelu are supported"));
        }
        Ok(config)
    }
}
