//! What a film is asked to be, complete and resolved: nothing in it depends on defaults any more.

use std::path::PathBuf;

use longreel_sampling::GuidanceInterval;
use serde::{Deserialize, Serialize};

/// A prompt and the film time from which it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimedPrompt {
    /// First pixel frame the prompt is meant for. It takes effect at the first segment whose first
    /// new frame is at or after this one.
    pub from_frame: u64,
    /// The prompt as typed.
    pub prompt: String,
    /// A seed for the segments under this prompt, instead of the film's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// How long the film is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// This many pixel frames, 4n + 1, a condition's frames included.
    Frames(u64),
    /// Until it is stopped.
    Endless,
}

/// What the film starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// The prompt alone.
    Prompt,
    /// A first frame.
    Image(PathBuf),
    /// The last frames of a video.
    Video(PathBuf),
}

/// How a picture of another size is brought to the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FitMode {
    /// Scale until it covers, cut what hangs over.
    #[default]
    Crop,
    /// Scale until it fits, fill with black.
    Pad,
    /// Scale each side by itself, as diffusers' `VideoProcessor` does.
    Stretch,
}

/// In which form the history goes from one segment to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carry {
    /// As latents; the VAE decodes one continuous stream.
    #[default]
    Latents,
    /// As pixels that are encoded again, as the official script does.
    Pixels,
}

/// The solver that turns velocities into latents.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverChoice {
    /// UniPC as the model's scheduler configuration sets it.
    #[default]
    UniPc,
    /// Euler steps on the same schedule.
    Euler,
    /// The explicit timesteps of a distilled checkpoint.
    FewStep {
        /// Timesteps before the shift, falling, such as 1000, 750, 500, 250.
        timesteps: Vec<u32>,
        /// Fresh noise between the steps, as CausVid and Self Forcing checkpoints want; else Euler
        /// steps, as LightX2V's.
        renoise: bool,
    },
}

/// Reuse of work between steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheChoice {
    /// Every step is computed.
    #[default]
    Off,
    /// TeaCache with the published coefficients.
    TeaCache {
        /// Accumulated relative change up to which a step is reused.
        threshold: f32,
        /// The coefficients and warm-up of the official `--use_ret_steps`.
        use_ret_steps: bool,
    },
    /// A cache by the observed change of output for a change of input; needs no coefficients.
    EasyCache {
        /// Accumulated relative change up to which a step is reused.
        threshold: f32,
    },
}

/// Keys and values of finished causal blocks, kept instead of computed again in every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvCacheChoice {
    /// Where attention is block-causal, as far as memory reaches; changes no bit of the film.
    #[default]
    Auto,
    /// All of it, whatever it takes; noise mixed into the history is the same in all rows of a
    /// segment, since history that changes cannot be kept.
    On,
    /// Every row computes all frames, as the reference does.
    Off,
}

/// The two passes of guidance as one batch, which has each weight read, and where they do not fit a GPU
/// brought, once for both; the film is the same, but for what a GPU's libraries round by the number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuidanceBatchChoice {
    /// On a GPU, where memory has room for it.
    #[default]
    Auto,
    /// Wherever one device has both passes.
    On,
    /// One pass after the other.
    Off,
}

/// A film, asked for in full. Serialised into the run's folder and into the film's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilmRequest {
    /// At least one; the first holds from frame 0. Sorted by `from_frame`.
    pub prompts: Vec<TimedPrompt>,
    /// What the unconditional pass is told. May be empty.
    pub negative_prompt: String,
    /// Pixels, a multiple of 16.
    pub width: usize,
    /// Pixels, a multiple of 16.
    pub height: usize,
    /// How long.
    pub length: Length,
    /// Pixel frames of one segment, 4n + 1.
    pub base_num_frames: usize,
    /// Pixel frames of history that a segment sees of the one before, 4n + 1.
    pub overlap_history: usize,
    /// Denoising steps of a latent frame.
    pub steps: usize,
    /// Classifier-free guidance; 1.0 and below skips the unconditional pass.
    pub guidance_scale: f32,
    /// The noise levels at which it is applied.
    #[serde(default)]
    pub guidance_interval: GuidanceInterval,
    /// Whether both its passes go through the network together.
    #[serde(default)]
    pub guidance_batch: GuidanceBatchChoice,
    /// Flow shift of the schedule.
    pub flow_shift: f32,
    /// Frames a second, of the file and for models with an fps embedding.
    pub fps: u32,
    /// The seed of everything random.
    pub seed: u64,
    /// Steps a block lags behind the one before it; 0 moves all together.
    pub ar_step: usize,
    /// Latent frames of a causal block; `None` takes the checkpoint's own.
    pub causal_block_size: Option<usize>,
    /// Block-causal attention; `None` switches it on when a block has more than one frame, as
    /// diffusers does.
    pub causal_attention: Option<bool>,
    /// Latent frames that a causal block sees at most, its own included; all before it when `None`.
    #[serde(default)]
    pub attention_window: Option<usize>,
    /// First latent frames of a segment that every block sees besides; one block when `None`.
    #[serde(default)]
    pub attention_sink: Option<usize>,
    /// Share of attention's weights that is kept, above 0; with 1 and with `None` nothing is left out.
    #[serde(default)]
    pub sparse_attention: Option<f32>,
    /// Share of a frame's first steps in which nothing is left out; a quarter when `None`.
    #[serde(default)]
    pub sparse_after: Option<f32>,
    /// Noise mixed into the history, in thousandths; 0 is off.
    pub addnoise_condition: f32,
    /// What the film starts from.
    pub start: StartFrom,
    /// A last frame.
    pub end_image: Option<PathBuf>,
    /// How pictures of another size are fitted.
    pub fit: FitMode,
    /// How history is carried.
    pub carry: Carry,
    /// The solver.
    pub solver: SolverChoice,
    /// Reuse between steps.
    pub cache: CacheChoice,
    /// Whether finished blocks are kept.
    #[serde(default)]
    pub kv_cache: KvCacheChoice,
    /// What is done to frames before they are encoded.
    #[serde(default)]
    pub finish: Finish,
}

/// What is done to frames between the model and the film's file. Dumps, pictures and drift are of the
/// frames as the model makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// The film's size in pixels, `[width, height]`, both even; that of the model's frames when `None`.
    pub size: Option<[usize; 2]>,
    /// Frames of the film for each one of the model, 1 to 8; those between are made from the motion.
    pub frames: u32,
}

impl Default for Finish {
    fn default() -> Self {
        Self { size: None, frames: 1 }
    }
}

impl FilmRequest {
    /// Pixels of the film, `[width, height]`.
    pub fn film_size(&self) -> [usize; 2] {
        self.finish.size.unwrap_or([self.width, self.height])
    }

    /// Frames a second of the film.
    pub fn film_fps(&self) -> u32 {
        self.fps.saturating_mul(self.finish.frames.max(1))
    }

    /// The prompt that holds for a segment whose first new pixel frame is `frame`, as an index into
    /// [`FilmRequest::prompts`].
    pub fn prompt_at(&self, frame: u64) -> usize {
        self.prompts.iter().rposition(|p| p.from_frame <= frame).unwrap_or(0)
    }

    /// Prompt and seed of a segment whose first new pixel frame is `frame`.
    pub fn in_force(&self, frame: u64) -> (&str, u64) {
        let timed = &self.prompts[self.prompt_at(frame)];
        (&timed.prompt, timed.seed.unwrap_or(self.seed))
    }
}
