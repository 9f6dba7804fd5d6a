//! Step caches at work: rows that take over what an earlier one computed, where it was computed.

use longreel_kernels::{Tensor, ops};
use longreel_models::{ForwardOptions, ModelError, SplitContext, SplitResidual};
use longreel_sampling::{Branch, Decision, EasyCache, Observed, TeaCache};

use crate::error::FilmError;
use crate::sharing::Denoisers;

/// The step cache of a film, without what it remembers of a segment but numbers.
#[derive(Debug)]
pub enum StepCache {
    /// Residuals of the network's blocks, which stay on its devices.
    Tea(TeaCache),
    /// Residuals of the whole model, where latents are.
    Easy(Box<EasyCache>),
}

impl StepCache {
    /// Rows that took over what an earlier one of the segment computed.
    pub fn reused(&self) -> usize {
        match self {
            Self::Tea(cache) => cache.reused(),
            Self::Easy(cache) => cache.reused(),
        }
    }
}

/// What the network is shown in a row.
#[derive(Clone, Copy)]
pub(crate) struct ShownRow<'a> {
    /// Of the segment, from 0.
    pub index: usize,
    /// `[n, in_channels, h, w]`, where latents are kept.
    pub input: &'a Tensor,
    /// One for each frame.
    pub timesteps: &'a [f32],
    /// fps class and causal mask.
    pub options: &'a ForwardOptions,
    /// The branches of guidance that are run, the conditional one first.
    pub contexts: &'a [(Branch, &'a SplitContext)],
    /// Whether those that are computed go through the network together.
    pub batch: bool,
}

impl<'a> ShownRow<'a> {
    /// The branches that go through the network together, in order.
    fn batches(&self) -> impl Iterator<Item = &'a [(Branch, &'a SplitContext)]> + use<'a> {
        self.contexts.chunks(if self.batch { self.contexts.len().max(1) } else { 1 })
    }
}

/// A step cache in a segment.
pub(crate) struct CachedRows<'a> {
    cache: &'a mut StepCache,
    /// What TeaCache saw of the row before, on the device.
    observed: Option<Tensor>,
    /// TeaCache's, of each branch of guidance.
    residuals: [Option<SplitResidual>; 2],
}

impl<'a> CachedRows<'a> {
    /// Of a segment of `rows` rows, of which nothing is known yet.
    pub fn new(cache: &'a mut StepCache, rows: usize) -> Self {
        match cache {
            StepCache::Tea(cache) => cache.reset(rows),
            StepCache::Easy(cache) => cache.reset(rows),
        }
        Self { cache, observed: None, residuals: [None, None] }
    }

    /// The velocity of each branch, computed or from what is remembered.
    pub fn evaluate(
        &mut self,
        denoisers: &Denoisers,
        shown: &ShownRow<'_>,
    ) -> Result<Vec<Tensor>, FilmError> {
        match &mut *self.cache {
            StepCache::Easy(cache) => Ok(whole_model(cache, denoisers, shown)?),
            StepCache::Tea(_) => Ok(self.blocks(denoisers, shown)?),
        }
    }

    /// By residuals of the blocks.
    fn blocks(
        &mut self,
        denoisers: &Denoisers,
        shown: &ShownRow<'_>,
    ) -> Result<Vec<Tensor>, ModelError> {
        let Self { cache: StepCache::Tea(cache), observed, residuals } = self else {
            unreachable!("asked before")
        };
        // A step cache has one group of devices for all branches.
        let model = denoisers.of(Branch::Cond);
        let begin = || model.begin(shown.input, shown.timesteps, shown.options);
        let mut first = Some(begin()?);
        let pass = first.as_ref().expect("just begun");
        let now = match cache.observed() {
            Observed::TimeEmbedding => pass.temb(),
            Observed::TimeProjection => pass.time_proj(),
        };
        let of_branch = |branch: &(Branch, _)| residuals[branch.0 as usize].as_ref();
        let known = shown
            .contexts
            .iter()
            .all(|branch| of_branch(branch).is_some_and(|residual| pass.takes(residual)));
        let before = observed.as_ref().filter(|before| known && before.shape() == now.shape());
        let change = before.map(|before| ops::relative_change(now, before)).transpose()?;
        *observed = Some(now.clone().into_kept());
        let mut velocities = Vec::with_capacity(shown.contexts.len());
        if cache.decide(shown.index, change) == Decision::Reuse {
            for branch in shown.contexts {
                let mut pass = first.take().map_or_else(begin, Ok)?;
                pass.add_residual(residuals[branch.0 as usize].as_ref().expect("known"))?;
                velocities.extend(pass.finish()?);
            }
            return Ok(velocities);
        }
        for batch in shown.batches() {
            let mut pass = first.take().map_or_else(begin, Ok)?;
            // The memory of the old ones is needed while the blocks run.
            batch.iter().for_each(|(branch, _)| residuals[*branch as usize] = None);
            let contexts: Vec<_> = batch.iter().map(|(_, context)| *context).collect();
            let kept = pass.run_blocks_keeping_residuals(&contexts)?;
            for ((branch, _), residual) in batch.iter().zip(kept) {
                residuals[*branch as usize] = Some(residual);
            }
            velocities.extend(pass.finish()?);
        }
        Ok(velocities)
    }
}

/// By residuals from latents to velocity.
fn whole_model(
    cache: &mut EasyCache,
    denoisers: &Denoisers,
    shown: &ShownRow<'_>,
) -> Result<Vec<Tensor>, FilmError> {
    let channels = denoisers.of(Branch::Cond).config().out_channels;
    let latents = leading_channels(shown.input, channels);
    let decision = cache.decide(shown.index, &latents)?;
    let mut velocities = Vec::with_capacity(shown.contexts.len());
    if decision == Decision::Reuse {
        for &(branch, _) in shown.contexts {
            let mut velocity = latents.clone();
            cache.reuse(branch, &mut velocity)?;
            velocities.push(velocity);
        }
        return Ok(velocities);
    }
    for batch in shown.batches() {
        let model = denoisers.of(batch[0].0);
        let contexts: Vec<_> = batch.iter().map(|(_, context)| *context).collect();
        let computed = model.forward(shown.input, shown.timesteps, &contexts, shown.options)?;
        for ((branch, _), velocity) in batch.iter().zip(computed) {
            let velocity = ops::widened(velocity).into_kept();
            cache.store(*branch, &latents, &velocity)?;
            velocities.push(velocity);
        }
    }
    Ok(velocities)
}

/// The first `channels` channels of `[T, C, H, W]`: image-to-video models are shown more than they
/// answer. They stay while the network runs.
fn leading_channels(input: &Tensor, channels: usize) -> Tensor {
    let &[frames, all, height, width] = input.shape() else { unreachable!("latents") };
    let planes = input.clone().reshape(&[frames, all * height * width]);
    let leading = match all == channels {
        true => planes,
        false => ops::columns(&planes, 0..channels * height * width),
    };
    leading.reshape(&[frames, channels, height, width]).into_kept()
}

#[cfg(test)]
mod tests;
