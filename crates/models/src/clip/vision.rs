//! CLIP's vision transformer (Radford et al. 2021; `CLIPVisionModel` of transformers).

use longreel_kernels::ops::{self, Attention, Bias, Mask};
use longreel_kernels::{Activation, Device, Linear, Products, Tensor, Weight};
use longreel_weights::{ClipVisionConfig, TensorSource};

use crate::ModelError;
use crate::error::{config as config_error, input};
use crate::layers::{Affine, linear};

/// CLIP's vision tower, up to what the video models read: the hidden states before its last block.
#[derive(Debug)]
pub struct ClipVision {
    class: Vec<f32>,
    patches: Linear,
    /// `[tokens, dim]`, flat.
    positions: Vec<f32>,
    norm: Affine,
    blocks: Vec<Block>,
    heads: usize,
    eps: f32,
    /// `[C, S, S]`.
    picture: [usize; 3],
    patch: usize,
    device: Device,
}

#[derive(Debug)]
struct Block {
    norm_1: Affine,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm_2: Affine,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl ClipVision {
    /// Takes the tower's tensors out of `source`. Those of its last block and of the norm after it
    /// are checked, but not kept: their result is not used.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or left over; an activation that is not CLIP's.
    pub fn load(config: &ClipVisionConfig, mut source: TensorSource) -> Result<Self, ModelError> {
        let activation = match config.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "quick_gelu" => Activation::QuickGelu,
            other => {
                let rule = "only gelu and quick_gelu are supported";
                return Err(config_error("image encoder", "hidden_act", other, rule));
            }
        };
        let (dim, patch, channels) = (config.hidden_size, config.patch_size, config.num_channels);
        let name = |part: &str| format!("vision_model.{part}");
        let class = source.take_f32(&name("embeddings.class_embedding"), &[dim])?;
        // A patch is a row of `channels * patch * patch` numbers, as the weight has them.
        let patches = source
            .take_f32(&name("embeddings.patch_embedding.weight"), &[dim, channels, patch, patch])?;
        let patches = Weight::from_f32(&[dim, channels * patch * patch], &patches);
        let positions = source
            .take_f32(&name("embeddings.position_embedding.weight"), &[config.tokens(), dim])?;
        let norm = Affine::load(&mut source, &name("pre_layrnorm"), dim)?;
        let mut blocks = (0..config.num_hidden_layers)
            .map(|index| {
                let name = name(&format!("encoder.layers.{index}"));
                Block::load(&mut source, &name, config, activation)
            })
            .collect::<Result<Vec<_>, _>>()?;
        blocks.pop();
        Affine::load(&mut source, &name("post_layernorm"), dim)?;
        source.finish()?;
        Ok(Self {
            class,
            patches: Linear::new(patches, None),
            positions,
            norm,
            blocks,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps as f32,
            picture: [channels, config.image_size, config.image_size],
            patch,
            device: Device::Cpu,
        })
    }

    /// The same network, run by `device`. Weights are brought there when they are first used.
    pub fn on(self, device: &Device) -> Self {
        Self { device: device.clone(), ..self }
    }

    /// Hidden states `[1 + patches, hidden_size]`, the class token first, of a picture `[3, S, S]`
    /// prepared by [`ClipPreprocess`](crate::ClipPreprocess).
    ///
    /// # Errors
    /// A picture of another size.
    pub fn encode(&self, picture: &Tensor) -> Result<Tensor, ModelError> {
        if picture.shape() != self.picture {
            let rule = format!("this image encoder takes {:?}", self.picture);
            return Err(input("the prepared picture", picture.shape(), rule));
        }
        let dim = self.class.len();
        let patches = ops::linear(&self.rows(picture), &self.patches, Activation::None);
        let mut tokens = self.class.clone();
        tokens.extend_from_slice(patches.data());
        tokens.iter_mut().zip(&self.positions).for_each(|(x, p)| *x += p);
        let tokens = Tensor::from_vec(&[tokens.len() / dim, dim], tokens);
        let tokens = tokens.on(&self.device)?;
        let mut hidden = ops::layer_norm_full(&tokens, self.norm.parts(), self.eps);
        for block in &self.blocks {
            block.forward(&mut hidden, self.heads, self.eps);
        }
        Ok(hidden.into_host()?)
    }

    /// The patches of a picture, a row each: `[patches, C * patch * patch]`. What is left over at the
    /// right and below is not seen, as in a convolution without padding.
    fn rows(&self, picture: &Tensor) -> Tensor {
        let ([channels, size, _], patch) = (self.picture, self.patch);
        let side = size / patch;
        let mut rows = Vec::with_capacity(side * side * channels * patch * patch);
        for y in 0..side {
            for x in 0..side {
                for line in (0..channels).flat_map(|c| (0..patch).map(move |line| (c, line))) {
                    let (channel, line) = line;
                    let at = (channel * size + y * patch + line) * size + x * patch;
                    rows.extend_from_slice(&picture.data()[at..at + patch]);
                }
            }
        }
        Tensor::from_vec(&[side * side, channels * patch * patch], rows)
    }
}

impl Block {
    fn load(
        source: &mut TensorSource,
        name: &str,
        config: &ClipVisionConfig,
        activation: Activation,
    ) -> Result<Self, ModelError> {
        let (dim, wide) = (config.hidden_size, config.intermediate_size);
        let norm_1 = Affine::load(source, &format!("{name}.layer_norm1"), dim)?;
        let norm_2 = Affine::load(source, &format!("{name}.layer_norm2"), dim)?;
        let mut projection =
            |part: &str| linear(source, &format!("{name}.self_attn.{part}"), dim, dim);
        Ok(Self {
            norm_1,
            q: projection("q_proj")?,
            k: projection("k_proj")?,
            v: projection("v_proj")?,
            out: projection("out_proj")?,
            norm_2,
            up: linear(source, &format!("{name}.mlp.fc1"), dim, wide)?,
            down: linear(source, &format!("{name}.mlp.fc2"), wide, dim)?,
            activation,
        })
    }

    fn forward(&self, hidden: &mut Tensor, heads: usize, eps: f32) {
        let x = ops::layer_norm(hidden, self.norm_1.parts(), eps, None);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|l| ops::linear(&x, l, Activation::None));
        let head_dim = q.dim(1) / heads;
        let scale = (head_dim as f32).sqrt().recip();
        let how =
            Attention { heads, scale, mask: Mask::None, bias: Bias::None, products: Products::F32 };
        ops::linear_residual(hidden, &ops::attention(&q, &k, &v, &how), &self.out, None);
        let x = ops::layer_norm(hidden, self.norm_2.parts(), eps, None);
        let up = ops::linear(&x, &self.up, self.activation);
        ops::linear_residual(hidden, &up, &self.down, None);
    }
}
