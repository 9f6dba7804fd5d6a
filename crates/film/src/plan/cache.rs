//! The step cache of a plan.

use longreel_sampling::{EasyCache, TeaCache, TeaCacheFamily};

use super::{FilmPlan, ModelFacts};
use crate::error::PlanError;
use crate::request::{CacheChoice, FilmRequest};
use crate::step_cache::StepCache;

/// The step cache that a request asks for.
///
/// # Errors
/// A threshold that cannot work; TeaCache for a model that no coefficients are published for.
pub(crate) fn step_cache(
    request: &FilmRequest,
    model: &ModelFacts,
) -> Result<Option<StepCache>, PlanError> {
    match request.cache {
        CacheChoice::Off => Ok(None),
        CacheChoice::TeaCache { threshold, use_ret_steps } => {
            let family = teacache_family(request, model).ok_or_else(|| {
                PlanError::value(
                    "--teacache",
                    "",
                    format!("has no published coefficients for a model of dim {}", model.dim()),
                    "use --easycache, which needs none",
                )
            })?;
            let threshold = f64::from(threshold);
            Ok(Some(StepCache::Tea(TeaCache::new(family, threshold, use_ret_steps, 0)?)))
        }
        CacheChoice::EasyCache { threshold } => {
            let warmup = EasyCache::DEFAULT.1;
            let cache = EasyCache::new(f64::from(threshold), warmup, 0)?;
            Ok(Some(StepCache::Easy(Box::new(cache))))
        }
    }
}

/// The published coefficients that a model's steps are judged by, when there are any.
pub(super) fn teacache_family(request: &FilmRequest, model: &ModelFacts) -> Option<TeaCacheFamily> {
    let takes_image = model.transformer.in_channels > model.transformer.out_channels;
    TeaCacheFamily::of(model.dim(), takes_image, request.height.min(request.width))
}

/// Bytes that a step cache takes while a pass of `tokens` tokens runs: TeaCache's residual of the other
/// pass of guidance, in what the network computes in, unless both are a batch. EasyCache keeps latents, which
/// are next to nothing.
pub(super) fn step_cache_bytes(plan: &FilmPlan, model: &ModelFacts, tokens: usize) -> u64 {
    match plan.request.cache {
        CacheChoice::TeaCache { .. } if plan.guidance.enabled() && !plan.guidance_batch => {
            (tokens * model.dim() * model.kept_value_bytes()) as u64
        }
        _ => 0,
    }
}
