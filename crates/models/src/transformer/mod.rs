//! The diffusion transformer of SkyReels-V2 and Wan 2.1.
//!
//! One network under two class names in diffusers: `SkyReelsV2Transformer3DModel` (timesteps for each
//! latent frame, frame-rate embedding, block-causal attention) and `WanTransformer3DModel`. The samples of
//! a batch have latents and timesteps in common and differ in their context, as the passes of guidance do.

mod block;
mod cache;
mod condition;
mod context;
mod known;
mod pass;
mod recurring;
mod rope;
mod sparse;
mod split;
mod strip;

use std::borrow::Cow;

use longreel_kernels::gpu::Graphs;
use longreel_kernels::ranks::Alone;
use longreel_kernels::{Device, Linear, Pairs, Products, Tensor, Vector, ops};
use longreel_weights::{TensorSource, TransformerConfig};

use crate::ModelError;
use crate::error::input;
use crate::layers::linear;
use block::{Block, BlockShape};
pub use cache::KeyValueCache;
use condition::{FpsEmbedding, ImageProjection, Sinusoid, TextProjection, TimeEmbedding};
pub use context::{Context, ContextOptions};
pub use pass::Pass;
use recurring::{Run, Stamp};
use rope::Rope;
use sparse::Choosing;
pub use sparse::SparseAttention;
pub use split::{SplitCache, SplitContext, SplitPass, SplitResidual, SplitTransformer};

/// What a forward may vary besides latents, timesteps and conditioning.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ForwardOptions {
    /// Frames a second of the film; needed by models with `inject_sample_info`, ignored by others.
    pub fps: Option<u32>,
    /// Latent frames in a causal block: a token sees its own and earlier blocks, of which the last may be
    /// shorter. `None`: all tokens see all, whatever the config's `num_frame_per_block` says, which is
    /// the default of those who plan a film.
    pub causal_block: Option<usize>,
    /// Which earlier causal blocks a token sees; all when `None`.
    pub attention_window: Option<AttentionWindow>,
    /// The first of the latent frames given whose velocity is asked for, as history's is not: answers
    /// begin with it. Frames before it are seen by the others all the same, but the last block computes
    /// nothing of them save keys and values.
    pub answer_from: usize,
    /// Which of the keys that a token sees are left out; none when `None`.
    pub sparse: Option<SparseAttention>,
}

/// Which causal blocks before its own a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionWindow {
    /// Blocks right before its own.
    pub before: usize,
    /// First blocks of the window, which all see.
    pub sink: usize,
}

/// The network, its weights in the file's dtype. A copy has the same weights where they lie, and brings
/// its own to a GPU.
#[derive(Debug, Clone)]
pub struct Transformer {
    config: TransformerConfig,
    dim: usize,
    patch: [usize; 2],
    device: Device,
    rope: Rope,
    choosing: Choosing,
    patch_embedding: Linear,
    time: TimeEmbedding,
    text: TextProjection,
    image: Option<ImageProjection>,
    fps: Option<FpsEmbedding>,
    blocks: Vec<Block>,
    /// `[2, dim]`, flat.
    table: Vector,
    proj_out: Linear,
    /// Of forwards whose blocks a GPU replays.
    graphs: Graphs<Run>,
}

impl Transformer {
    /// Builds the network and checks every shape; no tensor may be missing or left over.
    pub fn load(config: &TransformerConfig, source: TensorSource) -> Result<Self, ModelError> {
        let mut source = source;
        let shape = block_shape(config, source.products());
        let dim = shape.dim;
        let [_, ph, pw] = config.patch_size;
        let channels = config.in_channels;
        let patch_weight = source.take("patch_embedding.weight", &[dim, channels, 1, ph, pw])?;
        let patch_bias = source.take_f32("patch_embedding.bias", &[dim])?;
        let sinusoid = match config.is_skyreels() {
            true => Sinusoid::Double,
            false => Sinusoid::Single,
        };
        let time = TimeEmbedding::load(&mut source, sinusoid, config.freq_dim, dim)?;
        let text = TextProjection::load(&mut source, config.text_dim, dim)?;
        let image = config
            .image_dim
            .map(|width| ImageProjection::load(&mut source, width, dim, config.pos_embed_seq_len))
            .transpose()?;
        let fps =
            config.inject_sample_info.then(|| FpsEmbedding::load(&mut source, dim)).transpose()?;
        let blocks = (0..config.num_layers)
            .map(|index| Block::load(&mut source, index, shape))
            .collect::<Result<Vec<_>, _>>()?;
        let table = Vector::from(source.take_f32("scale_shift_table", &[1, 2, dim])?);
        let proj_out = linear(&mut source, "proj_out", dim, config.out_channels * ph * pw)?;
        source.finish()?;
        Ok(Self {
            config: config.clone(),
            dim,
            patch: [ph, pw],
            device: Device::Cpu,
            rope: Rope::new(dim / shape.heads),
            choosing: Choosing::default(),
            patch_embedding: Linear::new(patch_weight, Some(patch_bias)),
            time,
            text,
            image,
            fps,
            blocks,
            table,
            proj_out,
            graphs: Graphs::default(),
        })
    }

    /// The same network, run by `device`. Weights are brought there when they are first used.
    pub fn on(self, device: &Device) -> Self {
        Self { device: device.clone(), ..self }
    }

    /// The config it was built from.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Width of a token: `num_attention_heads * attention_head_dim`.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Height and width of a patch in latent pixels.
    pub fn patch(&self) -> [usize; 2] {
        self.patch
    }

    /// Channels of the latents it takes.
    pub fn in_channels(&self) -> usize {
        self.config.in_channels
    }

    /// Channels of the velocity it returns.
    pub fn out_channels(&self) -> usize {
        self.config.out_channels
    }

    /// True when it needs an image embedding.
    pub fn takes_image(&self) -> bool {
        self.image.is_some()
    }

    /// What sparse attention kept so far, of all forwards; nothing where nothing was left out.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn pairs(&self) -> Result<Pairs, ModelError> {
        Ok(self.choosing.pairs()?)
    }

    /// Everything that depends only on the conditioning.
    ///
    /// `text` is `[tokens, text_dim]`, the real tokens of the prompt without padding; `image` is
    /// `[tokens, image_dim]`, CLIP's penultimate hidden states (those of the first and of the last
    /// image joined along the tokens, in first-and-last-frame models), given exactly when the model
    /// [takes an image](Self::takes_image).
    ///
    /// # Errors
    /// The text is longer than `options.padded_tokens`, a width differs from the model's, or an image
    /// is missing or in excess.
    pub fn context(
        &self,
        text: &Tensor,
        image: Option<&Tensor>,
        options: &ContextOptions,
    ) -> Result<Context, ModelError> {
        let width = self.text.text_dim();
        if text.shape().len() != 2 || text.dim(1) != width {
            let rule = format!("this model takes [tokens, {width}]: use its own text encoder");
            return Err(input("the shape of the text embedding", text.shape(), rule));
        }
        let padding = options.padded_tokens.checked_sub(text.dim(0)).ok_or_else(|| {
            let rule = format!("at most {} fit: shorten the prompt", options.padded_tokens);
            input("the number of text tokens", text.dim(0), rule)
        })?;
        if text.dim(0) + padding == 0 {
            return Err(input("the number of text tokens", 0, "at least one is needed"));
        }
        let text = text.on(&Device::Cpu)?;
        let rows = match padding {
            0 => text,
            _ => Cow::Owned(Tensor::concat0(&[&text, &Tensor::zeros(&[1, width])])),
        };
        let mut rows = self.text.forward(rows.on(&self.device)?.as_ref());
        let mut image = match (&self.image, image) {
            (Some(projection), Some(image)) => {
                Some(projection.forward(image.on(&Device::Cpu)?.as_ref(), &self.device)?)
            }
            (None, None) => None,
            (Some(_), None) => {
                return Err(input("the image", "none", "this model needs one: give an image"));
            }
            (None, Some(_)) => {
                let rule = "this model takes none: leave it out, or use an image-to-video model";
                return Err(input("the image embedding", "given", rule));
            }
        };
        if self.config.added_kv_proj_dim.is_none()
            && let Some(image) = image.take()
        {
            // Without projections of their own the image tokens are read as if they were text.
            rows = Tensor::concat0(&[&image, &rows]);
        }
        let (text, image) = (ops::narrowed(rows), image.map(ops::narrowed));
        // Out of the way of what is replayed for another prompt.
        let of_block = |block: &Block| block.context(&text, image.as_ref(), padding).into_kept();
        let blocks = self.blocks.iter().map(of_block).collect();
        self.device.check()?;
        Ok(Context { blocks, dim: self.dim, stamp: Stamp::default() })
    }

    /// The predicted velocity `[T, out_channels, H, W]` for latents `[T, in_channels, H, W]`, without
    /// the frames before [`ForwardOptions::answer_from`]. It is on the model's device, wherever the latents are; on a GPU
    /// it may still be to be computed, and what goes wrong is told to whoever brings it from there.
    ///
    /// `timesteps` has one value in 0..=1000 for each latent frame, or one for all.
    ///
    /// # Errors
    /// Shapes that do not fit the model; a missing frame rate.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        context: &Context,
        options: &ForwardOptions,
    ) -> Result<Tensor, ModelError> {
        let mut pass = self.begin(latents, timesteps, options)?;
        pass.run_blocks(context)?;
        Ok(pass.finish())
    }

    /// As [`forward`](Self::forward), for frames `[n, in_channels, H, W]` of a window whose earlier
    /// frames are in `cache`, with block-causal attention. `timesteps` are those of the whole window
    /// (or of its frames up to these), or one for all. Afterwards the first `keep` of the frames are
    /// in the cache too: whole blocks whose latents and timesteps will not change any more.
    ///
    /// The velocity is that which a forward of the window up to these frames gives, bit for bit.
    ///
    /// # Errors
    /// Shapes that do not fit the model or the cache; attention that is not block-causal, frames
    /// that are not whole blocks.
    pub fn forward_after(
        &self,
        cache: &mut KeyValueCache,
        keep: usize,
        latents: &Tensor,
        timesteps: &[f32],
        context: &Context,
        options: &ForwardOptions,
    ) -> Result<Tensor, ModelError> {
        self.check_keep(keep, latents, options)?;
        let mut pass = self.begin_at(cache.next_frame(), latents, timesteps, options, None)?;
        pass.run(&[context], &mut [cache], keep, &Alone)?;
        Ok(pass.finish())
    }

    /// Whether frames can be kept.
    fn check_keep(
        &self,
        keep: usize,
        latents: &Tensor,
        options: &ForwardOptions,
    ) -> Result<(), ModelError> {
        let Some(block) = options.causal_block.filter(|&block| block > 0) else {
            let rule = "frames before others are finished only where attention is block-causal";
            return Err(input("causal_block", "none", rule));
        };
        if !keep.is_multiple_of(block) || keep > latents.dim(0) {
            let rule = format!("it must be at most {} and a multiple of {block}", latents.dim(0));
            return Err(input("the number of frames to keep", keep, rule));
        }
        Ok(())
    }
}

/// The sizes that every block needs. The config's own rules make them sound: bounded, the head size
/// even, `added_kv_proj_dim` equal to the width.
fn block_shape(config: &TransformerConfig, products: Products) -> BlockShape {
    BlockShape {
        dim: config.dim(),
        ffn_dim: config.ffn_dim,
        heads: config.num_attention_heads,
        eps: config.eps as f32,
        cross_attn_norm: config.cross_attn_norm,
        image_keys: config.added_kv_proj_dim.is_some(),
        products,
    }
}
