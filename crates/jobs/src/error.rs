//! Why the store refused, or could not do, what was asked.

use std::path::PathBuf;

use crate::admission::Limit;
use crate::id::{JobId, RandomError};
use crate::key::KeyRefusal;
use crate::state::JobState;

/// Why a call to the store had no effect. Whatever the error, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is nothing of this name.
    #[error("there is no {what} {id}; it may have been deleted, or its time is over")]
    NotFound {
        /// `job`, `reservation`, `key` or `delivery`.
        what: &'static str,
        /// Its name.
        id: String,
    },
    /// A value that cannot be taken.
    #[error("{field} is {value}; {rule}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// The value, or its size when it is large.
        value: String,
        /// What it has to be.
        rule: String,
    },
    /// A limit is reached.
    #[error("the limit of {limit} is {max}, this would be {value}; {}", way_out(*.limit, *.retry_after_ms))]
    LimitReached {
        /// Which.
        limit: Limit,
        /// What it would have become; `None` is endless.
        value: LimitValue,
        /// What is allowed.
        max: u64,
        /// When it is worth another try, in milliseconds; `None` when waiting does not help.
        retry_after_ms: Option<u64>,
    },
    /// The idempotency key was used for another request.
    #[error(
        "the idempotency key {key:?} was used for another request, which made job {job}; repeat that \
         request exactly or use a new key"
    )]
    IdempotencyConflict {
        /// The key.
        key: String,
        /// The job it made.
        job: JobId,
    },
    /// The job's state does not allow it.
    #[error("job {job} is {state} and cannot be {action}; {fix}")]
    NotAllowed {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
        /// What was asked, as a participle.
        action: &'static str,
        /// The way out.
        fix: &'static str,
    },
    /// The prompt of a segment that is already begun was to be changed.
    #[error(
        "segment {from_segment} of job {job} is already begun; the first one that can still be changed \
         is {first_open}"
    )]
    SegmentBegun {
        /// The job.
        job: JobId,
        /// The segment asked for.
        from_segment: u32,
        /// The first that is possible.
        first_open: u32,
    },
    /// Another job that is not finished is made from this one.
    #[error(
        "job {job} is what unfinished job {child} is made from; wait for it or cancel it first"
    )]
    NeededBy {
        /// The job.
        job: JobId,
        /// One that needs it.
        child: JobId,
    },
    /// The lease is not valid any more: it ran out and the job was given on, or the job has ended.
    #[error(
        "the lease on job {job} is lost; drop the work, the store gives the job to a worker again"
    )]
    LeaseLost {
        /// The job.
        job: JobId,
    },
    /// The lease on a delivery is not valid any more.
    #[error(
        "the lease on delivery {delivery} is lost; its outcome was not recorded, it is tried again"
    )]
    DeliveryLeaseLost {
        /// The delivery.
        delivery: String,
    },
    /// An API key was refused.
    #[error(transparent)]
    Key(#[from] KeyRefusal),
    /// Others kept the database locked.
    #[error(
        "the database {} stayed locked for {waited_ms} ms while trying to {action}; try again, and if \
         it goes on, see which process holds it (`fuser {}`), it must not lie on a network share",
        path.display(), path.display()
    )]
    Locked {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// How long.
        waited_ms: u64,
    },
    /// The database file is broken.
    #[error(
        "the database {} is damaged ({detail}); stop the service, keep a copy of the file, and either \
         restore a backup or save what can be read with `sqlite3 {} .recover | sqlite3 new.db`",
        path.display(), path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// There is no room for the database.
    #[error("no room on the disk of {} to {action}; make room, nothing is lost", path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
    },
    /// The database can not be opened or written.
    #[error(
        "the database {} cannot be used: {cause}; its folder has to exist and to be writable by this \
         user",
        path.display()
    )]
    Unusable {
        /// The database.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// The database was written by a newer program.
    #[error(
        "the database {} has version {found}, this program knows versions up to {known}; use the newer \
         program, or another database file",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known one.
        known: i64,
    },
    /// There are no random numbers.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Anything else the database says. A bug of ours or of the database.
    #[error("the database failed to {action}: {cause}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// What it says.
        cause: String,
    },
}

/// A value that met a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitValue {
    /// A number.
    Number(u64),
    /// A film without end.
    Endless,
}

impl std::fmt::Display for LimitValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Endless => f.write_str("endless"),
        }
    }
}

fn way_out(limit: Limit, retry_after_ms: Option<u64>) -> String {
    match (limit, retry_after_ms) {
        (Limit::Frames, _) => "ask for a shorter film".into(),
        (_, Some(ms)) => format!("a place is expected in {} s", ms.div_ceil(1_000)),
        (_, None) => "cancel a waiting job first".into(),
    }
}

impl StoreError {
    pub(crate) fn invalid(
        field: &'static str,
        value: impl ToString,
        rule: impl Into<String>,
    ) -> Self {
        Self::Invalid { field, value: value.to_string(), rule: rule.into() }
    }

    /// True when the same call may work later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Locked { .. }
                | Self::DiskFull { .. }
                | Self::LimitReached { retry_after_ms: Some(_), .. }
        )
    }
}
