//! A model on its way here: what is missing, whether there is room, and all of it at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::HubError;
use crate::cache::{Cache, Kept, link};
use crate::digest::Digest;
use crate::disk::free_bytes;
use crate::download::{Ended, Wanted, download};
use crate::http::Client;
use crate::id::{RepoPath, Site};
use crate::listing::{Listed, Listing};

/// What is told while files come.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Bytes that were here before.
    Here(u64),
    /// Bytes that came; below zero when a file begins anew.
    Bytes(i64),
    /// A file is whole.
    Done {
        /// Its name.
        file: &'a str,
    },
    /// A connection failed and is tried again.
    Waiting {
        /// Of which file.
        file: &'a str,
        /// What happened.
        problem: &'a str,
        /// When it is tried again.
        wait: Duration,
    },
    /// Another program fetches the same file.
    Busy {
        /// Its name.
        file: &'a str,
    },
}

/// Who is told.
pub type Watch<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

/// What a pull will do.
#[derive(Debug)]
pub struct Pull<'a> {
    cache: &'a Cache,
    listing: &'a Listing,
    files: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    name: RepoPath,
    size_bytes: u64,
    digest: Option<Digest>,
    /// Where the content is kept.
    content: PathBuf,
    /// What was fetched of it before.
    have_bytes: u64,
    is_whole: bool,
}

/// Room that is left for others.
const SPARE_BYTES: u64 = 64 << 20;

impl<'a> Pull<'a> {
    /// Looks at what is here already. Nothing is written.
    ///
    /// # Errors
    /// When the site's list names a file outside of the repository, or does not say what a file holds.
    pub fn plan(
        cache: &'a Cache,
        listing: &'a Listing,
        chosen: &[&Listed],
    ) -> Result<Self, HubError> {
        let repository = cache.repository(&listing.id);
        let snapshot = cache.snapshot(&listing.id, &listing.commit);
        let plan = |file: &&Listed| {
            let name: RepoPath = file.name.parse()?;
            let missing = |what: &str| HubError::Choice {
                repository: listing.id.to_string(),
                problem: format!("is listed without the {what} of {name}"),
                way_out: "the mirror's list is incomplete; try another --endpoint".to_owned(),
            };
            let size_bytes = file.size_bytes.ok_or_else(|| missing("size"))?;
            let content = match (cache.site(), &file.digest) {
                (Site::HuggingFace, Some(digest)) => repository.join("blobs").join(digest.as_str()),
                (Site::HuggingFace, None) => return Err(missing("hash")),
                (Site::ModelScope, _) => name.under(&snapshot),
            };
            let length = |path: &PathBuf| fs::metadata(path).ok().map(|m| m.len());
            let is_whole = length(&content) == Some(size_bytes);
            let have_bytes = match is_whole {
                true => size_bytes,
                false => length(&incomplete(&content)).filter(|n| *n <= size_bytes).unwrap_or(0),
            };
            let digest = file.digest.clone();
            Ok(Planned { name, size_bytes, digest, content, have_bytes, is_whole })
        };
        let files = chosen.iter().map(plan).collect::<Result<Vec<_>, HubError>>()?;
        Ok(Self { cache, listing, files })
    }

    /// Files of the model.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files; content that several share counts once.
    pub fn total_bytes(&self) -> u64 {
        self.contents().values().map(|file| file.size_bytes).sum()
    }

    /// Bytes that are here already.
    pub fn have_bytes(&self) -> u64 {
        self.contents().values().map(|file| file.have_bytes).sum()
    }

    /// Whether nothing is to be fetched.
    pub fn is_whole(&self) -> bool {
        self.files.iter().all(|file| file.is_whole)
    }

    fn contents(&self) -> BTreeMap<&PathBuf, &Planned> {
        self.files.iter().map(|file| (&file.content, file)).collect()
    }

    /// Refuses when the disk cannot take what is missing.
    ///
    /// # Errors
    /// [`HubError::Space`].
    pub fn check_space(&self, client: &Client) -> Result<(), HubError> {
        let missing = self.total_bytes() - self.have_bytes();
        let needed_bytes = missing.saturating_add(SPARE_BYTES);
        match free_bytes(self.cache.root()) {
            Some(free_bytes) if missing > 0 && free_bytes < needed_bytes => Err(HubError::Space {
                folder: self.cache.root().to_owned(),
                free_bytes,
                needed_bytes,
                variable: client.settings().cache_variable(),
            }),
            _ => Ok(()),
        }
    }

    /// Fetches what is missing, `parallel` files at once, and makes the snapshot. What was fetched when it
    /// fails is kept for the next time.
    ///
    /// # Errors
    /// The first failure of any file.
    pub fn fetch(
        &self,
        client: &Client,
        parallel: usize,
        watch: Watch<'_>,
    ) -> Result<Kept, HubError> {
        self.check_space(client)?;
        let mut queue: Vec<&Planned> = self.contents().into_values().collect();
        // The smallest last in the list, which is taken from its end: a wrong name or a lack of leave
        // shows at once, and the large ones run side by side.
        queue.sort_by_key(|file| std::cmp::Reverse(file.size_bytes));
        let queue = Mutex::new(queue);
        let stop = AtomicBool::new(false);
        let failed: Mutex<Option<HubError>> = Mutex::new(None);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            while let Some(file) = next() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = self.bring(client, file, &stop, watch) {
                    stop.store(true, Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..parallel.clamp(1, 32) {
                scope.spawn(work);
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        self.make_snapshot()
    }

    /// One file.
    fn bring(
        &self,
        client: &Client,
        file: &Planned,
        stop: &AtomicBool,
        watch: Watch<'_>,
    ) -> Result<(), HubError> {
        let name = file.name.as_str();
        if file.is_whole {
            watch(Progress::Here(file.size_bytes));
            watch(Progress::Done { file: name });
            return Ok(());
        }
        client.check_online()?;
        let parent = file.content.parent().unwrap_or(self.cache.root());
        fs::create_dir_all(parent).map_err(HubError::io("make", parent))?;
        let lock = self.lock(file)?;
        if let Some(lock) = &lock
            && lock.try_lock().is_err()
        {
            watch(Progress::Busy { file: name });
            // Where a file system has no locks, each program fetches for itself.
            let _ = lock.lock();
        }
        if fs::metadata(&file.content).is_ok_and(|m| m.len() == file.size_bytes) {
            watch(Progress::Here(file.size_bytes));
            watch(Progress::Done { file: name });
            return Ok(());
        }
        let url = client.file_address(self.listing, name)?;
        let digest = file.digest.as_ref();
        let wanted = Wanted { name, url, size_bytes: file.size_bytes, digest };
        let beside = incomplete(&file.content);
        download(client, &wanted, &beside, stop, watch).map_err(|ended| match ended {
            Ended::Failed(error) => error,
            Ended::Refused(refused) => {
                let asked = Some(&self.listing.asked);
                client.explain(&wanted.url, &self.listing.id, asked, refused)
            }
        })?;
        fs::rename(&beside, &file.content).map_err(HubError::io("name", &file.content))?;
        watch(Progress::Done { file: name });
        Ok(())
    }

    /// The file by which programs, those in Python too, keep out of each other's way.
    fn lock(&self, file: &Planned) -> Result<Option<File>, HubError> {
        let (Site::HuggingFace, Some(digest)) = (self.cache.site(), &file.digest) else {
            return Ok(None);
        };
        let id = &self.listing.id;
        let folder = self.cache.root().join(".locks");
        let folder = folder.join(format!("models--{}--{}", id.owner(), id.name()));
        fs::create_dir_all(&folder).map_err(HubError::io("make", &folder))?;
        let path = folder.join(format!("{}.lock", digest.as_str()));
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        open.map(Some).map_err(HubError::io("open", &path))
    }

    fn make_snapshot(&self) -> Result<Kept, HubError> {
        let (id, commit) = (&self.listing.id, &self.listing.commit);
        let folder = self.cache.snapshot(id, commit);
        if self.cache.site() == Site::HuggingFace {
            for file in &self.files {
                let path = file.name.under(&folder);
                // Followed: a link that leads to the content is as good as it gets.
                let there = fs::canonicalize(&path).ok();
                if there.is_none() || there != fs::canonicalize(&file.content).ok() {
                    link(&file.content, &path, &file.name)?;
                }
            }
            if self.listing.asked != *commit {
                let reference = self.listing.asked.under(&self.cache.repository(id).join("refs"));
                let parent = reference.parent().unwrap_or(&folder);
                fs::create_dir_all(parent).map_err(HubError::io("make", parent))?;
                fs::write(&reference, commit.as_str())
                    .map_err(HubError::io("write", &reference))?;
            }
        }
        Ok(Kept {
            site: self.cache.site(),
            id: id.clone(),
            revision: commit.clone(),
            names: vec![self.listing.asked.to_string()],
            folder,
        })
    }
}

fn incomplete(content: &std::path::Path) -> PathBuf {
    let mut name = content.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    content.with_file_name(name)
}
