//! `longreel models list`.

use std::path::Path;

use anyhow::Result;
use longreel_film::{available_memory_bytes, human_bytes};
use longreel_hub::{Cache, Kept, LOCK_FILE, Pins, Site, free_bytes};
use longreel_weights::{Report, inspect};
use serde_json::{Value, json};

use super::Place;
use super::default::in_force;
use crate::demo;
use crate::model_name::caches;
use crate::models_args::ListArgs;
use crate::outcome::EXIT_DONE;
use crate::report::{print, print_json};

/// One line of the list.
struct Row {
    name: String,
    path: String,
    site: Option<Site>,
    bytes: u64,
    report: Result<Report, String>,
    marks: Vec<&'static str>,
}

/// Shows the models that are here.
pub fn list(args: &ListArgs, place: &Place<'_>) -> Result<u8> {
    let pins = Pins::read(Path::new(LOCK_FILE))?;
    let default = in_force(None)?.1;
    let mut rows = Vec::new();
    let mut others = 0;
    let mut places = Vec::new();
    for cache in caches(place.hub) {
        for kept in cache.all() {
            let report = inspect(&kept.folder).map_err(|error| error.to_string());
            if report.is_err() && !args.all && !has_our_name(&kept) {
                others += 1;
                continue;
            }
            rows.push(row(&cache, &kept, report, &pins, default.as_deref()));
        }
        if cache.root().is_dir() {
            places.push(cache.root().to_owned());
        }
    }
    let elsewhere = default.as_deref().map(Path::new).filter(|path| path.exists());
    if let Some(path) = elsewhere {
        rows.push(Row {
            name: path.display().to_string(),
            path: path.display().to_string(),
            site: None,
            bytes: 0,
            report: inspect(path).map_err(|error| error.to_string()),
            marks: vec!["default"],
        });
    }
    if let Ok(folder) = demo::folder() {
        rows.push(Row {
            name: demo::NAME.to_owned(),
            path: folder.display().to_string(),
            site: None,
            bytes: 0,
            report: inspect(&folder).map_err(|error| error.to_string()),
            marks: if default.is_none() { vec!["default"] } else { Vec::new() },
        });
    }
    for row in &rows {
        if place.verbosity.json { print_json(&row.json()) } else { print(&row.text()) }
    }
    if !place.verbosity.json {
        for folder in places {
            let free = free_bytes(&folder).map(|n| format!(", {} free", human_bytes(n)));
            place.say(&format!("in {}{}", folder.display(), free.unwrap_or_default()));
        }
        if let Some(memory) = available_memory_bytes() {
            place.say(&format!("this machine has {} of memory free", human_bytes(memory)));
        }
        if others > 0 {
            place
                .say(&format!("{others} models of other families are not shown; --all shows them"));
        }
    }
    Ok(EXIT_DONE)
}

/// Whether a kept repository is one of the families that can be run.
pub fn is_ours(kept: &Kept) -> bool {
    has_our_name(kept) || inspect(&kept.folder).is_ok()
}

/// Whether a repository that cannot be read as a model is one that was meant to be.
pub fn has_our_name(kept: &Kept) -> bool {
    let name = kept.id.to_string().to_ascii_lowercase();
    ["skyreels", "wan2.1", "wan-2.1", "wan2_1"].iter().any(|part| name.contains(part))
}

fn row(
    cache: &Cache,
    kept: &Kept,
    report: Result<Report, String>,
    pins: &Pins,
    default: Option<&str>,
) -> Row {
    let mut marks = Vec::new();
    let is_default = default
        .and_then(|typed| crate::model_name::parse(typed).ok().flatten())
        .and_then(|named| crate::model_name::find(&named, Some(cache.site())).ok().flatten())
        .is_some_and(|found| found.folder == kept.folder);
    if is_default {
        marks.push("default");
    }
    if pins.of(&kept.id).is_some_and(|pin| pin.revision == kept.revision.as_str()) {
        marks.push("pinned");
    }
    if cache.unfinished_bytes(&kept.id) > 0 {
        marks.push("a pull is unfinished");
    }
    Row {
        name: kept.short_reference(),
        path: kept.folder.display().to_string(),
        site: Some(kept.site),
        bytes: kept.bytes(),
        report,
        marks,
    }
}

impl Row {
    fn text(&self) -> String {
        let size = if self.bytes > 0 { human_bytes(self.bytes) } else { String::new() };
        let what = match &self.report {
            Ok(report) => {
                let fits = match available_memory_bytes() {
                    Some(free) if free < report.memory_bytes => ", more than is free",
                    _ => "",
                };
                let memory = human_bytes(report.memory_bytes);
                let whole = match report.problems.as_slice() {
                    [] => "complete".to_owned(),
                    [problem] => format!("incomplete: {problem}"),
                    [problem, rest @ ..] => {
                        format!("incomplete: {problem} (and {} more)", rest.len())
                    }
                };
                format!(
                    "{}, {}; takes {memory} of memory{fits}; {whole}",
                    report.family, report.kind
                )
            }
            Err(problem) => format!("cannot be run: {problem}"),
        };
        let marks = match self.marks.as_slice() {
            [] => String::new(),
            marks => format!("  [{}]", marks.join(", ")),
        };
        format!("{:<60} {size:>9}{marks}\n    {what}", self.name)
    }

    fn json(&self) -> Value {
        let report = self.report.as_ref().ok();
        let problems = match &self.report {
            Ok(report) => report.problems.clone(),
            Err(problem) => vec![problem.clone()],
        };
        json!({
            "name": self.name,
            "path": self.path,
            "from": self.site,
            "bytes": self.bytes,
            "family": report.map(|report| report.family),
            "kind": report.map(|report| report.kind),
            "memory_bytes": report.map(|report| report.memory_bytes),
            "free_memory_bytes": available_memory_bytes(),
            "complete": problems.is_empty(),
            "problems": problems,
            "marks": self.marks,
        })
    }
}
