//! The values that stand where nothing is asked for.

use std::path::Path;

use longreel_sampling::{FewStep, GuidanceInterval};
use longreel_weights::ModelKind;
use serde::{Deserialize, Serialize};

use crate::error::{FilmError, PlanError};
use crate::plan::ModelFacts;
use crate::request::{
    CacheChoice, Carry, FilmRequest, Finish, FitMode, GuidanceBatchChoice, KvCacheChoice, Length,
    SolverChoice, StartFrom, TimedPrompt,
};

/// The negative prompt of the reference pipelines' examples and of the official script, for models
/// that were trained with it.
pub const REFERENCE_NEGATIVE_PROMPT: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

/// Defaults of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Defaults {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Pixel frames.
    pub num_frames: u64,
    /// Pixel frames of a segment.
    pub base_num_frames: usize,
    /// Pixel frames of history.
    pub overlap_history: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance.
    pub guidance_scale: f32,
    /// The noise levels at which it is applied.
    pub guidance_interval: GuidanceInterval,
    /// Flow shift.
    pub flow_shift: f32,
    /// Frames a second.
    pub fps: u32,
    /// Told to the unconditional pass.
    pub negative_prompt: String,
    /// Noise mixed into the history.
    pub addnoise_condition: f32,
    /// The solver, and the timesteps of a model of few steps.
    pub solver: SolverChoice,
    /// Whether causal blocks are made one after another, as a stream.
    pub block_by_block: bool,
}

/// A model's own wishes: `longreel.json` in its folder. Every key is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wishes {
    width: Option<usize>,
    height: Option<usize>,
    num_frames: Option<u64>,
    base_num_frames: Option<usize>,
    overlap_history: Option<usize>,
    steps: Option<usize>,
    guidance_scale: Option<f32>,
    guidance_interval: Option<GuidanceInterval>,
    shift: Option<f32>,
    fps: Option<u32>,
    negative_prompt: Option<String>,
    addnoise_condition: Option<f32>,
    /// Of a model that is distilled to few steps, with fresh noise between them.
    timesteps: Option<Vec<u32>>,
    /// Read with the model's files, where it decides what the model is.
    #[serde(rename = "kind")]
    _kind: Option<serde::de::IgnoredAny>,
}

impl Defaults {
    /// The published defaults of the model's kind (official script and model cards), then the
    /// model's own `longreel.json`.
    ///
    /// # Errors
    /// When that file is there and cannot be read.
    pub fn of(model: &ModelFacts, path: &Path, has_image: bool) -> Result<Self, FilmError> {
        // Not the digits alone, which a revision in the name may have.
        let is_720p = model.name.to_ascii_lowercase().contains("720p");
        let (width, height, base) = if is_720p { (1280, 720, 121) } else { (960, 544, 97) };
        let forcing = model.kind == ModelKind::DiffusionForcing;
        let mut defaults = Self {
            width,
            height,
            num_frames: base as u64,
            base_num_frames: base,
            overlap_history: 17,
            steps: if forcing { 30 } else { 50 },
            guidance_scale: if has_image { 5.0 } else { 6.0 },
            guidance_interval: GuidanceInterval::ALL,
            // 1.0 is the scheduler class's own default: a checkpoint that says it says nothing.
            flow_shift: match model.scheduler.flow_shift as f32 {
                1.0 if has_image => 5.0,
                1.0 => 8.0,
                shift => shift,
            },
            fps: 24,
            negative_prompt: REFERENCE_NEGATIVE_PROMPT.to_owned(),
            addnoise_condition: 0.0,
            solver: SolverChoice::default(),
            block_by_block: false,
        };
        if model.causal_few_step {
            defaults.become_causal_few_step();
        }
        let file = path.join("longreel.json");
        if file.is_file() {
            let unreadable = |why: String| {
                PlanError::value("the settings", file.display(), why, "mend the file, or remove it")
            };
            let text = std::fs::read(&file).map_err(|e| unreadable(format!("not read: {e}")))?;
            let wishes: Wishes = serde_json::from_slice(&text)
                .map_err(|e| unreadable(format!("not as they have to be: {e}")))?;
            defaults.take(wishes);
        }
        Ok(defaults)
    }

    /// What CausVid and Self Forcing (`configs/self_forcing_dmd.yaml`) were distilled for. A block of
    /// history is what a segment goes on from.
    fn become_causal_few_step(&mut self) {
        let few = FewStep::four(5.0);
        (self.width, self.height, self.fps) = (832, 480, 16);
        (self.num_frames, self.base_num_frames, self.overlap_history) = (81, 81, 9);
        (self.steps, self.guidance_scale) = (few.steps.len(), 1.0);
        self.flow_shift = few.flow_shift as f32;
        self.solver = SolverChoice::FewStep { timesteps: few.steps, renoise: true };
        self.block_by_block = true;
    }

    /// Steps that a block lags behind the one before it, for a solver of these choices.
    pub fn ar_step(&self, solver: &SolverChoice, steps: usize) -> usize {
        match solver {
            _ if !self.block_by_block => 0,
            SolverChoice::FewStep { timesteps, .. } => timesteps.len(),
            SolverChoice::UniPc | SolverChoice::Euler => steps,
        }
    }

    /// A film from a prompt with these values and seed 0.
    pub fn request(&self, prompt: &str) -> FilmRequest {
        let prompt = TimedPrompt { from_frame: 0, prompt: prompt.to_owned(), seed: None };
        FilmRequest {
            prompts: vec![prompt],
            negative_prompt: self.negative_prompt.clone(),
            width: self.width,
            height: self.height,
            length: Length::Frames(self.num_frames),
            base_num_frames: self.base_num_frames,
            overlap_history: self.overlap_history,
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            guidance_interval: self.guidance_interval,
            flow_shift: self.flow_shift,
            fps: self.fps,
            seed: 0,
            ar_step: self.ar_step(&self.solver, self.steps),
            causal_block_size: None,
            causal_attention: None,
            attention_window: None,
            attention_sink: None,
            sparse_attention: None,
            sparse_after: None,
            addnoise_condition: self.addnoise_condition,
            start: StartFrom::Prompt,
            end_image: None,
            fit: FitMode::default(),
            carry: Carry::default(),
            solver: self.solver.clone(),
            cache: CacheChoice::default(),
            kv_cache: KvCacheChoice::default(),
            guidance_batch: GuidanceBatchChoice::default(),
            finish: Finish::default(),
        }
    }

    fn take(&mut self, wishes: Wishes) {
        fn set<T>(place: &mut T, wish: Option<T>) {
            if let Some(value) = wish {
                *place = value;
            }
        }
        set(&mut self.width, wishes.width);
        set(&mut self.height, wishes.height);
        set(&mut self.num_frames, wishes.num_frames);
        set(&mut self.base_num_frames, wishes.base_num_frames);
        set(&mut self.overlap_history, wishes.overlap_history);
        set(&mut self.steps, wishes.steps);
        set(&mut self.guidance_scale, wishes.guidance_scale);
        set(&mut self.guidance_interval, wishes.guidance_interval);
        set(&mut self.flow_shift, wishes.shift);
        set(&mut self.fps, wishes.fps);
        set(&mut self.negative_prompt, wishes.negative_prompt);
        set(&mut self.addnoise_condition, wishes.addnoise_condition);
        let few = |timesteps| SolverChoice::FewStep { timesteps, renoise: true };
        set(&mut self.solver, wishes.timesteps.map(few));
    }
}
