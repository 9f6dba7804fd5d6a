//! What is done from time to time.

use std::sync::Arc;
use std::time::Duration;

use longreel_jobs::{
    ArtifactError, ArtifactKind, Artifacts, Job, JobId, JobState, ListFilter, Retention,
    StoreError, Swept,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::shared::{Ending, Shared, remove_folder};

/// How often leases and deadlines are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// In which of the sweeps folders are looked at too.
const TIDY_IN: u32 = 12;
/// The time between these, in milliseconds.
const TIDY_MS: i64 = SWEEP_EVERY.as_millis() as i64 * TIDY_IN as i64;

/// Runs until the server ends.
pub async fn run(shared: Arc<Shared>) {
    let mut ending = shared.ending.subscribe();
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0_u32;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = ending.wait_for(|ending| *ending == Ending::Closed) => return,
        }
        match shared.store.sweep().await {
            Ok(swept) if swept.is_empty() => {}
            Ok(swept) => {
                for Swept { job, reason, state } in swept {
                    tracing::warn!(%job, ?reason, "taken back");
                    if state.is_final()
                        && let Ok(job) = shared.store.get(job).await
                    {
                        let_go(&shared, &job).await;
                    }
                }
                shared.wake();
            }
            Err(error) => tracing::error!(%error, "leases and deadlines could not be looked at"),
        }
        let_models_go(&shared).await;
        let is_time = round.is_multiple_of(TIDY_IN);
        // What is kept for less than the time between is not kept for all of it.
        if is_time || shared.retention.max_age_ms.is_some_and(|age| age < TIDY_MS) {
            retire(&shared).await;
        }
        if is_time {
            tidy(&shared).await;
        }
        round = round.wrapping_add(1);
    }
}

/// Deletes films that are older than films are kept, or more than there is to be room for.
async fn retire(shared: &Shared) {
    if shared.retention == Retention::default() {
        return;
    }
    loop {
        let removed = match shared.store.retire(shared.retention).await {
            Ok(removed) => removed,
            Err(error) => {
                tracing::error!(%error, "old films could not be looked up");
                return;
            }
        };
        if removed.is_empty() || *shared.ending.borrow() == Ending::Closed {
            return;
        }
        for removed in removed {
            tracing::info!(job = %removed.job, "its time is over, it is deleted");
            remove_files(shared, removed.job).await;
        }
    }
}

/// Removes the files of deleted jobs, and folders in which no film is made any more.
async fn tidy(shared: &Shared) {
    match shared.store.pending_removals().await {
        Ok(jobs) => {
            for job in jobs {
                remove_files(shared, job).await;
            }
        }
        Err(error) => tracing::error!(%error, "files to remove could not be looked up"),
    }
    let Ok(mut folders) = tokio::fs::read_dir(&shared.work).await else { return };
    while let Ok(Some(entry)) = folders.next_entry().await {
        // Whatever else lies there is not ours.
        let Some(job) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match shared.store.get(job).await {
            Ok(job) if job.state.is_final() => tidy_up(shared, &job).await,
            Err(StoreError::NotFound { .. }) => remove_folder(&entry.path()).await,
            _ => {}
        }
    }
}

/// Calls a job off. One that waits has ended with that; one in work has when its worker lets it go.
///
/// # Errors
/// As [`longreel_jobs::JobStore::cancel`].
pub async fn cancel(shared: &Shared, id: JobId) -> Result<Job, StoreError> {
    let waits = shared.store.get(id).await?.state == JobState::Queued;
    let job = shared.store.cancel(id).await?;
    if waits && job.state.is_final() {
        let_go(shared, &job).await;
    } else {
        shared.wake();
    }
    Ok(job)
}

/// What follows when a job leaves its worker's hands, or the queue for good: those who wait look again, and
/// one that has ended is counted and tidied up.
pub async fn let_go(shared: &Shared, job: &Job) {
    shared.wake();
    if job.state.is_final() {
        shared.ended(job).await;
        tidy_up(shared, job).await;
        let_models_go(shared).await;
    }
}

/// Ends with the models that are to be served no longer and have made all that they were asked for.
pub async fn let_models_go(shared: &Shared) {
    for films in shared.models.leaving() {
        let name = films.model().name.clone();
        let _settled = shared.models.settle().await;
        let states = vec![JobState::Queued, JobState::Running];
        let model = Some(name.clone());
        let filter = ListFilter { model, states, limit: 1, ..ListFilter::default() };
        match shared.store.list(filter).await {
            Ok(page) if page.jobs.is_empty() => {
                shared.models.gone(&name);
                tracing::info!(model = name, "is not served any more");
                // A worker that has it loaded takes another one.
                shared.wake();
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "what a model has left to make is not known"),
        }
    }
}

/// Removes what nobody needs any more of a job that has ended: its folder and, when the film is
/// stored, the parts of it. The folder goes last, so that a server that is killed in between is
/// followed by one that knows that something is left.
async fn tidy_up(shared: &Shared, job: &Job) {
    if job.state == JobState::Completed
        && let Err(error) = remove_parts(&shared.artifacts, job.id).await
    {
        tracing::error!(job = %job.id, %error, "the parts of a film could not be removed");
        return;
    }
    remove_folder(&shared.work_folder(job.id)).await;
}

async fn remove_parts(artifacts: &Artifacts, job: JobId) -> Result<(), ArtifactError> {
    for name in artifacts.names(job).await? {
        if matches!(name.kind, ArtifactKind::Part(_)) {
            artifacts.delete(job, name).await?;
        }
    }
    Ok(())
}

/// Removes all files of a job that was deleted.
pub async fn remove_files(shared: &Shared, job: JobId) {
    shared.live.gone(job);
    remove_folder(&shared.work_folder(job)).await;
    let removed = shared.artifacts.delete_job(job).await;
    match removed {
        Ok(()) => {
            if let Err(error) = shared.store.removal_done(job).await {
                tracing::warn!(%job, %error, "files are removed, which is not noted");
            }
        }
        Err(error) => tracing::error!(%job, %error, "files could not be removed"),
    }
}
