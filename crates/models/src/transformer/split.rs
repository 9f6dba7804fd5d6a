//! The transformer on one device or on several that share each forward.

use std::borrow::Cow;

use longreel_kernels::ranks::{Communicator, LocalGroup};
use longreel_kernels::{Device, Pairs, Tensor};
use longreel_weights::TransformerConfig;

use super::strip::Strip;
use super::{Context, ContextOptions, ForwardOptions, KeyValueCache, Pass, Transformer};
use crate::ModelError;
use crate::error::input;

/// A transformer on devices that share each forward: each has all weights and a strip of the picture.
/// On one device it is that network and nothing else.
///
/// Results are those of one device, bit for bit where an operation's result for a row does not depend on
/// how many rows there are: on the processor, and on GPUs but for what a library may choose by the
/// number of rows.
#[derive(Debug)]
pub struct SplitTransformer {
    ranks: Vec<Transformer>,
    group: LocalGroup,
}

/// [`Context`] on each device.
#[derive(Debug)]
pub struct SplitContext {
    ranks: Vec<Context>,
}

/// [`KeyValueCache`] on each device, of its heads.
#[derive(Debug)]
pub struct SplitCache {
    ranks: Vec<KeyValueCache>,
}

/// [`Pass`] on each device.
#[derive(Debug)]
pub struct SplitPass<'a> {
    model: &'a SplitTransformer,
    passes: Vec<Pass<'a>>,
    samples: usize,
}

/// What the blocks added in a [`SplitPass`], of each rank's strip on its device.
#[derive(Debug)]
pub struct SplitResidual {
    ranks: Vec<Tensor>,
}

impl SplitTransformer {
    /// Copies of one network, each on its device, as the ranks of a group; there is at least one.
    ///
    /// # Errors
    /// The heads cannot be shared out evenly; the system gives no threads.
    pub fn new(ranks: Vec<Transformer>) -> Result<Self, ModelError> {
        let (heads, count) = (ranks[0].config().num_attention_heads, ranks.len());
        if !heads.is_multiple_of(count) {
            let counts: Vec<_> = (1..count).filter(|&n| heads.is_multiple_of(n)).collect();
            let rule = format!("each takes as many of the {heads} heads: use {counts:?} of them");
            return Err(input("the number of devices", count, rule));
        }
        let devices = ranks.iter().map(|model| model.device.clone()).collect();
        Ok(Self { ranks, group: LocalGroup::new(devices)? })
    }

    /// The copies, for another group; what they have on their devices stays there.
    pub fn into_ranks(self) -> Vec<Transformer> {
        self.ranks
    }

    /// The config it was built from.
    pub fn config(&self) -> &TransformerConfig {
        self.ranks[0].config()
    }

    /// The devices that share each forward.
    pub fn devices(&self) -> &[Device] {
        self.group.devices()
    }

    /// Where latents are best kept, and velocities are given: on its device, or on the host where several share them.
    pub fn home(&self) -> Device {
        match self.devices() {
            [device] => device.clone(),
            _ => Device::Cpu,
        }
    }

    /// How tensors go from one GPU to another, as [`LocalGroup::way`].
    pub fn way(&self) -> Option<String> {
        self.group.way()
    }

    /// Why they do not go by another way, as [`LocalGroup::warnings`].
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.group.warnings()
    }

    /// As [`Transformer::pairs`], on all devices.
    ///
    /// # Errors
    /// As there.
    pub fn pairs(&self) -> Result<Pairs, ModelError> {
        self.ranks
            .iter()
            .map(Transformer::pairs)
            .try_fold(Pairs::default(), |sum, pairs| Ok(sum + pairs?))
    }

    /// As [`Transformer::context`].
    ///
    /// # Errors
    /// As there.
    pub fn context(
        &self,
        text: &Tensor,
        image: Option<&Tensor>,
        options: &ContextOptions,
    ) -> Result<SplitContext, ModelError> {
        let ranks = self.ranks.iter().collect();
        let ranks =
            self.group.run(ranks, |_, model: &Transformer| model.context(text, image, options))?;
        Ok(SplitContext { ranks })
    }

    /// A cache of nothing with room for so many frames; see [`KeyValueCache`].
    pub fn new_cache(&self, room: usize) -> SplitCache {
        let count = self.ranks.len();
        let of = |model| KeyValueCache::of_heads(model, room, count);
        let ranks = self.ranks.iter().map(of).collect();
        SplitCache { ranks }
    }

    /// As [`Transformer::forward`], of a batch: a velocity with each context, [where latents are kept](Self::home).
    ///
    /// # Errors
    /// As there; and fewer rows of patches than devices.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        contexts: &[&SplitContext],
        options: &ForwardOptions,
    ) -> Result<Vec<Tensor>, ModelError> {
        self.ranks[0].check_window(latents, timesteps)?;
        let strips = self.group.run(self.cut(0, latents)?, |ranks, (strip, latents)| {
            let model = &self.ranks[ranks.rank()];
            let mut pass = model.begin_at(0, &latents, timesteps, options, Some(strip))?;
            pass.run(&of_rank(contexts, ranks.rank()), &mut [], 0, ranks)?;
            Ok::<_, ModelError>(pass.finish())
        })?;
        self.velocities(strips, contexts.len())
    }

    /// As [`Transformer::forward_after`], of a batch: a velocity with each context, each behind its own cache.
    /// The caches hold the same frames.
    ///
    /// # Errors
    /// As there; and fewer rows of patches than devices.
    pub fn forward_after(
        &self,
        caches: &mut [&mut SplitCache],
        keep: usize,
        latents: &Tensor,
        timesteps: &[f32],
        contexts: &[&SplitContext],
        options: &ForwardOptions,
    ) -> Result<Vec<Tensor>, ModelError> {
        self.ranks[0].check_keep(keep, latents, options)?;
        let places: Vec<_> = caches.iter().map(|c| (c.next_frame(), c.held_frames())).collect();
        let first = places.first().map_or(0, |(next, _)| *next);
        if places.len() != contexts.len() || places.iter().any(|place| *place != places[0]) {
            let rule =
                format!("each of the {} samples has one, of the same frames", contexts.len());
            return Err(input("the caches' next frames and frames held", places, rule));
        }
        let mut of_ranks: Vec<Vec<&mut KeyValueCache>> = Vec::new();
        of_ranks.resize_with(self.ranks.len(), Vec::new);
        for cache in caches {
            of_ranks.iter_mut().zip(&mut cache.ranks).for_each(|(all, own)| all.push(own));
        }
        let parts = self.cut(first, latents)?.into_iter().zip(of_ranks).collect();
        let strips = self.group.run(parts, |ranks, ((strip, latents), mut caches)| {
            let model = &self.ranks[ranks.rank()];
            let mut pass = model.begin_at(first, &latents, timesteps, options, Some(strip))?;
            pass.run(&of_rank(contexts, ranks.rank()), &mut caches, keep, ranks)?;
            Ok::<_, ModelError>(pass.finish())
        })?;
        self.velocities(strips, contexts.len())
    }

    /// As [`Transformer::begin`].
    ///
    /// # Errors
    /// As there; and fewer rows of patches than devices.
    pub fn begin(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        options: &ForwardOptions,
    ) -> Result<SplitPass<'_>, ModelError> {
        self.ranks[0].check_window(latents, timesteps)?;
        let passes = self.group.run(self.cut(0, latents)?, |ranks, (strip, latents)| {
            let model = &self.ranks[ranks.rank()];
            model.begin_at(0, &latents, timesteps, options, Some(strip))
        })?;
        Ok(SplitPass { model: self, passes, samples: 1 })
    }

    /// Latents of a window from frame `first` on, as each rank gets them.
    fn cut<'a>(
        &self,
        first: usize,
        latents: &'a Tensor,
    ) -> Result<Vec<(Strip, Cow<'a, Tensor>)>, ModelError> {
        let model = &self.ranks[0];
        let rows = model.grid(first, latents.shape())?[1];
        Strip::cut(latents, [rows, model.patch()[0]], self.ranks.len())
    }

    /// The velocities of so many samples, which lie one behind the other in each rank's strip.
    fn velocities(&self, strips: Vec<Tensor>, samples: usize) -> Result<Vec<Tensor>, ModelError> {
        let home = self.home();
        let strips = strips.into_iter().map(|strip| strip.into_device(&home));
        let all = Strip::join(strips.collect::<Result<_, _>>()?);
        let frames = all.dim(0) / samples;
        let of_sample = |sample: usize| all.slice0(sample * frames..(sample + 1) * frames);
        Ok(match samples {
            // They stay while other passes run, which are to find the same places free each time.
            1 => vec![all.into_kept()],
            _ => (0..samples).map(|sample| of_sample(sample).into_kept()).collect(),
        })
    }
}

impl SplitCache {
    /// As [`KeyValueCache::next_frame`].
    pub fn next_frame(&self) -> usize {
        self.ranks[0].next_frame()
    }

    /// As [`KeyValueCache::held_frames`].
    pub fn held_frames(&self) -> usize {
        self.ranks[0].held_frames()
    }

    /// As [`KeyValueCache::bytes`], of all devices.
    pub fn bytes(&self) -> u64 {
        self.ranks.iter().map(KeyValueCache::bytes).sum()
    }

    /// As [`KeyValueCache::forget`].
    pub fn forget(&mut self, frames: std::ops::Range<usize>) {
        self.ranks.iter_mut().for_each(|cache| cache.forget(frames.clone()));
    }
}

impl SplitPass<'_> {
    /// As [`Pass::temb`]. It is the same on all devices, and given where the first one has it.
    pub fn temb(&self) -> &Tensor {
        self.passes[0].temb()
    }

    /// As [`Pass::time_proj`]; see [`temb`](Self::temb).
    pub fn time_proj(&self) -> &Tensor {
        self.passes[0].time_proj()
    }

    /// As [`Pass::run_blocks_keeping_residual`], each rank's on its device, of a batch: a residual with each
    /// context.
    ///
    /// # Errors
    /// As there.
    pub fn run_blocks_keeping_residuals(
        &mut self,
        contexts: &[&SplitContext],
    ) -> Result<Vec<SplitResidual>, ModelError> {
        let parts = self.passes.iter_mut().collect();
        let of_ranks = self.model.group.run(parts, |ranks, pass: &mut Pass<'_>| {
            pass.run_keeping_residuals(&of_rank(contexts, ranks.rank()), ranks)
        })?;
        self.samples = contexts.len();
        let mut of_ranks: Vec<_> = of_ranks.into_iter().map(Vec::into_iter).collect();
        let mut next = || of_ranks.iter_mut().filter_map(Iterator::next).collect();
        Ok(contexts.iter().map(|_| SplitResidual { ranks: next() }).collect())
    }

    /// Whether a residual can be added here.
    pub fn takes(&self, residual: &SplitResidual) -> bool {
        let shapes = self.passes.iter().map(Pass::hidden_shape);
        shapes.eq(residual.ranks.iter().map(Tensor::shape))
    }

    /// As [`Pass::add_residual`].
    ///
    /// # Errors
    /// As there.
    pub fn add_residual(&mut self, residual: &SplitResidual) -> Result<(), ModelError> {
        let parts = self.passes.iter_mut().zip(&residual.ranks).collect();
        self.model.group.run(parts, |_, (pass, residual): (&mut Pass<'_>, &Tensor)| {
            pass.add_residual(residual)
        })?;
        Ok(())
    }

    /// As [`Pass::finish`], each sample's by itself, [where latents are kept](SplitTransformer::home).
    ///
    /// # Errors
    /// As there.
    pub fn finish(self) -> Result<Vec<Tensor>, ModelError> {
        let finish = |_: &dyn Communicator, pass: Pass<'_>| Ok::<_, ModelError>(pass.finish());
        let strips = self.model.group.run(self.passes, finish)?;
        self.model.velocities(strips, self.samples)
    }
}

/// What a rank has of each context.
fn of_rank<'a>(contexts: &[&'a SplitContext], rank: usize) -> Vec<&'a Context> {
    contexts.iter().map(|context| &context.ranks[rank]).collect()
}
