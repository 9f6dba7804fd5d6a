//! Standard output for what programs read, and for nothing else.
//!
//! Libraries that are loaded write there too: NCCL with `NCCL_DEBUG`, cuBLASLt with `CUBLASLT_LOG_LEVEL`. A line of theirs
//! in the middle of one of ours would be neither.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

static OWN: OnceLock<Mutex<File>> = OnceLock::new();

/// From here on only [`write`](fn@write) writes there, and whatever else is printed goes to standard error. Where the system has no
/// way for that, or there is no standard error, all stays as it was.
pub fn take() {
    #[cfg(unix)]
    if OWN.get().is_none()
        && let Ok(own) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
        && rustix::stdio::dup2_stdout(rustix::stdio::stderr()).is_ok()
    {
        let _ = OWN.set(Mutex::new(File::from(own)));
    }
}

/// Whether a person looks at it.
pub fn is_terminal() -> bool {
    match OWN.get() {
        Some(own) => own.lock().unwrap_or_else(PoisonError::into_inner).is_terminal(),
        None => io::stdout().is_terminal(),
    }
}

/// Writes all of it, at once for whoever reads.
///
/// # Errors
/// Those of the system; a reader that went away is one.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    if let Some(own) = OWN.get() {
        return own.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes);
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush())
}
