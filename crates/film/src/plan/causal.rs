//! Block-causal attention in a plan: its window, and what is kept of finished blocks.

use longreel_models::{AttentionWindow, KeyValueCache};
use longreel_sampling::{BlockWindow, Keeping, KeptRow, kept_rows};
use serde::Serialize;

use super::memory::{base_bytes, base_tokens};
use super::{FilmPlan, ModelFacts};
use crate::device::Need;
use crate::error::PlanError;
use crate::estimate::{Batch, tokens_per_frame};
use crate::memory::available_memory_bytes;
use crate::request::{CacheChoice, FilmRequest, KvCacheChoice};

/// Rows of a product, at most, that a large matrix may round otherwise than the same rows among more.
const FEW_ROWS: usize = 32;
/// Values of such a matrix, at least.
const LARGE_MATRIX: usize = 1 << 20;

/// Whether products of `tokens` rows may round otherwise than among more, on the processor.
pub(super) fn rounds_by_rows(model: &ModelFacts, tokens: usize) -> bool {
    let matrix = model.dim() * model.dim().max(model.transformer.ffn_dim);
    tokens <= FEW_ROWS && matrix > LARGE_MATRIX
}

/// What keeping finished blocks takes and saves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KvCacheSummary {
    /// Latent frames kept at once, at most.
    pub frames: usize,
    /// Bytes of their keys and values, in both passes of guidance.
    pub bytes: u64,
    /// Tokens computed as a share of those without.
    pub token_share: f64,
}

/// The window of attention that is asked for, in causal blocks.
///
/// # Errors
/// Attention without causal blocks, and frames that are not whole blocks.
pub(super) fn attention_window(
    request: &FilmRequest,
    causal_mask: Option<usize>,
) -> Result<Option<AttentionWindow>, PlanError> {
    const WINDOW: &str = "--attention-window";
    const SINK: &str = "--attention-sink";
    let Some(frames) = request.attention_window else {
        return match request.attention_sink {
            None => Ok(None),
            Some(sink) => Err(PlanError::value(
                SINK,
                sink,
                "counts only where attention has a window",
                "give one with --attention-window, or leave it out",
            )),
        };
    };
    let Some(block) = causal_mask else {
        return Err(PlanError::value(
            WINDOW,
            frames,
            "needs block-causal attention, and here every frame sees every other",
            "use --causal-block-size 5, or leave it out",
        ));
    };
    let whole = |what, frames: usize, least: usize| {
        if frames >= least && frames.is_multiple_of(block) {
            return Ok(frames / block);
        }
        let below = (frames / block * block).max(least);
        let above = frames.saturating_add(block) / block * block;
        Err(PlanError::value(
            what,
            frames,
            format!("must be whole causal blocks of {block} latent frames, {least} at least"),
            if below < above && above > least {
                format!("use {below} or {above}")
            } else {
                format!("use {least}")
            },
        ))
    };
    let before = whole(WINDOW, frames, block)? - 1;
    let sink = whole(SINK, request.attention_sink.unwrap_or(block), 0)?;
    Ok(Some(AttentionWindow { before, sink }))
}

/// What a film's segments keep of finished blocks.
///
/// # Errors
/// A cache that is asked for where nothing can be kept.
pub(super) fn keeping(plan: &FilmPlan, model: &ModelFacts) -> Result<Option<Keeping>, PlanError> {
    let request = &plan.request;
    let asked = request.kv_cache == KvCacheChoice::On;
    let refuse = |rule: &str, fix: &str| {
        if asked { Err(PlanError::value("--kv-cache", "on", rule, fix)) } else { Ok(None) }
    };
    if request.kv_cache == KvCacheChoice::Off {
        return Ok(None);
    }
    let Some(causal_block) = plan.causal_mask else {
        return refuse(
            "needs block-causal attention: here every row changes every frame",
            "use --causal-block-size 5, or leave it out",
        );
    };
    if request.cache != CacheChoice::Off {
        return refuse(
            "cannot be combined with --teacache or --easycache, which reuse whole rows",
            "leave one of them out",
        );
    }
    let tokens = causal_block * tokens_per_frame(&model.transformer, request.height, request.width);
    if !asked && rounds_by_rows(model, tokens) {
        return Ok(None);
    }
    let all = Keeping {
        causal_block,
        window: plan
            .attention_window
            .map(|AttentionWindow { before, sink }| BlockWindow { before, sink }),
        most_frames: usize::MAX,
        same_condition_noise: asked,
    };
    let most_frames = match left_bytes(plan, model).filter(|_| !asked) {
        None => usize::MAX,
        Some(left) => usize::try_from(left / bytes_per_frame(plan, model)).unwrap_or(usize::MAX),
    };
    Ok(Some(Keeping { most_frames, ..all }))
}

/// Bytes that nothing else of the film needs, where the system tells. On a GPU keys do not push weights
/// out.
fn left_bytes(plan: &FilmPlan, model: &ModelFacts) -> Option<u64> {
    // A tenth is left to what no plan counts.
    let most = |available: u64| available / 10 * 9;
    if let Some(gpu) = &model.gpu {
        let FilmRequest { width, height, .. } = plan.request;
        let batch = Batch::one(base_tokens(plan, model));
        let need = Need::of_rank(model, plan.sharing, batch, [height, width], plan.strips, 0);
        // Each device keeps its share.
        let left = most(gpu.free_bytes).saturating_sub(need.all());
        return Some(left.saturating_mul(plan.sharing.denoisers() as u64));
    }
    let base = base_bytes(plan, model);
    available_memory_bytes().map(|available| most(available).saturating_sub(base))
}

/// Bytes of one latent frame's keys and values in all layers and passes.
fn bytes_per_frame(plan: &FilmPlan, model: &ModelFacts) -> u64 {
    let request = &plan.request;
    let tokens = tokens_per_frame(&model.transformer, request.height, request.width);
    let passes = if plan.guidance.enabled() { 2 } else { 1 };
    let element = model.kept_value_bytes();
    let bytes = KeyValueCache::bytes_of(tokens, model.transformer.num_layers, model.dim(), element);
    (bytes * passes).max(1)
}

/// What the plan's longest segments keep and compute.
pub(super) fn summary(
    plan: &FilmPlan,
    model: &ModelFacts,
) -> Result<Option<KvCacheSummary>, PlanError> {
    if plan.keeping.is_none() {
        return Ok(None);
    }
    let (mut frames, mut run, mut shown) = (0, 0, 0);
    for (segment, times) in plan.kinds_of_segments() {
        let timetable = plan.timetable(&segment)?;
        let rows = kept_rows(&timetable, plan.keeping);
        frames = rows.iter().map(KeptRow::peak).fold(frames, usize::max);
        run += times * rows.iter().map(|row| row.run.len()).sum::<usize>();
        shown += times * timetable.rows().iter().map(|row| row.interval.len()).sum::<usize>();
    }
    Ok(Some(KvCacheSummary {
        frames,
        bytes: frames as u64 * bytes_per_frame(plan, model),
        token_share: run as f64 / shown.max(1) as f64,
    }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::device::{GpuFacts, HostLink};
    use crate::engine::{Engine, EngineOptions};
    use crate::plan::plan;

    /// On a GPU the number of rows of a product may change its last bit.
    #[test]
    fn a_run_goes_on_with_as_many_frames_as_it_began_with_on_a_gpu_only() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
        let engine = Engine::open(&EngineOptions::new(model)).expect("a model");
        let mut request = engine.defaults(false).expect("defaults").request("a red circle");
        (request.width, request.height, request.base_num_frames) = (80, 64, 33);
        request.length = crate::request::Length::Frames(33);
        (request.ar_step, request.causal_block_size) = (request.steps, Some(3));
        let mut facts = engine.facts().clone();
        let mut kept = |free_bytes: Option<u64>, began: Option<usize>| {
            facts.gpu = free_bytes.map(|free_bytes| GpuFacts {
                name: "a card".into(),
                free_bytes,
                peak_flops: 1e14,
                peak_8_bit_flops: 2e14,
                link: None,
                host: HostLink::Unknown,
            });
            let planned = plan(&request, &facts, false).expect("a plan");
            let begun = planned.begun_with(began, None, false, &facts).expect("a plan");
            begun.kept_frames().expect("kept")
        };
        let much = kept(Some(80 << 30), None);
        assert!(kept(Some(8 << 30), None) < much);
        assert_eq!(kept(Some(8 << 30), Some(much)), much);
        assert_ne!(kept(None, Some(1)), 1);
    }
}
