//! A film for players while it is being made: HTTP Live Streaming (RFC 8216) of fragmented MP4.
//!
//! Each finished segment is a part of the list, which grows until the film ends. When the film is
//! stored, the parts are ranges of its file, under the same addresses and the same in every byte.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use longreel_film::FilmRequest;
use longreel_jobs::{
    ArtifactError, ArtifactKind, ArtifactName, Format, Job, JobId, JobState, PartBytes,
};

use super::content::{self, Content, Kept, Place};
use super::problem::Problem;
use super::videos::job_id;
use crate::code::Code;
use crate::films::Resolved;
use crate::shared::Shared;

/// When a player that came before the first part should come again, in seconds.
const AGAIN_SECONDS: u32 = 2;

/// GET /v1/videos/{id}/stream.m3u8
pub async fn playlist(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = job_id(&id)?;
    // First the job, then its parts: a list that says that it is at its end has all of them.
    let job = shared.store.get(id).await?;
    let parts = shared.store.parts(id).await?;
    // A film that begins elsewhere than with its first segment is none that a player could time.
    if parts.first().is_none_or(|first| first.0 > 0) {
        return Err(nothing_yet(&job));
    }
    let request = Resolved::of(&job).map_err(|error| Problem::internal(&error))?.request;
    let list = written(&request, &parts, job.state.is_final());
    let headers = [
        (header::CONTENT_TYPE, Format::M3u8.content_type()),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, list).into_response())
}

fn nothing_yet(job: &Job) -> Problem {
    let (id, state) = (job.id, job.state);
    if state.is_final() {
        let detail = format!("video {id} is {state} and has no part that could be played");
        return Problem::not_found(detail);
    }
    let detail = format!(
        "video {id} is {state} and has no part yet; its first `segment` event says when there is one"
    );
    Problem::new(StatusCode::NOT_FOUND, Code::NoPartYet, detail)
        .with_header(header::RETRY_AFTER, AGAIN_SECONDS)
}

/// The list. `parts` are the number of each part, the frames of the film with it, and its bytes.
fn written(request: &FilmRequest, parts: &[(u32, u64, PartBytes)], is_over: bool) -> String {
    let fps = f64::from(request.fps.max(1));
    let first = parts.first().map_or(0, |(_, frames, _)| *frames);
    // What may not change while the list grows. Only the first part can be longer than a window of
    // the model: by a video that is extended.
    let longest = first.max(request.base_num_frames as u64) as f64 / fps;
    let mut list = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:0\n\
         #EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-INDEPENDENT-SEGMENTS\n\
         #EXT-X-START:TIME-OFFSET=0,PRECISE=YES\n#EXT-X-MAP:URI=\"stream/init.mp4\"\n",
        longest.ceil()
    );
    let mut before = 0;
    for (number, frames, _) in parts {
        let seconds = frames.saturating_sub(before) as f64 / fps;
        before = *frames;
        // Writing to a text does not fail.
        let _ = write!(list, "#EXTINF:{seconds:.6},\nstream/{number}.m4s\n");
    }
    if is_over {
        list.push_str("#EXT-X-ENDLIST\n");
    }
    list
}

/// GET /v1/videos/{id}/stream/{name}: `init.mp4`, or part n as `n.m4s`.
pub async fn part(
    State(shared): State<Arc<Shared>>,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = job_id(&id)?;
    if name == "init.mp4" {
        let name = ArtifactName { kind: ArtifactKind::Init, format: Format::Mp4 };
        let (size, _) = shared.artifacts.head(id, name).await?;
        let content = Content {
            from: Place::files([(name, size)]),
            tag: format!("{id}-init-{size}"),
            content_type: name.format.content_type(),
            kept: Kept::ForEver,
        };
        return content::respond_with(shared, id, content, &headers, None);
    }
    let Some(number) = part_number(&name) else {
        let shown: String = name.chars().take(64).collect();
        let detail = format!("a stream has no {shown:?}; it has init.mp4 and parts such as 0.m4s");
        return Err(Problem::not_found(detail));
    };
    let job = shared.store.get(id).await?;
    let segments = shared.store.segments(id, number.checked_sub(1), 1).await?;
    let found = segments.first().filter(|segment| segment.done.segment == number);
    let Some(bytes) = found.and_then(|segment| segment.done.bytes) else {
        return Err(Problem::not_found(format!("video {id} has no part {number} yet")));
    };
    let part = ArtifactName { kind: ArtifactKind::Part(number), format: Format::M4s };
    let from = match job.state {
        JobState::Completed => Place::in_film(&shared, id, bytes).await?,
        _ => Place::Part(part, bytes),
    };
    let content = Content {
        from,
        tag: format!("{id}-{number}-{}", bytes.end - bytes.start),
        content_type: Format::M4s.content_type(),
        kept: Kept::ForEver,
    };
    content::respond_with(shared, id, content, &headers, None)
}

/// The film of a job as far as it was made, which plays as a file: its head and its parts. `None` where there is nothing
/// to play.
///
/// # Errors
/// When the store or the disk does not answer.
pub async fn so_far(shared: &Shared, id: JobId) -> Result<Option<Content>, Problem> {
    let parts = shared.store.parts(id).await?;
    // One that begins elsewhere than with its first segment lacks what was before.
    if parts.first().is_none_or(|first| first.0 > 0) {
        return Ok(None);
    }
    let init = ArtifactName { kind: ArtifactKind::Init, format: Format::Mp4 };
    let head = match shared.artifacts.head(id, init).await {
        Err(ArtifactError::NotFound { .. }) => return Ok(None),
        found => found?.0,
    };
    let of_part = |(number, _, bytes): &(u32, u64, PartBytes)| {
        let name = ArtifactName { kind: ArtifactKind::Part(*number), format: Format::M4s };
        (name, bytes.end.saturating_sub(bytes.start))
    };
    let files = [(init, head)].into_iter().chain(parts.iter().map(of_part));
    Ok(Some(Content {
        from: Place::files(files),
        tag: format!("{id}-first-{}", parts.len()),
        content_type: Format::Mp4.content_type(),
        kept: Kept::Asked,
    }))
}

/// `0.m4s` is part 0; `00.m4s` is nothing, so that each part has one address.
fn part_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".m4s")?;
    let number: u32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_address() {
        for (name, number) in
            [("0.m4s", Some(0)), ("17.m4s", Some(17)), ("4294967295.m4s", Some(u32::MAX))]
        {
            assert_eq!(part_number(name), number, "{name}");
        }
        for name in ["", ".m4s", "00.m4s", "+1.m4s", "-1.m4s", "1.mp4", "4294967296.m4s", "1.m4s/"]
        {
            assert_eq!(part_number(name), None, "{name}");
        }
    }
}
