//! The lock file: which revisions of which models a folder's films are made with.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::HubError;
use crate::cache::Kept;
use crate::digest::Digest;
use crate::error::shown;
use crate::id::{RepoId, Revision, Site};
use crate::verify::blob_name;

/// What it is called.
pub const LOCK_FILE: &str = "longreel.lock";
const VERSION: u32 = 1;
const BYTES_MAX: u64 = 16 << 20;
const HEAD: &str =
    "# Models at the revisions that are meant; written by `longreel models pin`.\n\n";

/// All that a lock file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    version: u32,
    /// The models, by name.
    #[serde(rename = "model", default)]
    pub models: Vec<Pin>,
}

/// One model at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Owner and name.
    pub repository: String,
    /// Where it is published.
    pub from: Site,
    /// A commit; on ModelScope a branch or tag.
    pub revision: String,
    /// Its files.
    #[serde(rename = "file", default)]
    pub files: Vec<PinnedFile>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Its path in the repository.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

impl Default for Pins {
    fn default() -> Self {
        Self { version: VERSION, models: Vec::new() }
    }
}

impl Pins {
    /// Reads a lock file; one that is not there pins nothing.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, HubError> {
        let wrong = |problem: String| HubError::Pins {
            path: path.to_owned(),
            problem,
            way_out: "put it right, or remove it and pin the models again".to_owned(),
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(HubError::io("read", path)(error)),
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(wrong(format!("{} bytes are more than {BYTES_MAX}", metadata.len())));
            }
            Ok(_) => {}
        }
        let text = fs::read_to_string(path).map_err(HubError::io("read", path))?;
        let pins: Self = toml::from_str(&text).map_err(|e| wrong(shown(&e.to_string())))?;
        if pins.version != VERSION {
            return Err(wrong(format!("version {} is not known, only {VERSION} is", pins.version)));
        }
        for pin in &pins.models {
            pin.id().and(pin.revision()).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(pins)
    }

    /// Writes it whole, or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), HubError> {
        let text = toml::to_string(self).map_err(|error| HubError::Pins {
            path: path.to_owned(),
            problem: error.to_string(),
            way_out: "pin fewer models".to_owned(),
        })?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.new", std::process::id()));
        let beside = std::path::PathBuf::from(beside);
        let written = fs::write(&beside, format!("{HEAD}{text}"));
        written.and_then(|()| fs::rename(&beside, path)).map_err(|error| {
            let _ = fs::remove_file(&beside);
            HubError::io("write", path)(error)
        })
    }

    /// The pin of a repository.
    pub fn of(&self, id: &RepoId) -> Option<&Pin> {
        let name = id.to_string();
        self.models.iter().find(|pin| pin.repository == name)
    }

    /// Puts a pin in the place of the one that the repository had.
    pub fn set(&mut self, pin: Pin) {
        self.models.retain(|other| other.repository != pin.repository);
        self.models.push(pin);
        self.models.sort_by(|a, b| a.repository.cmp(&b.repository));
    }

    /// Takes the pin of a repository away; whether there was one.
    pub fn unset(&mut self, id: &RepoId) -> bool {
        let (before, name) = (self.models.len(), id.to_string());
        self.models.retain(|pin| pin.repository != name);
        self.models.len() < before
    }
}

impl Pin {
    /// A kept model, with the SHA-256 of each of its files.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub fn of_kept(kept: &Kept, watch: &dyn Fn(u64)) -> Result<Self, HubError> {
        let file = |file: crate::KeptFile| {
            let size = file.size_bytes.ok_or_else(|| HubError::Choice {
                repository: kept.id.to_string(),
                problem: format!("is kept without its file {}", file.name),
                way_out: format!("run `longreel models pull {}` first", kept.reference()),
            })?;
            // A blob is named by its hash, which was compared when it came.
            let sha256 = match blob_name(&file.path) {
                Some(Digest::Sha256(hex)) => hex,
                _ => Digest::Sha256(String::new()).of_file(&file.path, watch)?,
            };
            Ok(PinnedFile { name: file.name, size, sha256 })
        };
        Ok(Self {
            repository: kept.id.to_string(),
            from: kept.site,
            revision: kept.revision.to_string(),
            files: kept.files().into_iter().map(file).collect::<Result<_, HubError>>()?,
        })
    }

    /// The repository.
    ///
    /// # Errors
    /// When it is no name; not after [`Pins::read`].
    pub fn id(&self) -> Result<RepoId, HubError> {
        self.repository.parse()
    }

    /// The revision.
    ///
    /// # Errors
    /// When it is none; not after [`Pins::read`].
    pub fn revision(&self) -> Result<Revision, HubError> {
        self.revision.parse()
    }

    /// What of a kept model is not as it is pinned.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn differences(&self, kept: &Kept, watch: &dyn Fn(u64)) -> Result<Vec<String>, HubError> {
        let here = kept.files();
        let mut found = Vec::new();
        for pinned in &self.files {
            match here.iter().find(|file| file.name == pinned.name) {
                Some(file) if file.size_bytes == Some(pinned.size) => {
                    let sha256 = Digest::Sha256(String::new()).of_file(&file.path, watch)?;
                    if sha256 != pinned.sha256 {
                        let (is, should) = (sha256, &pinned.sha256);
                        found.push(format!("{}: SHA-256 {is}, pinned is {should}", pinned.name));
                    }
                }
                Some(crate::KeptFile { size_bytes: Some(size), .. }) => {
                    found
                        .push(format!("{}: {size} bytes, pinned are {}", pinned.name, pinned.size));
                }
                _ => found.push(format!("{}: missing", pinned.name)),
            }
        }
        Ok(found)
    }
}
