//! `longreel models pull`.

use std::path::Path;

use anyhow::{Context, Result};
use longreel_film::{available_memory_bytes, human_bytes, human_seconds};
use longreel_hub::{
    Cache, Client, HubError, Kept, LOCK_FILE, Listing, Pins, Progress, Pull, RepoId, Revision,
    Wish, select,
};
use longreel_weights::inspect;
use serde_json::json;

use super::progress::Meter;
use super::{Place, kept, named};
use crate::models_args::PullArgs;
use crate::outcome::{EXIT_DONE, bad_input};
use crate::report::{print, print_json};
use crate::shell;

/// Fetches models.
pub fn pull(args: &PullArgs, place: &Place<'_>) -> Result<u8> {
    let pins = Pins::read(Path::new(LOCK_FILE))?;
    let wish = Wish { include: args.file.clone() };
    if args.models.is_empty() {
        if pins.models.is_empty() {
            return Err(bad_input(format!(
                "MODEL is missing, and no {LOCK_FILE} in this folder names one; `longreel models search` lists \
                 models, skyreels-v2-df-1.3b-540p is the smallest for films of any length"
            )));
        }
        for pin in &pins.models {
            // The very files that are pinned.
            let files = pin.files.iter().map(|file| file.name.clone());
            let wish = match args.file.is_empty() {
                true => Wish { include: files.collect() },
                false => wish.clone(),
            };
            let client = place.client_of(pin.from)?;
            let listing = client.list(&pin.id()?, Some(&pin.revision()?))?;
            let kept = one(&client, &listing, &wish, args, place)?;
            if let Some(kept) = kept {
                check_pin(pin, &kept, place)?;
            }
        }
        return Ok(EXIT_DONE);
    }
    for text in &args.models {
        let named = named(text)?;
        let mut wish = wish.clone();
        wish.include.extend(named.file.as_ref().map(ToString::to_string));
        let client = place.client()?;
        let pin =
            pins.of(named.id()).filter(|pin| named.revision.is_none() && pin.from == client.site());
        let revision = match pin {
            Some(pin) => Some(pin.revision()?),
            None => named.revision.clone(),
        };
        let listing = list(&client, &named.ids, revision.as_ref())?;
        let kept = one(&client, &listing, &wish, args, place)?;
        if let (Some(pin), Some(kept)) = (pin, kept) {
            check_pin(pin, &kept, place)?;
        }
    }
    Ok(EXIT_DONE)
}

/// The list of the first repository that is there.
fn list(client: &Client, ids: &[RepoId], revision: Option<&Revision>) -> Result<Listing, HubError> {
    let first = client.list(&ids[0], revision);
    match (first, ids.get(1)) {
        (Err(HubError::NotFound { .. }), Some(other)) => client.list(other, revision),
        (listing, _) => listing,
    }
}

/// One model; nothing when it was only asked what would be done.
fn one(
    client: &Client,
    listing: &Listing,
    wish: &Wish,
    args: &PullArgs,
    place: &Place<'_>,
) -> Result<Option<Kept>> {
    let cache = Cache::new(client.settings());
    let chosen = select(listing, wish)?;
    let pull = Pull::plan(&cache, listing, &chosen)?;
    let (total, have) = (pull.total_bytes(), pull.have_bytes());
    let name = format!("{}@{}", listing.id, listing.commit);
    if place.verbosity.json {
        print_json(&json!({
            "event": "pull",
            "repository": listing.id.to_string(),
            "revision": listing.commit.as_str(),
            "from": client.site(),
            "files": pull.files(),
            "total_bytes": total,
            "have_bytes": have,
            "folder": cache.root().display().to_string(),
        }));
    }
    let mut heading = format!("{name}: {} files, {}", pull.files(), human_bytes(total));
    match have {
        0 => {}
        have if have == total => heading.push_str(", all here"),
        have => heading.push_str(&format!(", {} here", human_bytes(have))),
    }
    place.say(&format!("{heading}, from {} into {}", client.site(), cache.root().display()));
    if args.dry_run {
        for file in &chosen {
            let size = file.size_bytes.map_or_else(String::new, human_bytes);
            if !place.verbosity.json {
                print(&format!("{size:>10}  {}", file.name));
            }
        }
        pull.check_space(client)?;
        return Ok(None);
    }
    let kept = fetch(client, &pull, usize::from(args.parallel), place)?;
    tell(&kept, wish, place)?;
    Ok(Some(kept))
}

fn fetch(client: &Client, pull: &Pull<'_>, parallel: usize, place: &Place<'_>) -> Result<Kept> {
    let meter = (!pull.is_whole()).then(|| Meter::new(place, "fetching", pull.total_bytes()));
    let json = place.verbosity.json;
    let watch = |progress: Progress<'_>| match progress {
        Progress::Here(bytes) => {
            if let Some(meter) = &meter {
                meter.skip(bytes);
            }
        }
        Progress::Bytes(bytes) => {
            if let Some(meter) = &meter {
                meter.add(bytes);
            }
        }
        Progress::Done { file } => {
            if json {
                print_json(&json!({"event": "file", "name": file}));
            }
        }
        Progress::Waiting { file, problem, wait } => {
            let seconds = wait.as_secs_f64();
            if json {
                print_json(&json!({
                    "event": "waiting", "name": file, "problem": problem, "seconds": seconds,
                }));
            }
            let text = human_seconds(seconds);
            place.screen.warn(&format!("{file}: the server {problem}; next try in {text}"));
        }
        Progress::Busy { file } => {
            place.say(&format!("{file}: another program fetches it; waiting for that"));
        }
    };
    Ok(pull.fetch(client, parallel, &watch)?)
}

/// What came, and how it is used.
fn tell(kept: &Kept, wish: &Wish, place: &Place<'_>) -> Result<()> {
    let report = inspect(&kept.folder);
    let (memory, problems) = match &report {
        Ok(report) => (Some(report.memory_bytes), report.problems.clone()),
        Err(error) => (None, vec![error.to_string()]),
    };
    if place.verbosity.json {
        print_json(&json!({
            "event": "pulled",
            "repository": kept.id.to_string(),
            "revision": kept.revision.as_str(),
            "path": kept.folder.display().to_string(),
            "memory_bytes": memory,
            "problems": problems,
        }));
    } else {
        print(&kept.folder.display().to_string());
    }
    if let Some(needed) = memory {
        place.say(&memory_line(needed));
    }
    // Some files of a repository are seldom a whole model, and that was asked for.
    match (problems.first(), wish.include.is_empty()) {
        (None, _) => {
            let name = shell::quoted(&name_of(kept, place));
            place.say(&format!(
                "longreel generate \"…\" --model {name} makes films with it, longreel models use {name} by \
                 default"
            ));
        }
        (Some(problem), true) => {
            place.screen.warn(&format!("it cannot be run as it is: {problem}"))
        }
        (Some(problem), false) => place.say(&format!("to make films with it: {problem}")),
    }
    Ok(())
}

/// What to name a model by: with its revision where the name alone means another one.
fn name_of(model: &Kept, place: &Place<'_>) -> String {
    let name = model.id.to_string();
    match kept(&name, place) {
        // Branches are no part of it: one that was fetched by its commit may have none.
        Ok((_, meant)) if meant.folder == model.folder => name,
        _ => model.short_reference(),
    }
}

/// What the weights take, beside what this machine has.
pub fn memory_line(needed: u64) -> String {
    match available_memory_bytes() {
        Some(free) if free < needed => format!(
            "its weights take {} of memory and this machine has {} free: they will be read from the disk again \
             and again; `longreel plan` says how long a film takes",
            human_bytes(needed),
            human_bytes(free)
        ),
        Some(free) => format!(
            "its weights take {} of memory, of {} that are free here",
            human_bytes(needed),
            human_bytes(free)
        ),
        None => format!("its weights take {} of memory", human_bytes(needed)),
    }
}

fn check_pin(pin: &longreel_hub::Pin, kept: &Kept, place: &Place<'_>) -> Result<()> {
    let meter = Meter::new(place, "comparing", pin.files.iter().map(|file| file.size).sum());
    let differences = pin.differences(kept, &|bytes| meter.add(bytes.cast_signed()));
    drop(meter);
    let differences = differences.with_context(|| format!("cannot compare {}", kept.id))?;
    match differences.as_slice() {
        [] => {
            place.say(&format!("{}: as {LOCK_FILE} has it", kept.id));
            Ok(())
        }
        [first, rest @ ..] => Err(bad_input(format!(
            "{}: {} files are not as {LOCK_FILE} has them: {first}{}; `longreel models verify --fix` fetches \
             damaged ones again, `longreel models pin {}` takes what is here",
            kept.id,
            differences.len(),
            if rest.is_empty() { "" } else { " and more" },
            kept.reference()
        ))),
    }
}
