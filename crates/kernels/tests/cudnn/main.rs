//! The real cuDNN, asked for plans for cards that are not there: it takes our graphs, has an engine for them
//! on each architecture, compiles its kernel and says what that needs beside the tensors. What a kernel
//! computes this cannot say.
//!
//! `LONGREEL_TEST_CUDNN` names an environment of Python with `nvidia-cudnn-cu12` (700 MB, so that nothing
//! installs it unasked; `nvidia-cublas-cu12` comes with it) and `nvidia-cuda-nvrtc-cu12`. It has the process to itself, since a driver is loaded
//! that is none.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use longreel_kernels::cuda::{Deviceless, Places};
use longreel_kernels::gpu::ops::Windows;
use longreel_kernels::gpu::{Address, FrameConvolution, SoftmaxAttention};

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

/// A100, RTX 3090, RTX 4090, H100, B200, RTX 5090: capability, multiprocessors, and what a block may have of
/// shared memory.
const CARDS: [(u32, u32, u32); 6] = [
    (80, 108, 166_912),
    (86, 82, 101_376),
    (89, 128, 101_376),
    (90, 132, 232_448),
    (100, 148, 232_448),
    (120, 170, 101_376),
];

/// One test, since the library is loaded once.
#[test]
fn the_real_library_has_plans_for_our_work_on_every_architecture() {
    let Some(python) = driver() else { return };
    let mut places = Places::of(|_| None, Path::new("/nowhere"));
    places.add_python(&python);
    for (capability, multiprocessors, shared_bytes) in CARDS {
        let card =
            Deviceless::open(&places, &properties(capability, multiprocessors, shared_bytes))
                .expect("cuDNN of 9.13.1 or newer, which knows this card");
        attentions(&card, capability);
        convolutions(&card, capability);
    }
}

fn attentions(card: &Deviceless, capability: u32) {
    let none = Address(0);
    // Self-attention of the 1.3B model at 540P, and some heads of a causal block against the keys of all
    // before it.
    for (heads, size, queries, keys) in [(12, 128, 51_000, 51_000), (4, 64, 6_120, 18_361)] {
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

fn convolutions(card: &Deviceless, capability: u32) {
    let causal = Windows { kernel: [3; 3], stride: [1; 3], padding: [1; 4] };
    let flat = Windows { kernel: [1, 3, 3], ..causal };
    let in_time = Windows { kernel: [3, 1, 1], padding: [0; 4], ..causal };
    let halving = Windows { stride: [1, 2, 2], padding: [0, 1, 0, 1], ..flat };
    // The VAE's at 540P: its residual blocks from the latents' size to the picture's, the first layer, those
    // between frames, those that halve the picture; and the upscaler's.
    for (windows, [height, width], [inputs, outputs]) in [
        (causal, [68, 120], [384, 384]),
        (causal, [136, 240], [192, 384]),
        (causal, [272, 480], [192, 192]),
        (causal, [544, 960], [96, 96]),
        (causal, [68, 120], [16, 384]),
        (in_time, [136, 240], [384, 384]),
        (halving, [544, 960], [96, 96]),
        (flat, [544, 960], [64, 64]),
    ] {
        for with_added in [false, true] {
            let what = FrameConvolution::without_addresses(
                windows,
                [height, width],
                [inputs, outputs],
                [true, with_added],
            );
            let found = card.convolution(&what);
            let (engine, workspace) =
                found.unwrap_or_else(|why| panic!("sm_{capability}, {what:?}: {why}"));
            eprintln!(
                "sm_{capability}: {:?} of {inputs} to {outputs} at {width} x {height}, {} sum: engine {engine}, \
                 {workspace} bytes",
                windows.kernel,
                if with_added { "with a" } else { "no" }
            );
        }
    }
}
