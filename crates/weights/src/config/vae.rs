//! The video autoencoder's sizes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{Fields, WIDTH_MAX, config_from_json, number, small_count};
use crate::WeightsError;

/// The sizes of `AutoencoderKLWan`, under the keys of the Diffusers `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct VaeConfig {
    /// Width of the first level of the encoder (96), and of the decoder unless it has its own.
    pub base_dim: usize,
    /// Width of the first level of the decoder.
    pub decoder_base_dim: Option<usize>,
    /// Latent channels (16).
    pub z_dim: usize,
    /// Width of each level as a multiple of the first.
    pub dim_mult: Vec<usize>,
    /// Residual blocks in each level.
    pub num_res_blocks: usize,
    /// Scales at which the encoder attends (none in the published models).
    pub attn_scales: Vec<f64>,
    /// For each change of level, in the encoder's order, whether time is halved too.
    pub temperal_downsample: Vec<bool>,
    /// Of training only.
    pub dropout: f64,
    /// Mean of each latent channel.
    pub latents_mean: Vec<f64>,
    /// Standard deviation of each latent channel.
    pub latents_std: Vec<f64>,
    /// Wan 2.2's residual levels; always false, true is refused.
    pub is_residual: bool,
    /// Picture channels in (3).
    pub in_channels: usize,
    /// Picture channels out (3).
    pub out_channels: usize,
    /// Wan 2.2's patches; always `None`, others are refused.
    pub patch_size: Option<usize>,
    /// Picture frames for each latent frame after the first.
    pub scale_factor_temporal: Option<usize>,
    /// Picture rows for each latent row.
    pub scale_factor_spatial: Option<usize>,
}

/// Mean of each latent channel of Wan 2.1 (`AutoencoderKLWan`, also `wan/modules/vae.py`).
const LATENTS_MEAN: [f64; 16] = [
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
    -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
];
/// Standard deviation of each latent channel of Wan 2.1.
const LATENTS_STD: [f64; 16] = [
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
    1.6382, 1.1253, 2.8251, 1.9160,
];

config_from_json!(VaeConfig, "VAE");

impl VaeConfig {
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Self, WeightsError> {
        if fields.text("_class_name")?.is_some_and(|name| name != "AutoencoderKLWan") {
            let rule = "only AutoencoderKLWan is supported";
            return Err(fields.refuse_key("_class_name", rule));
        }
        const WAN_22: &str = "only the autoencoder of Wan 2.1 and SkyReels-V2 is supported, not Wan \
                              2.2's; use the vae folder of the model's own release";
        if fields.flag("is_residual", false)? {
            return Err(fields.refuse_key("is_residual", WAN_22));
        }
        if fields.maybe_count("patch_size", 1..=64)?.is_some_and(|n| n != 1) {
            return Err(fields.refuse_key("patch_size", WAN_22));
        }
        let fractions = |value: &Value| number(value).filter(|v| *v > 0.0 && *v <= 1.0);
        let config = Self {
            base_dim: fields.count("base_dim", 96, 1..=8192)?,
            decoder_base_dim: fields.maybe_count("decoder_base_dim", 1..=8192)?,
            z_dim: fields.count("z_dim", 16, 1..=1024)?,
            dim_mult: fields
                .list("dim_mult", 8, "whole numbers from 1 to 64", |v| {
                    small_count(v).filter(|n| (1..=64).contains(n))
                })?
                .unwrap_or_else(|| vec![1, 2, 4, 4]),
            num_res_blocks: fields.count("num_res_blocks", 2, 1..=64)?,
            attn_scales: fields.list("attn_scales", 8, "fractions", fractions)?.unwrap_or_default(),
            temperal_downsample: fields
                .list("temperal_downsample", 8, "true or false", Value::as_bool)?
                .unwrap_or_else(|| vec![false, true, true]),
            dropout: fields.fraction("dropout", 0.0)?,
            latents_mean: fields
                .list("latents_mean", 1024, "numbers", number)?
                .unwrap_or_else(|| LATENTS_MEAN.to_vec()),
            latents_std: fields
                .list("latents_std", 1024, "numbers above 0", |v| number(v).filter(|v| *v > 0.0))?
                .unwrap_or_else(|| LATENTS_STD.to_vec()),
            is_residual: false,
            in_channels: fields.count("in_channels", 3, 1..=64)?,
            out_channels: fields.count("out_channels", 3, 1..=64)?,
            patch_size: None,
            scale_factor_temporal: fields.maybe_count("scale_factor_temporal", 1..=64)?.or(Some(4)),
            scale_factor_spatial: fields.maybe_count("scale_factor_spatial", 1..=256)?.or(Some(8)),
        };
        // Options of a running program that some versions of the reference write down.
        fields.ignore(&["clip_output"]);
        fields.finish()?;
        config.check(fields)?;
        Ok(config)
    }

    /// Rules between keys.
    fn check(&self, fields: &Fields<'_>) -> Result<(), WeightsError> {
        let levels = self.dim_mult.len();
        if levels == 0 {
            return Err(fields.refuse_key("dim_mult", "there must be at least one level"));
        }
        if self.temperal_downsample.len() + 1 < levels {
            let rule =
                format!("it must say for {} changes of level whether time is halved", levels - 1);
            return Err(fields.refuse_key("temperal_downsample", rule));
        }
        let base = self.base_dim.max(self.decoder_base_dim.unwrap_or(0));
        if base * self.dim_mult.iter().max().unwrap_or(&1) > WIDTH_MAX {
            return Err(fields.refuse_key("base_dim", "times dim_mult it is too wide"));
        }
        for (name, values) in
            [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)]
        {
            if values.len() != self.z_dim {
                let rule = format!(
                    "it has {} values and must have one for each of the {} latent channels (z_dim)",
                    values.len(),
                    self.z_dim
                );
                return Err(fields.refuse_key(name, rule));
            }
        }
        Ok(())
    }
}
