//! Kernels to machine code, once for each source.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_uint, c_ulonglong};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use libloading::Library;
use longreel_kernels::gpu::{Arg, GpuError, Launch};

use crate::{ShimError, Sources, lock};

/// The headers, in the order in which they build on each other, before and after the kernels.
const BEFORE: [(&str, &str); 3] = [
    ("fibers.h", include_str!("../cpp/fibers.h")),
    ("language.h", include_str!("../cpp/language.h")),
    ("tensor_cores.h", include_str!("../cpp/tensor_cores.h")),
];
const AFTER: (&str, &str) = ("launch.h", include_str!("../cpp/launch.h"));

/// The checks need no library: `launch.h` has what they call. The arithmetic is not contracted, so
/// that a kernel that must not either is seen to do the same as on a card.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fsanitize=null,alignment,bounds,integer-divide-by-zero,shift,signed-integer-overflow",
    "-fno-sanitize-recover=all",
    "-w",
];

/// `shim::Argument`.
#[repr(C)]
pub(crate) struct Argument {
    kind: i64,
    value: u64,
}

impl From<&Arg> for Argument {
    fn from(arg: &Arg) -> Self {
        let (kind, value) = match *arg {
            Arg::Pointer(address) => (0, address.0),
            Arg::Int(v) => (1, u64::from(v.cast_unsigned())),
            Arg::Long(v) => (2, v.cast_unsigned()),
            Arg::Float(v) => (3, u64::from(v.to_bits())),
        };
        Self { kind, value }
    }
}

/// `shim::Kernel`.
#[repr(C)]
pub(crate) struct Kernel {
    name: *const c_char,
    pub(crate) signature: *const c_char,
    invoke: *const (),
    /// Of a block, where the kernel says so; else 0.
    most_threads: c_uint,
}

impl Kernel {
    /// Threads that a block may have: what the kernel was compiled for, else what any card takes.
    pub(crate) fn most_threads(&self) -> u32 {
        match self.most_threads {
            0 => 1024,
            bound => bound,
        }
    }
}

// SAFETY: a kernel and what it points to are constant.
unsafe impl Sync for Kernel {}

type Run = unsafe extern "C" fn(
    *const Kernel,
    *const Argument,
    *const c_uint,
    c_uint,
    usize,
    c_ulonglong,
    c_ulonglong,
    bool,
    *mut c_char,
    usize,
) -> bool;

/// A compiled source.
pub(crate) struct Module {
    run: Run,
    kernels: HashMap<String, &'static Kernel>,
}

impl Module {
    pub(crate) fn kernel(&self, name: &str) -> Option<&'static Kernel> {
        self.kernels.get(name).copied()
    }

    /// Runs some blocks of a launch on this thread. `Err` says what the kernel did wrong.
    pub(crate) fn run(
        &self,
        kernel: &Kernel,
        arguments: &[Argument],
        launch: &Launch,
        blocks: Range<u64>,
        backwards: bool,
    ) -> Result<(), String> {
        let mut error = [0u8; 512];
        // SAFETY: the arguments are of the kernel's types, as the driver has checked; what its
        // pointers reach is the test's own, as with any kernel.
        let done = unsafe {
            (self.run)(
                kernel,
                arguments.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.shared_bytes as usize,
                blocks.start,
                blocks.end,
                backwards,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if done {
            return Ok(());
        }
        Err(CStr::from_bytes_until_nul(&error).map_or_else(
            |_| "the message is too long".into(),
            |message| message.to_string_lossy().into_owned(),
        ))
    }
}

/// The first compiler that runs.
pub(crate) fn compiler() -> Result<String, ShimError> {
    let named = std::env::var("CXX").ok();
    let tried: Vec<String> =
        named.into_iter().chain(["c++", "g++", "clang++"].map(String::from)).collect();
    let runs = |name: &&String| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let found = tried.iter().find(runs).cloned();
    found.ok_or_else(|| ShimError::NoCompiler { tried: tried.join(", ") })
}

/// The module of this name, compiled when it has not been before; it is never unloaded.
pub(crate) fn module(
    compiler: &str,
    folder: &Path,
    sources: Sources,
    name: &'static str,
) -> Result<&'static Module, GpuError> {
    /// By the address of the sources and the name. Each is compiled once, several side by side.
    type Loaded = HashMap<(usize, &'static str), &'static OnceLock<Result<Module, String>>>;
    static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);
    let key = (sources.as_ptr().addr(), name);
    let place: &'static OnceLock<_> = lock(&LOADED)
        .get_or_insert_default()
        .entry(key)
        .or_insert_with(|| Box::leak(Box::default()));
    let module = place.get_or_init(|| load(&build(compiler, folder, sources, name)?));
    module.as_ref().map_err(|log| GpuError::Compile { module: name, log: log.clone() })
}

fn load(path: &Path) -> Result<Module, String> {
    let text = |error: libloading::Error| error.to_string();
    // SAFETY: the library is what `build` made; loading it runs no code of its own. The symbols have
    // the types that `launch.h` gives them.
    unsafe {
        let library = Box::leak(Box::new(Library::new(path).map_err(text)?));
        let run = *library.get::<Run>(b"shim_run").map_err(text)?;
        let table =
            library.get::<unsafe extern "C" fn() -> *const Kernel>(b"shim_table").map_err(text)?;
        let mut kernels = HashMap::new();
        let mut at = table();
        while !(*at).name.is_null() {
            let kernel = &*at;
            kernels.insert(CStr::from_ptr(kernel.name).to_string_lossy().into_owned(), kernel);
            at = at.add(1);
        }
        Ok(Module { run, kernels })
    }
}

/// Compiles a source unless its library is in the folder already.
fn build(compiler: &str, folder: &Path, sources: Sources, name: &str) -> Result<PathBuf, String> {
    let source = |name| sources.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let kernels = source(name).ok_or("there is no such source")?;
    let common = source("common").ok_or("there is no common source")?;
    let own = (format!("{name}.cu"), kernels);
    let parts = BEFORE
        .iter()
        .copied()
        .chain([("common.cu", common), (own.0.as_str(), own.1)])
        .chain([AFTER]);
    let mut text = String::new();
    for (file, part) in parts {
        text.push_str(&format!("#line 1 \"{file}\"\n{part}\n"));
    }
    let mut hasher = DefaultHasher::new();
    (compiler, FLAGS, &text).hash(&mut hasher);
    let stem = format!("{name}-{:016x}", hasher.finish());
    let folder = folder.join("longreel-shim");
    let library = folder.join(format!("{stem}.so"));
    if library.exists() {
        return Ok(library);
    }
    // Others may be at the same work, so everything is made under a name of its own.
    let own = format!("{stem}-{}", std::process::id());
    let file = |ending: &str| folder.join(format!("{own}.{ending}"));
    let (cpp, object, fresh) = (file("cpp"), file("o"), file("so.new"));
    let io = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(io)?;
    std::fs::write(&cpp, &text).map_err(io)?;
    let names =
        kernel_names(&call(Command::new(compiler).args(FLAGS).args(["-E", "-P"]).arg(&cpp))?);
    text.push_str("#line 1 \"table\"\nconst shim::Kernel shim_kernels[] = {\n");
    for (name, most_threads) in &names {
        let entry = format!("shim::Entry<&{name}>");
        let places = format!("{entry}::signature, {entry}::invoke, {most_threads}");
        text.push_str(&format!("{{\"{name}\", {places}}},\n"));
    }
    text.push_str("{nullptr, nullptr, nullptr, 0}};\n");
    std::fs::write(&cpp, &text).map_err(io)?;
    call(Command::new(compiler).args(FLAGS).arg("-c").arg(&cpp).arg("-o").arg(&object))?;
    call(Command::new(compiler).arg("-shared").arg(&object).arg("-o").arg(&fresh))?;
    std::fs::rename(&fresh, &library).map_err(io)?;
    for file in [cpp, object] {
        std::fs::remove_file(file).map_err(io)?;
    }
    Ok(library)
}

/// The names behind `extern "C" __global__ void`, in what the preprocessor has left, and the threads that a
/// block has at most; 0 where the kernel does not say.
fn kernel_names(text: &str) -> Vec<(String, u32)> {
    const MARK: &str = "__attribute__((visibility(\"default\"), used))";
    const BOUND: &str = "__attribute__((shim_bound(";
    let behind = text.split(MARK).skip(1);
    let names = behind.filter_map(|part| {
        let declared = part.trim_start().strip_prefix("void")?.trim_start();
        let (most_threads, declared) = match declared.strip_prefix(BOUND) {
            Some(bound) => {
                let (number, rest) = bound.split_once(")))")?;
                (number.trim().parse().ok()?, rest)
            }
            None => (0, declared),
        };
        let name = declared.split_once('(')?.0.trim();
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        plain.then(|| (name.to_string(), most_threads))
    });
    names.collect()
}

/// The output of a command that succeeds, or its errors.
fn call(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(errors.lines().take(40).collect::<Vec<_>>().join("\n"))
}
