//! `longreel models use`: the model that is taken when none is named, as a key of the settings file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use super::Place;
use crate::args::Common;
use crate::demo;
use crate::model_name::locate;
use crate::models_args::UseArgs;
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{print, print_json};
use crate::settings::{find_file, user_file};
use crate::story::read_text;

const KEY: &str = "model";

/// Makes a model the default one.
pub fn choose(args: &UseArgs, common: &Common, place: &Place<'_>) -> Result<u8> {
    let typed = args.model.as_path();
    let located = locate(Some(typed), place.hub)?;
    // The name as it was typed follows later revisions and pins; a path has to hold wherever it is read.
    let value = match (&located.label, typed.to_str()) {
        (Some(_), Some(name)) => name.to_owned(),
        _ => {
            let whole = std::path::absolute(typed);
            let whole = whole.with_context(|| format!("cannot find {}", typed.display()))?;
            let text = whole.to_str().map(str::to_owned);
            text.ok_or_else(|| bad_input(format!("{}: it is not UTF-8", typed.display())))?
        }
    };
    let path = in_force(common.config.as_deref())?.0;
    let path = path.or_else(user_file).ok_or_else(|| {
        bad_input("there is no settings file and no home folder for one; name one with --config")
    })?;
    write(&path, &value)?;
    if place.verbosity.json {
        print_json(
            &json!({"event": "used", "model": value, "settings": path.display().to_string()}),
        );
    } else {
        print(&format!("{value} is the model when none is named, by {}", path.display()));
    }
    if std::env::var_os("LONGREEL_MODEL").is_some_and(|value| !value.is_empty()) {
        place.screen.warn("LONGREEL_MODEL is set and wins over the settings file");
    }
    Ok(EXIT_DONE)
}

/// The settings file that counts, and the model in it or in the environment.
pub fn in_force(config: Option<&Path>) -> Result<(Option<PathBuf>, Option<String>)> {
    let named = std::env::var_os("LONGREEL_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
    let file = config.map(Path::to_owned).or(named).or_else(find_file);
    let variable = std::env::var("LONGREEL_MODEL").ok().filter(|value| !value.is_empty());
    let model = match (&variable, &file) {
        (Some(_), _) | (None, None) => variable,
        (None, Some(path)) if path.is_file() => {
            let table = parsed(&read_text(path)?, path)?;
            table.get(KEY).and_then(toml::Value::as_str).map(str::to_owned)
        }
        (None, Some(_)) => None,
    };
    Ok((file, model.filter(|model| model != demo::NAME)))
}

fn parsed(text: &str, path: &Path) -> Result<toml::Table> {
    toml::from_str(text).map_err(|error| bad_input(format!("{}: {error}", path.display())))
}

/// Sets the key and leaves every other line of the file as it is.
fn write(path: &Path, value: &str) -> Result<()> {
    let old = if path.exists() { read_text(path)? } else { String::new() };
    let before = parsed(&old, path)?;
    let new = with_key(&old, value);
    // A line of a long text that looks like the key would be taken for it.
    let mut wished = before;
    wished.insert(KEY.to_owned(), toml::Value::String(value.to_owned()));
    if toml::from_str::<toml::Table>(&new).ok().as_ref() != Some(&wished) {
        return Err(bad_input(format!(
            "{}: the file cannot be changed safely; write the line model = {value:?} into it",
            path.display()
        )));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let beside = path.with_extension(format!("toml.{}", std::process::id()));
    let written = fs::write(&beside, new).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        anyhow!("cannot write {}: {error}", path.display())
    })
}

/// The text with the key in its place, or before everything else.
fn with_key(text: &str, value: &str) -> String {
    // TOML's basic strings are written as JSON's.
    let line = format!("{KEY} = {}", serde_json::Value::from(value));
    let is_key = |l: &str| {
        l.trim_start().strip_prefix(KEY).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    if !text.lines().any(is_key) {
        return format!("{line}\n{text}");
    }
    let lines = text.lines().map(|l| if is_key(l) { line.as_str() } else { l });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_set_and_the_rest_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("inner/longreel.toml");
        let set = |value| write(&path, value).map_err(|error| error.to_string());
        let text = || fs::read_to_string(&path).expect("readable");
        set("demo").expect("written");
        assert_eq!(text(), "model = \"demo\"\n");
        fs::write(&path, "# mine\nsteps = 8\n  model='x' # old\n").expect("writable");
        set("a/b@c").expect("written");
        assert_eq!(text(), "# mine\nsteps = 8\nmodel = \"a/b@c\"\n");
        let long = "negative_prompt = '''\nmodel = 3\n'''\n";
        fs::write(&path, long).expect("writable");
        assert!(set("y").expect_err("unsafe").contains("model = \"y\""));
        assert_eq!(text(), long);
        fs::write(&path, "steps = ").expect("writable");
        assert!(set("y").is_err());
    }
}
