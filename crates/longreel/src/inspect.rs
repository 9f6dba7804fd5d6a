//! `longreel inspect`: how a film was made, what a model holds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use longreel_film::{Defaults, Engine, EngineOptions, StartFrom, human_bytes};
use longreel_hub::Site;
use longreel_media::{count_frames, read_metadata};
use longreel_weights::ModelKind;
use serde::Serialize;
use serde_json::Value;

use crate::demo;
use crate::model_name::{Located, locate};
use crate::outcome::{EXIT_BAD_INPUT, EXIT_DONE, bad_input};
use crate::remake;
use crate::report::{print, print_json};
use crate::shell;

/// Endings of model files; anything else that is a file is taken for a film.
const MODEL_ENDINGS: [&str; 4] = ["safetensors", "gguf", "pth", "pt"];

/// Endings of films.
const FILM_ENDINGS: [&str; 3] = ["mp4", "webm", "gif"];

/// Prints what `path` is.
pub fn inspect(path: &Path, hub: Option<Site>, json: bool) -> Result<u8> {
    let is_name = path != Path::new(demo::NAME) && !path.exists();
    // What has a film's ending is no model's name.
    if is_name
        && path.extension().is_some_and(|e| FILM_ENDINGS.iter().any(|&f| e.eq_ignore_ascii_case(f)))
    {
        return Err(bad_input(format!("{}: there is no such file", path.display())));
    }
    match is_name || is_model(path) {
        true => inspect_model(path, hub, json),
        false => inspect_film(path, json),
    }
}

fn is_model(path: &Path) -> bool {
    if path == Path::new(demo::NAME) {
        return true;
    }
    if path.is_dir() {
        // A folder of PNG frames is a film too.
        return !path.join("000000.png").exists();
    }
    path.extension().is_some_and(|e| MODEL_ENDINGS.iter().any(|&m| e.eq_ignore_ascii_case(m)))
}

fn inspect_film(path: &Path, json: bool) -> Result<u8> {
    let shown = path.display();
    let text = read_metadata(path)
        .map_err(longreel_film::FilmError::from)?
        .ok_or_else(|| bad_input(format!("{shown}: it does not say how it was made")))?;
    // Comments of other programs are no JSON, or other JSON.
    let mut about: Value = serde_json::from_str(&text)
        .ok()
        .filter(|v: &Value| v["program"] == "longreel")
        .ok_or_else(|| {
            bad_input(format!("{shown}: it was not made by longreel; it says: {}", short(&text)))
        })?;
    let command = about["command"].as_str().unwrap_or_default().to_string();
    let command = match command.ends_with(" --endless") {
        true => {
            let shown = count_frames(path).with_context(|| format!("cannot count {shown}"))?;
            // In the film there are also the frames between, and a video that it goes on from.
            let between = about["request"]["finish"]["frames"].as_u64().unwrap_or(1).max(1);
            let given = about["given_frames"].as_u64().unwrap_or(0);
            let frames = shown.div_ceil(between).saturating_sub(given);
            remake::with_length(&command, frames)
        }
        false => command,
    };
    // A film may come from anybody, and its command is there to be pasted into a shell.
    let is_ours = |words: &Vec<String>| words.starts_with(&["longreel".into(), "generate".into()]);
    let command = shell::split(&command).filter(is_ours).map(|_| command);
    if json {
        about["command"] = command.into();
        about["path"] = shown.to_string().into();
        print_json(&about);
        return Ok(EXIT_DONE);
    }
    let word = |key: &str| match &about[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let revision = word("revision");
    for (name, value) in [
        ("film", shown.to_string()),
        ("program", format!("longreel {}", word("version"))),
        ("model", format!("{} (revision {revision})", word("model"))),
        ("seed", word("seed")),
    ] {
        print(&row(name, &value));
    }
    if let Some(request) = about["request"].as_object() {
        for (key, value) in request.iter().filter(|(key, _)| *key != "seed") {
            lines(key, value).iter().for_each(|line| print(line));
        }
    }
    match command {
        Some(command) => {
            print("\nTo make it again:");
            print(&command);
        }
        None => print(
            "\nIts command is none that longreel writes: it is not shown, and should not be run from elsewhere.",
        ),
    }
    Ok(EXIT_DONE)
}

/// One key of a request, prompts one a line.
fn lines(key: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Array(prompts) if key == "prompts" => prompts
            .iter()
            .map(|p| {
                let text = p["prompt"].as_str().unwrap_or_default();
                let seed = p["seed"].as_u64().map_or(String::new(), |s| format!(" (seed {s})"));
                row("prompt", &format!("from frame {}: {text}{seed}", p["from_frame"]))
            })
            .collect(),
        Value::String(text) => vec![row(key, text)],
        Value::Null => Vec::new(),
        Value::Object(of) => {
            let said = of.iter().filter(|(_, value)| !value.is_null());
            let said: Vec<String> = said.map(|(name, value)| format!("{name} {value}")).collect();
            vec![row(key, &said.join(", "))]
        }
        other => vec![row(key, &other.to_string())],
    }
}

/// A name and what it is, below each other in columns.
fn row(name: &str, value: &str) -> String {
    format!("{name:<19} {value}").trim_end().to_owned()
}

/// Text of unknown origin on one line.
fn short(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    format!("{line:?}")
}

fn inspect_model(typed: &Path, hub: Option<Site>, json: bool) -> Result<u8> {
    let Located { path, label, .. } = locate(Some(typed), hub)?;
    let report = longreel_weights::inspect(&path).map_err(longreel_film::FilmError::from)?;
    let usable = match report.problems.is_empty() {
        true => {
            let options =
                EngineOptions { label, check_memory: false, ..EngineOptions::new(path.clone()) };
            Some(Engine::open(&options)?)
        }
        false => None,
    };
    let film = usable.as_ref().map(usual_film).transpose()?;
    if json {
        let mut about = serde_json::to_value(&report)?;
        about["path"] = path.display().to_string().into();
        if let (Some(engine), Some(film)) = (&usable, &film) {
            about["revision"] = engine.facts().revision.clone().into();
            about["transformer"] = serde_json::to_value(&engine.facts().transformer)?;
            about["usual_film"] = serde_json::to_value(film)?;
        }
        print_json(&about);
    } else {
        print(&format!("model       {}", typed.display()));
        if path != typed {
            print(&format!("lies in     {}", path.display()));
        }
        if let Some(engine) = &usable {
            print(&format!("revision    {}", engine.facts().revision));
        }
        print(&report.to_string());
        if let Some(UsualFilm { defaults, memory_bytes }) = &film {
            print(&format!(
                "defaults    {}x{}, {} frames at {} fps, {} steps, guidance {}, shift {}",
                defaults.width,
                defaults.height,
                defaults.num_frames,
                defaults.fps,
                defaults.steps,
                defaults.guidance_scale,
                defaults.flow_shift
            ));
            print(&format!("such a film {} of memory in all", human_bytes(*memory_bytes)));
        }
    }
    Ok(if usable.is_some() { EXIT_DONE } else { EXIT_BAD_INPUT })
}

/// A film as a model makes it when nothing is asked for but a prompt, and a picture where it needs one.
#[derive(Serialize)]
struct UsualFilm {
    defaults: Defaults,
    /// Expected peak of the whole program.
    memory_bytes: u64,
}

fn usual_film(engine: &Engine) -> Result<UsualFilm> {
    let kind = engine.kind();
    let has_image = matches!(kind, ModelKind::ImageToVideo | ModelKind::FirstLastFrame);
    let defaults = engine.defaults(has_image)?;
    let mut request = defaults.request("any prompt");
    // A plan does not look at pictures.
    let picture = || PathBuf::from("picture.png");
    if has_image {
        request.start = StartFrom::Image(picture());
    }
    if kind == ModelKind::FirstLastFrame {
        request.end_image = Some(picture());
    }
    let plan = longreel_film::plan(&request, engine.facts(), false)
        .map_err(longreel_film::FilmError::from)?;
    Ok(UsualFilm { defaults, memory_bytes: plan.summary().memory_bytes })
}
