//! The flags of `models`, as they are typed; see [`crate::args`].

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use longreel_hub::Site;

pub const MODELS_EXAMPLES: &str = "\
Examples:
  longreel models search                                  # what can be run here
  longreel models pull skyreels-v2-df-1.3b-540p
  longreel models pull city96/Wan2.1-T2V-14B-gguf --file '*Q4_K_M.gguf'
  longreel models list                                    # what is here, and what memory it takes
  longreel models use skyreels-v2-df-1.3b-540p            # the model of `generate` and `serve`
  longreel models pin skyreels-v2-df-1.3b-540p            # this very revision, in longreel.lock
  longreel models pull                                    # what longreel.lock says
  longreel models verify
  longreel models remove skyreels-v2-df-1.3b-540p
  longreel models quantize skyreels-v2-df-14b-540p --to q8_0 -o df-14b-q8

MODEL is a name such as skyreels-v2-df-1.3b-540p or wan2.1-t2v-14b, or OWNER/NAME, with @REVISION if
wanted. Models lie in the cache of Hugging Face's own tools (HF_HUB_CACHE, HF_HOME) or ModelScope's
(MODELSCOPE_CACHE), and are shared with them. HF_TOKEN, HF_ENDPOINT (a mirror), HF_HUB_OFFLINE,
https_proxy, no_proxy and SSL_CERT_FILE are honoured. In China: --hub modelscope, or
LONGREEL_HUB=modelscope, or HF_ENDPOINT=https://hf-mirror.com.";

#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Address of the site or of a mirror of it [default: HF_ENDPOINT, MODELSCOPE_ENDPOINT, or the site's]
    #[arg(long, global = true, value_name = "URL", help_heading = "Models")]
    pub endpoint: Option<String>,
    #[command(subcommand)]
    pub command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Look for published models that can be run here
    Search(SearchArgs),
    /// Fetch models, or go on with what was begun
    Pull(PullArgs),
    /// Show the models that are here
    List(ListArgs),
    /// Compare every file with its published hash
    Verify(VerifyArgs),
    /// Remove one revision of a model, with what no other one uses
    Remove(RemoveArgs),
    /// Write a model's revision and the hashes of its files into longreel.lock
    Pin(PinArgs),
    /// Make a model the one that `generate` and `serve` take when none is named
    Use(UseArgs),
    /// Write a model again in fewer bits, with the error of each layer
    Quantize(QuantizeArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HubArg {
    /// huggingface.co, or the mirror in HF_ENDPOINT
    #[value(alias = "hf")]
    Huggingface,
    /// modelscope.cn
    #[value(alias = "ms")]
    Modelscope,
}

impl From<HubArg> for Site {
    fn from(arg: HubArg) -> Self {
        match arg {
            HubArg::Huggingface => Self::HuggingFace,
            HubArg::Modelscope => Self::ModelScope,
        }
    }
}

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Words of the name [default: the families that can be run]
    #[arg(value_name = "TEXT")]
    pub text: Vec<String>,
    /// Show what cannot be run here too
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct PullArgs {
    /// The models [default: those of longreel.lock]
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
    /// Fetch only files whose names fit, such as '*Q4_K_M.gguf'; may be given many times
    #[arg(long, value_name = "PATTERN", visible_alias = "include")]
    pub file: Vec<String>,
    /// Files that are fetched at once
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=32))]
    pub parallel: u16,
    /// Say what would be fetched, and fetch nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show models of other families in the caches too
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The models [default: all that are here]
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
    /// Take away what is damaged and fetch it again
    #[arg(long)]
    pub fix: bool,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The model, with @REVISION when there are several
    #[arg(value_name = "MODEL")]
    pub model: String,
}

#[derive(Debug, Args)]
pub struct PinArgs {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Take its pin away instead
    #[arg(long)]
    pub remove: bool,
}

#[derive(Debug, Args)]
pub struct UseArgs {
    /// The model, a folder or file, or `demo`
    #[arg(value_name = "MODEL|PATH")]
    pub model: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TargetArg {
    /// 8.5 bits a value (GGUF); hardly a difference
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a value (GGUF)
    #[value(name = "q4_k")]
    Q4K,
    /// 8-bit floats with a scale for each matrix (safetensors)
    Fp8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PartArg {
    /// What denoises
    Transformer,
    /// What reads prompts
    TextEncoder,
}

#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// The model, a folder or file, or `demo`
    #[arg(value_name = "MODEL|PATH")]
    pub model: PathBuf,
    /// What the matrices become
    #[arg(long, value_enum, ignore_case = true, value_name = "FORMAT")]
    pub to: TargetArg,
    /// A folder for a whole model, or a .gguf or .safetensors file for the transformer alone
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// What is quantised; the rest goes along as it is [default: transformer]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub parts: Vec<PartArg>,
}
