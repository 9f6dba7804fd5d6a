//! What the server needs to know of films: how a request in JSON becomes one, and by which model.
//! The program implements it with the path that its typed commands take, so that defaults, checks
//! and messages are the same ones.

use std::path::PathBuf;
use std::sync::Arc;

use longreel_film::{Defaults, EngineOptions, FilmPlan, FilmRequest};
use longreel_jobs::{ArtifactName, Job};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::code::{About, Code};

/// Turns what clients ask for into films, or refuses it.
pub trait Films: Send + Sync {
    /// The model that makes them.
    fn model(&self) -> &Arc<ModelInfo>;

    /// How a worker opens it.
    fn engine(&self) -> &EngineOptions;

    /// What a film of the usual size and length takes, and what there is. May take a moment.
    fn memory(&self) -> Memory;

    /// What it can do beside making films, which depends on how the server was started.
    fn offers(&self) -> Offers;

    /// The JSON Schema of what a film can be asked for by.
    fn schema(&self) -> Value;

    /// Resolves and plans a request. May read files; not to be called where waiting is not allowed.
    ///
    /// # Errors
    /// What cannot be made, with the value, the limit and the way out.
    fn film(&self, asked: &Map<String, Value>, inputs: &Inputs) -> Result<Film, Refusal>;

    /// Plans a request that is complete already, as [`Films::film`] does.
    ///
    /// # Errors
    /// What cannot be made.
    fn planned(&self, request: FilmRequest) -> Result<Film, Refusal>;
}

/// The models on this machine, and those that could be fetched.
pub trait Catalogue: Send + Sync {
    /// All of them, served or not. Reads files; not to be called where waiting is not allowed.
    fn list(&self) -> Vec<Listed>;

    /// The installed one of that name; `None` when there is none.
    ///
    /// # Errors
    /// Why it cannot be used, and the way out.
    fn open(&self, name: &str) -> Result<Option<Arc<dyn Films>>, String>;
}

/// A model of a [`Catalogue`].
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The name that it has, or would have, when it is served.
    pub name: String,
    /// What it can do.
    pub kind: String,
    /// Revision of its files, when they are here.
    pub revision: Option<String>,
    /// Its files are here.
    pub is_installed: bool,
    /// What its weights take, and what there is; of a film, where only that can be said to fit.
    pub memory: Memory,
    /// Why it cannot be served, where it cannot.
    pub problem: Option<String>,
    /// What fetches it.
    pub pull: Option<String>,
}

/// Memory that a model's films take, in bytes: that of the device that makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// For a film as it is made when nothing else is asked for; `None` when that cannot be said.
    pub needed: Option<u64>,
    /// What there was before the server began, where system or driver tells.
    pub available: Option<u64>,
    /// A GPU's, of the one with the least where there are several; else the machine's.
    pub on_gpu: bool,
}

impl Memory {
    /// Whether there is enough; `None` when that cannot be said.
    pub fn fits(&self) -> Option<bool> {
        Some(self.needed? <= self.available?)
    }
}

/// What can be asked for beside a film as the model makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// There is a language model that makes prompts longer.
    pub enhances_prompts: bool,
    /// What makes frames larger: `lanczos`, or the name of a network.
    pub upscaler: String,
}

/// A model, for people and for choosing jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// A short name without a place. Jobs are kept for the model of this name.
    pub name: String,
    /// Revision of its files.
    pub revision: String,
    /// What it can do.
    pub kind: String,
    /// The values that stand where nothing is asked for.
    pub defaults: Defaults,
    /// Version of the program.
    pub program_version: String,
}

/// Pictures and videos that come with a request, by file name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inputs {
    /// Where they lie; `None` when they were looked at before.
    pub folder: Option<PathBuf>,
    /// The first frame.
    pub image: Option<PathBuf>,
    /// The last frame.
    pub end_image: Option<PathBuf>,
    /// A video to go on from.
    pub video: Option<PathBuf>,
}

/// A film that can be made.
#[derive(Debug, Clone)]
pub struct Film {
    /// Complete.
    pub plan: FilmPlan,
    /// The command that makes it, for its metadata.
    pub command: String,
    /// What the client should know.
    pub warnings: Vec<String>,
    /// By which model.
    pub model: Arc<ModelInfo>,
}

/// Why a film cannot be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// A stable name.
    pub code: Code,
    /// What it is about.
    pub about: Box<About>,
    /// What is wrong, what would be right.
    pub detail: String,
    /// The client can put it right; else the server's operator has to.
    pub is_clients: bool,
}

/// What is kept with a job as resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resolved {
    /// Pictures and videos in it are named as they are stored with the job.
    pub request: FilmRequest,
    /// The keys that ask for a film with the same parameters, whatever this one was asked by.
    #[serde(default)]
    pub keys: Map<String, Value>,
    /// What it begins with of its parent.
    #[serde(default)]
    pub begins: Option<Begins>,
    pub command: String,
    pub expected_seconds: f64,
    pub warnings: Vec<String>,
}

impl Resolved {
    /// That of a job.
    ///
    /// # Errors
    /// When another version of the program wrote it.
    pub fn of(job: &Job) -> serde_json::Result<Self> {
        Self::deserialize(&job.asked.resolved)
    }
}

/// What a film begins with of the one that it goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begins {
    /// Segments that are taken over; at least one. The checkpoint after them is the parent's.
    pub segments: u32,
    /// The parent's film as far as it was when it was not finished yet, and its drift, stored with this
    /// job; `None` when the parent's own are taken.
    pub copies: Option<[ArtifactName; 2]>,
}
