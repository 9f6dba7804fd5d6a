//! Finding and running ffmpeg, which is never required.

use crate::error::{MediaError, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// The ffmpeg program: `given` when it is a file, else the first `ffmpeg` on `PATH`.
#[must_use]
pub fn ffmpeg_path(given: Option<&Path>) -> Option<PathBuf> {
    program("ffmpeg", given)
}

fn program(name: &str, given: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = given {
        return path.is_file().then(|| path.to_path_buf());
    }
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(&name))
        .find(|path| path.is_file())
}

/// ffprobe beside the ffmpeg in use, or on `PATH`.
pub(crate) fn ffprobe_path(ffmpeg: &Path) -> Option<PathBuf> {
    let beside = ffmpeg.with_file_name(format!("ffprobe{}", std::env::consts::EXE_SUFFIX));
    if beside.is_file() { Some(beside) } else { program("ffprobe", None) }
}

/// The ffmpeg to use, or the error that says it is missing.
pub(crate) fn require(given: Option<&Path>, codec: impl std::fmt::Display) -> Result<PathBuf> {
    ffmpeg_path(given).ok_or_else(|| MediaError::FfmpegMissing {
        codec: codec.to_string(),
        looked: match given {
            Some(path) => format!("at {}", path.display()),
            None => "on PATH".to_owned(),
        },
    })
}

/// A path as an argument that ffmpeg takes for a file, whatever it is called: without the prefix
/// `a:b.mp4` would name a protocol and `-x.mp4` an option.
pub(crate) fn file_argument(path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("file:");
    argument.push(path);
    argument
}

/// A running ffmpeg whose complaints are kept.
pub(crate) struct Process {
    pub(crate) child: Child,
    complaints: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts `command` with its error output collected.
    pub(crate) fn start(command: &mut Command, path: &Path, action: &'static str) -> Result<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(|e| MediaError::Ffmpeg {
            action,
            path: path.to_path_buf(),
            message: format!("it did not start: {e}"),
        })?;
        let complaints = child.stderr.take().map(|mut pipe| {
            std::thread::spawn(move || {
                // The pipe is drained to its end so that ffmpeg never blocks on it; the last
                // part is what explains a failure.
                let (mut kept, mut buffer) = (Vec::new(), [0u8; 4096]);
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    kept.extend_from_slice(&buffer[..count]);
                    let surplus = kept.len().saturating_sub(4096);
                    kept.drain(..surplus);
                }
                String::from_utf8_lossy(&kept).trim().to_owned()
            })
        });
        Ok(Self { child, complaints })
    }

    /// Waits for the end; a failure becomes an error with what ffmpeg printed.
    pub(crate) fn finish(mut self, path: &Path, action: &'static str) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait();
        let said = self.complaints.take().and_then(|t| t.join().ok()).unwrap_or_default();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(MediaError::Ffmpeg {
                action,
                path: path.to_path_buf(),
                message: if said.is_empty() { status.to_string() } else { said },
            }),
            Err(cause) => Err(MediaError::Io { action, path: path.to_path_buf(), cause }),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without effect on a process that has ended; else nothing of it is wanted any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
