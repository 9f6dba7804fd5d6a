//! What the machine has left for films.

use std::path::Path;

use longreel_film::available_memory_bytes;

/// What the machine has left; `None` is what it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Memory that may still be taken.
    pub memory_bytes: Option<u64>,
    /// Room on a disk, for whoever is not its administrator.
    pub disk_free_bytes: Option<u64>,
    /// Size of that disk.
    pub disk_size_bytes: Option<u64>,
}

impl Room {
    /// What there is now, on the disk of `folder`.
    pub fn now(folder: &Path) -> Self {
        let disk = disk(folder);
        Self {
            memory_bytes: available_memory_bytes(),
            disk_free_bytes: disk.map(|disk| disk.0),
            disk_size_bytes: disk.map(|disk| disk.1),
        }
    }
}

#[cfg(unix)]
fn disk(folder: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some((bytes(found.f_bavail), bytes(found.f_blocks)))
}

#[cfg(not(unix))]
fn disk(_folder: &Path) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_has_a_disk_with_room_on_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = Room::now(folder.path());
        let (free, size) =
            (room.disk_free_bytes.expect("room"), room.disk_size_bytes.expect("a size"));
        assert!(free > 0 && free <= size, "{room:?}");
        assert!(room.memory_bytes.is_some_and(|bytes| bytes > 0), "{room:?}");
        assert_eq!(Room::now(&folder.path().join("nowhere")).disk_free_bytes, None);
    }
}
