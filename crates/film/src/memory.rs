//! Memory that this process may take, and has taken.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory that this process may still take, in bytes: the smallest of the system's available memory, what
/// its control groups leave, and what its own limit does (`ulimit -v`). `None` where none of them tells.
pub fn available_memory_bytes() -> Option<u64> {
    let system = field("/proc/meminfo", "MemAvailable:").map(|kilobytes| kilobytes * 1024);
    let groups = groups(None).into_iter().filter_map(|group| group.left_bytes());
    groups.chain(system).chain(addresses_left()).min()
}

/// Bytes of addresses that this process may still take.
fn addresses_left() -> Option<u64> {
    let limit = address_limit(&fs::read_to_string("/proc/self/limits").ok()?)?;
    let taken = field("/proc/self/status", "VmSize:")? * 1024;
    Some(limit.saturating_sub(taken))
}

/// The soft limit of addresses in `/proc/ID/limits`, in bytes; `None` when there is none.
fn address_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The smallest limit of the control groups of this process, in bytes, where there is one.
pub fn memory_limit_bytes() -> Option<u64> {
    groups(None).into_iter().filter_map(|group| group.limit_bytes()).min()
}

/// The folders of the control groups that account for the memory of a process, this one for `None`, in
/// both of the kernel's interfaces: nearest first, those around them included. They need not exist.
pub fn memory_control_groups(process: Option<u32>) -> Vec<PathBuf> {
    groups(process).into_iter().map(|group| group.folder).collect()
}

/// Peak resident memory of this process in bytes, where the system tells.
pub fn peak_memory_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:").map(|kilobytes| kilobytes * 1024)
}

/// The number behind a word that begins a line.
fn field(file: impl AsRef<Path>, word: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(word))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A control group that accounts for memory.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    /// Names of limit and use, and of what of the use is given back when it is wanted.
    names: [&'static str; 4],
}

const NEW: [&str; 4] = ["memory.max", "memory.current", "inactive_file", "active_file"];
const OLD: [&str; 4] =
    ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"];
/// A limit beyond this is none: the old interface writes the largest multiple of a page.
const NO_LIMIT: u64 = 1 << 60;

/// The groups that a process is in, this one for `None`, nearest first, those around them included.
fn groups(process: Option<u32>) -> Vec<Group> {
    let process = process.map_or_else(|| "self".to_owned(), |id| id.to_string());
    let own = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    groups_of(&own, Path::new("/sys/fs/cgroup"))
}

/// Those of a process with these lines in `/proc/ID/cgroup`. In a container what is mounted is often the
/// group itself, whose path on the host leads nowhere.
fn groups_of(lines: &str, mounted: &Path) -> Vec<Group> {
    let mut found = Vec::new();
    for line in lines.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, names) = match controllers {
            "" => (mounted.to_owned(), NEW),
            _ if controllers.split(',').any(|of| of == "memory") => (mounted.join("memory"), OLD),
            _ => continue,
        };
        let own = root.join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|folder| folder.starts_with(&root));
        found.extend(around.map(|folder| Group { folder: folder.to_owned(), names }));
    }
    found
}

impl Group {
    fn number(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }

    fn limit_bytes(&self) -> Option<u64> {
        self.number(self.names[0]).filter(|&limit| limit < NO_LIMIT)
    }

    /// What may still be taken. Files that were read count as used, and make room when it is wanted.
    fn left_bytes(&self) -> Option<u64> {
        let (limit, used) = (self.limit_bytes()?, self.number(self.names[1])?);
        let files = self.names[2..].iter();
        let files: u64 =
            files.filter_map(|name| field(self.folder.join("memory.stat"), name)).sum();
        Some(limit.saturating_sub(used.saturating_sub(files)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("writable");
        }
    }

    /// What is left to a process in the groups of `lines`, and the limits.
    fn left(lines: &str, mounted: &Path) -> (Option<u64>, Option<u64>) {
        let groups = groups_of(lines, mounted);
        let left = groups.iter().filter_map(Group::left_bytes).min();
        (left, groups.iter().filter_map(Group::limit_bytes).min())
    }

    #[test]
    fn a_limit_of_addresses_is_read_where_there_is_one() {
        let limits = |space: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                     Max data size             7                    unlimited            bytes\n\
                     Max address space         {space}           unlimited            bytes\n"
            )
        };
        assert_eq!(address_limit(&limits("1073741824")), Some(1 << 30));
        assert_eq!(address_limit(&limits("unlimited ")), None);
        assert_eq!(address_limit(""), None);
    }

    #[test]
    fn the_narrowest_of_the_groups_around_counts_without_the_files_in_it() {
        let place = tempfile::tempdir().expect("a folder");
        let mounted = place.path();
        let stat = "anon 100\ninactive_file 300\nactive_file 50\n";
        write(
            &mounted.join("a"),
            &[("memory.max", "1000"), ("memory.current", "600"), ("memory.stat", stat)],
        );
        write(&mounted.join("a/b"), &[("memory.max", "max\n"), ("memory.current", "600")]);
        assert_eq!(left("0::/a/b\n", mounted), (Some(750), Some(1000)));
        let folders = groups_of("0::/a/b\n", mounted).into_iter().map(|group| group.folder);
        let nearest_first = [mounted.join("a/b"), mounted.join("a"), mounted.to_owned()];
        assert_eq!(folders.collect::<Vec<_>>(), nearest_first);
        assert_eq!(groups_of("what is this", mounted), []);
        assert_eq!(left("0::/elsewhere\n", mounted), (None, None));
    }

    #[test]
    fn the_old_interface_is_read_too_and_its_largest_number_is_no_limit() {
        let place = tempfile::tempdir().expect("a folder");
        let memory = place.path().join("memory");
        let none =
            [("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "7\n")];
        write(&memory, &none);
        let lines = "9:name=systemd:/\n4:memory,hugetlb:/docker/ab:c\n";
        assert_eq!(left(lines, place.path()), (None, None));
        let stat = "cache 40\ninactive_file 1\ntotal_inactive_file 30\ntotal_active_file 10\n";
        let group = [
            ("memory.limit_in_bytes", "100"),
            ("memory.usage_in_bytes", "60"),
            ("memory.stat", stat),
        ];
        write(&memory.join("docker/ab:c"), &group);
        assert_eq!(left(lines, place.path()), (Some(80), Some(100)));
        // In a container the group is what is mounted, and its name is another machine's.
        write(&memory, &group);
        assert_eq!(left("4:memory:/docker/of-the-host\n", place.path()), (Some(80), Some(100)));
    }
}
