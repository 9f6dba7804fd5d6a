//! The transformer's sizes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{Fields, LAYERS_MAX, WIDTH_MAX, config_from_json, small_count};
use crate::WeightsError;

/// The sizes of `SkyReelsV2Transformer3DModel` or `WanTransformer3DModel`, under the keys of the
/// Diffusers `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct TransformerConfig {
    /// `SkyReelsV2Transformer3DModel` or `WanTransformer3DModel`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Latent frames, rows and columns that make one token; `[1, 2, 2]`.
    pub patch_size: [usize; 3],
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width of one head; times the heads it is the width of a token.
    pub attention_head_dim: usize,
    /// Latent channels that go in: 16, or 36 with mask and image latents.
    pub in_channels: usize,
    /// Latent channels that come out: 16. A file may leave it out; it is then `in_channels`.
    pub out_channels: usize,
    /// Width of the text embeddings.
    pub text_dim: usize,
    /// Width of the sinusoidal timestep embedding, even.
    pub freq_dim: usize,
    /// Inner width of the feed-forward layers.
    pub ffn_dim: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Whether the norm before cross-attention has weights.
    pub cross_attn_norm: bool,
    /// `rms_norm_across_heads` in every published model, the only one there is.
    pub qk_norm: Option<String>,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Width of the image embeddings (CLIP's), for models that look at an image.
    pub image_dim: Option<usize>,
    /// Width of the extra keys and values for the image, equal to a token's.
    pub added_kv_proj_dim: Option<usize>,
    /// Most positions on one axis of the rotary table.
    pub rope_max_seq_len: usize,
    /// Image tokens of all images together when they have a learned position (514 in FLF2V).
    pub pos_embed_seq_len: Option<usize>,
    /// Whether there is an embedding of the frame rate.
    pub inject_sample_info: bool,
    /// Latent frames in one causal block; 1 means that all frames see each other.
    pub num_frame_per_block: usize,
}

/// Class name of the SkyReels-V2 transformer.
pub(crate) const SKYREELS: &str = "SkyReelsV2Transformer3DModel";
/// Class name of the Wan transformer.
pub(crate) const WAN: &str = "WanTransformer3DModel";

config_from_json!(TransformerConfig, "transformer");

impl TransformerConfig {
    /// True for SkyReels-V2's class, which takes a timestep for each latent frame and computes its
    /// sinusoid in f64; false for Wan's.
    pub fn is_skyreels(&self) -> bool {
        self.class_name == SKYREELS
    }

    /// Width of a token.
    pub fn dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Bytes of its blocks in bf16: eight square matrices of attention and two of the feed-forward network
    /// in each.
    pub fn bf16_bytes(&self) -> u64 {
        let dim = self.dim() as u64;
        let block = 8 * dim * dim + 2 * dim * self.ffn_dim as u64;
        2 * block * self.num_layers as u64
    }

    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, WeightsError> {
        let class_name = fields.text("_class_name")?.unwrap_or(SKYREELS);
        let wan = match class_name {
            SKYREELS => false,
            WAN => true,
            _ => {
                let rule = format!("only {SKYREELS} and {WAN} are supported");
                return Err(fields.refuse_key("_class_name", rule));
            }
        };
        // The two classes differ in their defaults, which a hand-written file may rely on.
        let (heads, ffn, layers) = if wan { (40, 13824, 40) } else { (16, 8192, 32) };
        let patch = fields.list("patch_size", 3, "whole numbers", small_count)?;
        let patch_size = match patch.as_deref() {
            None => [1, 2, 2],
            Some(&[1, h, w]) if (1..=16).contains(&h) && (1..=16).contains(&w) => [1, h, w],
            Some(_) => {
                let rule = "it must be [1, h, w] with h and w from 1 to 16";
                return Err(fields.refuse_key("patch_size", rule));
            }
        };
        let in_channels = fields.count("in_channels", 16, 1..=4096)?;
        let out_channels = match fields.maybe_count("out_channels", 0..=4096)? {
            // The reference reads 0 as absent, and its constructor's default is 16.
            None if !fields.has("in_channels") => 16,
            None | Some(0) => in_channels,
            Some(n) => n,
        };
        let config = Self {
            class_name: class_name.to_owned(),
            patch_size,
            num_attention_heads: fields.count("num_attention_heads", heads, 1..=1024)?,
            attention_head_dim: fields.count("attention_head_dim", 128, 2..=4096)?,
            in_channels,
            out_channels,
            text_dim: fields.count("text_dim", 4096, 1..=WIDTH_MAX)?,
            freq_dim: fields.count("freq_dim", 256, 2..=WIDTH_MAX)?,
            ffn_dim: fields.count("ffn_dim", ffn, 1..=WIDTH_MAX)?,
            num_layers: fields.count("num_layers", layers, 1..=LAYERS_MAX)?,
            cross_attn_norm: fields.flag("cross_attn_norm", true)?,
            qk_norm: fields.text("qk_norm")?.map(str::to_owned),
            eps: fields.epsilon("eps", 1e-6)?,
            image_dim: fields.maybe_count("image_dim", 1..=WIDTH_MAX)?,
            added_kv_proj_dim: fields.maybe_count("added_kv_proj_dim", 1..=WIDTH_MAX)?,
            rope_max_seq_len: fields.count("rope_max_seq_len", 1024, 1..=1 << 20)?,
            pos_embed_seq_len: fields.maybe_count("pos_embed_seq_len", 1..=1 << 16)?,
            inject_sample_info: fields.flag("inject_sample_info", false)?,
            num_frame_per_block: fields.count("num_frame_per_block", 1, 1..=4096)?,
        };
        fields.finish()?;
        config.check(fields)?;
        Ok(config)
    }

    /// Rules between keys.
    fn check(&self, fields: &Fields<'_>) -> Result<(), WeightsError> {
        if self.dim() > WIDTH_MAX {
            let rule = format!("times attention_head_dim it must stay below {WIDTH_MAX}");
            return Err(fields.refuse_key("num_attention_heads", rule));
        }
        if !self.attention_head_dim.is_multiple_of(2) {
            return Err(fields.refuse_key("attention_head_dim", "rotary positions need it even"));
        }
        if !self.freq_dim.is_multiple_of(2) {
            return Err(fields.refuse_key("freq_dim", "half of it are cosines, so it must be even"));
        }
        if let Some(norm) = &self.qk_norm
            && norm != "rms_norm_across_heads"
        {
            return Err(fields.refuse_key("qk_norm", "only rms_norm_across_heads is supported"));
        }
        if self.added_kv_proj_dim.is_some_and(|width| width != self.dim()) {
            let rule = format!("it must be the width of a token, {}", self.dim());
            return Err(fields.refuse_key("added_kv_proj_dim", rule));
        }
        if self.added_kv_proj_dim.is_some() && self.image_dim.is_none() {
            return Err(
                fields.refuse_key("added_kv_proj_dim", "there is no image_dim to go with it")
            );
        }
        if !self.is_skyreels() && self.inject_sample_info {
            return Err(fields.refuse_key("inject_sample_info", "Wan models have no such input"));
        }
        Ok(())
    }
}
