//! GIF: each frame with a palette of its own, appended as it comes.

use super::file::{begin, open_locked};
use super::options::FilmOptions;
use super::{FilmState, Sink};
use crate::error::{MediaError, Result, read_error, write_error};
use crate::frame::{Frame, FrameRate};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Ends a GIF. It is written after each part and overwritten by the next.
const TRAILER: u8 = 0x3b;

/// How finely the palette is searched for when a frame has more than 256 colours, 1 (best) to 30.
const QUANTISER_SPEED: i32 = 10;

pub(super) struct GifSink {
    path: PathBuf,
    file: File,
    rate: FrameRate,
    encoder: gif::Encoder<Vec<u8>>,
    /// Frames in closed parts and after.
    frames: u64,
    pending: u64,
    /// Bytes of closed parts, without the trailer.
    length: u64,
    /// Bytes written, without the trailer.
    written: u64,
    parts: u32,
}

impl GifSink {
    pub(super) fn create(path: &Path, options: &FilmOptions) -> Result<Self> {
        let (encoder, head) = head(options, options.metadata.as_deref())?;
        let file = begin(path, &head)?;
        let length = head.len() as u64;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            rate: options.rate,
            encoder,
            frames: 0,
            pending: 0,
            length,
            written: length,
            parts: 0,
        })
    }

    pub(super) fn resume(path: &Path, options: &FilmOptions, state: &FilmState) -> Result<Self> {
        let refuse = |reason: String| MediaError::CannotResume { path: path.to_path_buf(), reason };
        let mut file = open_locked(path, false)?;
        let found = file.metadata().map_err(|e| read_error(path, e))?.len();
        if found < state.bytes {
            return Err(refuse(format!(
                "it has {found} bytes, the saved state says {}",
                state.bytes
            )));
        }
        let metadata = crate::metadata::read_metadata(path)?;
        let (encoder, expected) = head(options, metadata.as_deref())?;
        let mut begins = vec![0; expected.len()];
        file.read_exact(&mut begins).map_err(|e| read_error(path, e))?;
        if begins != expected || state.bytes < expected.len() as u64 {
            return Err(refuse("its head was written with another size".to_owned()));
        }
        file.set_len(state.bytes)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(|e| write_error(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            rate: options.rate,
            encoder,
            frames: state.frames,
            pending: 0,
            length: state.bytes,
            written: state.bytes,
            parts: state.parts,
        })
    }

    /// Hundredths of a second until frame `index` begins, so that rounding does not add up.
    fn begins(&self, index: u64) -> u64 {
        let (num, den) = (u128::from(self.rate.num), u128::from(self.rate.den));
        ((u128::from(index) * 200 * den + num) / (2 * num)) as u64
    }

    fn encode(&mut self, frame: &Frame) -> Result<(), gif::EncodingError> {
        // The sides were checked against 65535 with the options.
        let (width, height) = (frame.width() as u16, frame.height() as u16);
        let mut picture = gif::Frame::from_rgb_speed(width, height, frame.rgb(), QUANTISER_SPEED);
        let lasts = self.begins(self.frames + 1) - self.begins(self.frames);
        // Browsers slow frames of less than two hundredths down to ten.
        picture.delay = lasts.clamp(2, 65535) as u16;
        picture.dispose = gif::DisposalMethod::Keep;
        self.encoder.get_mut().clear();
        self.encoder.write_frame(&picture)
    }
}

impl Sink for GifSink {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        self.encode(frame).map_err(|e| encoding_error(&self.path, e))?;
        let bytes = self.encoder.get_ref();
        self.file
            .seek(SeekFrom::Start(self.written))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|e| write_error(&self.path, e))?;
        self.written += bytes.len() as u64;
        self.frames += 1;
        self.pending += 1;
        Ok(())
    }

    fn pending(&self) -> u64 {
        self.pending
    }

    fn end_part(&mut self) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(self.written))
            .and_then(|_| self.file.write_all(&[TRAILER]))
            .and_then(|()| self.file.sync_data())
            .map_err(|e| write_error(&self.path, e))?;
        self.length = self.written;
        self.pending = 0;
        self.parts += 1;
        Ok(())
    }

    fn position(&self) -> (u64, u32) {
        (self.length, self.parts)
    }

    fn finish(&mut self) -> Result<u64> {
        // After a resume without new frames the trailer was cut off.
        self.file
            .set_len(self.length)
            .and_then(|()| self.file.seek(SeekFrom::Start(self.length)))
            .and_then(|_| self.file.write_all(&[TRAILER]))
            .and_then(|()| self.file.sync_all())
            .map_err(|e| write_error(&self.path, e))?;
        Ok(self.length + 1)
    }

    fn discard(&mut self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// An encoder whose head was written, and that head: screen, endless loop, comment.
fn head(options: &FilmOptions, metadata: Option<&str>) -> Result<(gif::Encoder<Vec<u8>>, Vec<u8>)> {
    let path = Path::new("GIF head");
    let make = || -> Result<_, gif::EncodingError> {
        let mut encoder =
            gif::Encoder::new(Vec::new(), options.width as u16, options.height as u16, &[])?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        Ok(encoder)
    };
    let mut encoder = make().map_err(|e| encoding_error(path, e))?;
    let mut bytes = std::mem::take(encoder.get_mut());
    if let Some(text) = metadata {
        bytes.extend_from_slice(&[0x21, 0xfe]);
        for block in text.as_bytes().chunks(255) {
            bytes.push(block.len() as u8);
            bytes.extend_from_slice(block);
        }
        bytes.push(0);
    }
    Ok((encoder, bytes))
}

fn encoding_error(path: &Path, error: gif::EncodingError) -> MediaError {
    let cause = match error {
        gif::EncodingError::Io(cause) => cause,
        other => std::io::Error::other(other.to_string()),
    };
    write_error(path, cause)
}
