//! The cache is shared with the sites' own tools, both ways: asked of huggingface_hub and modelscope_hub
//! themselves, where there is a Python that has them. `LONGREEL_TEST_PYTHON` names it.

use std::path::Path;
use std::process::Command;

use longreel_hub::{Site, State};

use crate::stand_in::{COMMIT, StandIn};
use crate::{Place, WEIGHTS, small_repository};

/// The Python that has `module`; otherwise says why the test is skipped.
fn python(module: &str) -> Option<String> {
    let python = std::env::var("LONGREEL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = format!("import {module}");
    match Command::new(&python).args(["-c", &import]).output() {
        Ok(output) if output.status.success() => Some(python),
        _ => {
            println!("skipped: {python} has no {module}; name one in LONGREEL_TEST_PYTHON");
            None
        }
    }
}

fn run(python: &str, place: &Place, hub: &StandIn, program: &str) -> String {
    let output = Command::new(python)
        .args(["-c", program])
        .env("HF_HUB_CACHE", place.folder.path())
        .env("HF_HOME", place.folder.path().join("home"))
        .env("HF_ENDPOINT", hub.base())
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("MODELSCOPE_CACHE", place.folder.path())
        .env("MODELSCOPE_ENDPOINT", hub.base())
        .env("no_proxy", "127.0.0.1")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn huggingface_hub_uses_what_was_pulled_here() {
    let Some(python) = python("huggingface_hub") else { return };
    let (hub, _) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    hub.with(|state| state.calls.clear());
    let found = run(
        &python,
        &place,
        &hub,
        "from huggingface_hub import snapshot_download; \
         print(snapshot_download('org/model', local_files_only=True))",
    );
    assert_eq!(Path::new(&found), kept.folder);
    let same = run(
        &python,
        &place,
        &hub,
        &format!(
            "from huggingface_hub import hf_hub_download, scan_cache_dir\n\
             print(hf_hub_download('org/model', '{WEIGHTS}'))\n\
             info = scan_cache_dir()\n\
             assert not info.warnings, info.warnings\n\
             (repo,) = info.repos\n\
             (revision,) = repo.revisions\n\
             print(repo.repo_id, revision.commit_hash, sorted(revision.refs), revision.nb_files)"
        ),
    );
    assert_eq!(same, format!("org/model {COMMIT} ['main'] 4"));
    assert!(hub.calls_for(WEIGHTS).is_empty(), "the weights were fetched again");
}

#[test]
fn what_huggingface_hub_fetched_is_used_here() {
    let Some(python) = python("huggingface_hub") else { return };
    let (hub, weights) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let folder = run(
        &python,
        &place,
        &hub,
        "from huggingface_hub import snapshot_download; \
         print(snapshot_download('org/model', allow_patterns=['*.json', '*.safetensors']))",
    );
    hub.with(|state| state.calls.clear());
    let kept = place.pull(&[]).expect("pulled");
    assert_eq!(kept.folder, Path::new(&folder));
    assert_eq!(hub.calls().len(), 1, "only the list is asked for: {:?}", hub.calls());
    assert!(std::fs::read(kept.folder.join(WEIGHTS)).expect("readable") == weights);
    let checked = kept.verify(None, &|_| {}, &mut |_| {}).expect("readable");
    assert!(checked.len() == 4 && checked.iter().all(|f| f.state == State::Sound), "{checked:?}");
    place.cache().remove(&kept).expect("removable");
    assert!(place.cache().all().is_empty());
}

#[test]
fn modelscope_hub_uses_what_was_pulled_here() {
    let Some(python) = python("modelscope_hub") else { return };
    let (hub, _) = small_repository();
    let place = Place::new(Site::ModelScope, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    let found = run(
        &python,
        &place,
        &hub,
        "from modelscope_hub.compat.snapshot_download import snapshot_download; \
         print(snapshot_download('org/model', local_files_only=True))",
    );
    assert_eq!(Path::new(&found), kept.folder);
}
