//! How many frames a film has.

use crate::error::{MediaError, Result, read_error};
use crate::film::is_frame;
use crate::video::{VideoOptions, VideoReader};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The number of frames of an MP4, GIF or WebM file, or of a folder of PNG frames. Of a file that does not
/// tell, all is decoded.
///
/// # Errors
/// A film that cannot be read.
pub fn count_frames(path: &Path) -> Result<u64> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| read_error(path, e))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        return Ok(names.filter(|name| is_frame(&name.to_string_lossy())).count() as u64);
    }
    let file = File::open(path).map_err(|e| read_error(path, e))?;
    let mut first = Vec::new();
    (&file).take(4).read_to_end(&mut first).map_err(|e| read_error(path, e))?;
    if first == b"GIF8" {
        return frames_of_gif(path);
    }
    let reader = VideoReader::open(path, &VideoOptions::default())?;
    match reader.info().frames {
        Some(frames) => Ok(frames),
        None => reader.map(|frame| frame.map(|_| 1)).sum(),
    }
}

fn frames_of_gif(path: &Path) -> Result<u64> {
    let damaged = |error: gif::DecodingError| match error {
        gif::DecodingError::Io(error) => read_error(path, error),
        other => {
            MediaError::Damaged { path: path.to_path_buf(), detail: format!("as a GIF: {other}") }
        }
    };
    let mut options = gif::DecodeOptions::new();
    options.skip_frame_decoding(true);
    let file = File::open(path).map_err(|e| read_error(path, e))?;
    let mut decoder = options.read_info(BufReader::new(file)).map_err(damaged)?;
    let mut frames = 0;
    while decoder.next_frame_info().map_err(damaged)?.is_some() {
        frames += 1;
    }
    Ok(frames)
}
