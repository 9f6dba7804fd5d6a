//! Files of jobs, in a folder or in an object store.
//!
//! Everything of a job lies under `jobs/<id>/`, with names that are an [`ArtifactName`]; so a client's
//! text never becomes a path, and to delete a job is to delete a prefix.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::artifact_name::{Artifact, ArtifactName};
use crate::id::JobId;
use crate::room::{comes_of_no_room, is_no_room};

/// Size of a piece of an upload; S3 wants 5 MiB and more.
const PIECE_BYTES: usize = 8 << 20;
/// Pieces that may be under way at once, which bounds the memory of an upload.
const PIECES_AT_ONCE: usize = 2;
/// First part of every key.
const ROOT: &str = "jobs";

/// Why a file could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// There is no such file.
    #[error("job {job} has no {name}; it is not made yet, or was deleted")]
    NotFound {
        /// The job.
        job: JobId,
        /// The name.
        name: ArtifactName,
    },
    /// A range that is not in the file.
    #[error("bytes {} to {} were asked of {name} of job {job}, which has {size_bytes}", range.start, range.end)]
    Range {
        /// The job.
        job: JobId,
        /// The name.
        name: ArtifactName,
        /// What was asked.
        range: Range<u64>,
        /// What there is.
        size_bytes: u64,
    },
    /// A local file could not be read, or the folder not made.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The disk is full.
    #[error("no room to {action}; make room, or lower what retention keeps")]
    DiskFull {
        /// What was being done.
        action: &'static str,
    },
    /// The object store failed.
    #[error("the object store failed to {action}: {cause}")]
    Store {
        /// What was being done.
        action: &'static str,
        /// What it says.
        cause: object_store::Error,
    },
}

impl ArtifactError {
    /// What the system says of a local file.
    fn of_file(action: &'static str, path: &Path, cause: io::Error) -> Self {
        match is_no_room(&cause) {
            true => Self::DiskFull { action },
            false => Self::Io { action, path: path.to_path_buf(), cause },
        }
    }
}

/// Where the files of jobs are.
#[derive(Debug, Clone)]
pub struct Artifacts {
    store: Arc<dyn ObjectStore>,
    /// The folder, when it is one.
    local: Option<PathBuf>,
}

impl Artifacts {
    /// Files in a local folder, which is made when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn local(folder: impl AsRef<Path>) -> Result<Self, ArtifactError> {
        let folder = folder.as_ref();
        let failed = |action| move |cause| ArtifactError::of_file(action, folder, cause);
        std::fs::create_dir_all(folder).map_err(failed("make the folder"))?;
        let folder = folder.canonicalize().map_err(failed("open the folder"))?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|e| unexpected("open the folder", e))?
            .with_automatic_cleanup(true)
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), local: Some(folder) })
    }

    /// Files in any object store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, local: None }
    }

    /// The path of a file in a local folder, whether it exists or not; `None` in an object store.
    pub fn local_path(&self, job: JobId, name: ArtifactName) -> Option<PathBuf> {
        Some(self.local.as_ref()?.join(ROOT).join(job.to_string()).join(name.to_string()))
    }

    /// Stores a local file, in pieces, so that memory does not grow with its size. It appears whole
    /// or not at all, and takes the place of one of the same name.
    ///
    /// # Errors
    /// When the file cannot be read, or the store has no room or fails.
    pub async fn put_file(
        &self,
        job: JobId,
        name: ArtifactName,
        file: &Path,
    ) -> Result<Artifact, ArtifactError> {
        let failed = |action| move |cause| ArtifactError::of_file(action, file, cause);
        let source = tokio::fs::File::open(file).await.map_err(failed("open"))?;
        self.put(job, name, source, file).await
    }

    /// Stores the next `length` bytes of an open file, as [`Self::put_file`] stores all of one. `path`
    /// names it in errors.
    ///
    /// # Errors
    /// Those of [`Self::put_file`], and [`ArtifactError::Io`] when the file ends before; then nothing is
    /// stored under the name.
    pub async fn put_part(
        &self,
        job: JobId,
        name: ArtifactName,
        source: impl AsyncRead + Unpin,
        length: u64,
        path: &Path,
    ) -> Result<Artifact, ArtifactError> {
        let artifact = self.put(job, name, source.take(length), path).await?;
        if artifact.size_bytes == length {
            return Ok(artifact);
        }
        self.delete(job, name).await?;
        let text = format!("it has {} of {length} bytes", artifact.size_bytes);
        let cause = io::Error::new(io::ErrorKind::UnexpectedEof, text);
        Err(ArtifactError::Io { action: "read", path: path.into(), cause })
    }

    async fn put(
        &self,
        job: JobId,
        name: ArtifactName,
        mut source: impl AsyncRead + Unpin,
        path: &Path,
    ) -> Result<Artifact, ArtifactError> {
        let failed = |action| move |cause| ArtifactError::of_file(action, path, cause);
        let action = "store a file";
        let upload = self.store.put_multipart(&key(job, name)).await;
        let upload = upload.map_err(|e| unexpected(action, e))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES);
        let mut size_bytes = 0;
        let copied = loop {
            // A piece for each read: what is under way keeps its own.
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            match (&mut source).take(PIECE_BYTES as u64).read_to_end(&mut piece).await {
                Ok(0) => break Ok(()),
                Ok(read) => size_bytes += read as u64,
                Err(cause) => break Err(failed("read")(cause)),
            }
            if let Err(cause) = upload.wait_for_capacity(PIECES_AT_ONCE).await {
                break Err(unexpected(action, cause));
            }
            upload.put(piece.into());
        };
        match copied {
            Ok(()) => upload.finish().await.map_err(|e| unexpected(action, e))?,
            Err(error) => {
                // The first error is the one to tell; what is left of the upload goes with the job.
                let _ = upload.abort().await;
                return Err(error);
            }
        };
        Ok(Artifact { name, size_bytes })
    }

    /// Stores bytes that are in memory, whole or not at all.
    ///
    /// # Errors
    /// When the store has no room or fails.
    pub async fn put_bytes(
        &self,
        job: JobId,
        name: ArtifactName,
        bytes: impl Into<Bytes>,
    ) -> Result<Artifact, ArtifactError> {
        let bytes = bytes.into();
        let size_bytes = bytes.len() as u64;
        let put = self.store.put(&key(job, name), PutPayload::from_bytes(bytes)).await;
        put.map_err(|e| unexpected("store bytes", e))?;
        Ok(Artifact { name, size_bytes })
    }

    /// Stores a file of one job for another one too. In a folder no byte is copied.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], or when the store has no room or fails.
    pub async fn copy(
        &self,
        (from, name): (JobId, ArtifactName),
        (to, as_name): (JobId, ArtifactName),
    ) -> Result<Artifact, ArtifactError> {
        let copied = self.store.copy(&key(from, name), &key(to, as_name)).await;
        copied.map_err(|e| missing_or("copy a file", from, name, e))?;
        Ok(Artifact { name: as_name, size_bytes: self.size_bytes(to, as_name).await? })
    }

    /// Writes a stored file to `path`, in pieces. What is there appears whole or not at all.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], or when either side fails.
    pub async fn save(
        &self,
        job: JobId,
        name: ArtifactName,
        path: &Path,
    ) -> Result<(), ArtifactError> {
        let partial = path.with_extension("partial");
        let failed = |cause| ArtifactError::of_file("write", &partial, cause);
        let size_bytes = self.size_bytes(job, name).await?;
        let mut file = tokio::fs::File::create(&partial).await.map_err(failed)?;
        let mut at = 0;
        while at < size_bytes {
            let end = size_bytes.min(at + PIECE_BYTES as u64);
            let piece = self.get_range(job, name, at..end).await?;
            file.write_all(&piece).await.map_err(failed)?;
            at = end;
        }
        file.flush().await.map_err(failed)?;
        tokio::fs::rename(&partial, path).await.map_err(failed)
    }

    /// The size of a file, as it is stored.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], or when the store fails.
    pub async fn size_bytes(&self, job: JobId, name: ArtifactName) -> Result<u64, ArtifactError> {
        let head = self.store.head(&key(job, name)).await;
        Ok(head.map_err(|e| missing_or("look at a file", job, name, e))?.size)
    }

    /// The size of a file, and a text that changes whenever its content does.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], or when the store fails.
    pub async fn head(
        &self,
        job: JobId,
        name: ArtifactName,
    ) -> Result<(u64, String), ArtifactError> {
        let head = self.store.head(&key(job, name)).await;
        let head = head.map_err(|e| missing_or("look at a file", job, name, e))?;
        let tag = head.e_tag.unwrap_or_else(|| head.last_modified.to_string());
        Ok((head.size, tag))
    }

    /// Removes one file. No error when it is not there.
    ///
    /// # Errors
    /// When the store fails; the call can be repeated.
    pub async fn delete(&self, job: JobId, name: ArtifactName) -> Result<(), ArtifactError> {
        match self.store.delete(&key(job, name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(unexpected("delete a file", cause)),
        }
    }

    /// The names of everything stored for a job.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn names(&self, job: JobId) -> Result<Vec<ArtifactName>, ArtifactError> {
        let listed = self.store.list(Some(&folder(job))).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|e| unexpected("list files", e))?;
        // Whatever else lies there is not ours.
        let name = |meta: object_store::ObjectMeta| meta.location.filename()?.parse().ok();
        Ok(listed.into_iter().filter_map(name).collect())
    }

    /// Bytes of a file from `range.start` up to, not with, `range.end`. The caller keeps ranges small.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], [`ArtifactError::Range`] when the range is not whole in the file,
    /// or when the store fails.
    pub async fn get_range(
        &self,
        job: JobId,
        name: ArtifactName,
        range: Range<u64>,
    ) -> Result<Bytes, ArtifactError> {
        let size_bytes = self.size_bytes(job, name).await?;
        if range.start > range.end || range.end > size_bytes {
            return Err(ArtifactError::Range { job, name, range, size_bytes });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let bytes = self.store.get_range(&key(job, name), range).await;
        bytes.map_err(|e| missing_or("read a file", job, name, e))
    }

    /// All bytes of a file. For files that are known to be small.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], or when the store fails.
    pub async fn get(&self, job: JobId, name: ArtifactName) -> Result<Bytes, ArtifactError> {
        let failed = |e| missing_or("read a file", job, name, e);
        let file = self.store.get(&key(job, name)).await.map_err(failed)?;
        file.bytes().await.map_err(failed)
    }

    /// Removes everything stored for a job, also what was never reported. No error when there is
    /// nothing.
    ///
    /// # Errors
    /// When the store fails; the call can be repeated.
    pub async fn delete_job(&self, job: JobId) -> Result<(), ArtifactError> {
        let action = "delete the files of a job";
        let keys = self.store.list(Some(&folder(job))).map_ok(|meta| meta.location).boxed();
        let deleted = self.store.delete_stream(keys).try_for_each(|_| async { Ok(()) }).await;
        match deleted {
            // Another process deletes the same job.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(cause) => return Err(unexpected(action, cause)),
        }
        // A killed upload leaves a file that the local store does not list.
        if let Some(root) = &self.local {
            let path = root.join(ROOT).join(job.to_string());
            match tokio::fs::remove_dir_all(&path).await {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(ArtifactError::Io { action: "delete", path, cause });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Bytes of everything stored for a job.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn job_bytes(&self, job: JobId) -> Result<u64, ArtifactError> {
        self.sum(folder(job)).await
    }

    /// Bytes of everything stored for all jobs. Lists every file.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn total_bytes(&self) -> Result<u64, ArtifactError> {
        self.sum(Key::from(ROOT)).await
    }

    async fn sum(&self, prefix: Key) -> Result<u64, ArtifactError> {
        let sizes = self.store.list(Some(&prefix)).map_ok(|meta| meta.size);
        let sum = sizes.try_fold(0_u64, |sum, size| async move { Ok(sum.saturating_add(size)) });
        sum.await.map_err(|e| unexpected("list files", e))
    }
}

fn folder(job: JobId) -> Key {
    Key::from_iter([ROOT, &job.to_string()])
}

fn key(job: JobId, name: ArtifactName) -> Key {
    Key::from_iter([ROOT, &job.to_string(), &name.to_string()])
}

fn missing_or(
    action: &'static str,
    job: JobId,
    name: ArtifactName,
    cause: object_store::Error,
) -> ArtifactError {
    match cause {
        object_store::Error::NotFound { .. } => ArtifactError::NotFound { job, name },
        cause => unexpected(action, cause),
    }
}

fn unexpected(action: &'static str, cause: object_store::Error) -> ArtifactError {
    match comes_of_no_room(&cause) {
        true => ArtifactError::DiskFull { action },
        false => ArtifactError::Store { action, cause },
    }
}
