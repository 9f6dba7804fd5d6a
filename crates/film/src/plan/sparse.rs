//! Attention that leaves keys out, in a plan.

use longreel_models::SparseAttention;
use longreel_sampling::{KeptRow, Row, Schedule};

use super::{FilmPlan, ModelFacts};
use crate::error::PlanError;
use crate::request::FilmRequest;

/// The share of a frame's first steps that see all keys where none is given: that of Sparse VideoGen (Xi et
/// al. 2025, arXiv:2502.01776) and, about, of Radial Attention (Li et al. 2025, arXiv:2506.19852).
pub(crate) const DENSE_SHARE: f32 = 0.25;
/// The share of keys that is taken to be kept, an assumption: about what SpargeAttn and XAttention (Xu et al. 2025,
/// arXiv:2503.16428) report for video models at nine tenths of the weights. What a film really keeps is counted
/// while it is made and told with each step.
const KEPT_SHARE: f64 = 0.5;
/// Values of a head at most.
const LARGEST_HEAD: usize = 256;
const FLAG: &str = "--sparse-attention";
const AFTER: &str = "--sparse-after";

/// What is asked for, as the network takes it.
///
/// # Errors
/// Values that mean nothing, and heads that it is not made for.
pub(super) fn sparse_attention(
    request: &FilmRequest,
    schedule: &Schedule,
    model: &ModelFacts,
) -> Result<Option<SparseAttention>, PlanError> {
    let Some(mass) = request.sparse_attention else {
        return match request.sparse_after {
            None => Ok(None),
            Some(after) => Err(PlanError::value(
                AFTER,
                after,
                "counts only where attention leaves something out",
                "give a share with --sparse-attention, or leave it out",
            )),
        };
    };
    if !(mass > 0.0 && mass <= 1.0) {
        let rule = "is a share of attention's weights: above 0, at most 1";
        return Err(PlanError::value(FLAG, mass, rule, "use 0.9"));
    }
    let after = request.sparse_after.unwrap_or(DENSE_SHARE);
    if !(0.0..1.0).contains(&after) {
        let rule = "is a share of the steps: 0 or more, below 1";
        return Err(PlanError::value(AFTER, after, rule, format!("use {DENSE_SHARE}")));
    }
    let head = model.transformer.attention_head_dim;
    if head > LARGEST_HEAD {
        let rule =
            format!("needs heads of at most {LARGEST_HEAD} values, and this model's have {head}");
        return Err(PlanError::value(FLAG, mass, rule, "leave it out"));
    }
    let timesteps = &schedule.timesteps;
    let dense_steps = (f64::from(after) * timesteps.len() as f64).ceil() as usize;
    let first = dense_steps.min(timesteps.len() - 1);
    let dense_above = if dense_steps == 0 { f32::INFINITY } else { timesteps[first] };
    Ok(Some(SparseAttention { mass, dense_above }))
}

/// The share of self-attention's arithmetic that a row is taken to need.
pub(super) fn kept_share(plan: &FilmPlan, model: &ModelFacts, row: &Row, kept: &KeptRow) -> f64 {
    let Some(sparse) = plan.sparse.filter(|sparse| sparse.mass < 1.0) else { return 1.0 };
    let timesteps = &row.timesteps[kept.run.clone()];
    let size = plan.causal_mask.unwrap_or(timesteps.len()).max(1);
    let is_sparse = |block: &&[f32]| block.iter().all(|t| *t <= sparse.dense_above);
    let frames: usize = timesteps.chunks(size).filter(is_sparse).map(<[f32]>::len).sum();
    // The first layer sees all.
    let layers = 1.0 - 1.0 / model.transformer.num_layers.max(1) as f64;
    let left_out = layers * frames as f64 / timesteps.len().max(1) as f64;
    1.0 - left_out * (1.0 - KEPT_SHARE)
}

/// What there is to say of it: `part` is the arithmetic as a share of what seeing all would take.
pub(super) fn note(mass: f32, part: f64) -> String {
    format!(
        "--sparse-attention {mass}: about {:.0}% of the arithmetic that seeing all would take, assuming that {:.0}% of \
         the keys are kept where it leaves some out; each step tells what it kept, which depends on model and film, as \
         does whether the film stays good",
        100.0 * part,
        100.0 * KEPT_SHARE
    )
}
