//! A request in JSON, taken as a typed command is.
//!
//! The keys of a request are flags of `generate`, and become words of it: what is not said comes from
//! the same layers, and what is wrong is told in the same words. Only keys that name nothing on this
//! machine are taken.

mod keys;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use longreel_film::{
    Beyond, Defaults, Engine, EngineOptions, FilmPlan, FilmRequest, ModelFacts, Outputs, StartFrom,
    available_memory_bytes, check_inputs, human_bytes, plan,
};
use longreel_server::{About, Code, Film, Films, Inputs, Memory, ModelInfo, Offers, Refusal};
use longreel_weights::ModelKind;
use serde_json::{Map, Value};

use self::keys::{KEYS, clients, first_line, in_keys, operators, scalar, words_of};
use crate::args::Command;
use crate::enhancer::{Enhancer, EnhancerArgs};
use crate::generate_args::{GenerateArgs, ModelArgs};
use crate::resolve;
use crate::settings::{self, Ended};
use crate::{demo, remake, schema};

/// What a film may tell of itself, in bytes; a file carries a MiB, with room for what is quoted twice.
const TOLD_BYTES_MAX: usize = 400 << 10;
/// What is told where nobody can be asked.
const NO_ENHANCER: &str = "enhance_prompt: this server has no language model to ask; leave it out, or have \
                           it started with --enhancer-url and --enhancer-model";
/// The name of a film in the command that its metadata keeps.
const FILM: &str = "film.mp4";

/// Films as a typed command makes them.
pub struct TypedFilms {
    info: Arc<ModelInfo>,
    /// The values that stand where nothing is asked for but an image is given.
    image_defaults: Defaults,
    facts: ModelFacts,
    model: ModelArgs,
    engine: EngineOptions,
    config: Option<PathBuf>,
    enhancer: EnhancerArgs,
    /// Memory before any model was loaded.
    memory_bytes: Option<u64>,
}

impl TypedFilms {
    /// Reads what the model says of itself; loads nothing.
    pub fn open(
        model: &ModelArgs,
        engine: &EngineOptions,
        config: Option<&Path>,
        enhancer: &EnhancerArgs,
    ) -> Result<Self> {
        let opened = Engine::open(engine)?;
        let facts = opened.facts().clone();
        let info = ModelInfo {
            name: short_name(engine),
            revision: facts.revision.clone(),
            kind: facts.kind.to_string(),
            defaults: opened.defaults(false)?,
            program_version: env!("CARGO_PKG_VERSION").to_string(),
        };
        let image_defaults = opened.defaults(true)?;
        // A plan measures this machine the first time; no client should wait for that.
        let (usual, of) = (usual(facts.kind, &info.defaults, &image_defaults), facts.clone());
        std::thread::spawn(move || plan(&usual, &of, false).is_ok());
        Ok(Self {
            info: Arc::new(info),
            image_defaults,
            facts,
            model: model.clone(),
            engine: engine.clone(),
            config: config.map(Path::to_path_buf),
            enhancer: enhancer.clone(),
            memory_bytes: available_memory_bytes(),
        })
    }

    fn args(&self, asked: &Map<String, Value>) -> Result<GenerateArgs, Refusal> {
        let mut words: Vec<OsString> = vec!["longreel".into(), "generate".into()];
        if let Some(config) = &self.config {
            words.extend(["--config".into(), config.into()]);
        }
        words.extend(words_of(asked)?);
        let cli = settings::parse(words).map_err(|ended| match ended {
            Ended::Clap(error) => clients(&first_line(&error.render().to_string())),
            // Contradictions between keys are told here too; the rest is the operator's to see.
            Ended::Settings(error) => clients(&format!("{error:#}")),
        })?;
        let Command::Generate(args) = cli.command else {
            return Err(operators("a request was not read as a film"));
        };
        let mut args = *args;
        // What the settings say of files and many films is meant for commands.
        args.prompt.words.clear();
        args.prompt.story = None;
        args.prompt.prompts = None;
        args.prompt.seeds = None;
        if !asked.contains_key("prompt") {
            args.prompt.prompt = None;
        }
        if !asked.contains_key("prompt_at") {
            args.prompt.prompt_at.clear();
        }
        if args.length.endless == Some(true) {
            args.length.endless = None;
        }
        args.picture.image = None;
        args.picture.end_image = None;
        args.picture.video = None;
        args.model = self.model.clone();
        Ok(args)
    }
}

impl Films for TypedFilms {
    fn model(&self) -> &Arc<ModelInfo> {
        &self.info
    }

    fn engine(&self) -> &EngineOptions {
        &self.engine
    }

    fn memory(&self) -> Memory {
        let usual = usual(self.facts.kind, &self.info.defaults, &self.image_defaults);
        let planned = plan(&usual, &self.facts, false);
        let summary = planned.as_ref().ok().map(FilmPlan::summary);
        let needed = summary.map(|summary| summary.memory_bytes);
        let host = Memory { needed, available: self.memory_bytes, on_gpu: false };
        match summary.and_then(|summary| summary.gpu.as_ref()) {
            Some(gpu) if host.fits() != Some(false) => Memory {
                // Weights beyond that are brought for each pass.
                needed: Some(gpu.least_bytes),
                available: Some(gpu.free_bytes),
                on_gpu: true,
            },
            _ => host,
        }
    }

    fn offers(&self) -> Offers {
        // Where the file lies is nothing for clients.
        let network = self.engine.upscaler.as_deref().and_then(Path::file_stem);
        Offers {
            enhances_prompts: Enhancer::new(&self.enhancer).is_ok(),
            upscaler: network.map_or("lanczos".into(), |name| name.to_string_lossy().into_owned()),
        }
    }

    fn schema(&self) -> Value {
        static FILM: OnceLock<Value> = OnceLock::new();
        FILM.get_or_init(|| schema::film(&KEYS)).clone()
    }

    fn film(&self, asked: &Map<String, Value>, inputs: &Inputs) -> Result<Film, Refusal> {
        self.taken(asked, inputs).map_err(|mut refusal| {
            let about = &mut refusal.about;
            let given =
                about.field.as_ref().and_then(|field| scalar(field, asked.get(field)?).ok());
            if let (Some(field), None, Some(value)) = (&about.field, &about.value, given)
                && KEYS.contains(&field.as_str())
            {
                about.value = About::value("", value).value;
            }
            refusal
        })
    }

    fn planned(&self, request: FilmRequest) -> Result<Film, Refusal> {
        // Not with the memory of now: the workers' models are in it.
        let plan = plan(&request, &self.facts, false).map_err(|e| clients(&e.to_string()))?;
        let summary = plan.summary();
        if let Some(available) = self.memory_bytes
            && self.engine.check_memory
            && summary.memory_bytes > available
        {
            let Beyond { rule, fix, .. } = plan.beyond(available);
            let available = human_bytes(available);
            return Err(clients(&format!("{rule} and the server has {available}; {fix}")));
        }
        let mut outputs = Outputs::new(FILM);
        outputs.program_version = env!("CARGO_PKG_VERSION").to_string();
        let model = self.model.model.as_deref();
        let command = remake::command(&request, model, &self.engine, &outputs);
        let told = command.len() + serde_json::to_string(&request).map_or(0, |json| json.len());
        if told > TOLD_BYTES_MAX {
            return Err(clients(&format!(
                "the prompts and how the film is made take {told} bytes, and a film carries at most \
                 {TOLD_BYTES_MAX}; use fewer or shorter prompts"
            )));
        }
        let warnings = summary.notes.iter().map(|note| in_keys(note)).collect();
        Ok(Film { plan, command, warnings, model: self.info.clone() })
    }
}

impl TypedFilms {
    /// See [`Films::film`].
    fn taken(&self, asked: &Map<String, Value>, inputs: &Inputs) -> Result<Film, Refusal> {
        let mut args = self.args(asked)?;
        args.picture.image.clone_from(&inputs.image);
        args.picture.end_image.clone_from(&inputs.end_image);
        args.picture.video.clone_from(&inputs.video);
        let checked = resolve::check(&args, &mut resolve::random_seed)
            .map_err(|e| clients(&format!("{e:#}")))?;
        let take = &checked.takes[0];
        let defaults = match inputs.image {
            Some(_) => &self.image_defaults,
            None => &self.info.defaults,
        };
        let mut request = resolve::request(&args, defaults, &checked, take)
            .map_err(|e| clients(&format!("{e:#}")))?;
        if args.prompt.enhance_prompt == Some(true) {
            // What cannot work is told before anybody is asked.
            self.planned(request.clone())?;
            let enhancer = Enhancer::new(&self.enhancer).map_err(|_| clients(NO_ENHANCER))?;
            enhancer.enhance(&mut request).map_err(|error| {
                tracing::warn!(error = format!("{error:#}"), "a prompt could not be enhanced");
                let detail = "the language model that enhances prompts does not answer; ask without \
                              enhance_prompt, or later";
                let about = Box::new(About::field("enhance_prompt"));
                Refusal { code: Code::EnhancerFailed, about, detail: detail.into(), is_clients: true }
            })?;
        }
        let mut film = self.planned(request)?;
        if let Some(folder) = &inputs.folder {
            let told = |message: &str| in_names(message, folder, inputs);
            let notes =
                check_inputs(&film.plan, folder).map_err(|e| clients(&told(&e.to_string())))?;
            film.warnings.extend(notes.iter().map(|note| in_keys(&told(note))));
        }
        film.warnings.splice(0..0, checked.warnings.iter().map(|warning| in_keys(warning)));
        Ok(film)
    }
}

/// A message about files, with the keys that brought them: where they lie here, and under which names, is nothing for
/// clients.
fn in_names(message: &str, folder: &Path, inputs: &Inputs) -> String {
    let place = format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR);
    let files =
        [("end_image", &inputs.end_image), ("image", &inputs.image), ("video", &inputs.video)];
    let named = files.iter().filter_map(|(key, path)| Some((key, path.as_ref()?.display())));
    named.fold(message.replace(&place, ""), |message, (key, file)| {
        let flag = key.replace('_', "-");
        message.replace(&format!("--{flag} {file}"), key).replace(&file.to_string(), key)
    })
}

/// A film as it is made when nothing else is asked for, with pictures where the model needs them, which a
/// plan does not open.
pub fn usual(kind: ModelKind, defaults: &Defaults, image_defaults: &Defaults) -> FilmRequest {
    let picture = || PathBuf::from("any.png");
    let of_image = || FilmRequest {
        start: StartFrom::Image(picture()),
        ..image_defaults.request("any prompt")
    };
    match kind {
        ModelKind::DiffusionForcing | ModelKind::TextToVideo => defaults.request("any prompt"),
        ModelKind::ImageToVideo => of_image(),
        ModelKind::FirstLastFrame => FilmRequest { end_image: Some(picture()), ..of_image() },
    }
}

/// The model's name without its place, which is nothing for clients.
fn short_name(engine: &EngineOptions) -> String {
    let file = || engine.model.file_name().map(|name| name.to_string_lossy().into_owned());
    engine.label.clone().or_else(file).unwrap_or_else(|| demo::NAME.to_string())
}

#[cfg(test)]
mod tests;
