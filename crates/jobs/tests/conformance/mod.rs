//! What every store of jobs has to do, whatever it keeps them in.
//!
//! Each test takes a [`Bench`]: an empty store, the clock it was opened with, and a way to open the
//! same store once more, as another process would. A new body of the store runs all of them.

// Each body of the store includes this suite for itself.
#![allow(missing_docs)]

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use longreel_jobs::{
    Created, Job, JobId, Lease, LeaseRequest, Leased, Limits, ManualClock, NewJob, OwnerLimits,
    Store, StoreError, StoreOptions,
};
use serde_json::json;

pub mod asking;
pub mod chaos;
pub mod ending;
pub mod keys;
pub mod leasing;
pub mod memory;
pub mod reading;
pub mod steering;
pub mod upkeep;
pub mod webhooks;

/// A store that is being opened.
pub type Opening = Pin<Box<dyn Future<Output = Arc<dyn Store>> + Send>>;

/// An empty store to test.
pub struct Bench {
    pub store: Arc<dyn Store>,
    pub clock: Arc<ManualClock>,
    open: Box<dyn Fn() -> Opening + Send + Sync>,
    /// What has to outlive the store, such as its folder.
    _keep: Box<dyn Any + Send>,
}

impl Bench {
    pub async fn new(
        clock: Arc<ManualClock>,
        open: Box<dyn Fn() -> Opening + Send + Sync>,
        keep: Box<dyn Any + Send>,
    ) -> Self {
        Self { store: open().await, clock, open, _keep: keep }
    }

    /// The same store with connections of its own.
    pub async fn open_again(&self) -> Arc<dyn Store> {
        (self.open)().await
    }

    pub async fn create(&self, new: NewJob) -> Job {
        self.store.create(new).await.unwrap().into_job()
    }

    pub async fn lease(&self) -> Leased {
        self.store.lease(LeaseRequest::new("worker")).await.unwrap().expect("a job waits")
    }

    pub async fn get(&self, id: JobId) -> Job {
        self.store.get(id).await.unwrap()
    }
}

/// Options with a manual clock and limits that are out of the way.
pub fn options(clock: &Arc<ManualClock>) -> StoreOptions {
    StoreOptions {
        clock: clock.clone(),
        limits: Limits {
            queue_length: 100_000,
            owner: OwnerLimits { queued: 100_000, running: 100_000, frames: None },
        },
        ..StoreOptions::default()
    }
}

/// A film of 97 frames for `owner`.
pub fn film(owner: &str) -> NewJob {
    let request = json!({"prompt": "a lighthouse in the fog", "seconds": 4});
    NewJob { frames: Some(97), ..NewJob::new(owner, "a lighthouse in the fog", request) }
}

pub fn is_new(created: &Created) -> bool {
    matches!(created, Created::New(_))
}

#[track_caller]
pub fn assert_lost<T: std::fmt::Debug>(result: Result<T, StoreError>, lease: &Lease) {
    match result {
        Err(StoreError::LeaseLost { job }) => assert_eq!(job, lease.job),
        other => panic!("a lost lease was answered with {other:?}"),
    }
}
