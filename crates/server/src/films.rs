//! What the server needs to know of films: how a request in JSON becomes one, and by which model.
//! The program implements it with the path that its typed commands take, so that defaults, checks
//! and messages are the same ones.

use std::ops::Range;

use longreel_film::{Defaults, FilmRequest, PlannedSegment};
use serde::Serialize;
use serde_json::{Map, Value};

/// Turns what clients ask for into films, or refuses it.
pub trait Films: Send + Sync {
    /// The model that makes them.
    fn model(&self) -> &ModelInfo;

    /// Resolves and plans a request. May read files; not to be called where waiting is not allowed.
    ///
    /// # Errors
    /// What cannot be made, with the value, the limit and the way out.
    fn film(&self, asked: &Map<String, Value>) -> Result<Film, Refusal>;

    /// Those of the segments numbered `segments` that a film will have, as far as they can be known.
    fn planned(&self, request: &FilmRequest, segments: Range<usize>) -> Vec<PlannedSegment>;
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

/// A film that can be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Film {
    /// Complete.
    pub request: FilmRequest,
    /// The command that makes it, for its metadata.
    pub command: String,
    /// Expected seconds of work.
    pub expected_seconds: f64,
    /// What the client should know.
    pub warnings: Vec<String>,
}

/// Why a film cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A stable name.
    pub code: &'static str,
    /// What is wrong, what would be right.
    pub detail: String,
    /// The client can put it right; else the server's operator has to.
    pub is_clients: bool,
}

/// What is kept with a job as resolved.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub(crate) struct Resolved {
    pub request: FilmRequest,
    pub command: String,
    pub expected_seconds: f64,
    pub warnings: Vec<String>,
}
