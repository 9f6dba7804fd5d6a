//! Files that are whole or not there at all.

use crate::error::{MediaError, Result, read_error, write_error};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes `bytes` to `path` so that at any instant the path holds the old content or the new one.
///
/// The bytes go to a file beside it, are flushed to the disk, renamed over `path`, and the folder
/// is flushed too, so that the rename survives a power cut.
///
/// # Errors
/// [`MediaError::FolderMissing`](crate::MediaError::FolderMissing),
/// [`MediaError::NotWritable`](crate::MediaError::NotWritable),
/// [`MediaError::DiskFull`](crate::MediaError::DiskFull) and the like; the file beside is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = beside(path, "tmp");
    let attempt = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder(path)
    };
    attempt().map_err(|cause| {
        // The first error is the one worth telling; a leftover that cannot be removed is not.
        let _ = fs::remove_file(&beside);
        write_error(path, cause)
    })
}

/// A program that is being started has a copy of each open file for a moment, and with it locks that are given up
/// meanwhile: those of a process that was killed while it started one are still held then.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(25);

/// Takes the lock of a file, which no other process may have for longer than half a second.
///
/// # Errors
/// [`TryLockError::WouldBlock`] when another process has it, and what the file system says where it has no locks.
pub fn lock(file: &File) -> std::result::Result<(), TryLockError> {
    for _ in 1..LOCK_TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_WAIT),
            taken => return taken,
        }
    }
    file.try_lock()
}

/// Opens a file that is read more than once: no pipe, whose content is gone then, and no device.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    // Opening a pipe would wait for whoever writes it.
    let metadata = fs::metadata(path).map_err(|e| read_error(path, e))?;
    if metadata.is_file() {
        return File::open(path).map_err(|e| read_error(path, e));
    }
    let what = if metadata.is_dir() { "it is a folder" } else { "it is a pipe or a device" };
    Err(MediaError::UnknownFormat {
        path: path.to_path_buf(),
        found: what.to_owned(),
        cure: "name a file".to_owned(),
    })
}

/// `folder/.name.ending` for `folder/name`: hidden, on the same file system, and never the name
/// of another output.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// Flushes the folder that holds `path`, where the system can do that.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    {
        let _ = path;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_the_old_content_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere/a.json");
        let error = write_atomic(&path, b"x").unwrap_err();
        assert!(matches!(error, MediaError::FolderMissing { .. }), "{error:?}");
        assert!(error.to_string().contains("nowhere"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_devices_and_folders_are_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, folder.path(), Path::new("/dev/zero")] {
            let error = open_regular(path).unwrap_err();
            assert!(matches!(error, MediaError::UnknownFormat { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_target_that_is_a_folder_fails_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_atomic(&path, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
