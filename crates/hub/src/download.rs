//! One file: fetched in as many connections as it takes, and hashed on the way.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::Response;
use url::Url;

use crate::HubError;
use crate::digest::{Digest, Hasher};
use crate::http::{Client, Failure, Refused};
use crate::pull::{Progress, Watch};

/// How often a whole file is fetched when what comes is damaged.
const WHOLE_TRIES: u32 = 2;
const BUFFER: usize = 256 << 10;

/// What is to be fetched.
pub(crate) struct Wanted<'a> {
    pub name: &'a str,
    pub url: Url,
    pub size_bytes: u64,
    pub digest: Option<&'a Digest>,
}

/// Why a file did not come.
pub(crate) enum Ended {
    Failed(HubError),
    /// The site's word, which the caller explains.
    Refused(Refused),
}

impl From<HubError> for Ended {
    fn from(error: HubError) -> Self {
        Self::Failed(error)
    }
}

/// Fetches `wanted` into `incomplete`, going on behind what is there. When it returns well, the file has
/// its size and hash and is on the disk.
pub(crate) fn download(
    client: &Client,
    wanted: &Wanted<'_>,
    incomplete: &Path,
    stop: &AtomicBool,
    watch: Watch<'_>,
) -> Result<(), Ended> {
    let mut part = Part::open(wanted, incomplete, watch)?;
    for tries in 1.. {
        fill(client, wanted, &mut part, stop, watch)?;
        match part.check(wanted, incomplete)? {
            None => return Ok(()),
            // What an earlier run had left may have been the damage.
            Some(_) if tries < WHOLE_TRIES => part.restart(watch)?,
            Some(found) => {
                part.restart(watch)?;
                let _ = std::fs::remove_file(incomplete);
                return Err(Ended::Failed(HubError::Damaged {
                    file: wanted.name.to_owned(),
                    kind: wanted.digest.map_or("size", Digest::kind),
                    expected: wanted.digest.map_or_else(String::new, |d| d.as_str().to_owned()),
                    found,
                    site: client.site(),
                    tries,
                }));
            }
        }
    }
    unreachable!("the last try returns")
}

/// What there is of a file.
struct Part<'a> {
    file: File,
    path: &'a Path,
    length: u64,
    size_bytes: u64,
    digest: Option<&'a Digest>,
    hasher: Option<Hasher>,
}

impl<'a> Part<'a> {
    fn open(wanted: &Wanted<'a>, path: &'a Path, watch: Watch<'_>) -> Result<Self, HubError> {
        // Not through a link: its end may lie anywhere.
        if path.is_symlink() {
            std::fs::remove_file(path).map_err(HubError::io("remove", path))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(HubError::io("open", path))?;
        let length = file.metadata().map_err(HubError::io("read", path))?.len();
        let mut hasher = wanted.digest.map(|digest| digest.hasher(wanted.size_bytes));
        if let Some(hasher) = hasher.as_mut().filter(|_| length <= wanted.size_bytes) {
            hasher.read(&mut file, &|_| {}).map_err(HubError::io("read", path))?;
        }
        let mut part = Self {
            file,
            path,
            length,
            size_bytes: wanted.size_bytes,
            digest: wanted.digest,
            hasher,
        };
        if length > wanted.size_bytes {
            part.restart(&|_| {})?;
        }
        part.file.seek(SeekFrom::Start(part.length)).map_err(HubError::io("read", path))?;
        watch(Progress::Here(part.length));
        Ok(part)
    }

    fn add(&mut self, bytes: &[u8], watch: Watch<'_>) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io("write", self.path))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.length += bytes.len() as u64;
        watch(Progress::Bytes(bytes.len() as i64));
        Ok(())
    }

    fn restart(&mut self, watch: Watch<'_>) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io("write", self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(HubError::io("write", self.path))?;
        watch(Progress::Bytes(-self.length.cast_signed()));
        self.length = 0;
        self.hasher = self.digest.map(|digest| digest.hasher(self.size_bytes));
        Ok(())
    }

    /// Brings it to the disk; the wrong hash, if it has one.
    fn check(&mut self, wanted: &Wanted<'_>, path: &Path) -> Result<Option<String>, HubError> {
        self.file.sync_all().map_err(HubError::io("write", path))?;
        let found = self.hasher.take().map(Hasher::finish);
        Ok(match (found, wanted.digest) {
            (Some(found), Some(digest)) if found != digest.as_str() => Some(found),
            _ => None,
        })
    }
}

/// Connects until all bytes are there.
fn fill(
    client: &Client,
    wanted: &Wanted<'_>,
    part: &mut Part<'_>,
    stop: &AtomicBool,
    watch: Watch<'_>,
) -> Result<(), Ended> {
    let patience = &client.settings().patience;
    let mut failures = 0;
    // What the server that has the bytes calls them; the listing's name is that of the site.
    let mut tag: Option<String> = None;
    while part.length < wanted.size_bytes {
        if stop.load(Ordering::Relaxed) {
            return Err(Ended::Failed(HubError::Stopped));
        }
        let before = part.length;
        let (problem, asked) = match connection(client, wanted, part, &mut tag, stop, watch) {
            Ok(()) => continue,
            Err(Failure::Passing { problem, asked }) => (problem, asked),
            Err(Failure::Status(refused)) if refused.status == 416 && before > 0 => {
                part.restart(watch)?;
                tag = None;
                ("has no such part of the file".to_owned(), None)
            }
            Err(Failure::Status(refused)) => return Err(Ended::Refused(refused)),
            Err(Failure::Final(error)) => return Err(Ended::Failed(error)),
        };
        failures = if part.length > before { 1 } else { failures + 1 };
        let Some(wait) = patience.wait(failures, asked) else {
            return Err(Ended::Failed(client.gave_up(&wanted.url, problem, failures, asked)));
        };
        watch(Progress::Waiting { file: wanted.name, problem: &problem, wait });
        sleep(wait, stop);
    }
    Ok(())
}

fn sleep(wait: Duration, stop: &AtomicBool) {
    let until = std::time::Instant::now() + wait;
    while !stop.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
}

/// One connection, from what is there to its end.
fn connection(
    client: &Client,
    wanted: &Wanted<'_>,
    part: &mut Part<'_>,
    tag: &mut Option<String>,
    stop: &AtomicBool,
    watch: Watch<'_>,
) -> Result<(), Failure> {
    let mut headers = Vec::new();
    if part.length > 0 {
        headers.push(("range", format!("bytes={}-", part.length)));
        if let Some(tag) = &tag {
            headers.push(("if-range", tag.clone()));
        }
    }
    let mut response = client.get(&wanted.url, &headers)?;
    let finally = Failure::Final;
    let unusable = |problem: String| Failure::Passing { problem, asked: None };
    match response.status().as_u16() {
        206 => {
            let range = header(&response, "content-range");
            let range = range.as_deref().and_then(content_range);
            let fits = range.is_some_and(|(start, total)| {
                start == part.length && total.is_none_or(|total| total == wanted.size_bytes)
            });
            if !fits {
                part.restart(watch).map_err(finally)?;
                return Err(unusable("sends another part than was asked for".to_owned()));
            }
        }
        _ => {
            // Ranges are refused, or the file is another one: it comes from its beginning.
            if part.length > 0 {
                part.restart(watch).map_err(finally)?;
            }
            let length = header(&response, "content-length").and_then(|text| text.parse().ok());
            if let Some(length) = length.filter(|length: &u64| *length != wanted.size_bytes) {
                return Err(unusable(format!(
                    "sends {length} bytes, where the list has {}",
                    wanted.size_bytes
                )));
            }
        }
    }
    // A weak tag does not say that bytes are equal.
    *tag = header(&response, "etag").filter(|tag| tag.starts_with('"'));
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; BUFFER];
    while part.length < wanted.size_bytes {
        if stop.load(Ordering::Relaxed) {
            return Err(finally(HubError::Stopped));
        }
        let left = usize::try_from(wanted.size_bytes - part.length).unwrap_or(BUFFER).min(BUFFER);
        match body.read(&mut buffer[..left]) {
            Ok(0) => return Err(unusable("breaks the connection off".to_owned())),
            Ok(n) => part.add(&buffer[..n], watch).map_err(finally)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unusable(format!("breaks the connection off: {error}"))),
        }
    }
    Ok(())
}

fn header<B>(response: &Response<B>, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Start and, where it is told, total of `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}
