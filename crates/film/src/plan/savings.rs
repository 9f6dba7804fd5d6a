//! What would make a film cheaper.

use longreel_kernels::Products;
use longreel_sampling::{Guidance, GuidanceInterval};
use serde::Serialize;

use super::cache::teacache_family;
use super::summary::Work;
use super::{FilmPlan, ModelFacts};
use super::{causal, sparse};
use crate::error::PlanError;
use crate::request::{CacheChoice, KvCacheChoice, SolverChoice};
use crate::sharing::Sharing;

/// An option that would make the film cheaper.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Saving {
    /// The flag.
    pub option: String,
    /// What it does.
    pub what: String,
    /// Expected time with it as a share of the time without.
    pub time_share: f64,
}

/// Shares of the time above it are not offered.
const WORTH_IT: f64 = 0.97;

/// Where guidance has mostly decided what a film shows.
const EARLY_SIGMA: f32 = 0.8;

/// Each option's expected share of the time, of which denoising, the work of the transformer, takes so many seconds and
/// decoding the others.
pub(super) fn savings(
    plan: &FilmPlan,
    model: &ModelFacts,
    work: &Work,
    sharing: Sharing,
    denoising: f64,
    decoding: f64,
) -> Result<Vec<Saving>, PlanError> {
    let request = &plan.request;
    let share = |transformer: f64| 1.0 - denoising / (denoising + decoding) * (1.0 - transformer);
    let mut savings = Vec::new();
    if request.cache == CacheChoice::Off {
        let known = teacache_family(request, model).is_some();
        savings.push(Saving {
            option: if known { "--teacache" } else { "--easycache" }.into(),
            what: "steps that change little are reused".into(),
            time_share: share(0.55),
        });
    }
    if request.steps > 20 && !matches!(request.solver, SolverChoice::FewStep { .. }) {
        savings.push(Saving {
            option: "--steps 20".into(),
            what: "fewer steps".into(),
            time_share: share(20.0 / request.steps as f64),
        });
    }
    if model.gpu.is_none() && model.products() == Products::F32 && Products::Bf16.are_pairs() {
        // Both rates are measured, and beside other programs the faster kind may have been the slower one.
        let of = |products| model.seconds(work.flops, products);
        let part = of(Products::Bf16) / of(Products::F32);
        if part < WORTH_IT {
            savings.push(Saving {
                option: "--dtype bf16".into(),
                what: "the transformer multiplies bf16, which changes the film a little".into(),
                time_share: share(part),
            });
        }
    }
    // What block-causal attention allows is counted, not estimated, and so is what is waited for weights.
    let now = denoising.max(f64::MIN_POSITIVE);
    if model.gpu.is_some() && model.converted.is_none() {
        let fewer = model.in_8_bits();
        let part = work.denoising(sharing, plan, &fewer)?.seconds / now;
        if part < WORTH_IT {
            let what = "8-bit floats in the transformer's layers, and less brought; changes the film a little";
            let (option, what) = ("--dtype fp8".to_owned(), what.to_owned());
            savings.push(Saving { option, what, time_share: share(part) });
        }
    }
    let mut other = |option: &str, what: &str, change: &dyn Fn(&mut FilmPlan)| {
        let mut changed = plan.clone();
        change(&mut changed);
        changed.attention_window = causal::attention_window(&changed.request, changed.causal_mask)?;
        changed.sparse = sparse::sparse_attention(&changed.request, &changed.schedule, model)?;
        changed.keeping = causal::keeping(&changed, model)?;
        let part = Work::of(&changed, model)?.denoising(sharing, &changed, model)?.seconds / now;
        if part < WORTH_IT {
            let (option, what) = (option.to_owned(), what.to_owned());
            savings.push(Saving { option, what, time_share: share(part) });
        }
        Ok::<_, PlanError>(())
    };
    if plan.guidance.enabled() {
        let scale = plan.guidance.scale();
        let what = "no unconditional pass (for distilled weights)";
        other("--guidance-scale 1", what, &|plan| plan.guidance = Guidance::OFF)?;
        if request.guidance_interval == GuidanceInterval::ALL {
            let early = GuidanceInterval::new(EARLY_SIGMA, 1.0)?;
            let guidance = Guidance::new(scale, early)?;
            let what = "guidance in the noisy steps alone; try the quality";
            let option = format!("--guidance-interval {early}");
            other(&option, what, &|plan| plan.guidance = guidance)?;
        }
    }
    if request.ar_step > 0 {
        other("--ar-step 0", "all blocks together", &|plan| plan.request.ar_step = 0)?;
    }
    if let Some(block) = plan.causal_mask {
        if request.kv_cache == KvCacheChoice::Off {
            let auto = |plan: &mut FilmPlan| plan.request.kv_cache = KvCacheChoice::Auto;
            other("--kv-cache auto", "finished blocks are kept, not computed again", &auto)?;
        }
        if request.attention_window.is_none() {
            let frames = 3 * block;
            let what = "a block sees less of what is before it; try the quality";
            let window = |plan: &mut FilmPlan| plan.request.attention_window = Some(frames);
            other(&format!("--attention-window {frames}"), what, &window)?;
        }
    }
    if request.sparse_attention.is_none() {
        let what = "attention leaves out what weighs little, half of its keys by assumption; try the quality";
        other("--sparse-attention 0.9", what, &|plan| plan.request.sparse_attention = Some(0.9))?;
    }
    Ok(savings)
}
