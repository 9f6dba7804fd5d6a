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
        match longreel_media::lock(&file) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lock_that_is_given_up_soon_is_waited_for_and_one_that_is_held_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let take = || RunLock::take(folder.path(), Path::new("film.mp4"));
        let held = take().expect("nobody has it");
        assert!(matches!(take(), Err(FilmError::Busy { .. })));
        // As by a program that was just started by a process that was killed.
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                drop(held);
            });
            take().expect("it is given up");
        });
    }
}
