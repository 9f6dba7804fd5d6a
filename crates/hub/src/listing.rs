//! What a repository holds at one revision, by the site's own list.

use serde::Serialize;
use serde_json::Value;
use url::Url;

use crate::HubError;
use crate::digest::Digest;
use crate::error::shown;
use crate::http::{Client, Refused};
use crate::id::{RepoId, Revision, Site, is_hex};

/// The files of a repository.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Which repository.
    pub id: RepoId,
    /// What was asked for.
    pub asked: Revision,
    /// The commit behind it; on ModelScope, which does not tell, what was asked for.
    pub commit: Revision,
    /// Its files, under the names that the site gives them: not checked yet.
    pub files: Vec<Listed>,
}

/// One file of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// As the site has it.
    pub name: String,
    /// Its size, where the site says it.
    pub size_bytes: Option<u64>,
    /// Its hash, where the site says it.
    pub digest: Option<Digest>,
}

/// A model that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Owner and name.
    pub id: String,
    /// How often it was fetched of late.
    pub downloads: u64,
    /// How many like it.
    pub likes: u64,
    /// When it was changed, as the site writes it.
    pub updated: Option<String>,
    /// Whether its owner has to agree first.
    pub gated: bool,
    /// The pipeline and the like, as the site tags it.
    pub tags: Vec<String>,
}

/// Most files that a list is believed to have.
const FILES_MAX: usize = 100_000;
/// ModelScope cuts its lists there without saying so.
const MODELSCOPE_CUT: usize = 3000;

impl Client {
    /// The files of `id` at `revision`, or at the site's main branch.
    ///
    /// # Errors
    /// When the site cannot be reached, has no such thing, does not give it out, or answers nonsense.
    pub fn list(&self, id: &RepoId, revision: Option<&Revision>) -> Result<Listing, HubError> {
        let main = match self.site() {
            Site::HuggingFace => "main",
            Site::ModelScope => "master",
        };
        let asked = match revision {
            Some(revision) => revision.clone(),
            None => main.parse()?,
        };
        match self.site() {
            Site::HuggingFace => self.list_hugging_face(id, asked),
            Site::ModelScope => self.list_modelscope(id, asked),
        }
    }

    fn list_hugging_face(&self, id: &RepoId, asked: Revision) -> Result<Listing, HubError> {
        // Slashes of a revision such as refs/pr/1 are no folders here.
        let revision = asked.as_str().replace('/', "%2F");
        let url =
            self.address(&format!("api/models/{id}/revision/{revision}"), &[("blobs", "true")])?;
        let json =
            self.json(&url)?.map_err(|refused| self.explain(&url, id, Some(&asked), refused))?;
        let odd = |problem: &str| self.answer(&url, problem.to_owned());
        let commit = json["sha"].as_str().filter(|sha| is_hex(sha, 40));
        let commit = commit.ok_or_else(|| odd("a list without a commit"))?.parse()?;
        let entries = json["siblings"].as_array().ok_or_else(|| odd("a list without files"))?;
        if entries.len() > FILES_MAX {
            return Err(odd("a list that is far too long"));
        }
        let file = |entry: &Value| {
            let sha256 = entry["lfs"]["sha256"].as_str().filter(|hex| is_hex(hex, 64));
            let blob = entry["blobId"].as_str().filter(|hex| is_hex(hex, 40));
            Some(Listed {
                name: entry["rfilename"].as_str()?.to_owned(),
                size_bytes: entry["size"].as_u64().or_else(|| entry["lfs"]["size"].as_u64()),
                digest: match (sha256, blob) {
                    (Some(hex), _) => Some(Digest::Sha256(hex.to_owned())),
                    // The git blob of a large file is only its pointer.
                    (None, Some(hex)) if entry["lfs"].is_null() => {
                        Some(Digest::GitBlob(hex.to_owned()))
                    }
                    _ => None,
                },
            })
        };
        let files = entries.iter().map(file).collect::<Option<Vec<_>>>();
        let files = files.ok_or_else(|| odd("a list with a file that has no name"))?;
        Ok(Listing { id: id.clone(), asked, commit, files })
    }

    fn list_modelscope(&self, id: &RepoId, asked: Revision) -> Result<Listing, HubError> {
        let query = [("Revision", asked.as_str()), ("Recursive", "True")];
        let url = self.address(&format!("api/v1/models/{id}/repo/files"), &query)?;
        let json =
            self.json(&url)?.map_err(|refused| self.explain(&url, id, Some(&asked), refused))?;
        let odd = |problem: &str| self.answer(&url, problem.to_owned());
        let entries = json["Data"]["Files"].as_array().or_else(|| json["Data"].as_array());
        let entries = entries.ok_or_else(|| odd("a list without files"))?;
        if entries.len() >= MODELSCOPE_CUT {
            return Err(odd("a list as long as it ever gives, of which the end may be missing"));
        }
        let file = |entry: &Value| {
            let sha256 = entry["Sha256"].as_str().map(str::to_ascii_lowercase);
            Some(Listed {
                name: entry["Path"].as_str()?.to_owned(),
                size_bytes: entry["Size"].as_u64(),
                digest: sha256.filter(|hex| is_hex(hex, 64)).map(Digest::Sha256),
            })
        };
        let is_file = |entry: &&Value| entry["Type"].as_str() != Some("tree");
        let files = entries.iter().filter(is_file).map(file).collect::<Option<Vec<_>>>();
        let files = files.ok_or_else(|| odd("a list with a file that has no name"))?;
        Ok(Listing { id: id.clone(), commit: asked.clone(), asked, files })
    }

    /// Where a file of a listing is fetched.
    pub(crate) fn file_address(&self, listing: &Listing, name: &str) -> Result<Url, HubError> {
        match self.site() {
            Site::HuggingFace => {
                let name = percent_encoding::utf8_percent_encode(name, PATH);
                self.address(&format!("{}/resolve/{}/{name}", listing.id, listing.commit), &[])
            }
            Site::ModelScope => self.address(
                &format!("api/v1/models/{}/repo", listing.id),
                &[("Revision", listing.commit.as_str()), ("FilePath", name)],
            ),
        }
    }

    /// Models whose names or descriptions have `text` in them, the most used first.
    ///
    /// # Errors
    /// When the site cannot be reached or answers nonsense.
    pub fn search(&self, text: &str, limit: usize) -> Result<Vec<Hit>, HubError> {
        let limit = limit.clamp(1, 100);
        // ModelScope gives no more than that at once.
        let most = if self.site() == Site::ModelScope { 50 } else { limit };
        let limit = limit.min(most).to_string();
        let url = match self.site() {
            Site::HuggingFace => self.address(
                "api/models",
                &[
                    ("search", text),
                    ("limit", &limit),
                    ("sort", "downloads"),
                    ("direction", "-1"),
                    ("full", "true"),
                ],
            )?,
            Site::ModelScope => self.address(
                "openapi/v1/models",
                &[("search", text), ("page_size", &limit), ("sort", "downloads")],
            )?,
        };
        let odd = |problem: String| self.answer(&url, problem);
        let json = self.json(&url)?.map_err(|refused| {
            odd(format!("with HTTP {}: {}", refused.status, shown(&refused.said)))
        })?;
        let found = match self.site() {
            Site::HuggingFace => json.as_array(),
            Site::ModelScope => json["data"]["models"].as_array(),
        };
        let found = found.ok_or_else(|| odd("a search without a list".to_owned()))?;
        Ok(found.iter().filter_map(hit).collect())
    }

    /// What a refusal means for a person.
    pub(crate) fn explain(
        &self,
        url: &Url,
        id: &RepoId,
        revision: Option<&Revision>,
        refused: Refused,
    ) -> HubError {
        let site = self.site();
        let settings = self.settings();
        let variable = settings.token_variable();
        let page = match site {
            Site::HuggingFace => {
                format!("{}/{id}", settings.endpoint.as_str().trim_end_matches('/'))
            }
            Site::ModelScope => {
                format!("{}/models/{id}", settings.endpoint.as_str().trim_end_matches('/'))
            }
        };
        let tokens = match site {
            Site::HuggingFace => "https://huggingface.co/settings/tokens",
            Site::ModelScope => "https://modelscope.cn/my/myaccesstoken",
        };
        let gated = refused.code.as_deref() == Some("GatedRepo");
        let with_token = settings.token.is_some();
        let denied = |problem: String, way_out: String| HubError::Denied {
            repository: id.to_string(),
            problem,
            way_out,
        };
        match (refused.status, refused.code.as_deref()) {
            (404, Some("RevisionNotFound")) => HubError::NotFound {
                site,
                what: format!("revision {} of {id}", revision.map_or("?", Revision::as_str)),
                way_out: format!("{page} lists branches, tags and commits"),
            },
            (404, Some("EntryNotFound")) => HubError::NotFound {
                site,
                what: format!("such file in {id}"),
                way_out: format!("{page} lists its files"),
            },
            (401 | 403, _) if gated && with_token => denied(
                "is gated, and the owner of this token has not been let in".to_owned(),
                format!("ask for access at {page}, then run the same command again"),
            ),
            (401 | 403, _) if gated => denied(
                "is gated: its owner asks who fetches it".to_owned(),
                format!(
                    "agree at {page}, make a token at {tokens} and set it as {variable} (or run `hf auth \
                     login`)"
                ),
            ),
            // Hugging Face does not tell strangers whether a private repository is there.
            (401, _) | (404, Some("RepoNotFound")) if !with_token => HubError::NotFound {
                site,
                what: format!("public repository {id}"),
                way_out: format!(
                    "check the name (`longreel models search` helps); if it is private, make a token at \
                     {tokens} and set it as {variable}"
                ),
            },
            (401, _) => denied(
                "is not there, or the token is not known".to_owned(),
                format!("check the name, and the token in {variable} at {tokens}"),
            ),
            (403, _) => denied(
                format!("may not be read{}", with_colon(&refused.said)),
                format!("see {page}; a token with the right to read it goes into {variable}"),
            ),
            (404, _) => {
                let at =
                    revision.map_or(String::new(), |revision| format!(" at revision {revision}"));
                HubError::NotFound {
                    site,
                    what: format!("repository {id}{at}{}", with_colon(&refused.said)),
                    way_out: "check the name; `longreel models search` helps".to_owned(),
                }
            }
            (status, _) => {
                self.answer(url, format!("with HTTP {status}{}", with_colon(&refused.said)))
            }
        }
    }
}

/// What stands for itself in a path.
const PATH: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'%');

fn with_colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

fn hit(entry: &Value) -> Option<Hit> {
    let id: RepoId = entry["id"].as_str()?.parse().ok()?;
    let tags = entry["tags"].as_array().into_iter().flatten();
    let updated = ["lastModified", "last_modified", "updated_at"];
    let updated = updated.iter().find_map(|key| entry[key].as_str());
    Some(Hit {
        id: id.to_string(),
        downloads: entry["downloads"].as_u64().unwrap_or(0),
        likes: entry["likes"].as_u64().unwrap_or(0),
        updated: updated.map(shown),
        // `false`, `"auto"` or `"manual"`.
        gated: !matches!(entry["gated"], Value::Null | Value::Bool(false)),
        tags: tags.filter_map(Value::as_str).map(shown).take(64).collect(),
    })
}
