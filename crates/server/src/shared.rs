//! What the parts of the server share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longreel_jobs::{Artifacts, Job, JobId, Retention, SigningSecret, Store};
use tokio::sync::watch;

use crate::access::Access;
use crate::fetch::Fetcher;
use crate::films::Resolved;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::notify::Notifier;
use crate::process::WorkerCommand;
use crate::recovery::OnOutOfMemory;
use crate::traces::Traces;

/// What the parts of the server share.
pub struct Shared {
    /// The jobs.
    pub store: Arc<dyn Store>,
    /// Their files.
    pub artifacts: Artifacts,
    /// What a request becomes, and by what it is made.
    pub models: Models,
    /// Who has news for whom.
    pub live: Live,
    /// Rises whenever a job came or changed, so that nobody sleeps through it.
    pub wakes: watch::Sender<u64>,
    /// Whether and how the server is ending.
    pub ending: watch::Sender<Ending>,
    /// Folders of films that are being made.
    pub work: PathBuf,
    /// Folders of files that come with requests, until these are taken in.
    pub uploads: PathBuf,
    /// How workers are started.
    pub worker: WorkerCommand,
    /// How long a worker may say nothing.
    pub patience: Duration,
    /// Bytes by which a worker's memory may have grown when a film is finished; `None` is half of what
    /// it had before, and [`crate::supervisor::GROWTH_BYTES`].
    pub max_growth: Option<u64>,
    /// What is done when memory runs out.
    pub on_out_of_memory: OnOutOfMemory,
    /// The state of each worker.
    pub slots: Slots,
    /// What is counted.
    pub metrics: Metrics,
    /// Where spans go.
    pub traces: Traces,
    /// Who may call.
    pub access: Access,
    /// Longest body of a request.
    pub body_bytes: usize,
    /// How long finished films are kept.
    pub retention: Retention,
    /// Calls addresses that clients gave.
    pub fetcher: Fetcher,
    /// Tells those who run the server.
    pub notifier: Notifier,
    /// Signs webhooks.
    pub webhook_secret: SigningSecret,
}

/// How far the server's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// It works.
    No,
    /// Films stop after their segments; nothing new is begun.
    AfterSegment,
    /// Films stop at once.
    Now,
    /// No worker is left; connections end.
    Closed,
}

impl Shared {
    /// Tells everybody who waits that a job came or changed.
    pub fn wake(&self) {
        self.wakes.send_modify(|count| *count = count.wrapping_add(1));
        self.live.nudge();
    }

    /// Counts a job that has come to its end.
    pub async fn ended(&self, job: &Job) {
        let resolved = Resolved::of(job).ok();
        let fps = resolved.map(|resolved| f64::from(resolved.request.fps.max(1)));
        self.notifier.ended(job);
        self.metrics.ended(job, fps.map(|fps| job.frames_done as f64 / fps));
        if self.traces.is_on() {
            // Without the segments of a very long film there is still the film.
            let events = self.store.events(job.id, 0, 1000).await.unwrap_or_default();
            self.traces.film(job, &events);
        }
    }

    /// Where a job's film is made.
    pub fn work_folder(&self, job: JobId) -> PathBuf {
        self.work.join(job.to_string())
    }

    /// Whether the server is ending.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow() != Ending::No
    }
}

/// Removes a folder; one that is not there is no matter, one that stays is told.
pub async fn remove_folder(folder: &Path) {
    match tokio::fs::remove_dir_all(folder).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a folder could not be removed");
        }
        _ => {}
    }
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// It loads and warms up the model.
    Starting,
    /// It waits for a job.
    Idle,
    /// It makes a film.
    Working,
    /// Its film could not go on for want of room on the disk; it tries again after a while.
    Waiting,
    /// It ended, and is started again after a while.
    Down,
}

impl SlotState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Starting, Self::Idle, Self::Working, Self::Waiting, Self::Down];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Working => "working",
            Self::Waiting => "waiting",
            Self::Down => "down",
        }
    }
}

/// The state of each worker, and its process while there is one.
#[derive(Debug)]
pub struct Slots(Mutex<Vec<Slot>>);

/// A worker as it is seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// What it is doing.
    pub state: SlotState,
    /// Its process, while there is one.
    pub process: Option<u32>,
    /// The model that it has, or loads.
    pub model: Option<String>,
}

impl Slot {
    /// Whether its model is loaded.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, SlotState::Idle | SlotState::Working | SlotState::Waiting)
    }
}

impl Slots {
    /// So many workers, none of them ready.
    pub fn new(count: usize) -> Self {
        let slot = Slot { state: SlotState::Starting, process: None, model: None };
        Self(Mutex::new(vec![slot; count]))
    }

    /// Notes what a worker is doing.
    pub fn set(&self, slot: usize, state: SlotState) {
        self.change(slot, |slot| slot.state = state);
    }

    /// Notes which process a worker is, with which model.
    pub fn begin(&self, slot: usize, process: Option<u32>, model: &str) {
        self.change(slot, |slot| {
            slot.process = process;
            slot.model = Some(model.to_owned());
        });
    }

    /// Notes that a worker is no more, and is started again after a while.
    pub fn end(&self, slot: usize) {
        self.change(slot, |slot| {
            *slot = Slot { state: SlotState::Down, process: None, model: None }
        });
    }

    fn change(&self, slot: usize, change: impl FnOnce(&mut Slot)) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get_mut(slot).map(change);
    }

    /// All of them.
    pub fn get(&self) -> Vec<Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a job that came now would be made: some worker has its model loaded.
    pub fn is_ready(&self) -> bool {
        self.get().iter().any(Slot::is_ready)
    }

    /// Whether all that are ready wait for room on the disk.
    pub fn wait_for_room(&self) -> bool {
        let slots = self.get();
        let mut ready = slots.iter().filter(|slot| slot.is_ready()).peekable();
        ready.peek().is_some() && ready.all(|slot| slot.state == SlotState::Waiting)
    }
}
