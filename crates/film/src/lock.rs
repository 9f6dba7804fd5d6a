//! One process at a time makes a film.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use crate::error::FilmError;

/// Its name in the run's folder.
const FILE: &str = "lock";

/// Held while a process works in a run's folder. The system lets go of it when the process ends, however that is.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: Option<File>,
}

impl RunLock {
    /// Takes the lock of the run's folder `folder`, which is there.
    ///
    /// # Errors
    /// [`FilmError::Busy`] when another process has it.
    pub fn take(folder: &Path, film: &Path) -> Result<Self, FilmError> {
        let path = folder.join(FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(FilmError::io("write", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(FilmError::Busy { path: film.to_owned() }),
            // Some file systems have no locks; nothing is worse there than without.
            Err(TryLockError::Error(_)) => Ok(Self { _file: None }),
        }
    }

    /// Removes all else that lies in the folder.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn clear(&self, folder: &Path) -> Result<(), FilmError> {
        let clear = || {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false if entry.file_name() == FILE => {}
                    false => fs::remove_file(entry.path())?,
                }
            }
            Ok(())
        };
        clear().map_err(FilmError::io("clear", folder))
    }
}
