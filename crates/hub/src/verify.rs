//! Whether what is kept is what was published.

use std::path::Path;

use serde::Serialize;

use crate::HubError;
use crate::cache::{Kept, KeptFile};
use crate::digest::Digest;
use crate::id::Site;
use crate::listing::Listing;

/// One file, compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Its path in the repository.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
}

/// How a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Its hash is right.
    Sound,
    /// Its hash is another.
    Damaged {
        /// The one it should have.
        expected: String,
        /// The one it has.
        found: String,
    },
    /// There is a link and no content.
    Missing,
    /// Nobody here knows its hash.
    Unknown,
}

impl Kept {
    /// The hash that a file should have: by its name among the blobs, or by the site's list.
    fn expected(&self, file: &KeptFile, listing: Option<&Listing>) -> Option<Digest> {
        if self.site == Site::HuggingFace
            && let Some(digest) = blob_name(&file.path)
        {
            return Some(digest);
        }
        let listed = listing?.files.iter().find(|listed| listed.name == file.name)?;
        listed.digest.clone()
    }

    /// Whether all hashes are known without asking the site.
    pub fn knows_hashes(&self) -> bool {
        self.files().iter().all(|file| self.expected(file, None).is_some())
    }

    /// Hashes every file; `watch` hears of the bytes read, `told` of each file.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn verify(
        &self,
        listing: Option<&Listing>,
        watch: &dyn Fn(u64),
        told: &mut dyn FnMut(&Checked),
    ) -> Result<Vec<Checked>, HubError> {
        let mut checked = Vec::new();
        for file in self.files() {
            let state = match (file.size_bytes, self.expected(&file, listing)) {
                (None, _) => State::Missing,
                (Some(_), None) => State::Unknown,
                (Some(_), Some(expected)) => {
                    let found = expected.of_file(&file.path, watch)?;
                    match found == expected.as_str() {
                        true => State::Sound,
                        false => State::Damaged { expected: expected.as_str().to_owned(), found },
                    }
                }
            };
            let one = Checked { name: file.name, size_bytes: file.size_bytes.unwrap_or(0), state };
            told(&one);
            checked.push(one);
        }
        Ok(checked)
    }

    /// Takes away what is damaged, so that the next pull fetches it again.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn discard(&self, checked: &[Checked]) -> Result<(), HubError> {
        let bad =
            |checked: &&Checked| matches!(checked.state, State::Damaged { .. } | State::Missing);
        let files = self.files();
        for checked in checked.iter().filter(bad) {
            let Some(file) = files.iter().find(|file| file.name == checked.name) else { continue };
            let content = std::fs::canonicalize(&file.path).ok();
            // Only what lies in the cache: the content in the blobs, and the link to it.
            let inside = content.filter(|content| content.file_name() != file.path.file_name());
            for path in inside.iter().chain([&file.path]) {
                if path.symlink_metadata().is_ok() {
                    std::fs::remove_file(path).map_err(HubError::io("remove", path))?;
                }
            }
        }
        Ok(())
    }
}

/// The hash that the blob behind a link is named by.
pub(crate) fn blob_name(path: &Path) -> Option<Digest> {
    // Only the first link: what repositories share has a name of another kind behind it.
    let target = std::fs::read_link(path).ok()?;
    Digest::of_name(target.file_name()?.to_str()?)
}
