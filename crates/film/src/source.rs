//! The files that a run reads beside its model: pictures, a video, noise. A run keeps which they were, so that it does
//! not go on from others under the same names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::FilmError;
use crate::request::{FilmRequest, StartFrom};
use crate::run_file::RunFile;

/// A file as it was when a run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As the request names it.
    pub path: PathBuf,
    /// Its bytes; of a noise file those that the film uses.
    pub bytes: u64,
    /// Their SHA-256, in hexadecimal digits.
    pub sha256: String,
}

impl Source {
    /// The file at `path` as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self, FilmError> {
        let read = || -> io::Result<Self> {
            let mut file = File::open(path)?;
            let mut digest = SourceDigest::default();
            let mut piece = vec![0; 1 << 20];
            loop {
                match file.read(&mut piece) {
                    Ok(0) => return Ok(digest.finish(path)),
                    Ok(count) => digest.add(&piece[..count]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        };
        read().map_err(FilmError::io("read", path))
    }

    /// Refuses to go on with `film` when this is not what `began` says of the same file.
    ///
    /// # Errors
    /// [`FilmError::SourceChanged`].
    pub fn check(&self, began: &[Self], film: &Path) -> Result<(), FilmError> {
        // Runs of versions that did not look have none.
        let Some(began) = began.iter().find(|source| source.path == self.path) else {
            return Ok(());
        };
        if began == self {
            return Ok(());
        }
        let difference = if began.bytes == self.bytes {
            let [began, now] =
                [began, self].map(|source| source.sha256.get(..12).unwrap_or("none"));
            format!("as long, with the SHA-256 {now}… where that one had {began}…")
        } else {
            format!("{} bytes where that one had {}", self.bytes, began.bytes)
        };
        let (path, film) = (self.path.clone(), film.to_owned());
        Err(FilmError::SourceChanged { path, film, difference })
    }
}

/// A [`Source`] in the making.
#[derive(Default)]
pub(crate) struct SourceDigest {
    bytes: u64,
    hash: Sha256,
}

impl SourceDigest {
    /// The next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// The source at `path` of which these were all bytes.
    pub fn finish(self, path: &Path) -> Source {
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Source { path: path.to_owned(), bytes: self.bytes, sha256 }
    }
}

/// The pictures and the video that a run still reads. Of pictures what was made of them is `kept`; a video is copied into
/// the film with the first segment, before the first checkpoint.
fn needed(request: &FilmRequest, kept: bool, has_checkpoint: bool) -> impl Iterator<Item = &Path> {
    let first = match &request.start {
        StartFrom::Image(path) => (!kept).then_some(path),
        StartFrom::Video(path) => (!has_checkpoint).then_some(path),
        StartFrom::Prompt => None,
    };
    let last = request.end_image.as_ref().filter(|_| !kept);
    first.into_iter().chain(last).map(PathBuf::as_path)
}

/// What a run of `film` reads that begins now, or with a checkpoint of another film.
///
/// # Errors
/// [`FilmError::SourceGone`], and what cannot be read.
pub(crate) fn sources(
    request: &FilmRequest,
    film: &Path,
    has_checkpoint: bool,
) -> Result<Vec<Source>, FilmError> {
    needed(request, false, has_checkpoint).map(|path| source(path, film)).collect()
}

/// Refuses to go on with a film whose pictures or video are needed once more, and gone or replaced.
///
/// # Errors
/// [`FilmError::SourceGone`], [`FilmError::SourceChanged`], and what cannot be read.
pub(crate) fn check_sources(
    run: &RunFile,
    film: &Path,
    kept: bool,
    has_checkpoint: bool,
) -> Result<(), FilmError> {
    needed(&run.request, kept, has_checkpoint)
        .try_for_each(|path| source(path, film)?.check(&run.sources, film))
}

fn source(path: &Path, film: &Path) -> Result<Source, FilmError> {
    match path.is_file() {
        true => Source::of(path),
        false => Err(FilmError::SourceGone { path: path.to_owned(), film: film.to_owned() }),
    }
}
