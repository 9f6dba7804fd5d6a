//! What a run writes: the film, and what was asked for beside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use longreel_media::{Codec, MediaError, write_atomic};
use serde::{Deserialize, Serialize};

use crate::error::FilmError;
use crate::run_file::RunFile;

/// Longest side of a frame on the contact sheet of a film that is made live.
const LIVE_SHEET_SIDE: u32 = 320;

/// Codec and quality of the film.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Encoding {
    /// The codec; `None` takes the container's default.
    pub codec: Option<Codec>,
    /// Quantiser or rate factor; lower is better and larger. `None` takes the codec's default.
    pub crf: Option<u8>,
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outputs {
    /// The film; its extension says the container.
    pub film: PathBuf,
    /// Codec and quality.
    pub encoding: Encoding,
    /// The final latents, safetensors `final_latents` f32 `[1, C, T, h, w]`.
    pub dump_latents: Option<PathBuf>,
    /// What the final latents decode to, safetensors `frames` f32 `[F, H, W, 3]` in [0, 1]. A video
    /// that is extended is not in it, but for the history that the first segment saw.
    pub dump_frames: Option<PathBuf>,
    /// A sheet of frames: a JPEG when the path ends so, else a PNG.
    pub contact_sheet: Option<PathBuf>,
    /// Noise to use instead of the seed's: safetensors with `segment_{s}` and, where the condition is
    /// noised, `condition_noise_{s}`; the seed's noise where that is not there.
    pub noise: Option<PathBuf>,
    /// A picture (JPEG) of the last frame of each segment, written into the run's folder and named by
    /// the events.
    pub previews: bool,
    /// What a service shows while the film is made, and keeps afterwards, all beside the film: previews,
    /// also of the segment in work; [`Outputs::journal_path`]; a contact sheet of small frames, unless
    /// another is asked for.
    #[serde(default)]
    pub live: bool,
    /// Have the events name each checkpoint.
    #[serde(default)]
    pub checkpoints: bool,
    /// Start anew where an unfinished run is.
    pub overwrite: bool,
    /// The command that makes this film again, kept in its metadata.
    pub command: String,
    /// The program's version, kept in the film's metadata.
    pub program_version: String,
}

impl Outputs {
    /// A film at `film` with the container's default codec, and nothing beside it but the drift.
    pub fn new(film: impl Into<PathBuf>) -> Self {
        Self {
            film: film.into(),
            encoding: Encoding::default(),
            dump_latents: None,
            dump_frames: None,
            contact_sheet: None,
            noise: None,
            previews: false,
            live: false,
            checkpoints: false,
            overwrite: false,
            command: String::new(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Refuses to begin a film where an unfinished run is, unless it may be overwritten.
    ///
    /// # Errors
    /// [`FilmError::Unfinished`].
    pub fn check_unfinished(&self) -> Result<(), FilmError> {
        match !self.overwrite && RunFile::path(&self.run_folder()).exists() {
            true => Err(FilmError::Unfinished { path: self.film.clone() }),
            false => Ok(()),
        }
    }

    /// The folder beside the film that holds the unfinished run.
    pub fn run_folder(&self) -> PathBuf {
        run_folder(&self.film)
    }

    /// Where the events of finished segments are kept, as lines of JSON, when the film is made live.
    /// It is as durable as the segments are, so that whoever reads the events of a run that was killed
    /// finds here what it was not told; it stays when the film is complete.
    pub fn journal_path(&self) -> PathBuf {
        self.film.with_extension("journal")
    }

    /// Where the contact sheet goes, and the longest side of a frame on it, in pixels.
    pub fn sheet(&self) -> Option<(PathBuf, u32)> {
        match &self.contact_sheet {
            Some(path) => Some((path.clone(), u32::MAX)),
            None => self.live.then(|| (self.film.with_extension("sheet.jpg"), LIVE_SHEET_SIDE)),
        }
    }

    /// Where previews are written.
    pub(crate) fn preview_folder(&self) -> PathBuf {
        match self.live {
            true => self.film.parent().map(Path::to_path_buf).unwrap_or_default(),
            false => self.run_folder(),
        }
    }

    /// Where the drift of each segment is written: `film.mp4` has `film.drift.json`.
    pub fn drift_path(&self) -> PathBuf {
        self.film.with_extension("drift.json")
    }
}

/// Finds out before any work is done whether `path` can be written.
///
/// # Errors
/// Those that writing it would have.
pub fn check_writable(path: &Path) -> Result<(), MediaError> {
    let mut probe = beside(path);
    probe.push(".probe");
    let probe = PathBuf::from(probe);
    write_atomic(&probe, b"").map_err(|error| match error {
        // What is asked for is the file itself.
        MediaError::NotWritable { cause, .. } => {
            MediaError::NotWritable { path: path.to_owned(), cause }
        }
        error => error,
    })?;
    let _ = std::fs::remove_file(probe);
    Ok(())
}

/// See [`Outputs::run_folder`].
pub fn run_folder(film: &Path) -> PathBuf {
    let mut name = beside(film);
    name.push(".longreel");
    PathBuf::from(name)
}

/// A path to append to: `frames/` is `frames`.
fn beside(path: &Path) -> OsString {
    path.components().as_path().as_os_str().to_owned()
}
