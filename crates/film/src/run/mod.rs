//! One film, from plan to closed file: segments in order, frames out as they are decoded, a
//! checkpoint after each segment.
//!
//! A [`Run`] denoises; what came of it goes to a [`Reel`](reel::Reel), which decodes and writes. The two take turns, or,
//! where the decoder has a device of its own, work side by side, one segment apart.

mod beside;
mod ending;
mod frames;
mod reel;
mod segment;
mod steering;

use std::path::PathBuf;
use std::sync::Arc;

use longreel_kernels::{Pairs, Tensor};
use longreel_media::{FilmOptions, FrameRate};

use self::beside::Taker;
pub(crate) use self::ending::sheet_frame;
use self::reel::Reel;
use self::segment::Made;
use crate::checkpoint::Checkpoint;
use crate::condition::Conditions;
use crate::drift::SegmentDrift;
use crate::engine::Networks;
use crate::error::FilmError;
use crate::events::{Event, Observer, Stop, StopSignal};
use crate::memory::peak_memory_bytes;
use crate::noise::NoiseSource;
use crate::outputs::Outputs;
use crate::peek::Peeks;
use crate::plan::FilmPlan;
use crate::prompts::Prompter;
use crate::request::FilmRequest;
use crate::run_file::Maker;
use crate::step_cache::StepCache;

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
    /// Whether what is made of it can be watched. Parts of a WebM that was stopped at once are not joined.
    pub playable: bool,
    /// Seconds of work in this process.
    pub seconds: f64,
    /// Rows saved by a step cache.
    pub reused_steps: usize,
    /// Share of the keys that attention kept where it left some out, in this process.
    pub kept_share: Option<f64>,
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
    cache: Option<StepCache>,
    /// The film's last latents, as many as the next segment and a resumed decoder need.
    recent: Option<Tensor>,
    /// The next one to be denoised.
    next_segment: usize,
    /// Latent frames denoised.
    latents: usize,
    /// Rows saved by a step cache.
    reused_steps: usize,
    taker: Taker<'a>,
    /// Segments that may be made: the observer gave leave for those before this one.
    allowed: usize,
    timing: Timing,
    peeks: Peeks,
    kept: KeptPairs,
}

/// Measured so far, for the time left.
#[derive(Debug, Default)]
struct Timing {
    row_seconds: f64,
    rows: usize,
}

/// What attention kept where it leaves keys out. The networks count on from film to film.
#[derive(Debug, Default)]
struct KeptPairs {
    first: Pairs,
    last: Pairs,
}

impl KeptPairs {
    /// The share of what came since the count before.
    fn since_last(&mut self, now: Pairs) -> Option<f64> {
        let before = std::mem::replace(&mut self.last, now);
        (now - before).share()
    }

    /// The share of all.
    fn share(&self) -> Option<f64> {
        (self.last - self.first).share()
    }
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
        cache: Option<StepCache>,
        mut checkpoint: Option<Checkpoint>,
    ) -> Result<Self, FilmError> {
        let plan = Arc::new(plan.clone());
        let recent = checkpoint.as_mut().and_then(|checkpoint| checkpoint.take("recent_latents"));
        let metadata = maker.metadata(plan.request(), outputs, &outputs.command);
        let reel =
            Reel::new(plan.clone(), outputs, networks, metadata, recent.as_ref(), checkpoint)?;
        let progress = reel.progress();
        let first = networks.denoisers.pairs()?;
        Ok(Self {
            next_segment: progress.next_segment,
            latents: progress.latents,
            reused_steps: progress.reused_steps,
            plan,
            outputs,
            maker,
            folder: outputs.run_folder(),
            networks,
            prompter,
            conditions,
            noise,
            cache,
            recent,
            taker: Taker::new(reel),
            allowed: 0,
            timing: Timing::default(),
            peeks: Peeks::default(),
            kept: KeptPairs { first, last: first },
        })
    }

    /// Makes the segments that are left and closes the film.
    ///
    /// # Errors
    /// Those of the networks, the disk and the encoder. What was finished stays, and the run can be
    /// resumed.
    pub fn finish(
        self,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        let mut kept_share = None;
        let mut outcome = std::thread::scope(|scope| {
            // It ends in here, whatever happens, and with it what waits for its segments.
            let mut run = self;
            if run.plan.sharing.decoder {
                run.taker.work_beside(scope);
            }
            let made = run.segments(stop, observer);
            // What is denoised is taken in even when the next segment went wrong.
            let taken = run.taker.settle(observer);
            let endless = run.plan.segments.count().is_none() && run.next_segment > 0;
            kept_share = run.kept.share();
            let reel = run.taker.into_reel();
            match made.and_then(|stopped| taken.map(|()| stopped)) {
                // An endless film is complete when it is stopped at a segment's end.
                Ok(_) if endless => reel.close(stop.get() == Stop::Now, stop),
                Ok(stopped) => reel.close(stopped, stop),
                Err(error) => {
                    reel.give_up();
                    Err(error)
                }
            }
        })?;
        outcome.kept_share = kept_share;
        observer.event(Event::Done {
            path: outcome.film.display().to_string(),
            frames: outcome.frames,
            seconds: outcome.seconds,
            peak_memory_bytes: peak_memory_bytes(),
            reused_steps: outcome.reused_steps,
            kept_share,
            stopped: outcome.stopped,
        });
        Ok(outcome)
    }

    /// Makes the segments that are left; true when it was stopped before the last one.
    fn segments(
        &mut self,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<bool, FilmError> {
        while let Some(segment) = self.plan.segments.segment(self.next_segment) {
            if stop.get() != Stop::No {
                return Ok(true);
            }
            match self.make(&segment, stop, observer)? {
                Made::Whole => {}
                Made::Changed(change) => self.follow(change, observer)?,
                Made::GivenUp => return Ok(true),
            }
        }
        Ok(false)
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
