//! The tests for a card and for several, on a driver, an NVML, a cuBLASLt, a cuDNN and an NCCL that are written in C here and
//! keep to what NVIDIA documents: what we call, in which order, with which arguments, and what is left behind. What a real card
//! computes they cannot say.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compiler::{CACHES, complaints};

const SOURCES: [(&str, &str); 6] = [
    ("queue.h", include_str!("stand_in/queue.h")),
    ("driver.c", include_str!("stand_in/driver.c")),
    ("nvml.c", include_str!("stand_in/nvml.c")),
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
        Self::build_with(name, "-DALL")
    }

    /// With this flag for the driver's compiler.
    fn build_with(name: &str, flag: &str) -> Option<(Self, PathBuf)> {
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
        for (file, text) in SOURCES.into_iter().chain([("nccl.c", longreel_shim::nccl_source())]) {
            std::fs::write(folder.join(file), text).expect("writable");
        }
        // Of the NVRTC at hand, which a driver of another CUDA would not fit.
        let (major, minor) = compiler.version();
        let cuda = format!("-DCUDA={}", 1000 * major + 10 * minor);
        let cublaslt = format!("libcublasLt.so.{major}");
        for (library, source, more) in [
            ("libcuda.so.1", "driver.c", &["-lm", "-lpthread", &cuda, flag][..]),
            ("libnvidia-ml.so.1", "nvml.c", &[]),
            (&*cublaslt, "cublaslt.c", &["-l:libcuda.so.1", "-lm"]),
            ("libcudnn.so.9", "cudnn.c", &["-l:libcuda.so.1", "-lm", "-ldl", &cuda]),
            ("libcudnn_graph.so.9", "cudnn_graph.c", &[]),
            ("libnccl.so.2", "nccl.c", &["-l:libcuda.so.1"]),
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

    /// What the tests of captured work say, and whether they pass.
    fn tests_of_graphs(&self, nvrtc: &Path, variable: Option<(&str, &str)>) -> (bool, String) {
        let libraries = format!("{}:{}", self.0.display(), nvrtc.display());
        tests(&["card::graphs", "--test-threads=2"], &libraries, variable)
    }

    /// What the tests for several cards say with eight of them, and whether they pass.
    fn tests_of_several(&self, nvrtc: &Path, variables: &[(&str, &str)]) -> (bool, String) {
        let libraries = format!("{}:{}", self.0.display(), nvrtc.display());
        let variables = variables.iter().copied().chain([("STAND_IN_CARDS", "8")]);
        tests(&["several::", "--test-threads=1"], &libraries, variables)
    }
}

/// What the tests for a card say with these folders of libraries, and whether they pass.
fn card_tests(libraries: &str, variable: Option<(&str, &str)>) -> (bool, String) {
    tests(&["card::", "--test-threads=2"], libraries, variable)
}

fn tests<'a>(
    which: &[&str],
    libraries: &str,
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (bool, String) {
    let ran = Command::new(std::env::current_exe().expect("this test"))
        .args(which)
        .arg("--nocapture")
        .env("LD_LIBRARY_PATH", libraries)
        .env("XDG_CACHE_HOME", CACHES)
        .env("RUST_BACKTRACE", "0")
        .env_remove("LONGREEL_EXCHANGE")
        .envs(variables)
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
        for left_out in ["skipped", "cuBLASLt", "cuDNN is not there", "graphs are not there"] {
            assert!(!said.contains(left_out), "{left_out}: {said}");
        }
        assert!(!said.contains("LEFT BEHIND"), "{variable:?}: {said}");
        let bus = "bus: Some(Pcie { generation: 4, lanes: 8 }), Some(1073741824) free";
        assert!(said.contains(bus), "{variable:?}: {said}");
        for wrong in ["PLAN IS GONE", "SPINS"] {
            assert!(!said.contains(wrong), "{variable:?}: {wrong}: {said}");
        }
    }
}

#[test]
fn kernels_of_a_card_with_a_screen_have_half_a_second() {
    let Some((stand_in, nvrtc)) = StandIn::build("screen") else { return };
    let libraries = format!("{}:{}", stand_in.0.display(), nvrtc.display());
    // 108 multiprocessors at 1.41 GHz, of which 256 operations a cycle are counted on.
    for (variable, most) in [(None, "inf"), (Some(("STAND_IN_SCREEN", "1")), "1.949184e13")] {
        let which = ["card::what_is_found", "--test-threads=1"];
        let (passed, said) = tests(&which, &libraries, variable);
        let told = format!("a kernel has at most {most} operations");
        assert!(passed && said.contains(&told), "{variable:?}: {said}");
    }
}

#[test]
fn a_cublaslt_is_asked_for_the_products_of_eight_bits_that_it_has_on_the_card() {
    let Some((stand_in, nvrtc)) = StandIn::build("cublaslt") else { return };
    let libraries = format!("{}:{}", stand_in.0.display(), nvrtc.display());
    for (version, capability, all, with_factors) in [
        ("120901", "90", 0, 0),
        ("120804", "90", 4, 4),
        ("120901", "89", 4, 4),
        ("120901", "100", 4, 4),
        ("130000", "120", 4, 4),
        ("120901", "80", 5, 4),
    ] {
        let variables =
            [("STAND_IN_CUBLASLT_VERSION", version), ("STAND_IN_CAPABILITY", capability)];
        let which = ["card::products_of_eight", "--test-threads=1"];
        let (passed, said) = tests(&which, &libraries, variables);
        assert!(passed, "{variables:?}: {said}");
        let refused: Vec<_> = said.lines().filter(|line| line.contains("no 8-bit way")).collect();
        assert_eq!(refused.len(), all, "{variables:?}: {said}");
        let asked = refused.iter().filter(|line| line.contains("factors: Some")).count();
        assert_eq!(asked, with_factors, "{variables:?}: {said}");
        let takes = format!("takes factors: {}", with_factors == 0);
        assert!(said.contains(&takes), "{variables:?}: {said}");
        assert!(!said.contains("LEFT BEHIND"), "{variables:?}: {said}");
    }
}

#[test]
fn a_cudnn_without_the_libraries_of_its_cuda_is_asked_for_nothing() {
    let Some((stand_in, nvrtc)) = StandIn::build("alone") else { return };
    // For a CUDA whose libraries are not there: at its first way for anything it ends the process.
    let (passed, said) = stand_in.card_tests(&nvrtc, Some(("STAND_IN_CUDNN_CUDA", "11080")));
    assert!(passed, "{said}");
    for (library, package) in [("cuBLASLt", "nvidia-cublas"), ("NVRTC", "nvidia-cuda-nvrtc")] {
        let needs = format!("it needs the {library} of CUDA 11, which cannot be loaded");
        assert!(said.contains(&needs) && said.contains(&format!("{package}-cu11`")), "{said}");
    }
    assert!(said.contains("doctor: Err(Absent { kind: Cudnn"), "{said}");
    for work in ["SoftmaxAttention", "FrameConvolution"] {
        let without = format!("cuDNN is not there, or has no way for {work}");
        assert!(said.contains(&without), "{said}");
    }
    assert!(!said.contains("LEFT BEHIND"), "{said}");
}

#[test]
fn a_cudnn_that_is_of_no_use_leaves_all_to_our_kernels_and_is_told_of() {
    let Some((stand_in, nvrtc)) = StandIn::build("cudnn") else { return };
    for (variable, reason) in [
        (("STAND_IN_CUDNN_VERSION", "91002"), "is of version 9.10.2, and 9.13.1 is the oldest"),
        (
            ("STAND_IN_CUDNN_FAILS", "1"),
            "cuDNN does not start: another status (as it was asked to)",
        ),
        (("LONGREEL_CUDNN", "off"), "LONGREEL_CUDNN=off"),
        (("STAND_IN_CUDNN_CUDA", "99010"), "of CUDA 99, and the driver is of CUDA 1"),
    ] {
        let (passed, said) = stand_in.card_tests(&nvrtc, Some(variable));
        assert!(passed, "{variable:?}: {said}");
        assert!(said.contains("cuDNN is not there") && said.contains(reason), "{said}");
        assert!(!said.contains("LEFT BEHIND"), "{variable:?}: {said}");
    }
}

/// What no way may leave or do.
const BAD: [&str; 4] = ["LEFT BEHIND", "NCCL MISUSE", "DEADLOCK", "skipped"];

#[test]
fn several_cards_exchange_by_each_way_in_the_order_of_their_streams() {
    let Some((stand_in, nvrtc)) = StandIn::build("several") else { return };
    let (copies, through) = ("copies from card to card", "the driver's copies, which go through");
    for (variables, way, connected) in [
        (&[][..], "NCCL 2.27.3", "Pcie"),
        (&[("LONGREEL_EXCHANGE", "nccl"), ("STAND_IN_NVLINK", "1")], "NCCL 2.27.3", "NvLink"),
        (&[("LONGREEL_EXCHANGE", "peer")], copies, "Pcie"),
        (&[("LONGREEL_EXCHANGE", "peer"), ("STAND_IN_APART", "1")], through, "Host"),
        (&[("LONGREEL_EXCHANGE", "host")], "the host's memory", "Pcie"),
    ] {
        let (passed, said) = stand_in.tests_of_several(&nvrtc, variables);
        assert!(passed, "{variables:?}: {said}");
        for count in [2, 4, 8] {
            assert!(said.contains(&format!("way of {count}: {way}")), "{variables:?}: {said}");
        }
        assert!(said.contains(&format!("connected: {connected}")), "{variables:?}: {said}");
        assert!(!BAD.iter().any(|bad| said.contains(bad)), "{variables:?}: {said}");
        assert!(!said.contains("warning: "), "{variables:?}: {said}");
    }
}

#[test]
fn an_nccl_that_is_of_no_use_is_left_for_the_drivers_copies_and_those_for_the_host() {
    let Some((stand_in, nvrtc)) = StandIn::build("fallback") else { return };
    let (copies, host) = ("copies from card to card", "the host's memory");
    for (variables, way, warning) in [
        (&[("STAND_IN_NCCL_INIT", "2")][..], copies, "unhandled system error (as it was asked to)"),
        (&[("STAND_IN_NCCL_SEND", "2")], copies, "LONGREEL_EXCHANGE=peer does without it"),
        (&[("STAND_IN_NCCL_DAMAGE", "1")], copies, "what device 0 sent is not what came to device"),
        // No fault of the machine's: doctor tells of it.
        (&[("STAND_IN_NCCL_VERSION", "21200")], copies, ""),
        (
            &[("STAND_IN_NCCL_INIT", "2"), ("STAND_IN_PEERS_DAMAGE", "1")],
            host,
            "devices do not exchange by peer: ",
        ),
    ] {
        let (passed, said) = stand_in.tests_of_several(&nvrtc, variables);
        assert!(passed, "{variables:?}: {said}");
        // Of the send, the first group alone.
        assert!(said.contains(&format!("way of 2: {way}")), "{variables:?}: {said}");
        assert_eq!(said.contains("warning: "), !warning.is_empty(), "{variables:?}: {said}");
        assert!(said.contains(warning), "{variables:?}: {said}");
        assert!(!BAD.iter().any(|bad| said.contains(bad)), "{variables:?}: {said}");
    }
    let asked_for = [("STAND_IN_NCCL_VERSION", "21200"), ("LONGREEL_EXCHANGE", "nccl")];
    let (passed, said) = stand_in.tests_of_several(&nvrtc, &asked_for);
    assert!(!passed && said.contains("2.12.0, and 2.18.0 is the oldest that is used"), "{said}");
    assert!(said.contains("without LONGREEL_EXCHANGE another way is taken"), "{said}");
}

#[test]
fn an_nccl_that_fails_in_the_middle_of_a_film_ends_it_and_nobody_waits() {
    let Some((stand_in, nvrtc)) = StandIn::build("middle") else { return };
    // Refused when it is asked for, and found out by looking while the cards wait for each other.
    for variable in [("STAND_IN_NCCL_SEND", "9"), ("STAND_IN_NCCL_TELLS", "5")] {
        let libraries = format!("{}:{}", stand_in.0.display(), nvrtc.display());
        let variables = [variable, ("STAND_IN_NCCL_FAILS_LATER", "1"), ("STAND_IN_CARDS", "2")];
        let which = ["several::a_way_that_fails", "--test-threads=1"];
        let (passed, said) = tests(&which, &libraries, variables);
        assert!(passed, "{variable:?}: {said}");
        assert!(
            said.contains("failed: the GPU failed at exchanging between cards by NCCL"),
            "{said}"
        );
        assert!(said.contains("again: ") && said.contains("LONGREEL_EXCHANGE=peer"), "{said}");
        assert!(!BAD.iter().any(|bad| said.contains(bad)), "{variable:?}: {said}");
    }
}

#[test]
fn libraries_are_opened_with_the_card_and_one_that_cannot_be_is_warned_of() {
    let Some((stand_in, nvrtc)) = StandIn::build("libraries") else { return };
    let libraries = format!("{}:{}", stand_in.0.display(), nvrtc.display());
    let said_with = |variables: &[(&str, &str)]| {
        let which = ["card::memory::libraries", "--test-threads=1"];
        let (passed, said) = tests(&which, &libraries, variables.iter().copied());
        assert!(passed && said.contains("taken later: 0 bytes"), "{variables:?}: {said}");
        assert!(!said.contains("LEFT BEHIND"), "{variables:?}: {said}");
        said
    };
    let said = said_with(&[]);
    assert!(!said.contains("warning: ") && !said.contains("note: "), "{said}");
    let said = said_with(&[("LONGREEL_CUDNN", "off")]);
    assert!(said.contains("note: ") && !said.contains("warning: "), "wanted so: {said}");
    let (attention, products) =
        ("warning: attention and convolutions by our kernels", "warning: matrix products by our");
    let said = said_with(&[("STAND_IN_NO_MEMORY_FOR", "cublasLtCreate")]);
    assert!(said.contains(products) && said.contains("CUBLAS_STATUS_ALLOC_FAILED"), "{said}");
    let said = said_with(&[("STAND_IN_CUDNN_VERSION", "91002")]);
    assert!(said.contains(attention) && !said.contains(products), "{said}");
    assert!(said.contains("9.13.1 is the oldest"), "{said}");
}

#[test]
fn any_call_that_the_memory_is_not_enough_for_says_so() {
    let Some((stand_in, nvrtc)) = StandIn::build("memory") else { return };
    let libraries = format!("{}:{}", stand_in.0.display(), nvrtc.display());
    for (call, what) in [
        ("cuModuleLoadDataEx", "loading kernels: "),
        ("cuModuleGetFunction", "loading a kernel: "),
        ("cuLaunchKernel", "starting a kernel: "),
        ("cuGraphInstantiateWithFlags", "making a CUDA graph ready: "),
        ("cublasLtMatmul", "multiplying matrices: "),
    ] {
        let variable = [("STAND_IN_NO_MEMORY_FOR", call)];
        let (passed, said) = tests(&["card::memory", "--test-threads=1"], &libraries, variable);
        assert!(passed, "{call}: {said}");
        let told: Vec<_> = said.lines().filter(|line| line.contains("told: ")).collect();
        let expected = format!("the GPU's memory is not enough for {what}");
        assert!(matches!(told[..], [told] if told.contains(&expected)), "{call}: {said}");
        assert!(!said.contains("LEFT BEHIND"), "{call}: {said}");
    }
}

#[test]
fn a_driver_without_graphs_or_that_refuses_them_is_used_without_and_told_of() {
    let graphs = |flag, variable, reason: &str| {
        let Some((stand_in, nvrtc)) = StandIn::build_with("graphs", flag) else { return };
        let (passed, said) = stand_in.tests_of_graphs(&nvrtc, variable);
        assert!(passed && said.contains("graphs are not there") && said.contains(reason), "{said}");
        assert!(!said.contains("LEFT BEHIND"), "{said}");
    };
    graphs("-DNO_GRAPHS", None, "cuStreamBeginCapture_v2");
    graphs("-DALL", Some(("STAND_IN_GRAPHS_FAIL", "1")), "making a CUDA graph ready");
    graphs("-DALL", Some(("LONGREEL_GRAPHS", "off")), "LONGREEL_GRAPHS=off");
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
