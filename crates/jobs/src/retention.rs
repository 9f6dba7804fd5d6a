//! What is done by time and by size, rather than because somebody asked.

use serde::{Deserialize, Serialize};

use crate::artifact_name::ArtifactName;
use crate::id::JobId;
use crate::state::JobState;

/// How long finished films are kept. Waiting and running jobs, and films that such a job is made
/// from, are never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retention {
    /// Jobs that ended longer ago are deleted, in milliseconds.
    pub max_age_ms: Option<i64>,
    /// The films that ended first are deleted until the artifacts of all jobs take no more than this.
    pub max_total_bytes: Option<u64>,
}

/// A job that was deleted, whose files are still there. They are owed to
/// [`crate::UpkeepStore::pending_removals`] until [`crate::UpkeepStore::removal_done`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The job. Everything stored under its id has to go, not only what is listed here.
    pub job: JobId,
    /// Names of the artifacts that were reported for it.
    pub artifacts: Vec<ArtifactName>,
}

/// What a store holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Jobs that wait, paused ones included.
    pub queued: u64,
    /// Of these, the paused ones.
    pub paused: u64,
    /// Jobs that a worker holds.
    pub running: u64,
    /// Films that are whole.
    pub completed: u64,
    /// Jobs that ended with an error.
    pub failed: u64,
    /// Jobs that were called off.
    pub cancelled: u64,
    /// When the job that waits longest, paused ones left aside, was taken in, in milliseconds since
    /// 1970.
    pub oldest_waiting_ms: Option<i64>,
    /// Webhook deliveries that are still owed.
    pub pending_deliveries: u64,
}

/// Why a job was moved on by [`crate::UpkeepStore::sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweptReason {
    /// Its worker did not renew the lease.
    LeaseExpired,
    /// Its deadline passed while it waited.
    DeadlinePassed,
    /// Its worker is known to be gone.
    WorkerGone,
}

/// A job that was moved on because time had passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// The job.
    pub job: JobId,
    /// Why.
    pub reason: SweptReason,
    /// Where it stands now.
    pub state: JobState,
}
