//! Where the libraries of NVIDIA cards may lie besides the folders that the system's linker knows.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where toolkits, containers, Windows' subsystem for Linux and NixOS have them, below the root.
const SYSTEM: [&str; 8] = [
    "usr/local/cuda/lib64",
    "usr/local/cuda*/lib64",
    "usr/local/cuda*/targets/*/lib",
    "opt/cuda/lib64",
    "opt/cuda/targets/*/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
    "run/opengl-driver/lib",
];
/// Where NVIDIA's packages for Python have them, below a place where Python's packages are kept.
const WHEELS: [&str; 4] = [
    "lib/python3*/site-packages/nvidia/*/lib",
    "lib/python3*/dist-packages/nvidia/*/lib",
    "lib64/python3*/site-packages/nvidia/*/lib",
    "Lib/site-packages/nvidia/*/bin",
];

/// Folders that are looked into besides where the system's linker looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    folders: Vec<PathBuf>,
    /// So many of them come before the linker's.
    wanted: usize,
}

impl Places {
    /// Those of this machine and this process's environment.
    pub fn of_this_machine() -> Self {
        Self::of(|name| std::env::var_os(name), Path::new("/"))
    }

    /// Those below `root`, and those that the environment names: `LD_LIBRARY_PATH`, `VIRTUAL_ENV`, `CONDA_PREFIX`,
    /// `HOME` (Python's packages), `CUDA_HOME`, `CUDA_PATH` (toolkits). What is of an environment that was chosen for
    /// this program comes before what the system has for all: of a library that the linker finds and that is too old, no
    /// other version can be loaded into the process.
    pub fn of(variable: impl Fn(&str) -> Option<OsString>, root: &Path) -> Self {
        let named = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut places = Self::default();
        for folder in std::env::split_paths(&variable("LD_LIBRARY_PATH").unwrap_or_default()) {
            // Not that of the process, as the linker would have it.
            if folder.is_absolute() {
                places.add(&folder, "");
            }
        }
        for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(named) {
            places.add_python(&environment);
            places.add(&environment, "lib");
            places.add(&environment, "targets/*/lib");
        }
        places.wanted = places.folders.len();
        for toolkit in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(named) {
            for below in ["lib64", "lib", "targets/*/lib", "bin"] {
                places.add(&toolkit, below);
            }
        }
        for below in SYSTEM {
            places.add(root, below);
        }
        if let Some(home) = named("HOME") {
            places.add_python(&home.join(".local"));
        }
        for prefix in ["usr/local", "usr", "opt/conda", "opt/venv"] {
            places.add_python(&root.join(prefix));
        }
        places
    }

    /// Those of Python's packages below `prefix`, which is a virtual environment's folder for one.
    pub fn add_python(&mut self, prefix: &Path) {
        for below in WHEELS {
            self.add(prefix, below);
        }
    }

    /// The folders, in the order in which they are looked into.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Those of them that are looked into before the system's linker is asked, and those after that.
    pub fn around_the_linker(&self) -> (&[PathBuf], &[PathBuf]) {
        self.folders.split_at(self.wanted)
    }

    /// Folders by a pattern: `*` in a name stands for anything; the highest name comes first, which is
    /// the newest of several versions.
    fn add(&mut self, start: &Path, pattern: &str) {
        let mut found = vec![start.to_path_buf()];
        for part in pattern.split('/') {
            found = match part.split_once('*') {
                None if part.is_empty() => found,
                None => found.into_iter().map(|folder| folder.join(part)).collect(),
                Some((head, tail)) => {
                    found.iter().flat_map(|folder| matching(folder, head, tail)).collect()
                }
            };
        }
        for folder in found.into_iter().filter(|folder| folder.is_dir()) {
            if !self.folders.contains(&folder) {
                self.folders.push(folder);
            }
        }
    }
}

/// What of `folder` begins with `head` and ends with `tail`, by the numbers in the names, highest first.
fn matching(folder: &Path, head: &str, tail: &str) -> Vec<PathBuf> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        })
        .collect();
    names.sort_by_cached_key(|name| std::cmp::Reverse((numbers(name), name.clone())));
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// The numbers in a name: `cuda-12.10` is newer than `cuda-12.9`.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_comes_before_the_linkers_and_toolkits_wheels_and_wsl_after_it_newest_first()
    {
        let root = std::env::temp_dir().join(format!("longreel-places-{}", std::process::id()));
        let folders = [
            "usr/local/cuda-12.9/lib64",
            "usr/local/cuda-12.10/lib64",
            "usr/lib/wsl/lib",
            "env/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib",
            "home/.local/lib/python3.9/site-packages/nvidia/cu13/lib",
            "named/lib64",
            "libraries",
        ];
        for folder in folders {
            std::fs::create_dir_all(root.join(folder)).expect("a folder of ours");
        }
        let variable = |name: &str| {
            let value = match name {
                "CUDA_HOME" => root.join("named"),
                "VIRTUAL_ENV" => root.join("env"),
                "HOME" => root.join("home"),
                "CONDA_PREFIX" => PathBuf::new(),
                "LD_LIBRARY_PATH" => {
                    let paths = [root.join("libraries"), PathBuf::new(), root.join("nowhere")];
                    return Some(std::env::join_paths(paths).expect("no colon"));
                }
                _ => return None,
            };
            Some(value.into_os_string())
        };
        let places = Places::of(variable, &root);
        let found: Vec<String> = places
            .folders()
            .iter()
            .map(|folder| folder.strip_prefix(&root).expect("below it").display().to_string())
            .collect();
        std::fs::remove_dir_all(&root).expect("ours");
        let wanted = [folders[6], folders[3], "env/lib"];
        let others = [folders[5], folders[1], folders[0], folders[2], folders[4]];
        assert_eq!(found, [&wanted[..], &others].concat());
        assert_eq!(places.around_the_linker().0.len(), wanted.len());
    }
}
