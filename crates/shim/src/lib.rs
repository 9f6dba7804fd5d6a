//! For tests: a [`Driver`] that runs the GPU's kernels on the CPU.
//!
//! The very sources that NVRTC compiles for a card are compiled by the C++ compiler, with a small
//! header for what CUDA C has beyond C++ (`cpp/`). Threads of a block are fibers that meet at barriers
//! and warp collectives, so the kernels' index arithmetic, the Rust code that starts them, and the
//! layouts of tensor-core fragments are what a card would see. What is watched:
//! - fresh device memory, shared memory and copies under way hold NaN until they are written;
//! - writes beside an allocation or beside shared memory, threads that wait for each other, accesses
//!   that are not aligned, indices outside a fixed array, sums and products that 32 bits do not hold, arguments
//!   of the wrong type, and launches larger than a card or the kernel takes fail the launch with the place.

mod captures;
mod compile;
mod link;
mod memory;
mod product;
mod watched;

use std::ffi::CStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longreel_kernels::gpu::{
    Address, Arg, Captured, Driver, Gpu, GpuError, Launch, Link, LinkKind, MatMul, SOURCES, Stream,
};
use rayon::prelude::*;

use captures::{Captures, Step};
use compile::{Argument, Module};
pub use link::{StandInNccl, nccl_source};
use memory::Memory;
pub use watched::{Copies, Watch, Watched};

/// Why there is no shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// No compiler.
    #[error("no C++ compiler: none of {tried} runs; set CXX to one")]
    NoCompiler {
        /// What was tried.
        tried: String,
    },
}

/// Sources of kernels by name, as [`SOURCES`].
pub type Sources = &'static [(&'static str, &'static str)];

/// The device. Each call has done its work when it returns.
pub struct Shim {
    compiler: String,
    folder: PathBuf,
    sources: Sources,
    memory: Mutex<Memory>,
    /// The largest single allocation.
    largest_bytes: usize,
    products: bool,
    link: Option<LinkKind>,
    /// Blocks that are run at either end of a launch, where not all are.
    ends: Option<u64>,
    launches: AtomicU64,
    captures: Mutex<Captures>,
}

impl fmt::Debug for Shim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shim").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shim {
    /// A device with 8 GiB whose compiled kernels are kept in `folder` (a test's is
    /// `env!("CARGO_TARGET_TMPDIR")`).
    ///
    /// # Errors
    /// There is no C++ compiler.
    pub fn new(folder: &Path) -> Result<Self, ShimError> {
        Ok(Self {
            compiler: compile::compiler()?,
            folder: folder.to_path_buf(),
            sources: SOURCES,
            memory: Mutex::new(Memory::new(8 << 30)),
            largest_bytes: usize::MAX,
            products: false,
            link: None,
            ends: None,
            launches: AtomicU64::new(0),
            captures: Mutex::default(),
        })
    }

    /// As [`new`](Self::new), but without a compiler it says so on the error output and there is none:
    /// the test that asked ends there.
    pub fn or_skip(folder: &Path) -> Option<Self> {
        Self::new(folder).map_err(|error| eprintln!("skipped: {error}")).ok()
    }

    /// With other kernels than ours.
    #[must_use]
    pub fn with_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// With so many bytes of memory.
    #[must_use]
    pub fn with_memory(self, bytes: usize) -> Self {
        Self { memory: Mutex::new(Memory::new(bytes)), ..self }
    }

    /// Refuses the slabs that an arena would cut up, so that arrays lie apart, each between guards.
    #[must_use]
    pub fn with_arrays_apart(self) -> Self {
        Self { largest_bytes: (64 << 20) - 1, ..self }
    }

    /// Has a library for matrix products, as a card with cuBLASLt.
    #[must_use]
    pub fn with_products(self) -> Self {
        Self { products: true, ..self }
    }

    /// Reaches other shims in one way, as cards reach each other. Whoever wants NCCL's has its [stand-in](StandInNccl)
    /// among the libraries of this process.
    #[must_use]
    pub fn with_link(self, kind: LinkKind) -> Self {
        Self { link: Some(kind), ..self }
    }

    /// For arrays of real lengths: with so many bytes of memory, which holds zeros and takes none of the host's
    /// until it is touched, and with only so many blocks at the beginning and the end of each launch. Those at
    /// the end have the largest offsets.
    #[must_use]
    pub fn with_ends_of_launches(self, bytes: usize, blocks: u64) -> Self {
        Self { memory: Mutex::new(Memory::untouched(bytes)), ends: Some(blocks), ..self }
    }

    fn module(&self, name: &'static str) -> Result<&'static Module, GpuError> {
        compile::module(&self.compiler, &self.folder, self.sources, name)
    }

    /// Fails when guards beside memory were written to.
    fn check_guards(&self, after: &str) -> Result<(), GpuError> {
        let damage = lock(&self.memory).damage();
        damage.map_or(Ok(()), |reason| {
            Err(GpuError::Call { call: "launch", reason: format!("{after}: {reason}") })
        })
    }
}

fn refused(call: &'static str, reason: impl Into<String>) -> GpuError {
    GpuError::Call { call, reason: reason.into() }
}

impl Driver for Shim {
    fn name(&self) -> String {
        "the shim".into()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        let mut memory = lock(&self.memory);
        let (free, total) = memory.free_and_total();
        let refused = GpuError::Memory { asked: bytes, free, total };
        if bytes > free || bytes > self.largest_bytes {
            return Err(refused);
        }
        memory.alloc(bytes).ok_or(refused)
    }

    fn free(&self, address: Address) {
        lock(&self.memory).free(address);
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok(lock(&self.memory).free_and_total())
    }

    fn upload(&self, _: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        lock(&self.captures).refuse("upload")?;
        let memory = lock(&self.memory);
        let to = memory.range("upload", to, bytes.len())?;
        // SAFETY: the range lies in an allocation, which the lock keeps.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), GpuError> {
        lock(&self.captures).refuse("download")?;
        let memory = lock(&self.memory);
        let from = memory.range("download", from, bytes.len())?;
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        if lock(&self.captures).write(|| Step::Copy { to, from, bytes }) {
            return Ok(());
        }
        let memory = lock(&self.memory);
        let (to, from) = (memory.range("copy", to, bytes)?, memory.range("copy", from, bytes)?);
        if to.addr().abs_diff(from.addr()) < bytes {
            return Err(refused("copy", "the two ranges overlap"));
        }
        // SAFETY: both ranges lie in allocations and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
        Ok(())
    }

    fn zero(&self, to: Address, bytes: usize) -> Result<(), GpuError> {
        if lock(&self.captures).write(|| Step::Zero { to, bytes }) {
            return Ok(());
        }
        let memory = lock(&self.memory);
        let to = memory.range("zero", to, bytes)?;
        // SAFETY: as in `upload`.
        unsafe { std::ptr::write_bytes(to, 0, bytes) };
        Ok(())
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        if lock(&self.captures).write(|| Step::Launch(*launch, args.to_vec())) {
            return Ok(());
        }
        let module = self.module(launch.module)?;
        let kernel = module.kernel(launch.kernel).ok_or_else(|| {
            refused("launch", format!("{} has no kernel {}", launch.module, launch.kernel))
        })?;
        let given: String = args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(_) => 'p',
                Arg::Int(_) => 'i',
                Arg::Long(_) => 'l',
                Arg::Float(_) => 'f',
            })
            .collect();
        // SAFETY: the table's strings are constants of a module that is never unloaded.
        let wanted = unsafe { CStr::from_ptr(kernel.signature) }.to_string_lossy();
        let name = launch.kernel;
        if given != wanted {
            return Err(refused("launch", format!("{name} takes {wanted}, not {given}")));
        }
        let most_threads = kernel.most_threads();
        if launch.threads == 0 || launch.threads > most_threads || launch.grid.contains(&0) {
            return Err(refused("launch", format!("{name} cannot be started as {launch:?}")));
        }
        // What a block may have on the smallest of the cards: sm_86, sm_89 and sm_120.
        let [x, y, z] = launch.grid;
        if launch.shared_bytes > 99 << 10 || x > i32::MAX as u32 || y > 65_535 || z > 65_535 {
            return Err(refused("launch", format!("{name} is too large for a card: {launch:?}")));
        }
        for arg in args {
            if let Arg::Pointer(address) = *arg
                && address != Address(0)
            {
                lock(&self.memory).range(launch.kernel, address, 1)?;
            }
        }
        let arguments: Vec<Argument> = args.iter().map(Argument::from).collect();
        let backwards = self.launches.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        let failure = Mutex::new(None);
        let failed = AtomicBool::new(false);
        let run = |first: u64, last: u64| {
            if failed.load(Ordering::Relaxed) {
                return;
            }
            if let Err(reason) = module.run(kernel, &arguments, launch, first..last, backwards) {
                failed.store(true, Ordering::Relaxed);
                lock(&failure).get_or_insert(reason);
            }
        };
        let parts = match self.ends {
            Some(ends) if blocks > 2 * ends => [0..ends, blocks - ends..blocks],
            _ => [0..blocks, blocks..blocks],
        };
        for part in parts {
            let blocks = part.end - part.start;
            let pieces = blocks.min(16);
            if blocks * u64::from(launch.threads) <= 1024 {
                run(part.start, part.end);
                continue;
            }
            (0..pieces).into_par_iter().for_each(|i| {
                run(part.start + blocks * i / pieces, part.start + blocks * (i + 1) / pieces);
            });
        }
        let reason = lock(&failure).take();
        reason.map_or(Ok(()), |reason| Err(refused("launch", reason)))?;
        self.check_guards(name)
    }

    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError> {
        if !self.products {
            return Ok(false);
        }
        if lock(&self.captures).write(|| Step::MatMul(*what)) {
            return Ok(true);
        }
        product::run(&lock(&self.memory), what)?;
        self.check_guards("matmul")?;
        Ok(true)
    }

    fn follow(&self, _: Stream) -> Result<(), GpuError> {
        lock(&self.captures).refuse("follow")
    }

    fn link(&self, kind: LinkKind, group: &[Arc<Gpu>]) -> Result<Box<dyn Link>, GpuError> {
        match self.link {
            Some(own) if own == kind => link::of(kind, group),
            _ => Err(GpuError::Library {
                library: kind.library(),
                reason: "this shim has another way".into(),
            }),
        }
    }

    fn wait(&self) -> Result<(), GpuError> {
        lock(&self.captures).refuse("wait")
    }

    fn begin_capture(&self) -> Result<(), GpuError> {
        lock(&self.captures).begin()
    }

    fn end_capture(&self) -> Result<Captured, GpuError> {
        lock(&self.captures).end()
    }

    fn replay(&self, what: Captured) -> Result<(), GpuError> {
        let steps = lock(&self.captures).steps(what)?;
        steps.iter().try_for_each(|step| match step {
            Step::Copy { to, from, bytes } => self.copy(*to, *from, *bytes),
            Step::Zero { to, bytes } => self.zero(*to, *bytes),
            Step::Launch(launch, args) => self.launch(launch, args),
            Step::MatMul(what) => self.matmul(what).map(|_| ()),
        })
    }

    fn discard(&self, what: Captured) {
        lock(&self.captures).discard(what);
    }
}
