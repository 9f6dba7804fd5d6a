//! Step caches: rows in which the model barely moves reuse what it computed before.
//!
//! A cache is told of something cheap about each row and decides whether the model is run in it. When
//! it is, the difference between what went into a span of the model and what came out is kept, the
//! *residual*. When it is not, the residual is added to the new input instead. The two branches of
//! guidance go together and have separate residuals.
//!
//! [`TeaCache`] spans the network's blocks, whose input and output are as large as the network is wide
//! and lie where it runs; so it decides alone, and whoever runs the network keeps the residuals.
//! [`EasyCache`] spans the whole model, from the noisy latents to the velocity, and keeps them itself.

mod easycache;
mod teacache;

use longreel_kernels::GpuError;
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

/// Whether a row runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run it and keep its residual.
    Compute,
    /// Add the residual that was kept.
    Reuse,
}

/// What TeaCache watches of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The time embedding before its projection, [frames, dim]. (The reference repeats it over the
    /// tokens of each frame, which changes neither of the means that are compared.)
    TimeEmbedding,
    /// The time projection that modulates the blocks, [frames, 6, dim].
    TimeProjection,
}

fn check_threshold(threshold: f64) -> Result<f64, CacheError> {
    if threshold.is_finite() && threshold > 0.0 {
        Ok(threshold)
    } else {
        Err(CacheError::Threshold { threshold })
    }
}

/// Why a cache cannot do what it is asked.
#[derive(Clone, Debug, PartialEq, Error)]
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
        "the cached span has shape {stored:?} and this one {given:?}; reset the cache when the window changes"
    )]
    Shape {
        /// What is known.
        stored: Vec<usize>,
        /// What is given.
        given: Vec<usize>,
    },
    /// What went wrong on a device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}
