//! Our kernels on a card: compiled when the first is started, loaded by module, looked up once.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, OnceLock};

use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute_enum as FunctionAttribute, CUjit_option_enum as JitOption,
    CUmodule,
};

use super::Cache;
use super::api::StartedDriver;
use super::compiler::{Code, Compiler, Target};
use super::device::lock;
use super::error::{self, OUT_OF_MEMORY, check};
use crate::gpu::{GpuError, Launch};

/// Dynamic shared memory that a kernel has without being asked: of 48 KiB in all, what its own variables
/// leave.
const PLAIN_SHARED_BYTES: u32 = 32 << 10;
/// Bytes for what the driver has to say of a module.
const LOG_BYTES: usize = 4096;

/// All kernels for one card.
pub struct Modules {
    compiler: Compiler,
    target: Target,
    cache: Cache,
    /// All modules, compiled when the first kernel is started.
    codes: OnceLock<HashMap<&'static str, Code>>,
    loaded: Mutex<Loaded>,
}

/// What was loaded.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, CUmodule>,
    /// By module and name.
    kernels: HashMap<(&'static str, &'static str), Kernel>,
}

#[derive(Clone, Copy)]
struct Kernel {
    function: CUfunction,
    /// Dynamic shared memory that it may use.
    shared_bytes: u32,
}

impl Modules {
    /// Kernels that are compiled later, by `compiler` for `target`.
    pub fn new(compiler: Compiler, target: Target, cache: Cache) -> Self {
        let (codes, loaded) = (OnceLock::new(), Mutex::default());
        Self { compiler, target, cache, codes, loaded }
    }

    /// Loads a module, compiled or from the cache.
    fn load(&self, driver: &StartedDriver, module: &'static str) -> Result<CUmodule, GpuError> {
        let missing = || GpuError::Compile { module, log: "there is no such source".into() };
        let codes = self.codes.get_or_init(|| self.compiler.all(self.target, &self.cache));
        let code = codes.get(module).ok_or_else(missing)?.as_ref().map_err(Clone::clone)?;
        let (mut loaded, mut log) = (std::ptr::null_mut(), vec![0_u8; LOG_BYTES]);
        let mut options =
            [JitOption::CU_JIT_ERROR_LOG_BUFFER, JitOption::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // The driver takes numbers in the place of pointers, and keeps a zero at the log's end.
        let mut values =
            [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut::<c_void>(LOG_BYTES - 1)];
        // SAFETY: PTX has a zero at its end, a cubin says how long it is; the buffer outlives the call.
        let status = unsafe {
            (driver.api.cuModuleLoadDataEx)(
                &raw mut loaded,
                code.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        match check(driver, "loading kernels", status) {
            Ok(()) => Ok(loaded),
            Err(error) if error.is_memory() => Err(error),
            Err(error) => {
                let said = String::from_utf8_lossy(&log);
                let said = said.trim_end_matches('\0').trim();
                Err(GpuError::Compile { module, log: format!("{error} {said}").trim().to_owned() })
            }
        }
    }

    /// A kernel that may use so much shared memory, compiled at first use.
    pub fn kernel(&self, driver: &StartedDriver, launch: &Launch) -> Result<CUfunction, GpuError> {
        let (module, name) = (launch.module, launch.kernel);
        let mut modules = lock(&self.loaded);
        let mut kernel = match modules.kernels.get(&(module, name)) {
            Some(&kernel) => kernel,
            None => {
                let handle = match modules.modules.get(module) {
                    Some(&handle) => handle,
                    None => {
                        let handle = self.load(driver, module)?;
                        modules.modules.insert(module, handle);
                        handle
                    }
                };
                let text = CString::new(name).unwrap_or_default();
                let mut function = std::ptr::null_mut();
                // SAFETY: the module is loaded, and the text ends with a zero.
                let status = unsafe {
                    (driver.api.cuModuleGetFunction)(&raw mut function, handle, text.as_ptr())
                };
                match status {
                    0 => {}
                    OUT_OF_MEMORY => check(driver, "loading a kernel", status)?,
                    _ => {
                        let said = error::name(driver, status);
                        let log = format!("it has no kernel {name}: {said}");
                        return Err(GpuError::Compile { module, log });
                    }
                }
                Kernel { function, shared_bytes: PLAIN_SHARED_BYTES }
            }
        };
        if launch.shared_bytes > kernel.shared_bytes {
            let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(launch.shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the function is loaded.
            let status =
                unsafe { (driver.api.cuFuncSetAttribute)(kernel.function, attribute, bytes) };
            about(driver, launch, status)?;
            kernel.shared_bytes = launch.shared_bytes;
        }
        modules.kernels.insert((module, name), kernel);
        Ok(kernel.function)
    }

    /// Unloads everything; all work has to be done and the context to be current.
    pub fn close(&self, driver: &StartedDriver) {
        let mut loaded = lock(&self.loaded);
        loaded.kernels.clear();
        for (_, module) in loaded.modules.drain() {
            // SAFETY: the module is loaded, and nothing uses it any more.
            unsafe { (driver.api.cuModuleUnload)(module) };
        }
    }
}

/// An error that says which kernel it was.
pub fn about(driver: &StartedDriver, launch: &Launch, status: u32) -> Result<(), GpuError> {
    check(driver, "starting a kernel", status).map_err(|error| match error {
        GpuError::Call { call, reason } => {
            let Launch { module, kernel, grid, threads, shared_bytes } = launch;
            let reason = format!(
                "{module}.{kernel} in {grid:?} blocks of {threads} threads with {shared_bytes} bytes: {reason}"
            );
            GpuError::Call { call, reason }
        }
        other => other,
    })
}
