//! Why a film was refused, or failed.

use std::io;
use std::path::PathBuf;

use longreel_kernels::GpuError;
use longreel_media::MediaError;
use longreel_models::ModelError;
use longreel_sampling as sampling;
use longreel_weights::WeightsError;

use crate::device::DeviceChoice;

/// Why a request cannot become a plan. Nothing has been loaded or written when it is returned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A value that cannot work.
    #[error("{what}{}{value}: {rule}; {fix}", if value.is_empty() { "" } else { " " })]
    Value {
        /// The flag.
        what: &'static str,
        /// Its value.
        value: String,
        /// The limit it breaks.
        rule: String,
        /// The way out.
        fix: String,
    },
    /// The frame arithmetic does not work out.
    #[error("{}", in_flags(.0))]
    Segments(sampling::SegmentError),
    /// The timetable cannot be built.
    #[error("{}", in_flags(.0))]
    Timetable(sampling::TimetableError),
    /// The schedule cannot be built.
    #[error("{}", in_flags(.0))]
    Schedule(sampling::ScheduleError),
    /// The solver cannot be built.
    #[error("{}", in_flags(.0))]
    Solver(sampling::SolverError),
    /// The guidance scale cannot be used.
    #[error("{}", in_flags(.0))]
    Guidance(sampling::GuidanceError),
    /// The step cache cannot be used.
    #[error("{}", in_flags(.0))]
    Cache(sampling::CacheError),
    /// A picture or video it names cannot be used.
    #[error(transparent)]
    Media(#[from] MediaError),
}

impl PlanError {
    pub(crate) fn value(
        what: &'static str,
        value: impl ToString,
        rule: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Value { what, value: value.to_string(), rule: rule.into(), fix: fix.into() }
    }
}

/// Not `#[from]`, which would make an error its own cause and have it told twice, once without flags.
macro_rules! from_sampling {
    ($($variant:ident($error:ty),)*) => {
        $(impl From<$error> for PlanError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from_sampling! {
    Segments(sampling::SegmentError),
    Timetable(sampling::TimetableError),
    Schedule(sampling::ScheduleError),
    Solver(sampling::SolverError),
    Guidance(sampling::GuidanceError),
    Cache(sampling::CacheError),
}

/// A message of the sampling crate, whose quantities are flags here.
fn in_flags(error: &dyn std::fmt::Display) -> String {
    // A name that ends in another comes before it.
    const NAMES: [&str; 8] = [
        "base_num_frames",
        "num_frames",
        "overlap_history",
        "causal_block_size",
        "ar_step",
        "addnoise_condition",
        "guidance_scale",
        "guidance_interval",
    ];
    NAMES.iter().fold(error.to_string(), |message, name| {
        message.replace(name, &format!("--{}", name.replace('_', "-")))
    })
}

fn is_no_room(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What to do when the system refuses.
fn way_out(cause: &io::Error) -> &'static str {
    if is_no_room(cause) { "; free some space" } else { "" }
}

/// Why a run ended before its film was complete.
#[derive(Debug, thiserror::Error)]
pub enum FilmError {
    /// The request cannot work.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A network or tokenizer cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A picture or video cannot be read, or the film cannot be written.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// A solver was driven wrongly or its input does not fit.
    #[error(transparent)]
    Solver(#[from] sampling::SolverError),
    /// The two passes of guidance do not fit each other.
    #[error(transparent)]
    Guidance(#[from] sampling::GuidanceError),
    /// A step cache was driven wrongly.
    #[error(transparent)]
    Cache(#[from] sampling::CacheError),
    /// A file of the run could not be read or written.
    #[error("cannot {action} {}: {cause}{}", path.display(), way_out(cause))]
    Io {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A network's answer holds NaN or infinity, though none of its weights does.
    #[error(
        "{what} is not finite, though all weights are: they do not belong together, or a LoRA is too \
         strong or damaged; `longreel models verify` compares files with what was published, and \
         --lora FILE:0.5 halves a LoRA"
    )]
    NotFinite {
        /// Whose answer, and when.
        what: String,
    },
    /// The disk has no room for the film.
    #[error(
        "cannot make {}: its disk has {free} free and this film needs at least {needed}; free some space, \
         or choose another -o",
        path.display()
    )]
    NoRoom {
        /// What would be written.
        path: PathBuf,
        /// What it takes.
        needed: String,
        /// What there is.
        free: String,
    },
    /// A noise file lacks a tensor or has it in another shape.
    #[error("noise file {}: {problem}", path.display())]
    Noise {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// There is an unfinished run at the output.
    #[error(
        "{} has an unfinished run; `longreel resume {}` goes on with it, --overwrite starts anew",
        path.display(), path.display()
    )]
    Unfinished {
        /// The film.
        path: PathBuf,
    },
    /// Another process makes the film at this moment.
    #[error(
        "{} is being made by another process; wait until it has ended, end it, or choose another -o",
        path.display()
    )]
    Busy {
        /// The film.
        path: PathBuf,
    },
    /// There is nothing to resume.
    #[error("{}: {problem}", path.display())]
    NothingToResume {
        /// The film.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// What the film starts from or ends in is needed once more, and gone.
    #[error(
        "{} cannot go on: it is made from {}, which is not there any more, and the run ended before what is needed \
         of it was kept; put the file back at that path, or begin anew with --overwrite",
        film.display(), path.display()
    )]
    SourceGone {
        /// The picture or video.
        path: PathBuf,
        /// The film.
        film: PathBuf,
    },
    /// A file that the run reads is not what it was when the run began.
    #[error(
        "{} cannot go on: {} is not the file that it was begun with ({difference}); put that one back at this path, or \
         begin anew with --overwrite",
        film.display(), path.display()
    )]
    SourceChanged {
        /// The picture, video or noise file.
        path: PathBuf,
        /// The film.
        film: PathBuf,
        /// What it is now, and what it was.
        difference: String,
    },
    /// The model is not the one the run began with.
    #[error(
        "the run began with revision {began} of {}, which is now {now}; put the old files back or \
         start the film anew",
        model.display()
    )]
    OtherModel {
        /// The model's folder or file.
        model: PathBuf,
        /// Revision at the start.
        began: String,
        /// Revision now.
        now: String,
    },
    /// The model is used otherwise than when the run began.
    #[error(
        "the run began with {began} and the model is now used with {now}; use the same --lora and --dtype \
         or start the film anew"
    )]
    OtherEngine {
        /// Adapters and type of the weights at the start.
        began: String,
        /// The same now.
        now: String,
    },
    /// The device that was asked for cannot be used.
    #[error(
        "--device {choice}: {error}; --device cpu does without it, and `longreel doctor` says more"
    )]
    Device {
        /// What was asked for.
        choice: DeviceChoice,
        /// Why not.
        error: GpuError,
    },
    /// The GPU is too small for the film.
    #[error(
        "this film needs at least {needed} of the GPU's memory and {free} are free; use a smaller --size \
         or --base-num-frames, weights of fewer bits (--dtype fp8, `longreel models quantize`), or --device cpu"
    )]
    GpuMemory {
        /// What it needs.
        needed: String,
        /// What there is.
        free: String,
    },
    /// A film that another one cannot begin with.
    #[error("no film can begin with {}: {problem}", path.display())]
    Beginning {
        /// The film or its checkpoint.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
}

impl FilmError {
    /// True when the cause is what was asked for or given, rather than a failure on the way.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Media(error) => !matches!(
                error,
                MediaError::DiskFull { .. } | MediaError::Io { .. } | MediaError::Codec { .. }
            ),
            Self::Solver(_)
            | Self::Io { .. }
            | Self::Model(ModelError::Gpu(_) | ModelError::Ranks(_)) => false,
            _ => true,
        }
    }

    /// Whether a disk has no room, or had none any more.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Media(MediaError::DiskFull { .. }) | Self::NoRoom { .. } => true,
            Self::Io { cause, .. } => is_no_room(cause),
            _ => false,
        }
    }

    /// What a GPU could not do, when that is what went wrong.
    pub fn gpu(&self) -> Option<&GpuError> {
        match self {
            Self::Device { error, .. } | Self::Model(ModelError::Gpu(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether the memory of a GPU was not enough.
    pub fn is_gpu_memory(&self) -> bool {
        matches!(self, Self::GpuMemory { .. }) || self.gpu().is_some_and(GpuError::is_memory)
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { action, path, cause }
    }
}
