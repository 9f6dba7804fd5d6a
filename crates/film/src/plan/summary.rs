//! What a plan will take: passes, arithmetic, memory, disk, time.

use longreel_sampling::{KeptRow, Timetable, kept_rows};
use longreel_weights::ModelKind;
use serde::Serialize;

use super::batch::{self, GuidanceBatchSummary};
use super::bringing::{self, BringingSummary};
use super::cache::step_cache_bytes;
use super::causal::{self, KvCacheSummary};
use super::gpu::{GpuPlan, need};
use super::memory::{bytes_with, on_the_way};
use super::savings::{Saving, savings};
use super::time::ExchangeSummary;
use super::words::human_bytes;
use super::{FilmPlan, ModelFacts, sparse};
use crate::device::Need;
use crate::error::PlanError;
use crate::estimate::{
    Batch, ForwardFlops, decode_flops, forward_flops, parked_bytes, tokens_per_frame,
};
use crate::finish::FinishBytes;
use crate::request::{CacheChoice, Carry, FilmRequest, Finish, GuidanceBatchChoice, Length};
use crate::sharing::Sharing;

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
    /// Forward passes: rows, twice where they are guided.
    pub forwards: usize,
    /// Operations of the longest forward pass.
    pub forward_flops: ForwardFlops,
    /// Operations of the film (of one segment, when endless), decoding included.
    pub total_flops: f64,
    /// Expected peak memory in bytes: weights, activations, decoder.
    pub memory_bytes: u64,
    /// What is done to frames before they are encoded, and what of that it takes.
    pub finish: Option<FinishSummary>,
    /// What of that keeps finished causal blocks, and what it saves.
    pub kv_cache: Option<KvCacheSummary>,
    /// Bytes of that for what `--teacache` keeps of a pass while another one runs.
    pub step_cache_bytes: u64,
    /// What both passes of guidance take as one batch, if they are one.
    pub guidance_batch: Option<GuidanceBatchSummary>,
    /// Whether it is a plan for another machine.
    pub elsewhere: bool,
    /// Memory available now, where the system tells and the film is made on this machine.
    pub available_bytes: Option<u64>,
    /// How devices share the work.
    pub sharing: Sharing,
    /// In how many strips of the picture frames are decoded, one after the other: more than one where the whole
    /// does not fit the memory. The film is the same.
    pub decoder_strips: usize,
    /// The GPU that makes the film, if one does, and how its memory is shared out; where there are
    /// several, the one with the least.
    pub gpu: Option<GpuPlan>,
    /// Expected size of the film's file in bytes, roughly.
    pub disk_bytes: u64,
    /// What this machine reaches, in operations a second.
    pub machine_flops_per_second: f64,
    /// The same of a GPU's products of 8-bit floats, where the film has such.
    pub machine_8_bit_flops_per_second: Option<f64>,
    /// What GPUs exchange that share each pass.
    pub exchange: Option<ExchangeSummary>,
    /// What is brought to a GPU again and again.
    pub bringing: Option<BringingSummary>,
    /// Expected time of the film (of one segment, when endless).
    pub expected_seconds: f64,
    /// What would make it cheaper.
    pub savings: Vec<Saving>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// What is done to frames before they are encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FinishSummary {
    /// Pixels of the film.
    pub width: usize,
    /// Pixels of the film.
    pub height: usize,
    /// How many times a network enlarges frames first; Lanczos does all without one.
    pub network: Option<usize>,
    /// Frames of the film for each one of the model.
    pub frames: u32,
    /// Bytes by which the film takes more memory than without.
    pub added_bytes: u64,
}

/// What the program takes besides a GPU's memory: frames, encoder, copies on their way.
const HOST_BYTES: u64 = 1 << 30;

pub(super) fn summarise(plan: &FilmPlan, model: &ModelFacts) -> Result<PlanSummary, PlanError> {
    let request = &plan.request;
    let (width, height) = (request.width, request.height);
    let per_frame = tokens_per_frame(&model.transformer, height, width);
    let count = plan.segments.count();
    let kinds = plan.kinds_of_segments();
    let (mut rows, mut window, mut tokens) = (0, 0, 0);
    let mut work = Work::default();
    for (segment, times) in &kinds {
        let timetable = plan.timetable(segment)?;
        rows += times * timetable.rows().len();
        window = timetable.rows().iter().map(|row| row.interval.len()).fold(window, usize::max);
        let kept = kept_rows(&timetable, plan.keeping);
        tokens = kept.iter().map(|row| row.run.len() * per_frame).fold(tokens, usize::max);
        work.add(&timetable, &kept, *times, plan, model);
    }
    let flops = work.flops.total();
    let mut notes = plan.unused_prompts();
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
            100.0 * flops / Work::of(&wide, model)?.flops.total().max(1.0)
        ));
    }
    if model.gpu.is_none() && model.products().are_pairs() {
        notes.push(
            "--dtype bf16: layers and attention of the transformer multiply bf16 on this processor, which changes \
             the film a little"
                .into(),
        );
    }
    if let Some(converted) = model.converted.filter(|_| model.has_8_bit_products()) {
        let way = match model.gpu {
            Some(_) => "which changes the film a little",
            None => {
                "rounded as a GPU would, which changes the film a little and saves no time here"
            }
        };
        notes.push(format!(
            "--dtype fp8: the transformer takes {}, and {} in its files; products in its blocks are of 8-bit \
             floats, {way}",
            human_bytes(model.transformer_bytes),
            human_bytes(converted.stored_bytes),
        ));
    }
    if let Some(mass) = request.sparse_attention {
        let all = FilmPlan { sparse: None, ..plan.clone() };
        notes.push(sparse::note(mass, flops / Work::of(&all, model)?.flops.total().max(1.0)));
    }
    let latents = latents_of(plan);
    let decode = decoding_of(plan, model);
    let (rate, share) = model.rate();
    // GPUs add up; parts of the processor are the same one.
    let sharing = if model.gpu.is_some() { plan.sharing } else { Sharing::ALONE };
    let denoising = work.denoising(sharing, plan, model)?;
    let decoding = decode / (rate * share);
    let expected_seconds = sharing.cost(denoising.seconds, decoding, count);
    notes.extend(bringing::note(plan, sharing, model, &work, &denoising, expected_seconds)?);
    let savings = savings(plan, model, &work, sharing, denoising.seconds, decoding)?;
    let longest = plan.batch(tokens).all_tokens();
    let frames = match request.length {
        Length::Frames(frames) => Some(frames),
        Length::Endless => None,
    };
    let film_pixels = request.film_size().map(|side| side as u64).iter().product::<u64>();
    let counted = frames.unwrap_or(4 * latents as u64);
    let kv_cache = causal::summary(plan, model)?;
    let kept_keys = kv_cache.as_ref().map_or(0, |kept| kept.bytes);
    let kept = |plan: &FilmPlan| kept_keys + step_cache_bytes(plan, model, tokens);
    let gpu = match &model.gpu {
        Some(gpu) => {
            let size = [height, width];
            let decoder = plan.sharing.decoder.then(|| Need::of_decoder(model, size, plan.strips));
            Some(GpuPlan::new(gpu, &need(plan, model)?, decoder))
        }
        None => None,
    };
    let frames_of_segments = 4 * kinds.iter().map(|(s, _)| s.new_latents).max().unwrap_or(0);
    let memory = |plan: &FilmPlan, request: &FilmRequest| {
        let finish = FinishBytes::of(request, model.upscaler, frames_of_segments as u64);
        match &gpu {
            Some(_) => {
                let on_the_way = on_the_way(plan.sharing, model, plan.batch(tokens));
                let parked =
                    parked_bytes(&model.vae, [height, width], plan.strips, model.element());
                let converted = model.converted.map_or(0, |converted| converted.memory_bytes);
                HOST_BYTES + converted + on_the_way + parked + finish.frame + finish.part
            }
            None => bytes_with(model, plan, tokens, finish) + kept(plan),
        }
    };
    let guidance_batch = match plan.guidance_batch {
        true => {
            let apart = FilmPlan { guidance_batch: false, ..plan.clone() };
            let taken = |plan: &FilmPlan| match &gpu {
                Some(_) => Ok(need(plan, model)?.activations),
                None => Ok::<_, PlanError>(memory(plan, request)),
            };
            let added_bytes = taken(plan)?.saturating_sub(taken(&apart)?);
            Some(GuidanceBatchSummary { added_bytes })
        }
        false => None,
    };
    if request.guidance_batch == GuidanceBatchChoice::On && guidance_batch.is_none() {
        let why = match plan.guidance.enabled() {
            true => batch::obstacle(plan, model)?.unwrap_or("there is no room for it"),
            false => "without guidance a row has one pass",
        };
        notes.push(format!("--guidance-batch on: there is no batch, since {why}"));
    }
    if request.carry == Carry::Pixels {
        notes.push("--carry pixels encodes the history again in each segment, which drifts".into());
        if plan.sharing.devices() > 1 {
            notes.push(
                "--carry pixels: each segment waits for the frames of the one before, so that no device \
                 can decode beside the others"
                    .into(),
            );
        }
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
            "{} models make a film in one piece: memory and time grow with the length",
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
        forwards: work.forwards,
        forward_flops: work.longest,
        total_flops: flops + decode,
        memory_bytes: memory(plan, request),
        finish: (request.finish != Finish::default()).then(|| {
            let [width, height] = request.film_size();
            let plain = FilmRequest { finish: Finish::default(), ..request.clone() };
            FinishSummary {
                width,
                height,
                network: model.upscaler.filter(|_| request.finish.size.is_some()).map(|n| n.factor),
                frames: request.finish.frames,
                added_bytes: memory(plan, request).saturating_sub(memory(plan, &plain)),
            }
        }),
        sharing: plan.sharing,
        decoder_strips: plan.strips,
        gpu,
        kv_cache,
        step_cache_bytes: step_cache_bytes(plan, model, tokens),
        guidance_batch,
        elsewhere: model.elsewhere,
        available_bytes: model.available_bytes(),
        // Flat pictures take a fortieth of a byte a pixel in H.264, busy ones ten times as much.
        disk_bytes: counted * u64::from(request.finish.frames) * film_pixels / 8,
        machine_flops_per_second: rate,
        machine_8_bit_flops_per_second: model
            .gpu
            .as_ref()
            .filter(|_| model.has_8_bit_products())
            .map(|gpu| gpu.peak_8_bit_flops),
        exchange: model.exchange(sharing, longest, work.tokens),
        bringing: denoising.bringing,
        expected_seconds,
        savings,
        notes,
    })
}

/// Latent frames of a film, of one segment when it is endless.
fn latents_of(plan: &FilmPlan) -> usize {
    match (plan.segments.total(), plan.segments.segment(1).or(plan.segments.segment(0))) {
        (Some(total), _) => total.get(),
        (None, segment) => segment.map_or(0, |segment| segment.new_latents),
    }
}

/// Operations of what makes frames of latents.
pub(super) fn decoding_of(plan: &FilmPlan, model: &ModelFacts) -> f64 {
    let (request, latents) = (&plan.request, latents_of(plan) as f64);
    let (width, height) = (request.width, request.height);
    let decoded = latents * decode_flops(&model.vae, height, width);
    if request.finish.size.is_none() {
        return decoded;
    }
    let shown = 4.0 * latents * f64::from(request.finish.frames);
    let network = model.upscaler.map_or(0.0, |network| network.flops_per_pixel());
    decoded + shown * network * (width * height) as f64
}

/// Operations of the transformer.
#[derive(Default)]
pub(super) struct Work {
    /// Passes of all rows.
    forwards: usize,
    /// Of all rows and passes.
    pub flops: ForwardFlops,
    /// Of the longest pass.
    longest: ForwardFlops,
    /// Of all passes.
    tokens: f64,
    /// Rows, those next to each other that are alike together.
    rows: Vec<RowWork>,
}

/// Rows that are alike.
#[derive(Clone, Copy)]
pub(super) struct RowWork {
    /// Operations of a pass.
    pub pass: ForwardFlops,
    /// Passes of a row.
    pub passes: usize,
    /// Rows.
    pub times: usize,
}

impl Work {
    /// Adds a segment's rows, `times` times.
    fn add(
        &mut self,
        timetable: &Timetable,
        kept: &[KeptRow],
        times: usize,
        plan: &FilmPlan,
        model: &ModelFacts,
    ) {
        let request = &plan.request;
        let per_frame = tokens_per_frame(&model.transformer, request.height, request.width);
        let causal = plan.causal_mask.map(|block| (block, plan.attention_window));
        let step_cache = request.cache != CacheChoice::Off;
        let twice = plan.guidance.unconditional_rows(timetable.rows(), kept, step_cache);
        for ((row, kept), twice) in timetable.rows().iter().zip(kept).zip(twice) {
            let passes = if twice { 2 } else { 1 };
            self.forwards += times * passes;
            let mut forward =
                forward_flops(&model.transformer, kept.run.clone(), per_frame, causal);
            forward.attention *= sparse::kept_share(plan, model, row, kept);
            self.flops += forward * (times * passes) as f64;
            match self.rows.last_mut() {
                Some(last) if last.pass == forward && last.passes == passes => last.times += times,
                _ => self.rows.push(RowWork { pass: forward, passes, times }),
            }
            self.tokens += (times * passes * kept.run.len() * per_frame) as f64;
            if forward.total() > self.longest.total() {
                self.longest = forward;
            }
        }
    }

    /// The film's denoising under another plan.
    pub fn of(plan: &FilmPlan, model: &ModelFacts) -> Result<Self, PlanError> {
        let mut work = Self::default();
        for (segment, times) in plan.kinds_of_segments() {
            let timetable = plan.timetable(&segment)?;
            let kept = kept_rows(&timetable, plan.keeping);
            work.add(&timetable, &kept, times, plan, model);
        }
        Ok(work)
    }

    /// What the devices of `sharing` are expected to take for it.
    pub fn denoising(
        &self,
        sharing: Sharing,
        plan: &FilmPlan,
        model: &ModelFacts,
    ) -> Result<Denoising, PlanError> {
        let one = model.seconds(self.flops, model.products());
        let exchange = model.exchange(sharing, 0, self.tokens);
        let bringing = bringing::of(plan, sharing, model, &self.rows)?;
        let alone =
            one / sharing.denoisers() as f64 + exchange.map_or(0.0, |exchange| exchange.seconds);
        let denoising = Denoising { seconds: alone, bringing };
        Ok(Denoising { seconds: alone + denoising.waited_seconds(), ..denoising })
    }
}

/// What a film's denoising takes.
pub(super) struct Denoising {
    /// Expected seconds, with what devices exchange and what they wait for weights.
    pub seconds: f64,
    /// Weights that are brought again and again.
    pub bringing: Option<BringingSummary>,
}

impl Denoising {
    /// Seconds that are waited for weights.
    pub fn waited_seconds(&self) -> f64 {
        self.bringing.as_ref().map_or(0.0, |bringing| bringing.waited_seconds)
    }
}

impl PlanSummary {
    /// Bytes of what passes leave for later ones, on all devices together.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kv_cache.as_ref().map_or(0, |kept| kept.bytes) + self.step_cache_bytes
    }

    /// The longest pass.
    pub(crate) fn batch(&self) -> Batch {
        Batch { tokens: self.tokens, samples: if self.guidance_batch.is_some() { 2 } else { 1 } }
    }

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
            finish: None,
            kv_cache: None,
            step_cache_bytes: 0,
            guidance_batch: None,
            elsewhere: false,
            available_bytes: None,
            sharing,
            decoder_strips: 1,
            gpu: None,
            disk_bytes: 0,
            machine_flops_per_second: 0.0,
            machine_8_bit_flops_per_second: None,
            exchange: None,
            bringing: None,
            expected_seconds: 0.0,
            savings: Vec::new(),
            notes: Vec::new(),
        }
    }
}
