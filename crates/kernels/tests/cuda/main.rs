//! What is done for NVIDIA cards: with NVRTC where it is to be had, with a card where there is one.

mod card;
mod compiler;
mod machine;
mod nothing;
mod several;
#[cfg(target_os = "linux")]
mod stand_in;

use std::path::{Path, PathBuf};

use longreel_kernels::cuda::{Compiler, Places};

/// Where this machine and the tools for tests have libraries: `.ci/run` puts NVRTC into an environment of
/// Python's below `target`, or `LONGREEL_TEST_PYTHON` names one.
fn places() -> Places {
    let mut places = Places::of_this_machine();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    places.add_python(&root.join("target/test-tools"));
    if let Some(python) = std::env::var_os("LONGREEL_TEST_PYTHON").map(PathBuf::from)
        && let Some(prefix) = python.parent().and_then(Path::parent)
    {
        places.add_python(prefix);
    }
    places
}

/// NVRTC, or a word about why the test is skipped; where `.ci/run` has installed it, it has to be there.
fn compiler() -> Option<Compiler> {
    let compiler = Compiler::load(&places(), None);
    if let (Err(why), Some(_)) = (&compiler, std::env::var_os("LONGREEL_TEST_NVRTC")) {
        panic!("LONGREEL_TEST_NVRTC says that NVRTC is installed: {why}");
    }
    compiler.map_err(|why| eprintln!("skipped: {why}")).ok()
}
