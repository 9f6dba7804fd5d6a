//! A disk of its own, which can be filled up.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk in memory, gone when this is dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of `size_bytes` at `at`, a folder that is made; why not, where that is not allowed.
    pub fn mount(at: &Path, size_bytes: u64) -> Result<Self, String> {
        std::fs::create_dir(at).map_err(|e| e.to_string())?;
        let size = format!("size={size_bytes}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match mount {
            Ok(done) if done.status.success() => Ok(Self(at.to_owned())),
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn free_bytes(&self) -> u64 {
        let df = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.0).output();
        let said = String::from_utf8(df.expect("df").stdout).expect("text");
        said.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes what room there is, but for `left_bytes`.
    pub fn fill(&self, left_bytes: u64) {
        let filler = std::fs::File::options().append(true).create(true).open(self.filler());
        let mut filler = filler.expect("a file");
        while let free @ 1.. = self.free_bytes().saturating_sub(left_bytes) {
            let zeros = vec![0; usize::try_from(free).expect("it is small")];
            if filler.write_all(&zeros).is_err() {
                // Somebody else was quicker.
                return;
            }
        }
    }

    /// Takes no more writing.
    #[allow(dead_code, reason = "the tests of the service do without it")]
    pub fn make_read_only(&self) {
        let mount = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(mount.expect("mount").success());
    }

    /// Gives back what was taken.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
