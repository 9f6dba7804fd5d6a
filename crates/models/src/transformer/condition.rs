//! What the transformer is told besides the latents: the time, the text, the image, the frame rate.
//!
//! Reference: `SkyReelsV2TimeTextImageEmbedding` and `WanTimeTextImageEmbedding` of diffusers.

use longreel_kernels::{Activation, Device, GpuError, Linear, Tensor, Weight, ops};
use longreel_weights::TensorSource;

use crate::ModelError;
use crate::error::input;
use crate::layers::{Affine, linear, prompt_linear};

/// The image embedding's norms have PyTorch's default epsilon, whatever the config says.
const IMAGE_NORM_EPS: f32 = 1e-5;

/// The two ways in which the reference computes the sinusoids of a timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sinusoid {
    /// SkyReels-V2: frequencies and angles in f64 (`get_1d_sincos_pos_embed_from_grid`).
    Double,
    /// Wan: in f32 (`get_timestep_embedding`). At timestep 999 the angles differ by up to 3e-5.
    Single,
}

impl Sinusoid {
    /// `[cos(t w_0), …, sin(t w_0), …]` with `w_i = 10000^(-i / half)`.
    fn embed(self, timestep: f32, dim: usize) -> Vec<f32> {
        let half = dim / 2;
        let angle = |i: usize| match self {
            Self::Double => {
                let omega = 1.0 / 10_000f64.powf(i as f64 / half as f64);
                f64::from(timestep) * omega
            }
            Self::Single => {
                let exponent = (-(10_000f64.ln()) as f32 * i as f32) / half as f32;
                f64::from(timestep * exponent.exp())
            }
        };
        let cos = (0..half).map(|i| angle(i).cos() as f32);
        cos.chain((0..half).map(|i| angle(i).sin() as f32)).collect()
    }
}

/// Timesteps to `temb` and the modulation signal.
#[derive(Debug, Clone)]
pub(super) struct TimeEmbedding {
    sinusoid: Sinusoid,
    freq_dim: usize,
    linear_1: Linear,
    linear_2: Linear,
    projection: Linear,
}

impl TimeEmbedding {
    pub fn load(
        source: &mut TensorSource,
        sinusoid: Sinusoid,
        freq_dim: usize,
        dim: usize,
    ) -> Result<Self, ModelError> {
        let name = "condition_embedder.time_embedder";
        Ok(Self {
            sinusoid,
            freq_dim,
            linear_1: linear(source, &format!("{name}.linear_1"), freq_dim, dim)?,
            linear_2: linear(source, &format!("{name}.linear_2"), dim, dim)?,
            projection: linear(source, "condition_embedder.time_proj", dim, 6 * dim)?,
        })
    }

    /// `(temb [rows, dim], time_proj [rows, 6 * dim])` on a device, one row for each timestep.
    pub fn forward(
        &self,
        timesteps: &[f32],
        device: &Device,
    ) -> Result<(Tensor, Tensor), GpuError> {
        let rows = timesteps.iter().flat_map(|&t| self.sinusoid.embed(t, self.freq_dim)).collect();
        let sinusoids = Tensor::from_vec(&[timesteps.len(), self.freq_dim], rows);
        let sinusoids = sinusoids.on(device)?;
        let hidden = ops::linear(&sinusoids, &self.linear_1, Activation::Silu);
        let temb = ops::linear(&hidden, &self.linear_2, Activation::None);
        let mut active = temb.clone();
        ops::activate_inplace(&mut active, Activation::Silu);
        let projection = ops::linear(&active, &self.projection, Activation::None);
        Ok((temb, projection))
    }
}

/// Text embeddings to the transformer's width.
#[derive(Debug, Clone)]
pub(super) struct TextProjection {
    linear_1: Linear,
    linear_2: Linear,
}

impl TextProjection {
    pub fn load(source: &mut TensorSource, text: usize, dim: usize) -> Result<Self, ModelError> {
        let name = "condition_embedder.text_embedder";
        Ok(Self {
            linear_1: prompt_linear(source, &format!("{name}.linear_1"), text, dim)?,
            linear_2: prompt_linear(source, &format!("{name}.linear_2"), dim, dim)?,
        })
    }

    /// `[tokens, text_dim]` to `[tokens, dim]`.
    pub fn forward(&self, text: &Tensor) -> Tensor {
        let hidden = ops::linear(text, &self.linear_1, Activation::GeluTanh);
        ops::linear(&hidden, &self.linear_2, Activation::None)
    }

    pub fn text_dim(&self) -> usize {
        self.linear_1.inputs()
    }
}

/// CLIP's hidden states to the transformer's width.
#[derive(Debug, Clone)]
pub(super) struct ImageProjection {
    /// `[tokens, image_dim]`, in first-and-last-frame models, where both images' tokens are joined.
    positions: Option<Tensor>,
    norm_in: Affine,
    up: Linear,
    down: Linear,
    norm_out: Affine,
}

impl ImageProjection {
    pub fn load(
        source: &mut TensorSource,
        image: usize,
        dim: usize,
        positions: Option<usize>,
    ) -> Result<Self, ModelError> {
        let name = "condition_embedder.image_embedder";
        let positions = positions
            .map(|tokens| {
                let values = source.take_f32(&format!("{name}.pos_embed"), &[1, tokens, image])?;
                Ok::<_, ModelError>(Tensor::from_vec(&[tokens, image], values))
            })
            .transpose()?;
        Ok(Self {
            positions,
            norm_in: Affine::load(source, &format!("{name}.norm1"), image)?,
            up: prompt_linear(source, &format!("{name}.ff.net.0.proj"), image, image)?,
            down: prompt_linear(source, &format!("{name}.ff.net.2"), image, dim)?,
            norm_out: Affine::load(source, &format!("{name}.norm2"), dim)?,
        })
    }

    /// `[tokens, image_dim]` to `[tokens, dim]` on a device.
    pub fn forward(&self, image: &Tensor, device: &Device) -> Result<Tensor, ModelError> {
        let width = self.up.inputs();
        if image.shape().len() != 2 || image.dim(1) != width || image.dim(0) == 0 {
            return Err(input(
                "the shape of the image embedding",
                image.shape(),
                format!("this model takes [tokens, {width}]: use the image encoder it came with"),
            ));
        }
        let mut hidden = image.clone();
        if let Some(positions) = &self.positions {
            if image.dim(0) != positions.dim(0) {
                return Err(input(
                    "the number of image tokens",
                    image.dim(0),
                    format!(
                        "this model takes {}: those of the first and of the last image, joined",
                        positions.dim(0)
                    ),
                ));
            }
            ops::gate_residual(&mut hidden, positions, None);
        }
        let hidden = hidden.on(device)?;
        let hidden = ops::layer_norm(&hidden, self.norm_in.parts(), IMAGE_NORM_EPS, None);
        let hidden = ops::linear(&hidden, &self.up, Activation::Gelu);
        let hidden = ops::linear(&hidden, &self.down, Activation::None);
        Ok(ops::layer_norm(&hidden, self.norm_out.parts(), IMAGE_NORM_EPS, None))
    }
}

/// The frame rate's share of the modulation signal (`inject_sample_info`).
#[derive(Debug, Clone)]
pub(super) struct FpsEmbedding {
    table: Weight,
    up: Linear,
    down: Linear,
}

impl FpsEmbedding {
    pub fn load(source: &mut TensorSource, dim: usize) -> Result<Self, ModelError> {
        Ok(Self {
            table: source.take("fps_embedding.weight", &[2, dim])?,
            up: linear(source, "fps_projection.net.0.proj", dim, dim)?,
            down: linear(source, "fps_projection.net.2", dim, 6 * dim)?,
        })
    }

    /// `[1, 6 * dim]` on a device. The model knows two classes: 16 frames a second and everything
    /// else.
    pub fn forward(&self, fps: u32, device: &Device) -> Result<Tensor, GpuError> {
        let class = u32::from(fps != 16);
        let hidden = ops::embedding(&self.table, &[class]);
        let hidden = hidden.on(device)?;
        let hidden = ops::linear(&hidden, &self.up, Activation::Silu);
        Ok(ops::linear(&hidden, &self.down, Activation::None))
    }
}
