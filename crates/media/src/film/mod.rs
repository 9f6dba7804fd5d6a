//! Films out: one writer for every kind of output.
//!
//! A film is a row of *parts*. [`FilmWriter::push`] takes frames, [`FilmWriter::end_part`] closes
//! the part: the frames so far are on the disk, flushed, and (but for WebM) playable; and the
//! [`FilmState`] it returns is all that [`FilmWriter::resume`] needs to go on from there after a
//! crash, whatever was written behind that point. Memory does not grow with the film.

mod ffmpeg;
mod file;
mod gif;
mod mp4;
mod options;
mod png;
mod webm;

pub use options::{Codec, FilmKind, FilmOptions};
pub(crate) use png::is_frame;

use crate::error::{MediaError, Result, write_error};
use crate::frame::Frame;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where a film stands after a part: save it, and the film can be resumed from there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FilmState {
    /// The kind of output that this state belongs to.
    pub kind: FilmKind,
    /// Size, rate and quality in words; a film is resumed with the same.
    pub settings: String,
    /// Length of the file in bytes (MP4, GIF), 0 where there are many files.
    pub bytes: u64,
    /// Bytes of these that are the file's head (MP4), whose metadata may be replaced later; 0 where
    /// there is none.
    #[serde(default)]
    pub head_bytes: u64,
    /// Parts closed.
    pub parts: u32,
    /// Frames in those parts.
    pub frames: u64,
}

/// What [`FilmWriter::end_part`] closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    /// The film after this part.
    pub state: FilmState,
    /// The frames of this part.
    pub frames: Range<u64>,
    /// Where the part is in the file (MP4, GIF); empty where there are many files. In an MP4 these
    /// bytes are whole fragments, so a playlist can point at them.
    pub bytes: Range<u64>,
}

/// What [`FilmWriter::finish`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilmReport {
    /// Frames in the film.
    pub frames: u64,
    /// Length of the file in bytes; for a folder of frames, of all of them that this writer wrote.
    pub bytes: u64,
}

/// How one kind of output is written. Frames arrive with the right size.
trait Sink: Send {
    fn push(&mut self, frame: &Frame) -> Result<()>;
    /// Frames pushed since the last part was closed.
    fn pending(&self) -> u64;
    fn end_part(&mut self) -> Result<()>;
    /// Length in bytes and number of parts, both up to the last closed part.
    fn position(&self) -> (u64, u32);
    /// Called after the last part was closed; returns the length in bytes. What [`FilmWriter::resume`] needs stays.
    fn finish(&mut self) -> Result<u64>;
    /// Whether what is closed can be watched before the film is finished.
    fn grows_in_place(&self) -> bool {
        true
    }
    /// Removes what only a film that goes on needs.
    fn clean(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    /// Removes what was written.
    fn discard(&mut self) -> std::io::Result<()>;
    /// The head of the file, where it can be told apart.
    fn init_segment(&self) -> Option<&[u8]> {
        None
    }
    /// Another text for the film to carry from its end on.
    fn set_metadata(&mut self, _text: Option<String>) {}
    /// Puts that text into the file now. Called between parts.
    fn write_metadata(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A part is closed by itself after this many frames, so that memory stays bounded for a caller
/// that never closes one.
pub const MAX_PART_FRAMES: u64 = 240;

/// Writes a film, frame by frame.
///
/// ```
/// use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("film.mp4");
/// let options = FilmOptions::new(64, 48, FrameRate::whole(24));
/// let mut film = FilmWriter::create(&path, &options)?;
/// for level in 0..8 {
///     film.push(&Frame::filled(64, 48, [level * 30, 80, 160]))?;
/// }
/// let part = film.end_part()?;
/// assert_eq!(part.state.frames, 8);
/// film.finish()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FilmWriter {
    path: PathBuf,
    options: FilmOptions,
    kind: FilmKind,
    frames: u64,
    part_start: (u64, u64),
    sink: Box<dyn Sink>,
}

impl std::fmt::Debug for FilmWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FilmWriter({}, {} frames)", self.path.display(), self.frames)
    }
}

impl FilmWriter {
    /// Finds out whether a film could be started at `path`, without touching what is there: settings that
    /// cannot work, and ffmpeg missing or refusing where it is needed.
    ///
    /// # Errors
    /// Those of [`FilmWriter::create`] but for the disk's.
    pub fn check(path: &Path, options: &FilmOptions) -> Result<()> {
        match options.kind(path)? {
            FilmKind::Mp4(Codec::BuiltIn) | FilmKind::Gif | FilmKind::PngFrames => Ok(()),
            FilmKind::Mp4(codec) => ffmpeg::check(path, options, codec, "mp4"),
            FilmKind::WebM(codec) => ffmpeg::check(path, options, codec, "webm"),
        }
    }

    /// Starts a film at `path`, whose ending chooses the kind of output (see [`FilmKind`]). What was
    /// at `path` is replaced, but only once everything that can fail at the start has worked.
    ///
    /// # Errors
    /// Settings that cannot work, an output that cannot be written, ffmpeg missing or refusing.
    pub fn create(path: &Path, options: &FilmOptions) -> Result<Self> {
        let kind = options.kind(path)?;
        let sink: Box<dyn Sink> = match kind {
            FilmKind::Mp4(codec) => Box::new(mp4::Mp4Sink::create(path, options, codec)?),
            FilmKind::WebM(codec) => Box::new(webm::WebmSink::create(path, options, codec)?),
            FilmKind::Gif => Box::new(gif::GifSink::create(path, options)?),
            FilmKind::PngFrames => Box::new(png::PngSink::create(path, options)?),
        };
        Ok(Self::with(path, options, kind, 0, sink))
    }

    /// Goes on with the film at `path` from `state`; what was written behind it is dropped.
    /// `options` must be those of [`FilmWriter::create`], but for the metadata, for which
    /// [`FilmWriter::set_metadata`] holds.
    ///
    /// # Errors
    /// [`MediaError::CannotResume`] when the file is shorter than the state says, or is not the
    /// film that the state and the options describe.
    pub fn resume(path: &Path, options: &FilmOptions, state: &FilmState) -> Result<Self> {
        let kind = options.kind(path)?;
        if kind != state.kind {
            return Err(MediaError::CannotResume {
                path: path.to_path_buf(),
                reason: format!("it was begun as {}, not as {kind}", state.kind),
            });
        }
        let settings = options.in_words(kind);
        if settings != state.settings {
            return Err(MediaError::CannotResume {
                path: path.to_path_buf(),
                reason: format!("it was begun with {}, not with {settings}", state.settings),
            });
        }
        let sink: Box<dyn Sink> = match kind {
            FilmKind::Mp4(codec) => Box::new(mp4::Mp4Sink::resume(path, options, codec, state)?),
            FilmKind::WebM(codec) => Box::new(webm::WebmSink::resume(path, options, codec, state)?),
            FilmKind::Gif => Box::new(gif::GifSink::resume(path, options, state)?),
            FilmKind::PngFrames => Box::new(png::PngSink::resume(path, options, state)?),
        };
        Ok(Self::with(path, options, kind, state.frames, sink))
    }

    fn with(
        path: &Path,
        options: &FilmOptions,
        kind: FilmKind,
        frames: u64,
        sink: Box<dyn Sink>,
    ) -> Self {
        let part_start = (frames, sink.position().0);
        Self { path: path.to_path_buf(), options: options.clone(), kind, frames, part_start, sink }
    }

    /// Has the film carry another text. An MP4 gets it when it is finished, or by
    /// [`FilmWriter::write_metadata`]; a WebM when it is finished; a GIF and PNG frames, whose text
    /// is written first, keep the one they began with.
    ///
    /// # Errors
    /// [`MediaError::Setting`] for a text that is too long.
    pub fn set_metadata(&mut self, text: Option<String>) -> Result<()> {
        let options = FilmOptions { metadata: text, ..self.options.clone() };
        options.kind(&self.path)?;
        self.sink.set_metadata(options.metadata.clone());
        self.options = options;
        Ok(())
    }

    /// Puts the text into an MP4 now, between two parts. When it differs from the one in the file, the
    /// file is copied once, since all that follows its head moves.
    ///
    /// # Errors
    /// A failing disk; the file is as it was.
    pub fn write_metadata(&mut self) -> Result<()> {
        self.end_part()?;
        self.sink.write_metadata()?;
        self.part_start.1 = self.sink.position().0;
        Ok(())
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// [`MediaError::FrameSize`] for a frame of another size; a failing disk or encoder.
    pub fn push(&mut self, frame: &Frame) -> Result<()> {
        let (width, height) = (self.options.width, self.options.height);
        if (frame.width(), frame.height()) != (width, height) {
            return Err(MediaError::FrameSize {
                index: self.frames,
                got_width: frame.width(),
                got_height: frame.height(),
                width,
                height,
            });
        }
        self.sink.push(frame)?;
        self.frames += 1;
        if self.sink.pending() >= MAX_PART_FRAMES {
            self.sink.end_part()?;
        }
        Ok(())
    }

    /// Closes the part: what was pushed is on the disk when this returns. Without frames since the
    /// last call nothing is written. A part longer than 240 frames is several parts in the file.
    ///
    /// # Errors
    /// A failing disk or encoder.
    pub fn end_part(&mut self) -> Result<PartReport> {
        if self.sink.pending() > 0 {
            self.sink.end_part()?;
        }
        let state = self.state();
        let (frames, bytes) = self.part_start;
        self.part_start = (state.frames, state.bytes);
        Ok(PartReport { frames: frames..state.frames, bytes: bytes..state.bytes, state })
    }

    /// Where the film stands: valid for [`FilmWriter::resume`] when no frame was pushed since the
    /// last part was closed.
    #[must_use]
    pub fn state(&self) -> FilmState {
        let (bytes, parts) = self.sink.position();
        FilmState {
            kind: self.kind,
            settings: self.options.in_words(self.kind),
            bytes,
            head_bytes: self.sink.init_segment().map_or(0, |head| head.len() as u64),
            parts,
            frames: self.frames - self.sink.pending(),
        }
    }

    /// The head of an MP4 film (`ftyp` and `moov`), which with the fragments of any part
    /// ([`PartReport::bytes`]) makes a playable stream; `None` for other kinds.
    #[must_use]
    pub fn init_segment(&self) -> Option<&[u8]> {
        self.sink.init_segment()
    }

    /// Gives the film up and removes all that was written of it.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn discard(mut self) -> Result<()> {
        self.sink.discard().map_err(|e| write_error(&self.path, e))
    }

    /// Closes the last part and the file.
    ///
    /// # Errors
    /// A failing disk or encoder; a film without frames.
    pub fn finish(mut self) -> Result<FilmReport> {
        let report = self.close()?;
        self.clean()?;
        Ok(report)
    }

    /// The same for a caller with more to write before the film counts as finished: until [`FilmWriter::clean`] it can
    /// be resumed from every state that it had, and closed again.
    ///
    /// # Errors
    /// Those of [`FilmWriter::finish`].
    pub fn close(&mut self) -> Result<FilmReport> {
        self.end_part()?;
        if self.frames == 0 {
            return Err(MediaError::Setting {
                what: "frames",
                value: "0".to_owned(),
                rule: "a film has at least one frame".to_owned(),
                cure: "push frames before finishing".to_owned(),
            });
        }
        let bytes = self.sink.finish()?;
        Ok(FilmReport { frames: self.frames, bytes })
    }

    /// Whether the closed parts can be watched at the film's path already; those of a WebM only once
    /// [`FilmWriter::close`] has joined them.
    #[must_use]
    pub fn grows_in_place(&self) -> bool {
        self.sink.grows_in_place()
    }

    /// Removes what only a film that goes on needs, once [`FilmWriter::close`] has closed it.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn clean(mut self) -> Result<()> {
        self.sink.clean().map_err(|e| write_error(&self.path, e))
    }

    /// The same for a finished film at `path` whose writer was killed before it came to that.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn clean_finished(path: &Path) -> Result<()> {
        webm::remove_parts(path).map_err(|e| write_error(path, e))
    }
}
