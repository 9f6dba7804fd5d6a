//! Secrets of the server, each in a file that nobody else may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use longreel_jobs::{Ids, RandomError, RandomIds, SecretError, SigningSecret};

/// Why a file gives no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read or written.
    #[error("the secret in {} cannot be used: {cause}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// What it holds is none.
    #[error("{}: {cause}", file.display())]
    NoSecret {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: SecretError,
    },
    /// There are no random numbers for a new one.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The secret in `file`.
///
/// # Errors
/// See [`SecretFileError`].
pub fn read_secret(file: &Path) -> Result<SigningSecret, SecretFileError> {
    let failed = |cause| SecretFileError::Io { file: file.to_owned(), cause };
    let text = fs::read_to_string(file).map_err(failed)?;
    SigningSecret::parse(&text)
        .map_err(|cause| SecretFileError::NoSecret { file: file.to_owned(), cause })
}

/// The secret in `file`, which is made with a new one when it is missing.
///
/// # Errors
/// See [`SecretFileError`].
pub fn secret_in(file: &Path) -> Result<SigningSecret, SecretFileError> {
    match read_secret(file) {
        Err(SecretFileError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let failed = |cause| SecretFileError::Io { file: file.to_owned(), cause };
    let secret = SigningSecret::generate(&RandomIds::default())?;
    // Under another name first: a server and a command that begin at one time get one secret, and
    // nobody ever reads half of one.
    let draft = file.with_extension(RandomIds::default().id(0)?.to_string());
    let made = write_new(&draft, &secret.reveal()).and_then(|()| fs::hard_link(&draft, file));
    let _ = fs::remove_file(&draft);
    match made {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(failed(cause)),
        _ => read_secret(file),
    }
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened: File = options.open(file)?;
    writeln!(opened, "{text}")?;
    opened.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_nobody_else_may_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        let made: Vec<SigningSecret> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| secret_in(&file))).collect();
            makers.into_iter().map(|m| m.join().expect("no panic").expect("a secret")).collect()
        });
        assert!(made.iter().all(|secret| *secret == made[0]));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "a draft is left");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&file).expect("a file").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_with_the_file_and_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        fs::write(&file, "hunter2").expect("writable");
        let error = secret_in(&file).expect_err("no secret").to_string();
        assert!(error.contains("secret") && !error.contains("hunter2"), "{error}");
        assert_eq!(fs::read_to_string(&file).expect("there"), "hunter2");
    }
}
