//! The text encoder's sizes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{Fields, LAYERS_MAX, WIDTH_MAX, config_from_json};
use crate::WeightsError;

/// The sizes of `UMT5EncoderModel`, under the keys of the transformers `config.json`. Keys of the
/// decoder, of training and of generation are not read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct TextConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of an embedding.
    pub d_model: usize,
    /// Width of one head; heads times this need not be `d_model`.
    pub d_kv: usize,
    /// Inner width of the feed-forward layers.
    pub d_ff: usize,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Buckets of the relative position bias.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions share the last bucket.
    pub relative_attention_max_distance: usize,
    /// Epsilon of the norms.
    pub layer_norm_epsilon: f64,
    /// `gated-gelu`, the only one there is.
    pub feed_forward_proj: String,
}

config_from_json!(TextConfig, "text encoder");

impl TextConfig {
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, WeightsError> {
        if fields.text("model_type")?.is_some_and(|name| name != "umt5") {
            let rule = "only umt5 is supported (t5 shares one position bias between its layers)";
            return Err(fields.refuse_key("model_type", rule));
        }
        if fields.has("quantization_config") {
            let rule = "quantised transformers folders are not read; use GGUF or fp8 files";
            return Err(fields.refuse_key("quantization_config", rule));
        }
        let config = Self {
            vocab_size: fields.count("vocab_size", 250_112, 1..=1 << 24)?,
            d_model: fields.count("d_model", 512, 1..=WIDTH_MAX)?,
            d_kv: fields.count("d_kv", 64, 1..=65_536)?,
            d_ff: fields.count("d_ff", 1024, 1..=WIDTH_MAX)?,
            num_layers: fields.count("num_layers", 8, 1..=LAYERS_MAX)?,
            num_heads: fields.count("num_heads", 6, 1..=1024)?,
            relative_attention_num_buckets: fields.count(
                "relative_attention_num_buckets",
                32,
                4..=65_536,
            )?,
            relative_attention_max_distance: fields.count(
                "relative_attention_max_distance",
                128,
                2..=1 << 20,
            )?,
            layer_norm_epsilon: fields.epsilon("layer_norm_epsilon", 1e-6)?,
            feed_forward_proj: fields.text("feed_forward_proj")?.unwrap_or("gated-gelu").to_owned(),
        };
        if config.feed_forward_proj != "gated-gelu" {
            return Err(fields.refuse_key("feed_forward_proj", "only gated-gelu is supported"));
        }
        if config.num_heads * config.d_kv > WIDTH_MAX {
            let rule = format!("times d_kv it must stay below {WIDTH_MAX}");
            return Err(fields.refuse_key("num_heads", rule));
        }
        // Half of the buckets are for each direction, and half of those for exact distances.
        let buckets = config.relative_attention_num_buckets;
        if !buckets.is_multiple_of(2) || config.relative_attention_max_distance <= buckets / 4 {
            let rule = "it must be even, and relative_attention_max_distance above a quarter of it";
            return Err(fields.refuse_key("relative_attention_num_buckets", rule));
        }
        Ok(config)
    }
}
