//! Films from films: extended, branched, made again with another prompt.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use longreel_film::{FilmPlan, FilmRequest, Length, StartFrom, run_folder};
use longreel_jobs::{
    ArtifactError, ArtifactKind, ArtifactName, Format, Job, JobState, Parent, Relation,
};
use serde_json::{Map, Value};

use super::asked::{self, File, Source, Taken};
use super::body::{self, Asked};
use super::problem::Problem;
use super::terms::Terms;
use super::videos;
use crate::access::Caller;
use crate::code::{About, Code};
use crate::films::{Begins, Film, Resolved};
use crate::shared::Shared;
use crate::steering::steered;
use crate::worker::FILM;

/// Of these keys one may be said, and it takes the place of the others.
const RIVALS: [&[&str]; 4] = [
    &["seconds", "num_frames"],
    &["size", "resolution"],
    &["teacache", "easycache"],
    &["image", "video"],
];

/// POST /v1/videos/{id}/remix
pub async fn remix(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let parent = shared.store.get(videos::job_id(&id)?).await?;
    let before = asked::resolved(&parent)?;
    let Asked { mut keys, uploads } =
        body::read(&shared, &headers, body, next_input(&before.request)).await?;
    let request = Value::Object(keys.clone());
    let terms = Terms::take(&shared, &caller, &mut keys).await?;
    if asked::prompt(&keys)?.is_none() {
        return Err(Problem::missing("prompt", "say what the new film shows"));
    }
    // Another model than the one before may be named.
    let films = match asked::named_model(&shared, &mut keys).await? {
        Some(films) => films,
        None => shared.models.served_of(&parent)?,
    };
    let mut merged = before.keys;
    // The other prompts belong to the old one.
    merged.remove("prompt_at");
    merged.insert("seed".into(), parent.asked.seed.into());
    for (key, value) in keys {
        let rivals = RIVALS.iter().find(|rivals| rivals.contains(&key.as_str()));
        rivals.into_iter().copied().flatten().for_each(|rival| drop(merged.remove(*rival)));
        merged.insert(key, value);
    }
    let (_, inputs) = body::split(&merged, None)?;
    let mut files = Vec::new();
    for name in asked::inputs_of(&inputs) {
        let uploaded = uploads.files().find(|(uploaded, _)| *uploaded == name);
        let source = uploaded.map_or(Source::Of(parent.id, name), |file| Source::Local(file.1));
        files.push(File { name, source });
    }
    // Those of the parent were looked at when they came.
    let all_new = files.iter().all(|file| matches!(file.source, Source::Local(_)));
    let folder = uploads.folder().filter(|_| all_new);
    let film = asked::planned(films, &merged, folder).await?;
    let warnings = film.warnings.clone();
    let taken = Taken {
        caller: &caller,
        terms,
        request,
        keys: merged,
        begins: None,
        warnings,
        headers: &headers,
    };
    let mut new = asked::new_job(&film, taken)?;
    new.parent = Some(Parent { job: parent.id, relation: Relation::Remix, segment: None });
    let created = asked::submit(&shared, new, files).await?;
    videos::created(&shared, created).await
}

/// POST /v1/videos/{id}/extend
pub async fn extend(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let keys = &["prompt", "seed", "seconds", "num_frames"];
    let Going { parent, wanted, asked_for, terms } =
        Going::read(&shared, &caller, &id, &headers, body, keys).await?;
    if parent.state != JobState::Completed {
        let detail = format!(
            "video {} is {}; it can be extended when it is completed, and branched before",
            parent.id, parent.state
        );
        return Err(Problem::new(StatusCode::CONFLICT, Code::NotCompleted, detail)
            .about(About::value("state", parent.state)));
    }
    let before = of_parent(&shared, &parent).await?;
    let request = before.plan.request().clone();
    let Length::Frames(frames) = request.length else {
        return Err(Problem::invalid("an endless film has no end to be extended at"));
    };
    let usual = request.base_num_frames.saturating_sub(request.overlap_history).max(4);
    let added = match added_frames(&wanted, request.fps)? {
        Some(added) => added,
        None => usual as u64 / 4 * 4,
    };
    // A picture that the old film ended in is no end any more.
    let request = FilmRequest {
        length: Length::Frames(frames.saturating_add(added)),
        end_image: None,
        ..request
    };
    let longer = planned(&shared, &parent, request).await?;
    let kept = before.plan.shared_segments(&longer.plan);
    if kept == 0 {
        let detail = format!(
            "nothing of video {} can be kept: its only segment is shorter than a window of {} frames, \
             and is made otherwise in a longer film; ask for a new film of {} frames with its seed",
            parent.id,
            longer.plan.request().base_num_frames,
            frames.saturating_add(added)
        );
        return Err(Problem::new(StatusCode::CONFLICT, Code::NothingToKeep, detail));
    }
    let film = changed(&shared, &parent, longer, kept, &wanted).await?;
    let mut warnings = Vec::new();
    if let Some(first) = film.plan.first_frame(kept).filter(|first| *first < frames) {
        warnings.push(format!(
            "the last {} frames of the film are made anew, since its last segment was cut short by its \
             length",
            frames - first
        ));
    }
    let going_on = GoingOn { relation: Relation::Extend, kept, film, warnings, asked_for, terms };
    take_in(&shared, &caller, &parent, going_on, &headers).await
}

/// POST /v1/videos/{id}/branch
pub async fn branch(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let keys = &["segment", "prompt", "seed", "seconds", "num_frames"];
    let Going { parent, wanted, asked_for, terms } =
        Going::read(&shared, &caller, &id, &headers, body, keys).await?;
    let Some(segment) = asked::number::<u32>(&wanted, "segment")? else {
        return Err(Problem::missing("segment", "say which is the first to be made anew"));
    };
    let kept = segment as usize;
    let before = of_parent(&shared, &parent).await?;
    let mut request = before.plan.request().clone();
    if let Some(frames) = total_frames(&wanted, request.fps)? {
        request.length = Length::Frames(frames);
    }
    let other = planned(&shared, &parent, request).await?;
    let shared_segments = before.plan.shared_segments(&other.plan);
    if kept > shared_segments || other.plan.first_frame(kept).is_none() {
        let most = other.plan.segments().map_or(shared_segments, |n| shared_segments.min(n - 1));
        let rule = format!(
            "it can be 0 to {most}, since what comes before it is kept and something has to come after it"
        );
        return Err(Problem::value("segment", segment, rule).limit(most as u64));
    }
    if parent.state != JobState::Completed && parent.segments_done < segment {
        let detail = format!(
            "segment is {segment}; of video {} {} segments are finished, so it can be 0 to {}",
            parent.id, parent.segments_done, parent.segments_done
        );
        return Err(Problem::new(StatusCode::CONFLICT, Code::SegmentNotMade, detail)
            .about(About::value("segment", segment))
            .limit(parent.segments_done.into()));
    }
    let film = changed(&shared, &parent, other, kept, &wanted).await?;
    let (relation, warnings) = (Relation::Branch, Vec::new());
    let going_on = GoingOn { relation, kept, film, warnings, asked_for, terms };
    take_in(&shared, &caller, &parent, going_on, &headers).await
}

/// What is asked for on the way from one film to another.
struct Going {
    parent: Job,
    /// The keys about the film.
    wanted: Map<String, Value>,
    /// The request as it came.
    asked_for: Value,
    terms: Terms,
}

impl Going {
    /// Reads a request that may have these keys, beside its terms.
    async fn read(
        shared: &Shared,
        caller: &Caller,
        id: &str,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
        keys: &[&str],
    ) -> Result<Self, Problem> {
        let parent = shared.store.get(videos::job_id(id)?).await?;
        let mut wanted = asked::object(shared, headers, body).await?;
        let asked_for = Value::Object(wanted.clone());
        let terms = Terms::take(shared, caller, &mut wanted).await?;
        asked::known_keys(&wanted, keys)?;
        Ok(Self { parent, wanted, asked_for, terms })
    }
}

/// A film that begins with segments of another one.
struct GoingOn {
    relation: Relation,
    /// Segments that are kept.
    kept: usize,
    film: Film,
    warnings: Vec<String>,
    /// The request as it came.
    asked_for: Value,
    terms: Terms,
}

/// The parent's film with the prompts that it was given since; refused when another model made it.
async fn of_parent(shared: &Arc<Shared>, parent: &Job) -> Result<Film, Problem> {
    let films = shared.models.served_of(parent)?;
    let model = films.model();
    let made_by = (&parent.asked.model, &parent.asked.model_revision);
    if made_by != (&model.name, &model.revision) {
        let detail = format!(
            "video {} was made by {} (revision {}), and this server has {} (revision {}); only the same \
             model can go on with it",
            parent.id, made_by.0, made_by.1, model.name, model.revision
        );
        return Err(Problem::new(StatusCode::CONFLICT, Code::ModelChanged, detail)
            .about(About::value("model", made_by.0)));
    }
    let resolved = asked::resolved(parent)?;
    Ok(steered(shared, parent, resolved.request).await?)
}

async fn planned(
    shared: &Arc<Shared>,
    parent: &Job,
    request: FilmRequest,
) -> Result<Film, Problem> {
    let films = shared.models.served_of(parent)?;
    asked::blocking(move || films.planned(request)).await
}

/// `film` with the prompt and seed that are wanted from segment `kept` on.
async fn changed(
    shared: &Arc<Shared>,
    parent: &Job,
    film: Film,
    kept: usize,
    wanted: &Map<String, Value>,
) -> Result<Film, Problem> {
    let (prompt, seed) = (asked::prompt(wanted)?, asked::number::<u64>(wanted, "seed")?);
    let request = film.plan.request();
    let prompts = film.plan.changed_prompts(&request.prompts, kept, prompt.as_deref(), seed);
    match prompts {
        Some(prompts) if prompts != request.prompts => {
            let request = FilmRequest { prompts, ..request.clone() };
            planned(shared, parent, request).await
        }
        _ => Ok(film),
    }
}

async fn take_in(
    shared: &Arc<Shared>,
    caller: &Caller,
    parent: &Job,
    going_on: GoingOn,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let GoingOn { relation, kept, film, mut warnings, asked_for, terms } = going_on;
    let before = asked::resolved(parent)?;
    let request = film.plan.request().clone();
    let mut files: Vec<File> =
        names_in(&request).map(|name| File { name, source: Source::Of(parent.id, name) }).collect();
    let begins = match u32::try_from(kept) {
        Ok(segments @ 1..) => {
            let copies = beginning(shared, parent, &before, segments, &mut files).await?;
            Some(Begins { segments, copies })
        }
        _ => None,
    };
    let keys = keys_of(&before, &film.plan);
    warnings.extend(film.warnings.iter().cloned());
    let taken = Taken { caller, terms, request: asked_for, keys, begins, warnings, headers };
    let mut new = asked::new_job(&film, taken)?;
    let segment = u32::try_from(kept).ok();
    new.parent = Some(Parent { job: parent.id, relation, segment });
    let created = asked::submit(shared, new, files).await?;
    videos::created(shared, created).await
}

/// Sees to it that what the film begins with is there when it is made. A film that is finished stays as
/// long as others need it; one in work is copied now, whatever becomes of it.
async fn beginning(
    shared: &Arc<Shared>,
    parent: &Job,
    before: &Resolved,
    segments: u32,
    files: &mut Vec<File>,
) -> Result<Option<[ArtifactName; 2]>, Problem> {
    let kind = ArtifactKind::Checkpoint(segments - 1);
    let checkpoint = ArtifactName { kind, format: Format::Safetensors };
    match shared.artifacts.size_bytes(parent.id, checkpoint).await {
        Ok(_) => {}
        Err(ArtifactError::NotFound { .. }) => {
            let detail = format!(
                "the state after segment {} of video {} is not kept, so nothing can go on from there; \
                 choose another segment",
                segments - 1,
                parent.id
            );
            return Err(Problem::new(StatusCode::CONFLICT, Code::SegmentNotKept, detail)
                .about(About::value("segment", segments - 1)));
        }
        Err(error) => return Err(error.into()),
    }
    if parent.state == JobState::Completed {
        return Ok(None);
    }
    let film = shared.work_folder(parent.id).join(FILM);
    let drift = run_folder(&film).join("drift.jsonl");
    if parent.state.is_final() || !film.exists() || !drift.exists() {
        let detail = format!(
            "video {} is {} and its film is gone; only films that are completed or in work can be gone \
             on with",
            parent.id, parent.state
        );
        return Err(Problem::new(StatusCode::CONFLICT, Code::FilmGone, detail)
            .about(About::value("state", parent.state)));
    }
    let number = next_input(&before.request);
    let names = [(number, Format::Mp4), (number.saturating_add(1), Format::Json)]
        .map(|(number, format)| ArtifactName { kind: ArtifactKind::Input(number), format });
    for (name, path) in names.into_iter().zip([film, drift]) {
        files.push(File { name, source: Source::Local(path) });
    }
    Ok(Some(names))
}

/// The keys that ask for the film in one piece, but for prompts and seeds that change on the way.
fn keys_of(before: &Resolved, plan: &FilmPlan) -> Map<String, Value> {
    let mut keys = before.keys.clone();
    keys.remove("seconds");
    if let Length::Frames(frames) = plan.request().length {
        keys.insert("num_frames".into(), frames.into());
    }
    if plan.request().end_image.is_none() {
        keys.remove("end_image");
    }
    keys
}

/// The files that a request names.
fn names_in(request: &FilmRequest) -> impl Iterator<Item = ArtifactName> {
    let start: Option<&PathBuf> = match &request.start {
        StartFrom::Image(path) | StartFrom::Video(path) => Some(path),
        StartFrom::Prompt => None,
    };
    start.into_iter().chain(&request.end_image).filter_map(|path| path.to_str()?.parse().ok())
}

/// A number that no input of the request has.
fn next_input(request: &FilmRequest) -> u32 {
    let numbers = names_in(request).map(|name| match name.kind {
        ArtifactKind::Input(number) => number.saturating_add(1),
        _ => 0,
    });
    numbers.max().unwrap_or(0)
}

/// The length that is added, a multiple of 4, or `None` when nothing is said.
fn added_frames(wanted: &Map<String, Value>, fps: u32) -> Result<Option<u64>, Problem> {
    let Some((frames, is_exact)) = frames_of(wanted, fps)? else { return Ok(None) };
    let nearest = ((frames + 2.0) / 4.0).floor() as u64 * 4;
    if is_exact && nearest as f64 != frames || nearest == 0 {
        let below = (frames / 4.0).floor() as u64 * 4;
        let choice = if below == 0 { "4".to_owned() } else { format!("{below} or {}", below + 4) };
        let detail =
            format!("{frames} frames are added; it has to be a multiple of 4, use {choice}");
        let about = About::value("num_frames", frames);
        return Err(Problem::invalid(detail).about(about).allowed(choice.split(" or ")));
    }
    Ok(Some(nearest))
}

/// The length of the whole, or `None` when nothing is said.
fn total_frames(wanted: &Map<String, Value>, fps: u32) -> Result<Option<u64>, Problem> {
    let Some((frames, is_exact)) = frames_of(wanted, fps)? else { return Ok(None) };
    // A count that is not 4n + 1 is refused by the plan, in the words that are known for it.
    let nearest =
        if is_exact { frames } else { ((frames - 1.0) / 4.0).round().max(0.0) * 4.0 + 1.0 };
    Ok(Some(nearest as u64))
}

/// Frames by `num_frames`, exactly, or by `seconds`.
fn frames_of(wanted: &Map<String, Value>, fps: u32) -> Result<Option<(f64, bool)>, Problem> {
    let frames = asked::number::<u32>(wanted, "num_frames")?;
    let seconds = asked::number::<f64>(wanted, "seconds")?;
    match (frames, seconds) {
        (Some(_), Some(_)) => {
            Err(Problem::invalid("num_frames and seconds say the same thing; keep one")
                .about(About::field("num_frames")))
        }
        (Some(frames), None) => Ok(Some((frames.into(), true))),
        (None, Some(seconds)) if (0.0..=1e6).contains(&seconds) => {
            Ok(Some(((seconds * f64::from(fps)).round(), false)))
        }
        (None, Some(seconds)) => {
            Err(Problem::value("seconds", seconds, "it can be 0 to 1000000").limit(1_000_000))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(json: Value) -> Map<String, Value> {
        json.as_object().cloned().expect("an object")
    }

    #[test]
    fn added_lengths_are_multiples_of_four_and_seconds_are_rounded_to_them() {
        let added = |json| added_frames(&of(json), 24);
        assert!(matches!(added(json!({})), Ok(None)));
        for (json, frames) in [
            (json!({"num_frames": 40}), 40),
            (json!({"num_frames": "40"}), 40),
            (json!({"seconds": 2}), 48),
            (json!({"seconds": "2.1"}), 52),
        ] {
            assert_eq!(added(json.clone()).expect("good"), Some(frames), "{json}");
        }
        for json in [
            json!({"num_frames": 41}),
            json!({"num_frames": 0}),
            json!({"seconds": 0.01}),
            json!({"seconds": -1}),
            json!({"seconds": "NaN"}),
            json!({"seconds": 1, "num_frames": 4}),
            json!({"num_frames": 1.5}),
            json!({"num_frames": [4]}),
        ] {
            assert!(added(json.clone()).is_err(), "{json}");
        }
    }

    #[test]
    fn whole_lengths_by_seconds_are_of_the_frames_that_can_be() {
        let total = |json| total_frames(&of(json), 24).expect("good");
        assert_eq!(total(json!({"seconds": 2})), Some(49));
        assert_eq!(total(json!({"num_frames": 50})), Some(50));
        assert_eq!(total(json!({"seconds": 0})), Some(1));
        assert_eq!(total(json!({})), None);
    }
}
