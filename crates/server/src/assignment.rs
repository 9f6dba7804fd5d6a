//! One job in the hands of one worker, from lease to end.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longreel_film::Change;
use longreel_jobs::{
    Artifact, ArtifactError, ArtifactKind, ArtifactName, Completion, Format, HandBack, Job,
    JobError, Lease, Leased, Orders, Proceed, Progress, Renewal, StoreError, WorkerEvent,
};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::films::Resolved;
use crate::prepare::{Unready, prepare};
use crate::process::{Heard, WorkerProcess};
use crate::protocol::{Order, Outcome, Told, When};
use crate::shared::{Ending, Shared, remove_folder};
use crate::steering::steered;
use crate::supervisor::write_lease;

/// How often steps are written down. A small model makes a hundred a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How often the lease is renewed when there is nothing to write down; also how long it takes at most
/// until an order from another process is seen.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How long a worker may take to stop when the server is ended at once.
const STOP_NOW_TIME: Duration = Duration::from_secs(3);
/// Wait before the database is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Longest drift report that is kept with the job itself.
const DRIFT_BYTES: usize = 512 << 10;

/// How an assignment ended.
#[derive(Debug)]
pub enum Finished {
    /// The worker is free for the next job.
    Done,
    /// The same, but nothing can be made until there is room.
    DiskFull,
    /// The worker is no more.
    WorkerGone(String),
}

/// One job in the hands of one worker.
pub struct Assignment<'a> {
    shared: &'a Arc<Shared>,
    process: &'a mut WorkerProcess,
    lease: Lease,
    job: Job,
    progress: Progress,
    /// Progress that is not written down yet.
    is_new: bool,
    /// [`Job::prompts_revision`] that the worker works by.
    prompts_revision: u32,
    last_contact: Instant,
    told_to_stop: Option<When>,
    /// The job was given to somebody else or has ended: nothing may be said about it any more.
    lost: bool,
}

impl<'a> Assignment<'a> {
    /// A job that was leased, for a worker that is idle.
    pub fn new(shared: &'a Arc<Shared>, leased: Leased, process: &'a mut WorkerProcess) -> Self {
        Self {
            shared,
            process,
            lease: leased.lease,
            prompts_revision: leased.job.prompts_revision,
            job: leased.job,
            progress: Progress::default(),
            is_new: false,
            last_contact: Instant::now(),
            told_to_stop: None,
            lost: false,
        }
    }

    /// Has the film made.
    pub async fn run(mut self) -> Finished {
        let resolved: Resolved = match serde_json::from_value(self.job.asked.resolved.clone()) {
            Ok(resolved) => resolved,
            Err(error) => {
                let message =
                    format!("this version cannot read the job ({error}); ask for it again");
                self.fail("job_unreadable", &message).await;
                return Finished::Done;
            }
        };
        let folder = self.shared.work_folder(self.job.id);
        if let Err(error) = write_lease(&folder, &self.lease.token).await {
            tracing::error!(folder = %folder.display(), %error, "a job's folder cannot be written");
            self.hand_back(HandBack::Stopped).await;
            return Finished::DiskFull;
        }
        let prepared = match prepare(self.shared, &self.job, &resolved).await {
            Ok(prepared) => prepared,
            Err(Unready::Refused { code, message }) => {
                self.fail(&code, &message).await;
                return Finished::Done;
            }
            Err(Unready::Later(error)) => {
                tracing::error!(job = %self.job.id, %error, "a job's files cannot be brought");
                self.hand_back(HandBack::Stopped).await;
                return Finished::DiskFull;
            }
        };
        self.process.order(&Order::Make(Box::new(prepared.task))).await;
        // Not before: what the store answers may be an order for the film in work.
        if !prepared.events.is_empty() {
            self.append(prepared.events).await;
        }
        self.add_artifacts(prepared.artifacts).await;

        let mut ending = self.shared.ending.subscribe();
        ending.mark_changed();
        let mut wakes = self.shared.wakes.subscribe();
        let mut ticks = interval(PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline: Option<Instant> = None;
        loop {
            tokio::select! {
                heard = self.process.hear() => match heard {
                    Heard::Told(Told::Ended { outcome }) => return self.ended(outcome).await,
                    Heard::Told(told) => self.told(told).await,
                    Heard::Gone(reason) => return self.gone(reason).await,
                },
                _ = ticks.tick() => {
                    if self.is_new || self.last_contact.elapsed() >= RENEW_EVERY {
                        self.renew().await;
                    }
                    if deadline.is_some_and(|at| at <= Instant::now()) {
                        return self.cut_off().await;
                    }
                }
                _ = wakes.changed() => self.renew().await,
                _ = ending.changed() => {
                    let now = *ending.borrow_and_update();
                    match now {
                        Ending::No => {}
                        Ending::AfterSegment => self.stop(When::AfterSegment).await,
                        Ending::Now | Ending::Closed => {
                            self.stop(When::Now).await;
                            deadline.get_or_insert(Instant::now() + STOP_NOW_TIME);
                        }
                    }
                }
            }
        }
    }

    /// What the worker says of the film.
    async fn told(&mut self, told: Told) {
        match told {
            Told::Segment { segment, segments } => {
                self.progress.segment = segment;
                self.progress.segments = segments;
                self.progress.step = 0;
                self.is_new = true;
            }
            Told::Step { segment, step, steps, left_seconds } => {
                let segments = self.progress.segments;
                self.progress = Progress { segment, segments, step, steps, left_seconds };
                self.is_new = true;
            }
            Told::Part { segment, frames, preview, checkpoint } => {
                self.append(vec![WorkerEvent::SegmentDone { segment, frames }]).await;
                let change = self.change().await;
                let next = segment.saturating_add(1);
                self.process.order(&Order::GoOn { segment: next, change }).await;
                // What follows is done while the worker makes the next segment.
                if let Some(preview) = preview {
                    let kind = ArtifactKind::Preview(segment);
                    let name = ArtifactName { kind, format: Format::Png };
                    if let Some(artifact) = self.keep(name, &preview).await {
                        self.append(vec![WorkerEvent::Preview { segment, artifact }]).await;
                    }
                }
                if let Some(checkpoint) = checkpoint {
                    let kind = ArtifactKind::Checkpoint(segment);
                    let name = ArtifactName { kind, format: Format::Safetensors };
                    let kept = self.keep(name, &checkpoint).await;
                    self.add_artifacts(kept.into_iter().collect()).await;
                }
            }
            Told::Drift(drift) => {
                let segment = drift.get("segment").and_then(Value::as_u64).unwrap_or_default();
                let segment = u32::try_from(segment).unwrap_or(u32::MAX);
                self.append(vec![WorkerEvent::Drift { segment, drift: drift.into() }]).await;
            }
            Told::Warning { message } => tracing::warn!(job = %self.job.id, message, "a warning"),
            Told::Alive | Told::Ready { .. } | Told::Ended { .. } | Told::Other => {}
        }
    }

    /// Stores a file of a segment. A film without it is still a film, so that failing here only leaves a
    /// line in the log.
    async fn keep(&mut self, name: ArtifactName, file: &Path) -> Option<Artifact> {
        match self.put(name, file).await {
            Ok(artifact) => {
                // A long film would leave many; the folder goes in the end anyway.
                let _ = tokio::fs::remove_file(file).await;
                Some(artifact)
            }
            Err(error) => {
                tracing::warn!(job = %self.job.id, %name, %error, "a file is not kept");
                None
            }
        }
    }

    async fn add_artifacts(&self, artifacts: Vec<Artifact>) {
        if artifacts.is_empty() {
            return;
        }
        let (store, lease) = (&self.shared.store, &self.lease);
        let added = patiently("write down files", || store.add_artifacts(lease, artifacts.clone()));
        if let Err(error) = added.await {
            tracing::error!(job = %self.job.id, %error, "files are not written down");
        }
    }

    async fn put(&self, name: ArtifactName, file: &Path) -> Result<Artifact, ArtifactError> {
        self.shared.artifacts.put_file(self.job.id, name, file).await
    }

    /// Says how far it is and hears what to do.
    async fn renew(&mut self) {
        let progress = self.is_new.then_some(self.progress);
        let renewal = Renewal { progress, prompts_revision: self.prompts_revision };
        let orders = self.shared.store.renew(&self.lease, renewal).await;
        self.is_new &= orders.is_err();
        self.follow(orders).await;
    }

    async fn append(&mut self, mut events: Vec<WorkerEvent>) {
        if std::mem::take(&mut self.is_new) {
            events.insert(0, WorkerEvent::Progress(self.progress));
        }
        let (store, lease) = (&self.shared.store, &self.lease);
        let revision = self.prompts_revision;
        // A segment is told once: unlike a step it has to get there.
        let orders =
            patiently("write down a segment", || store.append(lease, events.clone(), revision))
                .await;
        self.follow(orders).await;
    }

    async fn follow(&mut self, orders: Result<Orders, StoreError>) {
        self.last_contact = Instant::now();
        match orders {
            Ok(orders) => {
                if let Some(prompts) = orders.prompts {
                    self.job.prompts = prompts;
                    self.job.prompts_revision = orders.prompts_revision;
                }
                match orders.proceed {
                    Proceed::GoOn => {}
                    Proceed::Pause => self.stop(When::AfterSegment).await,
                    Proceed::Stop => self.stop(When::Now).await,
                }
            }
            Err(StoreError::LeaseLost { .. }) => {
                self.lost = true;
                self.stop(When::Now).await;
            }
            Err(error) => tracing::error!(job = %self.job.id, %error, "not written down"),
        }
    }

    /// What the next segment begins with, when prompts were changed that the worker does not know.
    async fn change(&mut self) -> Option<Change> {
        if self.prompts_revision == self.job.prompts_revision {
            return None;
        }
        let resolved: Resolved = serde_json::from_value(self.job.asked.resolved.clone()).ok()?;
        match steered(self.shared, &self.job, resolved.request).await {
            Ok(film) => {
                self.prompts_revision = self.job.prompts_revision;
                let prompts = film.plan.request().prompts.clone();
                Some(Change { prompts, command: Some(film.command) })
            }
            Err(refusal) => {
                // Whoever changed them was told; this is another version or another model.
                let detail = refusal.detail;
                tracing::error!(job = %self.job.id, detail, "changed prompts cannot be used");
                None
            }
        }
    }

    /// Tells the worker to stop, once, and once more when it is to be sooner.
    async fn stop(&mut self, when: When) {
        if self.told_to_stop == Some(When::Now) || self.told_to_stop == Some(when) {
            return;
        }
        self.told_to_stop = Some(when);
        self.process.order(&Order::Stop { when }).await;
    }

    async fn ended(mut self, outcome: Outcome) -> Finished {
        match outcome {
            Outcome::Complete { film, drift } => return self.complete(&film, &drift).await,
            Outcome::Stopped => self.hand_back(HandBack::Stopped).await,
            Outcome::Failed { code, .. } if code == Outcome::DISK_FULL => {
                self.hand_back(HandBack::Stopped).await;
                return Finished::DiskFull;
            }
            Outcome::Failed { code, message } => {
                // Where things are on this machine is nothing for clients.
                let work = self.shared.work_folder(self.job.id).display().to_string();
                self.fail(&code, &message.replace(&format!("{work}/"), "")).await;
            }
        }
        Finished::Done
    }

    /// Stores the film and only then says that it is there.
    async fn complete(&mut self, film: &Path, drift: &Path) -> Finished {
        let mut artifacts = Vec::new();
        let files = [
            (ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 }, film),
            (ArtifactName { kind: ArtifactKind::Drift, format: Format::Json }, drift),
        ];
        for (name, file) in files {
            match self.put(name, file).await {
                Ok(artifact) => artifacts.push(artifact),
                Err(error) => {
                    // The film is whole in its folder; the next attempt only stores it.
                    tracing::error!(job = %self.job.id, %error, "a film could not be stored");
                    self.hand_back(HandBack::Stopped).await;
                    return Finished::DiskFull;
                }
            }
        }
        artifacts.extend(self.thumbnail().await);
        let drift = tokio::fs::read(drift).await.ok().filter(|json| json.len() <= DRIFT_BYTES);
        let drift = drift.and_then(|json| serde_json::from_slice(&json).ok());
        if std::mem::take(&mut self.is_new) {
            self.is_new = true;
            self.renew().await;
        }
        let completion = Completion { artifacts, drift };
        let (store, lease) = (&self.shared.store, &self.lease);
        let done = patiently("complete a job", || store.complete(lease, completion.clone())).await;
        self.rest(done).await;
        Finished::Done
    }

    /// The first segment's picture stands for the film.
    async fn thumbnail(&self) -> Option<Artifact> {
        let preview = ArtifactName { kind: ArtifactKind::Preview(0), format: Format::Png };
        let name = ArtifactName { kind: ArtifactKind::Thumbnail, format: Format::Png };
        let (artifacts, job) = (&self.shared.artifacts, self.job.id);
        let size = artifacts.size_bytes(job, preview).await.ok()?;
        let bytes = artifacts.get_range(job, preview, 0..size).await.ok()?;
        artifacts.put_bytes(job, name, bytes).await.ok()
    }

    async fn gone(mut self, reason: String) -> Finished {
        tracing::error!(job = %self.job.id, reason, "a worker died");
        self.hand_back(HandBack::Died { reason: reason.clone() }).await;
        Finished::WorkerGone(reason)
    }

    /// The server was told to end at once, and the worker is in a long step.
    async fn cut_off(mut self) -> Finished {
        self.process.kill().await;
        self.hand_back(HandBack::Stopped).await;
        Finished::WorkerGone("the server ends".into())
    }

    async fn hand_back(&mut self, how: HandBack) {
        let (store, lease) = (&self.shared.store, &self.lease);
        let back = patiently("hand a job back", || store.hand_back(lease, how.clone())).await;
        self.rest(back).await;
    }

    async fn fail(&mut self, code: &str, message: &str) {
        let error = JobError::new(code, message);
        let (store, lease) = (&self.shared.store, &self.lease);
        let failed = patiently("fail a job", || store.fail(lease, error.clone())).await;
        self.rest(failed).await;
    }

    /// What the job's last call under this lease came to.
    async fn rest(&self, job: Result<Job, StoreError>) {
        match job {
            Ok(job) => {
                tracing::info!(job = %job.id, state = %job.state, paused = job.paused, "let go");
                // Somebody waits for the job, or for the report of its end.
                self.shared.wake();
                if job.state.is_final() {
                    remove_folder(&self.shared.work_folder(job.id)).await;
                }
            }
            Err(StoreError::LeaseLost { .. }) if self.lost => {}
            Err(error) => {
                tracing::error!(job = %self.job.id, %error, "the end is not written down")
            }
        }
    }
}

/// Tries again for as long as the database only has to be waited for.
async fn patiently<T, F>(what: &str, mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match call().await {
            Err(error) if error.is_transient() => {
                tracing::error!(%error, "cannot {what} yet");
                sleep(STORE_AGAIN).await;
            }
            result => return result,
        }
    }
}
