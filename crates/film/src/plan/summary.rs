//! What a plan will take: passes, arithmetic, memory, disk, time.

use std::fmt;

use longreel_sampling::{KeptRow, kept_rows};
use longreel_weights::ModelKind;
use serde::Serialize;

use super::cache::teacache_family;
use super::causal::{self, KvCacheSummary};
use super::words::{human_bytes, human_seconds, scaled};
use super::{FilmPlan, ModelFacts};
use crate::device::{GpuFacts, Need};
use crate::error::PlanError;
use crate::estimate::{
    ForwardFlops, available_memory_bytes, decode_bytes, decode_flops, forward_bytes, forward_flops,
    probe_flops_per_second, tokens_per_frame,
};
use crate::request::{CacheChoice, Carry, KvCacheChoice, Length, SolverChoice};
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

/// What a film will take. Printed by `longreel plan`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanSummary {
    /// The model.
    pub model: String,
    /// Its kind.
    pub kind: String,
    /// Its revision.
    pub revision: String,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Pixel frames, unless endless.
    pub frames: Option<u64>,
    /// Length at the film's frame rate, unless endless.
    pub film_seconds: Option<f64>,
    /// Segments, unless endless.
    pub segments: Option<usize>,
    /// Latent frames of the longest window.
    pub window_latents: usize,
    /// Tokens of the longest forward pass.
    pub tokens: usize,
    /// Rows of all segments (of one, when endless).
    pub rows: usize,
    /// Forward passes: rows, twice with guidance.
    pub forwards: usize,
    /// Operations of the longest forward pass.
    pub forward_flops: ForwardFlops,
    /// Operations of the film (of one segment, when endless), decoding included.
    pub total_flops: f64,
    /// Expected peak memory in bytes: weights, activations, decoder.
    pub memory_bytes: u64,
    /// What of that keeps finished causal blocks, and what it saves.
    pub kv_cache: Option<KvCacheSummary>,
    /// Memory available now, where the system tells.
    pub available_bytes: Option<u64>,
    /// How devices share the work.
    pub sharing: Sharing,
    /// The GPU that makes the film, if one does, and how its memory is shared out; where there are
    /// several, the one with the least.
    pub gpu: Option<GpuPlan>,
    /// Expected size of the film's file in bytes, roughly.
    pub disk_bytes: u64,
    /// What this machine reaches, in operations a second.
    pub machine_flops_per_second: f64,
    /// Expected time of the film (of one segment, when endless).
    pub expected_seconds: f64,
    /// What would make it cheaper.
    pub savings: Vec<Saving>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// A film on a GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuPlan {
    /// Its name.
    pub name: String,
    /// Bytes of its memory that are free.
    pub free_bytes: u64,
    /// Bytes that the film takes at least.
    pub least_bytes: u64,
    /// Bytes that everything but weights takes.
    pub activation_bytes: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of weights that stay there, of which the others are brought for each pass; `None` when the
    /// film does not fit.
    pub weights_there: Option<u64>,
}

impl GpuPlan {
    fn new(gpu: &GpuFacts, need: &Need) -> Self {
        Self {
            name: gpu.name.clone(),
            free_bytes: gpu.free_bytes,
            least_bytes: need.least(),
            activation_bytes: need.activations,
            weight_bytes: need.weights,
            weights_there: need.shares(gpu.free_bytes).map(|shares| shares.resident as u64),
        }
    }
}

/// What a GPU is expected to reach of its peak. Not measured: `longreel bench` does.
const GPU_SHARE: f64 = 0.5;
/// What the program takes besides a GPU's memory: frames, encoder, copies on their way.
const HOST_BYTES: u64 = 1 << 30;

pub(super) fn summarise(
    plan: &FilmPlan,
    model: &ModelFacts,
    notes: &mut Vec<String>,
) -> Result<PlanSummary, PlanError> {
    let request = &plan.request;
    let (width, height) = (request.width, request.height);
    let per_frame = tokens_per_frame(&model.transformer, height, width);
    let count = plan.segments.count();
    let kinds = plan.kinds_of_segments();
    let passes = if request.guidance_scale > 1.0 { 2 } else { 1 };
    let (mut rows, mut window, mut tokens) = (0, 0, 0);
    let mut work = Work::default();
    for (segment, times) in &kinds {
        let timetable = plan.timetable(segment)?;
        rows += times * timetable.rows().len();
        window = timetable.rows().iter().map(|row| row.interval.len()).fold(window, usize::max);
        let kept = kept_rows(&timetable, plan.keeping);
        tokens = kept.iter().map(|row| row.run.len() * per_frame).fold(tokens, usize::max);
        work.add(&kept, *times, plan, model);
    }
    let flops = work.flops;
    let steps = plan.schedule.steps();
    if let Some(keeping) = plan.keeping.filter(|_| request.ar_step >= steps) {
        notes.push(format!(
            "a stream: blocks of {} latent frames one after another, each computed {steps} times and \
             once more when it is clean",
            keeping.causal_block
        ));
    }
    if let Some(window) = request.attention_window {
        let mut wide = FilmPlan { attention_window: None, ..plan.clone() };
        (wide.request.attention_window, wide.request.attention_sink) = (None, None);
        wide.keeping = causal::keeping(&wide, model)?;
        notes.push(format!(
            "--attention-window {window}: {:.0}% of the arithmetic that seeing all would take; whether \
             the film stays good depends on the model",
            100.0 * flops / Work::of(&wide, model)?.max(1.0)
        ));
    }
    let latents = match (plan.segments.total(), kinds.first()) {
        (Some(total), _) => total.get(),
        (None, Some((segment, _))) => segment.new_latents,
        (None, None) => 0,
    };
    let mut decode = latents as f64 * decode_flops(&model.vae, height, width);
    if request.finish.size.is_some() {
        let shown = 4.0 * latents as f64 * f64::from(request.finish.frames);
        decode += shown * model.upscaler_flops * (width * height) as f64;
    }
    // Norms, memory traffic and the tail of each kernel cost about a third on top of the probe's.
    let (rate, share) = match &model.gpu {
        Some(gpu) => (gpu.peak_flops, GPU_SHARE),
        None => (probe_flops_per_second(), 0.7),
    };
    // GPUs add up; parts of the processor are the same one. What they say to each other is not counted.
    let devices = if model.gpu.is_some() { plan.sharing.devices() } else { 1 };
    let expected_seconds = (flops / devices as f64 + decode) / (rate * share);
    let frames = match request.length {
        Length::Frames(frames) => Some(frames),
        Length::Endless => None,
    };
    let film_pixels = request.film_size().map(|side| side as u64).iter().product::<u64>();
    let counted = frames.unwrap_or(4 * latents as u64);
    let kv_cache = causal::summary(plan, model)?;
    let kept_bytes = kv_cache.as_ref().map_or(0, |kept| kept.bytes);
    let gpu = model.gpu.as_ref().map(|gpu| {
        let size = [height, width];
        GpuPlan::new(gpu, &Need::of_rank(model, plan.sharing, tokens, size, kept_bytes))
    });
    if request.carry == Carry::Pixels {
        notes.push("--carry pixels encodes the history again in each segment, which drifts".into());
    }
    if request.addnoise_condition > 60.0 {
        notes.push(format!(
            "--addnoise-condition {}: above 60 the segments may not match; 20 is usual",
            request.addnoise_condition
        ));
    }
    if model.kind != ModelKind::DiffusionForcing
        && frames.is_some_and(|f| f > request.base_num_frames as u64)
    {
        notes.push(format!(
            "a {} model makes its film in one piece: memory and time grow with the length",
            model.kind
        ));
    }
    Ok(PlanSummary {
        model: model.name.clone(),
        kind: match model.causal_few_step {
            true => format!("{}, causal and of few steps", model.kind),
            false => model.kind.to_string(),
        },
        revision: model.revision.clone(),
        width,
        height,
        frames,
        film_seconds: frames.map(|f| f as f64 / f64::from(request.fps)),
        segments: count,
        window_latents: window,
        tokens,
        rows,
        forwards: rows * passes,
        forward_flops: work.longest,
        total_flops: flops + decode,
        memory_bytes: match &gpu {
            Some(_) => HOST_BYTES + on_the_way(plan.sharing, model, tokens),
            None => bytes_with(model, plan, tokens) + kept_bytes,
        },
        sharing: plan.sharing,
        gpu,
        kv_cache,
        available_bytes: available_memory_bytes(),
        // Flat pictures take a fortieth of a byte a pixel in H.264, busy ones ten times as much.
        disk_bytes: counted * u64::from(request.finish.frames) * film_pixels / 8,
        machine_flops_per_second: rate,
        expected_seconds,
        savings: savings(plan, model, flops / (flops + decode))?,
        notes: std::mem::take(notes),
    })
}

/// Operations of the transformer.
#[derive(Default)]
struct Work {
    /// Of all rows and passes.
    flops: f64,
    /// Of the longest pass.
    longest: ForwardFlops,
}

impl Work {
    /// Adds a segment's rows, `times` times.
    fn add(&mut self, rows: &[KeptRow], times: usize, plan: &FilmPlan, model: &ModelFacts) {
        let request = &plan.request;
        let per_frame = tokens_per_frame(&model.transformer, request.height, request.width);
        let passes = if plan.guidance.enabled() { 2 } else { 1 };
        for row in rows {
            let causal = plan.causal_mask.map(|block| (block, plan.attention_window));
            let forward = forward_flops(&model.transformer, row.run.clone(), per_frame, causal);
            self.flops += (times * passes) as f64 * forward.total();
            if forward.total() > self.longest.total() {
                self.longest = forward;
            }
        }
    }

    /// Operations of the film's denoising under another plan.
    fn of(plan: &FilmPlan, model: &ModelFacts) -> Result<f64, PlanError> {
        let mut work = Self::default();
        for (segment, times) in plan.kinds_of_segments() {
            work.add(&kept_rows(&plan.timetable(&segment)?, plan.keeping), times, plan, model);
        }
        Ok(work.flops)
    }
}

/// Expected peak memory without what is kept of finished blocks, when a pass has `tokens` tokens.
fn bytes_with(model: &ModelFacts, plan: &FilmPlan, tokens: usize) -> u64 {
    let request = &plan.request;
    let weights = (model.transformer_bytes + model.other_bytes).max(model.text_encoder_bytes);
    let decoding = decode_bytes(&model.vae, request.height, request.width);
    // Groups run at the same time; the parts of one are a forward together.
    let forwards = plan.sharing.groups as u64 * forward_bytes(&model.transformer, tokens);
    weights + forwards.max(decoding)
}

/// Bytes of the host that values on their way between GPUs take: of each query, key or value in turn,
/// in bf16, what was given and not taken yet.
fn on_the_way(sharing: Sharing, model: &ModelFacts, tokens: usize) -> u64 {
    if sharing.strips == 1 { 0 } else { (2 * 2 * sharing.groups * tokens * model.dim()) as u64 }
}

/// Expected peak memory when nothing is kept of finished blocks.
pub(super) fn base_bytes(plan: &FilmPlan, model: &ModelFacts) -> u64 {
    bytes_with(model, plan, base_tokens(plan, model))
}

/// Tokens of the longest window.
pub(super) fn base_tokens(plan: &FilmPlan, model: &ModelFacts) -> usize {
    let request = &plan.request;
    let frames = plan.kinds_of_segments().iter().map(|(s, _)| s.window_latents()).max();
    frames.unwrap_or(0) * tokens_per_frame(&model.transformer, request.height, request.width)
}

/// Each option's expected share of the time. `denoising` is the share of the transformer in it.
fn savings(plan: &FilmPlan, model: &ModelFacts, denoising: f64) -> Result<Vec<Saving>, PlanError> {
    let request = &plan.request;
    let share = |transformer: f64| 1.0 - denoising * (1.0 - transformer);
    let mut savings = Vec::new();
    if request.guidance_scale > 1.0 {
        savings.push(Saving {
            option: "--guidance-scale 1".into(),
            what: "no unconditional pass (for distilled weights)".into(),
            time_share: share(0.5),
        });
    }
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
    // What block-causal attention allows is counted, not estimated.
    let now = Work::of(plan, model)?.max(1.0);
    let mut other = |option: &str, what: &str, change: &dyn Fn(&mut FilmPlan)| {
        let mut changed = plan.clone();
        change(&mut changed);
        changed.attention_window = causal::attention_window(&changed.request, changed.causal_mask)?;
        changed.keeping = causal::keeping(&changed, model)?;
        let part = Work::of(&changed, model)? / now;
        if part < 0.97 {
            let (option, what) = (option.to_owned(), what.to_owned());
            savings.push(Saving { option, what, time_share: share(part) });
        }
        Ok::<_, PlanError>(())
    };
    if request.ar_step > 0 {
        other("--ar-step 0", "all blocks together", &|plan| plan.request.ar_step = 0)?;
    }
    if let Some(block) = plan.causal_mask.filter(|&block| block > 1) {
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
    Ok(savings)
}

impl PlanSummary {
    pub(super) fn empty(sharing: Sharing) -> Self {
        Self {
            model: String::new(),
            kind: String::new(),
            revision: String::new(),
            width: 0,
            height: 0,
            frames: None,
            film_seconds: None,
            segments: None,
            window_latents: 0,
            tokens: 0,
            rows: 0,
            forwards: 0,
            forward_flops: ForwardFlops::default(),
            total_flops: 0.0,
            memory_bytes: 0,
            kv_cache: None,
            available_bytes: None,
            sharing,
            gpu: None,
            disk_bytes: 0,
            machine_flops_per_second: 0.0,
            expected_seconds: 0.0,
            savings: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl fmt::Display for PlanSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let film = match (self.frames, self.film_seconds) {
            (Some(frames), Some(seconds)) => {
                format!("{frames} frames, {}", human_seconds(seconds))
            }
            _ => "endless".to_owned(),
        };
        let per = if self.frames.is_some() { "" } else { " a segment" };
        writeln!(f, "model      {} ({}, revision {})", self.model, self.kind, self.revision)?;
        writeln!(f, "film       {}x{}, {film}", self.width, self.height)?;
        let segments = self.segments.map_or("endless".to_owned(), |s| s.to_string());
        writeln!(
            f,
            "segments   {segments}, windows of up to {} latent frames, {} tokens",
            self.window_latents, self.tokens
        )?;
        writeln!(f, "passes     {} in {} rows{per}", self.forwards, self.rows)?;
        let share = |part: f64| 100.0 * part / self.forward_flops.total().max(1.0);
        writeln!(
            f,
            "arithmetic {}{per}; a pass {} ({:.0}% linear, {:.0}% attention)",
            scaled(self.total_flops, "FLOP"),
            scaled(self.forward_flops.total(), "FLOP"),
            share(self.forward_flops.linear),
            share(self.forward_flops.attention + self.forward_flops.cross_attention),
        )?;
        if self.sharing.devices() > 1 {
            writeln!(f, "devices    {}", self.sharing)?;
        }
        let available = self
            .available_bytes
            .map_or(String::new(), |bytes| format!(" ({} available)", human_bytes(bytes)));
        writeln!(f, "memory     about {}{available}", human_bytes(self.memory_bytes))?;
        if let Some(gpu) = &self.gpu {
            let there = gpu.weights_there.unwrap_or(0);
            let weights = match there >= gpu.weight_bytes {
                true => format!("all {} of weights", human_bytes(gpu.weight_bytes)),
                false => format!(
                    "{} of {} of weights, the others brought for each pass",
                    human_bytes(there),
                    human_bytes(gpu.weight_bytes)
                ),
            };
            writeln!(
                f,
                "GPU        {}, {} free: {} for activations, {weights}",
                gpu.name,
                human_bytes(gpu.free_bytes),
                human_bytes(gpu.activation_bytes),
            )?;
        }
        if let Some(kept) = self.kv_cache.as_ref().filter(|kept| kept.token_share < 1.0) {
            writeln!(
                f,
                "kv cache   {} of that for up to {} finished latent frames; {:.0}% of the tokens are computed",
                human_bytes(kept.bytes),
                kept.frames,
                100.0 * kept.token_share
            )?;
        }
        writeln!(f, "disk       up to about {}{per}", human_bytes(self.disk_bytes))?;
        write!(
            f,
            "time       about {}{per} on this machine ({}{})",
            human_seconds(self.expected_seconds),
            scaled(self.machine_flops_per_second, "FLOP/s"),
            if self.gpu.is_some() { ", by the data sheet; half of it is counted on" } else { "" },
        )?;
        for saving in &self.savings {
            write!(
                f,
                "\n  {:<23} {} -> about {}",
                saving.option,
                saving.what,
                human_seconds(self.expected_seconds * saving.time_share)
            )?;
        }
        for note in &self.notes {
            write!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}
