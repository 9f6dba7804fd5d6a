//! What is kept of a film beside its frames: in the folder of an unfinished run, and in the film.

use std::fs;
use std::path::{Path, PathBuf};

use longreel_media::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::engine::EngineOptions;
use crate::error::FilmError;
use crate::outputs::Outputs;
use crate::plan::ModelFacts;
use crate::request::{FilmRequest, StartFrom};

/// What a run's folder says of it, beside the checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Version of the program that began it.
    pub program_version: String,
    /// Revision of the model it began with.
    pub revision: String,
    /// Model and adapters.
    pub engine: EngineOptions,
    /// What was asked.
    pub request: FilmRequest,
    /// Latent frames whose keys were kept at most, of which there was memory when it began. Products
    /// on a GPU may round by how many rows they have, so a run goes on with as many.
    #[serde(default)]
    pub kept_frames: Option<usize>,
    /// Strips in which pictures were decoded, as many as memory asked for when it began; see `kept_frames`.
    #[serde(default)]
    pub decoder_strips: Option<usize>,
    /// Where it goes.
    pub outputs: Outputs,
}

impl RunFile {
    /// Where it is kept in a run's folder.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("run.json")
    }

    /// Reads that of a run's folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, FilmError> {
        let path = Self::path(folder);
        let text = fs::read(&path).map_err(FilmError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|e| FilmError::io("understand", &path)(e.into()))
    }

    /// Writes it into a run's folder, which then is that of an unfinished run.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), FilmError> {
        let json = serde_json::to_vec_pretty(self)
            .map_err(|e| FilmError::io("describe", folder)(e.into()))?;
        Ok(write_atomic(&Self::path(folder), &json)?)
    }
}

/// By what a film is made, as the film itself tells.
#[derive(Debug, Clone, Copy)]
pub struct Maker<'a> {
    /// The model.
    pub facts: &'a ModelFacts,
    /// How it is used.
    pub engine: &'a EngineOptions,
}

impl Maker<'_> {
    /// The text that a film carries.
    pub fn metadata(&self, request: &FilmRequest, outputs: &Outputs, command: &str) -> String {
        json!({
            "program": "longreel",
            "version": outputs.program_version,
            "command": command,
            "model": self.facts.name,
            "revision": self.facts.revision,
            "adaptation": self.adaptation(),
            "seed": request.seed,
            "request": without_place(request, &outputs.film),
        })
        .to_string()
    }

    /// What changes the model's answers beside its files: adapters, and the type of the weights.
    pub fn adaptation(&self) -> serde_json::Value {
        let names = self.engine.loras.iter().map(|(path, weight)| {
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), weight)
        });
        let upscaler = self.engine.upscaler.as_ref().and_then(|path| path.file_name());
        let upscaler = upscaler.map(|name| name.to_string_lossy());
        json!({
            "loras": names.collect::<Vec<_>>(),
            "dtype": self.engine.dtype,
            "upscaler": upscaler,
        })
    }
}

/// A picture that lies beside the film is named without its place, which is nothing for whoever gets
/// the film.
fn without_place(request: &FilmRequest, film: &Path) -> FilmRequest {
    let mut request = request.clone();
    let Some(folder) = film.parent().filter(|folder| folder.is_absolute()) else { return request };
    let shorten = |path: &mut PathBuf| {
        if let Ok(rest) = path.strip_prefix(folder) {
            *path = rest.to_owned();
        }
    };
    match &mut request.start {
        StartFrom::Image(path) | StartFrom::Video(path) => shorten(path),
        StartFrom::Prompt => {}
    }
    if let Some(path) = &mut request.end_image {
        shorten(path);
    }
    request
}
