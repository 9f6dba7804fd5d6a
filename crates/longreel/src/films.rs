//! A request in JSON, taken as a typed command is.
//!
//! The keys of a request are flags of `generate`, and become words of it: what is not said comes from
//! the same layers, and what is wrong is told in the same words. Only keys that name nothing on this
//! machine are taken.

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

use crate::args::{Command, GenerateArgs, ModelArgs};
use crate::enhancer::{Enhancer, EnhancerArgs};
use crate::resolve;
use crate::settings::{self, Ended};
use crate::{demo, remake, schema};

/// What a client may say. Each is the flag of `generate` of the same name.
const KEYS: [&str; 36] = [
    "addnoise_condition",
    "ar_step",
    "attention_sink",
    "attention_window",
    "base_num_frames",
    "carry",
    "causal_attention",
    "causal_block_size",
    "easycache",
    "enhance_prompt",
    "fit",
    "fps",
    "guidance_interval",
    "guidance_scale",
    "interpolate",
    "kv_cache",
    "negative_prompt",
    "num_frames",
    "overlap_history",
    "portrait",
    "prompt",
    "prompt_at",
    "resolution",
    "seconds",
    "seed",
    "shift",
    "size",
    "solver",
    "sparse_after",
    "sparse_attention",
    "steps",
    "teacache",
    "teacache_thresh",
    "timesteps",
    "upscale",
    "use_ret_steps",
];
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
            check_inputs(&film.plan, folder).map_err(|e| {
                let place = format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR);
                clients(&e.to_string().replace(&place, ""))
            })?;
        }
        film.warnings.splice(0..0, checked.warnings.iter().map(|warning| in_keys(warning)));
        Ok(film)
    }
}

/// A film as it is made when nothing else is asked for, with pictures where the model needs them, which a
/// plan does not open.
fn usual(kind: ModelKind, defaults: &Defaults, image_defaults: &Defaults) -> FilmRequest {
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

fn words_of(asked: &Map<String, Value>) -> Result<Vec<OsString>, Refusal> {
    let mut words = Vec::new();
    for (key, value) in asked {
        if !KEYS.contains(&key.as_str()) {
            return Err(unknown(key));
        }
        let flag = format!("--{}", key.replace('_', "-"));
        let mut add = |value: String| words.push(format!("{flag}={value}").into());
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("prompt_at", Value::Array(values)) => {
                values.iter().try_for_each(|value| scalar(key, value).map(&mut add))?;
            }
            ("timesteps", Value::Array(values)) => {
                let values: Vec<String> =
                    values.iter().map(|value| scalar(key, value)).collect::<Result<_, _>>()?;
                add(values.join(","));
            }
            // A switch with a value of its own.
            ("easycache", Value::Bool(false)) => {}
            ("easycache", Value::Bool(true)) => words.push(flag.into()),
            (_, value) => add(scalar(key, value)?),
        }
    }
    Ok(words)
}

fn scalar(key: &str, value: &Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(on) => Ok(on.to_string()),
        _ => Err(clients(&format!("{key} must be one value, a text, a number or true or false"))),
    }
}

fn unknown(key: &str) -> Refusal {
    let shown: String = key.chars().take(64).collect();
    let nearest = KEYS
        .iter()
        .map(|known| (strsim::jaro_winkler(known, &shown), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let (detail, allowed) = match nearest {
        Some((_, nearest)) => {
            (format!("there is no key {shown:?}; did you mean {nearest:?}?"), &[*nearest][..])
        }
        None => (format!("there is no key {shown:?}; there are {}", KEYS.join(", ")), &KEYS[..]),
    };
    let allowed = allowed.iter().map(ToString::to_string).collect();
    let about = Box::new(About { allowed, ..About::field(shown) });
    Refusal { code: Code::UnknownKey, about, detail, is_clients: true }
}

/// What the client can put right, with flags as it knows them. It is about the key that it names first;
/// where the way out is another value, the message ends with it.
fn clients(message: &str) -> Refusal {
    let detail = in_keys(message);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let field = detail.split(|c: char| !is_word(c)).find(|word| KEYS.contains(word));
    let mut about = Box::new(field.map_or_else(About::default, About::field));
    // A length, a size or a number, and not the name of another key.
    let is_value = |value: &&str| {
        value.starts_with(|c: char| c.is_ascii_digit()) && !value.contains(char::is_whitespace)
    };
    let way_out = detail.rsplit_once("; use ").map_or("", |(_, way_out)| way_out);
    about.allowed = way_out.split(" or ").filter(is_value).map(str::to_owned).collect();
    Refusal { code: Code::InvalidValue, about, detail, is_clients: true }
}

fn operators(message: &str) -> Refusal {
    let (code, about) = (Code::Internal, Box::default());
    Refusal { code, about, detail: message.to_string(), is_clients: false }
}

/// A message about flags, about keys.
fn in_keys(message: &str) -> String {
    // A name that begins another comes after it.
    let mut keys = KEYS;
    keys.sort_unstable_by_key(|key| std::cmp::Reverse(key.len()));
    keys.iter().fold(message.replace("PROMPT is", "prompt is"), |message, key| {
        message.replace(&format!("--{}", key.replace('_', "-")), key)
    })
}

/// What clap says, without its hints for the command line.
fn first_line(rendered: &str) -> String {
    let said: Vec<&str> =
        rendered.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    said.join(" ").trim_start_matches("error: ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use longreel_film::GpuFacts;
    use serde_json::json;

    fn films() -> TypedFilms {
        films_of("df")
    }

    fn films_of(model: &str) -> TypedFilms {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models");
        let model = models.join(model);
        let engine = EngineOptions::new(model);
        let args = ModelArgs {
            model: None,
            lora: Vec::new(),
            dtype: None,
            upscaler: None,
            no_memory_check: None,
        };
        TypedFilms::open(&args, &engine, None, &EnhancerArgs::default()).expect("a model")
    }

    #[test]
    fn what_films_take_is_known_of_models_that_need_pictures_too() {
        for model in ["df", "t2v", "i2v", "wan_flf2v"] {
            assert!(films_of(model).memory().needed > Some(0), "{model}");
        }
    }

    #[test]
    fn memory_is_that_of_the_device_that_makes_the_films() {
        let mut films = films();
        films.facts.gpu = None;
        films.memory_bytes = Some(1 << 60);
        let host = films.memory();
        assert!(!host.on_gpu && host.fits() == Some(true), "{host:?}");
        let card = |free_bytes| GpuFacts { name: "a card".into(), free_bytes, peak_flops: 1e14 };
        films.facts.gpu = Some(card(80 << 30));
        let gpu = films.memory();
        assert!(gpu.on_gpu && gpu.fits() == Some(true), "{gpu:?}");
        assert_eq!(gpu.available, Some(80 << 30));
        films.facts.gpu = Some(card(1 << 20));
        assert_eq!(films.memory().fits(), Some(false), "a small card in a large machine");
        // What the host has to hold beside a card is too much for this one.
        (films.facts.gpu, films.memory_bytes) = (Some(card(80 << 30)), Some(1 << 20));
        let host = films.memory();
        assert!(!host.on_gpu && host.fits() == Some(false), "{host:?}");
    }

    fn film(asked: Value) -> Result<Film, Refusal> {
        let Value::Object(asked) = asked else { panic!("an object") };
        films().film(&asked, &Inputs::default())
    }

    #[test]
    fn every_key_is_a_flag_of_generate_and_none_names_a_file() {
        let command = settings::command();
        let generate = command.find_subcommand("generate").expect("a command");
        for key in KEYS {
            let flag = generate.get_arguments().find(|arg| arg.get_id() == key);
            let flag = flag.unwrap_or_else(|| panic!("{key} is no flag"));
            let names_file = flag.get_value_parser().type_id() == std::any::TypeId::of::<PathBuf>();
            assert!(!names_file, "{key} names a file");
        }
    }

    #[test]
    fn values_of_every_type_become_a_request() {
        let asked = json!({
            "prompt": "--a dog\nruns", "negative_prompt": "", "prompt_at": ["1s: a cat"],
            "seed": 18446744073709551615_u64, "size": "48x32", "num_frames": 29,
            "base_num_frames": 17, "overlap_history": 5, "fps": 8, "steps": 4,
            "guidance_scale": 1.5, "portrait": true, "easycache": true, "teacache": false,
            "solver": null,
        });
        let film = film(asked).unwrap_or_else(|e| panic!("{e:?}"));
        let request = film.plan.request();
        assert_eq!(request.prompts[0].prompt, "--a dog\nruns");
        assert_eq!((request.prompts[1].from_frame, request.prompts.len()), (8, 2));
        assert_eq!((request.width, request.height), (32, 48));
        assert_eq!((request.seed, request.steps), (u64::MAX, 4));
    }

    #[test]
    fn a_refusal_says_as_data_what_it_is_about() {
        for (asked, field, value, allowed) in [
            (json!({"prompt": "a", "num_frames": 96}), "num_frames", Some("96"), &["93", "97"][..]),
            (json!({"prompt": "a", "steps": 0}), "steps", Some("0"), &["1"]),
            (
                json!({"prompt": "a", "guidance_scale": 101}),
                "guidance_scale",
                Some("101"),
                &["100"],
            ),
            (json!({"prompt": "a", "steps": "many"}), "steps", Some("many"), &[]),
            (json!({"prompt": " "}), "prompt", Some(" "), &[]),
            (json!({"prompt": "a", "promt_at": "1s:b"}), "promt_at", None, &["prompt_at"]),
        ] {
            let about = film(asked.clone()).expect_err("it cannot be").about;
            assert_eq!(about.field.as_deref(), Some(field), "{asked}: {about:?}");
            assert_eq!(about.value.as_deref(), value, "{asked}: {about:?}");
            assert_eq!(about.allowed, allowed, "{asked}: {about:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_in_the_clients_own_words() {
        for (asked, parts) in [
            (json!({"prompt": "a", "num_frames": 96}), &["num_frames 96", "93 or 97"][..]),
            (json!({"prompt": "a", "steps": "many"}), &["many", "steps"]),
            (json!({"prompt": "a", "promt_at": "1s:b"}), &["promt_at", "prompt_at"]),
            (json!({"prompt": "a", "xyzzy": 1}), &["xyzzy", "guidance_scale"]),
            (json!({"prompt": "a", "image": "/etc/passwd"}), &["no key \"image\""]),
            (json!({"prompt": "a", "output": "x.mp4"}), &["no key \"output\""]),
            (json!({"prompt": ["a"]}), &["prompt must be one value"]),
            (json!({"prompt": "a", "seconds": 2, "num_frames": 9}), &["seconds", "keep one"]),
            (json!({"prompt": " "}), &["prompt is empty"]),
            (json!({}), &["prompt is missing"]),
        ] {
            let refusal = film(asked.clone()).expect_err("it cannot be");
            assert!(refusal.is_clients, "{asked}: {refusal:?}");
            for part in parts {
                assert!(refusal.detail.contains(part), "{asked}: no {part:?} in {refusal:?}");
            }
            assert!(!refusal.detail.contains("--"), "{refusal:?}");
        }
    }
}
