//! What a plan will take: passes, arithmetic, memory, disk, time.

use std::fmt;

use longreel_sampling::Segment;
use longreel_weights::ModelKind;
use serde::Serialize;

use super::cache::teacache_family;
use super::words::{human_bytes, human_seconds, scaled};
use super::{FilmPlan, ModelFacts};
use crate::device::{GpuFacts, Need};
use crate::error::PlanError;
use crate::estimate::{
    ForwardFlops, available_memory_bytes, decode_bytes, decode_flops, forward_bytes, forward_flops,
    probe_flops_per_second, tokens_per_frame,
};
use crate::request::{CacheChoice, Carry, FilmRequest, Length};

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
    /// Memory available now, where the system tells.
    pub available_bytes: Option<u64>,
    /// The GPU that makes the film, if one does, and how its memory is shared out.
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
    let first = plan.segments.segment(0);
    // Segments differ at the film's ends only: the first, one in the middle, the last.
    let mut kinds: Vec<(Segment, usize)> = Vec::new();
    match count {
        Some(count) => {
            for index in [0, 1, count.saturating_sub(1)] {
                if let Some(segment) = plan.segments.segment(index)
                    && index < count
                    && kinds.iter().all(|(s, _)| s.index != index)
                {
                    kinds.push((segment, 1));
                }
            }
            if let Some(middle) = kinds.get_mut(1) {
                middle.1 = count.saturating_sub(2).max(1);
            }
        }
        None => kinds.extend(plan.segments.segment(1).or(first).map(|s| (s, 1))),
    }
    let passes = if request.guidance_scale > 1.0 { 2 } else { 1 };
    let (mut rows, mut flops, mut window) = (0, 0.0, 0);
    let mut longest = forward_flops(&model.transformer, 1, per_frame, plan.causal_mask);
    for (segment, times) in &kinds {
        let timetable = plan.timetable(segment)?;
        rows += times * timetable.rows().len();
        for row in timetable.rows() {
            let forward =
                forward_flops(&model.transformer, row.interval.len(), per_frame, plan.causal_mask);
            flops += (times * passes) as f64 * forward.total();
            if row.interval.len() > window {
                (window, longest) = (row.interval.len(), forward);
            }
        }
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
    let expected_seconds = (flops + decode) / (rate * share);
    let frames = match request.length {
        Length::Frames(frames) => Some(frames),
        Length::Endless => None,
    };
    let film_pixels = request.film_size().map(|side| side as u64).iter().product::<u64>();
    let counted = frames.unwrap_or(4 * latents as u64);
    let weights = (model.transformer_bytes + model.other_bytes).max(model.text_encoder_bytes);
    let working = forward_bytes(&model.transformer, window * per_frame)
        .max(decode_bytes(&model.vae, height, width));
    let gpu = model
        .gpu
        .as_ref()
        .map(|gpu| GpuPlan::new(gpu, &Need::of(model, window * per_frame, height, width)));
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
        kind: model.kind.to_string(),
        revision: model.revision.clone(),
        width,
        height,
        frames,
        film_seconds: frames.map(|f| f as f64 / f64::from(request.fps)),
        segments: count,
        window_latents: window,
        tokens: window * per_frame,
        rows,
        forwards: rows * passes,
        forward_flops: longest,
        total_flops: flops + decode,
        memory_bytes: if gpu.is_some() { HOST_BYTES } else { weights + working },
        gpu,
        available_bytes: available_memory_bytes(),
        // Flat pictures take a fortieth of a byte a pixel in H.264, busy ones ten times as much.
        disk_bytes: counted * u64::from(request.finish.frames) * film_pixels / 8,
        machine_flops_per_second: rate,
        expected_seconds,
        savings: savings(request, model, flops / (flops + decode)),
        notes: std::mem::take(notes),
    })
}

/// Each option's expected share of the time. `denoising` is the share of the transformer in it.
fn savings(request: &FilmRequest, model: &ModelFacts, denoising: f64) -> Vec<Saving> {
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
    if request.steps > 20 {
        savings.push(Saving {
            option: "--steps 20".into(),
            what: "fewer steps".into(),
            time_share: share(20.0 / request.steps as f64),
        });
    }
    if request.ar_step > 0 {
        savings.push(Saving {
            option: "--ar-step 0".into(),
            what: "all blocks together".into(),
            time_share: share(0.4),
        });
    }
    savings
}

impl PlanSummary {
    pub(super) fn empty() -> Self {
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
            forward_flops: ForwardFlops { attention: 0.0, linear: 0.0, cross_attention: 0.0 },
            total_flops: 0.0,
            memory_bytes: 0,
            available_bytes: None,
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
                "\n  {:<20} {} -> about {}",
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
