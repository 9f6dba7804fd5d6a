//! The real cuDNN, asked for plans for cards that are not there: it takes our graphs, has an engine for them
//! on each architecture, compiles its kernel and says what that needs beside the tensors. What a kernel
//! computes this cannot say.
//!
//! `LONGREEL_TEST_CUDNN` names an environment of Python with `nvidia-cudnn-cu12` (700 MB, so that nothing
//! installs it unasked) and `nvidia-cuda-nvrtc-cu12`. It has the process to itself, since a driver is loaded
//! that is none.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use longreel_kernels::cuda::{Deviceless, Places};
use longreel_kernels::gpu::{Address, SoftmaxAttention};

/// Loads the driver that is none, or says why the test is skipped.
fn driver() -> Option<PathBuf> {
    let Some(python) = std::env::var_os("LONGREEL_TEST_CUDNN").map(PathBuf::from) else {
        eprintln!("skipped: LONGREEL_TEST_CUDNN names no environment with nvidia-cudnn-cu12");
        return None;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cudnn-driver");
    std::fs::create_dir_all(&folder).expect("writable");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cudnn/driver.c");
    let built = folder.join(format!("libcuda.so.{}", std::process::id()));
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libcuda.so.1", "-o"])
        .args([built.as_os_str(), source.as_ref()])
        .output();
    let Ok(ran) = compiler else {
        eprintln!("skipped: there is no C compiler (cc)");
        return None;
    };
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    // SAFETY: it does nothing when it is loaded.
    let library = unsafe { libloading::os::unix::Library::new(&built) }.expect("it was built");
    std::mem::forget(library);
    let _ = std::fs::remove_file(&built);
    Some(python)
}

/// What cuDNN knows of a card, as it writes it; `capability` is 80 for 8.0.
fn properties(capability: u32, multiprocessors: u32, shared_bytes: u32) -> String {
    let threads = if capability.is_multiple_of(10) && capability < 120 { 2048 } else { 1536 };
    format!(
        r#"{{"cudaDeviceId":0,"deviceVer":{},"driverVer":12090,"deviceName":"none",
        "multiProcessorCount":{multiprocessors},"smCountOrigin":1,"warpSize":32,
        "maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],
        "maxThreadsPerBlock":1024,"maxThreadsPerSM":{threads},"maxCtasPerSM":24,
        "regsPerBlock":65536,"maxRegistersPerSM":65536,"maxSharedMemoryPerBlock":49152,
        "maxSharedMemoryPerBlockOptin":{shared_bytes},"reservedSharedMemoryPerBlock":1024,
        "oversizedSharedMemoryPerBlock":0,"totalGlobalMem":25769803776,"l2CacheSize":41943040,
        "smClockRateKHz":1410000,"memClockRateKHz":1215000,"memoryBusWidth":384,
        "pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1}}"#,
        10 * capability
    )
}

#[test]
fn the_real_library_has_a_plan_for_our_attention_on_every_architecture() {
    let Some(python) = driver() else { return };
    let mut places = Places::of(|_| None, Path::new("/nowhere"));
    places.add_python(&python);
    // A100, RTX 3090, RTX 4090, H100, B200, RTX 5090: what a block may have of shared memory.
    for (capability, multiprocessors, shared_bytes) in [
        (80, 108, 166_912),
        (86, 82, 101_376),
        (89, 128, 101_376),
        (90, 132, 232_448),
        (100, 148, 232_448),
        (120, 170, 101_376),
    ] {
        let card =
            Deviceless::open(&places, &properties(capability, multiprocessors, shared_bytes))
                .expect("cuDNN of 9.13.1 or newer, which knows this card");
        // Self-attention of the 1.3B model at 540P, and some heads of a causal block against the keys of all
        // before it.
        for (heads, size, queries, keys) in [(12, 128, 51_000, 51_000), (4, 64, 6_120, 18_361)] {
            let none = Address(0);
            let what = SoftmaxAttention {
                q: none,
                k: none,
                v: none,
                out: none,
                queries,
                keys,
                heads,
                size,
                scale: 0.1,
            };
            let found = card.attention(&what);
            let (engine, workspace) =
                found.unwrap_or_else(|why| panic!("sm_{capability}, {what:?}: {why}"));
            eprintln!(
                "cuDNN {}, sm_{capability}: {heads} heads of {size}, {queries} x {keys}: engine {engine}, \
                 {workspace} bytes",
                card.version()
            );
            assert!(workspace < 1 << 20, "sm_{capability}, {what:?}: {workspace} bytes");
        }
    }
}
