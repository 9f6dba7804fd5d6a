//! What is kept of a film beside its frames: in the folder of an unfinished run, and in the film.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use longreel_media::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::engine::EngineOptions;
use crate::error::FilmError;
use crate::outputs::Outputs;
use crate::plan::{FilmPlan, ModelFacts};
use crate::request::{FilmRequest, StartFrom};
use crate::source::Source;

/// The name of `run.json` in the folder of a run that is finished.
const FINISHED: &str = "finished.json";

/// What a run's folder says of it, beside the checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Version of the program that began it.
    pub program_version: String,
    /// Revision of the model it began with.
    pub revision: String,
    /// Revisions of its LoRA files in their order, and of the upscaler after them. `None` in runs of versions
    /// that did not look.
    #[serde(default)]
    pub adapters: Option<Vec<String>>,
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
    /// Frames of the film that the request's length does not count: those of a video that is extended
    /// before its history.
    #[serde(default)]
    pub given_frames: u64,
    /// The folder that paths in here start from where they are relative: the one it was begun in.
    #[serde(default)]
    pub started_in: PathBuf,
    /// Whether both passes of guidance were one batch; see `kept_frames`.
    #[serde(default)]
    pub guidance_batch: bool,
    /// The pictures, the video and the noise that it began with; none in runs of versions that did not look.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// Where it goes.
    pub outputs: Outputs,
}

impl RunFile {
    /// That of a run which begins here and now.
    pub(crate) fn begun(
        plan: &FilmPlan,
        maker: Maker<'_>,
        sources: Vec<Source>,
        outputs: &Outputs,
    ) -> Self {
        Self {
            program_version: outputs.program_version.clone(),
            revision: maker.facts.revision.clone(),
            adapters: Some(maker.adapters.to_vec()),
            engine: maker.engine.clone(),
            request: plan.request().clone(),
            kept_frames: plan.kept_frames(),
            decoder_strips: Some(plan.strips),
            given_frames: maker.given_frames,
            // Nothing where the system does not tell.
            started_in: std::env::current_dir().unwrap_or_default(),
            guidance_batch: plan.guidance_batch,
            sources,
            outputs: outputs.clone(),
        }
    }

    /// Where it is kept in a run's folder.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("run.json")
    }

    /// Has the run of `folder` be finished, at one instant. What lies in the folder is left over then.
    pub(crate) fn finish(folder: &Path) -> Result<(), FilmError> {
        let path = Self::path(folder);
        fs::rename(&path, folder.join(FINISHED))
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(FilmError::io("rename", &path))
    }

    /// Whether the run of `folder` was finished and its process killed before the folder was gone.
    pub(crate) fn is_finished(folder: &Path) -> bool {
        !Self::path(folder).exists() && folder.join(FINISHED).exists()
    }

    /// Removes the folder of a finished run, what says so last.
    pub(crate) fn remove_finished(folder: &Path) -> Result<(), FilmError> {
        let remove = || {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_name() != FINISHED && entry.file_type()?.is_file() {
                    fs::remove_file(entry.path())?;
                }
            }
            fs::remove_dir_all(folder)
        };
        remove().map_err(FilmError::io("remove", folder))
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
    /// See [`RunFile::adapters`].
    pub adapters: &'a [String],
    /// The film as it was named when it was begun, wherever it is now: what is told does not change
    /// with the place it is resumed from.
    pub film: &'a Path,
    /// See [`RunFile::given_frames`].
    pub given_frames: u64,
}

impl Maker<'_> {
    /// The text that a film carries.
    pub fn metadata(&self, request: &FilmRequest, outputs: &Outputs, command: &str) -> String {
        let mut told = json!({
            "program": "longreel",
            "version": outputs.program_version,
            "command": command,
            "model": self.facts.name,
            "revision": self.facts.revision,
            "adaptation": adaptation(self.engine, self.adapters),
            "seed": request.seed,
            "request": without_place(request, self.film),
        });
        if self.given_frames > 0 {
            told["given_frames"] = self.given_frames.into();
        }
        told.to_string()
    }
}

/// What changes the model's answers beside its files: adapters with their revisions, and the type of the weights.
pub(crate) fn adaptation(engine: &EngineOptions, adapters: &[String]) -> serde_json::Value {
    let names = engine.loras.iter().map(|(path, weight)| {
        (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), weight)
    });
    let upscaler = engine.upscaler.as_ref().and_then(|path| path.file_name());
    let upscaler = upscaler.map(|name| name.to_string_lossy());
    let mut told = json!({
        "loras": names.collect::<Vec<_>>(),
        "dtype": engine.dtype,
        "upscaler": upscaler,
    });
    if !adapters.is_empty() {
        told["revisions"] = adapters.into();
    }
    told
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
