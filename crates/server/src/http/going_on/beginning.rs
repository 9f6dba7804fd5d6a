//! The files that a film begins with, of the one that it goes on from.

use std::path::PathBuf;
use std::sync::Arc;

use axum::http::StatusCode;
use longreel_film::{FilmRequest, StartFrom, run_folder};
use longreel_jobs::{ArtifactError, ArtifactKind, ArtifactName, Format, Job, JobState};

use super::super::asked::{File, Source};
use super::super::problem::Problem;
use crate::code::{About, Code};
use crate::films::Resolved;
use crate::shared::Shared;
use crate::worker::FILM;

/// Sees to it that what the film begins with is there when it is made. A film that is finished stays as
/// long as others need it; one in work is copied now, whatever becomes of it.
pub async fn beginning(
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

/// The files that a request names.
pub fn names_in(request: &FilmRequest) -> impl Iterator<Item = ArtifactName> {
    let start: Option<&PathBuf> = match &request.start {
        StartFrom::Image(path) | StartFrom::Video(path) => Some(path),
        StartFrom::Prompt => None,
    };
    start.into_iter().chain(&request.end_image).filter_map(|path| path.to_str()?.parse().ok())
}

/// A number that no input of the request has.
pub fn next_input(request: &FilmRequest) -> u32 {
    let numbers = names_in(request).map(|name| match name.kind {
        ArtifactKind::Input(number) => number.saturating_add(1),
        _ => 0,
    });
    numbers.max().unwrap_or(0)
}
