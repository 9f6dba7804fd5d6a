//! The tests for a card, on a driver, a cuBLASLt and a cuDNN that are written in C here and keep to what NVIDIA
//! documents: what we call, in which order, with which arguments, and what is left behind. What a real card
//! computes they cannot say.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compiler::{CACHES, complaints};

const SOURCES: [(&str, &str); 5] = [
    ("queue.h", include_str!("stand_in/queue.h")),
    ("driver.c", include_str!("stand_in/driver.c")),
    ("cublaslt.c", include_str!("stand_in/cublaslt.c")),
    ("cudnn.c", include_str!("stand_in/cudnn.c")),
    // In the real one the functions are here; that it is there is looked at, and no more.
    ("cudnn_graph.c", ""),
];

/// A folder with the libraries; it goes with the test.
struct StandIn(PathBuf);

impl StandIn {
    /// `None`, and a word about it, where there is no C compiler or no NVRTC.
    fn build(name: &str) -> Option<(Self, PathBuf)> {
        let compiler = crate::compiler()?;
        assert!(complaints(&compiler).is_empty(), "see the test of the kernels");
        let nvrtc = compiler.path().parent().expect("a folder").to_path_buf();
        if Command::new("cc").arg("--version").output().is_err() {
            eprintln!("skipped: there is no C compiler (cc)");
            return None;
        }
        let folder = Path::new(CACHES).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("writable");
        let stand_in = Self(folder.clone());
        for (file, text) in SOURCES {
            std::fs::write(folder.join(file), text).expect("writable");
        }
        // Of the NVRTC at hand, which a driver of another CUDA would not fit.
        let (major, minor) = compiler.version();
        let cuda = format!("-DCUDA={}", 1000 * major + 10 * minor);
        let cublaslt = format!("libcublasLt.so.{major}");
        for (library, source, more) in [
            ("libcuda.so.1", "driver.c", &["-lm", "-lpthread", &cuda][..]),
            (&*cublaslt, "cublaslt.c", &["-l:libcuda.so.1", "-lm"]),
            ("libcudnn.so.9", "cudnn.c", &["-l:libcuda.so.1", "-lm"]),
            ("libcudnn_graph.so.9", "cudnn_graph.c", &[]),
        ] {
            let ran = Command::new("cc")
                .current_dir(&folder)
                .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source, "-L."])
                .arg(format!("-Wl,-soname,{library}"))
                .args(more)
                .output()
                .expect("it ran before");
            let said = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "{source}: {said}");
        }
        Some((stand_in, nvrtc))
    }

    /// What the tests for a card say with this driver, and whether they pass.
    fn card_tests(&self, nvrtc: &Path, variable: Option<(&str, &str)>) -> (bool, String) {
        card_tests(&format!("{}:{}", self.0.display(), nvrtc.display()), variable)
    }
}

/// What the tests for a card say with these folders of libraries, and whether they pass.
fn card_tests(libraries: &str, variable: Option<(&str, &str)>) -> (bool, String) {
    let ran = Command::new(std::env::current_exe().expect("this test"))
        .args(["card::", "--nocapture", "--test-threads=2"])
        .env("LD_LIBRARY_PATH", libraries)
        .env("XDG_CACHE_HOME", CACHES)
        .env("RUST_BACKTRACE", "0")
        .envs(variable)
        .output()
        .expect("this test runs");
    let said = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8_lossy(&said).into_owned())
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_card_tests_pass_with_a_driver_that_does_everything_as_late_as_it_may() {
    let Some((stand_in, nvrtc)) = StandIn::build("late") else { return };
    // With pinned memory and without.
    for variable in [None, Some(("STAND_IN_NOT_PINNED", "1"))] {
        let (passed, said) = stand_in.card_tests(&nvrtc, variable);
        assert!(passed, "{variable:?}: {said}");
        for left_out in ["skipped", "cuBLASLt is not there", "cuDNN is not there"] {
            assert!(!said.contains(left_out), "{left_out}: {said}");
        }
        assert!(!said.contains("LEFT BEHIND"), "{variable:?}: {said}");
    }
}

#[test]
fn a_cudnn_that_is_of_no_use_leaves_attention_to_our_kernel_and_is_told_of() {
    let Some((stand_in, nvrtc)) = StandIn::build("cudnn") else { return };
    for (variable, reason) in [
        (("STAND_IN_CUDNN_VERSION", "91002"), "is of version 9.10.2, and 9.13.1 is the oldest"),
        (
            ("STAND_IN_CUDNN_FAILS", "1"),
            "cuDNN does not start: another status (as it was asked to)",
        ),
        (("LONGREEL_CUDNN", "off"), "LONGREEL_CUDNN=off"),
    ] {
        let (passed, said) = stand_in.card_tests(&nvrtc, Some(variable));
        assert!(passed, "{variable:?}: {said}");
        assert!(said.contains("cuDNN is not there") && said.contains(reason), "{said}");
        assert!(!said.contains("LEFT BEHIND"), "{variable:?}: {said}");
    }
}

#[test]
fn a_driver_that_does_not_start_is_told_of_by_name_and_cure() {
    let Some((stand_in, nvrtc)) = StandIn::build("refusing") else { return };
    for (status, name, cure) in [
        ("100", "CUDA_ERROR_NO_DEVICE", "--gpus all"),
        ("803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "start the machine again"),
        ("4711", "CUresult 4711", "starting the driver"),
    ] {
        let (passed, said) = stand_in.card_tests(&nvrtc, Some(("STAND_IN_CUINIT", status)));
        assert!(passed && said.contains("skipped"), "{said}");
        assert!(said.contains(name) && said.contains(cure), "{said}");
    }
}

#[test]
fn a_file_that_is_no_driver_is_told_of_with_the_linkers_reason() {
    let folder = Path::new(CACHES).join(format!("damaged-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("writable");
    let damaged = StandIn(folder);
    std::fs::write(damaged.0.join("libcuda.so.1"), "no library, whatever its name says")
        .expect("ours");
    let (passed, said) = card_tests(&damaged.0.display().to_string(), None);
    assert!(passed && said.contains("skipped: the NVIDIA driver cannot be used"), "{said}");
    assert!(
        said.contains("libcuda.so.1: ") && !said.contains("is not in LD_LIBRARY_PATH"),
        "{said}"
    );
}
