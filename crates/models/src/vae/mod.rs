//! The video autoencoder of Wan 2.1, decoder and encoder, as streams.
//!
//! Latents are `[T, z, h, w]`, one frame after the other, normalised as the transformer sees them;
//! pictures are `[F, H, W, 3]` in -1..=1. The first latent frame of a clip stands for one picture and
//! each later one for [`temporal_factor`](VaeDecoder::temporal_factor) pictures.
//!
//! A clip may be given in any number of calls. What the network remembers between them is an explicit
//! state, and cutting a clip differently changes no bit of the result.
//!
//! Reference: `AutoencoderKLWan` of diffusers, which feeds one latent frame at a time; here a call
//! takes as many as its memory budget allows, which is faster. Where not even one frame fits, the decoder works
//! in strips of rows, which changes no bit either.

mod decoder;
mod encoder;
mod layers;
mod network;
mod tiles;

use longreel_kernels::Device;
use longreel_weights::{TensorSource, VaeConfig};

use crate::ModelError;
use crate::error::config as bad_config;
pub use decoder::{VaeDecoder, VaeDecoderState};
pub use encoder::{VaeEncoder, VaeEncoderState};
pub use tiles::{VaeTile, VaeTiles};

const NETWORK: &str = "VAE";

/// Both halves of the autoencoder.
#[derive(Debug)]
pub struct Vae {
    /// Pictures to latents.
    pub encoder: VaeEncoder,
    /// Latents to pictures.
    pub decoder: VaeDecoder,
}

impl Vae {
    /// Builds both halves and checks every shape; no tensor may be missing or left over, and no value
    /// may be NaN or infinite: the first pictures are made when hours of denoising are done.
    pub fn load(config: &VaeConfig, source: TensorSource) -> Result<Self, ModelError> {
        let mut source = source.searched();
        let encoder = VaeEncoder::load(config, &mut source)?;
        let decoder = VaeDecoder::load(config, &mut source)?;
        source.finish()?;
        Ok(Self { encoder, decoder })
    }

    /// The same networks, run by `device`. Weights are brought there when they are first used.
    pub fn on(self, device: &Device) -> Self {
        Self { encoder: self.encoder.on(device), decoder: self.decoder.on(device) }
    }
}

/// What both halves read from the config, checked.
#[derive(Debug, Clone)]
struct Shape {
    /// Ratio of picture to latent height and width.
    spatial: usize,
    /// Ratio of picture to latent frames.
    temporal: usize,
    /// Levels but the last, each with a change of resolution; true where time changes too. In the
    /// encoder's order.
    time_levels: Vec<bool>,
    latent_channels: usize,
    mean: Vec<f32>,
    /// The reference divides by one over the deviation, in f32; kept so that no bit differs.
    inverse_std: Vec<f32>,
}

impl Shape {
    fn new(config: &VaeConfig) -> Result<Self, ModelError> {
        let levels = config.dim_mult.len();
        let time_levels = config.temperal_downsample.clone();
        if time_levels.len() + 1 != levels {
            // With a longer list the reference's encoder and decoder would differ in their factors.
            let rule = format!("for {levels} levels it must have {} entries", levels - 1);
            return Err(bad_config(NETWORK, "temperal_downsample", &time_levels, rule));
        }
        let halvings = time_levels.iter().filter(|&&time| time).count();
        if halvings > 2 {
            let rule = "at most two levels may halve time, for it is encoded by four pictures";
            return Err(bad_config(NETWORK, "temperal_downsample", &time_levels, rule));
        }
        Ok(Self {
            spatial: 1 << (levels - 1),
            temporal: 1 << halvings,
            time_levels,
            latent_channels: config.z_dim,
            mean: config.latents_mean.iter().map(|&v| v as f32).collect(),
            inverse_std: config.latents_std.iter().map(|&v| 1.0 / v as f32).collect(),
        })
    }
}
