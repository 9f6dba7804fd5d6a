//! Files of jobs, whole or in ranges.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use longreel_jobs::{ArtifactName, JobId};

use super::problem::Problem;
use crate::shared::Shared;

/// Bytes that are in memory for one reader.
const PIECE_BYTES: u64 = 256 << 10;

/// What a client's `Range` header comes to.
#[derive(Debug, PartialEq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Nothing,
}

/// Answers with a file of a job. With `download`, as a file of this name to be saved.
///
/// # Errors
/// When there is no such file, or the range is not in it.
pub async fn respond(
    shared: Arc<Shared>,
    job: JobId,
    name: ArtifactName,
    headers: &HeaderMap,
    download: Option<&str>,
) -> Result<Response, Problem> {
    let size = shared.artifacts.size_bytes(job, name).await?;
    // A film never changes once it is there; a preview may be made again, the same.
    let etag = format!("\"{job}-{name}-{size}\"");
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, name.format.content_type())
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &etag)
        .header(header::CACHE_CONTROL, "private, max-age=3600")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Some(download) = download {
        let value = format!("attachment; filename=\"{download}\"");
        response = response.header(header::CONTENT_DISPOSITION, value);
    }
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|t| t.trim() == etag)) {
        return response
            .status(StatusCode::NOT_MODIFIED)
            .body(Body::empty())
            .map_err(|e| Problem::internal(&e));
    }
    let is_current = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let range = text(header::RANGE).filter(|_| is_current);
    let (status, range) = match range.map_or(Asked::Whole, |range| parse(range, size)) {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(range) => {
            let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            response = response.header(header::CONTENT_RANGE, shown);
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Asked::Nothing => {
            let detail = format!("the range is not in the file, which has {size} bytes");
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            return Err(Problem::new(status, "range_not_satisfiable", detail)
                .with_header(header::CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    response
        .status(status)
        .header(header::CONTENT_LENGTH, range.end - range.start)
        .body(body(shared, job, name, range))
        .map_err(|e| Problem::internal(&e))
}

/// A piece at a time, when the client has taken the one before.
fn body(shared: Arc<Shared>, job: JobId, name: ArtifactName, range: Range<u64>) -> Body {
    Body::from_stream(stream::try_unfold(range, move |range| {
        let shared = shared.clone();
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            let end = range.end.min(range.start + PIECE_BYTES);
            let piece = shared.artifacts.get_range(job, name, range.start..end).await;
            piece.map(|piece| Some((piece, end..range.end)))
        }
    }))
}

/// One range. Of several, or in a unit that is not bytes, the whole file is a valid answer.
fn parse(header: &str, size: u64) -> Asked {
    let Some(range) = header.strip_prefix("bytes=") else { return Asked::Whole };
    let Some((first, last)) = range.trim().split_once('-') else { return Asked::Whole };
    let number = |text: &str| text.trim().parse::<u64>();
    let range = match (number(first), number(last)) {
        (Ok(first), Ok(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(last)) if first.trim().is_empty() => size.saturating_sub(last)..size,
        _ => return Asked::Whole,
    };
    if range.is_empty() { Asked::Nothing } else { Asked::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_browsers_and_players_write_them() {
        for (header, asked) in [
            ("bytes=0-", Asked::Part(0..10)),
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=2-5", Asked::Part(2..6)),
            ("bytes=2-99", Asked::Part(2..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-99", Asked::Part(0..10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=0-18446744073709551615", Asked::Part(0..10)),
            ("bytes=5-2", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(parse(header, 10), asked, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), Asked::Nothing);
    }
}
