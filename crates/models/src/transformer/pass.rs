//! One forward in three steps, so that a step cache can replace the middle one.

mod begin;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use longreel_kernels::ranks::{Alone, Communicator};
use longreel_kernels::{Mask, Modulation, PerFrame, RopeTable, Tensor, in_pool, ops};

use super::block::{Asked, Shared};
use super::recurring::{Run, Shape};
use super::rope::Angles;
use super::sparse::{Chosen, DENSE_LAYERS, LeftOut};
use super::strip::{Exchange, Strip};
use super::{Context, KeyValueCache, Transformer};
use crate::ModelError;
use crate::error::input;

/// A forward under way: [`Transformer::begin`], then [`run_blocks`](Self::run_blocks) or
/// [`add_residual`](Self::add_residual), then [`finish`](Self::finish).
///
/// It becomes that of a batch when its blocks are run with several contexts: the tokens of the samples lie
/// one behind the other, and share the latents, the timesteps and every product.
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
    /// What the hidden state is made of, `[tokens, values of a patch]`.
    patches: Tensor,
    /// `[samples * tokens, dim]`, once there is something to add to the embedding of the patches.
    hidden: Option<Tensor>,
    samples: usize,
    temb: Tensor,
    time_proj: Tensor,
    rope: Arc<Angles>,
    mask: Mask,
    /// Frames before it are not answered for.
    answer_from: usize,
    /// Whether the hidden state has no token of those frames any more.
    cut: bool,
    sparse: Option<Chosen>,
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

    /// The shape of a sample's hidden state, `[tokens, dim]`, tokens in the order time, height, width.
    pub fn hidden_shape(&self) -> [usize; 2] {
        [self.patches.dim(0), self.model.dim]
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
        self.run(&[context], &mut [], 0, &Alone)
    }

    /// Runs all blocks, once, with the other ranks: for a sample with each context, each behind what is in its
    /// cache, if there are any, which then keep the first `keep` of the frames. The hidden state is that of
    /// the frames that are answered for.
    pub(super) fn run(
        &mut self,
        contexts: &[&Context],
        caches: &mut [&mut KeyValueCache],
        keep: usize,
        ranks: &dyn Communicator,
    ) -> Result<(), ModelError> {
        // What a block of queries sees is chosen for all of its tokens, of whichever frames.
        let alike = self.sparse.is_none();
        self.cut = self.answer_from > 0 && !self.model.blocks.is_empty() && alike;
        self.run_to_end(contexts, caches, keep, ranks)
    }

    /// As [`run`](Self::run); the hidden state is that of all frames unless it is to be [`cut`](Self::cut).
    fn run_to_end(
        &mut self,
        contexts: &[&Context],
        caches: &mut [&mut KeyValueCache],
        keep: usize,
        ranks: &dyn Communicator,
    ) -> Result<(), ModelError> {
        let frame_tokens = self.strip.all * self.grid[2];
        let model = self.model;
        let layers = model.blocks.len();
        for cache in caches.iter() {
            if !cache.fits(layers, frame_tokens) {
                let rule = format!("this pass has {layers} and {frame_tokens}");
                return Err(input("the cache's layers and tokens a frame", cache.shape(), rule));
            }
        }
        let known = |context: &&Context| context.blocks.len() == layers && context.dim == model.dim;
        if !contexts.iter().all(known) {
            return Err(input("the context", "another model's", "make it with this transformer"));
        }
        let samples = contexts.len();
        assert!(
            self.hidden.is_none() && (caches.is_empty() || caches.len() == samples),
            "Pass::run: {samples} contexts, {} caches",
            caches.len()
        );
        let time_proj = of_samples(&self.time_proj, samples);
        let held = caches.first().map_or(0, |cache| cache.held_frames());
        let sides = [self.strip.all, self.grid[2]];
        let among =
            |chosen| model.choosing.among(chosen, held + self.grid[0], sides, &model.device);
        let left_out = self.sparse.as_ref().map(among).transpose()?;
        let sparse = left_out.as_ref().map(LeftOut::sparse);
        let shape = Shape {
            grid: self.grid,
            strip: self.strip,
            mask: self.mask,
            answer_from: if self.cut { self.answer_from } else { 0 },
            keep,
        };
        caches.iter_mut().for_each(|cache| cache.reserve(keep, frame_tokens));
        // Not where ranks wait for each other.
        let blocks =
            (ranks.count() == 1).then(|| Run::of(shape, left_out.as_ref(), contexts, caches));
        let mut run = |inputs: &[&Tensor]| {
            let &[patches, time_proj, cos, sin] = inputs else {
                unreachable!("as they are given below")
            };
            let rope = RopeTable { cos, sin };
            let shared = Shared {
                time_proj,
                tokens_per_frame: self.grid[1] * self.grid[2],
                rope,
                mask: self.mask,
                sparse: None,
                exchange: Exchange {
                    ranks,
                    frames: samples * self.grid[0],
                    rows: self.strip.all,
                    columns: self.grid[2],
                },
            };
            let answered = self.cut.then(|| {
                let each = shared.tokens_per_frame;
                let rope = [cos, sin].map(|part| self.of_answered(part, 1, each));
                (self.of_answered(time_proj, samples, 1), rope)
            });
            let asked = answered.as_ref().map(|(time_proj, [cos, sin])| Asked {
                shared: Shared {
                    time_proj,
                    rope: RopeTable { cos, sin },
                    exchange: Exchange {
                        frames: samples * self.answered_frames(),
                        ..shared.exchange
                    },
                    ..shared
                },
                rows: self.answered_rows(samples, shared.tokens_per_frame),
            });
            let mut hidden = embedded(model, patches, samples);
            for (index, block) in model.blocks.iter().enumerate() {
                let before = caches.iter_mut().map(|cache| cache.before(index, keep));
                let mut before: Vec<_> = before.collect();
                let of_block: Vec<_> =
                    contexts.iter().map(|context| &context.blocks[index]).collect();
                let asked = asked.as_ref().filter(|_| index + 1 == layers);
                let sparse = sparse.filter(|_| index >= DENSE_LAYERS);
                let shared = Shared { sparse, ..shared };
                block.forward(&mut hidden, &shared, asked, &of_block, &mut before)?;
            }
            Ok::<_, ModelError>(hidden)
        };
        // What changes from one to the next: as a block of a stream does, the positions too.
        let inputs = [&self.patches, &*time_proj, &self.rope.cos, &self.rope.sin];
        let hidden = in_pool(|| match blocks {
            Some(blocks) => model.graphs.run(&model.device, blocks, &inputs, run),
            None => run(&inputs),
        })?;
        (self.hidden, self.samples) = (Some(hidden), samples);
        caches.iter_mut().for_each(|cache| cache.grow(keep));
        Ok(())
    }

    /// Runs all blocks and returns what they added, `[tokens, dim]`, on the device: on a GPU in what it
    /// computes in.
    ///
    /// # Errors
    /// As [`run_blocks`](Self::run_blocks).
    pub fn run_blocks_keeping_residual(&mut self, context: &Context) -> Result<Tensor, ModelError> {
        let mut residuals = self.run_keeping_residuals(&[context], &Alone)?;
        Ok(residuals.pop().expect("of one sample"))
    }

    /// As [`run_blocks_keeping_residual`](Self::run_blocks_keeping_residual), for a sample with each context,
    /// with the other ranks.
    pub(super) fn run_keeping_residuals(
        &mut self,
        contexts: &[&Context],
        ranks: &dyn Communicator,
    ) -> Result<Vec<Tensor>, ModelError> {
        self.run_to_end(contexts, &mut [], 0, ranks)?;
        let hidden = self.hidden.as_ref().expect("just run");
        // Embedding the patches again takes next to no time, and keeping what it gave an activation in
        // every block.
        Ok(in_pool(|| {
            let before = embedded(self.model, &self.patches, 1);
            let tokens = before.dim(0);
            let of = |sample: usize| match contexts.len() {
                1 => ops::difference(hidden, &before),
                _ => {
                    let rows = sample * tokens..(sample + 1) * tokens;
                    ops::difference(&hidden.slice0(rows), &before)
                }
            };
            (0..contexts.len()).map(|sample| of(sample).into_kept()).collect()
        }))
    }

    /// Adds the residual of an earlier step instead of running the blocks.
    ///
    /// # Errors
    /// The residual has another shape than the hidden state.
    pub fn add_residual(&mut self, residual: &Tensor) -> Result<(), ModelError> {
        if residual.shape() != self.hidden_shape() {
            let rule = format!("the hidden state is {:?}", self.hidden_shape());
            return Err(input("the shape of the cached residual", residual.shape(), rule));
        }
        let residual = residual.on(&self.model.device)?;
        let mut hidden = in_pool(|| embedded(self.model, &self.patches, 1));
        ops::gate_residual(&mut hidden, &residual, None);
        self.hidden = Some(hidden);
        Ok(())
    }

    /// How many frames are answered for.
    fn answered_frames(&self) -> usize {
        self.grid[0] - self.answer_from
    }

    /// Their rows in a tensor of so many samples with `each` rows a frame.
    fn answered_rows(&self, samples: usize, each: usize) -> Vec<Range<usize>> {
        let frames = self.grid[0];
        let of = |s: usize| (s * frames + self.answer_from) * each..(s + 1) * frames * each;
        (0..samples).map(of).collect()
    }

    /// The rows of frames that are answered for, from a tensor of all, or of what is alike in all of them.
    fn of_answered<'t>(&self, all: &'t Tensor, samples: usize, each: usize) -> Cow<'t, Tensor> {
        if self.answer_from == 0 || all.dim(0) == 1 {
            return Cow::Borrowed(all);
        }
        let rows = self.answered_rows(samples, each);
        let rows: Vec<_> = rows.into_iter().map(|rows| (all, rows)).collect();
        Cow::Owned(Tensor::concat_rows(&rows))
    }

    /// The output head: `[T, out_channels, H, W]` of each sample, on the model's device, one behind the other, of the
    /// frames that are answered for.
    pub fn finish(mut self) -> Tensor {
        let (model, samples) = (self.model, self.samples);
        let temb = of_samples(&self.temb, samples);
        let temb = self.of_answered(&temb, samples, 1);
        let [shift, scale] = ops::split_modulation::<2>(&temb, &model.table);
        let [_, rows, columns] = self.grid;
        let tokens_per_frame = rows * columns;
        let modulation = Modulation {
            shift: PerFrame { values: &shift, tokens_per_frame },
            scale: PerFrame { values: &scale, tokens_per_frame },
        };
        let eps = model.config.eps as f32;
        in_pool(|| {
            let hidden = self.hidden.take().unwrap_or_else(|| embedded(model, &self.patches, 1));
            let answered = match self.cut {
                true => Cow::Borrowed(&hidden),
                false => self.of_answered(&hidden, samples, tokens_per_frame),
            };
            let normed = ops::layer_norm(&answered, None, eps, Some(modulation));
            drop(answered);
            drop(hidden);
            let patches = ops::linear_full(&normed, &model.proj_out);
            let grid = [samples * self.answered_frames(), rows, columns];
            ops::unpatchify(&patches, grid, model.patch, model.out_channels())
        })
    }
}

/// Embedded patches, `[samples * tokens, dim]`. They are the same for all samples, and made for each: on a GPU no
/// activation is of a size of its own.
fn embedded(model: &Transformer, patches: &Tensor, samples: usize) -> Tensor {
    let patches = match samples {
        1 => Cow::Borrowed(patches),
        _ => Cow::Owned(Tensor::concat0(&vec![patches; samples])),
    };
    ops::linear_full(&patches, &model.patch_embedding)
}

/// Rows by latent frame for so many samples, whose frames are alike; a single row is that of all.
fn of_samples(rows: &Tensor, samples: usize) -> Cow<'_, Tensor> {
    match (samples, rows.dim(0)) {
        (1, _) | (_, 1) => Cow::Borrowed(rows),
        _ => Cow::Owned(Tensor::concat0(&vec![rows; samples])),
    }
}
