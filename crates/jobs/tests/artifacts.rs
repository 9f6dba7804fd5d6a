//! Files of jobs, in a real folder and in an object store in memory.

use std::path::Path;
use std::sync::Arc;

use longreel_jobs::{ArtifactError, ArtifactKind, ArtifactName, Artifacts, Format, JobId};

const FILM: ArtifactName = ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 };
const PICTURE: ArtifactName = ArtifactName { kind: ArtifactKind::Preview(3), format: Format::Webp };

fn stores(folder: &Path) -> [Artifacts; 2] {
    let memory = Arc::new(object_store::memory::InMemory::new());
    [Artifacts::local(folder.join("artifacts")).unwrap(), Artifacts::new(memory)]
}

/// A file of several upload pieces with something else in each byte's neighbour.
fn film_file(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let bytes: Vec<u8> =
        (0..20_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = folder.join("made.mp4");
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[tokio::test]
async fn a_file_of_many_pieces_comes_back_in_ranges_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = film_file(folder.path());
    for artifacts in stores(folder.path()) {
        let job = JobId::new(1);
        let stored = artifacts.put_file(job, FILM, &path).await.unwrap();
        assert_eq!((stored.name, stored.size_bytes), (FILM, bytes.len() as u64));
        assert_eq!(artifacts.size_bytes(job, FILM).await.unwrap(), bytes.len() as u64);
        let size = bytes.len() as u64;
        for range in [0..1, 0..0, size..size, 8_388_600..8_388_616, size - 5..size, 0..size] {
            let read = artifacts.get_range(job, FILM, range.clone()).await.unwrap();
            assert_eq!(read, bytes[range.start as usize..range.end as usize], "{range:?}");
        }
        #[expect(clippy::reversed_empty_ranges, reason = "clients ask for such")]
        for range in [0..size + 1, 5..4, u64::MAX - 1..u64::MAX] {
            let error = artifacts.get_range(job, FILM, range.clone()).await.unwrap_err();
            assert!(matches!(error, ArtifactError::Range { .. }), "{range:?}: {error}");
        }
    }
}

#[tokio::test]
async fn a_file_is_given_to_another_job_and_brought_back_and_outlives_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = film_file(folder.path());
    let input = ArtifactName { kind: ArtifactKind::Input(1), format: Format::Mp4 };
    for artifacts in stores(folder.path()) {
        let (first, second) = (JobId::new(1), JobId::new(2));
        artifacts.put_file(first, FILM, &path).await.unwrap();
        let copied = artifacts.copy((first, FILM), (second, input)).await.unwrap();
        assert_eq!((copied.name, copied.size_bytes), (input, bytes.len() as u64));
        artifacts.delete_job(first).await.unwrap();
        let back = folder.path().join("back.mp4");
        artifacts.save(second, input, &back).await.unwrap();
        assert!(std::fs::read(&back).unwrap() == bytes, "another file");
        let error = artifacts.copy((first, FILM), (second, FILM)).await.unwrap_err();
        assert!(matches!(error, ArtifactError::NotFound { .. }), "{error}");
        let error = artifacts.save(first, FILM, &folder.path().join("x")).await.unwrap_err();
        assert!(matches!(error, ArtifactError::NotFound { .. }), "{error}");
    }
    assert!(!folder.path().join("x").exists() && !folder.path().join("x.partial").exists());
}

#[tokio::test]
async fn a_file_replaces_one_of_the_same_name_and_an_empty_one_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for artifacts in stores(folder.path()) {
        let job = JobId::new(1);
        artifacts.put_bytes(job, PICTURE, &b"first"[..]).await.unwrap();
        artifacts.put_bytes(job, PICTURE, &b"2nd"[..]).await.unwrap();
        assert_eq!(artifacts.get_range(job, PICTURE, 0..3).await.unwrap(), "2nd");
        let empty = folder.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert_eq!(artifacts.put_file(job, FILM, &empty).await.unwrap().size_bytes, 0);
        assert_eq!(artifacts.size_bytes(job, FILM).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn sizes_add_up_and_deleting_a_job_takes_all_of_it_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for artifacts in stores(folder.path()) {
        let (one, two) = (JobId::new(1), JobId::new(2));
        assert_eq!(artifacts.total_bytes().await.unwrap(), 0);
        for job in [one, two] {
            artifacts.put_bytes(job, PICTURE, vec![0; 10]).await.unwrap();
            artifacts.put_bytes(job, FILM, vec![0; 100]).await.unwrap();
        }
        assert_eq!(artifacts.job_bytes(one).await.unwrap(), 110);
        assert_eq!(artifacts.total_bytes().await.unwrap(), 220);
        if let Some(path) = artifacts.local_path(one, FILM) {
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 100);
            // What a killed upload leaves behind.
            std::fs::write(path.with_file_name("film.mp4#1"), b"half").unwrap();
        }
        for _ in 0..2 {
            artifacts.delete_job(one).await.unwrap();
        }
        assert!(
            artifacts.local_path(one, FILM).is_none_or(|path| !path.parent().unwrap().exists())
        );
        assert_eq!(artifacts.total_bytes().await.unwrap(), 110);
        let error = artifacts.get_range(one, FILM, 0..1).await.unwrap_err();
        assert!(matches!(error, ArtifactError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named_and_leaves_no_artifact() {
    let folder = tempfile::tempdir().unwrap();
    for artifacts in stores(folder.path()) {
        let missing = folder.path().join("missing.mp4");
        let error = artifacts.put_file(JobId::new(1), FILM, &missing).await.unwrap_err();
        assert!(error.to_string().contains("missing.mp4"), "{error}");
        // A folder opens as a file and fails when it is read.
        assert!(artifacts.put_file(JobId::new(1), FILM, folder.path()).await.is_err());
        assert_eq!(artifacts.total_bytes().await.unwrap(), 0);
        let error = artifacts.size_bytes(JobId::new(1), FILM).await.unwrap_err();
        assert!(matches!(error, ArtifactError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_film_that_is_replaced_is_never_seen_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::local(folder.path().join("artifacts")).unwrap();
    let job = JobId::new(1);
    let files: Vec<_> = [1_u8, 2]
        .map(|byte| {
            let path = folder.path().join(byte.to_string());
            std::fs::write(&path, vec![byte; 1_000_000]).unwrap();
            path
        })
        .to_vec();
    artifacts.put_file(job, FILM, &files[0]).await.unwrap();
    let writer = tokio::spawn({
        let artifacts = artifacts.clone();
        async move {
            for n in 0..20 {
                artifacts.put_file(job, FILM, &files[n % 2]).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let read = artifacts.get_range(job, FILM, 0..1_000_000).await.unwrap();
        assert!(read.iter().all(|byte| *byte == read[0]));
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
}
