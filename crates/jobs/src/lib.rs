//! What is asked, by whom, how far it is.
//!
//! A [`Job`] is a film somebody asked for. It is created through a [`JobStore`], waits in the queue,
//! is leased by a worker through a [`WorkStore`], and ends as completed, failed or cancelled; the
//! states and the steps between them are drawn in [`state`]. While a worker holds it, each of its
//! calls carries its [`Lease`], so that a worker that was given up for dead can change nothing any
//! more. [`UpkeepStore`] holds what is done by time: leases that run out, deadlines, retention.
//! [`KeyStore`] keeps API keys, [`DeliveryStore`] the webhook deliveries that are still owed.
//!
//! A [`Store`] is all of these. [`SqliteStore`] is the body that needs no server; the suite in
//! `tests/conformance` is what any other body has to pass. What a film leaves behind lies in
//! [`Artifacts`], under names made from the job's id and a fixed set of kinds.
//!
//! Nothing here assumes one machine: the clock and the ids are passed in, files go through an object
//! store, and what a process has to know is in the database.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use longreel_jobs::{JobStore, LeaseRequest, NewJob, SqliteStore, StoreOptions, WorkStore};
//!
//! let folder = tempfile::tempdir()?;
//! let store = SqliteStore::open(folder.path().join("jobs.db"), StoreOptions::default()).await?;
//! let asked = NewJob::new("somebody", "a lighthouse in the fog", serde_json::json!({"seconds": 60}));
//! let job = store.create(asked).await?.into_job();
//!
//! let leased = store.lease(LeaseRequest::new("worker-1")).await?.expect("one job waits");
//! assert_eq!(leased.job.id, job.id);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
#![warn(missing_docs)]

mod admission;
mod artifact_name;
mod artifacts;
mod clock;
mod delivery;
mod error;
mod event;
mod id;
mod job;
mod key;
mod lease;
mod retention;
mod room;
mod segment;
mod signature;
mod sqlite;
pub mod state;
mod store;

pub use admission::{Limit, Limits, OwnerLimits};
pub use artifact_name::{Artifact, ArtifactKind, ArtifactName, Format, ParseArtifactNameError};
pub use artifacts::{ArtifactError, Artifacts};
pub use clock::{Clock, ManualClock, SystemClock};
pub use delivery::{
    Backoff, Delivery, DeliveryAttempt, DeliveryEvent, DeliveryFilter, DeliveryLease,
    DeliveryOutcome, DeliveryState,
};
pub use error::{LimitValue, StoreError};
pub use event::{Changes, Event, EventKind, WorkerEvent};
pub use id::{DeliveryId, IdError, Ids, JobId, KeyId, RandomError, RandomIds, SeededIds};
pub use job::{
    Created, Job, JobError, ListFilter, ListOrder, NewJob, Page, Parent, Progress, PromptChange,
    Relation, Timings, TraceContext,
};
pub use key::{ApiKey, ApiKeySecret, IssuedKey, KeyRefusal, NewKey, RateLimit, Scope};
pub use lease::{
    Completion, HandBack, Instead, Lease, LeaseRequest, Leased, Orders, Proceed, Renewal,
};
pub use retention::{Counts, Removed, Retention, Swept, SweptReason};
pub use room::is_no_room;
pub use segment::{PartBytes, Segment, SegmentDone};
pub use signature::{SecretError, SigningSecret};
pub use sqlite::SqliteStore;
pub use state::{JobState, Stop};
pub use store::{DeliveryStore, JobStore, KeyStore, Store, StoreOptions, UpkeepStore, WorkStore};
