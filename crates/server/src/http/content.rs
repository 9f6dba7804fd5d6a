//! Files of jobs, whole or in ranges.

use std::ops::Range;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use longreel_jobs::{ArtifactError, ArtifactKind, ArtifactName, Format, JobId, PartBytes};
use longreel_media::{HEAD_START_BYTES, head_length};

use super::problem::Problem;
use crate::code::Code;
use crate::shared::Shared;

/// Bytes that are in memory for one reader.
const PIECE_BYTES: u64 = 256 << 10;
const FILM: ArtifactName = ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 };

/// What a client's `Range` header comes to.
#[derive(Debug, PartialEq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Nothing,
}

/// How long something may be kept by a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is asked for anew each time, and may be unchanged.
    Asked,
    /// It changes no more.
    ForEver,
}

impl Kept {
    fn header(self) -> &'static str {
        match self {
            Self::Asked => "private, no-cache",
            Self::ForEver => "private, max-age=31536000, immutable",
        }
    }
}

/// What is answered with.
#[derive(Debug)]
pub struct Content {
    /// Where its bytes are.
    pub from: Place,
    /// Changes whenever the bytes do.
    pub tag: String,
    /// Of which type it is.
    pub content_type: &'static str,
    /// How long it may be kept.
    pub kept: Kept,
}

/// Where bytes are.
#[derive(Debug, Clone)]
pub enum Place {
    /// A part of a film: a file of its own, until the film is stored and it goes.
    Part(ArtifactName, PartBytes),
    /// A part of a film that is stored, whose head has this length.
    InFilm(PartBytes, u64),
    /// Whole files, one behind the other, each with where it ends.
    Files(Arc<[(ArtifactName, u64)]>),
}

impl Place {
    /// Whole files, one behind the other, each with its length.
    pub fn files(files: impl IntoIterator<Item = (ArtifactName, u64)>) -> Self {
        let mut end = 0_u64;
        let ends = files.into_iter().map(|(name, size)| {
            end = end.saturating_add(size);
            (name, end)
        });
        Self::Files(ends.collect())
    }

    fn size(&self) -> u64 {
        match self {
            Self::Part(_, bytes) | Self::InFilm(bytes, _) => bytes.end.saturating_sub(bytes.start),
            Self::Files(files) => files.last().map_or(0, |(_, end)| *end),
        }
    }

    /// The same part in the film that is stored.
    ///
    /// # Errors
    /// When there is no film.
    pub async fn in_film(
        shared: &Shared,
        job: JobId,
        bytes: PartBytes,
    ) -> Result<Self, ArtifactError> {
        let start = shared.artifacts.get_range(job, FILM, 0..HEAD_START_BYTES as u64).await?;
        // What is no film holds no parts.
        let head = head_length(&start).ok_or(ArtifactError::NotFound { job, name: FILM })?;
        Ok(Self::InFilm(bytes, head))
    }

    /// Bytes of it from `range.start` on, all of the range or the first ones, and where the next ones are.
    async fn read(
        self,
        shared: &Shared,
        job: JobId,
        range: Range<u64>,
    ) -> Result<(Bytes, Self), ArtifactError> {
        let read = |name, first: u64| {
            shared.artifacts.get_range(job, name, first + range.start..first + range.end)
        };
        match self {
            Self::InFilm(bytes, head) => Ok((read(FILM, head + bytes.start).await?, self)),
            Self::Files(ref files) => {
                let at = files.partition_point(|(_, end)| *end <= range.start);
                let Some(&(name, end)) = files.get(at) else { return Ok((Bytes::new(), self)) };
                let first = at.checked_sub(1).map_or(0, |before| files[before].1);
                let own = range.start - first..range.end.min(end) - first;
                Ok((shared.artifacts.get_range(job, name, own).await?, self))
            }
            Self::Part(name, bytes) => match read(name, 0).await {
                Err(ArtifactError::NotFound { .. }) => {
                    let place = Self::in_film(shared, job, bytes).await?;
                    let Self::InFilm(bytes, head) = place else { return Ok((Bytes::new(), place)) };
                    Ok((read(FILM, head + bytes.start).await?, place))
                }
                piece => Ok((piece?, self)),
            },
        }
    }
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
    let (size, tag) = shared.artifacts.head(job, name).await?;
    let content = Content {
        from: Place::files([(name, size)]),
        tag: tag.chars().filter(char::is_ascii_alphanumeric).collect(),
        content_type: name.format.content_type(),
        kept: Kept::Asked,
    };
    respond_with(shared, job, content, headers, download)
}

/// Answers with some content of a job.
///
/// # Errors
/// When the range is not in it.
pub fn respond_with(
    shared: Arc<Shared>,
    job: JobId,
    content: Content,
    headers: &HeaderMap,
    download: Option<&str>,
) -> Result<Response, Problem> {
    let size = content.from.size();
    let etag = format!("\"{}\"", content.tag);
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, content.content_type)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &etag)
        .header(header::CACHE_CONTROL, content.kept.header())
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Some(download) = download {
        let value = format!("attachment; filename=\"{download}\"");
        response = response.header(header::CONTENT_DISPOSITION, value);
    }
    // Whatever is between may have made a weak one of it.
    let is_held = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag;
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').map(str::trim).any(is_held)) {
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
            return Err(Problem::new(status, Code::RangeNotSatisfiable, detail)
                .limit(size)
                .with_header(header::CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    response
        .status(status)
        .header(header::CONTENT_LENGTH, range.end - range.start)
        .body(body(shared, job, content.from, range))
        .map_err(|e| Problem::internal(&e))
}

/// A piece at a time, when the client has taken the one before.
fn body(shared: Arc<Shared>, job: JobId, place: Place, range: Range<u64>) -> Body {
    Body::from_stream(stream::try_unfold((place, range), move |(place, range)| {
        let shared = shared.clone();
        async move {
            if range.is_empty() {
                return Ok::<_, ArtifactError>(None);
            }
            let end = range.end.min(range.start + PIECE_BYTES);
            let (piece, place) = place.read(&shared, job, range.start..end).await?;
            if piece.is_empty() {
                return Ok(None);
            }
            let next = range.start + piece.len() as u64;
            Ok(Some((piece, (place, next..range.end))))
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
