//! How segments become a film.
//!
//! The nouns:
//! - [`FilmRequest`]: what is asked, complete.
//! - [`Engine`]: a model opened. [`Engine::plan`] turns a request into a [`FilmPlan`] or refuses it,
//!   [`Engine::run`] makes the film, [`resume`] goes on with one that was interrupted.
//! - [`Outputs`]: where results go; [`Outcome`]: how it ended.
//! - [`Event`], [`Observer`], [`StopSignal`]: what a run tells, and how it is stopped; a [`Change`] of
//!   prompts steers it. [`Engine::go_on_from`] makes a film that begins with another one.
//!
//! A film is made segment by segment. A segment's window begins with latents that exist (its prefix),
//! the rest is denoised from noise; what is new is decoded as a continuation of one stream and goes
//! to the encoder frame by frame. After each segment a checkpoint makes it durable. Nothing that is
//! kept grows with the film.
//!
//! ```
//! use longreel_film::{Engine, EngineOptions, Event, Outputs, StopSignal};
//!
//! # let folder = tempfile::tempdir()?;
//! # let film = folder.path().join("film.mp4");
//! let mut engine = Engine::open(&EngineOptions::new("../../demo"))?;
//! let mut request = engine.defaults(false)?.request("a red circle moves right on a blue background");
//! request.length = longreel_film::Length::Frames(9);
//! request.steps = 2;
//! let plan = engine.plan(&request)?;
//! println!("{}", plan.summary());
//! let outcome = engine.run(
//!     &plan,
//!     &Outputs::new(&film),
//!     &StopSignal::default(),
//!     &mut |event: Event| println!("{event:?}"),
//! )?;
//! assert_eq!(outcome.frames, 9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod append;
mod beginning;
mod between;
mod checkpoint;
mod condition;
mod defaults;
mod denoise;
mod device;
mod drift;
mod engine;
mod error;
mod estimate;
mod events;
mod finish;
mod kept;
mod lock;
mod memory;
mod noise;
mod outputs;
mod peek;
mod plan;
mod prompts;
mod request;
mod room;
mod run;
mod run_file;
mod sharing;
mod solvers;
mod source;
mod step_cache;
mod tensor_file;
mod texts;

pub use beginning::Beginning;
pub use condition::VAE_BUDGET_BYTES;
pub use defaults::Defaults;
pub use device::{
    CardLink, CardNames, DeviceChoice, GpuFacts, HostLink, MemoryShare, Opened, TransformerWeights,
    share as share_memory,
};
pub use drift::{Look, SegmentDrift};
pub use engine::{Engine, EngineOptions, resume};
pub use error::{FilmError, PlanError};
pub use estimate::{
    ForwardFlops, decode_flops, flops_per_second_of, forward_flops, probe_flops_per_second,
    tokens_per_frame,
};
pub use events::{Change, Event, Leave, Observer, Stop, StopSignal};
pub use longreel_sampling::GuidanceInterval;
pub use memory::{
    available_memory_bytes, memory_control_groups, memory_limit_bytes, peak_memory_bytes,
};
pub use outputs::{Encoding, Outputs, run_folder};
pub use plan::{
    Beyond, BringingSummary, Converted, ExchangeSummary, FilmPlan, FinishSummary, GpuPlan,
    GuidanceBatchSummary, KvCacheSummary, ModelFacts, PlanSummary, PlannedSegment, Saving,
    check_inputs, human_bytes, human_frames, human_seconds, plan,
};
pub use request::{
    CacheChoice, Carry, FilmRequest, Finish, FitMode, GuidanceBatchChoice, KvCacheChoice, Length,
    SolverChoice, StartFrom, TimedPrompt,
};
pub use run::Outcome;
pub use run_file::RunFile;
pub use sharing::Sharing;
pub use source::Source;
