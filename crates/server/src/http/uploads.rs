//! Pictures and videos that come with a request: written to a folder of their own, and known by what
//! is in them, whatever their name or content type says.

use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longreel_jobs::{ArtifactKind, ArtifactName, Format};
use longreel_media::{
    ImageLimits, MediaError, VideoOptions, VideoReader, kind_in_words, load_image,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::problem::Problem;
use crate::code::{About, Code};
use crate::fetch::Fetcher;
use crate::shared::Shared;

/// Longest video.
pub const VIDEO_BYTES: u64 = 1 << 30;
/// Largest picture: 8192 x 8192 take 200 MB when they are decoded.
const IMAGE_LIMITS: ImageLimits =
    ImageLimits { max_side: 16_384, max_pixels: 8_192 * 8_192, max_bytes: 64 << 20 };

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The first frame, or, when it is one, the video to go on from.
    Image,
    /// The last frame.
    EndImage,
    /// A video to go on from.
    Video,
}

impl Role {
    /// That of a key.
    pub fn of(key: &str) -> Option<Self> {
        match key.split('[').next() {
            Some("image" | "input_reference") => Some(Self::Image),
            Some("end_image") => Some(Self::EndImage),
            Some("video") => Some(Self::Video),
            _ => None,
        }
    }

    /// The key that it is kept under.
    fn key(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::EndImage => "end_image",
            Self::Video => "video",
        }
    }
}

/// A file that came.
#[derive(Debug)]
struct Upload {
    role: Role,
    name: ArtifactName,
    size_bytes: u64,
    sha256: String,
}

/// The files of one request. Their folder goes when this is dropped.
#[derive(Debug, Default)]
pub struct Uploads {
    /// Where folders of requests are made.
    root: PathBuf,
    folder: Option<PathBuf>,
    first: u32,
    files: Vec<Upload>,
}

impl Drop for Uploads {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder
            && let Err(error) = std::fs::remove_dir_all(folder)
        {
            tracing::warn!(folder = %folder.display(), %error, "a folder could not be removed");
        }
    }
}

/// A file that is being written.
pub struct Growing {
    role: Role,
    key: String,
    path: PathBuf,
    file: File,
    size_bytes: u64,
    hash: Sha256,
}

impl Growing {
    /// Adds a piece.
    ///
    /// # Errors
    /// When it becomes too long, or there is no room.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), Problem> {
        self.size_bytes += piece.len() as u64;
        if self.size_bytes > VIDEO_BYTES {
            return Err(too_large(&self.key, VIDEO_BYTES));
        }
        self.hash.update(piece);
        self.file.write_all(piece).await.map_err(|e| Problem::of_file(&e))
    }
}

impl Uploads {
    /// None yet; they are named from number `first` on.
    pub fn new(shared: &Shared, first: u32) -> Self {
        Self { root: shared.uploads.clone(), folder: None, first, files: Vec::new() }
    }

    /// Where they are, when there are any.
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    /// Name and path of each.
    pub fn files(&self) -> impl Iterator<Item = (ArtifactName, PathBuf)> {
        self.files
            .iter()
            .filter_map(|file| Some((file.name, self.folder.as_ref()?.join(file.name.to_string()))))
    }

    /// What a request says of them.
    pub fn described(&self) -> Map<String, Value> {
        let described = self.files.iter().map(|file| {
            let value =
                json!({"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256});
            (file.role.key().to_owned(), value)
        });
        described.collect()
    }

    /// Begins a file that came under `key`.
    ///
    /// # Errors
    /// When there is one for this role already, or no room.
    pub async fn begin(&mut self, role: Role, key: &str) -> Result<Growing, Problem> {
        if self.files.iter().any(|file| file.role == role) {
            let detail = format!("there are two files for {}; keep one", role.key());
            return Err(Problem::invalid(detail).about(About::field(role.key())));
        }
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => {
                let folder = self.root.join(random_name()?);
                tokio::fs::create_dir_all(&folder).await.map_err(|e| Problem::of_file(&e))?;
                self.folder.insert(folder).clone()
            }
        };
        let path = folder.join(format!("{}.growing", self.files.len()));
        let file = File::create(&path).await.map_err(|e| Problem::of_file(&e))?;
        Ok(Growing { role, key: key.to_owned(), path, file, size_bytes: 0, hash: Sha256::new() })
    }

    /// Ends a file: finds out what it is.
    ///
    /// # Errors
    /// When it is nothing that can be used in its role.
    pub async fn end(&mut self, mut growing: Growing) -> Result<(), Problem> {
        growing.file.flush().await.map_err(|e| Problem::of_file(&e))?;
        drop(growing.file);
        let format = format_of(&growing.path, &growing.key).await?;
        let is_video = !matches!(format, Format::Png | Format::Jpeg | Format::Webp);
        let key = &growing.key;
        let role = match (growing.role, is_video) {
            (Role::Image, true) => Role::Video,
            (Role::EndImage, true) => {
                return Err(unusable(key, "is a video; it has to be a PNG, JPEG or WebP picture"));
            }
            (Role::Video, false) => {
                return Err(unusable(key, "is a picture; send it as image"));
            }
            (role, _) => role,
        };
        if !is_video && growing.size_bytes > IMAGE_LIMITS.max_bytes {
            return Err(too_large(key, IMAGE_LIMITS.max_bytes));
        }
        let number = self.first.saturating_add(self.files.len() as u32);
        let name = ArtifactName { kind: ArtifactKind::Input(number), format };
        let place = growing.path.with_file_name(name.to_string());
        tokio::fs::rename(&growing.path, &place).await.map_err(|e| Problem::of_file(&e))?;
        let sha256 = growing.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.files.push(Upload { role, name, size_bytes: growing.size_bytes, sha256 });
        Ok(())
    }

    /// Takes what a key holds in JSON: a `data:` URL, an address, or an object with one.
    ///
    /// # Errors
    /// When it is none of these, or cannot be used.
    pub async fn take_value(
        &mut self,
        fetcher: &Fetcher,
        role: Role,
        key: &str,
        value: Value,
    ) -> Result<(), Problem> {
        let url = match value {
            Value::Null => return Ok(()),
            Value::String(url) => url,
            Value::Object(object) if object.contains_key("file_id") => {
                let detail = format!(
                    "{key}: there is no store of files here to take a file_id from; send the file \
                     itself, in a form or as a data: URL"
                );
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    Code::FileIdNotSupported,
                    detail,
                )
                .about(About::field(key)));
            }
            Value::Object(mut object) => {
                let mut url = ["image_url", "url"].iter().find_map(|key| object.remove(*key));
                if let Some(Value::Object(inner)) = &mut url {
                    url = inner.remove("url");
                }
                match url {
                    Some(Value::String(url)) => url,
                    _ => return Err(not_a_file(key)),
                }
            }
            _ => return Err(not_a_file(key)),
        };
        let bytes = if let Some(data) = url.strip_prefix("data:") {
            decode(key, data)?
        } else if url.starts_with("https://") || url.starts_with("http://") {
            // It is held in memory on its way; a longer video is sent as a file.
            fetcher.fetch(&url, IMAGE_LIMITS.max_bytes).await?.bytes
        } else {
            return Err(not_a_file(key));
        };
        let mut file = self.begin(role, key).await?;
        file.write(&bytes).await?;
        self.end(file).await
    }

    /// Opens each with the readers that will read it.
    ///
    /// # Errors
    /// What they cannot read.
    pub async fn check(&self) -> Result<(), Problem> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        for file in &self.files {
            let (path, is_video) = (folder.join(file.name.to_string()), file.role == Role::Video);
            let looked = tokio::task::spawn_blocking(move || look_at(&path, is_video)).await;
            looked.map_err(|e| Problem::internal(&e))?.map_err(|error| {
                // Where it lies on this machine is nothing for clients.
                let place = folder.join(file.name.to_string()).display().to_string();
                let detail = error.to_string().replace(&place, file.role.key());
                Problem::new(StatusCode::BAD_REQUEST, Code::FileNotUsable, detail)
                    .about(About::field(file.role.key()))
            })?;
        }
        Ok(())
    }
}

fn look_at(path: &Path, is_video: bool) -> Result<(), MediaError> {
    if !is_video {
        return load_image(path, &IMAGE_LIMITS).map(drop);
    }
    match VideoReader::open(path, &VideoOptions::default())?.next() {
        Some(frame) => frame.map(drop),
        None => {
            Err(MediaError::Damaged { path: path.to_owned(), detail: "it has no frame".to_owned() })
        }
    }
}

/// What a file is, by its first bytes. Only kinds that name no other file are opened at all: a list of
/// addresses that calls itself a video would have a decoder call them.
async fn format_of(path: &Path, key: &str) -> Result<Format, Problem> {
    let mut first = [0; 64];
    let mut file = File::open(path).await.map_err(|e| Problem::of_file(&e))?;
    let mut length = 0;
    while length < first.len() {
        match tokio::io::AsyncReadExt::read(&mut file, &mut first[length..]).await {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) => return Err(Problem::of_file(&error)),
        }
    }
    format_by(&first[..length]).ok_or_else(|| {
        let found = kind_in_words(&first[..length]);
        let rule = "send a picture as PNG, JPEG or WebP, a video as MP4, MOV, WebM or Matroska";
        unusable(key, &format!("is not a file that is taken: {found}; {rule}"))
    })
}

fn format_by(first: &[u8]) -> Option<Format> {
    let holds = |word: &[u8]| first.windows(word.len()).any(|window| window == word);
    Some(match first {
        [0x89, b'P', b'N', b'G', ..] => Format::Png,
        [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::Webp,
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4)? {
            b"avif" | b"avis" | b"heic" | b"heix" | b"mif1" | b"msf1" => return None,
            b"qt  " => Format::Mov,
            _ => Format::Mp4,
        },
        [0x1a, 0x45, 0xdf, 0xa3, ..] if holds(b"webm") => Format::Webm,
        [0x1a, 0x45, 0xdf, 0xa3, ..] if holds(b"matroska") => Format::Mkv,
        _ => return None,
    })
}

/// The bytes of a `data:` URL, behind its scheme.
fn decode(key: &str, data: &str) -> Result<Vec<u8>, Problem> {
    let encoded = data.split_once(',').and_then(|(head, data)| {
        head.trim_end().to_ascii_lowercase().ends_with(";base64").then_some(data.trim())
    });
    let decoded = encoded.and_then(|data| STANDARD.decode(data).ok());
    decoded.ok_or_else(|| {
        let detail = format!(
            "{key} is a data: URL that cannot be read; it begins as data:image/png;base64, and goes on \
             in base64"
        );
        Problem::invalid(detail).about(About::field(key))
    })
}

fn not_a_file(key: &str) -> Problem {
    let detail = format!(
        "{key} is no file; send it in a form (multipart/form-data), as a data: URL \
         (data:image/png;base64,…), or by its address (https://…)"
    );
    Problem::invalid(detail).about(About::field(key))
}

fn unusable(key: &str, what: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, Code::FileNotUsable, format!("{key} {what}"))
        .about(About::field(key))
}

fn too_large(key: &str, limit_bytes: u64) -> Problem {
    let detail = format!("{key} is longer than {limit_bytes} bytes; make it smaller");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Code::FileTooLarge, detail)
        .about(About::field(key))
        .limit(limit_bytes)
}

fn random_name() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Problem::internal(&e))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_content_and_lists_of_addresses_are_none() {
        for (first, format) in [
            (&b"\x89PNG\r\n\x1a\n"[..], Some(Format::Png)),
            (b"\xff\xd8\xff\xe0", Some(Format::Jpeg)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Some(Format::Webp)),
            (b"\0\0\0\x18ftypisom\0\0\0\0", Some(Format::Mp4)),
            (b"\0\0\0\x14ftypqt  \0\0\0\0", Some(Format::Mov)),
            (b"\0\0\0\x18ftypavif\0\0\0\0", None),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", Some(Format::Webm)),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", Some(Format::Mkv)),
            (b"\x1a\x45\xdf\xa3 something", None),
            (b"RIFF\x10\0\0\0AVI ", None),
            (b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd", None),
            (b"ffconcat version 1.0\nfile /etc/passwd", None),
            (b"GIF89a", None),
            (b"<svg>", None),
            (b"\0\0\0\x18ftyp", None),
            (b"", None),
        ] {
            assert_eq!(format_by(first), format, "{:?}", String::from_utf8_lossy(first));
        }
    }

    #[test]
    fn data_urls_are_read_and_others_refused() {
        assert_eq!(decode("image", "image/png;base64,aGVsbG8=").expect("good"), b"hello");
        assert_eq!(decode("image", ";BASE64, aGVsbG8= ").expect("good"), b"hello");
        for data in ["image/png,hello", "image/png;base64,%%", "image/png;base64", ""] {
            assert!(decode("image", data).is_err(), "{data}");
        }
    }
}
