//! What a file's content is called: by its SHA-256, or as git calls a small file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::Digest as _;

use crate::HubError;
use crate::id::is_hex;

/// The hash of a file, as a site lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Digest {
    /// 64 hexadecimal digits: large files.
    Sha256(String),
    /// 40 hexadecimal digits: git's name of a blob, which is the SHA-1 of its length and content.
    GitBlob(String),
}

impl Digest {
    /// From the name that a cache gives a blob.
    pub fn of_name(name: &str) -> Option<Self> {
        if is_hex(name, 64) {
            return Some(Self::Sha256(name.to_owned()));
        }
        is_hex(name, 40).then(|| Self::GitBlob(name.to_owned()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }

    /// For messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "git hash",
        }
    }

    /// Starts the hash of a file of `size_bytes`.
    pub(crate) fn hasher(&self, size_bytes: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            Self::GitBlob(_) => {
                let mut sha1 = sha1::Sha1::new();
                sha1.update(format!("blob {size_bytes}\0"));
                Hasher::Sha1(sha1)
            }
        }
    }

    /// The hash of this kind that a file really has; `progress` hears of the bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(&self, path: &Path, progress: &dyn Fn(u64)) -> Result<String, HubError> {
        let mut file = File::open(path).map_err(HubError::io("open", path))?;
        let size = file.metadata().map_err(HubError::io("read", path))?.len();
        let mut hasher = self.hasher(size);
        hasher.read(&mut file, progress).map_err(HubError::io("read", path))?;
        Ok(hasher.finish())
    }
}

pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha1(hash) => hash.update(bytes),
        }
    }

    /// Takes in all that is left in `from`.
    pub fn read(&mut self, from: &mut impl Read, progress: &dyn Fn(u64)) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.update(&buffer[..n]);
            progress(n as u64);
        }
    }

    pub fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Sha1(hash) => hex(&hash.finalize()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_git_hash_object() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "hello\n").expect("writable");
        let of = |digest: Digest| digest.of_file(file.path(), &|_| {}).expect("readable");
        assert_eq!(of(Digest::GitBlob(String::new())), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(
            of(Digest::Sha256(String::new())),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
    }
}
