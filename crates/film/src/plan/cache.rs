//! The step cache of a plan.

use longreel_sampling::{EasyCache, StepCache, TeaCache, TeaCacheFamily};

use super::ModelFacts;
use crate::error::PlanError;
use crate::request::{CacheChoice, FilmRequest};

/// The step cache that a request asks for.
///
/// # Errors
/// A threshold that cannot work; TeaCache for a model that no coefficients are published for.
pub(crate) fn step_cache(
    request: &FilmRequest,
    model: &ModelFacts,
) -> Result<Option<Box<dyn StepCache>>, PlanError> {
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
            Ok(Some(Box::new(TeaCache::new(family, f64::from(threshold), use_ret_steps, 0)?)))
        }
        CacheChoice::EasyCache { threshold } => {
            let warmup = EasyCache::DEFAULT.1;
            Ok(Some(Box::new(EasyCache::new(f64::from(threshold), warmup, 0)?)))
        }
    }
}

/// The published coefficients that a model's steps are judged by, when there are any.
pub(super) fn teacache_family(request: &FilmRequest, model: &ModelFacts) -> Option<TeaCacheFamily> {
    let takes_image = model.transformer.in_channels > model.transformer.out_channels;
    TeaCacheFamily::of(model.dim(), takes_image, request.height.min(request.width))
}
