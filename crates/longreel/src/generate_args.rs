//! The flags of `generate`, and the choices that some of them are.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use longreel_film::{CardNames, GuidanceInterval};
use longreel_weights::WeightDtype;

use crate::enhancer::EnhancerArgs;
use crate::values::{Lora, PromptAt, Seeds, Size, Span, Timesteps, Upscale};

pub const GENERATE_EXAMPLES: &str = "\
Examples:
  longreel generate \"a red circle moves right on a blue background\" -o film.mp4
  longreel generate \"a dog runs\" --seconds 30 --seed 7 -o dog.mp4
  longreel generate \"a dog runs\" --prompt-at 10s:\"a dog sleeps\" --seconds 20
  longreel generate \"a dog runs\" --seeds 1..4 -o dog.mp4  # dog-1.mp4 to dog-4.mp4
  longreel generate \"the sea\" --endless                   # Ctrl-C ends it
  longreel generate \"she turns\" --image first.png --end-image last.png
  longreel generate \"it goes on\" --video clip.mp4 --seconds 20
  longreel generate \"a lake\" --model SkyReels-V2-DF-1.3B-540P --resolution 540P

Every flag is also LONGREEL_… in the environment and a key of longreel.toml; `longreel --help` says
how.";

pub const PLAN_EXAMPLES: &str = "\
It takes the flags of `generate`; the prompt may be left out, and a published model need not be
here.

Examples:
  longreel plan --model SkyReels-V2-DF-14B-720P --seconds 60
  longreel plan --model SkyReels-V2-DF-14B-720P --card all         # which card to rent
  longreel plan --model SkyReels-V2-DF-14B-720P --card \"RTX 4090\"  # all that is planned for one
  longreel plan --model Wan2.1-T2V-14B --card \"H100 SXM,H100 SXM\" --dtype fp8";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Resolution {
    /// 960x544
    #[value(name = "540P")]
    P540,
    /// 1280x720
    #[value(name = "720P")]
    P720,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fit {
    /// Scale until the picture covers the film, cut what hangs over
    Crop,
    /// Scale until it fits, fill with black
    Pad,
    /// Scale each side by itself
    Stretch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// 4 bytes a value
    F32,
    /// 2 bytes a value
    F16,
    /// 2 bytes a value
    Bf16,
    /// A byte a value in the transformer's blocks, whose products are of 8-bit floats then
    Fp8,
}

impl From<DtypeArg> for WeightDtype {
    fn from(arg: DtypeArg) -> Self {
        match arg {
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::Bf16,
            DtypeArg::Fp8 => Self::Fp8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CarryArg {
    /// As latents: one continuous stream, nothing is encoded twice
    Latents,
    /// As pixels that are encoded again, as the official script does
    Pixels,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvCacheArg {
    /// Where attention is block-causal, as far as memory reaches; the film is the same
    Auto,
    /// All of them, also of a history with noise, which then is the same in every row
    On,
    /// Never
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuidanceBatchArg {
    /// On a GPU, where memory has room for it
    Auto,
    /// Wherever one device has both passes
    On,
    /// One pass after the other
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Solver {
    /// UniPC as the model's scheduler sets it
    Unipc,
    /// Euler steps on the same schedule
    Euler,
    /// The explicit --timesteps of a distilled checkpoint, with fresh noise between the steps
    FewStep,
    /// The same timesteps, as Euler steps without fresh noise
    FewStepEuler,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CodecArg {
    /// H.264 with nothing installed
    Builtin,
    /// H.264 by ffmpeg's x264: smaller files
    H264,
    /// H.265 by ffmpeg
    #[value(alias = "hevc")]
    H265,
    /// AV1 by ffmpeg
    Av1,
    /// VP9 by ffmpeg, for .webm
    Vp9,
}

#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub picture: PictureArgs,
    #[command(flatten)]
    pub length: LengthArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub history: HistoryArgs,
    #[command(flatten)]
    pub speed: SpeedArgs,
    #[command(flatten)]
    pub enhancer: EnhancerArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// What the film shows
    #[arg(value_name = "PROMPT")]
    pub words: Vec<String>,
    /// The same as PROMPT, as the official script has it
    #[arg(long, value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// What the film should not show [default: the model's own]
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
    /// Have a language model write longer prompts of them first; see --enhancer-url
    #[arg(long)]
    pub enhance_prompt: Option<bool>,
    /// Another prompt from a time on, such as 4s:"a dog"; may be given many times
    #[arg(long, value_name = "TIME:PROMPT")]
    pub prompt_at: Vec<PromptAt>,
    /// A film in parts: a TOML file of `[[part]]` with prompt, duration and, if wanted, seed
    #[arg(long, value_name = "FILE")]
    pub story: Option<PathBuf>,
    /// Many films: a file with one prompt a line
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Seed of everything random [default: a new one, printed and kept in the film]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Many films, one for each seed: 1..4 or 1,5,9
    #[arg(long, value_name = "SEEDS")]
    pub seeds: Option<Seeds>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Picture")]
pub struct PictureArgs {
    /// Size in pixels, both sides multiples of 16 [default: the model's own]
    #[arg(long, value_name = "WxH")]
    pub size: Option<Size>,
    /// Size by name
    #[arg(long, value_enum, ignore_case = true)]
    pub resolution: Option<Resolution>,
    /// Higher than wide
    #[arg(long)]
    pub portrait: Option<bool>,
    /// The first frame
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// The last frame
    #[arg(long, value_name = "FILE")]
    pub end_image: Option<PathBuf>,
    /// A video to extend
    #[arg(long, value_name = "FILE", alias = "video-path")]
    pub video: Option<PathBuf>,
    /// How an image or video of another size is fitted [default: crop]
    #[arg(long, value_enum)]
    pub fit: Option<Fit>,
    /// Make the film larger than the model does: 1080p, 2x or WxH; by Lanczos, or by --upscaler
    #[arg(long, value_name = "SIZE")]
    pub upscale: Option<Upscale>,
    /// Frames of the film for each one of the model: 2 doubles the frames a second
    #[arg(long, value_name = "N")]
    pub interpolate: Option<u32>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Length")]
pub struct LengthArgs {
    /// Frames of the film, 4n+1 [default: the model's own]
    #[arg(long, value_name = "N")]
    pub num_frames: Option<u64>,
    /// Length of the film, such as 10, 2.5 or 1m30s, to the nearest 4n+1 frames
    #[arg(long, value_name = "TIME")]
    pub seconds: Option<Span>,
    /// Go on until Ctrl-C
    #[arg(long)]
    pub endless: Option<bool>,
    /// Frames a second [default: the model's own]
    #[arg(long, value_name = "N")]
    pub fps: Option<u32>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Denoising steps [default: the model's own]
    #[arg(long, value_name = "N", alias = "inference-steps")]
    pub steps: Option<usize>,
    /// How closely the prompt is followed; 1 is off and twice as fast [default: the model's own]
    #[arg(long, value_name = "X")]
    pub guidance_scale: Option<f32>,
    /// Noise levels (sigmas) at which guidance is applied: 0..1 is every step, 0.85..1 the first ones alone, and
    /// the others take half the time [default: the model's own, 0..1 beside a --guidance-scale]
    #[arg(long, value_name = "LOW..HIGH")]
    pub guidance_interval: Option<GuidanceInterval>,
    /// Flow shift of the schedule [default: the model's own]
    #[arg(long, value_name = "X", alias = "flow-shift")]
    pub shift: Option<f32>,
    /// How noise becomes a picture [default: unipc]
    #[arg(long, value_enum)]
    pub solver: Option<Solver>,
    /// Timesteps for the few-step solvers, such as 1000,750,500,250
    #[arg(long, value_name = "T,T,…")]
    pub timesteps: Option<Timesteps>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Long films")]
pub struct HistoryArgs {
    /// Frames of one segment, 4n+1 [default: the model's own]
    #[arg(long, value_name = "N")]
    pub base_num_frames: Option<usize>,
    /// Frames of history that a segment sees, 4n+1 [default: the model's own, mostly 17]
    #[arg(long, value_name = "N")]
    pub overlap_history: Option<usize>,
    /// Noise mixed into the history, in thousandths; 20 is usual for long films
    #[arg(long, value_name = "X")]
    pub addnoise_condition: Option<f32>,
    /// How the history goes from one segment to the next [default: latents]
    #[arg(long, value_enum)]
    pub carry: Option<CarryArg>,
    /// Steps that a block lags behind the one before it; 0 moves all together [default: 0]
    #[arg(long, value_name = "N")]
    pub ar_step: Option<usize>,
    /// Latent frames of a causal block [default: the model's own]
    #[arg(long, value_name = "N")]
    pub causal_block_size: Option<usize>,
    /// Block-causal attention [default: on when a block has more than one frame]
    #[arg(long)]
    pub causal_attention: Option<bool>,
    /// Latent frames that a causal block sees, its own included [default: all before it]
    #[arg(long, value_name = "FRAMES")]
    pub attention_window: Option<usize>,
    /// First latent frames of a segment that every block sees beside its --attention-window
    /// [default: one block]
    #[arg(long, value_name = "FRAMES")]
    pub attention_sink: Option<usize>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speed")]
pub struct SpeedArgs {
    /// Reuse steps that change little (TeaCache, with the published coefficients)
    #[arg(long)]
    pub teacache: Option<bool>,
    /// How much change TeaCache skips: 0.1 is about twice as fast, 0.2 three times [default: 0.2]
    #[arg(long, value_name = "X")]
    pub teacache_thresh: Option<f32>,
    /// TeaCache's other coefficients, which keep the first steps
    #[arg(long)]
    pub use_ret_steps: Option<bool>,
    /// Reuse steps by the change observed; needs no coefficients, fits any model
    #[arg(long, value_name = "X", num_args = 0..=1, require_equals = true,
        default_missing_value = "0.05")]
    pub easycache: Option<f32>,
    /// Keep the keys and values of finished causal blocks instead of computing them in every row
    /// [default: auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub kv_cache: Option<KvCacheArg>,
    /// Both passes of guidance through the network together: each weight is read once for both, for more
    /// memory [default: auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub guidance_batch: Option<GuidanceBatchArg>,
    /// Leave out of self-attention what weighs little: keep this share of its weights, such as 0.9; look at the
    /// quality [default: all]
    #[arg(long, value_name = "SHARE")]
    pub sparse_attention: Option<f32>,
    /// Share of a frame's first steps that see everything before --sparse-attention begins [default: 0.25]
    #[arg(long, value_name = "SHARE")]
    pub sparse_after: Option<f32>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A model: a name, a folder or a file
    #[arg(
        long,
        value_name = "MODEL",
        alias = "model-id",
        help = "A model: its name, OWNER/NAME[@REVISION], folder or file; `demo` is the one inside \
            this program, and `longreel models` fetches others [default: demo]"
    )]
    pub model: Option<PathBuf>,
    /// A LoRA (LoKr, LoHa, DoRA) and its weight; may be given many times
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    pub lora: Vec<Lora>,
    /// Convert the weights when they are loaded: bf16 and f16 take half the memory of f32, and bf16 computes fastest on
    /// processors with AVX-512 BF16, f32 on others; fp8 takes a quarter, with products in 8 bits [default: as in the files, which are read as they are needed]
    #[arg(long, value_enum, ignore_case = true)]
    pub dtype: Option<DtypeArg>,
    /// Weights of a network that --upscale enlarges by: a .pth or .safetensors file of Real-ESRGAN's
    /// compact kind, such as realesr-animevideov3.pth
    #[arg(long, value_name = "FILE")]
    pub upscaler: Option<PathBuf>,
    /// Start even when memory seems too small
    #[arg(long)]
    pub no_memory_check: Option<bool>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// The film: .mp4, .webm, .gif, or a folder for PNG frames [default: film.mp4, or the next
    /// name that is free]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Start anew where an unfinished film is
    #[arg(long)]
    pub overwrite: Option<bool>,
    /// Video codec [default: builtin for .mp4, vp9 for .webm]
    #[arg(long, value_enum, ignore_case = true)]
    pub codec: Option<CodecArg>,
    /// Quality: lower is better and larger [default: the codec's own]
    #[arg(long, value_name = "N")]
    pub crf: Option<u8>,
    /// A picture (PNG or JPEG) with frames from the whole film
    #[arg(long, value_name = "FILE")]
    pub contact_sheet: Option<PathBuf>,
    /// With --json, name a picture (JPEG) of each part
    #[arg(long)]
    pub previews: Option<bool>,
    /// Noise to start from, instead of the seed's (safetensors)
    #[arg(long, value_name = "FILE")]
    pub noise: Option<PathBuf>,
    /// Write the final latents (safetensors)
    #[arg(long, value_name = "FILE")]
    pub dump_latents: Option<PathBuf>,
    /// Write the decoded frames as numbers (safetensors)
    #[arg(long, value_name = "FILE")]
    pub dump_frames: Option<PathBuf>,
}

/// The flags of `plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub film: GenerateArgs,
    /// Plan for an NVIDIA card that is not here, such as "RTX 4090" or "A100 80GB", by its data sheet; for several with
    /// commas; `all` compares all that are known
    #[arg(long, value_name = "CARD", help_heading = "Machine")]
    pub card: Option<CardArg>,
}

/// Cards that are not here.
#[derive(Debug, Clone)]
pub enum CardArg {
    /// Each that is known, by itself.
    All,
    /// Those that share a film.
    These(CardNames),
}

impl FromStr for CardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "all" => Ok(Self::All),
            text => text.parse().map(Self::These),
        }
    }
}
