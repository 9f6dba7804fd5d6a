//! The driver's management library (NVML): what it tells without making a context on a card.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use super::libraries::{Kind, Loaded};
use super::{Pcie, Places};

/// `nvmlMemory_t`.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// `NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE`.
const VERSION_BYTES: usize = 80;

/// The library, started.
pub(super) struct Management {
    version: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int,
    by_address: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int,
    memory: unsafe extern "C" fn(*mut c_void, *mut Memory) -> c_int,
    generation: unsafe extern "C" fn(*mut c_void, *mut c_uint) -> c_int,
    lanes: unsafe extern "C" fn(*mut c_void, *mut c_uint) -> c_int,
}

impl Management {
    /// `None` where it is not there (NVIDIA's boards for robots have none) or does not start.
    pub fn start(places: &Places) -> Option<Self> {
        let library = Loaded::find(Kind::Management, places, None, "nvmlInit_v2").ok()?;
        // SAFETY: the signatures are those of nvml.h, stable since its second version.
        unsafe {
            let init: unsafe extern "C" fn() -> c_int = library.function("nvmlInit_v2").ok()?;
            if init() != 0 {
                return None;
            }
            Some(Self {
                version: library.function("nvmlSystemGetDriverVersion").ok()?,
                by_address: library.function("nvmlDeviceGetHandleByPciBusId_v2").ok()?,
                memory: library.function("nvmlDeviceGetMemoryInfo").ok()?,
                generation: library.function("nvmlDeviceGetMaxPcieLinkGeneration").ok()?,
                lanes: library.function("nvmlDeviceGetMaxPcieLinkWidth").ok()?,
            })
        }
    }

    /// The driver's own version, such as `570.86.10`.
    pub fn driver_version(&self) -> Option<String> {
        let mut text = [0 as c_char; VERSION_BYTES];
        // SAFETY: the buffer is as long as is said, and one more zero ends it in any case.
        unsafe {
            if (self.version)(text.as_mut_ptr(), VERSION_BYTES as c_uint - 1) != 0 {
                return None;
            }
            Some(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned())
        }
    }

    /// What the library knows the card at a PCI address by.
    fn handle(&self, address: &str) -> Option<*mut c_void> {
        let address = CString::new(address).ok()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the text ends with a zero; the library writes a handle.
        let status = unsafe { (self.by_address)(address.as_ptr(), &raw mut handle) };
        (status == 0).then_some(handle)
    }

    /// Free bytes of the card at a PCI address.
    pub fn free_bytes(&self, address: &str) -> Option<u64> {
        let mut memory = Memory::default();
        // SAFETY: the library writes a structure.
        let status = unsafe { (self.memory)(self.handle(address)?, &raw mut memory) };
        (status == 0).then_some(memory.free)
    }

    /// The fastest that the card at a PCI address and its slot do together. What they do at this moment is less while
    /// the card rests.
    pub fn pcie(&self, address: &str) -> Option<Pcie> {
        let handle = self.handle(address)?;
        let (mut generation, mut lanes) = (0, 0);
        // SAFETY: the library writes a number each.
        let told = unsafe {
            (self.generation)(handle, &raw mut generation) == 0
                && (self.lanes)(handle, &raw mut lanes) == 0
        };
        (told && generation > 0 && lanes > 0).then_some(Pcie { generation, lanes })
    }
}
