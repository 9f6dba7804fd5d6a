//! WebM through ffmpeg: parts wait as files in a folder beside the film and are joined, without
//! encoding again, when it is finished.

use super::ffmpeg::{FrameEncoder, check_folder, choose_encoder};
use super::options::{Codec, FilmOptions};
use super::{FilmState, Sink};
use crate::error::{MediaError, Result, read_error, write_error};
use crate::ffmpeg::{Process, file_argument, require};
use crate::files::{beside, sync_folder, write_atomic};
use crate::frame::Frame;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) struct WebmSink {
    path: PathBuf,
    /// Holds `00000-80.webm`: part 0 with 80 frames.
    folder: PathBuf,
    ffmpeg: PathBuf,
    options: FilmOptions,
    codec: Codec,
    choice: usize,
    running: Option<FrameEncoder>,
    pushed: u64,
    parts: u32,
}

impl WebmSink {
    pub(super) fn create(path: &Path, options: &FilmOptions, codec: Codec) -> Result<Self> {
        let sink = Self::open(path, options, codec, 0)?;
        sink.remove_parts_from(0)?;
        Ok(sink)
    }

    pub(super) fn resume(
        path: &Path,
        options: &FilmOptions,
        codec: Codec,
        state: &FilmState,
    ) -> Result<Self> {
        let sink = Self::open(path, options, codec, state.parts)?;
        let kept: Vec<(u32, u64)> =
            sink.part_files()?.into_iter().filter(|p| p.0 < state.parts).collect();
        let frames: u64 = kept.iter().map(|p| p.1).sum();
        if kept.len() != state.parts as usize || frames != state.frames {
            return Err(MediaError::CannotResume {
                path: path.to_path_buf(),
                reason: format!(
                    "the saved state says {} parts with {} frames, {} holds {} with {frames}",
                    state.parts,
                    state.frames,
                    sink.folder.display(),
                    kept.len()
                ),
            });
        }
        sink.remove_parts_from(state.parts)?;
        Ok(sink)
    }

    fn open(path: &Path, options: &FilmOptions, codec: Codec, parts: u32) -> Result<Self> {
        check_folder(path)?;
        let ffmpeg = require(options.ffmpeg.as_deref(), codec)?;
        let probe = beside(path, "probe.webm");
        let choice = choose_encoder(&ffmpeg, options, codec, &probe)?;
        let _ = fs::remove_file(&probe);
        let folder = parts_folder(path);
        fs::create_dir_all(&folder).map_err(|e| write_error(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            folder,
            ffmpeg,
            options: options.clone(),
            codec,
            choice,
            running: None,
            pushed: 0,
            parts,
        })
    }

    /// Number and frames of each part in the folder, in order.
    fn part_files(&self) -> Result<Vec<(u32, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|e| read_error(&self.folder, e))? {
            let entry = entry.map_err(|e| read_error(&self.folder, e))?;
            let name = entry.file_name();
            let parsed = name
                .to_str()
                .and_then(|n| n.strip_suffix(".webm"))
                .and_then(|n| n.split_once('-'))
                .and_then(|(part, frames)| Some((part.parse().ok()?, frames.parse().ok()?)));
            found.extend(parsed);
        }
        found.sort_unstable();
        Ok(found)
    }

    fn part_file(&self, part: u32, frames: u64) -> PathBuf {
        self.folder.join(format!("{part:05}-{frames}.webm"))
    }

    fn growing_file(&self) -> PathBuf {
        self.folder.join("growing.webm")
    }

    fn remove_parts_from(&self, first: u32) -> Result<()> {
        for (part, frames) in self.part_files()?.into_iter().filter(|p| p.0 >= first) {
            let file = self.part_file(part, frames);
            fs::remove_file(&file).map_err(|e| write_error(&file, e))?;
        }
        Ok(())
    }

    fn join(&self) -> Result<PathBuf> {
        let mut list = String::from("ffconcat version 1.0\n");
        for (part, frames) in self.part_files()? {
            let seconds = frames as f64 / self.options.rate.as_f64();
            // The exact length of each part, because WebM itself rounds to milliseconds.
            list += &format!("file {part:05}-{frames}.webm\nduration {seconds:.6}\n");
        }
        let list_file = self.folder.join("parts.ffconcat");
        write_atomic(&list_file, list.as_bytes())?;
        let joined = self.folder.join("joined.webm");
        let mut command = Command::new(&self.ffmpeg);
        command
            .args(["-v", "error", "-nostats", "-y", "-f", "concat", "-safe", "1", "-i"])
            .arg(file_argument(&list_file));
        if let Some(text) = &self.options.metadata {
            // Through a file, because an argument may not be as long as metadata may.
            let tags = self.folder.join("tags.ffmeta");
            write_atomic(&tags, format!(";FFMETADATA1\ncomment={}\n", escaped(text)).as_bytes())?;
            command.args(["-f", "ffmetadata", "-i"]).arg(file_argument(&tags));
            command.args(["-map", "0", "-map_metadata", "1"]);
        }
        command.args(["-c", "copy", "-fflags", "+bitexact"]);
        command.arg(file_argument(&joined)).stdin(Stdio::null()).stdout(Stdio::null());
        Process::start(&mut command, &self.path, "joining")?.finish(&self.path, "joining")?;
        Ok(joined)
    }
}

/// Where the parts of the film at `path` wait.
fn parts_folder(path: &Path) -> PathBuf {
    beside(path, "parts")
}

/// Removes the parts of the film at `path`, when there are any.
pub(super) fn remove_parts(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(parts_folder(path)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A value as ffmpeg's metadata files want it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '=' | ';' | '#' | '\\' | '\n') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl Sink for WebmSink {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        let growing = self.growing_file();
        FrameEncoder::push_to(&mut self.running, frame, || {
            FrameEncoder::start(&self.ffmpeg, &self.options, self.codec, self.choice, &growing)
        })?;
        self.pushed += 1;
        Ok(())
    }

    fn pending(&self) -> u64 {
        self.pushed
    }

    fn end_part(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.finish()?;
        }
        let (from, to) = (self.growing_file(), self.part_file(self.parts, self.pushed));
        fs::File::open(&from)
            .and_then(|f| f.sync_all())
            .and_then(|()| fs::rename(&from, &to))
            .and_then(|()| sync_folder(&to))
            .map_err(|e| write_error(&to, e))?;
        self.parts += 1;
        self.pushed = 0;
        Ok(())
    }

    fn position(&self) -> (u64, u32) {
        (0, self.parts)
    }

    fn set_metadata(&mut self, text: Option<String>) {
        self.options.metadata = text;
    }

    fn finish(&mut self) -> Result<u64> {
        let joined = self.join()?;
        let length = fs::File::open(&joined)
            .and_then(|f| f.sync_all().and_then(|()| f.metadata()))
            .and_then(|m| fs::rename(&joined, &self.path).map(|()| m.len()))
            .and_then(|n| sync_folder(&self.path).map(|()| n))
            .map_err(|e| write_error(&self.path, e))?;
        Ok(length)
    }

    fn grows_in_place(&self) -> bool {
        false
    }

    fn clean(&mut self) -> std::io::Result<()> {
        remove_parts(&self.path)
    }

    fn discard(&mut self) -> std::io::Result<()> {
        // It writes there until it is gone.
        self.running = None;
        remove_parts(&self.path)
    }
}
