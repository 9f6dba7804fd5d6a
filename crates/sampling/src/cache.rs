//! Step caches: rows in which the model barely moves reuse what it computed before.
//!
//! A cache watches something cheap about each call of the model and decides whether to compute. When
//! it computes, the caller hands in what the watched span made of its input and the cache keeps the
//! difference, the *residual*. When it reuses, the residual is added to the new input instead. The
//! two branches of guidance keep separate residuals.
//!
//! ```text
//! match cache.decide(branch, row, observed)? {
//!     Decision::Compute => { output = run(input); cache.store(branch, input, output)?; }
//!     Decision::Reuse => cache.reuse(branch, input)?,      // input becomes the output
//! }
//! ```

mod easycache;
mod teacache;

use thiserror::Error;

pub use easycache::EasyCache;
pub use teacache::{TeaCache, TeaCacheFamily};

/// A pass of guidance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// With the prompt.
    Cond,
    /// Without it.
    Uncond,
}

/// Whether a call runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run it and [`StepCache::store`] the result.
    Compute,
    /// Add the stored residual with [`StepCache::reuse`].
    Reuse,
}

/// What a cache wants to see in [`StepCache::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The time embedding before its projection, [frames, dim]. (The reference repeats it over the
    /// tokens of each frame, which changes neither of the means that are compared.)
    TimeEmbedding,
    /// The time projection that modulates the blocks, [frames, 6, dim].
    TimeProjection,
    /// The noisy latents that the model is given.
    ModelInput,
}

/// Which part of the model a residual spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From the patch embedding's tokens to the last block's, [tokens, dim]; embedding and head run
    /// in every row.
    Blocks,
    /// From the noisy latents to the velocity.
    Model,
}

/// A strategy of reuse.
pub trait StepCache: Send {
    /// What `decide` is to be given.
    fn observed(&self) -> Observed;

    /// What `store` and `reuse` are about.
    fn span(&self) -> Span;

    /// Decides about the call of `branch` in `row` of the timetable, the conditional branch first.
    fn decide(&mut self, branch: Branch, row: usize, observed: &[f32]) -> Decision;

    /// Keeps `output - input` of a computed call for later rows.
    ///
    /// # Errors
    /// When the lengths differ.
    fn store(&mut self, branch: Branch, input: &[f32], output: &[f32]) -> Result<(), CacheError>;

    /// Adds the stored residual: `values` is the span's input and becomes its output.
    ///
    /// # Errors
    /// When nothing was stored for the branch, or something of another length; after a
    /// [`Decision::Reuse`] for an input of unchanged size neither happens.
    fn reuse(&self, branch: Branch, values: &mut [f32]) -> Result<(), CacheError>;

    /// Forgets everything, for a window of `rows` rows.
    fn reset(&mut self, rows: usize);

    /// Calls answered with [`Decision::Reuse`] since the last reset, for reports.
    fn reused(&self) -> usize;
}

/// The stored residual of each branch.
#[derive(Debug, Default)]
struct Residuals([Option<Vec<f32>>; 2]);

impl Residuals {
    fn has(&self, branch: Branch) -> bool {
        self.0[branch as usize].is_some()
    }

    fn store(&mut self, branch: Branch, input: &[f32], output: &[f32]) -> Result<(), CacheError> {
        if input.len() != output.len() {
            return Err(CacheError::Length { stored: input.len(), given: output.len() });
        }
        let residual = self.0[branch as usize].get_or_insert_default();
        residual.clear();
        residual.extend(output.iter().zip(input).map(|(&o, &i)| o - i));
        Ok(())
    }

    fn reuse(&self, branch: Branch, values: &mut [f32]) -> Result<(), CacheError> {
        let residual = self.0[branch as usize].as_ref().ok_or(CacheError::Empty { branch })?;
        if residual.len() != values.len() {
            return Err(CacheError::Length { stored: residual.len(), given: values.len() });
        }
        for (value, &r) in values.iter_mut().zip(residual) {
            *value += r;
        }
        Ok(())
    }
}

/// Mean of |a - b|, summed in f64.
fn mean_change(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from((a - b).abs())).sum();
    sum / a.len().max(1) as f64
}

/// Mean of |a|, summed in f64.
fn mean_size(a: &[f32]) -> f64 {
    a.iter().map(|&a| f64::from(a.abs())).sum::<f64>() / a.len().max(1) as f64
}

fn check_threshold(threshold: f64) -> Result<f64, CacheError> {
    if threshold.is_finite() && threshold > 0.0 {
        Ok(threshold)
    } else {
        Err(CacheError::Threshold { threshold })
    }
}

/// Why a cache cannot do what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum CacheError {
    /// A threshold that is none.
    #[error(
        "the cache threshold is {threshold}; it must be a positive number (0.1 keeps quality, 0.3 is fast)"
    )]
    Threshold {
        /// The threshold asked for.
        threshold: f64,
    },
    /// Reuse before anything was stored.
    #[error("nothing is cached for the {branch:?} branch; compute this row")]
    Empty {
        /// The branch.
        branch: Branch,
    },
    /// Spans of different sizes.
    #[error(
        "the cached span has {stored} values and this one {given}; reset the cache when the window changes"
    )]
    Length {
        /// Values known.
        stored: usize,
        /// Values given.
        given: usize,
    },
}
