//! What happened to a job, in order, so that a reader can go on where it was.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::artifact_name::{Artifact, ArtifactName};
use crate::id::JobId;
use crate::job::Progress;
use crate::segment::SegmentDone;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The job was queued, leased, paused, resumed, steered or asked to stop. Data: `state`,
    /// `paused`, `stop`, `prompts_revision`; and `warning` when something else is made from now on than
    /// was asked for.
    State,
    /// Steps were made. Data: a [`Progress`]. Of several in a row the last one is kept.
    Progress,
    /// A segment is finished and can be played. Data: `segment`, `frames` of the film so far.
    Segment,
    /// There is a new picture of a segment. Data: `segment`, `artifact`. It takes the place of an
    /// earlier one of that segment, whose event goes.
    Preview,
    /// The look of a finished segment. Data: `segment`, `drift`.
    Drift,
    /// The job reached its final state; nothing follows. Data: `state`, `error`.
    Done,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::State, Self::Progress, Self::Segment, Self::Preview, Self::Drift, Self::Done];

    /// As it is written in the database and in server-sent events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Progress => "progress",
            Self::Segment => "segment",
            Self::Preview => "preview",
            Self::Drift => "drift",
            Self::Done => "done",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number within the job, from 1, rising; numbers of thinned-out progress are missing.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What kind.
    pub kind: EventKind,
    /// What exactly, as [`EventKind`] says.
    pub data: Value,
}

/// What a worker reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerEvent {
    /// Steps were made.
    Progress(Progress),
    /// A segment is finished and its checkpoint is safe.
    SegmentDone(SegmentDone),
    /// There is a new picture of a segment, in work or finished.
    Preview {
        /// From 0.
        segment: u32,
        /// The picture, already stored.
        artifact: Artifact,
    },
    /// The look of a finished segment.
    Drift {
        /// From 0.
        segment: u32,
        /// Its measures. At most 64 KiB of JSON.
        drift: Value,
    },
    /// Something was stored: it is known from now on and replaces what had the same name. Nobody is
    /// told.
    Stored(Artifact),
}

impl WorkerEvent {
    /// What readers are told: kind and data.
    pub(crate) fn told(&self) -> Option<(EventKind, Value)> {
        Some(match self {
            Self::Progress(progress) => (EventKind::Progress, json!(progress)),
            Self::SegmentDone(done) => {
                let data = json!({"segment": done.segment, "frames": done.frames});
                (EventKind::Segment, data)
            }
            Self::Preview { segment, artifact: Artifact { name, .. } } => {
                (EventKind::Preview, preview(*segment, *name))
            }
            Self::Drift { segment, drift } => {
                (EventKind::Drift, json!({"segment": segment, "drift": drift}))
            }
            Self::Stored(_) => return None,
        })
    }
}

fn preview(segment: u32, name: ArtifactName) -> Value {
    json!({"segment": segment, "artifact": name})
}

/// Which jobs have new events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Each job once.
    pub jobs: Vec<JobId>,
    /// Where to go on from.
    pub cursor: i64,
}
