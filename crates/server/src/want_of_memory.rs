//! Whether a process died because memory ran out: what the kernel has counted, and what the process
//! said. A process that was killed for another reason is not taken for one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use longreel_film::memory_control_groups;

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
    /// The count that concerns a process, or one that this process has started and that has ended: that of
    /// its control group where it has one, since the one of the machine counts what happens in other
    /// containers too.
    pub fn of(process: Option<u32>) -> Self {
        let machine = PathBuf::from("/proc/vmstat");
        let file = counter(&memory_control_groups(process));
        Self::in_file(file.or_else(|| count(&machine).map(|_| machine)))
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

/// The count of the first of these control groups that has one.
fn counter(groups: &[PathBuf]) -> Option<PathBuf> {
    let names = ["memory.events", "memory.oom_control"];
    let mut files = groups.iter().flat_map(|group| names.map(|name| group.join(name)));
    files.find(|file| count(file).is_some())
}

/// How many processes the kernel has killed in the control group of this one because memory ran out;
/// `None` where no group has a count.
pub fn killed_for_memory() -> Option<u64> {
    count(&counter(&memory_control_groups(None))?)
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

    fn counting(folder: &Path) -> impl Fn(u64) -> KernelKills {
        let file = folder.join("memory.events");
        move |kills| {
            std::fs::write(&file, format!("low 0\noom 9\noom_kill {kills}\n")).expect("writable");
            KernelKills::in_file(Some(file.clone()))
        }
    }

    #[test]
    fn a_kill_explains_one_death_and_those_from_before_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let has = counting(folder.path());
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
        let place = tempfile::tempdir().expect("a folder");
        let [own, around, other] = ["a/b", "a", "c"].map(|name| place.path().join(name));
        let groups = [own.clone(), around.clone(), place.path().to_owned()];
        assert_eq!(counter(&groups), None);
        std::fs::create_dir_all(&own).expect("writable");
        let write = |file: &Path| std::fs::write(file, "oom_kill 3\n").expect("writable");
        write(&around.join("memory.events"));
        assert_eq!(counter(&groups), Some(around.join("memory.events")));
        // As the old interface has it.
        write(&own.join("memory.oom_control"));
        assert_eq!(counter(&groups), Some(own.join("memory.oom_control")));
        assert_eq!(counter(&[other]), None);
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
