//! What can be stored for a job: a fixed set of kinds, so that no name comes from a client.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What something that was stored is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArtifactKind {
    /// The film.
    Film,
    /// One frame that stands for the film.
    Thumbnail,
    /// Frames of the film in one picture.
    Spritesheet,
    /// How the look moved from segment to segment.
    Drift,
    /// The latents of the film.
    Latents,
    /// The list that a live player reads.
    Playlist,
    /// What a live player reads before the first part.
    Init,
    /// The n-th part for live players, from 0.
    Part(u32),
    /// A picture of the n-th segment, from 0.
    Preview(u32),
    /// The n-th picture or video that came with the request, from 0.
    Input(u32),
    /// The state after the n-th segment, from 0, to go on or branch from.
    Checkpoint(u32),
}

impl ArtifactKind {
    /// True when a film has one of them for each segment, so that there are as many as it is long.
    pub fn is_per_segment(self) -> bool {
        self.segment().is_some()
    }

    /// The segment that it is of.
    pub fn segment(self) -> Option<u32> {
        match self {
            Self::Part(segment) | Self::Preview(segment) | Self::Checkpoint(segment) => {
                Some(segment)
            }
            _ => None,
        }
    }
}

/// In which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the extension of its name")]
pub enum Format {
    Mp4,
    Mov,
    Webm,
    Mkv,
    Gif,
    Png,
    Jpeg,
    Webp,
    Json,
    Safetensors,
    M3u8,
    M4s,
}

/// Extension and content type.
const FORMATS: [(Format, &str, &str); 12] = [
    (Format::Mp4, "mp4", "video/mp4"),
    (Format::Mov, "mov", "video/quicktime"),
    (Format::Webm, "webm", "video/webm"),
    (Format::Mkv, "mkv", "video/x-matroska"),
    (Format::Gif, "gif", "image/gif"),
    (Format::Png, "png", "image/png"),
    (Format::Jpeg, "jpg", "image/jpeg"),
    (Format::Webp, "webp", "image/webp"),
    (Format::Json, "json", "application/json"),
    (Format::Safetensors, "safetensors", "application/octet-stream"),
    (Format::M3u8, "m3u8", "application/vnd.apple.mpegurl"),
    (Format::M4s, "m4s", "video/iso.segment"),
];

impl Format {
    fn row(self) -> (Self, &'static str, &'static str) {
        FORMATS[self as usize]
    }

    /// Without a dot.
    pub fn extension(self) -> &'static str {
        self.row().1
    }

    /// As HTTP names it.
    pub fn content_type(self) -> &'static str {
        self.row().2
    }

    /// The format of this content type, parameters after `;` ignored.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let plain = content_type.split(';').next()?.trim();
        FORMATS.into_iter().find(|row| row.2.eq_ignore_ascii_case(plain)).map(|row| row.0)
    }
}

/// Names something stored for a job, such as `film.mp4` or `preview-00000012.webp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactName {
    /// What it is.
    pub kind: ArtifactKind,
    /// In which form.
    pub format: Format,
}

/// Kinds without a number.
const SINGLE: [(ArtifactKind, &str); 7] = [
    (ArtifactKind::Film, "film"),
    (ArtifactKind::Thumbnail, "thumbnail"),
    (ArtifactKind::Spritesheet, "spritesheet"),
    (ArtifactKind::Drift, "drift"),
    (ArtifactKind::Latents, "latents"),
    (ArtifactKind::Playlist, "stream"),
    (ArtifactKind::Init, "init"),
];

/// Kinds with one.
type Numbered = (fn(u32) -> ArtifactKind, &'static str);
const NUMBERED: [Numbered; 4] = [
    (ArtifactKind::Part, "part"),
    (ArtifactKind::Preview, "preview"),
    (ArtifactKind::Input, "input"),
    (ArtifactKind::Checkpoint, "checkpoint"),
];

/// A text that names nothing that is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no artifact; names are such as film.mp4, thumbnail.webp, part-00000000.m4s"
)]
pub struct ParseArtifactNameError {
    /// The text, cut at 64 characters.
    pub text: String,
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extension = self.format.extension();
        let numbered =
            |f: &mut fmt::Formatter<'_>, stem, number| write!(f, "{stem}-{number:08}.{extension}");
        match self.kind {
            ArtifactKind::Part(number) => numbered(f, "part", number),
            ArtifactKind::Preview(number) => numbered(f, "preview", number),
            ArtifactKind::Input(number) => numbered(f, "input", number),
            ArtifactKind::Checkpoint(number) => numbered(f, "checkpoint", number),
            single => {
                let stem = SINGLE.iter().find(|row| row.0 == single).map_or("film", |row| row.1);
                write!(f, "{stem}.{extension}")
            }
        }
    }
}

impl FromStr for ArtifactName {
    type Err = ParseArtifactNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (stem, extension) = text.split_once('.')?;
            let format = FORMATS.into_iter().find(|row| row.1 == extension)?.0;
            let kind = match stem.split_once('-') {
                None => SINGLE.into_iter().find(|row| row.1 == stem)?.0,
                Some((stem, digits)) => {
                    let kind = NUMBERED.into_iter().find(|row| row.1 == stem)?.0;
                    kind(digits.parse().ok()?)
                }
            };
            let name = Self { kind, format };
            // `+1`, `1` and `00000001` are one number; only the last is a name.
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| ParseArtifactNameError { text: text.chars().take(64).collect() })
    }
}

impl TryFrom<String> for ArtifactName {
    type Error = ParseArtifactNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ArtifactName> for String {
    fn from(name: ArtifactName) -> Self {
        name.to_string()
    }
}

/// Something that was stored for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name, which says what it is and its content type.
    pub name: ArtifactName,
    /// Its size.
    pub size_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_itself() {
        for (at, (format, ..)) in FORMATS.into_iter().enumerate() {
            assert_eq!(format as usize, at, "{format:?}");
            let single = SINGLE.into_iter().map(|row| row.0);
            let numbered = NUMBERED.into_iter().flat_map(|row| [0, 7, u32::MAX].map(row.0));
            for kind in single.chain(numbered) {
                let name = ArtifactName { kind, format };
                assert_eq!(name.to_string().parse(), Ok(name));
            }
        }
    }

    #[test]
    fn what_a_client_might_try_names_nothing() {
        let texts = [
            "",
            ".",
            "..",
            "../film.mp4",
            "film",
            "film.",
            ".mp4",
            "film.exe",
            "film.mp4.mp4",
            "film-00000001.mp4",
            "part.m4s",
            "part-1.m4s",
            "part-+0000001.m4s",
            "part--0000001.m4s",
            "part-99999999999.m4s",
            "Film.mp4",
            "film.mp4\0",
            "films/film.mp4",
            "预览-00000001.webp",
        ];
        for text in texts {
            assert!(text.parse::<ArtifactName>().is_err(), "{text}");
        }
    }

    #[test]
    fn formats_are_found_by_content_type() {
        assert_eq!(Format::from_content_type("Image/JPEG; q=1"), Some(Format::Jpeg));
        assert_eq!(Format::from_content_type("text/html"), None);
    }
}
