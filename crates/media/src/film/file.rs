//! The file that a film grows in.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::error::{MediaError, Result, read_error, write_error};
use crate::files::{lock, sync_folder};

/// A film's file with nothing but its head in it, durable, in the place of an older one. Where that fails nothing
/// is left that was not there.
pub(super) fn begin(path: &Path, head: &[u8]) -> Result<File> {
    let fresh = !path.exists();
    let mut file = open_locked(path, true)?;
    let begun = file
        .set_len(0)
        .and_then(|()| file.write_all(head))
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_folder(path));
    if let Err(cause) = begun {
        if fresh {
            let _ = std::fs::remove_file(path);
        }
        return Err(write_error(path, cause));
    }
    Ok(file)
}

/// Opens the film for reading and writing and makes sure that nobody else writes it.
pub(super) fn open_locked(path: &Path, create: bool) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .open(path)
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound if !create => read_error(path, e),
            _ => write_error(path, e),
        })?;
    match lock(&file) {
        Err(TryLockError::WouldBlock) => Err(MediaError::Busy { path: path.to_path_buf() }),
        // Some network file systems have no locks; there the caller's care has to do.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}
