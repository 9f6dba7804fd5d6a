//! What a film is to be, and which kind of output that means.

use crate::error::{MediaError, Result};
use crate::frame::FrameRate;
use std::fmt;
use std::path::{Path, PathBuf};

/// A video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// H.264 by the encoder inside this crate: needs nothing installed.
    BuiltIn,
    /// H.264 by x264 through ffmpeg: smaller files.
    H264,
    /// H.265 through ffmpeg.
    H265,
    /// AV1 through ffmpeg.
    Av1,
    /// VP9 through ffmpeg.
    Vp9,
}

impl Codec {
    /// The codec called `name`: `builtin`, `h264`, `h265` (or `hevc`), `av1`, `vp9`.
    ///
    /// # Errors
    /// [`MediaError::Setting`] with the names that exist.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "builtin" => Ok(Self::BuiltIn),
            "h264" | "x264" => Ok(Self::H264),
            "h265" | "hevc" | "x265" => Ok(Self::H265),
            "av1" => Ok(Self::Av1),
            "vp9" => Ok(Self::Vp9),
            _ => Err(MediaError::Setting {
                what: "codec",
                value: format!("\"{name}\""),
                rule: "the codecs are builtin, h264, h265, av1 and vp9".to_owned(),
                cure: "leave it out for H.264 with nothing installed".to_owned(),
            }),
        }
    }

    /// The quantiser or rate factor used when none is given. These give about the same quality,
    /// on the scale of each codec.
    pub(crate) fn default_crf(self) -> u8 {
        match self {
            Self::BuiltIn => 18,
            Self::H264 => 17,
            Self::H265 => 19,
            Self::Av1 => 24,
            Self::Vp9 => 24,
        }
    }

    fn max_crf(self) -> u8 {
        match self {
            Self::BuiltIn | Self::H264 | Self::H265 => 51,
            Self::Av1 | Self::Vp9 => 63,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BuiltIn => "built-in H.264",
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
        })
    }
}

/// The kinds of output, chosen by the ending of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilmKind {
    /// `.mp4`, `.m4v`: fragments in one file, playable up to the last closed part.
    Mp4(Codec),
    /// `.webm`: VP9 or AV1 through ffmpeg. Parts wait in a folder beside it until the end.
    WebM(Codec),
    /// `.gif`: 256 colours for each frame.
    Gif,
    /// A path without an ending: a folder of `000000.png`, `000001.png`, and so on.
    PngFrames,
}

impl FilmKind {
    /// The kind of file, whatever is in it.
    fn container(&self) -> &'static str {
        match self {
            Self::Mp4(_) => "MP4",
            Self::WebM(_) => "WebM",
            Self::Gif => "GIF",
            Self::PngFrames => "PNG frames",
        }
    }
}

impl fmt::Display for FilmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mp4(codec) => write!(f, "MP4 ({codec})"),
            Self::WebM(codec) => write!(f, "WebM ({codec})"),
            Self::Gif => f.write_str("GIF"),
            Self::PngFrames => f.write_str("PNG frames"),
        }
    }
}

/// What a film is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilmOptions {
    /// Width in pixels; even for video.
    pub width: u32,
    /// Height in pixels; even for video.
    pub height: u32,
    /// Frames per second.
    pub rate: FrameRate,
    /// The codec; `None` takes the built-in H.264 for MP4 and VP9 for WebM.
    pub codec: Option<Codec>,
    /// Quantiser (built-in) or rate factor (ffmpeg): lower is better and larger. 0 to 51, for AV1
    /// and VP9 to 63; `None` takes the codec's default.
    pub crf: Option<u8>,
    /// Text kept in the file, at most 1 MiB; read back by [`read_metadata`](crate::read_metadata).
    pub metadata: Option<String>,
    /// The ffmpeg program; `None` looks for it as [`ffmpeg_path`](crate::ffmpeg_path) does.
    pub ffmpeg: Option<PathBuf>,
}

/// Longest text kept in a file, in bytes.
const MAX_METADATA: usize = 1 << 20;

impl FilmOptions {
    /// Options for a film of this size and rate, everything else by default.
    #[must_use]
    pub fn new(width: u32, height: u32, rate: FrameRate) -> Self {
        Self { width, height, rate, codec: None, crf: None, metadata: None, ffmpeg: None }
    }

    /// The kind of output that these options mean at `path`, after checking that they fit together.
    ///
    /// # Errors
    /// [`MediaError::Setting`] for an ending that is not known, a codec that the container cannot
    /// hold, or a value out of range.
    pub fn kind(&self, path: &Path) -> Result<FilmKind> {
        self.rate.check()?;
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        let kind = match ending.as_deref() {
            Some("mp4" | "m4v") => FilmKind::Mp4(self.codec.unwrap_or(Codec::BuiltIn)),
            Some("webm") => FilmKind::WebM(self.codec.unwrap_or(Codec::Vp9)),
            Some("gif") => FilmKind::Gif,
            None => FilmKind::PngFrames,
            Some(other) => {
                return Err(MediaError::Setting {
                    what: "output",
                    value: format!("a .{other} file ({})", path.display()),
                    rule:
                        "films are written as .mp4, .m4v, .webm, .gif, or as a folder of PNG frames"
                            .to_owned(),
                    cure: "choose one of these endings, or none for the folder".to_owned(),
                });
            }
        };
        self.check_codec(kind)?;
        self.check_size(kind)?;
        let bytes = self.metadata.as_ref().map_or(0, String::len);
        if bytes > MAX_METADATA {
            return Err(MediaError::Setting {
                what: "metadata",
                value: format!("{bytes} bytes"),
                rule: format!("at most {MAX_METADATA} bytes are kept in a film"),
                cure: "shorten it".to_owned(),
            });
        }
        Ok(kind)
    }

    fn check_codec(&self, kind: FilmKind) -> Result<()> {
        let (codec, fits, cure) = match kind {
            FilmKind::Mp4(codec) => (codec, codec != Codec::Vp9, "use .webm for VP9"),
            FilmKind::WebM(codec) => (
                codec,
                matches!(codec, Codec::Vp9 | Codec::Av1),
                "WebM holds VP9 and AV1; use .mp4 for this codec",
            ),
            FilmKind::Gif | FilmKind::PngFrames => match (self.codec, self.crf) {
                (None, None) => return Ok(()),
                (codec, _) => (
                    codec.unwrap_or(Codec::BuiltIn),
                    false,
                    "leave --codec and --crf out for this kind of output",
                ),
            },
        };
        if !fits {
            return Err(MediaError::Setting {
                what: "codec",
                value: codec.to_string(),
                rule: format!("it does not go into {}", kind.container()),
                cure: cure.to_owned(),
            });
        }
        match self.crf {
            Some(crf) if crf > codec.max_crf() => Err(MediaError::Setting {
                what: "crf",
                value: crf.to_string(),
                rule: format!("for {codec} it goes from 0 (best) to {}", codec.max_crf()),
                cure: format!("the default is {}", codec.default_crf()),
            }),
            _ => Ok(()),
        }
    }

    fn check_size(&self, kind: FilmKind) -> Result<()> {
        let (width, height) = (self.width, self.height);
        match kind {
            FilmKind::Mp4(Codec::BuiltIn) => crate::h264::encoder::check_size(width, height),
            FilmKind::Mp4(_) | FilmKind::WebM(_) => {
                let even = width % 2 == 0 && height % 2 == 0;
                self.side_limits(16, 16384, even, "even sides from 16 to 16384")
            }
            FilmKind::Gif => self.side_limits(1, 65535, true, "sides from 1 to 65535"),
            FilmKind::PngFrames => self.side_limits(1, 65535, true, "sides from 1 to 65535"),
        }
    }

    fn side_limits(&self, min: u32, max: u32, fits: bool, rule: &str) -> Result<()> {
        let sides = min..=max;
        if fits && sides.contains(&self.width) && sides.contains(&self.height) {
            return Ok(());
        }
        Err(MediaError::Setting {
            what: "film size",
            value: format!("{}x{}", self.width, self.height),
            rule: format!("this kind of output has {rule}"),
            cure: "choose a size inside these limits".to_owned(),
        })
    }

    /// What parts of one film must have in common beside the kind.
    pub(crate) fn in_words(&self, kind: FilmKind) -> String {
        let FrameRate { num, den } = self.rate;
        let mut words = format!("{}x{} at {num}/{den} frames a second", self.width, self.height);
        if let FilmKind::Mp4(codec) | FilmKind::WebM(codec) = kind {
            words += &format!(", quality {}", self.crf_for(codec));
        }
        words
    }

    /// The given quality or the codec's default. The built-in encoder works finer on small films,
    /// which are looked at enlarged and cost few bytes anyway.
    pub(crate) fn crf_for(&self, codec: Codec) -> u8 {
        let small = u64::from(self.width) * u64::from(self.height) <= 256 * 256;
        self.crf.unwrap_or(match codec {
            Codec::BuiltIn if small => 14,
            _ => codec.default_crf(),
        })
    }
}
