//! One film, from plan to closed file: segments in order, frames out as they are decoded, a
//! checkpoint after each segment.

mod ending;
mod frames;
mod segment;
mod steering;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use longreel_kernels::Tensor;
use longreel_media::{FilmOptions, FilmState, FilmWriter, FrameRate};
use longreel_models::VaeDecoderState;
use longreel_sampling::StepCache;

pub(crate) use self::ending::sheet_frame;
use self::segment::Made;
use crate::append::AppendFile;
use crate::checkpoint::{Checkpoint, Progress};
use crate::condition::{Conditions, VAE_BUDGET_BYTES};
use crate::drift::{DriftMeter, SegmentDrift};
use crate::engine::Networks;
use crate::error::FilmError;
use crate::estimate::peak_memory_bytes;
use crate::events::{Event, Observer, Stop, StopSignal};
use crate::noise::NoiseSource;
use crate::outputs::Outputs;
use crate::peek::Peeks;
use crate::plan::FilmPlan;
use crate::prompts::Prompter;
use crate::request::{Carry, FilmRequest};
use crate::run_file::Maker;

/// Names of the growing files of a run.
const LATENTS: &str = "latents.raw";
const FRAMES: &str = "frames.raw";
pub(crate) const DRIFT: &str = "drift.jsonl";
pub(crate) const SHEET: &str = "sheet.raw";
const JOURNAL: &str = "journal";
/// Frames of a contact sheet at most; of a longer film every n-th is kept.
const SHEET_FRAMES: usize = 48;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The film.
    pub film: PathBuf,
    /// Frames in it.
    pub frames: u64,
    /// True when it was stopped before its end; `resume` goes on.
    pub stopped: bool,
    /// Seconds of work in this process.
    pub seconds: f64,
    /// Rows saved by a step cache.
    pub reused_steps: usize,
    /// Where the drift report is, once the film is complete.
    pub drift: Option<PathBuf>,
    /// The drift of the last segment made.
    pub last_drift: Option<SegmentDrift>,
}

/// A film in the making.
pub struct Run<'a> {
    /// Changes when the film is steered.
    plan: Arc<FilmPlan>,
    outputs: &'a Outputs,
    maker: Maker<'a>,
    folder: PathBuf,
    networks: &'a Networks,
    prompter: Prompter<'a>,
    conditions: Conditions,
    noise: NoiseSource,
    cache: Option<Box<dyn StepCache>>,
    options: FilmOptions,
    writer: Option<FilmWriter>,
    meter: DriftMeter,
    decoder_state: VaeDecoderState,
    /// The film's last latents, as many as the next segment and a resumed decoder need.
    recent: Option<Tensor>,
    /// The film's last frames `[F, H, W, 3]` in [-1, 1], kept when history is carried as pixels.
    recent_pixels: Option<Tensor>,
    appended: HashMap<&'static str, AppendFile>,
    progress: Progress,
    /// Segments that may be made: the observer gave leave for those before this one.
    allowed: usize,
    started: Instant,
    seconds_before: f64,
    timing: Timing,
    peeks: Peeks,
    /// Prompt and seed of the segment in work.
    made_from: (String, u64),
    last_drift: Option<SegmentDrift>,
}

/// Measured so far, for the time left.
#[derive(Debug, Default)]
struct Timing {
    row_seconds: f64,
    rows: usize,
    part_seconds: f64,
    part_latents: usize,
}

impl<'a> Run<'a> {
    /// Prepares a run, from its beginning or from `checkpoint`.
    ///
    /// # Errors
    /// When files of the run cannot be opened, or the checkpoint does not fit them.
    #[expect(clippy::too_many_arguments, reason = "each is one stage's result")]
    pub fn new(
        plan: &FilmPlan,
        outputs: &'a Outputs,
        maker: Maker<'a>,
        networks: &'a Networks,
        prompter: Prompter<'a>,
        conditions: Conditions,
        noise: NoiseSource,
        cache: Option<Box<dyn StepCache>>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Self, FilmError> {
        let request = plan.request();
        let folder = outputs.run_folder();
        let mut options = film_options(request, outputs);
        options.metadata = Some(maker.metadata(request, outputs, &outputs.command));
        let mut run = Self {
            plan: Arc::new(plan.clone()),
            outputs,
            maker,
            networks,
            prompter,
            conditions,
            noise,
            cache,
            options,
            writer: None,
            meter: DriftMeter::default(),
            decoder_state: VaeDecoderState::new(),
            recent: None,
            recent_pixels: None,
            appended: HashMap::new(),
            progress: Progress {
                next_segment: 0,
                frames: 0,
                dumped_frames: 0,
                latents: 0,
                writer: serde_json::Value::Null,
                lengths: HashMap::new(),
                drift: Default::default(),
                seconds: 0.0,
                reused_steps: 0,
            },
            allowed: 0,
            started: Instant::now(),
            seconds_before: 0.0,
            timing: Timing::default(),
            peeks: Peeks::default(),
            made_from: Default::default(),
            last_drift: None,
            folder,
        };
        if let Some(checkpoint) = checkpoint {
            run.restore(checkpoint)?;
        }
        let mut names = vec![DRIFT];
        names.extend(outputs.dump_latents.as_ref().map(|_| LATENTS));
        names.extend(outputs.dump_frames.as_ref().map(|_| FRAMES));
        names.extend(outputs.sheet().map(|_| SHEET));
        names.extend(outputs.live.then_some(JOURNAL));
        for name in names {
            let path = match name {
                JOURNAL => outputs.journal_path(),
                _ => run.folder.join(name),
            };
            let length = run.progress.lengths.get(name).copied().unwrap_or(0);
            let file = AppendFile::open(&path, length).map_err(FilmError::io("open", &path))?;
            run.appended.insert(name, file);
        }
        Ok(run)
    }

    fn restore(&mut self, mut checkpoint: Checkpoint) -> Result<(), FilmError> {
        self.progress = checkpoint.progress.clone();
        self.seconds_before = self.progress.seconds;
        self.recent = checkpoint.take("recent_latents");
        self.recent_pixels = checkpoint.take("recent_pixels");
        self.meter = DriftMeter::resume(&self.progress.drift, checkpoint.last_frame);
        if let (Some(recent), Carry::Latents) = (&self.recent, self.plan.request().carry) {
            let starts_clip = recent.dim(0) == self.progress.latents;
            self.decoder_state =
                self.networks.vae.decoder.rebuild_state(recent, starts_clip, VAE_BUDGET_BYTES)?;
        }
        let state: FilmState = serde_json::from_value(self.progress.writer.clone())
            .map_err(|e| FilmError::io("read the checkpoint in", &self.folder)(e.into()))?;
        self.writer = Some(FilmWriter::resume(&self.outputs.film, &self.options, &state)?);
        Ok(())
    }

    /// Makes the segments that are left and closes the film.
    ///
    /// # Errors
    /// Those of the networks, the disk and the encoder. What was finished stays, and the run can be
    /// resumed.
    pub fn finish(
        mut self,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        let mut stopped = false;
        while let Some(segment) = self.plan.segments.segment(self.progress.next_segment) {
            if stop.get() != Stop::No {
                stopped = true;
                break;
            }
            match self.make(&segment, stop, observer)? {
                Made::Whole => {}
                Made::Changed(change) => self.follow(change, observer)?,
                Made::GivenUp => {
                    stopped = true;
                    break;
                }
            }
        }
        if self.plan.segments.count().is_none() && self.progress.next_segment > 0 {
            // An endless film is complete when it is stopped at a segment's end.
            stopped = stop.get() == Stop::Now;
        }
        let outcome = self.close(stopped)?;
        observer.event(Event::Done {
            path: outcome.film.display().to_string(),
            frames: outcome.frames,
            seconds: outcome.seconds,
            peak_memory_bytes: peak_memory_bytes(),
            reused_steps: outcome.reused_steps,
            stopped,
        });
        Ok(outcome)
    }
}

/// How the film's file is written.
pub fn film_options(request: &FilmRequest, outputs: &Outputs) -> FilmOptions {
    let rate = FrameRate::whole(request.film_fps());
    let [width, height] = request.film_size().map(|side| side as u32);
    let mut options = FilmOptions::new(width, height, rate);
    options.codec = outputs.encoding.codec;
    options.crf = outputs.encoding.crf;
    options
}

/// Every how many frames one goes to the contact sheet.
pub(crate) fn sheet_step(request: &FilmRequest) -> u64 {
    match request.length {
        crate::request::Length::Frames(frames) => frames.div_ceil(SHEET_FRAMES as u64).max(1),
        crate::request::Length::Endless => u64::from(request.fps),
    }
}

/// From the decoder's [-1, 1] to [0, 1].
fn unit(v: f32) -> f32 {
    (v * 0.5 + 0.5).clamp(0.0, 1.0)
}

/// The first pixel frame of latent frame `latent`: 0, 1, 5, 9, ...
pub(crate) fn pixel_frame(latent: usize) -> u64 {
    match latent {
        0 => 0,
        n => 4 * (n as u64 - 1) + 1,
    }
}

/// Pixel frames of `latents` latent frames that begin a clip.
fn pixel_count(latents: usize) -> usize {
    if latents == 0 { 0 } else { 4 * (latents - 1) + 1 }
}
