//! Whether a process died because memory ran out: what the kernel has counted, and what the process
//! said. A process that was killed for another reason is not taken for one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A kill is looked for among those of so long before a death, and at most twice as long: freeing the
/// memory of a large process takes the kernel a while, and what it killed long ago says nothing.
const WINDOW: Duration = Duration::from_secs(30);

/// Kills that a death was explained by, by the file that counts them. One kill explains one death.
static EXPLAINED: LazyLock<Mutex<HashMap<PathBuf, u64>>> = LazyLock::new(Mutex::default);

/// The kernel's count of processes that it killed because memory ran out, as it was a while ago.
#[derive(Debug)]
pub(crate) struct KernelKills {
    file: Option<PathBuf>,
    older: u64,
    newer: (Instant, u64),
}

impl KernelKills {
    /// The count that concerns a process: that of its control group where it has one, since the one of
    /// the machine counts what happens in other containers too.
    pub fn of(process: Option<u32>) -> Self {
        let groups = process.map(|id| groups_of(&id.to_string())).unwrap_or_default();
        let mut files = counters(&groups);
        files.push("/proc/vmstat".into());
        Self::in_file(files.into_iter().find(|file| count(file).is_some()))
    }

    /// The count in a file; without one, none is ever seen.
    pub fn in_file(file: Option<PathBuf>) -> Self {
        let mut kills = Self { file, older: 0, newer: (Instant::now(), 0) };
        kills.begin();
        kills
    }

    /// Kills before now are of no matter.
    pub fn begin(&mut self) {
        let now = self.now();
        (self.older, self.newer) = (now, (Instant::now(), now));
    }

    /// To be called every few seconds while the process lives.
    pub fn look(&mut self) {
        if self.newer.0.elapsed() >= WINDOW {
            self.older = self.newer.1;
            self.newer = (Instant::now(), self.now());
        }
    }

    /// Whether the kernel has killed a process lately whose death is not explained yet. It is now.
    pub fn explain(&self) -> bool {
        let (Some(file), now) = (&self.file, self.now()) else { return false };
        let mut explained = EXPLAINED.lock().unwrap_or_else(PoisonError::into_inner);
        let before = explained.get(file).copied().unwrap_or_default().max(self.older);
        if now > before {
            explained.insert(file.clone(), before + 1);
        }
        now > before
    }

    fn now(&self) -> u64 {
        self.file.as_deref().and_then(count).unwrap_or_default()
    }
}

/// Files that may have the count of the group of a process with these lines in `/proc/ID/cgroup`, the
/// nearest first.
/// In a container the group's path is often that on the host, and what is mounted is the group itself.
fn counters(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            _ if controllers.split(',').any(|of| of == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.oom_control")
            }
            _ => continue,
        };
        let root = Path::new(root);
        files.extend([root.join(path.trim_start_matches('/')).join(name), root.join(name)]);
    }
    files
}

/// What `/proc` says of the control groups of a process; `self` is this one.
fn groups_of(process: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default()
}

/// How many processes the kernel has killed in the control group of this one because memory ran out;
/// `None` where no group has a count.
pub fn killed_for_memory() -> Option<u64> {
    counters(&groups_of("self")).iter().find_map(|file| count(file))
}

fn count(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Whether a line is what a program of this language says last when it is not given memory.
pub(crate) fn is_failed_allocation(line: &str) -> bool {
    let bytes = line.strip_prefix("memory allocation of ");
    let bytes = bytes.and_then(|rest| rest.strip_suffix(" bytes failed"));
    bytes.is_some_and(|bytes| bytes.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(folder: &Path) -> impl Fn(u64) -> KernelKills {
        let file = folder.join("memory.events");
        move |kills| {
            std::fs::write(&file, format!("low 0\noom 9\noom_kill {kills}\n")).expect("writable");
            KernelKills::in_file(Some(file.clone()))
        }
    }

    #[test]
    fn a_kill_explains_one_death_and_those_from_before_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let has = counter(folder.path());
        let (mut first, second) = (has(3), has(3));
        assert!(!first.explain() && !second.explain(), "nothing was killed");
        has(4);
        assert!(first.explain() && !second.explain(), "one was killed");
        has(6);
        first.begin();
        assert!(!first.explain(), "that was before");
        assert!(second.explain() && second.explain() && !second.explain(), "two were killed");
        assert!(!KernelKills::in_file(None).explain());
    }

    #[test]
    fn the_count_is_that_of_the_nearest_control_group() {
        let files = |groups: &str| -> Vec<String> {
            counters(groups).iter().map(|file| file.display().to_string()).collect()
        };
        let new = files("0::/system.slice/longreel.service\n");
        assert_eq!(new[0], "/sys/fs/cgroup/system.slice/longreel.service/memory.events");
        assert_eq!(new[1..], ["/sys/fs/cgroup/memory.events"]);
        let old = files("9:name=systemd:/\n4:memory,hugetlb:/docker/ab:c\n");
        assert_eq!(old[0], "/sys/fs/cgroup/memory/docker/ab:c/memory.oom_control");
        assert_eq!(old[1..], ["/sys/fs/cgroup/memory/memory.oom_control"]);
        assert!(files("what is this").is_empty());
    }

    #[test]
    fn only_a_failed_allocation_is_one() {
        assert!(is_failed_allocation("memory allocation of 117964800 bytes failed"));
        for other in [
            "thread 'main' panicked at memory allocation of 5 bytes failed",
            "memory allocation of  bytes failed",
            "memory allocation of many bytes failed",
            "out of memory",
        ] {
            assert!(!is_failed_allocation(other), "{other}");
        }
    }
}
