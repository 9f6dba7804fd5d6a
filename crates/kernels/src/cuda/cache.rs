//! Compiled kernels on disk, by what they were compiled from.
//!
//! It only saves time: a folder that is missing or may not be written to is no error, and what is damaged
//! is compiled again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

/// What a file begins with; another layout gets another number.
const MAGIC: &[u8] = b"longreel kernel 1\n";
/// Bytes of a SHA-256.
const HASH_BYTES: usize = 32;

/// A folder of compiled kernels, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// That of this user: `longreel/kernels` in `XDG_CACHE_HOME`, or else in the system's folder for caches.
    pub fn of_this_user() -> Self {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let caches = named("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| named("LOCALAPPDATA").map(PathBuf::from))
            .or_else(|| Some(PathBuf::from(named("HOME")?).join(".cache")));
        Self { folder: caches.map(|caches| caches.join("longreel").join("kernels")) }
    }

    /// One in a folder, which is made when something is put there.
    pub fn at(folder: &Path) -> Self {
        Self { folder: Some(folder.to_path_buf()) }
    }

    /// The name of what is made of these parts.
    pub fn key(parts: &[&[u8]]) -> String {
        let mut hash = Sha256::new();
        for part in parts {
            // The length keeps parts apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What was put there under this name, if it is whole.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let file = fs::read(self.file(key)?).ok()?;
        let (hash, code) = file.strip_prefix(MAGIC)?.split_at_checked(HASH_BYTES)?;
        (Sha256::digest(code).as_slice() == hash).then(|| code.to_vec())
    }

    /// Puts it there. Another process sees all of it or nothing.
    pub fn put(&self, key: &str, code: &[u8]) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(file) = self.file(key) else { return };
        let Some(folder) = file.parent() else { return };
        if fs::create_dir_all(folder).is_err() {
            return;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let beside = folder.join(format!("{key}.{}.{count}.part", std::process::id()));
        let whole = [MAGIC, Sha256::digest(code).as_slice(), code].concat();
        if fs::write(&beside, whole).and_then(|()| fs::rename(&beside, &file)).is_err() {
            // What is half written is of no use; when it cannot be removed either, nothing is lost.
            let _ = fs::remove_file(&beside);
        }
    }

    fn file(&self, key: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(key))
    }
}
