//! Our kernels, compiled for a card by NVRTC.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::api::{NvrtcApi, nvrtc_api};
use super::{Cache, Places};
use crate::gpu::{GpuError, SOURCES};

/// What is compiled for. The number is the compute capability without its dot: 90 is Hopper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The card's own code.
    Machine(u32),
    /// Code that the driver makes the card's own from: for cards newer than the compiler.
    Portable(u32),
}

impl Target {
    fn option(self) -> String {
        match self {
            Self::Machine(number) => format!("--gpu-architecture=sm_{number}"),
            Self::Portable(number) => format!("--gpu-architecture=compute_{number}"),
        }
    }
}

/// A module that was compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// A cubin, or PTX with a zero at its end.
    pub code: Vec<u8>,
    /// What the compiler warned of.
    pub log: String,
}

/// A module's code, or why there is none.
pub(super) type Code = Result<Vec<u8>, GpuError>;

/// NVRTC.
#[derive(Debug)]
pub struct Compiler {
    api: NvrtcApi,
    /// Its file.
    path: PathBuf,
    version: (u32, u32),
    architectures: Vec<u32>,
}

/// The text of a module of [`SOURCES`] as it is compiled: `common`, then the module itself, with lines
/// that are counted anew.
pub fn source_of(module: &str) -> Option<String> {
    let find = |name: &str| SOURCES.iter().find(|row| row.0 == name).map(|row| row.1);
    let source = find(module)?;
    Some(match find("common") {
        Some(common) if module != "common" => {
            format!("#line 1 \"common.cu\"\n{common}\n#line 1 \"{module}.cu\"\n{source}")
        }
        _ => source.to_owned(),
    })
}

impl Compiler {
    /// Loads it. `driver` is the major CUDA version of the driver that is to take what it makes.
    ///
    /// # Errors
    /// When it is nowhere, or of no use.
    pub fn load(places: &Places, driver: Option<u32>) -> Result<Self, GpuError> {
        let (api, library) = nvrtc_api(places, driver)?;
        let (mut major, mut minor, mut count): (c_int, c_int, c_int) = (0, 0, 0);
        // SAFETY: the library writes numbers, and as many of them as it said.
        let architectures = unsafe {
            let version = (api.nvrtcVersion)(&raw mut major, &raw mut minor);
            let counted = (api.nvrtcGetNumSupportedArchs)(&raw mut count);
            let mut numbers = vec![0; usize::try_from(count).unwrap_or(0)];
            match (version, counted) {
                (0, 0) if !numbers.is_empty() => {
                    (api.nvrtcGetSupportedArchs)(numbers.as_mut_ptr());
                }
                _ => {}
            }
            numbers
        };
        let mut architectures: Vec<u32> =
            architectures.into_iter().filter_map(|number| u32::try_from(number).ok()).collect();
        architectures.sort_unstable();
        let number = |n: c_int| u32::try_from(n).unwrap_or(0);
        let version = (number(major), number(minor));
        Ok(Self { api, path: library.path, version, architectures })
    }

    /// Its version: major, minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compute capabilities that it knows, lowest first.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// What to compile for a card of this compute capability.
    ///
    /// # Errors
    /// When the card is older than all that is known.
    pub fn target(&self, capability: u32) -> Result<Target, GpuError> {
        if self.architectures.contains(&capability) {
            return Ok(Target::Machine(capability));
        }
        let older = self.architectures.iter().rev().find(|&&known| known <= capability);
        older.map(|&known| Target::Portable(known)).ok_or_else(|| GpuError::Library {
            library: "NVRTC",
            reason: format!(
                "version {}.{} knows cards of compute capability {:?}, and this one has {capability}; longreel \
                 computes on cards of 80 and more (RTX 30, A100 and newer): use --device cpu",
                self.version.0, self.version.1, self.architectures
            ),
        })
    }

    /// A text's code from the cache, or compiled and put there.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn cached(
        &self,
        module: &'static str,
        source: &str,
        target: Target,
        cache: &Cache,
    ) -> Result<Vec<u8>, GpuError> {
        let key = self.key(source, target);
        if let Some(code) = cache.get(&key) {
            return Ok(code);
        }
        let compiled = self.compile(module, source, target)?;
        cache.put(&key, &compiled.code);
        Ok(compiled.code)
    }

    /// The name of a text's code in the cache.
    pub fn key(&self, source: &str, target: Target) -> String {
        let version = format!("NVRTC {}.{}", self.version.0, self.version.1);
        let options = options(target).join(" ");
        Cache::key(&[source.as_bytes(), version.as_bytes(), options.as_bytes()])
    }

    /// All modules of [`SOURCES`] by name, from the cache or compiled side by side: what takes one core a
    /// quarter of a minute.
    pub(super) fn all(&self, target: Target, cache: &Cache) -> HashMap<&'static str, Code> {
        let modules: Vec<&'static str> =
            SOURCES.iter().map(|row| row.0).filter(|&name| name != "common").collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(&module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
                let source = source_of(module).unwrap_or_default();
                done.push((module, self.cached(module, &source, target, cache)));
            }
            done
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Plain threads: one of the operations' pool could take up other work meanwhile, which may wait for
        // this.
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (1..cores.min(modules.len())).map(|_| scope.spawn(work)).collect();
            let mut all: HashMap<_, _> = work().into_iter().collect();
            for thread in threads {
                // A thread that panicked leaves modules out, which are told of when they are wanted.
                all.extend(thread.join().unwrap_or_default());
            }
            all
        })
    }

    /// Compiles a text.
    ///
    /// # Errors
    /// [`GpuError::Compile`] with what the compiler said.
    pub fn compile(
        &self,
        module: &'static str,
        source: &str,
        target: Target,
    ) -> Result<Compiled, GpuError> {
        let failed = |log: String| GpuError::Compile { module, log };
        let text = |text: &str| {
            CString::new(text).map_err(|_| failed("the source has a zero byte in it".into()))
        };
        let (source, name) = (text(source)?, text(&format!("{module}.cu"))?);
        let options = options(target).iter().map(|o| text(o)).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let (none, api) = (std::ptr::null(), &self.api);
        let mut program = std::ptr::null_mut();
        // SAFETY: texts end with a zero and live until the program is destroyed; buffers are as long as the
        // library said.
        unsafe {
            let (code, name) = (source.as_ptr(), name.as_ptr());
            match (api.nvrtcCreateProgram)(&raw mut program, code, name, 0, none, none) {
                0 => {}
                status => return Err(failed(format!("NVRTC status {status} at its start"))),
            }
            let count = options.len() as c_int;
            let status = (api.nvrtcCompileProgram)(program, count, options.as_ptr());
            let log = self
                .read(program, api.nvrtcGetProgramLogSize, api.nvrtcGetProgramLog)
                .unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
            let code = match (status, target) {
                (0, Target::Machine(_)) => {
                    self.read(program, api.nvrtcGetCUBINSize, api.nvrtcGetCUBIN)
                }
                (0, Target::Portable(_)) => {
                    self.read(program, api.nvrtcGetPTXSize, api.nvrtcGetPTX)
                }
                (status, _) => Err(status),
            };
            (api.nvrtcDestroyProgram)(&raw mut program);
            match code {
                Ok(code) => Ok(Compiled { code, log }),
                Err(status) => Err(failed(match log.is_empty() {
                    true => format!("NVRTC status {status}"),
                    false => log,
                })),
            }
        }
    }

    /// What the library gives out by a function for its size and one for itself.
    ///
    /// # Safety
    /// The program has to be one that is not yet destroyed.
    unsafe fn read(
        &self,
        program: cudarc::nvrtc::sys::nvrtcProgram,
        size_of: unsafe extern "C" fn(cudarc::nvrtc::sys::nvrtcProgram, *mut usize) -> u32,
        bytes_of: unsafe extern "C" fn(cudarc::nvrtc::sys::nvrtcProgram, *mut c_char) -> u32,
    ) -> Result<Vec<u8>, u32> {
        let mut size = 0;
        // SAFETY: the program is alive, and the buffer as long as the library said.
        unsafe {
            match size_of(program, &raw mut size) {
                0 => {}
                status => return Err(status),
            }
            let mut bytes = vec![0; size];
            match bytes_of(program, bytes.as_mut_ptr().cast()) {
                0 => Ok(bytes),
                status => Err(status),
            }
        }
    }
}

/// What the compiler is told.
fn options(target: Target) -> Vec<String> {
    vec![target.option(), "--std=c++17".into()]
}
