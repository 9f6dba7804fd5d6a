//! How an assignment ends, and that the store hears of it.

use std::path::Path;

use longreel_jobs::{
    ArtifactError, ArtifactKind, ArtifactName, Completion, Format, HandBack, Instead, Job,
    JobError, StoreError,
};

use super::files::thumbnail;
use super::{Assignment, Finished, patiently};
use crate::code::Code;
use crate::process::{Cause, Death};
use crate::protocol::Outcome;
use crate::shared::SlotState;
use crate::{recovery, upkeep};

/// Longest drift report that is kept with the job itself.
const DRIFT_BYTES: usize = 512 << 10;

impl Assignment<'_> {
    pub(super) async fn ended(mut self, outcome: Outcome) -> Finished {
        match outcome {
            _ if self.stuck => {
                return self.wait_for_room().await;
            }
            Outcome::Complete { film, drift, sheet, reused_steps } => {
                self.shared.metrics.reused(reused_steps);
                return self.complete(&film, &drift, sheet.as_deref()).await;
            }
            Outcome::Stopped => self.hand_back(HandBack::Stopped).await,
            Outcome::Failed { code, .. } if code == Code::DiskFull.name() => {
                return self.wait_for_room().await;
            }
            Outcome::Failed { code, message } if code == Code::GpuOutOfMemory.name() => {
                match self.instead().await {
                    None => self.fail(&code, &message).await,
                    instead => {
                        self.hand_back(HandBack::OutOfMemory { reason: message, instead }).await;
                    }
                }
            }
            Outcome::Failed { code, message } => {
                // Where things are on this machine is nothing for clients.
                let work = self.shared.work_folder(self.job.id).display().to_string();
                self.fail(&code, &message.replace(&format!("{work}/"), "")).await;
                if code == Code::GpuFailed.name() {
                    return Finished::GpuFailed;
                }
            }
        }
        Finished::Done
    }

    /// Stores the film and only then says that it is there.
    pub(super) async fn complete(
        &mut self,
        film: &Path,
        drift: &Path,
        sheet: Option<&Path>,
    ) -> Finished {
        let (shared, job) = (self.shared.clone(), self.job.id);
        let put = async |kind, format, file| {
            shared.artifacts.put_file(job, ArtifactName { kind, format }, file).await
        };
        // At once: each waits for the disk, which takes them together in hardly more time than one.
        let all = async {
            tokio::join!(
                put(ArtifactKind::Film, Format::Mp4, film),
                put(ArtifactKind::Drift, Format::Json, drift),
                thumbnail(&shared.artifacts, job),
                async { Some(put(ArtifactKind::Spritesheet, Format::Jpeg, sheet?).await) },
            )
        };
        let storing = self.shared.traces.store(&self.job);
        let (film, report, thumbnail, sheet) = self.meanwhile(all).await;
        let failed = film.as_ref().err().or(report.as_ref().err()).map(ToString::to_string);
        self.shared.traces.end(storing, None, failed);
        let mut artifacts = Vec::new();
        for stored in [film, report] {
            match stored {
                Ok(artifact) => artifacts.push(artifact),
                Err(error) => {
                    // The film is whole in its folder; the next attempt only stores it.
                    tracing::error!(job = %self.job.id, %error, "a film could not be stored");
                    return self.wait_for_room().await;
                }
            }
        }
        let pictures = std::iter::once(thumbnail).chain(sheet);
        for picture in pictures {
            match picture {
                Ok(artifact) => artifacts.push(artifact),
                Err(error @ ArtifactError::DiskFull { .. }) => {
                    tracing::error!(job = %self.job.id, %error, "a picture has to wait");
                    return self.wait_for_room().await;
                }
                // A film without it is still a film.
                Err(error) => tracing::warn!(job = %self.job.id, %error, "a picture is not kept"),
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

    pub(super) async fn gone(mut self, Death { cause, reason }: Death) -> Finished {
        tracing::error!(job = %self.job.id, reason, "a worker died");
        self.shared.metrics.death(cause);
        self.shared.notifier.death(&self.job, &reason);
        let how = match cause {
            Cause::Memory => {
                HandBack::OutOfMemory { reason: reason.clone(), instead: self.instead().await }
            }
            _ => HandBack::Died { reason: reason.clone() },
        };
        self.hand_back(how).await;
        Finished::WorkerGone(reason)
    }

    /// What is made instead of a film that memory is not enough for.
    async fn instead(&mut self) -> Option<Instead> {
        // Whether the job is still ours, and the prompts of now.
        self.renew().await;
        if self.lost || self.next_segment > 0 {
            return None;
        }
        let instead = recovery::instead(self.shared, &self.job).await?;
        tracing::warn!(job = %self.job.id, warning = instead.warning, "another film instead");
        Some(instead)
    }

    /// The server was told to end at once, and the worker is in a long step.
    pub(super) async fn cut_off(mut self) -> Finished {
        self.process.kill().await;
        self.hand_back(HandBack::Stopped).await;
        Finished::WorkerGone("the server ends".into())
    }

    /// Gives the job back until there is room on the disk.
    pub(super) async fn wait_for_room(&mut self) -> Finished {
        self.shared.slots.set(self.slot, SlotState::Waiting);
        self.hand_back(HandBack::Stopped).await;
        Finished::DiskFull
    }

    pub(super) async fn hand_back(&mut self, how: HandBack) {
        let (store, lease) = (&self.shared.store, &self.lease);
        let back = patiently("hand a job back", || store.hand_back(lease, how.clone())).await;
        self.rest(back).await;
    }

    pub(super) async fn fail(&mut self, code: &str, message: &str) {
        let error = JobError::new(code, message);
        let (store, lease) = (&self.shared.store, &self.lease);
        let failed = patiently("fail a job", || store.fail(lease, error.clone())).await;
        self.rest(failed).await;
    }

    /// What the job's last call under this lease came to.
    pub(super) async fn rest(&self, job: Result<Job, StoreError>) {
        match job {
            Ok(job) => {
                tracing::info!(job = %job.id, state = %job.state, paused = job.paused, "let go");
                upkeep::let_go(self.shared, &job).await;
            }
            Err(StoreError::LeaseLost { .. }) if self.lost => {}
            Err(error) => {
                tracing::error!(job = %self.job.id, %error, "the end is not written down")
            }
        }
    }
}
