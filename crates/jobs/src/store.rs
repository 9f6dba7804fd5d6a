//! What a store of jobs can do. Each trait is one side's view of it; a [`Store`] is all of them, and
//! an `Arc<dyn Store>` is what the parts of a service share.

use std::sync::Arc;

use async_trait::async_trait;

use crate::admission::{Limits, OwnerLimits};
use crate::artifact_name::Artifact;
use crate::clock::{Clock, SystemClock};
use crate::delivery::{
    Backoff, Delivery, DeliveryAttempt, DeliveryFilter, DeliveryLease, DeliveryOutcome,
    DeliveryState,
};
use crate::error::StoreError;
use crate::event::{Changes, Event, WorkerEvent};
use crate::id::{DeliveryId, Ids, JobId, KeyId, RandomIds};
use crate::job::{Created, Job, JobError, ListFilter, NewJob, Page, PromptChange};
use crate::key::{ApiKey, IssuedKey, NewKey};
use crate::lease::{Completion, HandBack, Lease, LeaseRequest, Leased, Orders, Renewal};
use crate::retention::{Counts, Removed, Retention, Swept};
use crate::segment::{PartBytes, Segment};

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Names and secrets.
    pub ids: Arc<dyn Ids>,
    /// How much is taken in.
    pub limits: Limits,
    /// A job fails when its worker died this often without a segment finished in between. At least 1.
    pub max_deaths: u32,
    /// Work given to an owner counts half after this time, in milliseconds, when the next job is
    /// chosen.
    pub share_half_life_ms: i64,
    /// When failed webhooks are tried again.
    pub backoff: Backoff,
    /// How long a call waits for others to release the database, in milliseconds.
    pub busy_timeout_ms: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds::default()),
            limits: Limits::default(),
            max_deaths: 3,
            share_half_life_ms: 3_600_000,
            backoff: Backoff::default(),
            busy_timeout_ms: 10_000,
        }
    }
}

/// Jobs as those see them who ask for films.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Takes a job in.
    ///
    /// # Errors
    /// [`StoreError::LimitReached`], [`StoreError::IdempotencyConflict`], [`StoreError::Invalid`],
    /// [`StoreError::NotFound`] for a parent that is gone.
    async fn create(&self, job: NewJob) -> Result<Created, StoreError>;

    /// An id for a job whose files are stored before it is asked for, so that no worker sees it without
    /// them. When it is not asked for within an hour, the files are owed to
    /// [`UpkeepStore::pending_removals`]; so whoever is refused, or dies, leaves nothing behind.
    ///
    /// # Errors
    /// Those of the database.
    async fn reserve(&self) -> Result<JobId, StoreError>;

    /// Takes a job in under a reserved id, with the files that were stored for it.
    ///
    /// # Errors
    /// As [`Self::create`], and [`StoreError::NotFound`] when the reservation is used or over.
    async fn create_reserved(
        &self,
        id: JobId,
        job: NewJob,
        inputs: Vec<Artifact>,
    ) -> Result<Created, StoreError>;

    /// One job.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn get(&self, job: JobId) -> Result<Job, StoreError>;

    /// Jobs that pass a filter, in order of their ids, which is that of their making.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a limit above 100.
    async fn list(&self, filter: ListFilter) -> Result<Page, StoreError>;

    /// How many jobs go before this one by priority and age, shares of owners left aside: 0 for the
    /// next one, `None` when it does not wait or is paused.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn queue_position(&self, job: JobId) -> Result<Option<u64>, StoreError>;

    /// Calls a job off. A waiting one is cancelled at once; a running one when its worker lets go,
    /// within a step, or dies. Calling off twice is no error.
    ///
    /// # Errors
    /// [`StoreError::NotAllowed`] for one that has completed or failed.
    async fn cancel(&self, job: JobId) -> Result<Job, StoreError>;

    /// Keeps a job from going on. A running one stops when its segment is finished. Pausing twice is
    /// no error.
    ///
    /// # Errors
    /// [`StoreError::NotAllowed`] for one that has ended or is being cancelled.
    async fn pause(&self, job: JobId) -> Result<Job, StoreError>;

    /// Lets a paused job go on, or takes back a pause that has not yet come about. No error when
    /// neither is the case.
    ///
    /// # Errors
    /// [`StoreError::NotAllowed`] for one that has ended or is being cancelled.
    async fn resume(&self, job: JobId) -> Result<Job, StoreError>;

    /// Changes the prompt from a segment on, up to the next segment that was given one.
    ///
    /// # Errors
    /// [`StoreError::SegmentBegun`], [`StoreError::NotAllowed`] for one that has ended.
    async fn steer(&self, job: JobId, change: PromptChange) -> Result<Job, StoreError>;

    /// Deletes a job with its events and deliveries. Its files are the caller's to remove.
    ///
    /// # Errors
    /// [`StoreError::NotAllowed`] for a running one, [`StoreError::NeededBy`].
    async fn delete(&self, job: JobId) -> Result<Removed, StoreError>;

    /// What happened to a job after event number `after`, 0 for all, in order, at most `limit` events
    /// (1 to 1000).
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn events(&self, job: JobId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError>;

    /// Everything that was reported as stored for a job, by name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn artifacts(&self, job: JobId) -> Result<Vec<Artifact>, StoreError>;

    /// Finished segments of a job after segment `after`, `None` from the first on, in order, at most
    /// `limit` (1 to 1000; 0 is 20).
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Invalid`].
    async fn segments(
        &self,
        job: JobId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError>;

    /// Finished segments that lie in the film's file, in order, each with its number, the frames of the
    /// film with it, and its bytes: all that a playlist says of it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn parts(&self, job: JobId) -> Result<Vec<(u32, u64, PartBytes)>, StoreError>;

    /// Which jobs had events since a cursor, so that one poll serves any number of readers. Without a
    /// cursor: no jobs, and the cursor of now.
    ///
    /// # Errors
    /// Those of the database.
    async fn changes(&self, cursor: Option<i64>) -> Result<Changes, StoreError>;

    /// Gives an owner limits of its own; `None` takes them away.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    async fn set_owner_limits(
        &self,
        owner: &str,
        limits: Option<OwnerLimits>,
    ) -> Result<(), StoreError>;
}

/// Jobs as workers see them. Each call carries the lease; once that is lost, every call is
/// [`StoreError::LeaseLost`] and changes nothing.
#[async_trait]
pub trait WorkStore: Send + Sync {
    /// Gives out the next job: of those with the highest priority, one of the owner who was given the
    /// least work lately, the oldest first. Owners at their limit of running jobs are passed over.
    /// Leases that have run out are taken back first. `None` when nothing waits.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    async fn lease(&self, request: LeaseRequest) -> Result<Option<Leased>, StoreError>;

    /// Keeps a lease. A lease whose time is over, but whose job was not taken back yet, still counts.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    async fn renew(&self, lease: &Lease, renewal: Renewal) -> Result<Orders, StoreError>;

    /// Adds events, in order, all or none, and keeps the lease. A finished segment is reported before
    /// the next one is begun, with the orders for that one in the answer.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Invalid`].
    async fn append(
        &self,
        lease: &Lease,
        events: Vec<WorkerEvent>,
        prompts_revision: u32,
    ) -> Result<Orders, StoreError>;

    /// The film is whole. Also when the job was called off meanwhile: it is here now. When the film is
    /// among what was stored, its parts ([`crate::ArtifactKind::Part`]) count as stored no longer.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Invalid`].
    async fn complete(&self, lease: &Lease, completion: Completion) -> Result<Job, StoreError>;

    /// The film cannot be made.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`], [`StoreError::Invalid`].
    async fn fail(&self, lease: &Lease, error: JobError) -> Result<Job, StoreError>;

    /// Lets a job go before its end.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    async fn hand_back(&self, lease: &Lease, how: HandBack) -> Result<Job, StoreError>;
}

/// What has to be done from time to time, by one process or by several at once.
#[async_trait]
pub trait UpkeepStore: Send + Sync {
    /// Takes jobs back whose lease has run out, and fails waiting jobs whose deadline has passed. A
    /// job whose worker died goes back to the queue, or fails after too many deaths in a row.
    ///
    /// After a clock jumped back, a lease lasts no longer than its duration from now.
    ///
    /// # Errors
    /// Those of the database.
    async fn sweep(&self) -> Result<Vec<Swept>, StoreError>;

    /// Takes back what a worker holds that is known to be gone, without waiting for its leases.
    ///
    /// # Errors
    /// Those of the database.
    async fn worker_gone(&self, worker: &str) -> Result<Vec<Swept>, StoreError>;

    /// Deletes finished jobs by age and by size, at most 100 in one call; call again until nothing is
    /// deleted.
    ///
    /// # Errors
    /// Those of the database.
    async fn retire(&self, retention: Retention) -> Result<Vec<Removed>, StoreError>;

    /// Ids under which files may still be that no job owns, of deleted jobs and of reservations whose
    /// time is over; at most 1000. Kept until [`Self::removal_done`], so that files are not forgotten
    /// when a process dies between the two.
    ///
    /// # Errors
    /// Those of the database.
    async fn pending_removals(&self) -> Result<Vec<JobId>, StoreError>;

    /// The files of a deleted job are gone.
    ///
    /// # Errors
    /// Those of the database.
    async fn removal_done(&self, job: JobId) -> Result<(), StoreError>;

    /// How many jobs are in which state, for whoever watches the service.
    ///
    /// # Errors
    /// Those of the database.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Bytes of all artifacts that were reported.
    ///
    /// # Errors
    /// Those of the database.
    async fn total_artifact_bytes(&self) -> Result<u64, StoreError>;
}

/// API keys.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Makes a key.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    async fn create_key(&self, key: NewKey) -> Result<IssuedKey, StoreError>;

    /// The key that a client's secret belongs to.
    ///
    /// # Errors
    /// [`StoreError::Key`] when it is unknown, revoked or expired.
    async fn verify_key(&self, secret: &str) -> Result<ApiKey, StoreError>;

    /// The key of this id, for whoever proved before that it is theirs.
    ///
    /// # Errors
    /// [`StoreError::Key`] when it is unknown, revoked or expired.
    async fn check_key(&self, key: KeyId) -> Result<ApiKey, StoreError>;

    /// All keys, revoked ones included, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    async fn list_keys(&self) -> Result<Vec<ApiKey>, StoreError>;

    /// Ends a key at once. Revoking twice is no error.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn revoke_key(&self, key: KeyId) -> Result<ApiKey, StoreError>;
}

/// Webhook deliveries. They are made by the ends of jobs that have a webhook.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// Takes deliveries that are due, at most `limit` (1 to 100), for `duration_ms`. One whose outcome
    /// is not recorded in that time is due again, so a receiver may get it twice, with the same id.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    async fn take_deliveries(
        &self,
        limit: u32,
        duration_ms: i64,
    ) -> Result<Vec<DeliveryLease>, StoreError>;

    /// Records how an attempt went, and when the next one is due.
    ///
    /// # Errors
    /// [`StoreError::DeliveryLeaseLost`].
    async fn record_delivery(
        &self,
        lease: &DeliveryLease,
        outcome: DeliveryOutcome,
    ) -> Result<DeliveryState, StoreError>;

    /// Deliveries that pass a filter, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    async fn list_deliveries(&self, filter: DeliveryFilter) -> Result<Vec<Delivery>, StoreError>;

    /// The attempts at a delivery, in order.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn delivery_log(&self, delivery: DeliveryId) -> Result<Vec<DeliveryAttempt>, StoreError>;
}

/// A store of jobs: every side of it.
pub trait Store: JobStore + WorkStore + UpkeepStore + KeyStore + DeliveryStore {}

impl<T: JobStore + WorkStore + UpkeepStore + KeyStore + DeliveryStore> Store for T {}
