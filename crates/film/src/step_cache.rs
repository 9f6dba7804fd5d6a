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
    /// Residuals of the whole model, on the host as latents are.
    Easy(EasyCache),
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
    /// `[n, in_channels, h, w]`, on the host.
    pub input: &'a Tensor,
    /// One for each frame.
    pub timesteps: &'a [f32],
    /// fps class and causal mask.
    pub options: &'a ForwardOptions,
    /// The branches of guidance that are run, the conditional one first.
    pub contexts: &'a [(Branch, &'a SplitContext)],
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
        let mut decision = None;
        let mut velocities = Vec::with_capacity(shown.contexts.len());
        for &(branch, context) in shown.contexts {
            let model = denoisers.of(branch);
            let mut pass = model.begin(shown.input, shown.timesteps, shown.options)?;
            let residual = &mut residuals[branch as usize];
            let decision = match decision {
                Some(decision) => decision,
                None => {
                    let now = match cache.observed() {
                        Observed::TimeEmbedding => pass.temb(),
                        Observed::TimeProjection => pass.time_proj(),
                    };
                    let known = residual.as_ref().is_some_and(|residual| pass.takes(residual));
                    let before = observed.as_ref().filter(|b| known && b.shape() == now.shape());
                    let change = before.map(|before| ops::relative_change(now, before));
                    let change = change.transpose().map_err(ModelError::from)?;
                    *observed = Some(now.clone());
                    *decision.insert(cache.decide(shown.index, change))
                }
            };
            match residual {
                Some(residual) if decision == Decision::Reuse => pass.add_residual(residual)?,
                _ => {
                    // The memory of the old one is needed while the blocks run.
                    *residual = None;
                    *residual = Some(pass.run_blocks_keeping_residual(context)?);
                }
            }
            velocities.push(pass.finish()?);
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
    let decision = cache.decide(shown.index, latents.data());
    let mut velocities = Vec::with_capacity(shown.contexts.len());
    for &(branch, context) in shown.contexts {
        velocities.push(match decision {
            Decision::Reuse => {
                let mut velocity = latents.clone();
                cache.reuse(branch, velocity.data_mut())?;
                velocity
            }
            Decision::Compute => {
                let model = denoisers.of(branch);
                let velocity =
                    model.forward(shown.input, shown.timesteps, context, shown.options)?;
                cache.store(branch, latents.data(), velocity.data())?;
                velocity
            }
        });
    }
    Ok(velocities)
}

/// The first `channels` channels of `[T, C, H, W]`: image-to-video models are shown more than they
/// answer.
fn leading_channels(input: &Tensor, channels: usize) -> Tensor {
    let (frames, all, plane) = (input.dim(0), input.dim(1), input.dim(2) * input.dim(3));
    let mut data = Vec::with_capacity(frames * channels * plane);
    for frame in input.data().chunks_exact(all * plane) {
        data.extend_from_slice(&frame[..channels * plane]);
    }
    Tensor::from_vec(&[frames, channels, input.dim(2), input.dim(3)], data)
}

#[cfg(test)]
mod tests;
