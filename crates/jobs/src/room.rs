//! Whether it is for want of room that something was not written.

use std::error::Error;
use std::io;
use std::path::Path;

/// Whether the system says that there is no room: on the disk, or in what this user may have of it.
pub fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The same of an error that may have such a one behind it.
pub(crate) fn comes_of_no_room(error: &(dyn Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(is_no_room) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Bytes that are written to find out; more than a database takes at once for a small change.
const PROBE_BYTES: usize = 64 << 10;

/// Finds out by writing beside `path`, for errors that do not say why.
pub(crate) fn has_no_room_beside(path: &Path) -> bool {
    let probe = path.with_extension("probe");
    let written = std::fs::write(&probe, [0; PROBE_BYTES]);
    let _ = std::fs::remove_file(&probe);
    written.is_err_and(|error| is_no_room(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_and_a_quota_are_told_from_other_failures() {
        // ENOSPC and EDQUOT; EACCES, EROFS and EIO.
        for (number, expected) in [(28, true), (122, true), (13, false), (30, false), (5, false)] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(is_no_room(&error), expected, "{error}");
            let behind =
                crate::ArtifactError::Io { action: "write", path: "x".into(), cause: error };
            assert!(!comes_of_no_room(&behind) || expected);
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_no_room_beside(&folder.path().join("jobs.db")));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the probe is left");
        assert!(!has_no_room_beside(&folder.path().join("nowhere/jobs.db")));
    }
}
