//! What passes between the store and a worker.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact_name::Artifact;
use crate::id::JobId;
use crate::job::{Job, Progress, PromptChange};

/// The right to work on a job. Lost when it is not renewed in time, and never given twice.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// 64 hexadecimal characters that nobody else has.
    pub token: String,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret, and debug output ends up in logs.
        write!(f, "Lease({})", self.job)
    }
}

/// A worker asks for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Name of the worker, another one for each process. 1 to 128 bytes.
    pub worker: String,
    /// How long the lease lasts from each renewal, in milliseconds, 1,000 to 3,600,000. A worker
    /// renews about three times in it.
    pub duration_ms: i64,
    /// Only jobs of these models; empty is any.
    pub models: Vec<String>,
}

impl LeaseRequest {
    /// Any job, for 30 seconds from each renewal.
    pub fn new(worker: impl Into<String>) -> Self {
        Self { worker: worker.into(), duration_ms: 30_000, models: Vec::new() }
    }
}

/// A job in the hands of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    /// Goes with each call about the job.
    pub lease: Lease,
    /// The job as it stands now.
    pub job: Job,
    /// When the lease runs out without renewal, in milliseconds since 1970.
    pub expires_ms: i64,
}

/// A worker is alive and tells how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Renewal {
    /// How far; `None` leaves what was reported before.
    pub progress: Option<Progress>,
    /// [`Job::prompts_revision`] that the worker works by.
    pub prompts_revision: u32,
}

/// Whether a worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proceed {
    /// With the next step.
    GoOn,
    /// To the end of the segment; then it hands the job back.
    Pause,
    /// Not at all: the job was called off, or its deadline has passed. The worker hands it back now.
    Stop,
}

/// What a worker has to do after a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Whether it goes on.
    pub proceed: Proceed,
    /// [`Job::prompts_revision`] now.
    pub prompts_revision: u32,
    /// All changed prompts, when there is a newer revision than the worker's. They hold for segments
    /// that are not begun yet.
    pub prompts: Option<Vec<PromptChange>>,
    /// When the lease runs out, in milliseconds since 1970.
    pub expires_ms: i64,
}

/// What a finished film comes with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Completion {
    /// What was stored for it and not yet reported.
    pub artifacts: Vec<Artifact>,
    /// How its look moved from segment to segment. At most 1 MiB of JSON.
    pub drift: Option<Value>,
}

/// Why a worker lets a job go before its end. What becomes of the job is what was asked for: it is
/// cancelled, paused, failed by its deadline, or queued again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandBack {
    /// It stopped in good order.
    Stopped,
    /// The process died, as somebody who watches it saw. Counts like a lease that ran out.
    Died {
        /// What was seen, such as `killed by signal 9`. Cut at 4 KiB.
        reason: String,
    },
    /// The process died because memory ran out. Counts as a death, unless something else is made
    /// instead.
    OutOfMemory {
        /// What was seen. Cut at 4 KiB.
        reason: String,
        /// What is made instead of what was asked for, by whoever works on the job next.
        instead: Option<Instead>,
    },
}

/// What a job becomes that cannot be made as it was asked for. It only does while no segment is finished
/// and its prompts are those of `prompts_revision`; then deaths in a row are counted anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instead {
    /// Takes the place of [`crate::NewJob::resolved`]. At most 1 MiB of JSON.
    pub resolved: Value,
    /// [`Job::prompts_revision`] that it was made from.
    pub prompts_revision: u32,
    /// Takes the place of [`Job::prompts`], since its segments may be others.
    pub prompts: Vec<PromptChange>,
    /// What readers of the job's events are told. At most 4 KiB.
    pub warning: String,
}
