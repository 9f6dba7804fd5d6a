//! What is kept, in the layouts of the sites' own tools.

use std::fs;
use std::path::Path;

use longreel_hub::{Pin, Pins, Site, State};

use crate::stand_in::{COMMIT, git_blob, sha256};
use crate::{Place, WEIGHTS, small_repository};

#[test]
fn the_cache_is_that_of_huggingface_hub() {
    let (hub, weights) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    let (sha, config) = (sha256(&weights), git_blob(b"{\"a\": 1}"));
    let names = place.names();
    for name in [
        format!("models--org--model/blobs/{sha}"),
        format!("models--org--model/blobs/{config}"),
        format!("models--org--model/snapshots/{COMMIT}/{WEIGHTS}"),
        "models--org--model/refs/main".to_owned(),
    ] {
        assert!(names.contains(&name), "no {name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("README") || name.ends_with(".bin")));
    let link = fs::read_link(kept.folder.join("vae/config.json")).expect("a link");
    assert_eq!(link, Path::new("../../../blobs").join(config));
    assert_eq!(
        fs::read_to_string(place.folder.path().join("models--org--model/refs/main"))
            .expect("a name"),
        COMMIT
    );
}

#[test]
fn a_model_is_found_by_branch_commit_and_the_beginning_of_a_commit() {
    let (hub, _) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    let cache = place.cache();
    let id = "org/model".parse().expect("a name");
    for revision in [None, Some("main"), Some(COMMIT), Some(&COMMIT[..8])] {
        let revision = revision.map(|text| text.parse().expect("a revision"));
        let found = cache.find(&id, revision.as_ref()).expect("kept");
        assert_eq!(found.folder, kept.folder);
    }
    for revision in ["v2", "0123", "ffffffff"] {
        assert!(cache.find(&id, Some(&revision.parse().expect("a revision"))).is_none());
    }
    assert_eq!(cache.all().len(), 1);
}

#[test]
fn damage_is_found_taken_away_and_mended_by_another_pull() {
    let (hub, weights) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    let verify = || kept.verify(None, &|_| {}, &mut |_| {}).expect("readable");
    assert!(verify().iter().all(|file| file.state == State::Sound));
    let blob = fs::canonicalize(kept.folder.join(WEIGHTS)).expect("a blob");
    let mut bytes = weights.clone();
    bytes[1234] ^= 1;
    fs::write(&blob, &bytes).expect("writable");
    let config = fs::canonicalize(kept.folder.join("vae/config.json")).expect("a blob");
    fs::remove_file(config).expect("removable");
    let found = verify();
    let state = |name: &str| found.iter().find(|f| f.name == name).map(|f| f.state.clone());
    assert!(matches!(state(WEIGHTS), Some(State::Damaged { .. })), "{found:?}");
    assert_eq!(state("vae/config.json"), Some(State::Missing));
    kept.discard(&found).expect("removable");
    place.pull(&[]).expect("pulled");
    assert!(verify().iter().all(|file| file.state == State::Sound));
    assert!(fs::read(kept.folder.join(WEIGHTS)).expect("readable") == weights);
}

#[test]
fn removing_a_revision_leaves_what_another_one_uses() {
    let (hub, _) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    // Another commit with the same weights and another configuration, as Python tools would keep it.
    let repository = place.folder.path().join("models--org--model");
    let other = repository.join("snapshots").join("f".repeat(40));
    fs::create_dir_all(other.join("transformer")).expect("writable");
    let target = fs::read_link(kept.folder.join(WEIGHTS)).expect("a link");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&target, other.join(WEIGHTS)).expect("a link");
    let cache = place.cache();
    assert_eq!(cache.all().len(), 2);
    let removed = cache.remove(&kept).expect("removable");
    assert_eq!(removed.files, 3);
    assert!(fs::read(other.join(WEIGHTS)).is_ok(), "the other one lost its weights");
    let left = cache.all();
    assert_eq!(left.len(), 1);
    cache.remove(&left[0]).expect("removable");
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[cfg(unix)]
#[test]
fn content_that_repositories_share_goes_with_its_last_user() {
    use std::os::unix::fs::symlink;
    let (hub, weights) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    let root = place.folder.path();
    // As huggingface_hub keeps it: blobs/XX/HASH of the cache, and a link from the repository's blob.
    let shared = root.join("blobs/ab");
    fs::create_dir_all(&shared).expect("writable");
    let blob = root.join("models--org--model/blobs").join(sha256(&weights));
    fs::rename(&blob, shared.join("abcd")).expect("movable");
    fs::write(shared.join("abcd.refs"), "").expect("writable");
    symlink("../../blobs/ab/abcd", &blob).expect("a link");
    let other = root.join("models--org--twin/blobs");
    fs::create_dir_all(&other).expect("writable");
    symlink("../../blobs/ab/abcd", other.join(sha256(&weights))).expect("a link");
    let checked = kept.verify(None, &|_| {}, &mut |_| {}).expect("readable");
    assert!(checked.iter().all(|file| file.state == State::Sound), "{checked:?}");
    place.cache().remove(&kept).expect("removable");
    assert!(shared.join("abcd").exists(), "another repository uses it");
    fs::remove_dir_all(root.join("models--org--twin")).expect("removable");
    let kept = place.pull(&[]).expect("pulled");
    fs::rename(&blob, shared.join("abcd")).expect("movable");
    symlink("../../blobs/ab/abcd", &blob).expect("a link");
    place.cache().remove(&kept).expect("removable");
    assert!(!shared.join("abcd").exists() && !shared.join("abcd.refs").exists());
}

#[test]
fn modelscope_is_kept_as_its_own_tools_keep_it() {
    let (hub, weights) = small_repository();
    let place = Place::new(Site::ModelScope, &hub, &[("MODELSCOPE_API_TOKEN", "ms_secret")]);
    let kept = place.pull(&[]).expect("pulled");
    let folder = place.folder.path().join("models/org--model/snapshots/master");
    assert_eq!(kept.folder, folder);
    assert!(fs::read(folder.join(WEIGHTS)).expect("readable") == weights);
    let calls = hub.calls();
    assert!(calls.iter().all(|c| c.header("cookie") == Some("m_session_id=ms_secret")));
    assert!(calls[0].target.starts_with("/api/v1/models/org/model/repo/files?Revision=master"));
    let cache = place.cache();
    assert_eq!(cache.all(), std::slice::from_ref(&kept));
    // Its older tools had dots written otherwise, and no revisions.
    let old = place.folder.path().join("hub/models/some/Model-1___3B");
    fs::create_dir_all(&old).expect("writable");
    let found = cache.find(&"some/Model-1.3B".parse().expect("a name"), None).expect("kept");
    assert_eq!(found.folder, old);
    cache.remove(&kept).expect("removable");
    assert!(!place.folder.path().join("models/org--model").exists());
}

#[test]
fn a_lock_file_names_revision_and_files_and_finds_differences() {
    let (hub, weights) = small_repository();
    let place = Place::new(Site::HuggingFace, &hub, &[]);
    let kept = place.pull(&[]).expect("pulled");
    let path = place.folder.path().join("longreel.lock");
    let mut pins = Pins::read(&path).expect("none yet");
    pins.set(Pin::of_kept(&kept, &|_| {}).expect("readable"));
    pins.write(&path).expect("writable");
    let read = Pins::read(&path).expect("sound");
    assert_eq!(read, pins);
    let pin = read.of(&kept.id).expect("pinned");
    assert_eq!((pin.revision.as_str(), pin.files.len()), (COMMIT, 4));
    let file = pin.files.iter().find(|file| file.name == WEIGHTS).expect("pinned");
    assert_eq!(file.sha256, sha256(&weights));
    assert_eq!(pin.differences(&kept, &|_| {}).expect("readable"), Vec::<String>::new());
    let blob = fs::canonicalize(kept.folder.join("vae/config.json")).expect("a blob");
    fs::write(blob, "{\"a\": 2}").expect("writable");
    let found = pin.differences(&kept, &|_| {}).expect("readable");
    assert!(found.len() == 1 && found[0].starts_with("vae/config.json: SHA-256"), "{found:?}");
    for wrong in [
        "version = 2\n",
        "x = 1\n",
        "version = 1\n[[model]]\nrepository = '../x'\nfrom = 'huggingface'\nrevision = 'main'\n",
    ] {
        fs::write(&path, wrong).expect("writable");
        let message = Pins::read(&path).expect_err(wrong).to_string();
        assert!(message.contains("longreel.lock"), "{message}");
    }
}
