//! The one error type of this crate.
//!
//! Errors come from three places: the disk (a folder is missing, read-only or full), data that
//! somebody else wrote (an image or video that is truncated, hostile or of a kind we cannot read),
//! and settings that cannot work (an odd width for 4:2:0 video). Each names the path or value,
//! the limit, and the way out.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong while frames are read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The folder that should hold an output does not exist.
    #[error(
        "cannot write {}: the folder {} does not exist; create it (mkdir -p) or choose another output",
        path.display(), folder.display()
    )]
    FolderMissing {
        /// The file that was to be written.
        path: PathBuf,
        /// The folder that is missing.
        folder: PathBuf,
    },
    /// The file or its folder may not be written by this user, or is on a read-only file system.
    #[error(
        "cannot write {}: {cause}; choose an output in a folder that you may write, or change its permissions",
        path.display()
    )]
    NotWritable {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The disk, or this user's quota on it, is full.
    #[error(
        "cannot write {}: no space left ({cause}); free some space",
        path.display()
    )]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file to be read does not exist.
    #[error("cannot read {}: there is no such file; check the path", path.display())]
    FileMissing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// Any other input or output failure.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was being done, as a verb: `read`, `write`.
        action: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Another writer has this film open.
    #[error("{} is being written by another process; wait for it or stop it first", path.display())]
    Busy {
        /// The film.
        path: PathBuf,
    },
    /// A setting that cannot work for the chosen output.
    #[error("{what} is {value}; {rule}; {cure}")]
    Setting {
        /// The setting's name.
        what: &'static str,
        /// Its value.
        value: String,
        /// The rule that it breaks.
        rule: String,
        /// What to do instead.
        cure: String,
    },
    /// A frame of another size than the film's.
    #[error(
        "frame {index} is {got_width}x{got_height}, the film is {width}x{height}; every frame of a film has one size"
    )]
    FrameSize {
        /// The index of the frame in the film.
        index: u64,
        /// The frame's width in pixels.
        got_width: u32,
        /// The frame's height in pixels.
        got_height: u32,
        /// The film's width in pixels.
        width: u32,
        /// The film's height in pixels.
        height: u32,
    },
    /// An image or video that is larger than the limit, found from its header.
    #[error("{} is {width}x{height} pixels; the limit is {limit}; scale it down first", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its width in pixels, as its header says.
        width: u64,
        /// Its height in pixels, as its header says.
        height: u64,
        /// The limit in words.
        limit: String,
    },
    /// A file that is not of a kind that this crate reads.
    #[error("{} is not a kind of file that can be read here: {found}; {cure}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What its first bytes look like.
        found: String,
        /// What to do instead.
        cure: String,
    },
    /// A file that ends before its content does.
    #[error("{} is truncated: {detail}; copy or download it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        detail: String,
    },
    /// A file whose content contradicts its format.
    #[error("{} is damaged: {detail}; copy it again, or save it anew with another program", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A valid file that needs something which is not here.
    #[error("{} cannot be decoded without ffmpeg: {reason}; install ffmpeg, or convert it to 8-bit 4:2:0 H.264 in MP4", path.display())]
    NeedsFfmpeg {
        /// The file.
        path: PathBuf,
        /// What it holds that the built-in decoder does not read.
        reason: String,
    },
    /// An output was asked for that only ffmpeg can write.
    #[error(
        "{codec} needs ffmpeg, which was not found ({looked}); install ffmpeg or use the built-in H.264 (an .mp4 without a codec choice)"
    )]
    FfmpegMissing {
        /// The codec asked for.
        codec: String,
        /// Where it was looked for.
        looked: String,
    },
    /// ffmpeg ran and failed.
    #[error(
        "ffmpeg failed while {action} {}: {message}; {}", path.display(),
        if *action == "decoding" { "give a whole video, or convert it to H.264 in MP4" }
        else { "choose another --codec, or none for the built-in H.264 in .mp4" }
    )]
    Ffmpeg {
        /// What it was doing.
        action: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// The last lines it printed.
        message: String,
    },
    /// The film on disk is not the one that the saved state describes.
    #[error("cannot resume {}: {reason}; start the film again or give the state that belongs to it", path.display())]
    CannotResume {
        /// The film.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The H.264 encoder or decoder library refused.
    #[error("the built-in H.264 {what} failed (code {code})")]
    Codec {
        /// Which call failed.
        what: &'static str,
        /// The library's return code.
        code: i64,
    },
}

/// Shorthand for this crate's results.
pub type Result<T, E = MediaError> = std::result::Result<T, E>;

/// Turns a failed write into the error that names its cure.
pub(crate) fn write_error(path: &Path, cause: io::Error) -> MediaError {
    let path = path.to_path_buf();
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            let folder = match path.parent() {
                Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
                _ => PathBuf::from("."),
            };
            if folder.is_dir() {
                // The folder is there and still takes no files, as those of /proc do.
                MediaError::NotWritable { path, cause }
            } else {
                MediaError::FolderMissing { path, folder }
            }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            MediaError::NotWritable { path, cause }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            MediaError::DiskFull { path, cause }
        }
        _ => MediaError::Io { action: "write", path, cause },
    }
}

/// Turns a failed read into the error that names its cause.
pub(crate) fn read_error(path: &Path, cause: io::Error) -> MediaError {
    let path = path.to_path_buf();
    match cause.kind() {
        io::ErrorKind::NotFound => MediaError::FileMissing { path },
        io::ErrorKind::UnexpectedEof => MediaError::Truncated {
            path,
            detail: "it ends before its header says it does".to_owned(),
        },
        _ => MediaError::Io { action: "read", path, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_becomes_the_error_with_its_cure() {
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull};
        for (kind, says) in [
            (StorageFull, "no space left"),
            (PermissionDenied, "may write"),
            (ReadOnlyFilesystem, "may write"),
            (NotFound, "mkdir -p"),
        ] {
            let text = write_error(Path::new("out/film.mp4"), kind.into()).to_string();
            assert!(text.contains(says) && text.contains("out/film.mp4"), "{text}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_recognised() {
        use io::Write;
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let cause = full.write_all(b"x").unwrap_err();
        let error = write_error(Path::new("film.mp4"), cause);
        assert!(matches!(error, MediaError::DiskFull { .. }), "{error:?}");
    }
}
