//! What becomes of latents: frames, dumps, drift, and the state that a run goes on from.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use longreel_kernels::Tensor;
use longreel_media::{FilmOptions, FilmState, FilmWriter};
use longreel_models::VaeDecoderState;
use longreel_sampling::Segment;

use super::{DRIFT, FRAMES, JOURNAL, LATENTS, SHEET, film_options};
use crate::append::AppendFile;
use crate::checkpoint::{Checkpoint, Progress};
use crate::condition::VAE_BUDGET_BYTES;
use crate::drift::{DriftMeter, SegmentDrift};
use crate::engine::Networks;
use crate::error::FilmError;
use crate::events::Event;
use crate::finish::Finisher;
use crate::outputs::Outputs;
use crate::plan::FilmPlan;
use crate::request::Carry;

/// Told of what happens to a segment, in order.
pub(super) type Tell<'a> = dyn FnMut(Event) + 'a;

/// A segment that is denoised.
pub(super) struct Denoised {
    pub segment: Segment,
    /// `[window, C, h, w]`.
    pub window: Tensor,
    /// The film's last latents, this segment's included, for the checkpoint.
    pub recent: Tensor,
    /// Prompt and seed.
    pub made_from: (String, u64),
    /// Rows saved by a step cache so far.
    pub reused_steps: usize,
}

/// The film as far as it is decoded, with its files.
pub(super) struct Reel<'a> {
    pub(super) plan: Arc<FilmPlan>,
    pub(super) outputs: &'a Outputs,
    pub(super) folder: PathBuf,
    pub(super) networks: &'a Networks,
    pub(super) options: FilmOptions,
    pub(super) writer: Option<FilmWriter>,
    pub(super) meter: DriftMeter,
    pub(super) finisher: Finisher,
    pub(super) decoder_state: VaeDecoderState,
    /// The film's last frames `[F, H, W, 3]` in [-1, 1], kept when history is carried as pixels.
    pub(super) recent_pixels: Option<Tensor>,
    pub(super) appended: HashMap<&'static str, AppendFile>,
    pub(super) progress: Progress,
    pub(super) started: Instant,
    pub(super) seconds_before: f64,
    pub(super) last_drift: Option<SegmentDrift>,
}

impl<'a> Reel<'a> {
    /// A film's, from its beginning or from `checkpoint`, whose latents are `recent`.
    ///
    /// # Errors
    /// When files of the run cannot be opened, or the checkpoint does not fit them.
    pub fn new(
        plan: Arc<FilmPlan>,
        outputs: &'a Outputs,
        networks: &'a Networks,
        metadata: String,
        recent: Option<&Tensor>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Self, FilmError> {
        let mut options = film_options(plan.request(), outputs);
        options.metadata = Some(metadata);
        let finisher = Finisher::new(plan.request().finish);
        let mut reel = Self {
            plan,
            outputs,
            folder: outputs.run_folder(),
            networks,
            options,
            writer: None,
            meter: DriftMeter::default(),
            finisher,
            decoder_state: VaeDecoderState::new(),
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
            started: Instant::now(),
            seconds_before: 0.0,
            last_drift: None,
        };
        if let Some(checkpoint) = checkpoint {
            reel.restore(recent, checkpoint)?;
        }
        let mut names = vec![DRIFT];
        names.extend(outputs.dump_latents.as_ref().map(|_| LATENTS));
        names.extend(outputs.dump_frames.as_ref().map(|_| FRAMES));
        names.extend(outputs.sheet().map(|_| SHEET));
        names.extend(outputs.live.then_some(JOURNAL));
        for name in names {
            let path = match name {
                JOURNAL => outputs.journal_path(),
                _ => reel.folder.join(name),
            };
            let length = reel.progress.lengths.get(name).copied().unwrap_or(0);
            let file = AppendFile::open(&path, length).map_err(FilmError::io("open", &path))?;
            reel.appended.insert(name, file);
        }
        Ok(reel)
    }

    fn restore(
        &mut self,
        recent: Option<&Tensor>,
        mut checkpoint: Checkpoint,
    ) -> Result<(), FilmError> {
        self.progress = checkpoint.progress.clone();
        self.seconds_before = self.progress.seconds;
        self.recent_pixels = checkpoint.take("recent_pixels");
        self.meter = DriftMeter::resume(&self.progress.drift, checkpoint.last_frame);
        if let (Some(recent), Carry::Latents) = (recent, self.plan.request().carry) {
            let starts_clip = recent.dim(0) == self.progress.latents;
            self.decoder_state =
                self.networks.vae.decoder.rebuild_state(recent, starts_clip, VAE_BUDGET_BYTES)?;
        }
        let state: FilmState = serde_json::from_value(self.progress.writer.clone())
            .map_err(|e| FilmError::io("read the checkpoint in", &self.folder)(e.into()))?;
        self.writer = Some(FilmWriter::resume(&self.outputs.film, &self.options, &state)?);
        Ok(())
    }

    /// How far the film is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The film's last frames, where history is carried as pixels.
    pub fn recent_pixels(&self) -> Option<&Tensor> {
        self.recent_pixels.as_ref()
    }

    /// Goes on with a plan of other prompts, and with what the film says of how it was made.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn follow(&mut self, plan: Arc<FilmPlan>, metadata: String) -> Result<(), FilmError> {
        self.plan = plan;
        self.options.metadata = Some(metadata);
        if let Some(writer) = &mut self.writer {
            writer.set_metadata(self.options.metadata.clone())?;
        }
        Ok(())
    }
}
