//! `longreel inspect`: how a film was made, what a model holds.

use std::path::Path;

use anyhow::{Context, Result};
use longreel_film::{Engine, EngineOptions, human_bytes};
use longreel_hub::Site;
use longreel_media::read_metadata;
use serde_json::{Value, json};

use crate::demo;
use crate::model_name::{Located, locate};
use crate::outcome::{EXIT_DONE, bad_input};
use crate::remake;
use crate::report::{print, print_json};

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
            let frames = count_frames(path).with_context(|| format!("cannot count {shown}"))?;
            remake::with_length(&command, frames)
        }
        false => command,
    };
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
    print(&format!("film       {shown}"));
    print(&format!("program    longreel {}", word("version")));
    print(&format!("model      {} (revision {})", word("model"), word("revision")));
    print(&format!("seed       {}", word("seed")));
    if let Some(request) = about["request"].as_object() {
        for (key, value) in request.iter().filter(|(key, _)| *key != "seed") {
            lines(key, value).iter().for_each(|line| print(line));
        }
    }
    print("\nTo make it again:");
    print(&command);
    Ok(EXIT_DONE)
}

fn count_frames(path: &Path) -> Result<u64> {
    let options = longreel_media::VideoOptions::default();
    let mut frames = 0;
    for frame in longreel_media::VideoReader::open(path, &options)? {
        frame?;
        frames += 1;
    }
    Ok(frames)
}

/// One key of a request, prompts one a line.
fn lines(key: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Array(prompts) if key == "prompts" => prompts
            .iter()
            .map(|p| {
                let text = p["prompt"].as_str().unwrap_or_default();
                let seed = p["seed"].as_u64().map_or(String::new(), |s| format!(" (seed {s})"));
                format!("prompt     from frame {}: {text}{seed}", p["from_frame"])
            })
            .collect(),
        Value::String(text) => vec![format!("{key}: {text}")],
        Value::Null => Vec::new(),
        other => vec![format!("{key}: {other}")],
    }
}

/// Text of unknown origin on one line.
fn short(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    format!("{line:?}")
}

fn inspect_model(typed: &Path, hub: Option<Site>, json: bool) -> Result<u8> {
    let Located { path, label, .. } = locate(Some(typed), hub)?;
    let options = EngineOptions { label, check_memory: false, ..EngineOptions::new(path.clone()) };
    let engine = Engine::open(&options)?;
    let facts = engine.facts();
    let defaults = engine.defaults(engine.kind().takes_image())?;
    if json {
        print_json(&json!({
            "path": path.display().to_string(),
            "kind": facts.kind,
            "revision": facts.revision,
            "transformer": facts.transformer,
            "transformer_bytes": facts.transformer_bytes,
            "text_encoder_bytes": facts.text_encoder_bytes,
            "other_bytes": facts.other_bytes,
        }));
        return Ok(EXIT_DONE);
    }
    print(&format!("model        {}", typed.display()));
    if path != typed {
        print(&format!("lies in      {}", path.display()));
    }
    print(&format!("kind         {}", facts.kind));
    print(&format!("revision     {}", facts.revision));
    print(&format!("transformer  {}", human_bytes(facts.transformer_bytes)));
    print(&format!("text encoder {}", human_bytes(facts.text_encoder_bytes)));
    print(&format!("the rest     {}", human_bytes(facts.other_bytes)));
    print(&format!(
        "defaults     {}x{}, {} frames at {} fps, {} steps, guidance {}, shift {}",
        defaults.width,
        defaults.height,
        defaults.num_frames,
        defaults.fps,
        defaults.steps,
        defaults.guidance_scale,
        defaults.flow_shift
    ));
    Ok(EXIT_DONE)
}
