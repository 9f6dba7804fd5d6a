//! One job in the hands of one worker, from lease to end.

mod ending;
mod files;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longreel_film::Change;
use longreel_jobs::{
    ArtifactKind, ArtifactName, Format, Job, Lease, Leased, Orders, PartBytes, Proceed, Progress,
    Renewal, SegmentDone, StoreError, WorkerEvent,
};
use serde_json::{Map, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::code::Code;
use crate::films::Resolved;
use crate::prepare::{Unready, prepare};
use crate::process::{Heard, WorkerProcess};
use crate::protocol::{Order, Told, When};
use crate::shared::{Ending, Shared, SlotState};
use crate::steering::steered;
use crate::supervisor::write_lease;
use crate::worker::FILM;

/// How often steps are written down. A small model makes a hundred a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How often the lease is renewed when there is nothing to write down; also how long it takes at most
/// until an order from another process is seen.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How long a worker may take to stop when the server is ended at once.
const STOP_NOW_TIME: Duration = Duration::from_secs(3);
/// Wait before the database is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// How an assignment ended.
#[derive(Debug)]
pub enum Finished {
    /// The worker is free for the next job.
    Done,
    /// The same, but nothing can be made until there is room.
    DiskFull,
    /// A GPU failed under the worker, for another reason than want of memory: after most such failures CUDA does
    /// nothing more for the process.
    GpuFailed,
    /// The worker is no more.
    WorkerGone(String),
}

/// One job in the hands of one worker.
pub struct Assignment<'a> {
    shared: &'a Arc<Shared>,
    slot: usize,
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
    /// The first segment that is not reported yet. A worker that had to go back to an older checkpoint
    /// makes some again, which are the same as before.
    next_segment: u32,
    /// Whether the look of the last reported segment is.
    has_drift: bool,
    /// Something could not be stored: the worker stops, and what was not reported is told, what was not
    /// stored is stored, when the job goes on.
    stuck: bool,
}

impl<'a> Assignment<'a> {
    /// A job that was leased, for a worker that is idle.
    pub fn new(
        shared: &'a Arc<Shared>,
        slot: usize,
        leased: Leased,
        process: &'a mut WorkerProcess,
    ) -> Self {
        Self {
            shared,
            slot,
            process,
            lease: leased.lease,
            next_segment: leased.job.segments_done,
            has_drift: true,
            stuck: false,
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
        let resolved = match Resolved::of(&self.job) {
            Ok(resolved) => resolved,
            Err(error) => {
                let message =
                    format!("this version cannot read the job ({error}); ask for it again");
                self.fail(Code::JobUnreadable.name(), &message).await;
                return Finished::Done;
            }
        };
        let folder = self.shared.work_folder(self.job.id);
        if let Err(error) = write_lease(&folder, &self.lease.token).await {
            tracing::error!(folder = %folder.display(), %error, "a job's folder cannot be written");
            return self.wait_for_room().await;
        }
        self.has_drift = self.last_has_drift().await;
        let prepared = match prepare(self.shared, &self.job, &resolved).await {
            Ok(prepared) => prepared,
            Err(Unready::Refused { code, message }) => {
                self.fail(code.name(), &message).await;
                return Finished::Done;
            }
            Err(Unready::Later(error)) => {
                tracing::error!(job = %self.job.id, %error, "a job's files cannot be brought");
                return self.wait_for_room().await;
            }
        };
        self.process.order(&Order::Make(Box::new(prepared.task))).await;
        // Not before: what the store answers may be an order for the film in work.
        for (done, drift) in prepared.made {
            let segment = done.segment;
            if segment < self.next_segment {
                continue;
            }
            if !self.report(&prepared.made_in, done).await {
                break;
            }
            self.has_drift = true;
            if let Some(drift) = drift {
                self.append(vec![WorkerEvent::Drift { segment, drift }]).await;
            }
        }
        self.append(prepared.stored).await;
        remove(prepared.files).await;

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
                    Heard::Gone(death) => return self.gone(death).await,
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
            Told::Step { segment, step, steps, seconds, left_seconds } => {
                self.shared.metrics.step(seconds);
                let segments = self.progress.segments;
                self.progress = Progress { segment, segments, step, steps, left_seconds };
                self.is_new = true;
            }
            Told::Part { segment, frames, prompt, seed, bytes, preview, checkpoint } => {
                let bytes = bytes.map(|(start, end)| PartBytes { start, end });
                let done = SegmentDone { segment, frames, prompt, seed, bytes };
                self.segment(done, preview, checkpoint).await;
            }
            Told::Preview { segment, path } => {
                if segment >= self.next_segment && !self.stuck {
                    let preview = self.peek(segment, &path).await;
                    self.append(preview.into_iter().collect()).await;
                    remove([path]).await;
                }
            }
            Told::Drift(drift) => {
                let segment = drift.get("segment").and_then(Value::as_u64).unwrap_or_default();
                let segment = u32::try_from(segment).unwrap_or(u32::MAX);
                if segment.checked_add(1) == Some(self.next_segment) && !self.has_drift {
                    self.has_drift = true;
                    if self.shows_the_same(segment).await {
                        self.shared.metrics.drift(colour_drift(&drift));
                    }
                    self.append(vec![WorkerEvent::Drift { segment, drift: drift.into() }]).await;
                }
            }
            Told::Warning { message } => tracing::warn!(job = %self.job.id, message, "a warning"),
            Told::Alive | Told::Ready { .. } | Told::Ended { .. } | Told::Other => {}
        }
    }

    /// Whether the look of the last finished segment was reported before the worker before this one, or
    /// the server, was killed.
    async fn last_has_drift(&self) -> bool {
        let Some(last) = self.next_segment.checked_sub(1) else { return true };
        let (store, job) = (&self.shared.store, self.job.id);
        let found = store.segments(job, last.checked_sub(1), 1).await;
        // One report too many does no harm.
        found.is_ok_and(|found| found.first().is_some_and(|segment| segment.drift.is_some()))
    }

    /// Whether a segment has the prompt of the film's first one. Where another thing is asked for, another
    /// look is no drift.
    async fn shows_the_same(&self, segment: u32) -> bool {
        let (store, job) = (&self.shared.store, self.job.id);
        let prompt = async |segment: u32| {
            let found = store.segments(job, segment.checked_sub(1), 1).await.ok()?;
            found.into_iter().next().map(|segment| segment.done.prompt)
        };
        segment == 0 || prompt(0).await == prompt(segment).await
    }

    /// A finished segment: what players need of it is stored before anybody hears of it, and it is
    /// reported before the next one is begun.
    async fn segment(
        &mut self,
        done: SegmentDone,
        preview: Option<PathBuf>,
        checkpoint: Option<PathBuf>,
    ) {
        if self.stuck {
            return;
        }
        let segment = done.segment;
        let is_new = segment >= self.next_segment;
        if is_new {
            let film = self.shared.work_folder(self.job.id).join(FILM);
            if !self.report(&film, done).await {
                return;
            }
        }
        let change = self.change().await;
        let next = segment.saturating_add(1);
        self.process.order(&Order::GoOn { segment: next, change }).await;
        if !is_new {
            return;
        }
        // What follows is done while the worker makes the next segment.
        let mut stored = Vec::new();
        if let Some(preview) = &preview {
            stored.extend(self.preview(segment, preview).await);
        }
        if let Some(checkpoint) = &checkpoint {
            let kind = ArtifactKind::Checkpoint(segment);
            let name = ArtifactName { kind, format: Format::Safetensors };
            stored.extend(self.keep(name, checkpoint).await.map(WorkerEvent::Stored));
        }
        self.append(stored).await;
        // Not before: what nobody knows to be stored is stored again when the job goes on.
        if !self.stuck {
            remove(preview.into_iter().chain(checkpoint)).await;
        }
    }

    /// Has the worker stop, since what it makes cannot be stored now.
    async fn get_stuck(&mut self) {
        self.stuck = true;
        self.shared.slots.set(self.slot, SlotState::Waiting);
        self.stop(When::Now).await;
    }

    /// Stores a part that lies in `film` and reports its segment. False when that did not work and the
    /// worker is told to stop.
    async fn report(&mut self, film: &Path, done: SegmentDone) -> bool {
        let segment = done.segment;
        let mut events = Vec::new();
        if let Some(bytes) = done.bytes {
            match self.part(film, segment, bytes).await {
                Ok(stored) => events.extend(stored.into_iter().map(WorkerEvent::Stored)),
                Err(error) => {
                    tracing::error!(job = %self.job.id, segment, %error, "a part could not be stored");
                    self.get_stuck().await;
                    return false;
                }
            }
        }
        self.shared.metrics.segment();
        self.next_segment = segment.saturating_add(1);
        self.has_drift = false;
        events.push(WorkerEvent::SegmentDone(done));
        self.append(events).await;
        true
    }

    /// Keeps the lease while something is done that takes its time.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(RENEW_EVERY) => self.renew().await,
            }
        }
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
        if events.is_empty() {
            return;
        }
        if std::mem::take(&mut self.is_new) {
            events.insert(0, WorkerEvent::Progress(self.progress));
        }
        let (store, lease) = (&self.shared.store, &self.lease);
        let revision = self.prompts_revision;
        let (slots, slot, has_waited) = (&self.shared.slots, self.slot, &AtomicBool::new(false));
        let told = || {
            let told = store.append(lease, events.clone(), revision);
            async move {
                let told = told.await;
                if matches!(&told, Err(StoreError::DiskFull { .. })) {
                    has_waited.store(true, Ordering::Relaxed);
                    slots.set(slot, SlotState::Waiting);
                }
                told
            }
        };
        // A segment is told once: unlike a step it has to get there.
        let orders = patiently("write down a segment", told).await;
        if has_waited.load(Ordering::Relaxed) {
            slots.set(slot, SlotState::Working);
        }
        self.follow(orders).await;
    }

    async fn follow(&mut self, orders: Result<Orders, StoreError>) {
        self.last_contact = Instant::now();
        self.shared.live.nudge();
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
        let resolved = Resolved::of(&self.job).ok()?;
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
}

/// Removes files that are stored elsewhere. A long film would leave many; what stays goes with the
/// job's folder in the end.
async fn remove(files: impl IntoIterator<Item = PathBuf>) {
    for file in files {
        let _ = tokio::fs::remove_file(file).await;
    }
}

/// How far a segment's mean colour is from the first one's, of 255.
fn colour_drift(drift: &Map<String, Value>) -> f64 {
    let change = drift.get("change").and_then(|change| change["colour"].as_array());
    let change = change.map(Vec::as_slice).unwrap_or_default();
    let sum: f64 = change.iter().filter_map(Value::as_f64).map(f64::abs).sum();
    sum / change.len().max(1) as f64
}

/// Tries again for as long as the database only has to be waited for.
pub async fn patiently<T, F>(what: &str, mut call: impl FnMut() -> F) -> Result<T, StoreError>
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
