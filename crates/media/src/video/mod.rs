//! Videos in: frames one after another, whatever the length.

mod builtin;
mod external;
mod pace;

use crate::error::{MediaError, Result, read_error};
use crate::ffmpeg::ffmpeg_path;
use crate::files::open_regular;
use crate::frame::{Frame, FrameRate};
use builtin::BuiltInReader;
use external::FfmpegReader;
use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How videos are opened.
#[derive(Debug, Clone)]
pub struct VideoOptions {
    /// The ffmpeg program; `None` looks for it on `PATH`.
    pub ffmpeg: Option<PathBuf>,
    /// False never runs ffmpeg: only H.264 in MP4 is read.
    pub allow_ffmpeg: bool,
    /// Most pixels that a frame may have.
    pub max_pixels: u64,
    /// The rate that frames are given at, so that the video keeps its pace: each instant has the frame that the file shows
    /// then, which leaves some out or repeats some. A video whose rate is within a hundredth of it, or that does not tell
    /// its rate, is given frame by frame, as all are without this.
    pub rate: Option<FrameRate>,
}

impl Default for VideoOptions {
    fn default() -> Self {
        // 8192 x 4320, the largest size of the common levels.
        Self { ffmpeg: None, allow_ffmpeg: true, max_pixels: 8192 * 4320, rate: None }
    }
}

impl VideoOptions {
    /// Frames at a rate; see [`Self::rate`].
    #[must_use]
    pub fn at(rate: FrameRate) -> Self {
        Self { rate: Some(rate), ..Self::default() }
    }

    /// The rate to bring a video of so many frames a second to, where that is another one.
    fn other_rate(&self, fps: Option<f64>) -> Option<FrameRate> {
        self.rate.filter(|rate| fps.is_some_and(|fps| (fps / rate.as_f64() - 1.0).abs() > 0.01))
    }

    /// Refuses frames that are too large.
    fn check_size(&self, path: &Path, width: u64, height: u64) -> Result<()> {
        if width.saturating_mul(height) <= self.max_pixels && width.max(height) <= 65536 {
            return Ok(());
        }
        Err(MediaError::TooLarge {
            path: path.to_path_buf(),
            width,
            height,
            limit: format!("{} pixels a frame", self.max_pixels),
        })
    }
}

/// What is known about a video before it is decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoInfo {
    /// Width as shown (after rotation, in square pixels).
    pub width: u32,
    /// Height as shown, in pixels.
    pub height: u32,
    /// Frames per second on average, when the file tells.
    pub fps: Option<f64>,
    /// Number of frames in the file, when it tells.
    pub frames: Option<u64>,
    /// The rate that its frames are brought to, where that is not its own.
    pub brought_to: Option<FrameRate>,
    /// The codec's name.
    pub codec: String,
    /// The file ends inside its last part, as that of a program that was killed does; the frames up
    /// to there are read.
    pub cut_off: bool,
    /// True when ffmpeg decodes it.
    pub through_ffmpeg: bool,
}

impl VideoInfo {
    /// Most frames that are given, when the file tells; fewer when it is damaged.
    #[must_use]
    pub fn most_frames(&self) -> Option<u64> {
        let Some(rate) = self.brought_to else { return self.frames };
        let seconds = self.frames? as f64 / self.fps?;
        // How long the last one is shown is ffmpeg's to say.
        Some((seconds * rate.as_f64()).round() as u64 + u64::from(self.through_ffmpeg))
    }
}

/// Whether pixels of a shape are not square, as those of DVDs are not. Zero is unknown; what scaling leaves by rounding to
/// whole pixels does not count.
fn is_oblong(width: u32, height: u32) -> bool {
    let ratio = f64::from(width) / f64::from(height);
    width > 0 && height > 0 && (ratio - 1.0).abs() > 0.02
}

enum Source {
    BuiltIn(Box<BuiltInReader>),
    Ffmpeg(Box<FfmpegReader>),
}

/// Decodes a video frame by frame, in the order in which they are shown.
///
/// H.264 in MP4 (progressive or in fragments) is decoded inside this crate, everything else by
/// ffmpeg when there is one. Memory does not grow with the video.
pub struct VideoReader {
    path: PathBuf,
    options: VideoOptions,
    info: VideoInfo,
    source: Source,
    given: u64,
    failed: bool,
}

impl std::fmt::Debug for VideoReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VideoReader({}, {:?})", self.path.display(), self.info)
    }
}

impl VideoReader {
    /// Opens the video at `path`.
    ///
    /// # Errors
    /// A file that is missing, truncated, damaged, too large, no video, or needs ffmpeg where there
    /// is none.
    pub fn open(path: &Path, options: &VideoOptions) -> Result<Self> {
        let reason = match kind_of(path)? {
            Kind::Mp4 => match BuiltInReader::open(path, options) {
                Ok((reader, info)) => {
                    return Ok(Self::with(path, options, info, Source::BuiltIn(Box::new(reader))));
                }
                Err(MediaError::NeedsFfmpeg { reason, .. }) => reason,
                Err(other) => return Err(other),
            },
            Kind::Other(what) => what,
        };
        let (reader, info) = open_with_ffmpeg(path, options, reason)?;
        Ok(Self::with(path, options, info, Source::Ffmpeg(Box::new(reader))))
    }

    fn with(path: &Path, options: &VideoOptions, info: VideoInfo, source: Source) -> Self {
        Self {
            path: path.to_path_buf(),
            options: options.clone(),
            info,
            source,
            given: 0,
            failed: false,
        }
    }

    /// What is known about the video.
    #[must_use]
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>> {
        let frame = match &mut self.source {
            Source::BuiltIn(reader) => reader.next_frame(),
            Source::Ffmpeg(reader) => reader.next_frame(),
        };
        match (frame, &self.source) {
            // A stream that looks decodable and is not shows it at its first frames.
            (Err(error), Source::BuiltIn(_)) if self.given == 0 && self.options.allow_ffmpeg => {
                match open_with_ffmpeg(&self.path, &self.options, error.to_string()) {
                    Ok((reader, info)) => {
                        self.info = info;
                        self.source = Source::Ffmpeg(Box::new(reader));
                        self.next_frame()
                    }
                    Err(MediaError::NeedsFfmpeg { .. }) => Err(error),
                    Err(other) => Err(other),
                }
            }
            (frame, _) => frame,
        }
    }
}

impl Iterator for VideoReader {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let frame = self.next_frame();
        self.failed = frame.is_err();
        self.given += 1;
        frame.transpose()
    }
}

/// The last `count` frames of the video at `path` (all of a shorter one), in order. Where the file
/// has an index, decoding starts near the end; at no time are more than `count` frames and those
/// that wait for reordering in memory.
///
/// # Errors
/// Those of [`VideoReader::open`] and of decoding.
pub fn last_frames(
    path: &Path,
    count: usize,
    options: &VideoOptions,
) -> Result<(VideoInfo, Vec<Frame>)> {
    let mut reader = VideoReader::open(path, options)?;
    if let Source::BuiltIn(source) = &mut reader.source {
        if let Some(frames) = source.tail(count)? {
            return Ok((reader.info, frames));
        }
        reader = VideoReader::open(path, options)?;
    }
    let mut kept = VecDeque::new();
    for frame in reader.by_ref() {
        kept.push_back(frame?);
        if kept.len() > count {
            kept.pop_front();
        }
    }
    Ok((reader.info, kept.into()))
}

enum Kind {
    Mp4,
    /// Something else, in words.
    Other(String),
}

/// Looks at the first bytes; the ending of a name proves nothing.
fn kind_of(path: &Path) -> Result<Kind> {
    let mut first = Vec::new();
    let file = open_regular(path)?;
    file.take(16).read_to_end(&mut first).map_err(|e| read_error(path, e))?;
    let other = |what: &str| Ok(Kind::Other(what.to_owned()));
    match first.as_slice() {
        [] => Err(MediaError::Truncated {
            path: path.to_path_buf(),
            detail: "it is empty".to_owned(),
        }),
        [_, _, _, _, b'f', b't', b'y', b'p', ..]
        | [_, _, _, _, b'm', b'o', b'o', b'v', ..]
        | [_, _, _, _, b'm', b'd', b'a', b't', ..]
        | [_, _, _, _, b'w', b'i', b'd', b'e', ..] => Ok(Kind::Mp4),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => other("it is WebM or Matroska"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..] => other("it is AVI"),
        [b'G', b'I', b'F', ..] => other("it is a GIF"),
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] => Err(MediaError::UnknownFormat {
            path: path.to_path_buf(),
            found: "it is a picture".to_owned(),
            cure: "a film that begins with a picture is asked for with --image".to_owned(),
        }),
        [0x47, ..] => other("it may be an MPEG transport stream"),
        _ => other("it is not MP4"),
    }
}

fn open_with_ffmpeg(
    path: &Path,
    options: &VideoOptions,
    reason: String,
) -> Result<(FfmpegReader, VideoInfo)> {
    let ffmpeg = match options.allow_ffmpeg {
        true => ffmpeg_path(options.ffmpeg.as_deref()),
        false => None,
    };
    let ffmpeg =
        ffmpeg.ok_or_else(|| MediaError::NeedsFfmpeg { path: path.to_path_buf(), reason })?;
    FfmpegReader::open(path, options, &ffmpeg)
}
