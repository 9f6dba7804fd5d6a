//! Keeps workers running and gives them jobs.
//!
//! Each slot is one task: it starts a worker, waits until it is ready, leases jobs and hands them to
//! it, and starts another one when it is gone, after a while that doubles with each start that came
//! to nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longreel_jobs::{
    HandBack, Job, JobError, JobState, Lease, LeaseRequest, Leased, ListFilter, ListOrder, Renewal,
    StoreError,
};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::assignment::{Assignment, Finished, patiently};
use crate::code::Code;
use crate::films::Films;
use crate::process::{Heard, WorkerProcess};
use crate::protocol::{Order, Outcome, Told};
use crate::shared::{Ending, Shared, SlotState};
use crate::upkeep;

/// How long a lease lasts without renewal, in milliseconds.
const LEASE_MS: i64 = 30_000;
/// How often an idle worker asks for a job that nobody woke it for: one that was put into the
/// database by another process, or whose lease ran out.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Waits before a worker is started again.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Wait after a job could go on only when there is room on the disk again.
const DISK_FULL_WAIT: Duration = Duration::from_secs(15);

/// How much a worker's memory may always grow, beside half of what it had: what a film larger than any
/// before leaves behind for the next one.
pub const GROWTH_BYTES: u64 = 512 << 20;

/// How the life of one worker process ended.
enum Life {
    /// The server is ending.
    Dismissed,
    /// It held more memory than it should between films, or a model that is the default or served no
    /// more, or a GPU failed under it; and made room for another one.
    Replaced,
    /// It could not begin for want of room on the disk.
    NoRoom(String),
    /// It is gone.
    Gone {
        /// Why, for people.
        reason: String,
        /// It was ready and so is worth a new start at once.
        was_ready: bool,
    },
}

/// Runs one slot until the server ends.
pub async fn run(shared: Arc<Shared>, slot: usize) {
    let mut ending = shared.ending.subscribe();
    let mut fruitless = 0_u32;
    while !shared.is_ending() {
        shared.slots.set(slot, SlotState::Starting);
        let (reason, was_ready) = match live(&shared, slot, &mut ending).await {
            Life::Dismissed => return,
            Life::Replaced => {
                fruitless = 0;
                continue;
            }
            Life::NoRoom(reason) => (reason, false),
            Life::Gone { reason, was_ready } => (reason, was_ready),
        };
        fruitless = if was_ready { 0 } else { fruitless.saturating_add(1) };
        let wait = BACKOFF_FIRST.saturating_mul(1 << fruitless.min(10)).min(BACKOFF_MAX);
        tracing::warn!(slot, reason, again_in = ?wait, "a worker is gone");
        shared.slots.end(slot);
        tokio::select! {
            () = sleep(wait) => {}
            _ = ending.changed() => {}
        }
    }
}

async fn live(shared: &Arc<Shared>, slot: usize, ending: &mut watch::Receiver<Ending>) -> Life {
    // Who becomes the default while this one lives takes its place when it is idle.
    let mut wanted = shared.models.default().model().name.clone();
    let mut worker = match start(shared, slot, shared.models.default(), ending).await {
        Ok(worker) => worker,
        Err(life) => return life,
    };
    let mut wakes = shared.wakes.subscribe();
    loop {
        shared.slots.set(slot, SlotState::Idle);
        wakes.mark_unchanged();
        if shared.is_ending() {
            worker.process.dismiss().await;
            return Life::Dismissed;
        }
        let request = LeaseRequest {
            worker: worker.name.clone(),
            duration_ms: LEASE_MS,
            models: shared.models.making_names(),
        };
        // Not within the select below: a lease that was given must not be dropped.
        match shared.store.lease(request).await {
            Ok(Some(leased)) => {
                let model = &leased.job.asked.model;
                if *model != worker.model
                    && let Some(films) = shared.models.making(model)
                {
                    worker.process.dismiss().await;
                    match change(shared, slot, films, &leased, ending).await {
                        Ok(other) => worker = other,
                        Err(life) => return life,
                    }
                }
                if let Some(life) = work(shared, slot, leased, &mut worker.process).await {
                    return life;
                }
                if worker.has_outgrown(shared, slot) {
                    shared.slots.set(slot, SlotState::Starting);
                    worker.process.dismiss().await;
                    return Life::Replaced;
                }
                continue;
            }
            Ok(None) => {
                let default = shared.models.default().model().name.clone();
                let is_gone = shared.models.making(&worker.model).is_none();
                if is_gone || default != wanted {
                    if default != worker.model {
                        worker.process.dismiss().await;
                        return Life::Replaced;
                    }
                    wanted = default;
                }
            }
            Err(error) => tracing::error!(%error, "no job could be leased"),
        }
        tokio::select! {
            heard = worker.process.hear() => {
                if let Heard::Gone(death) = heard {
                    return Life::Gone { reason: death.reason, was_ready: true };
                }
            }
            _ = wakes.changed() => {}
            _ = ending.changed() => {}
            () = sleep(ASK_EVERY) => {}
        }
    }
}

/// A process that has a model loaded.
struct Worker {
    process: WorkerProcess,
    /// As the store knows it: another name for each process.
    name: String,
    model: String,
    /// The memory that it had when it was ready, or after its first film.
    at_first: Option<u64>,
}

impl Worker {
    /// Whether it holds more memory than another one would that is begun anew.
    fn has_outgrown(&mut self, shared: &Shared, slot: usize) -> bool {
        let now = self.process.memory_bytes();
        self.at_first = self.at_first.or(now);
        let (Some(at_first), Some(now)) = (self.at_first, now) else { return false };
        let has = now > most_bytes(at_first, shared.max_growth);
        if has {
            tracing::info!(slot, at_first, now, "a worker's memory has grown; restarted");
        }
        has
    }
}

/// Starts a worker with a model, up to where it is ready.
async fn start(
    shared: &Arc<Shared>,
    slot: usize,
    films: Arc<dyn Films>,
    ending: &mut watch::Receiver<Ending>,
) -> Result<Worker, Life> {
    let gone = |reason| Life::Gone { reason, was_ready: false };
    let mut process = WorkerProcess::spawn(&shared.worker, shared.patience).map_err(|error| {
        gone(format!("{} cannot be started: {error}", shared.worker.program.display()))
    })?;
    let model = films.model().name.clone();
    shared.slots.set(slot, SlotState::Starting);
    shared.slots.begin(slot, process.id(), &model);
    let pid = process.id().unwrap_or_default();
    let warm_up = shared.work.join(format!("warm-up-{slot}"));
    process.order(&Order::Start { engine: films.engine().clone(), warm_up }).await;
    let is_warm = loop {
        tokio::select! {
            heard = process.hear() => match heard {
                Heard::Told(Told::Ready { seconds, is_warm }) => {
                    tracing::info!(slot, pid, model, seconds, "a worker is ready");
                    break is_warm;
                }
                Heard::Told(Told::Ended { outcome: Outcome::Failed { code, message } }) => {
                    return Err(match code == Code::DiskFull.name() {
                        true => Life::NoRoom(message),
                        false => gone(message),
                    });
                }
                Heard::Told(_) => {}
                Heard::Gone(death) => return Err(gone(death.reason)),
            },
            _ = ending.changed() => {
                // It is loading and has nothing to lose.
                process.kill().await;
                return Err(Life::Dismissed);
            }
        }
    };
    // One that was not warmed up loads what it needs with its first film.
    let at_first = process.memory_bytes().filter(|_| is_warm);
    let name = format!("serve-{}-{slot}-{pid}", std::process::id());
    Ok(Worker { process, name, model, at_first })
}

/// A worker with the model that a leased job is for, in the place of one with another model. The job
/// fails when that model cannot be loaded, so that it does not hold up those of others.
async fn change(
    shared: &Arc<Shared>,
    slot: usize,
    films: Arc<dyn Films>,
    leased: &Leased,
    ending: &mut watch::Receiver<Ending>,
) -> Result<Worker, Life> {
    let (store, lease) = (&shared.store, &leased.lease);
    let mut starting = std::pin::pin!(start(shared, slot, films, ending));
    let started = loop {
        tokio::select! {
            started = &mut starting => break started,
            () = sleep(Duration::from_millis(LEASE_MS as u64 / 4)) => {
                let revision = leased.job.prompts_revision;
                let renewal = Renewal { prompts_revision: revision, ..Renewal::default() };
                // Whether it was lost is found out with the film.
                let _ = store.renew(lease, renewal).await;
            }
        }
    };
    let life = match started {
        Ok(worker) => return Ok(worker),
        Err(life) => life,
    };
    let let_go = match &life {
        Life::Gone { reason, .. } => {
            let detail =
                format!("the model {:?} cannot be loaded: {reason}", leased.job.asked.model);
            let error = JobError::new(Code::ModelUnusable.name(), &detail);
            patiently("fail a job", || store.fail(lease, error.clone())).await
        }
        _ => patiently("hand a job back", || store.hand_back(lease, HandBack::Stopped)).await,
    };
    match let_go {
        Ok(job) => upkeep::let_go(shared, &job).await,
        Err(error) => tracing::error!(%error, "the end is not written down"),
    }
    Err(life)
}

/// Has one job made; the end of the worker's life when it did not survive it.
async fn work(
    shared: &Arc<Shared>,
    slot: usize,
    leased: Leased,
    process: &mut WorkerProcess,
) -> Option<Life> {
    let job = leased.job.id;
    shared.slots.set(slot, SlotState::Working);
    tracing::info!(slot, %job, attempt = leased.job.attempts, "a job begins");
    match Assignment::new(shared, slot, leased, process).run().await {
        Finished::Done => None,
        Finished::DiskFull => {
            tracing::error!(%job, "no room on the disk; the job waits until there is");
            let mut ending = shared.ending.subscribe();
            tokio::select! {
                () = sleep(DISK_FULL_WAIT) => {}
                _ = ending.changed() => {}
            }
            None
        }
        Finished::GpuFailed => {
            tracing::warn!(slot, %job, "a GPU has failed; another worker takes the place of this one");
            // Not asked to exit: it might wait for the GPU.
            process.kill().await;
            Some(Life::Replaced)
        }
        Finished::WorkerGone(reason) => Some(Life::Gone { reason, was_ready: true }),
    }
}

/// The memory with which a worker may begin another film, in bytes.
fn most_bytes(at_first: u64, max_growth: Option<u64>) -> u64 {
    let growth = max_growth.unwrap_or_else(|| (at_first / 2).saturating_add(GROWTH_BYTES));
    at_first.saturating_add(growth)
}

/// Gives jobs back that the server before this one held when it was killed. The data folder is
/// locked, so whoever held them is gone.
///
/// A lease that was written down is handed back as stopped: a killed server says nothing against the
/// job. Without it all that is known is that a worker is gone, which counts against the job.
///
/// # Errors
/// Those of the database.
pub async fn recover(shared: &Shared) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let states = vec![JobState::Running];
        let order = ListOrder::Ascending;
        let filter = ListFilter { states, order, after, limit: 100, ..ListFilter::default() };
        let page = shared.store.list(filter).await?;
        for job in &page.jobs {
            take_back(shared, job).await?;
        }
        after = page.jobs.last().map(|job| job.id);
        if !page.has_more {
            return Ok(());
        }
    }
}

async fn take_back(shared: &Shared, job: &Job) -> Result<(), StoreError> {
    tracing::info!(job = %job.id, "goes on: the server before this one ended while it was made");
    if let Some(token) = read_lease(&shared.work_folder(job.id)).await {
        let lease = Lease { job: job.id, token };
        match shared.store.hand_back(&lease, HandBack::Stopped).await {
            // It was killed between the lease and the writing down of it.
            Err(StoreError::LeaseLost { .. }) => {}
            handed_back => return handed_back.map(drop),
        }
    }
    let worker = job.worker.as_deref().unwrap_or_default();
    shared.store.worker_gone(worker).await.map(drop)
}

/// Writes down the lease on a job, so that the server after this one can hand it back.
pub async fn write_lease(folder: &Path, token: &str) -> std::io::Result<()> {
    tokio::fs::create_dir_all(folder).await?;
    tokio::fs::write(folder.join("lease"), token).await
}

async fn read_lease(folder: &Path) -> Option<String> {
    let token = tokio::fs::read_to_string(folder.join("lease")).await.ok()?;
    (token.len() == 64).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_may_grow_by_half_and_a_little_or_by_what_is_said() {
        assert_eq!(most_bytes(1 << 30, None), (3 << 29) + GROWTH_BYTES);
        assert_eq!(most_bytes(1 << 30, Some(7)), (1 << 30) + 7);
        assert_eq!(most_bytes(u64::MAX, Some(1)), u64::MAX);
    }
}
