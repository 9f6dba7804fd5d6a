//! Files of a film that are stored while it is made.

use std::io;
use std::path::Path;

use longreel_jobs::{
    Artifact, ArtifactError, ArtifactKind, ArtifactName, Artifacts, Format, JobId, PartBytes,
    WorkerEvent,
};
use longreel_media::{HEAD_START_BYTES, head_length, stream_head};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::Assignment;

/// Longest head of a film: its metadata, the request among them, has room in it.
const HEAD_BYTES_MAX: u64 = 64 << 20;

impl Assignment<'_> {
    /// Stores a part of the film for players, and with the first one what comes before it.
    pub(super) async fn part(
        &mut self,
        path: &Path,
        segment: u32,
        bytes: PartBytes,
    ) -> Result<Vec<Artifact>, PartError> {
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
        Ok(stored)
    }

    /// Stores the picture of a segment.
    pub(super) async fn preview(&mut self, segment: u32, file: &Path) -> Option<WorkerEvent> {
        let artifact = self.keep(preview_name(segment), file).await?;
        Some(WorkerEvent::Preview { segment, artifact })
    }

    /// Stores a picture of a segment in work, which another one takes the place of in any case.
    pub(super) async fn peek(&mut self, segment: u32, file: &Path) -> Option<WorkerEvent> {
        match self.put(preview_name(segment), file).await {
            Ok(artifact) => Some(WorkerEvent::Preview { segment, artifact }),
            Err(error) => {
                tracing::warn!(job = %self.job.id, segment, %error, "a picture is not kept");
                None
            }
        }
    }

    /// Stores a file of a segment. A film without it is still a film, so that failing here only leaves a
    /// line in the log; but what there is only no room for now is stored when the job goes on.
    pub(super) async fn keep(&mut self, name: ArtifactName, file: &Path) -> Option<Artifact> {
        match self.put(name, file).await {
            Ok(artifact) => Some(artifact),
            Err(error @ ArtifactError::DiskFull { .. }) => {
                tracing::error!(job = %self.job.id, %name, %error, "a file has to wait");
                self.get_stuck().await;
                None
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

    pub(super) async fn put(
        &mut self,
        name: ArtifactName,
        file: &Path,
    ) -> Result<Artifact, ArtifactError> {
        let (shared, job) = (self.shared.clone(), self.job.id);
        self.meanwhile(shared.artifacts.put_file(job, name, file)).await
    }
}

/// The first segment's picture stands for the film.
///
/// # Errors
/// When there is none, or no room for another.
pub(super) async fn thumbnail(
    artifacts: &Artifacts,
    job: JobId,
) -> Result<Artifact, ArtifactError> {
    let name = ArtifactName { kind: ArtifactKind::Thumbnail, format: Format::Jpeg };
    let bytes = artifacts.get(job, preview_name(0)).await?;
    artifacts.put_bytes(job, name, bytes).await
}

fn preview_name(segment: u32) -> ArtifactName {
    ArtifactName { kind: ArtifactKind::Preview(segment), format: Format::Jpeg }
}

/// Why a part could not be stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
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
