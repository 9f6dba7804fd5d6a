//! One forward in three steps, so that a step cache can replace the middle one.

use std::sync::Arc;

use longreel_kernels::ranks::{Alone, Communicator};
use longreel_kernels::{Mask, Modulation, PerFrame, RopeTable, Tensor, in_pool, ops};

use super::block::Shared;
use super::cache::Before;
use super::strip::{Exchange, Strip};
use super::{AttentionWindow, Context, ForwardOptions, KeyValueCache, Transformer};
use crate::ModelError;
use crate::error::input;

/// A forward under way: [`Transformer::begin`], then [`run_blocks`](Self::run_blocks) or
/// [`add_residual`](Self::add_residual), then [`finish`](Self::finish).
///
/// Step caches (TeaCache and its kind) look at [`temb`](Self::temb) or
/// [`time_proj`](Self::time_proj) to decide whether the blocks would change much, and otherwise add
/// the residual of an earlier step.
#[derive(Debug)]
pub struct Pass<'a> {
    model: &'a Transformer,
    /// Of this rank's strip.
    grid: [usize; 3],
    strip: Strip,
    /// What the hidden state was made of, `[tokens, values of a patch]`.
    patches: Tensor,
    hidden: Tensor,
    temb: Tensor,
    time_proj: Tensor,
    rope: Arc<RopeTable>,
    mask: Mask,
}

impl Transformer {
    /// Embeds latents `[T, in_channels, H, W]` and timesteps (one for each latent frame, or one).
    ///
    /// # Errors
    /// Shapes that do not fit the model; a missing frame rate.
    pub fn begin(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        options: &ForwardOptions,
    ) -> Result<Pass<'_>, ModelError> {
        self.check_window(latents, timesteps)?;
        self.begin_at(0, latents, timesteps, options, None)
    }

    /// Whether there are no more timesteps than latent frames.
    pub(super) fn check_window(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
    ) -> Result<(), ModelError> {
        let frames = self.grid(0, latents.shape())?[0];
        if timesteps.len() > frames {
            let rule = format!("it must be 1 or the number of latent frames, {frames}");
            return Err(input("the number of timesteps", timesteps.len(), rule));
        }
        Ok(())
    }

    /// As [`begin`](Self::begin), for frames of a window from frame `first` on. `timesteps` are those
    /// of the window, or one for all. `latents` are the whole picture, or a strip of it.
    pub(super) fn begin_at(
        &self,
        first: usize,
        latents: &Tensor,
        timesteps: &[f32],
        options: &ForwardOptions,
        strip: Option<Strip>,
    ) -> Result<Pass<'_>, ModelError> {
        let grid = self.grid(first, latents.shape())?;
        let frames = first..first + grid[0];
        if timesteps.len() != 1 && timesteps.len() < frames.end {
            let rule = format!("it must be 1 or the number of latent frames, {}", frames.end);
            return Err(input("the number of timesteps", timesteps.len(), rule));
        }
        if let Some(bad) = timesteps.iter().find(|t| !t.is_finite()) {
            return Err(input("a timestep", bad, "it must be a finite number"));
        }
        let device = &self.device;
        let same = timesteps.iter().all(|t| *t == timesteps[0]);
        // The embeddings of the whole window, so that they are the same whichever frames are run.
        let (mut temb, mut time_proj) =
            in_pool(|| self.time.forward(if same { &timesteps[..1] } else { timesteps }, device))?;
        if !same && timesteps.len() != grid[0] {
            temb = temb.slice0(frames.clone());
            time_proj = time_proj.slice0(frames);
        }
        if let Some(embedding) = &self.fps {
            let rule = "this model was trained with frame rates: give one (its own is 24)";
            let fps = options.fps.ok_or_else(|| input("the frame rate", "none", rule))?;
            let added = embedding.forward(fps, device)?;
            ops::add_row(&mut time_proj, &added);
        }
        let strip = strip.unwrap_or(Strip { first: 0, all: grid[1] });
        let mask = self.mask(strip.all * grid[2], options)?;
        let latents = latents.on(device)?;
        let (patches, hidden) = in_pool(|| {
            let patches = ops::patchify(&latents, self.patch());
            let hidden = ops::linear_full(&patches, &self.patch_embedding);
            (patches, hidden)
        });
        let rope = self.rope.table([first, strip.first], grid, device)?;
        Ok(Pass { model: self, grid, strip, patches, hidden, temb, time_proj, rope, mask })
    }

    /// Which tokens a token sees, where a frame has `tokens`.
    fn mask(&self, tokens: usize, options: &ForwardOptions) -> Result<Mask, ModelError> {
        let Some(block) = options.causal_block else {
            return match options.attention_window {
                None => Ok(Mask::None),
                Some(_) => Err(input("causal_block", "none", "a window needs causal blocks")),
            };
        };
        if block == 0 {
            return Err(input("causal_block", 0, "it must be at least 1"));
        }
        let tokens_per_block = block.saturating_mul(tokens);
        Ok(match options.attention_window {
            None => Mask::BlockCausal { tokens_per_block },
            Some(AttentionWindow { before, sink }) => {
                Mask::BlockWindow { tokens_per_block, before, sink }
            }
        })
    }

    /// Patches along time, height and width, of frames from `first` on.
    pub(super) fn grid(&self, first: usize, shape: &[usize]) -> Result<[usize; 3], ModelError> {
        let channels = self.in_channels();
        let [ph, pw] = self.patch();
        let grid = match *shape {
            [t, c, h, w] if c == channels && h % ph == 0 && w % pw == 0 => [t, h / ph, w / pw],
            _ => {
                let rule = format!(
                    "this model takes [T, {channels}, H, W] with H a multiple of {ph} and W of {pw}"
                );
                return Err(input("the shape of the latents", shape, rule));
            }
        };
        let most = self.config().rope_max_seq_len;
        let last = [first + grid[0], grid[1], grid[2]];
        if grid.contains(&0) || last.iter().any(|&n| n > most) {
            let rule = format!("each axis must have between 1 and {most} patches");
            return Err(input("the grid of latent patches", last, rule));
        }
        Ok(grid)
    }
}

impl Pass<'_> {
    /// The time embedding, `[rows, dim]`; one row when all timesteps are equal, else one for each
    /// latent frame.
    pub fn temb(&self) -> &Tensor {
        &self.temb
    }

    /// The modulation signal that every block adds its table to, `[rows, 6 * dim]`, with the frame
    /// rate's share; rows as in [`temb`](Self::temb).
    pub fn time_proj(&self) -> &Tensor {
        &self.time_proj
    }

    /// The hidden state, `[tokens, dim]`, tokens in the order time, height, width.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }

    /// Patches along time, height and width.
    pub fn grid(&self) -> [usize; 3] {
        self.grid
    }

    /// Runs all blocks on the hidden state.
    ///
    /// # Errors
    /// The context was made by another model.
    pub fn run_blocks(&mut self, context: &Context) -> Result<(), ModelError> {
        self.run(context, None, &Alone)
    }

    /// Runs all blocks, with the other ranks; behind what is in a cache, if there is one, which then
    /// keeps the first so many of the frames.
    pub(super) fn run(
        &mut self,
        context: &Context,
        mut cache: Option<(&mut KeyValueCache, usize)>,
        ranks: &dyn Communicator,
    ) -> Result<(), ModelError> {
        let frame_tokens = self.strip.all * self.grid[2];
        if let Some((cache, _)) = &cache {
            let (layers, frame) = (cache.layers.len(), cache.tokens_per_frame);
            if layers != self.model.blocks.len() || (frame != 0 && frame != frame_tokens) {
                let own = self.model.blocks.len();
                let rule = format!("this pass has {own} and {frame_tokens}");
                return Err(input("the cache's layers and tokens a frame", [layers, frame], rule));
            }
        }
        let model = self.model;
        let layers = model.blocks.len();
        let known = context.blocks.as_ref().is_none_or(|blocks| blocks.len() == layers);
        if !known || context.text.dim(1) != model.dim {
            return Err(input("the context", "another model's", "make it with this transformer"));
        }
        let shared = Shared {
            time_proj: &self.time_proj,
            tokens_per_frame: self.grid[1] * self.grid[2],
            rope: &self.rope,
            mask: self.mask,
            padding: context.padding,
            exchange: Exchange {
                ranks,
                frames: self.grid[0],
                rows: self.strip.all,
                columns: self.grid[2],
            },
        };
        let hidden = &mut self.hidden;
        in_pool(|| {
            for (index, block) in model.blocks.iter().enumerate() {
                let before = cache.as_mut().map(|(cache, keep)| Before {
                    kept: &mut cache.layers[index],
                    keep: *keep * frame_tokens,
                });
                match &context.blocks {
                    Some(blocks) => block.forward(hidden, &shared, &blocks[index], before)?,
                    None => {
                        let context = block.context(&context.text, context.image.as_ref());
                        block.forward(hidden, &shared, &context, before)?;
                    }
                }
            }
            Ok::<_, ModelError>(())
        })?;
        if let Some((cache, keep)) = cache {
            cache.grow(keep, frame_tokens);
        }
        Ok(())
    }

    /// Runs all blocks and returns what they added, `[tokens, dim]`, on the device: on a GPU in what it
    /// computes in.
    ///
    /// # Errors
    /// As [`run_blocks`](Self::run_blocks).
    pub fn run_blocks_keeping_residual(&mut self, context: &Context) -> Result<Tensor, ModelError> {
        self.run_keeping_residual(context, &Alone)
    }

    /// As [`run_blocks_keeping_residual`](Self::run_blocks_keeping_residual), with the other ranks.
    pub(super) fn run_keeping_residual(
        &mut self,
        context: &Context,
        ranks: &dyn Communicator,
    ) -> Result<Tensor, ModelError> {
        self.run(context, None, ranks)?;
        // Embedding the patches again takes next to no time, and keeping what it gave an activation in
        // every block.
        Ok(in_pool(|| {
            let before = ops::linear_full(&self.patches, &self.model.patch_embedding);
            ops::difference(&self.hidden, &before)
        }))
    }

    /// Adds the residual of an earlier step instead of running the blocks.
    ///
    /// # Errors
    /// The residual has another shape than the hidden state.
    pub fn add_residual(&mut self, residual: &Tensor) -> Result<(), ModelError> {
        if residual.shape() != self.hidden.shape() {
            let rule = format!("the hidden state is {:?}", self.hidden.shape());
            return Err(input("the shape of the cached residual", residual.shape(), rule));
        }
        let residual = residual.on(&self.model.device)?;
        ops::gate_residual(&mut self.hidden, &residual, None);
        Ok(())
    }

    /// The output head: `[T, out_channels, H, W]`, on the host.
    ///
    /// # Errors
    /// What went wrong on the device, in this or before.
    pub fn finish(self) -> Result<Tensor, ModelError> {
        let model = self.model;
        let [shift, scale] = ops::split_modulation::<2>(&self.temb, &model.table);
        let tokens_per_frame = self.grid[1] * self.grid[2];
        let modulation = Modulation {
            shift: PerFrame { values: &shift, tokens_per_frame },
            scale: PerFrame { values: &scale, tokens_per_frame },
        };
        let eps = model.config.eps as f32;
        let (hidden, grid) = (self.hidden, self.grid);
        let velocity = in_pool(|| {
            let normed = ops::layer_norm(&hidden, None, eps, Some(modulation));
            drop(hidden);
            let patches = ops::linear_full(&normed, &model.proj_out);
            ops::unpatchify(&patches, grid, model.patch, model.out_channels())
        });
        Ok(velocity.into_host()?)
    }
}
