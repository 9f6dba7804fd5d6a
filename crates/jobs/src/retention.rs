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
