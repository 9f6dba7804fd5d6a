//! Machines where something is missing.

use longreel_kernels::cuda::{NoDriver, Places, libraries_in, probe};
use longreel_kernels::gpu::GpuError;

#[test]
fn without_a_driver_everything_says_so_and_how_to_get_it() {
    let found = probe();
    if found.driver.is_ok() {
        eprintln!("skipped: this machine has an NVIDIA driver");
        return;
    }
    assert!(found.cards.is_empty(), "{found:?}");
    assert!(found.libraries.is_empty(), "loaded for nobody: {found:?}");
    let error = longreel_kernels::cuda::open(0).expect_err("no driver").to_string();
    match found.driver {
        Err(NoDriver::NotInstalled) => {
            assert!(error.starts_with("the NVIDIA driver cannot be used: libcuda.so.1"), "{error}");
            assert!(error.contains("--gpus all"), "{error}");
        }
        other => eprintln!("this machine has a part of a driver: {other:?}"),
    }
}

#[test]
fn a_library_that_is_none_is_told_of_with_its_reason_and_the_package_that_has_it() {
    let root = std::env::temp_dir().join(format!("longreel-none-{}", std::process::id()));
    let lib = root.join("usr/local/cuda-12.9/lib64");
    std::fs::create_dir_all(&lib).expect("ours");
    std::fs::write(lib.join("libcudnn.so.9"), "this is no library").expect("ours");
    let libraries = libraries_in(&Places::of(|_| None, &root), None);
    let texts: Vec<String> =
        libraries.iter().filter_map(|row| Some(row.1.as_ref().err()?.to_string())).collect();
    std::fs::remove_dir_all(&root).expect("ours");
    for (kind, result) in &libraries {
        let Err(absent) = result else {
            eprintln!("{} is where the linker finds it", kind.name());
            continue;
        };
        let text = absent.to_string();
        assert!(text.contains(kind.package().expect("all four have one")), "{text}");
        assert!(text.contains(kind.files()[0].0), "{text}");
        if kind.name() == "cuDNN" {
            assert_eq!(absent.refused.len(), 1, "{text}");
            assert!(text.contains("lib64/libcudnn.so.9: "), "{text}");
        }
    }
    assert!(texts.iter().all(|text| text.len() < 700), "too long to be read: {texts:?}");
}

/// The real one ends the process at the first call where its part is missing, as in half of an installation.
#[cfg(target_os = "linux")]
#[test]
fn a_cudnn_without_its_part_is_told_of_and_never_called() {
    use std::process::Command;
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("skipped: there is no C compiler (cc)");
        return;
    }
    let root = std::env::temp_dir().join(format!("longreel-half-{}", std::process::id()));
    let lib = root.join("usr/local/cuda-12.9/lib64");
    std::fs::create_dir_all(&lib).expect("ours");
    let build = |library: &str, text: &str| {
        std::fs::write(lib.join("source.c"), text).expect("ours");
        let words = ["-shared", "-fPIC", "-o", library, "source.c"];
        let ran = Command::new("cc").current_dir(&lib).args(words).output().expect("it ran before");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    build(
        "libcudnn.so.9",
        "#include <stdlib.h>\nunsigned long cudnnGetVersion(void) { abort(); }\n",
    );
    let cudnn = || {
        let libraries = libraries_in(&Places::of(|_| None, &root), None);
        libraries.into_iter().find(|(kind, _)| kind.name() == "cuDNN").expect("a row").1
    };
    let told = cudnn();
    let file = lib.join("libcudnn.so.9");
    if told.as_ref().is_ok_and(|found| found.path != file) {
        eprintln!("skipped: the linker finds a whole cuDNN");
    } else {
        let text = told.expect_err("it has no part").to_string();
        assert!(text.contains("lib64/libcudnn.so.9: its part cannot be loaded: "), "{text}");
        assert!(text.contains("libcudnn_graph.so.9"), "{text}");
    }
    std::fs::remove_dir_all(&root).expect("ours");
}

/// Once a cuDNN is in the process its parts are, and no other one can be used.
#[cfg(target_os = "linux")]
#[test]
fn a_library_of_the_active_environment_comes_before_the_linkers() {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    const ROOT: &str = "LONGREEL_TEST_PLACES";
    let below = |root: &Path| root.join("env/lib/python3.12/site-packages/nvidia/cudnn/lib");
    if let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) {
        let environment = root.join("env").into_os_string();
        let variable = |name: &str| (name == "VIRTUAL_ENV").then(|| environment.clone());
        let libraries = libraries_in(&Places::of(variable, &root), None);
        let (_, cudnn) = libraries.iter().find(|(kind, _)| kind.name() == "cuDNN").expect("a row");
        let found = cudnn.as_ref().expect("two of them");
        assert_eq!(
            (&*found.version, &*found.path),
            ("9.28.0", &*below(&root).join("libcudnn.so.9"))
        );
        return;
    }
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("skipped: there is no C compiler (cc)");
        return;
    }
    let root = std::env::temp_dir().join(format!("longreel-active-{}", std::process::id()));
    for (lib, version) in [(below(&root), 92_800), (root.join("system"), 91_002)] {
        std::fs::create_dir_all(&lib).expect("ours");
        let text = format!("unsigned long cudnnGetVersion(void) {{ return {version}; }}");
        std::fs::write(lib.join("source.c"), text).expect("ours");
        for library in ["libcudnn.so.9", "libcudnn_graph.so.9"] {
            let words = ["-shared", "-fPIC", "-o", library, "source.c"];
            let ran = Command::new("cc").current_dir(&lib).args(words).output();
            let ran = ran.expect("it ran before");
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        }
    }
    let ran = Command::new(std::env::current_exe().expect("this test"))
        .arg("nothing::a_library_of_the_active")
        .env(ROOT, &root)
        // Where the linker looks; what is told of it does not say so.
        .env("LD_LIBRARY_PATH", root.join("system"))
        .output()
        .expect("this test runs");
    std::fs::remove_dir_all(&root).expect("ours");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn errors_of_memory_have_the_numbers() {
    let error = GpuError::Memory { asked: 7 << 30, free: 1 << 30, total: 24 << 30 }.to_string();
    for number in [7_u64 << 30, 1 << 30, 24 << 30] {
        assert!(error.contains(&number.to_string()), "{error}");
    }
}
