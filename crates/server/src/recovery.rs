//! What becomes of a film whose worker died because memory ran out.
//!
//! Nearly all that a film takes beyond its weights grows with its window, so the same film in smaller
//! windows is what may still be had of it. It is another film, though, with other seams: it is only made
//! instead while nothing of the first one is finished, and the job says so.

use std::path::Path;
use std::sync::Arc;

use longreel_film::{FilmPlan, FilmRequest, Length, run_folder};
use longreel_jobs::{Instead, Job, PromptChange};

use crate::films::{Film, Films, Resolved};
use crate::shared::{Shared, remove_folder};
use crate::worker::FILM;

/// What is done when a film's worker dies because memory ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOutOfMemory {
    /// The film is made with smaller base frames, when none of its segments is finished.
    Smaller,
    /// The film is tried as it was asked for, up to the deaths after which it fails.
    Fail,
}

/// What is made instead of the film of `job`, whose folder is cleared for it: what lies there was begun
/// with another plan. `None` when the film stays as it is.
pub(crate) async fn instead(shared: &Arc<Shared>, job: &Job) -> Option<Instead> {
    let resolved = Resolved::of(job).ok()?;
    // What a film goes on from has its windows already.
    if shared.on_out_of_memory == OnOutOfMemory::Fail
        || job.segments_done > 0
        || resolved.begins.is_some()
    {
        return None;
    }
    let films = shared.models.of(job).ok()?;
    let prompts = job.prompts.clone();
    let planned = tokio::task::spawn_blocking(move || smaller(films.as_ref(), resolved, &prompts));
    let (resolved, prompts, warning) = planned.await.ok()??;
    let resolved = serde_json::to_value(resolved).ok()?;
    // Before anybody hears of the other plan: a server that dies in between begins the first one anew.
    let folder = shared.work_folder(job.id);
    if has_finished(&folder) {
        return None;
    }
    remove_folder(&folder).await;
    let is_gone = !folder.exists();
    let prompts_revision = job.prompts_revision;
    is_gone.then_some(Instead { resolved, prompts_revision, prompts, warning })
}

/// Whether a segment is finished that the worker did not get to say.
fn has_finished(folder: &Path) -> bool {
    let film = folder.join(FILM);
    let Ok(mut entries) = run_folder(&film).read_dir() else { return film.exists() };
    entries
        .any(|entry| entry.is_ok_and(|e| e.path().extension().is_some_and(|e| e == "checkpoint")))
}

/// The film with smaller base frames, its changed prompts, and what is said of it.
fn smaller(
    films: &dyn Films,
    mut resolved: Resolved,
    prompts: &[PromptChange],
) -> Option<(Resolved, Vec<PromptChange>, String)> {
    let before = films.planned(resolved.request.clone()).ok()?;
    let after = smaller_film(&before.plan, |request| films.planned(request).ok())?;
    let (was, is) = (resolved.request.base_num_frames, after.plan.request().base_num_frames);
    let warning =
        format!("made with base_num_frames {is} instead of {was}: the machine ran out of memory");
    let prompts = moved(prompts, &before.plan, &after.plan);
    resolved.warnings.retain(|warning| !before.warnings.contains(warning));
    resolved.warnings.splice(0..0, after.warnings);
    resolved.warnings.insert(0, warning.clone());
    // Whoever asks for the same once more gets what this one is now.
    resolved.keys.insert("base_num_frames".to_owned(), is.into());
    resolved.expected_seconds = after.plan.summary().expected_seconds;
    resolved.command = after.command;
    resolved.request = after.plan.request().clone();
    Some((resolved, prompts, warning))
}

/// The film with the first of the [`windows`] that it can be made with.
fn smaller_film(before: &FilmPlan, planned: impl Fn(FilmRequest) -> Option<Film>) -> Option<Film> {
    let request = before.request();
    let base = match request.length {
        Length::Frames(frames) => {
            usize::try_from(frames).unwrap_or(usize::MAX).min(request.base_num_frames)
        }
        Length::Endless => request.base_num_frames,
    };
    windows(base, request.overlap_history).into_iter().find_map(|base_num_frames| {
        let film = planned(FilmRequest { base_num_frames, ..request.clone() })?;
        // A model that makes its film in one piece has no smaller window.
        let window = |plan: &FilmPlan| plan.planned(0).map(|first| first.frames);
        // What frames take that are made larger does not depend on the window.
        let [now, then] = [before, &film.plan].map(FilmPlan::summary);
        let saved = now.memory_bytes.saturating_sub(then.memory_bytes);
        let helps = now.finish.as_ref().is_none_or(|finish| saved >= finish.added_bytes / 4);
        (helps && window(&film.plan) < window(before)).then_some(film)
    })
}

/// Base frames below `base` that are above the overlap, those nearest to three fifths of it first.
fn windows(base: usize, overlap: usize) -> Vec<usize> {
    let wanted = base * 3 / 5;
    let mut windows: Vec<usize> = (1..base).step_by(4).filter(|&n| n > overlap.max(1)).collect();
    windows.sort_by_key(|&frames| frames.abs_diff(wanted));
    windows
}

/// Changed prompts of one plan, for the segments of another one: from the first segment on that begins
/// at the same frame or later.
fn moved(changes: &[PromptChange], before: &FilmPlan, after: &FilmPlan) -> Vec<PromptChange> {
    let place = |change: &PromptChange| {
        let segment = change.from_segment as usize;
        let first = before.first_frame(segment)?;
        let found = (0..).map_while(|segment| after.first_frame(segment));
        let from_segment = found.take_while(|&frame| frame < first).count();
        // A segment that the film does not have changes nothing.
        after.first_frame(from_segment)?;
        let from_segment = u32::try_from(from_segment).ok()?;
        Some(PromptChange { from_segment, ..change.clone() })
    };
    changes.iter().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::films::ModelInfo;
    use longreel_film::{Engine, EngineOptions, plan};

    /// Plans films of a model of the fixtures.
    fn planner(model: &str) -> impl Fn(FilmRequest) -> Option<Film> {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models");
        let engine = Engine::open(&EngineOptions::new(models.join(model))).expect("a model");
        let facts = engine.facts().clone();
        let model = Arc::new(ModelInfo {
            name: model.to_owned(),
            revision: facts.revision.clone(),
            kind: facts.kind.to_string(),
            defaults: engine.defaults(false).expect("defaults"),
            program_version: String::new(),
        });
        move |request| {
            let (command, warnings, model) = (String::new(), Vec::new(), model.clone());
            Some(Film { plan: plan(&request, &facts, false).ok()?, command, warnings, model })
        }
    }

    fn film(model: &str, change: impl FnOnce(&mut FilmRequest)) -> Film {
        let plan = planner(model);
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models");
        let engine = Engine::open(&EngineOptions::new(models.join(model))).expect("a model");
        let mut request = engine.defaults(false).expect("defaults").request("a dog");
        change(&mut request);
        plan(request).expect("a film")
    }

    fn base(film: &Film) -> usize {
        film.plan.request().base_num_frames
    }

    #[test]
    fn a_smaller_window_is_about_three_fifths_and_above_the_overlap() {
        let long = |base: usize, overlap: usize| {
            film("df", |request| {
                request.length = Length::Frames(257);
                (request.base_num_frames, request.overlap_history) = (base, overlap);
            })
        };
        let planned = planner("df");
        let mut now = long(97, 17);
        let mut bases = vec![base(&now)];
        while let Some(next) = smaller_film(&now.plan, &planned) {
            bases.push(base(&next));
            now = next;
        }
        assert_eq!(bases, [97, 57, 33, 21], "17 would leave no new frame");
        assert!(smaller_film(&long(41, 37).plan, &planned).is_none());
    }

    #[test]
    fn a_smaller_window_holds_whole_causal_blocks() {
        let now = film("df", |request| {
            request.length = Length::Frames(217);
            (request.base_num_frames, request.overlap_history) = (57, 17);
            request.causal_block_size = Some(5);
        });
        // 33, the nearest, is nine latent frames.
        let next = smaller_film(&now.plan, planner("df")).expect("a smaller one");
        assert_eq!(base(&next), 37);
    }

    #[test]
    fn a_film_within_its_window_is_cut_below_its_length() {
        let now = film("df", |request| {
            request.length = Length::Frames(33);
            (request.base_num_frames, request.overlap_history) = (97, 5);
        });
        let next = smaller_film(&now.plan, planner("df")).expect("a smaller one");
        assert_eq!((base(&next), next.plan.segments()), (17, Some(3)));
    }

    #[test]
    fn smaller_windows_are_no_help_where_larger_frames_take_the_memory() {
        let large = |size| {
            film("df", |request| {
                request.length = Length::Frames(257);
                (request.base_num_frames, request.overlap_history) = (97, 17);
                request.finish.size = size;
            })
        };
        assert!(smaller_film(&large(Some([3840, 2160])).plan, planner("df")).is_none());
        assert!(smaller_film(&large(None).plan, planner("df")).is_some());
    }

    #[test]
    fn a_model_that_makes_its_film_in_one_piece_has_no_smaller_window() {
        let now = film("t2v", |_| ());
        assert!(smaller_film(&now.plan, planner("t2v")).is_none());
    }

    #[test]
    fn changed_prompts_keep_their_place_in_the_film() {
        let now = film("df", |request| {
            request.length = Length::Frames(257);
            (request.base_num_frames, request.overlap_history) = (97, 17);
        });
        let next = smaller_film(&now.plan, planner("df")).expect("a smaller one");
        let change = |from_segment| PromptChange { from_segment, prompt: "rain".into() };
        // Segments begin at 97 and 177, now at 57, 97, 137 and 177; there is none of number 9.
        let moved = moved(&[change(0), change(1), change(2), change(9)], &now.plan, &next.plan);
        assert_eq!(moved, [change(0), change(2), change(4)]);
    }
}
