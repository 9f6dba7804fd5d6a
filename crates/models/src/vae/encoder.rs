//! Pictures to latents.

use longreel_kernels::{Device, Tensor};
use longreel_weights::{TensorSource, VaeConfig};

use super::Shape;
use super::layers::Slot;
use super::network::{Builder, Network};
use crate::ModelError;
use crate::error::input;

/// The encoder half of the autoencoder.
#[derive(Debug)]
pub struct VaeEncoder {
    network: Network,
    shape: Shape,
    channels: usize,
}

/// What a [`VaeEncoder`] remembers between calls. A new state stands before the first picture of a
/// clip.
#[derive(Debug, Clone, Default)]
pub struct VaeEncoderState {
    slots: Vec<Slot>,
    /// Height and width of the clip's pictures, once it has begun.
    size: Option<[usize; 2]>,
}

impl VaeEncoderState {
    /// The state at the start of a clip.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VaeEncoder {
    /// Takes the encoder's tensors; the caller finishes the source.
    pub fn load(config: &VaeConfig, source: &mut TensorSource) -> Result<Self, ModelError> {
        let shape = Shape::new(config)?;
        let widths: Vec<usize> = config.dim_mult.iter().map(|m| config.base_dim * m).collect();
        let z = 2 * shape.latent_channels;
        let mut build = Builder::new(source, shape.spatial);
        build.causal("encoder.conv_in", config.in_channels, config.base_dim)?;
        let mut width = config.base_dim;
        let mut index = 0;
        // The reference numbers blocks, attentions and resamplers in one list.
        let mut next = || {
            index += 1;
            format!("encoder.down_blocks.{}", index - 1)
        };
        for (level, &out) in widths.iter().enumerate() {
            let attends = config.attn_scales.contains(&0.5f64.powi(level as i32));
            for _ in 0..config.num_res_blocks {
                build.residual(&next(), width, out)?;
                if attends {
                    build.attention(&next(), out)?;
                }
                width = out;
            }
            if level + 1 < widths.len() {
                build.down(&next(), out, shape.time_levels[level])?;
            }
        }
        build.middle("encoder.mid_block", width)?;
        build.head("encoder", width, z)?;
        build.pointwise("quant_conv", z, z)?;
        Ok(Self { network: build.finish(), shape, channels: config.in_channels })
    }

    /// The same network, run by `device`. Weights are brought there when they are first used.
    pub fn on(mut self, device: &Device) -> Self {
        self.network.device = device.clone();
        self
    }

    /// Ratio of picture to latent height and width.
    pub fn spatial_factor(&self) -> usize {
        self.shape.spatial
    }

    /// Pictures for each latent frame but the first.
    pub fn temporal_factor(&self) -> usize {
        self.shape.temporal
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.shape.latent_channels
    }

    /// Bytes that a state holds for pictures of `height` x `width`.
    pub fn state_bytes(&self, height: usize, width: usize) -> usize {
        self.network.state_bytes(height / self.shape.spatial * (width / self.shape.spatial))
    }

    /// The least budget for pictures of `height` x `width` that is kept: one at a time at full size.
    pub fn least_budget_bytes(&self, height: usize, width: usize) -> usize {
        self.network.least_bytes(height / self.shape.spatial * (width / self.shape.spatial))
    }

    /// Encodes the next pictures of a clip, `[F, H, W, 3]` in -1..=1, to latents `[T, z, h, w]`,
    /// normalised as the transformer takes them: the mean of the posterior, minus `latents_mean`,
    /// divided by `latents_std`, as in the reference pipelines.
    ///
    /// A new state takes 1 + 4k pictures and gives 1 + k latent frames, a continued one 4k for k (for
    /// a [`temporal_factor`](Self::temporal_factor) of 4). `budget_bytes` bounds the working memory
    /// besides the state and the result.
    ///
    /// # Errors
    /// A count or size of pictures that does not fit the model or the clip begun with this state.
    pub fn encode(
        &self,
        pictures: &Tensor,
        state: &mut VaeEncoderState,
        budget_bytes: usize,
    ) -> Result<Tensor, ModelError> {
        let [h, w] = self.check(pictures, state)?;
        if state.slots.is_empty() {
            state.slots = self.network.empty_slots();
        }
        state.size = Some([pictures.dim(1), pictures.dim(2)]);
        let z = self.shape.latent_channels;
        let pixels = h * w;
        let mut latents = Vec::new();
        let sink = &mut |part: Tensor| {
            for frame in part.data().chunks_exact(pixels * 2 * z) {
                for channel in 0..z {
                    let (mean, scale) = (self.shape.mean[channel], self.shape.inverse_std[channel]);
                    let values = frame.iter().skip(channel).step_by(2 * z);
                    latents.extend(values.map(|v| (v - mean) * scale));
                }
            }
            Ok::<_, ModelError>(())
        };
        self.network.run(pictures.clone(), pixels, &mut state.slots, budget_bytes, sink)?;
        let frames = latents.len() / (z * pixels);
        Ok(Tensor::from_vec(&[frames, z, h, w], latents))
    }

    /// Checks pictures against the model and the clip; `[h, w]` of the latents.
    fn check(&self, pictures: &Tensor, state: &VaeEncoderState) -> Result<[usize; 2], ModelError> {
        let factor = self.shape.spatial;
        let [frames, height, width] = match *pictures.shape() {
            [f, h, w, c] if c == self.channels && h > 0 && w > 0 => [f, h, w],
            _ => {
                let rule = format!("the VAE takes [F, H, W, {}], none of them 0", self.channels);
                return Err(input("the shape of the pictures", pictures.shape(), rule));
            }
        };
        if height % factor != 0 || width % factor != 0 {
            let rule = format!("both must be multiples of {factor}");
            return Err(input("the height and width of the pictures", [height, width], rule));
        }
        if let Some(size) = state.size
            && size != [height, width]
        {
            let rule = format!("this clip began with {size:?}: start a new state");
            return Err(input("the height and width of the pictures", [height, width], rule));
        }
        let factor_t = self.shape.temporal;
        let (lead, rule) = match state.size {
            None => (1, format!("a clip begins with 1 + {factor_t}k pictures")),
            Some(_) => (0, format!("a clip goes on with {factor_t}k pictures")),
        };
        if frames == 0 || frames < lead || (frames - lead) % factor_t != 0 {
            return Err(input("the number of pictures", frames, rule));
        }
        Ok([height / factor, width / factor])
    }
}
