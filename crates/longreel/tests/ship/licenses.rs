//! What goes along with the program to whoever gets it.

use std::collections::BTreeSet;
use std::process::Command;

use crate::program::Place;
use crate::tools::{has, read, repository, run};

#[test]
fn the_licences_of_all_that_is_linked_are_there_to_hand_on() {
    if !has("bash", &["--version"], "install bash") || !has("cargo", &["--version"], "install Rust")
    {
        return;
    }
    let about = String::from_utf8(run(Command::new("rustc").arg("-vV")).stdout).expect("text");
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let script = repository().join("deploy/licenses.sh");
    let said = run(Command::new("bash").arg(script).arg(host)).stdout;
    let said = String::from_utf8(said).expect("text");
    let (list, texts) = said.split_once("\n==== ").expect("a list and texts");
    // Each is a crate of the lock, under a licence that is named.
    let lock = read("Cargo.lock");
    let packages = lock.split("[[package]]").skip(1);
    let locked: BTreeSet<String> = packages
        .map(|package| {
            let value = |key: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(key));
                line.unwrap_or_else(|| panic!("no {key}: {package}")).trim_matches('"')
            };
            format!("{}-{}", value("name = "), value("version = "))
        })
        .collect();
    let crates: Vec<&str> = list.lines().filter(|line| !line.is_empty()).collect();
    assert!(crates.len() > 100, "{list}");
    for line in &crates {
        let (name, licence) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        assert!(locked.contains(name) && !licence.starts_with("no licence named"), "{line}");
    }
    for name in ["openh264-sys2-", "libsqlite3-sys-", "tokio-", "ring-"] {
        assert!(crates.iter().any(|line| line.starts_with(name)), "no {name} in {list}");
    }
    // Cisco's, of the C++ code that comes in a crate.
    assert!(texts.contains("Cisco Systems") && texts.contains("Permission is hereby granted"));
    assert!(!said.contains("longreel-"), "our own is LICENSE");
}

/// An archive without licences looks like any other.
#[cfg(unix)]
#[test]
fn a_list_of_crates_that_cannot_be_made_is_a_failure() {
    use std::os::unix::fs::PermissionsExt;
    if !has("bash", &["--version"], "install bash") {
        return;
    }
    let place = Place::new();
    let cargo = place.write("cargo", "#!/bin/sh\n[ \"$1\" != tree ]\n");
    std::fs::set_permissions(&cargo, PermissionsExt::from_mode(0o755)).expect("ours");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .arg(repository().join("deploy/licenses.sh"))
        .arg("x86_64-unknown-linux-gnu")
        .env("PATH", format!("{}:{path}", place.path("").display()))
        .output()
        .expect("bash");
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
