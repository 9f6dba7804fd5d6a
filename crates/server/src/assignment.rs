//! One job in the hands of one worker, from lease to end.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longreel_film::Change;
use longreel_jobs::{
    Artifact, ArtifactError, ArtifactKind, ArtifactName, Completion, Format, HandBack, Job,
    JobError, Lease, Leased, Orders, PartBytes, Proceed, Progress, Renewal, SegmentDone,
    StoreError, WorkerEvent,
};
use longreel_media::{HEAD_START_BYTES, head_length, stream_head};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::films::Resolved;
use crate::prepare::{Unready, prepare};
use crate::process::{Heard, WorkerProcess};
use crate::protocol::{Order, Outcome, Told, When};
use crate::shared::{Ending, Shared};
use crate::steering::steered;
use crate::supervisor::write_lease;
use crate::upkeep;
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
/// Longest head of a film: its metadata, the request among them, has room in it.
const HEAD_BYTES_MAX: u64 = 64 << 20;
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
    /// The first segment that is not reported yet. A worker that had to go back to an older checkpoint
    /// makes some again, which are the same as before.
    next_segment: u32,
    /// Whether the look of the last reported segment is.
    has_drift: bool,
    /// A part could not be stored: the worker stops, and what was not reported is told again when the
    /// job goes on.
    stuck: bool,
}

impl<'a> Assignment<'a> {
    /// A job that was leased, for a worker that is idle.
    pub fn new(shared: &'a Arc<Shared>, leased: Leased, process: &'a mut WorkerProcess) -> Self {
        Self {
            shared,
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
        self.has_drift = self.last_has_drift().await;
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
                    let preview = self.preview(segment, &path).await;
                    self.append(preview.into_iter().collect()).await;
                }
            }
            Told::Drift(drift) => {
                let segment = drift.get("segment").and_then(Value::as_u64).unwrap_or_default();
                let segment = u32::try_from(segment).unwrap_or(u32::MAX);
                if segment.checked_add(1) == Some(self.next_segment) && !self.has_drift {
                    self.has_drift = true;
                    self.shared.metrics.drift(colour_drift(&drift));
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
        if let Some(preview) = preview {
            let preview = self.preview(segment, &preview).await;
            self.append(preview.into_iter().collect()).await;
        }
        if let Some(checkpoint) = checkpoint {
            let kind = ArtifactKind::Checkpoint(segment);
            let name = ArtifactName { kind, format: Format::Safetensors };
            let kept = self.keep(name, &checkpoint).await;
            self.add_artifacts(kept.into_iter().collect()).await;
        }
    }

    /// Stores a part that lies in `film` and reports its segment. False when that did not work and the
    /// worker is told to stop.
    async fn report(&mut self, film: &Path, done: SegmentDone) -> bool {
        let segment = done.segment;
        if let Some(bytes) = done.bytes
            && let Err(error) = self.part(film, segment, bytes).await
        {
            tracing::error!(job = %self.job.id, segment, %error, "a part could not be stored");
            self.stuck = true;
            self.stop(When::Now).await;
            return false;
        }
        self.shared.metrics.segment();
        self.next_segment = segment.saturating_add(1);
        self.has_drift = false;
        self.append(vec![WorkerEvent::SegmentDone(done)]).await;
        true
    }

    /// Stores a part of the film for players, and with the first one what comes before it.
    async fn part(&mut self, path: &Path, segment: u32, bytes: PartBytes) -> Result<(), PartError> {
        // One file for both: another may take its place when the film is finished.
        let mut film = tokio::fs::File::open(path).await?;
        let head = read_head(&mut film).await?;
        let start = io::SeekFrom::Start(head.len() as u64 + bytes.start);
        film.seek(start).await?;
        let (shared, job) = (self.shared.clone(), self.job.id);
        let mut stored = Vec::new();
        if segment == 0 {
            let name = ArtifactName { kind: ArtifactKind::Init, format: Format::Mp4 };
            stored.push(shared.artifacts.put_bytes(job, name, head).await?);
        }
        let name = ArtifactName { kind: ArtifactKind::Part(segment), format: Format::M4s };
        let length = bytes.end.saturating_sub(bytes.start);
        let put = shared.artifacts.put_part(job, name, film, length, path);
        stored.push(self.meanwhile(put).await?);
        let (store, lease) = (&self.shared.store, &self.lease);
        patiently("note a part", || store.add_artifacts(lease, stored.clone())).await?;
        Ok(())
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

    /// Stores a picture of a segment.
    async fn preview(&mut self, segment: u32, file: &Path) -> Option<WorkerEvent> {
        let name = ArtifactName { kind: ArtifactKind::Preview(segment), format: Format::Jpeg };
        let artifact = self.keep(name, file).await?;
        Some(WorkerEvent::Preview { segment, artifact })
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
            // It was stored before, when it was told of or found, and its file removed.
            Err(ArtifactError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                let size_bytes = self.shared.artifacts.size_bytes(self.job.id, name).await.ok()?;
                Some(Artifact { name, size_bytes })
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

    async fn put(&mut self, name: ArtifactName, file: &Path) -> Result<Artifact, ArtifactError> {
        let (shared, job) = (self.shared.clone(), self.job.id);
        self.meanwhile(shared.artifacts.put_file(job, name, file)).await
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

    async fn ended(mut self, outcome: Outcome) -> Finished {
        match outcome {
            _ if self.stuck => {
                self.hand_back(HandBack::Stopped).await;
                return Finished::DiskFull;
            }
            Outcome::Complete { film, drift, sheet, reused_steps } => {
                self.shared.metrics.reused(reused_steps);
                return self.complete(&film, &drift, sheet.as_deref()).await;
            }
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
    async fn complete(&mut self, film: &Path, drift: &Path, sheet: Option<&Path>) -> Finished {
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
        if let Some(sheet) = sheet {
            let name = ArtifactName { kind: ArtifactKind::Spritesheet, format: Format::Jpeg };
            match self.put(name, sheet).await {
                Ok(artifact) => artifacts.push(artifact),
                // A film without it is still a film.
                Err(error) => tracing::warn!(job = %self.job.id, %error, "the sheet is not kept"),
            }
        }
        let drift = tokio::fs::read(drift).await.ok().filter(|json| json.len() <= DRIFT_BYTES);
        let drift = drift.and_then(|json| serde_json::from_slice(&json).ok());
        if self.is_new {
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
        let preview = ArtifactName { kind: ArtifactKind::Preview(0), format: Format::Jpeg };
        let name = ArtifactName { kind: ArtifactKind::Thumbnail, format: Format::Jpeg };
        let (artifacts, job) = (&self.shared.artifacts, self.job.id);
        let size = artifacts.size_bytes(job, preview).await.ok()?;
        let bytes = artifacts.get_range(job, preview, 0..size).await.ok()?;
        artifacts.put_bytes(job, name, bytes).await.ok()
    }

    async fn gone(mut self, reason: String) -> Finished {
        tracing::error!(job = %self.job.id, reason, "a worker died");
        self.shared.metrics.death();
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
                    self.shared.ended(&job).await;
                    upkeep::tidy_up(self.shared, &job).await;
                }
            }
            Err(StoreError::LeaseLost { .. }) if self.lost => {}
            Err(error) => {
                tracing::error!(job = %self.job.id, %error, "the end is not written down")
            }
        }
    }
}

/// How far a segment's mean colour is from the first one's, of 255.
fn colour_drift(drift: &Map<String, Value>) -> f64 {
    let change = drift.get("change").and_then(|change| change["colour"].as_array());
    let change = change.map(Vec::as_slice).unwrap_or_default();
    let sum: f64 = change.iter().filter_map(Value::as_f64).map(f64::abs).sum();
    sum / change.len().max(1) as f64
}

/// Why a part could not be stored.
#[derive(Debug, thiserror::Error)]
enum PartError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the film cannot be read: {0}")]
    Film(#[from] io::Error),
}

/// The head of a film in the making, for players. Its worker writes the duration into it meanwhile,
/// which is the part of it that players are not shown.
async fn read_head(film: &mut tokio::fs::File) -> io::Result<Vec<u8>> {
    let other = || io::Error::other("it is not that of a film of fragments");
    let mut head = vec![0; HEAD_START_BYTES];
    film.read_exact(&mut head).await?;
    let length = head_length(&head).filter(|&length| length <= HEAD_BYTES_MAX);
    let length = length.and_then(|length| usize::try_from(length).ok()).ok_or_else(other)?;
    let known = head.len().min(length);
    head.resize(length, 0);
    film.read_exact(&mut head[known..]).await?;
    stream_head(&head).ok_or_else(other)
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
