//! From a request to a plan: everything that can be known before a weight is loaded is checked here,
//! and said with the nearest values that work.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use longreel_media::{VideoOptions, VideoReader};
use longreel_sampling::{
    EasyCache, FilmShape, Guidance, PixelFrames, Schedule, SchedulerConfig, Segment, SegmentError,
    SegmentPlan, SolverKind, Start, StepCache, TeaCache, TeaCacheFamily, Timetable, TimetableShape,
};
use longreel_weights::{ModelKind, TransformerConfig, VaeConfig};
use serde::Serialize;

use crate::condition::read_image;
use crate::error::PlanError;
use crate::estimate::{
    ForwardFlops, available_memory_bytes, decode_bytes, decode_flops, forward_bytes, forward_flops,
    probe_flops_per_second, tokens_per_frame,
};
use crate::request::{
    CacheChoice, Carry, FilmRequest, Length, SolverChoice, StartFrom, TimedPrompt,
};
use crate::run::pixel_frame;
use crate::solvers::{few_step_schedule, solver_kind};

/// Sides beyond this are refused: no published model knows them, and the arithmetic of a mistyped
/// size would only fail later.
const MAX_SIDE: usize = 8192;
const MAX_PROMPT_BYTES: usize = 1 << 20;

/// What planning needs to know of a model: configurations and sizes, no weights.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    /// Path as given, for the summary.
    pub name: String,
    /// What the model can do.
    pub kind: ModelKind,
    /// Content-derived revision.
    pub revision: String,
    /// The transformer's configuration.
    pub transformer: TransformerConfig,
    /// The VAE's configuration.
    pub vae: VaeConfig,
    /// The scheduler's configuration.
    pub scheduler: SchedulerConfig,
    /// Bytes of the transformer's weights as stored.
    pub transformer_bytes: u64,
    /// Bytes of the text encoder's weights as stored.
    pub text_encoder_bytes: u64,
    /// Bytes of VAE and image encoder as stored.
    pub other_bytes: u64,
}

impl ModelFacts {
    /// The transformer's width.
    pub(crate) fn dim(&self) -> usize {
        self.transformer.num_attention_heads * self.transformer.attention_head_dim
    }
}

/// A request that will work, as far as can be known.
#[derive(Debug, Clone)]
pub struct FilmPlan {
    request: FilmRequest,
    pub(crate) segments: SegmentPlan,
    pub(crate) causal_block: usize,
    pub(crate) causal_mask: Option<usize>,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) solver: SolverKind,
    pub(crate) guidance: Guidance,
    summary: PlanSummary,
}

impl FilmPlan {
    /// What was asked.
    pub fn request(&self) -> &FilmRequest {
        &self.request
    }

    /// What it will take.
    pub fn summary(&self) -> &PlanSummary {
        &self.summary
    }

    /// Segments of the film, unless endless.
    pub fn segments(&self) -> Option<usize> {
        self.segments.count()
    }

    /// Latent frames of history that are kept of a film: as many as any segment of it begins with, and
    /// of a film within one window as many as one that goes on from it would.
    pub(crate) fn history_latents(&self) -> usize {
        let asked = self.request.overlap_history.saturating_sub(1) / 4 + 1;
        asked.max(self.causal_block).max(self.segments.overlap().get())
    }

    /// The pixel frame that segment `segment` begins with; `None` when there is no such segment.
    pub fn first_frame(&self, segment: usize) -> Option<u64> {
        Some(pixel_frame(self.segments.segment(segment)?.first_new_latent))
    }

    /// How many segments, from the first on, have the same place and length in both films, so that
    /// with the same prompts and seeds they are the same. Two films that differ in more than length
    /// may still be made in different ways.
    pub fn shared_segments(&self, other: &Self) -> usize {
        let alike = |index: usize| {
            let place = |plan: &Self| {
                let segment = plan.segments.segment(index)?;
                Some(Segment { is_last: false, ..segment })
            };
            place(self).is_some() && place(self) == place(other)
        };
        let counts = [self.segments(), other.segments()];
        let most = counts.into_iter().flatten().min();
        // Films begin alike and part once.
        let mut shared = most.unwrap_or(usize::MAX >> 1);
        while shared > 0 && !alike(shared - 1) {
            shared -= 1;
        }
        shared
    }

    /// The same film with other prompts.
    ///
    /// # Errors
    /// Prompts that cannot be used.
    pub(crate) fn with_prompts(&self, prompts: Vec<TimedPrompt>) -> Result<Self, PlanError> {
        let request = FilmRequest { prompts, ..self.request.clone() };
        check_values(&request)?;
        Ok(Self { request, ..self.clone() })
    }

    /// The prompts of the film when segment `segment` has another prompt or another seed. A prompt
    /// holds up to the next one that the film has, a seed to the film's end. `None` when there is no
    /// such segment.
    pub fn changed_prompts(
        &self,
        prompts: &[TimedPrompt],
        segment: usize,
        prompt: Option<&str>,
        seed: Option<u64>,
    ) -> Option<Vec<TimedPrompt>> {
        let first = self.first_frame(segment)?;
        let before = segment.checked_sub(1).and_then(|segment| self.first_frame(segment));
        let film_seed = self.request.seed;
        let at =
            |frame: u64| &prompts[prompts.iter().rposition(|p| p.from_frame <= frame).unwrap_or(0)];
        let seed_of = |timed: &TimedPrompt| timed.seed.unwrap_or(film_seed);
        let (now, wanted_seed) = (at(first), seed.unwrap_or(seed_of(at(first))));
        let wanted = (prompt.unwrap_or(&now.prompt), wanted_seed);
        let mut changed = prompts.to_vec();
        if let Some(seed) = seed {
            for later in changed.iter_mut().filter(|p| p.from_frame > first) {
                if seed_of(later) != seed {
                    later.seed = (seed != film_seed).then_some(seed);
                }
            }
        }
        if wanted == (now.prompt.as_str(), seed_of(now)) {
            return Some(changed);
        }
        // Of those that begin for this very segment the last one counted, and now none.
        changed.retain(|p| p.from_frame > first || before.is_some_and(|b| p.from_frame <= b));
        let held = before.map(at).map(|timed| (timed.prompt.as_str(), seed_of(timed)));
        if held != Some(wanted) {
            let place = changed.partition_point(|p| p.from_frame <= first);
            let from_frame = if segment == 0 { 0 } else { first };
            let seed = (wanted.1 != film_seed).then_some(wanted.1);
            let prompt = wanted.0.to_owned();
            changed.insert(place, TimedPrompt { from_frame, prompt, seed });
        }
        Some(changed)
    }

    pub(crate) fn timetable(&self, segment: &Segment) -> Result<Timetable, PlanError> {
        let shape = TimetableShape::of(
            segment,
            self.causal_block,
            self.request.ar_step,
            self.request.addnoise_condition,
        );
        Ok(Timetable::new(&shape, &self.schedule.timesteps)?)
    }
}

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

/// Checks `request` against `model` and plans it. Loads no weight and writes nothing.
///
/// # Errors
/// Everything that cannot work, with the nearest values that do.
pub fn plan(
    request: &FilmRequest,
    model: &ModelFacts,
    check_memory: bool,
) -> Result<FilmPlan, PlanError> {
    check_values(request)?;
    check_kind(request, model)?;
    let mut notes = Vec::new();
    let causal_block =
        request.causal_block_size.unwrap_or(model.transformer.num_frame_per_block).max(1);
    let shape = film_shape(request, model, causal_block)?;
    let segments = SegmentPlan::new(&shape)?;
    let causal_mask = match request.causal_attention {
        Some(true) => Some(causal_block),
        Some(false) => None,
        None => (causal_block > 1).then_some(causal_block),
    };
    let scheduler = model.scheduler.clone().with_flow_shift(f64::from(request.flow_shift))?;
    let schedule = Arc::new(match &request.solver {
        SolverChoice::FewStep { timesteps, .. } => {
            few_step_schedule(timesteps, request.flow_shift)?
        }
        _ => Schedule::new(&scheduler, request.steps)?,
    });
    let solver = solver_kind(&request.solver, &scheduler, model.kind);
    solver.build(&schedule)?;
    let guidance = Guidance::new(request.guidance_scale)?;
    step_cache(request, model)?;
    let mut plan = FilmPlan {
        request: request.clone(),
        segments,
        causal_block,
        causal_mask,
        schedule,
        solver,
        guidance,
        summary: PlanSummary::empty(),
    };
    plan.summary = summarise(&plan, model, &mut notes)?;
    if check_memory
        && let Some(available) = plan.summary.available_bytes
        && plan.summary.memory_bytes > available
    {
        return Err(PlanError::value(
            "--size",
            format!("{}x{}", request.width, request.height),
            format!(
                "this film needs about {} of memory and {} are available",
                human_bytes(plan.summary.memory_bytes),
                human_bytes(available)
            ),
            "use a smaller --size or --base-num-frames, or --no-memory-check to try anyway",
        ));
    }
    Ok(plan)
}

/// Opens the pictures and the video that a planned film names, by paths from `folder`.
///
/// # Errors
/// What cannot be read, and a video that is shorter than the history it has to give.
pub fn check_inputs(plan: &FilmPlan, folder: &Path) -> Result<(), PlanError> {
    let request = &plan.request;
    if let StartFrom::Image(path) = &request.start {
        read_image(&folder.join(path))?;
    }
    if let Some(path) = &request.end_image {
        read_image(&folder.join(path))?;
    }
    if let StartFrom::Video(path) = &request.start {
        let video = VideoReader::open(&folder.join(path), &VideoOptions::default())?;
        let count = video_history_frames(plan);
        if let Some(frames) = video.info().frames.filter(|&f| f < count as u64) {
            return Err(PlanError::value(
                "--video",
                path.display(),
                format!("has {frames} frames, and --overlap-history {count} needs that many"),
                "use a smaller --overlap-history or a longer video",
            ));
        }
    }
    Ok(())
}

/// Pixel frames of a video that the first window begins with.
pub(crate) fn video_history_frames(plan: &FilmPlan) -> usize {
    plan.segments.overlap().to_pixels().map_or(1, |frames| frames.get())
}

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

fn check_values(request: &FilmRequest) -> Result<(), PlanError> {
    for (name, side) in [("width", request.width), ("height", request.height)] {
        if side == 0 || !side.is_multiple_of(16) || side > MAX_SIDE {
            let below = (side / 16 * 16).clamp(16, MAX_SIDE);
            let above = (below + 16).min(MAX_SIDE);
            return Err(PlanError::value(
                "--size",
                format!("{}x{}", request.width, request.height),
                format!("the {name} {side} must be a multiple of 16, at most {MAX_SIDE}"),
                if side > below && above > below {
                    format!("use {below} or {above}")
                } else {
                    format!("use {below}")
                },
            ));
        }
    }
    if request.steps == 0 || request.steps > 1000 {
        return Err(PlanError::value(
            "--steps",
            request.steps,
            "must be between 1 and 1000",
            format!("use {}", request.steps.clamp(1, 1000)),
        ));
    }
    let finite = [
        ("--guidance-scale", request.guidance_scale, 0.0, 100.0),
        ("--shift", request.flow_shift, 0.01, 1000.0),
        ("--addnoise-condition", request.addnoise_condition, 0.0, 1000.0),
    ];
    for (what, value, low, high) in finite {
        if !(low..=high).contains(&value) {
            return Err(PlanError::value(
                what,
                value,
                format!("must be between {low} and {high}"),
                if value.is_nan() {
                    "give a number".to_owned()
                } else {
                    format!("use {}", value.clamp(low, high))
                },
            ));
        }
    }
    if request.fps == 0 || request.fps > 240 {
        return Err(PlanError::value(
            "--fps",
            request.fps,
            "must be between 1 and 240",
            format!("use {}", request.fps.clamp(1, 240)),
        ));
    }
    if request.prompts.is_empty() || request.prompts.iter().any(|p| p.prompt.trim().is_empty()) {
        return Err(PlanError::value(
            "PROMPT",
            "''",
            "is empty",
            "say what the film shows, such as \"a red circle moves right on a blue background\"",
        ));
    }
    let longest =
        request.prompts.iter().map(|p| p.prompt.len()).chain([request.negative_prompt.len()]);
    if let Some(bytes) = longest.max().filter(|&bytes| bytes > MAX_PROMPT_BYTES) {
        return Err(PlanError::value(
            "PROMPT",
            format!("of {bytes} bytes"),
            format!("must be at most {MAX_PROMPT_BYTES} bytes"),
            "shorten it; a model reads 512 tokens of it at most",
        ));
    }
    if let Some(block) = request.causal_block_size.filter(|&b| b == 0 || b > 1024) {
        return Err(PlanError::value(
            "--causal-block-size",
            block,
            "must be between 1 and 1024 latent frames",
            format!("use {}", block.clamp(1, 1024)),
        ));
    }
    Ok(())
}

fn check_kind(request: &FilmRequest, model: &ModelFacts) -> Result<(), PlanError> {
    let kind = model.kind;
    let refuse =
        |what, value: &str, rule: String, fix: &str| Err(PlanError::value(what, value, rule, fix));
    let has_image = matches!(request.start, StartFrom::Image(_));
    if let StartFrom::Video(path) = &request.start {
        if kind != ModelKind::DiffusionForcing {
            return refuse(
                "--video",
                &path.display().to_string(),
                format!("a {kind} model cannot extend a video"),
                "use a diffusion-forcing (DF) model",
            );
        }
        if let Some(end) = &request.end_image {
            return refuse(
                "--end-image",
                &end.display().to_string(),
                "cannot be combined with --video".into(),
                "leave one of them out",
            );
        }
    }
    if request.end_image.is_some() && matches!(request.start, StartFrom::Prompt) {
        return refuse(
            "--end-image",
            "",
            "needs a first image too".into(),
            "give one with --image",
        );
    }
    match kind {
        ModelKind::DiffusionForcing => {}
        ModelKind::TextToVideo if has_image => {
            return refuse(
                "--image",
                "",
                format!("a {kind} model takes no image"),
                "use an image-to-video (I2V) or diffusion-forcing (DF) model",
            );
        }
        ModelKind::ImageToVideo | ModelKind::FirstLastFrame if !has_image => {
            return refuse(
                "--image",
                "",
                format!("a {kind} model needs a first image"),
                "give one with --image FILE",
            );
        }
        ModelKind::FirstLastFrame if request.end_image.is_none() => {
            return refuse(
                "--end-image",
                "",
                format!("a {kind} model needs a last image"),
                "give one with --end-image FILE",
            );
        }
        _ => {}
    }
    if kind != ModelKind::DiffusionForcing {
        if request.length == Length::Endless {
            return refuse(
                "--endless",
                "",
                format!("a {kind} model makes one segment"),
                "use a diffusion-forcing (DF) model",
            );
        }
        if request.ar_step > 0 {
            return refuse(
                "--ar-step",
                &request.ar_step.to_string(),
                format!("a {kind} model has one timestep for all frames"),
                "use --ar-step 0, or a diffusion-forcing (DF) model",
            );
        }
        if request.causal_block_size.is_some_and(|b| b > 1) {
            return refuse(
                "--causal-block-size",
                &request.causal_block_size.unwrap_or(1).to_string(),
                format!("a {kind} model has no causal blocks"),
                "leave it out, or use a diffusion-forcing (DF) model",
            );
        }
    }
    if let CacheChoice::TeaCache { threshold, .. } | CacheChoice::EasyCache { threshold } =
        request.cache
        && !(threshold > 0.0 && threshold < 10.0)
    {
        return refuse(
            "--teacache-thresh",
            &threshold.to_string(),
            "must be above 0 and below 10".into(),
            "use 0.1 to 0.3",
        );
    }
    Ok(())
}

fn film_shape(
    request: &FilmRequest,
    model: &ModelFacts,
    causal_block: usize,
) -> Result<FilmShape, PlanError> {
    let pixels = |what, frames: u64| {
        PixelFrames::new(usize::try_from(frames).unwrap_or(usize::MAX)).map_err(|e| match e {
            SegmentError::NotFourNPlusOne { frames, nearest } => {
                PlanError::value(what, frames, "must be 4n+1", format!("use {nearest}"))
            }
            other => other.into(),
        })
    };
    let total = match request.length {
        Length::Frames(frames) => Some(pixels("--num-frames", frames)?),
        Length::Endless => None,
    };
    let base = pixels("--base-num-frames", request.base_num_frames as u64)?;
    let overlap = pixels("--overlap-history", request.overlap_history as u64)?;
    // A model without diffusion forcing makes its film in one piece.
    let base = match (model.kind, total) {
        (ModelKind::DiffusionForcing, _) | (_, None) => base,
        (_, Some(total)) => total,
    };
    Ok(FilmShape {
        total,
        base,
        overlap: Some(overlap),
        causal_block,
        start: match (&request.start, model.kind) {
            (StartFrom::Image(_), ModelKind::DiffusionForcing) => Start::Image,
            (StartFrom::Video(_), _) => Start::Video,
            _ => Start::Noise,
        },
        end_image: request.end_image.is_some() && model.kind == ModelKind::DiffusionForcing,
    })
}

fn summarise(
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
    let decode = latents as f64 * decode_flops(&model.vae, height, width);
    let rate = probe_flops_per_second();
    // Norms, memory traffic and the tail of each kernel cost about a third on top of the probe's.
    let expected_seconds = (flops + decode) / (rate * 0.7);
    let frames = match request.length {
        Length::Frames(frames) => Some(frames),
        Length::Endless => None,
    };
    let counted = frames.unwrap_or(4 * latents as u64);
    let weights = (model.transformer_bytes + model.other_bytes).max(model.text_encoder_bytes);
    let working = forward_bytes(&model.transformer, window * per_frame)
        .max(decode_bytes(&model.vae, height, width));
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
        memory_bytes: weights + working,
        available_bytes: available_memory_bytes(),
        // Flat pictures take a fortieth of a byte a pixel in H.264, busy ones ten times as much.
        disk_bytes: counted * (width * height) as u64 / 8,
        machine_flops_per_second: rate,
        expected_seconds,
        savings: savings(request, model, flops / (flops + decode)),
        notes: std::mem::take(notes),
    })
}

/// The published coefficients that a model's steps are judged by, when there are any.
fn teacache_family(request: &FilmRequest, model: &ModelFacts) -> Option<TeaCacheFamily> {
    let takes_image = model.transformer.in_channels > model.transformer.out_channels;
    TeaCacheFamily::of(model.dim(), takes_image, request.height.min(request.width))
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
    fn empty() -> Self {
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
            disk_bytes: 0,
            machine_flops_per_second: 0.0,
            expected_seconds: 0.0,
            savings: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// A byte count for people: `1.3 GB`.
pub fn human_bytes(bytes: u64) -> String {
    scaled(bytes as f64, "B")
}

/// A duration for people: `2 h 05 min`, `3 min 20 s`, `1.4 s`.
pub fn human_seconds(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{:.1} days", seconds / 86400.0),
    }
}

fn scaled(value: f64, unit: &str) -> String {
    for (limit, prefix) in
        [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
    {
        if value >= limit {
            return format!("{:.1} {prefix}{unit}", value / limit);
        }
    }
    format!("{value:.0} {unit}")
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
        writeln!(f, "disk       up to about {}{per}", human_bytes(self.disk_bytes))?;
        write!(
            f,
            "time       about {}{per} on this machine ({})",
            human_seconds(self.expected_seconds),
            scaled(self.machine_flops_per_second, "FLOP/s")
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
