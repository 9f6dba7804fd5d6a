//! Names: sites, repositories, revisions, files. What is in one of these types can be put into a path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::HubError;
use crate::error::shown;

/// Where models are published.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// huggingface.co, or a mirror of it.
    #[default]
    HuggingFace,
    /// modelscope.cn.
    ModelScope,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HuggingFace => "Hugging Face",
            Self::ModelScope => "ModelScope",
        })
    }
}

/// A repository: owner and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId {
    owner: String,
    name: String,
}

impl RepoId {
    /// Who it belongs to.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }
}

const REPO_RULE: &str = "a repository is written OWNER/NAME, of letters, digits, '-', '_' and '.', such as \
                         Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers";

impl FromStr for RepoId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Name { what: "repository", value: shown(text), rule: REPO_RULE };
        let (owner, name) = text.split_once('/').ok_or_else(wrong)?;
        // "--" and ".." are refused by the sites too: caches write "--" for the slash.
        let good = |part: &str| {
            (1..=96).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !part.contains("--")
                && !part.contains("..")
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
        };
        if !good(owner) || !good(name) {
            return Err(wrong());
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// A path inside a repository or of a revision: relative, without a way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoPath(String);

impl RepoPath {
    /// With slashes, as the sites write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Under a folder of this machine.
    pub fn under(&self, folder: &Path) -> PathBuf {
        folder.join(self.0.split('/').collect::<PathBuf>())
    }

    /// How many folders it lies in.
    pub(crate) fn depth(&self) -> usize {
        self.0.matches('/').count()
    }

    /// The name alone.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for RepoPath {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let good = |part: &str| {
            (1..=255).contains(&part.len())
                && part != "."
                && part != ".."
                // Windows takes these for folders, drives and streams.
                && !part.contains(['\\', ':'])
                && !part.chars().any(char::is_control)
        };
        if text.len() > 1024 || !text.split('/').all(good) {
            let rule = "a file's name is relative, of parts without '..', '\\' and ':'";
            return Err(HubError::Name { what: "file", value: shown(text), rule });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(RepoPath);

impl Revision {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is a whole commit, which never changes.
    pub fn is_commit(&self) -> bool {
        is_hex(self.as_str(), 40)
    }

    pub(crate) fn under(&self, folder: &Path) -> PathBuf {
        self.0.under(folder)
    }
}

impl FromStr for Revision {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let rule = "a revision is a branch, a tag or a commit, such as main";
        let wrong = || HubError::Name { what: "revision", value: shown(text), rule };
        let path: RepoPath = text.parse().map_err(|_| wrong())?;
        if text.contains([' ', '@', '?', '#', '~', '^', '*', '[']) || text.starts_with('-') {
            return Err(wrong());
        }
        Ok(Self(path))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a person types: `OWNER/NAME[@REVISION]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The repository.
    pub id: RepoId,
    /// The revision, where one is named.
    pub revision: Option<Revision>,
}

impl FromStr for Reference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision.parse()?)),
            None => (text, None),
        };
        Ok(Self { id: id.parse()?, revision })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.id),
            None => self.id.fmt(f),
        }
    }
}

/// Whether `text` is `length` hexadecimal digits in lower case.
pub(crate) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_a_folder() {
        for name in [
            "",
            "/etc/passwd",
            "..",
            "a/../../b",
            "../x",
            "a//b",
            "./a",
            "a/.",
            "C:/x",
            "a\\..\\b",
            "a\0b",
            "a/",
            "nul:",
            &"x".repeat(300),
        ] {
            assert!(name.parse::<RepoPath>().is_err(), "{name:?}");
        }
        let path: RepoPath = "vae/config.json".parse().expect("a name");
        assert_eq!(path.under(Path::new("/c")), Path::new("/c/vae/config.json"));
    }

    #[test]
    fn references_are_read_with_and_without_a_revision() {
        let both: Reference = "Skywork/X-1.3B@refs/pr/1".parse().expect("a reference");
        assert_eq!(both.id.to_string(), "Skywork/X-1.3B");
        assert_eq!(both.revision.expect("a revision").as_str(), "refs/pr/1");
        for wrong in
            ["x", "a/b/c", "a/..", "../b", "a/b@", "a/b@..", "a/b@x@y", "a--b/c", "/b", "a b/c"]
        {
            assert!(wrong.parse::<Reference>().is_err(), "{wrong:?}");
        }
    }
}
