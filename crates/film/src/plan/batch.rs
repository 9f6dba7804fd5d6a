//! Both passes of guidance in one batch, or one after the other.

use longreel_sampling::kept_rows;
use serde::Serialize;

use super::causal::rounds_by_rows;
use super::gpu::need;
use super::{FilmPlan, ModelFacts};
use crate::error::PlanError;
use crate::estimate::tokens_per_frame;
use crate::request::GuidanceBatchChoice;

/// What a batch of both passes of guidance takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GuidanceBatchSummary {
    /// Bytes by which the film takes more memory than with one pass after the other: of each GPU where GPUs
    /// make it.
    pub added_bytes: u64,
}

/// Whether both passes are a batch.
pub(super) fn guidance_batch(plan: &FilmPlan, model: &ModelFacts) -> Result<bool, PlanError> {
    if plan.request.guidance_batch == GuidanceBatchChoice::Off || !plan.guidance.enabled() {
        return Ok(false);
    }
    if obstacle(plan, model)?.is_some() {
        return Ok(false);
    }
    match (plan.request.guidance_batch, &model.gpu) {
        (GuidanceBatchChoice::On, _) => Ok(true),
        // There it saves nothing: the demo model's films took 1 to 3% more of the processor's time.
        (_, None) => Ok(false),
        (_, Some(gpu)) => pays(plan, model, gpu.free_bytes),
    }
}

/// Why there is no batch although there is guidance.
pub(super) fn obstacle(
    plan: &FilmPlan,
    model: &ModelFacts,
) -> Result<Option<&'static str>, PlanError> {
    if plan.sharing.groups > 1 {
        return Ok(Some("each pass of guidance has devices of its own"));
    }
    let few = "so small a picture may round otherwise in a batch than pass by pass";
    Ok((model.gpu.is_none() && rounds_by_rows(model, fewest_tokens(plan, model)?)).then_some(few))
}

/// Tokens of one device in the shortest pass, or fewer.
fn fewest_tokens(plan: &FilmPlan, model: &ModelFacts) -> Result<usize, PlanError> {
    let (width, height) = (plan.request.width, plan.request.height);
    let mut fewest = usize::MAX;
    for (segment, _) in plan.kinds_of_segments() {
        let rows = kept_rows(&plan.timetable(&segment)?, plan.keeping);
        fewest = rows.iter().map(|row| row.run.len()).fold(fewest, usize::min);
    }
    let rows = height / 8 / model.transformer.patch_size[1].max(1);
    let row = tokens_per_frame(&model.transformer, height, width) / rows.max(1);
    Ok(fewest.saturating_mul(row * (rows / plan.sharing.strips)))
}

/// Whether a batch has less brought to a GPU of so many free bytes than one pass after the other, or as
/// little, and leaves the decoder what it has.
fn pays(plan: &FilmPlan, model: &ModelFacts, free: u64) -> Result<bool, PlanError> {
    let need = |guidance_batch| need(&FilmPlan { guidance_batch, ..plan.clone() }, model);
    let (apart, together) = (need(false)?, need(true)?);
    let (Some(there), Some(there_together)) = (apart.shares(free), together.shares(free)) else {
        return Ok(false);
    };
    let less = together.brought(&there_together) <= 2 * apart.brought(&there);
    Ok(less && (together.all() <= free || apart.all() > free))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use longreel_kernels::gpu::WeightPlan;
    use longreel_weights::published_models;

    use super::*;
    use crate::device::{GpuFacts, HostLink, Need};
    use crate::engine::{Engine, EngineOptions};
    use crate::plan::plan;
    use crate::request::{CacheChoice, FilmRequest, Length};

    /// A published model on a card of so many bytes, and one segment of its usual length and size.
    fn setting(name: &str, free_bytes: u64) -> (ModelFacts, FilmRequest) {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
        let engine = Engine::open(&EngineOptions::new(tiny)).expect("a model");
        let published = published_models().into_iter().find(|m| m.name == name).expect(name);
        let config = published.transformer;
        let tensors = config.expected_tensors();
        let values = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64);
        let facts = ModelFacts {
            transformer_bytes: 2 * values.sum::<u64>(),
            other_bytes: 254 << 20,
            vae: longreel_weights::VaeConfig::from_json("{}").expect("the default"),
            transformer: config,
            gpu: Some(GpuFacts {
                name: "a card".into(),
                free_bytes,
                peak_flops: 1e14,
                peak_8_bit_flops: 2e14,
                link: None,
                host: HostLink::Unknown,
            }),
            ..engine.facts().clone()
        };
        let mut request = engine.defaults(false).expect("defaults").request("a red circle");
        (request.width, request.height) = (960, 544);
        (request.base_num_frames, request.length) = (97, Length::Frames(97));
        (request.steps, request.guidance_scale) = (30, 6.0);
        (facts, request)
    }

    #[test]
    fn auto_batches_on_a_gpu_where_no_weight_has_to_leave_for_it_or_less_is_brought() {
        const LARGE: &str = "SkyReels-V2-DF-14B-540P";
        let need = |batch: GuidanceBatchChoice| {
            let (facts, mut request) = setting(LARGE, 80 << 30);
            request.guidance_batch = batch;
            let plan = plan(&request, &facts, true).expect("a plan");
            assert_eq!(plan.guidance_batch, batch != GuidanceBatchChoice::Off);
            let added = plan.summary().guidance_batch.map_or(0, |batch| batch.added_bytes);
            (super::need(&plan, &facts).expect("a need"), added)
        };
        let (apart, _) = need(GuidanceBatchChoice::Off);
        let (together, added) = need(GuidanceBatchChoice::Auto);
        let activations = together.activations - apart.activations;
        assert!(activations > 2 << 30 && activations == added, "{activations}, {added}");
        let chosen = |name, free| {
            let (facts, request) = setting(name, free);
            plan(&request, &facts, true).expect("a plan").guidance_batch
        };
        // Just enough for everything, and for everything but the batch.
        assert!(chosen(LARGE, together.all()));
        assert!(!chosen(LARGE, together.all() - (64 << 20)), "the decoder would have less");
        // For all that passes need, as a batch and apart, and for less by as much as the batch is.
        let passes = |need: Need| {
            let others = need.all() - need.activations - need.state - need.weights();
            let places = WeightPlan::PLACES * need.prompt.largest;
            need.activations + others + need.pass_weights() + places as u64
        };
        assert!(passes(together) < apart.all() && chosen(LARGE, passes(together)));
        let more = "more would be brought than without";
        assert!(!chosen(LARGE, passes(together) - (64 << 20)), "{more}");
        assert!(!chosen(LARGE, passes(apart)), "{more}");
        assert!(!chosen(LARGE, passes(apart) - activations / 2), "{more}");
        assert!(chosen(LARGE, passes(apart) - 2 * activations));
        assert!(chosen(LARGE, 12 << 30), "the 14B model at 540P in 12 GiB");
        assert!(chosen("SkyReels-V2-DF-1.3B-540P", 12 << 30));
        assert!(!chosen(LARGE, together.activations + (900 << 20)), "not even its activations fit");
    }

    #[test]
    fn a_run_on_a_gpu_goes_on_with_both_passes_as_they_were_when_it_began() {
        let (facts, request) = setting("SkyReels-V2-DF-1.3B-540P", 24 << 30);
        let planned = plan(&request, &facts, true).expect("a plan");
        for began in [true, false] {
            let begun = planned.clone().begun_with(None, None, began, &facts).expect("a plan");
            assert_eq!(begun.guidance_batch, began);
            assert_eq!(begun.summary().guidance_batch.is_some(), began);
        }
        let processor = ModelFacts { gpu: None, ..facts };
        let planned = plan(&request, &processor, false).expect("a plan");
        let begun = planned.begun_with(None, None, true, &processor).expect("a plan");
        assert!(!begun.guidance_batch, "on the processor today's choice counts");
    }

    #[test]
    fn a_batch_that_is_asked_for_and_has_no_room_is_refused_with_the_way_out() {
        let (facts, mut request) = setting("SkyReels-V2-DF-14B-540P", 7 << 30);
        plan(&request, &facts, true).expect("a plan without");
        request.guidance_batch = GuidanceBatchChoice::On;
        let error = plan(&request, &facts, true).expect_err("no room").to_string();
        assert!(error.contains("--guidance-batch auto"), "{error}");
    }

    /// TeaCache keeps what the blocks added in one pass while the other one runs; in a batch they run together.
    #[test]
    fn a_step_cache_keeps_nothing_while_a_batch_runs() {
        let (facts, mut request) = setting("SkyReels-V2-DF-1.3B-540P", 24 << 30);
        request.cache = CacheChoice::TeaCache { threshold: 0.2, use_ret_steps: false };
        let kept = |batch| {
            let request = FilmRequest { guidance_batch: batch, ..request.clone() };
            plan(&request, &facts, true).expect("a plan").summary().step_cache_bytes
        };
        assert!(kept(GuidanceBatchChoice::Off) > 0);
        assert_eq!(kept(GuidanceBatchChoice::On), 0);
    }

    #[test]
    fn pictures_too_small_to_round_alike_are_no_batch_on_the_processor() {
        let (facts, mut request) = setting("SkyReels-V2-DF-1.3B-540P", 0);
        let facts = ModelFacts { gpu: None, ..facts };
        request.guidance_batch = GuidanceBatchChoice::On;
        let chosen = |request: &FilmRequest| plan(request, &facts, false).expect("a plan");
        assert!(chosen(&request).guidance_batch);
        // One latent frame of 5 x 6 patches.
        (request.width, request.height) = (96, 80);
        (request.base_num_frames, request.length) = (1, Length::Frames(1));
        let small = chosen(&request);
        assert!(!small.guidance_batch);
        let text = small.summary().to_string();
        assert!(text.contains("may round otherwise in a batch"), "{text}");
    }
}
