//! The flags as they are typed. Nothing is decided here: [`crate::resolve`] does that, in one step.
//!
//! Every flag that can have a default elsewhere is an `Option`: `None` means that nobody said
//! anything, neither on the command line, nor in the environment, nor in the settings file. A `bool`
//! is a switch, typed `--portrait` or, against a layer below, `--portrait=off`: [`crate::settings`]
//! makes it so for all of them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use longreel_film::DeviceChoice;

use crate::bench::{BENCH_EXAMPLES, BenchArgs};
use crate::doctor::DoctorArgs;
use crate::generate_args::{GENERATE_EXAMPLES, GenerateArgs, PLAN_EXAMPLES, PlanArgs};
use crate::models_args::{HubArg, MODELS_EXAMPLES, ModelsArgs};
use crate::serve_args::{
    HEALTH_EXAMPLES, HealthArgs, KEYS_EXAMPLES, KeysArgs, SERVE_EXAMPLES, ServeArgs,
};

/// Films of any length from a prompt, made on this machine.
#[derive(Debug, Parser)]
#[command(name = "longreel", version, about, after_help = SETTINGS_HELP, propagate_version = true)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

const SETTINGS_HELP: &str = "\
Every flag is also an environment variable and a key of the settings file: --guidance-scale is
LONGREEL_GUIDANCE_SCALE and `guidance_scale = 6`. What is typed wins over the environment, the
environment over the file, the file over the model's defaults. The settings file is the one that
--config names, else longreel.toml in the current folder, else longreel/longreel.toml in the user's
configuration folder. Dashes in flags may be typed as underscores.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a film from a prompt, an image or a video
    #[command(after_help = GENERATE_EXAMPLES, visible_alias = "gen")]
    Generate(Box<GenerateArgs>),
    /// Go on with a film that was interrupted
    #[command(after_help = "Example:\n  longreel resume film.mp4")]
    Resume(ResumeArgs),
    /// Say what a film would take: segments, memory, disk, time; nothing is loaded or written
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(Box<PlanArgs>),
    /// Take requests for films over HTTP and make them, with a page to watch them
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Make, list and revoke API keys of a server, while it runs or before
    #[command(after_help = KEYS_EXAMPLES, arg_required_else_help = true)]
    Keys(KeysArgs),
    /// Find, fetch, check and remove published models
    #[command(after_help = MODELS_EXAMPLES, arg_required_else_help = true)]
    Models(ModelsArgs),
    /// Ask a running server whether a film that is asked for now would be made
    #[command(after_help = HEALTH_EXAMPLES)]
    Health(HealthArgs),
    /// Look at this machine: what keeps films from being made, and the cure
    #[command(after_help = "Examples:\n  longreel doctor\n  longreel doctor --lang zh\n  \
        longreel doctor --fix --data /srv/films")]
    Doctor(DoctorArgs),
    /// Print completions for a shell
    #[command(
        after_help = "Examples:\n  longreel completions bash > ~/.local/share/bash-completion/completions/longreel\n  \
        longreel completions zsh > ~/.zfunc/_longreel\n  \
        longreel completions fish > ~/.config/fish/completions/longreel.fish"
    )]
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    #[command(after_help = "Examples:\n  longreel man | man -l -\n  \
        longreel man -o ~/.local/share/man/man1")]
    Man(ManArgs),
    /// Measure this machine at the shapes of the published models, with random weights
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Make films as `serve` says on stdin
    #[command(hide = true)]
    Worker,
    /// Say what a model's folder or file holds, or how a film was made
    #[command(after_help = "Examples:\n  longreel inspect film.mp4\n  \
        longreel inspect SkyReels-V2-DF-1.3B-540P")]
    Inspect(InspectArgs),
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Print events for programs on stdout, one JSON object a line; text for people goes to stderr
    #[arg(long, global = true, help_heading = "Output")]
    pub json: Option<bool>,
    /// Print warnings and errors only
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: Option<bool>,
    /// Settings file to read instead of longreel.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// CPU threads [default: one for each core]
    #[arg(long, global = true, value_name = "N", help_heading = "Machine",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Where models are published, and which cache is looked into first [default: huggingface]
    #[arg(
        long,
        global = true,
        value_enum,
        ignore_case = true,
        value_name = "SITE",
        alias = "from",
        help_heading = "Models"
    )]
    pub hub: Option<HubArg>,
    /// What computes: auto, cpu, cuda or cuda:N, or several GPUs as cuda:0,cuda:1; auto takes the first
    /// NVIDIA GPU that can be used [default: auto]
    #[arg(long, global = true, value_name = "DEVICE", help_heading = "Machine")]
    pub device: Option<DeviceChoice>,
}

#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The film that was interrupted
    #[arg(value_name = "FILM")]
    pub film: PathBuf,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for the pages of all commands
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A film, or a model: its name, folder or file; `demo` is the one inside this program
    #[arg(value_name = "MODEL|FILM")]
    pub path: PathBuf,
}
