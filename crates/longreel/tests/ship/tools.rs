//! Programs of others, which may be missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

pub fn read(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Whether a program can be run; says so when it cannot.
pub fn has(program: &str, words: &[&str], install: &str) -> bool {
    let ran = Command::new(program).args(words).output();
    let there = ran.is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: there is no {program}; {install}");
    }
    there
}

/// The Python that has what a test needs.
pub fn python() -> String {
    std::env::var("LONGREEL_TEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Runs it to a good end.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
    output
}
