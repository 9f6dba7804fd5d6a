//! Where models lie on this machine: the caches of the sites' own tools, in their own layouts.
//!
//! ```text
//! Hugging Face   models--OWNER--NAME/blobs/HASH                   the content, once
//!                models--OWNER--NAME/snapshots/COMMIT/PATH        links to it
//!                models--OWNER--NAME/refs/main                    the commit of a branch
//!                blobs/XX/HASH                                    content that repositories share
//! ModelScope     models/OWNER--NAME/snapshots/REVISION/PATH       the content
//!                models/OWNER/NAME, hub/models/OWNER/NAME         as its older tools have it
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::HubError;
use crate::id::{RepoId, RepoPath, Revision, Site, is_hex};
use crate::settings::{Environment, Settings, cache_folder};

/// A model that is kept, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it came from.
    pub site: Site,
    /// Which repository.
    pub id: RepoId,
    /// Its commit; on ModelScope its branch or tag.
    pub revision: Revision,
    /// Branches and tags that stand for it.
    pub names: Vec<String>,
    /// The folder in which its files lie under their own names.
    pub folder: PathBuf,
}

/// One file of a kept model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptFile {
    /// Its path in the repository.
    pub name: String,
    /// Where it lies, or should.
    pub path: PathBuf,
    /// Its size; `None` when a link leads to nothing.
    pub size_bytes: Option<u64>,
}

/// The cache of one site.
#[derive(Debug, Clone)]
pub struct Cache {
    site: Site,
    root: PathBuf,
}

/// Folders deeper than that are not looked into.
const DEPTH_MAX: usize = 8;
/// More files than that no model has.
const FILES_MAX: usize = 20_000;
/// Shortest beginning of a commit that stands for it.
const SHORT_COMMIT: usize = 7;

impl Cache {
    /// The cache that the settings name.
    pub fn new(settings: &Settings) -> Self {
        Self { site: settings.site, root: settings.cache.clone() }
    }

    /// The cache of a site, by the environment; nothing else of it has to be in order.
    pub fn of_environment(site: Site, environment: &Environment) -> Self {
        Self { site, root: cache_folder(site, environment) }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whose cache it is.
    pub fn site(&self) -> Site {
        self.site
    }

    /// The folder of a repository.
    pub(crate) fn repository(&self, id: &RepoId) -> PathBuf {
        let name = format!("{}--{}", id.owner(), id.name());
        match self.site {
            Site::HuggingFace => self.root.join(format!("models--{name}")),
            Site::ModelScope => self.root.join("models").join(name),
        }
    }

    /// The folder of a revision.
    pub(crate) fn snapshot(&self, id: &RepoId, commit: &Revision) -> PathBuf {
        commit.under(&self.repository(id).join("snapshots"))
    }

    /// The kept model that is meant: at `revision`, which may be the beginning of a commit, or at the main
    /// branch.
    pub fn find(&self, id: &RepoId, revision: Option<&Revision>) -> Option<Kept> {
        let all = self.of_repository(id);
        let Some(revision) = revision else {
            let main = all.iter().find(|k| k.names.iter().any(|n| n == "main" || n == "master"));
            return main.or(all.first()).cloned();
        };
        let text = revision.as_str();
        let exact =
            all.iter().find(|k| k.revision == *revision || k.names.iter().any(|n| n == text));
        let is_short = (SHORT_COMMIT..40).contains(&text.len()) && is_hex(text, text.len());
        let mut short = all.iter().filter(|k| is_short && k.revision.as_str().starts_with(text));
        exact.or_else(|| short.next().filter(|_| short.next().is_none())).cloned()
    }

    /// Every kept model, by name; the newest of a repository first.
    pub fn all(&self) -> Vec<Kept> {
        let mut ids: Vec<RepoId> = Vec::new();
        let mut add = |owner: &str, name: &str| ids.extend(format!("{owner}/{name}").parse());
        match self.site {
            Site::HuggingFace => {
                for folder in folders(&self.root) {
                    if let Some((owner, name)) =
                        folder.strip_prefix("models--").and_then(|rest| rest.split_once("--"))
                    {
                        add(owner, name);
                    }
                }
            }
            Site::ModelScope => {
                for folder in folders(&self.root.join("models")) {
                    if let Some((owner, name)) = folder.split_once("--") {
                        add(owner, name);
                    }
                }
                for base in self.old_places() {
                    for owner in folders(&base).iter().filter(|name| !name.contains("--")) {
                        for name in folders(&base.join(owner)) {
                            add(owner, &name.replace("___", "."));
                        }
                    }
                }
            }
        }
        ids.sort();
        ids.dedup();
        ids.iter().flat_map(|id| self.of_repository(id)).collect()
    }

    fn old_places(&self) -> [PathBuf; 2] {
        [self.root.join("models"), self.root.join("hub").join("models")]
    }

    fn of_repository(&self, id: &RepoId) -> Vec<Kept> {
        let repository = self.repository(id);
        let snapshots = repository.join("snapshots");
        let mut kept: Vec<(std::time::SystemTime, Kept)> = Vec::new();
        let mut add = |folder: PathBuf, revision: &str, names: Vec<String>| {
            if let Ok(revision) = revision.parse() {
                let changed = fs::metadata(&folder).and_then(|m| m.modified());
                let changed = changed.unwrap_or(std::time::UNIX_EPOCH);
                let kept_one = Kept { site: self.site, id: id.clone(), revision, names, folder };
                kept.push((changed, kept_one));
            }
        };
        let refs = references(&repository.join("refs"));
        for name in folders(&snapshots) {
            // Branches with a slash lie a folder deeper, only in ModelScope's.
            let names: Vec<String> =
                refs.iter().filter(|(_, commit)| *commit == name).map(|(n, _)| n.clone()).collect();
            let names = match self.site {
                Site::HuggingFace => names,
                Site::ModelScope => vec![name.clone()],
            };
            add(snapshots.join(&name), &name, names);
        }
        if self.site == Site::ModelScope {
            for base in self.old_places() {
                let folder = base.join(id.owner()).join(id.name().replace('.', "___"));
                if folder.is_dir() {
                    add(folder, "master", vec!["master".to_owned()]);
                }
            }
        }
        kept.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.revision.cmp(&b.1.revision)));
        kept.into_iter().map(|(_, kept)| kept).collect()
    }

    /// Bytes that were fetched for a repository and are no whole file yet.
    pub fn unfinished_bytes(&self, id: &RepoId) -> u64 {
        let repository = self.repository(id);
        let folder = match self.site {
            Site::HuggingFace => repository.join("blobs"),
            Site::ModelScope => repository.join("snapshots"),
        };
        let mut files = Vec::new();
        walk(&folder, &folder, 0, &mut files);
        let unfinished = files.iter().filter(|file| file.name.ends_with(".incomplete"));
        unfinished.filter_map(|file| file.size_bytes).sum()
    }
}

impl Kept {
    /// Its files, by name.
    pub fn files(&self) -> Vec<KeptFile> {
        let mut files = Vec::new();
        walk(&self.folder, &self.folder, 0, &mut files);
        files.retain(|file| !file.name.ends_with(".incomplete"));
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.files().iter().filter_map(|file| file.size_bytes).sum()
    }

    /// Owner, name and revision, as a person types it.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.id, self.revision)
    }

    /// The same with the first twelve digits of a commit.
    pub fn short_reference(&self) -> String {
        let revision = self.revision.as_str();
        let short = if self.revision.is_commit() { &revision[..12] } else { revision };
        format!("{}@{short}", self.id)
    }
}

/// Names of the folders in a folder, sorted. A folder that is not there has none.
fn folders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .take(FILES_MAX)
        .collect();
    names.sort();
    names
}

/// Branches and tags with their commits.
pub(crate) fn references(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    walk(folder, folder, 0, &mut files);
    let read = |file: &KeptFile| {
        // A commit has 40 digits; a longer file is none.
        let commit = Some(&file.path).filter(|_| file.size_bytes.is_some_and(|n| n <= 256));
        let commit = fs::read_to_string(commit?).ok()?;
        Some((file.name.clone(), commit.trim().to_owned()))
    };
    files.iter().filter_map(read).collect()
}

/// All files under a folder. Links to files are files; links to folders are not followed.
fn walk(root: &Path, folder: &Path, depth: usize, files: &mut Vec<KeptFile>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if files.len() >= FILES_MAX {
            return;
        }
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if depth < DEPTH_MAX {
                walk(root, &path, depth + 1, files);
            }
            continue;
        }
        let Ok(inner) = path.strip_prefix(root) else { continue };
        let parts: Option<Vec<&str>> = inner.iter().map(|part| part.to_str()).collect();
        let Some(name) = parts.map(|parts| parts.join("/")) else { continue };
        let size_bytes = fs::metadata(&path).ok().filter(fs::Metadata::is_file).map(|m| m.len());
        files.push(KeptFile { name, path, size_bytes });
    }
}

/// Makes `link` lead to `target`, whatever was there; where links cannot be made, a copy.
pub(crate) fn link(target: &Path, link: &Path, name: &RepoPath) -> Result<(), HubError> {
    let parent = link.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(HubError::io("make", parent))?;
    // From snapshots/COMMIT/PATH to blobs/HASH, so that the cache can be moved.
    let mut relative: PathBuf = std::iter::repeat_n("..", name.depth() + 2).collect();
    relative.push("blobs");
    relative.push(target.file_name().unwrap_or_default());
    let beside = link.with_file_name(format!(".{}.{}", name.file_name().len(), std::process::id()));
    let _ = fs::remove_file(&beside);
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&relative, &beside);
    #[cfg(not(unix))]
    let made: std::io::Result<()> = Err(std::io::ErrorKind::Unsupported.into());
    let made = made.or_else(|_| fs::copy(target, &beside).map(|_| ()));
    made.and_then(|()| fs::rename(&beside, link)).map_err(HubError::io("link", link))
}
