//! Films from films: extended, branched, made again with another prompt.

mod beginning;
mod lengths;
mod remix;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use longreel_film::{FilmPlan, FilmRequest, Length};
use longreel_jobs::{Job, JobState, Parent, Relation};
use serde_json::{Map, Value};

use self::beginning::{beginning, names_in};
use self::lengths::{added_frames, total_frames};
pub use self::remix::remix;
use super::asked::{self, File, Source, Taken};
use super::problem::Problem;
use super::terms::Terms;
use super::videos;
use crate::access::Caller;
use crate::code::{About, Code};
use crate::films::{Begins, Film, Resolved};
use crate::shared::Shared;
use crate::steering::steered;

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
