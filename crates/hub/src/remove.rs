//! Taking a model away, with what nobody else uses.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::HubError;
use crate::cache::{Cache, Kept, references};
use crate::id::Site;

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Bytes of it.
    pub bytes: u64,
    /// Files of it.
    pub files: u64,
}

impl Cache {
    /// Removes one revision of a model: its snapshot, the names that stand for it, and the content that no
    /// other revision has. With the last revision the repository's folder goes.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self, kept: &Kept) -> Result<Removed, HubError> {
        let mut removed = Removed::default();
        if self.site() == Site::ModelScope {
            for file in kept.files() {
                removed.bytes += file.size_bytes.unwrap_or(0);
                removed.files += 1;
            }
            remove_folder(&kept.folder)?;
            let snapshots = kept.folder.parent().filter(|p| p.ends_with("snapshots"));
            if let Some(repository) = snapshots.filter(|p| is_empty(p)).and_then(Path::parent) {
                remove_folder(repository)?;
            }
            return Ok(removed);
        }
        let repository = self.repository(&kept.id);
        let blobs = repository.join("blobs");
        let targets = |folder: &Path| -> BTreeSet<PathBuf> {
            let kept = Kept { folder: folder.to_owned(), ..kept.clone() };
            let target = |path: &Path| Some(blobs.join(fs::read_link(path).ok()?.file_name()?));
            kept.files().iter().filter_map(|file| target(&file.path)).collect()
        };
        let mine = targets(&kept.folder);
        let snapshots = repository.join("snapshots");
        let others: Vec<PathBuf> = fs::read_dir(&snapshots)
            .map_err(HubError::io("list", &snapshots))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| *path != kept.folder)
            .collect();
        let in_use: BTreeSet<PathBuf> = others.iter().flat_map(|other| targets(other)).collect();
        let commit = kept.revision.as_str();
        for (name, _) in references(&repository.join("refs")).iter().filter(|(_, c)| c == commit) {
            let path = repository.join("refs").join(name);
            fs::remove_file(&path).map_err(HubError::io("remove", &path))?;
        }
        remove_folder(&kept.folder)?;
        for blob in mine.difference(&in_use) {
            self.remove_blob(blob, &mut removed)?;
        }
        let absent = repository.join(".no_exist").join(commit);
        if absent.is_dir() {
            remove_folder(&absent)?;
        }
        if others.is_empty() {
            for left in fs::read_dir(&blobs).into_iter().flatten().flatten() {
                self.remove_blob(&left.path(), &mut removed)?;
            }
            remove_folder(&repository)?;
        }
        Ok(removed)
    }

    /// A blob, and what it stands for among those that repositories share, when this was its last user.
    fn remove_blob(&self, blob: &Path, removed: &mut Removed) -> Result<(), HubError> {
        let Ok(metadata) = blob.symlink_metadata() else { return Ok(()) };
        let shared = metadata.is_symlink().then(|| fs::canonicalize(blob).ok()).flatten();
        let mut count = |bytes| {
            removed.bytes += bytes;
            removed.files += 1;
        };
        fs::remove_file(blob).map_err(HubError::io("remove", blob))?;
        let Some(shared) = shared else {
            count(metadata.len());
            return Ok(());
        };
        let store = fs::canonicalize(self.root().join("blobs")).ok();
        // Elsewhere it is not ours to remove.
        if store.is_none_or(|store| !shared.starts_with(store)) || self.uses(&shared) {
            return Ok(());
        }
        count(shared.metadata().map_or(0, |m| m.len()));
        fs::remove_file(&shared).map_err(HubError::io("remove", &shared))?;
        // The list of its users that huggingface_hub keeps beside it.
        let mut manifest = shared.into_os_string();
        manifest.push(".refs");
        let _ = fs::remove_file(manifest);
        Ok(())
    }

    /// Whether any repository of this cache has a link to `shared`.
    fn uses(&self, shared: &Path) -> bool {
        let repositories = fs::read_dir(self.root()).into_iter().flatten().flatten();
        repositories
            .flat_map(|repository| {
                fs::read_dir(repository.path().join("blobs")).into_iter().flatten()
            })
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_symlink())
            .any(|path| fs::canonicalize(path).is_ok_and(|target| target == shared))
    }
}

fn remove_folder(path: &Path) -> Result<(), HubError> {
    fs::remove_dir_all(path).map_err(HubError::io("remove", path))
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}
