//! Loading a library: which names, from where, and why not.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::Library;

use super::Places;
use crate::gpu::GpuError;

/// What is loaded at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The driver itself.
    Driver,
    /// The driver's management library, which `nvidia-smi` uses.
    Management,
    /// The compiler of our kernels.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Attention and convolution.
    Cudnn,
    /// Several cards at one model.
    Nccl,
}

impl Kind {
    /// The name that NVIDIA gave it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "the NVIDIA driver",
            Self::Management => "NVML",
            Self::Nvrtc => "NVRTC",
            Self::CublasLt => "cuBLASLt",
            Self::Cudnn => "cuDNN",
            Self::Nccl => "NCCL",
        }
    }

    /// NVIDIA's package for Python that has it; the driver comes in none.
    pub fn package(self) -> Option<&'static str> {
        match self {
            Self::Driver | Self::Management => None,
            Self::Nvrtc => Some("nvidia-cuda-nvrtc-cu12"),
            Self::CublasLt => Some("nvidia-cublas-cu12"),
            Self::Cudnn => Some("nvidia-cudnn-cu12"),
            Self::Nccl => Some("nvidia-nccl-cu12"),
        }
    }

    /// Names of its file, the newest first, with the CUDA that it needs of the driver at least.
    pub fn files(self) -> &'static [(&'static str, u32)] {
        if cfg!(windows) {
            return match self {
                Self::Driver => &[("nvcuda.dll", 0)],
                Self::Management => &[("nvml.dll", 0)],
                Self::Nvrtc => &[("nvrtc64_130_0.dll", 13), ("nvrtc64_120_0.dll", 12)],
                Self::CublasLt => &[("cublasLt64_13.dll", 13), ("cublasLt64_12.dll", 12)],
                Self::Cudnn => &[("cudnn64_9.dll", 0)],
                Self::Nccl => &[("nccl.dll", 0)],
            };
        }
        match self {
            Self::Driver => &[("libcuda.so.1", 0)],
            Self::Management => &[("libnvidia-ml.so.1", 0)],
            Self::Nvrtc => &[("libnvrtc.so.13", 13), ("libnvrtc.so.12", 12)],
            Self::CublasLt => &[("libcublasLt.so.13", 13), ("libcublasLt.so.12", 12)],
            Self::Cudnn => &[("libcudnn.so.9", 0)],
            Self::Nccl => &[("libnccl.so.2", 0)],
        }
    }

    /// The part of it that its functions are in. What they are called by loads it at the first call, and ends the
    /// process where it is not there.
    fn part(self) -> Option<&'static str> {
        match self {
            Self::Cudnn if cfg!(windows) => Some("cudnn_graph64_9.dll"),
            Self::Cudnn => Some("libcudnn_graph.so.9"),
            _ => None,
        }
    }
}

/// A file that is there and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub reason: String,
}

/// A library that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// What was looked for.
    pub kind: Kind,
    /// Folders that were looked into, besides those of the system's linker.
    pub folders: Vec<PathBuf>,
    /// What was found and is of no use.
    pub refused: Vec<Refusal>,
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.kind.files().iter().map(|&(file, _)| file).collect();
        let names = names.join(" or ");
        if self.refused.is_empty() {
            write!(f, "{names} is not in LD_LIBRARY_PATH, nor where the system's linker looks")?;
            match self.folders.len() {
                0 => {}
                1 => write!(f, ", nor in {}", self.folders[0].display())?,
                n => write!(f, ", nor in {n} folders of toolkits and Python's packages")?,
            }
        }
        for (n, Refusal { file, reason }) in self.refused.iter().enumerate() {
            let comma = if n > 0 { "; " } else { "" };
            write!(f, "{comma}{}: {reason}", file.display())?;
        }
        match self.kind.package() {
            Some(package) => write!(
                f,
                "; it comes with the CUDA toolkit, with the image longreel:gpu, and by \
                 `pip install {package}`"
            ),
            None => write!(
                f,
                "; it comes with NVIDIA's driver, and into a container by the NVIDIA container toolkit \
                 and --gpus all"
            ),
        }
    }
}

impl From<Absent> for GpuError {
    fn from(absent: Absent) -> Self {
        let (library, reason) = (absent.kind.name(), absent.to_string());
        match absent.refused.is_empty() {
            true => Self::Absent { library, reason },
            false => Self::Library { library, reason },
        }
    }
}

/// A library that stays until the process ends: pointers to its functions are kept.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub kind: Kind,
    /// The file, as far as the system tells.
    pub path: PathBuf,
    library: &'static Library,
}

impl Loaded {
    /// The first that can be used: from each folder that was chosen, by name as the system's linker finds it, then
    /// from each other folder; the newest name first. What comes with the driver is as the linker has it. `driver` is
    /// the CUDA version of the driver: what is of a higher one is refused.
    /// `probed` has to be a function that every version of it has.
    pub fn find(
        kind: Kind,
        places: &Places,
        driver: Option<u32>,
        probed: &str,
    ) -> Result<Self, Absent> {
        let mut refused = Vec::new();
        'names: for &(name, needed) in kind.files() {
            let (before, behind) = match kind.package() {
                Some(_) => places.around_the_linker(),
                None => (&[][..], places.folders()),
            };
            let in_folders = |folders: &[PathBuf]| -> Vec<PathBuf> {
                let files = folders.iter().map(|folder| folder.join(name));
                files.filter(|file| file.exists()).collect()
            };
            let by_name = PathBuf::from(name);
            let files = in_folders(before).into_iter().chain([by_name]).chain(in_folders(behind));
            if let Some(driver) = driver.filter(|&driver| driver < needed) {
                // Loading is no way to learn whether one is there that would not be used.
                refused.extend(
                    files
                        .filter(|file| file.exists())
                        .map(|file| Refusal { file, reason: too_new(needed, driver) }),
                );
                continue;
            }
            for file in files {
                match Self::load(kind, &file, probed) {
                    Ok(loaded) => match loaded.is_too_new(driver) {
                        None => return Ok(loaded),
                        Some(reason) => {
                            refused.push(Refusal { file: loaded.path, reason });
                            // Its parts are in the process: those of another one would be mixed with them.
                            break 'names;
                        }
                    },
                    Err(reason) if file.is_relative() && is_unknown(name, &reason) => {}
                    Err(reason) => {
                        // The linker begins with the name that comes before this.
                        let start = format!("{}: ", file.display());
                        let reason = reason.strip_prefix(&start).map_or(&*reason, |rest| rest);
                        refused.push(Refusal { reason: reason.to_owned(), file });
                    }
                }
            }
        }
        Err(Absent { kind, folders: places.folders().to_vec(), refused })
    }

    fn load(kind: Kind, file: &Path, probed: &str) -> Result<Self, String> {
        let library = open(file)?;
        let mut loaded = Self { kind, path: file.to_path_buf(), library };
        // SAFETY: the address is taken and nothing is called.
        let address = unsafe { loaded.library.get::<*const ()>(probed.as_bytes()) };
        let address = *address.map_err(|_| format!("it has no function {probed}"))?;
        if let Some(path) = file_of(address as usize) {
            loaded.path = path;
        }
        if let Some(part) = kind.part() {
            // Beside it, or where the linker looks.
            let beside = loaded.path.with_file_name(part);
            let file = if beside.exists() { beside } else { part.into() };
            open(&file).map_err(|reason| format!("its part cannot be loaded: {reason}"))?;
        }
        Ok(loaded)
    }

    /// Why a driver of that CUDA cannot use it, where the name does not say what it was built for.
    fn is_too_new(&self, driver: Option<u32>) -> Option<String> {
        let (cuda, driver) = (self.cuda()?, driver?);
        (cuda > driver).then(|| too_new(cuda, driver))
    }

    /// The CUDA that cuDNN was built for, such as 12, as it says itself.
    pub fn cuda(&self) -> Option<u32> {
        if self.kind != Kind::Cudnn {
            return None;
        }
        // SAFETY: as in cudnn_version.h.
        let runtime = unsafe {
            self.function::<unsafe extern "C" fn() -> usize>("cudnnGetCudartVersion").ok()?()
        };
        // 12090 for 12.9.
        u32::try_from(runtime / 1000).ok()
    }

    /// A function of it.
    ///
    /// # Safety
    /// `F` has to be the type of a function pointer, and that of the function.
    pub unsafe fn function<F: Copy>(&self, name: &str) -> Result<F, GpuError> {
        const { assert!(size_of::<F>() == size_of::<*const ()>()) };
        let address = self.address(name)?;
        // SAFETY: `F` is a pointer to this function, as the caller has to see to.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }

    /// Where a function of it is. Not generic: there are many types of functions.
    fn address(&self, name: &str) -> Result<*const (), GpuError> {
        // SAFETY: the address is taken and nothing is called.
        match unsafe { self.library.get::<*const ()>(name.as_bytes()) } {
            Ok(address) => Ok(*address),
            Err(_) => Err(GpuError::Library {
                library: self.kind.name(),
                reason: format!(
                    "{} has no function {name}: it is too old; update it",
                    self.path.display()
                ),
            }),
        }
    }
}

fn too_new(cuda: u32, driver: u32) -> String {
    format!(
        "of CUDA {cuda}, and the driver is of CUDA {driver}: update the driver, or install the version for CUDA \
         {driver}"
    )
}

/// Whether the linker finds a library of that CUDA by its name alone, as other libraries ask for it: because it is
/// in the process already, or lies where the linker looks; the linker's reason where it does not.
pub(super) fn is_within_reach(kind: Kind, cuda: u32, probed: &str) -> Result<(), String> {
    let of_this = kind.files().iter().find(|&&(_, needed)| needed == cuda);
    let &(name, _) = of_this.ok_or_else(|| format!("none of CUDA {cuda} is known"))?;
    Loaded::load(kind, Path::new(name), probed).map(|_| ())
}

/// Loads a file for good; the linker's reason where it cannot be.
fn open(file: &Path) -> Result<&'static Library, String> {
    // SAFETY: NVIDIA's libraries do nothing harmful when they are loaded.
    match unsafe { Library::new(file) } {
        Ok(library) => Ok(Box::leak(Box::new(library))),
        // What the linker says is behind the error itself.
        Err(error) => Err(error.source().map_or_else(|| error.to_string(), ToString::to_string)),
    }
}

/// Whether the linker says that it has nothing of this name; it may also have a file that is of no use, or
/// miss one that this one needs.
fn is_unknown(name: &str, reason: &str) -> bool {
    let is_missing = reason.contains("No such file");
    !cfg!(target_os = "linux") || (is_missing && reason.contains(name))
}

/// The file that is mapped at an address, where the system tells.
fn file_of(address: usize) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (start..end).contains(&address).then(|| rest.find('/').map(|at| rest[at..].into()))?
    })
}
