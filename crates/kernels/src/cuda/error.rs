//! What the libraries' statuses mean, and what to do about the usual ones.

use std::ffi::CStr;

use super::api::StartedDriver;
use crate::gpu::GpuError;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: u32 = 2;

/// `CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED`.
pub const PEERS_ALREADY: u32 = 704;

/// Statuses of the driver (`CUresult`) with their names and what to do.
const CURES: [(u32, &str, &str); 26] = [
    (1, "CUDA_ERROR_INVALID_VALUE", "this is a bug of longreel: please report it"),
    (
        OUT_OF_MEMORY,
        "CUDA_ERROR_OUT_OF_MEMORY",
        "make films with a smaller --size or --base-num-frames, or end other programs on the card (nvidia-smi)",
    ),
    (3, "CUDA_ERROR_NOT_INITIALIZED", "start longreel again"),
    (
        34,
        "CUDA_ERROR_STUB_LIBRARY",
        "a toolkit's stub stands before the driver: take .../stubs out of LD_LIBRARY_PATH",
    ),
    (
        46,
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
        "another program has the card for itself: end it, or nvidia-smi -c DEFAULT",
    ),
    (
        100,
        "CUDA_ERROR_NO_DEVICE",
        "see nvidia-smi; is CUDA_VISIBLE_DEVICES set to hide the cards? In a container, start it with --gpus all",
    ),
    (
        101,
        "CUDA_ERROR_INVALID_DEVICE",
        "there is no card with that number: longreel doctor lists them",
    ),
    (
        200,
        "CUDA_ERROR_INVALID_IMAGE",
        "update the driver, or use the libraries of its CUDA version",
    ),
    (
        205,
        "CUDA_ERROR_MAP_FAILED",
        "the machine has too little memory left, or none that may be locked",
    ),
    (
        209,
        "CUDA_ERROR_NO_BINARY_FOR_GPU",
        "update the driver, or NVRTC where the card is newer than it",
    ),
    (
        214,
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "the card's memory has a fault: nvidia-smi -q -d ECC; start the machine again",
    ),
    (218, "CUDA_ERROR_INVALID_PTX", "update the driver"),
    (
        220,
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "a connection between cards has a fault: start the machine again",
    ),
    (
        222,
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "NVRTC is newer than the driver: update the driver, or install an older NVRTC",
    ),
    (223, "CUDA_ERROR_JIT_COMPILATION_DISABLED", "unset CUDA_DISABLE_PTX_JIT"),
    (
        304,
        "CUDA_ERROR_OPERATING_SYSTEM",
        "see dmesg for NVRM and Xid; in a container, start it again",
    ),
    (
        700,
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "this is a bug of longreel or of a library: please report it, and whether it happens with LONGREEL_CUDNN=off too; \
         the process has to be started again",
    ),
    (
        701,
        "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        "this is a bug of longreel: please report it with the card's name",
    ),
    (
        702,
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "a screen hangs at this card and its watchdog ended the kernel: use another card",
    ),
    (
        716,
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "this is a bug of longreel or of a library: please report it, and whether it happens with LONGREEL_CUDNN=off too",
    ),
    (
        719,
        "CUDA_ERROR_LAUNCH_FAILED",
        "see dmesg for lines with Xid: most often the card has lost power, overheats or is overclocked; start longreel \
         again, and the machine if it happens again; LONGREEL_CUDNN=off leaves out cuDNN's kernels, in case one of them is wrong",
    ),
    (720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "this is a bug of longreel: please report it"),
    (
        802,
        "CUDA_ERROR_SYSTEM_NOT_READY",
        "the cards' switches are not started: start nvidia-fabricmanager, of the driver's own version",
    ),
    (
        803,
        "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        "libcuda.so.1 is not of the driver that runs: the driver was updated, start the machine again; in a container, \
         remove the driver's libraries from the image",
    ),
    (
        804,
        "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "a cuda-compat library stands before the driver's, and it is for data-centre cards: take it out of LD_LIBRARY_PATH",
    ),
    (
        999,
        "CUDA_ERROR_UNKNOWN",
        "modprobe nvidia_uvm, or start the machine again; see dmesg for NVRM and Xid",
    ),
];

/// What to do about a status of the driver, if it is a usual one.
pub fn cure(status: u32) -> Option<&'static str> {
    CURES.iter().find(|row| row.0 == status).map(|row| row.2)
}

/// The name of a status, as the driver gives it or, where it does not, from the list above.
pub fn name(driver: &StartedDriver, status: u32) -> String {
    if let Some(name) = said(driver.name_of, status) {
        return name;
    }
    let known = CURES.iter().find(|row| row.0 == status);
    known.map_or_else(|| format!("CUresult {status}"), |row| row.1.to_owned())
}

/// A call of the driver that failed. Any may for want of memory: a kernel's code comes to the card when it is first
/// used, and a graph takes some.
pub fn failed(driver: &StartedDriver, call: &'static str, status: u32) -> GpuError {
    let mut reason = name(driver, status);
    if let Some(text) = said(driver.text_of, status) {
        reason = format!("{reason} ({text})");
    }
    if let Some(cure) = cure(status) {
        reason = format!("{reason}; {cure}");
    }
    match status {
        OUT_OF_MEMORY => GpuError::NoMemoryFor { call, reason },
        _ => GpuError::Call { call, reason },
    }
}

/// `Ok` for status 0.
pub fn check(driver: &StartedDriver, call: &'static str, status: u32) -> Result<(), GpuError> {
    match status {
        0 => Ok(()),
        _ => Err(failed(driver, call, status)),
    }
}

fn said(
    function: unsafe extern "C" fn(u32, *mut *const std::ffi::c_char) -> u32,
    status: u32,
) -> Option<String> {
    let mut text = std::ptr::null();
    // SAFETY: the driver writes a pointer to a text of its own, or null for a status it does not know.
    unsafe {
        if function(status, &raw mut text) != 0 || text.is_null() {
            return None;
        }
        Some(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use cudarc::driver::sys::CUresult;

    use super::*;

    #[test]
    fn what_a_wrong_kernel_ends_in_names_the_switch_that_leaves_out_those_of_a_library() {
        for status in [700, 716, 719] {
            let cure = cure(status).expect("a usual one");
            assert!(cure.contains("LONGREEL_CUDNN=off"), "{status}: {cure}");
        }
    }

    #[test]
    fn the_numbers_of_statuses_are_those_of_the_header() {
        let known = [
            CUresult::CUDA_ERROR_INVALID_VALUE,
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            CUresult::CUDA_ERROR_NOT_INITIALIZED,
            CUresult::CUDA_ERROR_STUB_LIBRARY,
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
            CUresult::CUDA_ERROR_NO_DEVICE,
            CUresult::CUDA_ERROR_INVALID_DEVICE,
            CUresult::CUDA_ERROR_INVALID_IMAGE,
            CUresult::CUDA_ERROR_MAP_FAILED,
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
            CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
            CUresult::CUDA_ERROR_INVALID_PTX,
            CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED,
            CUresult::CUDA_ERROR_OPERATING_SYSTEM,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
            CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
            CUresult::CUDA_ERROR_LAUNCH_FAILED,
            CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
            CUresult::CUDA_ERROR_SYSTEM_NOT_READY,
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
            CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
            CUresult::CUDA_ERROR_UNKNOWN,
        ];
        assert_eq!(known.len(), CURES.len());
        for (known, (number, name, _)) in known.into_iter().zip(CURES) {
            assert_eq!((known as u32, format!("{known:?}")), (number, name.to_owned()));
        }
    }
}
