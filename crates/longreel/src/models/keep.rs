//! `longreel models verify`, `remove` and `pin`.

use std::path::Path;

use anyhow::Result;
use longreel_film::human_bytes;
use longreel_hub::{Cache, Checked, Kept, LOCK_FILE, Pin, Pins, Pull, State, Wish, select};
use serde_json::json;

use super::list::is_ours;
use super::progress::Meter;
use super::{Place, kept, named};
use crate::model_name::caches;
use crate::models_args::{PinArgs, RemoveArgs, VerifyArgs};
use crate::outcome::{EXIT_DONE, EXIT_FAILED, bad_input};
use crate::report::{print, print_json};

/// Compares files with their hashes.
pub fn verify(args: &VerifyArgs, place: &Place<'_>) -> Result<u8> {
    let chosen: Vec<Kept> = match args.models.as_slice() {
        // Not what other programs keep in the same caches.
        [] => caches(place.hub).iter().flat_map(Cache::all).filter(is_ours).collect(),
        names => {
            let one = |name: &String| Ok(kept(name, place)?.1);
            names.iter().map(one).collect::<Result<_>>()?
        }
    };
    if chosen.is_empty() {
        place.say("no published model is on this machine; `longreel models pull` fetches one");
    }
    let mut bad = 0;
    for kept in &chosen {
        let checked = compare(kept, place)?;
        let is_bad = |c: &&Checked| !matches!(c.state, State::Sound | State::Unknown);
        let found = checked.iter().filter(is_bad).count();
        if found > 0 && args.fix {
            kept.discard(&checked)?;
            mend(kept, &checked, place)?;
        } else {
            bad += found;
        }
    }
    if bad == 0 {
        return Ok(EXIT_DONE);
    }
    place.screen.fail(&format!(
        "{bad} files are damaged or missing; `longreel models verify --fix` fetches them again"
    ));
    Ok(EXIT_FAILED)
}

fn compare(kept: &Kept, place: &Place<'_>) -> Result<Vec<Checked>> {
    // Names of blobs are hashes. Where there are none, the site knows them.
    let listing = match kept.knows_hashes() {
        true => None,
        false => Some(place.client_of(kept.site)?.list(&kept.id, Some(&kept.revision))?),
    };
    let meter = Meter::new(place, "comparing", kept.bytes());
    let name = kept.short_reference();
    let mut told = |checked: &Checked| {
        if place.verbosity.json {
            let mut event = json!({"event": "file", "model": kept.reference()});
            if let (Some(event), Ok(serde_json::Value::Object(more))) =
                (event.as_object_mut(), serde_json::to_value(checked))
            {
                event.extend(more);
            }
            print_json(&event);
        }
        match &checked.state {
            State::Sound => {}
            State::Unknown => {
                place.say(&format!("{name}: {}: nobody knows its hash", checked.name))
            }
            State::Missing => {
                place.screen.warn(&format!("{name}: {} is missing", checked.name));
            }
            State::Damaged { expected, found } => place.screen.warn(&format!(
                "{name}: {} is damaged: its hash is {found}, published is {expected}",
                checked.name
            )),
        }
    };
    let checked = kept.verify(listing.as_ref(), &|n| meter.add(n.cast_signed()), &mut told)?;
    drop(meter);
    let sound = checked.iter().filter(|c| c.state == State::Sound).count();
    let text = format!("{name}: {sound} of {} files are as published", checked.len());
    if place.verbosity.json {
        place.say(&text)
    } else {
        print(&text)
    }
    Ok(checked)
}

/// Fetches what was taken away, and no more.
fn mend(kept: &Kept, checked: &[Checked], place: &Place<'_>) -> Result<()> {
    let client = place.client_of(kept.site)?;
    let listing = client.list(&kept.id, Some(&kept.revision))?;
    let wish = Wish { include: checked.iter().map(|file| file.name.clone()).collect() };
    let cache = Cache::new(client.settings());
    let pull = Pull::plan(&cache, &listing, &select(&listing, &wish)?)?;
    pull.fetch(&client, 4, &|_| {})?;
    place.say(&format!("{}: mended", kept.short_reference()));
    Ok(())
}

/// Removes a revision.
pub fn remove(args: &RemoveArgs, place: &Place<'_>) -> Result<u8> {
    let named = named(&args.model)?;
    let all: Vec<(Cache, Kept)> = caches(place.hub)
        .into_iter()
        .flat_map(|cache| {
            let of_name = cache.all().into_iter().filter(|kept| named.ids.contains(&kept.id));
            of_name.map(|kept| (cache.clone(), kept)).collect::<Vec<_>>()
        })
        .collect();
    let meant: Vec<&(Cache, Kept)> = match &named.revision {
        None => all.iter().collect(),
        Some(revision) => all
            .iter()
            .filter(|(cache, kept)| {
                cache
                    .find(&kept.id, Some(revision))
                    .is_some_and(|found| found.folder == kept.folder)
            })
            .collect(),
    };
    let (cache, kept) = match meant.as_slice() {
        [one] => one,
        [] => {
            return Err(bad_input(format!(
                "{}: it is not on this machine; `longreel models list` shows what is",
                args.model
            )));
        }
        several => {
            let names = several
                .iter()
                .map(|(cache, kept)| format!("{} ({})", kept.reference(), cache.site()));
            return Err(bad_input(format!(
                "{}: several are on this machine; name one of {}",
                args.model,
                names.collect::<Vec<_>>().join(", ")
            )));
        }
    };
    let removed = cache.remove(kept)?;
    if place.verbosity.json {
        print_json(&json!({
            "event": "removed",
            "model": kept.reference(),
            "files": removed.files,
            "bytes": removed.bytes,
        }));
    }
    let freed = human_bytes(removed.bytes);
    place.say(&format!("{}: removed, {freed} are free again", kept.short_reference()));
    Ok(EXIT_DONE)
}

/// Pins a model, or takes its pin away.
pub fn pin(args: &PinArgs, place: &Place<'_>) -> Result<u8> {
    let path = Path::new(LOCK_FILE);
    let mut pins = Pins::read(path)?;
    if args.remove {
        let named = named(&args.model)?;
        if !named.ids.iter().fold(false, |any, id| pins.unset(id) | any) {
            return Err(bad_input(format!("{}: {LOCK_FILE} does not pin it", args.model)));
        }
        pins.write(path)?;
        place.say(&format!("{}: no longer pinned", args.model));
        return Ok(EXIT_DONE);
    }
    let kept = unpinned(&args.model, place)?;
    let meter = Meter::new(place, "hashing", kept.bytes());
    let made = Pin::of_kept(&kept, &|bytes| meter.add(bytes.cast_signed()));
    drop(meter);
    let pin = made?;
    let files = pin.files.len();
    pins.set(pin);
    pins.write(path)?;
    let text = format!("{}: pinned with {files} files in {LOCK_FILE}", kept.reference());
    if place.verbosity.json {
        print_json(&json!({"event": "pinned", "model": kept.reference(), "files": files}));
        place.say(&text);
    } else {
        print(&text);
    }
    Ok(EXIT_DONE)
}

/// The model that is meant whatever was pinned before: its newest, or the revision that is named.
fn unpinned(text: &str, place: &Place<'_>) -> Result<Kept> {
    let named = named(text)?;
    let caches = caches(place.hub);
    let find = |id| caches.iter().find_map(|cache| cache.find(id, named.revision.as_ref()));
    named.ids.iter().find_map(find).ok_or_else(|| {
        bad_input(format!(
            "{text}: it is not on this machine; `longreel models pull {}` fetches it",
            named.reference()
        ))
    })
}
