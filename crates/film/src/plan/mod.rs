//! From a request to a plan: everything that can be known before a weight is loaded is checked here,
//! and said with the nearest values that work.

mod batch;
mod bringing;
mod cache;
mod causal;
mod checks;
mod gpu;
mod memory;
mod prompts;
mod savings;
mod shown;
mod sparse;
mod summary;
mod time;
mod words;

use std::path::Path;
use std::sync::Arc;

use longreel_kernels::Products;
use longreel_media::VideoReader;
use longreel_models::{AttentionWindow, SparseAttention, UpscalerShape};
use longreel_sampling::{
    Guidance, Keeping, Schedule, SchedulerConfig, Segment, SegmentPlan, SolverKind, Timetable,
    TimetableShape,
};
use longreel_weights::{ModelKind, PublishedModel, TransformerConfig, VaeConfig, WeightDtype};

pub use self::batch::GuidanceBatchSummary;
pub use self::bringing::BringingSummary;
pub(crate) use self::cache::step_cache;
pub use self::causal::KvCacheSummary;
use self::checks::{check_grid, check_kind, check_values, film_shape};
pub use self::gpu::GpuPlan;
use self::memory::strips;
pub use self::savings::Saving;
pub use self::summary::{FinishSummary, PlanSummary};
use self::summary::{Work, decoding_of, summarise};
pub use self::time::ExchangeSummary;
pub use self::words::{human_bytes, human_frames, human_seconds};
use crate::condition::{fit_note, rate_note, read_image, too_short, video_options};
use crate::device::{CardNames, DeviceChoice, GpuFacts, block_values, transformer_values};
use crate::error::{FilmError, PlanError};
use crate::estimate::Batch;
use crate::memory::available_memory_bytes;
use crate::request::{FilmRequest, SolverChoice, StartFrom};
use crate::run::pixel_frame;
use crate::sharing::Sharing;
use crate::solvers::{few_step_schedule, solver_kind};

/// What planning needs to know of a model: configurations and sizes, no weights.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    /// Path as given, for the summary.
    pub name: String,
    /// What the model can do.
    pub kind: ModelKind,
    /// Distilled to make causal blocks one after another, in a few steps each.
    pub causal_few_step: bool,
    /// Content-derived revision; empty while there are no files.
    pub revision: String,
    /// The transformer's configuration.
    pub transformer: TransformerConfig,
    /// The VAE's configuration.
    pub vae: VaeConfig,
    /// The scheduler's configuration.
    pub scheduler: SchedulerConfig,
    /// Bytes of the transformer's weights as stored, or as what they are converted to.
    pub transformer_bytes: u64,
    /// What the transformer's weights are converted to when they are loaded, if they are.
    pub converted: Option<Converted>,
    /// Bytes of the text encoder's weights as stored.
    pub text_encoder_bytes: u64,
    /// Bytes of VAE and image encoder as stored.
    pub other_bytes: u64,
    /// The sizes of the network that enlarges frames, where there is one.
    pub upscaler: Option<UpscalerShape>,
    /// The GPU that makes the film; the processor does without one.
    pub gpu: Option<GpuFacts>,
    /// Devices that share the work, GPUs or parts of the processor.
    pub devices: usize,
    /// Whether another machine is to make the film, of whose memory nothing is known but what `gpu` says.
    pub elsewhere: bool,
}

/// Weights that are converted when they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// What to.
    pub dtype: WeightDtype,
    /// Bytes that they take in the files.
    pub stored_bytes: u64,
    /// Bytes of those that lie in memory for it, and not in the files.
    pub memory_bytes: u64,
}

impl ModelFacts {
    /// Those of a published model whose files need not be here, with weights converted to `dtype` if they are to be.
    ///
    /// # Errors
    /// None: what is published can be read.
    pub fn of_published(
        model: &PublishedModel,
        dtype: Option<WeightDtype>,
    ) -> Result<Self, FilmError> {
        let bytes = model.bytes(dtype)?;
        Ok(Self {
            name: model.name.to_owned(),
            kind: model.kind,
            causal_few_step: false,
            revision: String::new(),
            transformer: model.transformer.clone(),
            vae: model.vae()?,
            scheduler: SchedulerConfig::from_json(&model.scheduler_json())
                .map_err(PlanError::from)?,
            transformer_bytes: bytes.transformer,
            converted: dtype.map(|dtype| Converted {
                dtype,
                stored_bytes: bytes.transformer_stored,
                memory_bytes: bytes.transformer_converted,
            }),
            text_encoder_bytes: bytes.text_encoder,
            other_bytes: bytes.other,
            upscaler: None,
            gpu: None,
            devices: 1,
            elsewhere: false,
        })
    }

    /// The same model on what a choice of devices leads to.
    ///
    /// # Errors
    /// When a GPU was asked for that cannot be used.
    pub fn on(self, device: &DeviceChoice) -> Result<Self, FilmError> {
        let gpu = GpuFacts::of(device);
        if gpu.is_none() && matches!(device, DeviceChoice::Cuda(_)) {
            // Not there: told before anything is made.
            device.open(self.converted.map(|converted| converted.dtype))?;
        }
        Ok(Self { gpu, devices: device.count(), ..self })
    }

    /// The same model on so many GPUs that are not here: the host's memory is then not that of this machine.
    pub fn on_cards(self, cards: &CardNames) -> Self {
        let (gpu, devices) = (Some(cards.facts()), cards.count());
        Self { gpu, devices, elsewhere: true, ..self }
    }

    /// Bytes of the host's memory that are available now, where the film is made on this machine.
    pub(crate) fn available_bytes(&self) -> Option<u64> {
        available_memory_bytes().filter(|_| !self.elsewhere)
    }

    /// The same with 8-bit floats in the transformer's blocks, about.
    pub(crate) fn in_8_bits(&self) -> Self {
        let [blocks, all] = [block_values, transformer_values].map(|of| of(&self.transformer));
        let stored_bytes = self.transformer_bytes;
        let others = stored_bytes as f64 / all.max(1) as f64 * (all - blocks) as f64;
        let dtype = WeightDtype::Fp8;
        Self {
            transformer_bytes: blocks + others as u64,
            converted: Some(Converted { dtype, stored_bytes, memory_bytes: 0 }),
            ..self.clone()
        }
    }

    /// Whether the products of the transformer's blocks are of 8-bit floats.
    pub(crate) fn has_8_bit_products(&self) -> bool {
        self.products() == Products::Fp8
    }

    /// What the transformer's blocks multiply.
    pub(crate) fn products(&self) -> Products {
        self.converted.map_or(Products::default(), |converted| converted.dtype.into())
    }

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
    pub(crate) attention_window: Option<AttentionWindow>,
    pub(crate) sparse: Option<SparseAttention>,
    pub(crate) keeping: Option<Keeping>,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) solver: SolverKind,
    pub(crate) guidance: Guidance,
    /// Whether both its passes are one batch.
    pub(crate) guidance_batch: bool,
    pub(crate) sharing: Sharing,
    /// In how many strips pictures are decoded.
    pub(crate) strips: usize,
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

    /// Segment `index` as it is planned, or `None` beyond the end of the film.
    pub fn planned(&self, index: usize) -> Option<PlannedSegment<'_>> {
        let segment = self.segments.segment(index)?;
        let first = pixel_frame(segment.first_new_latent);
        let end = pixel_frame(segment.first_new_latent + segment.new_latents);
        let (prompt, seed) = self.request.in_force(first);
        Some(PlannedSegment {
            // What a film starts from counts to its first segment.
            frames: end - if index == 0 { 0 } else { first },
            prompt,
            seed,
        })
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

    /// Latent frames whose keys are kept at most; `None` when none are.
    pub(crate) fn kept_frames(&self) -> Option<usize> {
        self.keeping.map(|keeping| keeping.most_frames)
    }

    /// A pass of `tokens` tokens, or both passes of guidance where they are a batch.
    pub(crate) fn batch(&self, tokens: usize) -> Batch {
        Batch { tokens, samples: if self.guidance_batch { 2 } else { 1 } }
    }

    /// The plan of a run that began with so many, with so many strips of the decoder, and with both passes of
    /// guidance as a batch or not. On the processor all of them give the same film, and the memory of today
    /// counts.
    pub(crate) fn begun_with(
        mut self,
        kept_frames: Option<usize>,
        strips: Option<usize>,
        guidance_batch: bool,
        model: &ModelFacts,
    ) -> Result<Self, PlanError> {
        if model.gpu.is_none() {
            return Ok(self);
        }
        if let (Some(keeping), Some(kept)) = (&mut self.keeping, kept_frames) {
            keeping.most_frames = kept;
        }
        self.strips = strips.unwrap_or(self.strips);
        self.guidance_batch = guidance_batch && batch::obstacle(&self, model)?.is_none();
        self.summary = summarise(&self, model)?;
        Ok(self)
    }

    /// The same plan with times by what is known of the devices now.
    pub(crate) fn timed_by(mut self, model: &ModelFacts) -> Result<Self, PlanError> {
        self.summary = summarise(&self, model)?;
        Ok(self)
    }

    /// Segments by their kind, and how many there are of each: they differ at the film's ends only.
    fn kinds_of_segments(&self) -> Vec<(Segment, usize)> {
        let Some(count) = self.segments.count() else {
            let any = self.segments.segment(1).or(self.segments.segment(0));
            return any.map(|segment| (segment, 1)).into_iter().collect();
        };
        let mut kinds: Vec<(Segment, usize)> = Vec::new();
        for index in [0, 1, count.saturating_sub(1)] {
            if let Some(segment) = self.segments.segment(index)
                && index < count
                && kinds.iter().all(|(s, _)| s.index != index)
            {
                kinds.push((segment, 1));
            }
        }
        if let Some(middle) = kinds.get_mut(1) {
            middle.1 = count.saturating_sub(2).max(1);
        }
        kinds
    }

    /// What there is to say of a film that needs more memory than `available`.
    pub fn beyond(&self, available: u64) -> Beyond {
        let PlanSummary { memory_bytes, finish, guidance_batch, .. } = &self.summary;
        let rule = format!("this film needs about {} of memory", human_bytes(*memory_bytes));
        let size = |[width, height]: [usize; 2]| format!("{width}x{height}");
        let added = guidance_batch.map_or(0, |batch| batch.added_bytes);
        let (flag, value, fix) = match finish {
            _ if added > 0 && memory_bytes - added <= available => {
                ("--guidance-batch", "on".to_owned(), "leave it out")
            }
            Some(finish) if memory_bytes - finish.added_bytes <= available => {
                match self.request.finish.size {
                    Some(to) => ("--upscale", size(to), "use a smaller --upscale, or none"),
                    None => ("--interpolate", finish.frames.to_string(), "leave it out"),
                }
            }
            _ => {
                let own = [self.request.width, self.request.height];
                ("--size", size(own), "use a smaller --size or --base-num-frames")
            }
        };
        Beyond { flag, value, rule, fix }
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

/// A film that needs more memory than there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// The flag whose value asks for so much.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
    /// What the film needs.
    pub rule: String,
    /// What to ask for.
    pub fix: &'static str,
}

/// What is known of a segment before it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSegment<'a> {
    /// Pixel frames that it adds. A video that is extended adds its own length to the first segment.
    pub frames: u64,
    /// The prompt it will be made from.
    pub prompt: &'a str,
    /// Its seed.
    pub seed: u64,
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
    let causal_block =
        request.causal_block_size.unwrap_or(model.transformer.num_frame_per_block).max(1);
    let shape = film_shape(request, model, causal_block)?;
    let segments = SegmentPlan::new(&shape)?;
    check_grid(request, model, &segments)?;
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
    let guidance = Guidance::new(request.guidance_scale, request.guidance_interval)?;
    step_cache(request, model)?;
    let ways = Sharing::ways(model.devices, segments.count(), request, &model.transformer)?;
    let attention_window = causal::attention_window(request, causal_mask)?;
    let sparse = sparse::sparse_attention(request, &schedule, model)?;
    let base = FilmPlan {
        request: request.clone(),
        segments,
        causal_block,
        causal_mask,
        attention_window,
        sparse,
        keeping: None,
        schedule,
        solver,
        guidance,
        guidance_batch: false,
        sharing: Sharing::ALONE,
        strips: 1,
        summary: PlanSummary::empty(Sharing::ALONE),
    };
    let shared = |sharing| -> Result<FilmPlan, PlanError> {
        let mut plan = FilmPlan { sharing, ..base.clone() };
        plan.strips = strips(&plan, model, check_memory);
        plan.keeping = causal::keeping(&plan, model)?;
        Ok(plan)
    };
    let mut plan = match *ways {
        [sharing] => shared(sharing)?,
        _ => cheapest(ways.into_iter().map(shared), model)?,
    };
    plan.guidance_batch = batch::guidance_batch(&plan, model)?;
    plan.summary = summarise(&plan, model)?;
    if check_memory
        && let Some(gpu) = &plan.summary.gpu
        && gpu.weights_there.is_none()
    {
        return Err(PlanError::value(
            "--size",
            format!("{}x{}", request.width, request.height),
            format!(
                "this film needs at least {} of the GPU's memory and {} are free",
                human_bytes(gpu.least_bytes),
                human_bytes(gpu.free_bytes)
            ),
            format!(
                "use {}a smaller --size or --base-num-frames, weights of fewer bits (--dtype fp8, \
                 `longreel models quantize`), or --device cpu",
                if plan.guidance_batch { "--guidance-batch auto, " } else { "" }
            ),
        ));
    }
    if check_memory
        && let Some(available) = plan.summary.available_bytes
        && plan.summary.memory_bytes > available
    {
        let Beyond { flag, value, rule, fix } = plan.beyond(available);
        let rule = format!("{rule} and {} are available", human_bytes(available));
        let fix = format!("{fix}, or --no-memory-check to try anyway");
        return Err(PlanError::value(flag, value, rule, fix));
    }
    Ok(plan)
}

/// The first of those that take the least time, of at least one. Some take the same but for what is rounded on the way
/// to seconds, which is another with each measured rate.
fn cheapest(
    plans: impl Iterator<Item = Result<FilmPlan, PlanError>>,
    model: &ModelFacts,
) -> Result<FilmPlan, PlanError> {
    let mut best: Option<(FilmPlan, f64)> = None;
    for plan in plans {
        let plan = plan?;
        let denoise = Work::of(&plan, model)?.denoising(plan.sharing, &plan, model)?.seconds;
        let (rate, share) = model.rate();
        let decode = decoding_of(&plan, model) / (rate * share);
        let cost = plan.sharing.cost(denoise, decode, plan.segments.count());
        if best.as_ref().is_none_or(|(_, least)| cost < least * (1.0 - 1e-9)) {
            best = Some((plan, cost));
        }
    }
    Ok(best.expect("there is a way, or an error").0)
}

/// Opens the pictures and the video that a planned film names, by paths from `folder`, and says what becomes of them
/// that one might not expect: how they are brought to the film's size, at which pace a video plays.
///
/// # Errors
/// What cannot be read, and a video that is shorter than the history it has to give.
pub fn check_inputs(plan: &FilmPlan, folder: &Path) -> Result<Vec<String>, PlanError> {
    let request = &plan.request;
    let mut notes = Vec::new();
    let mut is_fitted = |path: &Path, size| {
        let note = fit_note(size, request);
        notes.extend(note.map(|note| format!("{}: {note}", path.display())));
    };
    let first = match &request.start {
        StartFrom::Image(path) => Some(path),
        _ => None,
    };
    for path in first.into_iter().chain(&request.end_image) {
        let picture = read_image(&folder.join(path))?;
        is_fitted(path, (picture.width(), picture.height()));
    }
    if let StartFrom::Video(path) = &request.start {
        let video = VideoReader::open(&folder.join(path), &video_options(request))?;
        let info = video.info();
        let count = video_history_frames(plan);
        if let Some(frames) = info.most_frames().filter(|&f| f < count as u64) {
            return Err(too_short(path, info, frames, count));
        }
        is_fitted(path, (info.width, info.height));
        notes.extend(rate_note(path, info));
    }
    Ok(notes)
}

/// Pixel frames of a video that the first window begins with.
pub(crate) fn video_history_frames(plan: &FilmPlan) -> usize {
    plan.segments.overlap().to_pixels().map_or(1, |frames| frames.get())
}
