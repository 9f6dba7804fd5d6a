//! What a worker needs to make a film: the request with the prompts of now, and the files that it
//! begins with, in the job's folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longreel_film::{Beginning, FilmPlan, RunFile, StartFrom, run_folder};
use longreel_jobs::{
    Artifact, ArtifactError, ArtifactKind, ArtifactName, Format, Job, JobId, SegmentDone,
    WorkerEvent,
};
use serde_json::Value;

use crate::code::Code;
use crate::films::{Begins, Resolved};
use crate::protocol::Task;
use crate::shared::Shared;
use crate::steering::steered;
use crate::worker::FILM;

/// What is known and stored before a worker begins.
pub(crate) struct Prepared {
    /// For the worker.
    pub task: Task,
    /// What is made already, when the film begins with another one: its segments, with their looks.
    pub made: Vec<(SegmentDone, Option<Value>)>,
    /// The file that they lie in.
    pub made_in: PathBuf,
    /// What is stored.
    pub stored: Vec<WorkerEvent>,
    /// Files that can go when that is written down.
    pub files: Vec<PathBuf>,
}

/// See [`left_over`].
#[derive(Default)]
struct LeftOver {
    stored: Vec<WorkerEvent>,
    files: Vec<PathBuf>,
}

/// Why a worker cannot begin.
pub(crate) enum Unready {
    /// Never.
    Refused {
        /// A stable name.
        code: Code,
        /// What happened and what to do.
        message: String,
    },
    /// Not now.
    Later(ArtifactError),
}

impl From<ArtifactError> for Unready {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::NotFound { .. } => Self::Refused {
                code: Code::FileGone,
                message: format!("{error}; ask for the film again"),
            },
            error => Self::Later(error),
        }
    }
}

/// Brings what the film of `job` begins with into its folder.
pub(crate) async fn prepare(
    shared: &Arc<Shared>,
    job: &Job,
    resolved: &Resolved,
) -> Result<Prepared, Unready> {
    let film = steered(shared, job, resolved.request.clone())
        .await
        .map_err(|refusal| Unready::Refused { code: refusal.code, message: refusal.detail })?;
    let folder = shared.work_folder(job.id);
    let mut request = film.plan.request().clone();
    let input = match &mut request.start {
        StartFrom::Image(name) | StartFrom::Video(name) => Some(name),
        StartFrom::Prompt => None,
    };
    for name in input.into_iter().chain(&mut request.end_image) {
        bring_input(shared, job.id, &folder, name).await?;
    }
    let LeftOver { stored, files } = left_over(shared, job, &folder).await?;
    let mut prepared = Prepared {
        task: Task {
            folder: folder.clone(),
            request,
            command: film.command,
            beginning: None,
            // What it begins with is reported by the server itself.
            segments_done: job
                .segments_done
                .max(resolved.begins.map_or(0, |begins| begins.segments)),
        },
        made: Vec::new(),
        made_in: PathBuf::new(),
        stored,
        files,
    };
    let is_begun = RunFile::path(&run_folder(&folder.join(FILM))).exists();
    if let (Some(begins), Some(parent)) = (resolved.begins, job.asked.parent)
        // The worker may have begun when it was killed before the report of that.
        && (!is_begun || job.segments_done < begins.segments)
    {
        let beginning = bring_beginning(shared, job.id, parent.job, begins, &folder).await?;
        if job.segments_done < begins.segments {
            prepared.made =
                made_before(shared, parent.job, &film.plan, begins, &beginning.drift).await;
            prepared.made_in.clone_from(&beginning.film);
            let taken_over = take_over(shared, parent.job, job.id, begins).await?;
            prepared.stored.extend(taken_over.into_iter().map(WorkerEvent::Stored));
        }
        prepared.task.beginning = (!is_begun).then_some(beginning);
    }
    Ok(prepared)
}

/// Puts a picture or video that came with the job into its folder, and its path in the place of its
/// name.
async fn bring_input(
    shared: &Shared,
    job: JobId,
    folder: &Path,
    path: &mut PathBuf,
) -> Result<(), Unready> {
    let name = path.to_str().and_then(|name| name.parse::<ArtifactName>().ok());
    let Some(name) = name else {
        let message = format!("{} is no file of this video; ask for it again", path.display());
        return Err(Unready::Refused { code: Code::FileGone, message });
    };
    *path = folder.join(name.to_string());
    if !path.exists() {
        shared.artifacts.save(job, name, path).await?;
    }
    Ok(())
}

/// The parent's film, drift and checkpoint, as paths.
async fn bring_beginning(
    shared: &Shared,
    job: JobId,
    parent: JobId,
    begins: Begins,
    folder: &Path,
) -> Result<Beginning, Unready> {
    let own = |name| (job, name);
    let [film, drift] = match begins.copies {
        Some(copies) => copies.map(own),
        None => [
            (parent, ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 }),
            (parent, ArtifactName { kind: ArtifactKind::Drift, format: Format::Json }),
        ],
    };
    let kind = ArtifactKind::Checkpoint(begins.segments.saturating_sub(1));
    let checkpoint = (parent, ArtifactName { kind, format: Format::Safetensors });
    Ok(Beginning {
        film: local(shared, film, folder).await?,
        drift: local(shared, drift, folder).await?,
        checkpoint: local(shared, checkpoint, folder).await?,
    })
}

/// Where a stored file can be read, brought here when it is elsewhere.
async fn local(
    shared: &Shared,
    (job, name): (JobId, ArtifactName),
    folder: &Path,
) -> Result<PathBuf, Unready> {
    // Told apart here from other failures.
    shared.artifacts.size_bytes(job, name).await?;
    if let Some(path) = shared.artifacts.local_path(job, name) {
        return Ok(path);
    }
    let path = folder.join(format!("beginning-{name}"));
    if !path.exists() {
        shared.artifacts.save(job, name, &path).await?;
    }
    Ok(path)
}

/// The segments that are taken over, as if this job had made them.
async fn made_before(
    shared: &Shared,
    parent: JobId,
    plan: &FilmPlan,
    begins: Begins,
    drift: &Path,
) -> Vec<(SegmentDone, Option<Value>)> {
    let looks = tokio::fs::read_to_string(drift).await.unwrap_or_default();
    let looks = looks.lines().filter_map(|line| {
        let line = line.trim().trim_end_matches(',');
        serde_json::from_str::<Value>(line).ok().filter(|look| look.get("segment").is_some())
    });
    let looks: Vec<Value> = looks.take(begins.segments as usize).collect();
    // They lie at the same places of both films, counted from the heads.
    let parts = shared.store.parts(parent).await.unwrap_or_default();
    let mut made = Vec::new();
    for segment in 0..begins.segments {
        let index = segment as usize;
        let Some(frames) = plan.first_frame(index + 1) else { break };
        let planned = plan.planned(index);
        let part = parts.get(index).filter(|part| part.0 == segment);
        // With a video before them they are more than planned.
        let frames = part.map_or(frames, |part| part.1);
        let done = SegmentDone {
            segment,
            frames,
            prompt: planned.as_ref().map(|planned| planned.prompt.to_owned()).unwrap_or_default(),
            seed: planned.map(|planned| planned.seed).unwrap_or_default(),
            bytes: part.map(|part| part.2),
        };
        made.push((done, looks.get(index).cloned()));
    }
    made
}

/// Gives the job the parent's pictures and checkpoints of these segments, as far as there are any.
///
/// # Errors
/// When there is no room for one.
async fn take_over(
    shared: &Shared,
    parent: JobId,
    job: JobId,
    begins: Begins,
) -> Result<Vec<Artifact>, ArtifactError> {
    let mut taken = Vec::new();
    for segment in 0..begins.segments {
        for (kind, format) in [
            (ArtifactKind::Preview(segment), Format::Jpeg),
            (ArtifactKind::Checkpoint(segment), Format::Safetensors),
        ] {
            let name = ArtifactName { kind, format };
            match shared.artifacts.copy((parent, name), (job, name)).await {
                Ok(artifact) => taken.push(artifact),
                Err(error @ ArtifactError::DiskFull { .. }) => return Err(error),
                Err(_) => {}
            }
        }
    }
    Ok(taken)
}

/// Stores files of reported segments that a worker left and that were not stored, for want of room or
/// since the server died, or were not said to be. Those of later segments come with the segments.
///
/// # Errors
/// When there is still no room for one.
async fn left_over(shared: &Shared, job: &Job, folder: &Path) -> Result<LeftOver, ArtifactError> {
    let mut left = LeftOver::default();
    let Ok(mut entries) = tokio::fs::read_dir(folder).await else { return Ok(left) };
    let Ok(known) = shared.store.artifacts(job.id).await else { return Ok(left) };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name().to_str().and_then(|name| name.parse::<ArtifactName>().ok());
        let Some((name, segment)) = name.and_then(|name| Some((name, name.kind.segment()?))) else {
            continue;
        };
        if segment >= job.segments_done {
            continue;
        }
        let artifact = match shared.artifacts.put_file(job.id, name, &entry.path()).await {
            Ok(artifact) => artifact,
            Err(error @ ArtifactError::DiskFull { .. }) => return Err(error),
            Err(_) => continue,
        };
        left.files.push(entry.path());
        if !known.contains(&artifact) {
            left.stored.push(match name.kind {
                ArtifactKind::Preview(_) => WorkerEvent::Preview { segment, artifact },
                _ => WorkerEvent::Stored(artifact),
            });
        }
    }
    Ok(left)
}
