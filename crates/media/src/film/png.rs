//! A folder of PNG frames: `000000.png`, `000001.png`, and so on.

use super::options::FilmOptions;
use super::{FilmState, Sink};
use crate::error::{MediaError, Result, write_error};
use crate::files::sync_folder;
use crate::frame::Frame;
use crate::png_file::{encode_png, write_whole};
use std::path::{Path, PathBuf};

pub(super) struct PngSink {
    folder: PathBuf,
    metadata: Option<String>,
    frames: u64,
    pending: u64,
    parts: u32,
    bytes: u64,
}

impl PngSink {
    pub(super) fn create(folder: &Path, options: &FilmOptions) -> Result<Self> {
        match std::fs::create_dir(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => {
                // Frames of an older film behind the end of this one would look like part of it.
                remove_from(folder, 0)?;
            }
            Err(e) => return Err(write_error(folder, e)),
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            metadata: options.metadata.clone(),
            frames: 0,
            pending: 0,
            parts: 0,
            bytes: 0,
        })
    }

    pub(super) fn resume(folder: &Path, options: &FilmOptions, state: &FilmState) -> Result<Self> {
        let mut bytes = 0;
        for name in (0..state.frames).map(name) {
            let Some(frame) = folder.join(&name).metadata().ok().filter(|frame| frame.is_file())
            else {
                return Err(MediaError::CannotResume {
                    path: folder.to_path_buf(),
                    reason: format!(
                        "the saved state says {} frames, but {name} is missing",
                        state.frames
                    ),
                });
            };
            bytes += frame.len();
        }
        let first = folder.join(name(0));
        let metadata = match state.frames {
            0 => options.metadata.clone(),
            _ => crate::metadata::read_metadata(&first)?,
        };
        remove_from(folder, state.frames)?;
        Ok(Self {
            folder: folder.to_path_buf(),
            metadata,
            frames: state.frames,
            pending: 0,
            parts: state.parts,
            bytes,
        })
    }
}

/// The file of frame `index`.
fn name(index: u64) -> String {
    format!("{index:06}.png")
}

/// Whether a file of this name is a frame.
pub(crate) fn is_frame(name: &str) -> bool {
    index_of(name).is_some()
}

/// The frame that a file name stands for.
fn index_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".png")?;
    (digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Removes the frames from `first` on, and nothing else.
fn remove_from(folder: &Path, first: u64) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|e| write_error(folder, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| write_error(folder, e))?;
        if index_of(&entry.file_name().to_string_lossy()).is_some_and(|i| i >= first) {
            std::fs::remove_file(entry.path()).map_err(|e| write_error(&entry.path(), e))?;
        }
    }
    Ok(())
}

impl Sink for PngSink {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        let bytes = encode_png(frame, self.metadata.as_deref());
        write_whole(&self.folder.join(name(self.frames)), &bytes)?;
        self.bytes += bytes.len() as u64;
        self.frames += 1;
        self.pending += 1;
        Ok(())
    }

    fn pending(&self) -> u64 {
        self.pending
    }

    fn end_part(&mut self) -> Result<()> {
        // Frames were renamed into place without waiting for the disk; now all of them must be
        // there.
        for index in self.frames - self.pending..self.frames {
            let path = self.folder.join(name(index));
            std::fs::File::open(&path)
                .and_then(|f| f.sync_all())
                .map_err(|e| write_error(&path, e))?;
        }
        sync_folder(&self.folder.join("x")).map_err(|e| write_error(&self.folder, e))?;
        self.pending = 0;
        self.parts += 1;
        Ok(())
    }

    fn position(&self) -> (u64, u32) {
        (0, self.parts)
    }

    fn finish(&mut self) -> Result<u64> {
        Ok(self.bytes)
    }

    fn discard(&mut self) -> std::io::Result<()> {
        for index in 0..self.frames {
            std::fs::remove_file(self.folder.join(name(index)))?;
        }
        // What else is in the folder is not ours.
        match std::fs::remove_dir(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_frames_are_taken_for_frames() {
        assert_eq!(index_of("000012.png"), Some(12));
        assert_eq!(index_of("1234567.png"), Some(1_234_567));
        for other in ["12.png", "photo.png", "000012.jpg", "-00012.png", "+00012.png"] {
            assert_eq!(index_of(other), None, "{other}");
        }
    }
}
