//! The end of a segment, which makes it durable, and the end of the film.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use longreel_kernels::Tensor;
use longreel_media::{Frame, contact_sheet, thumbnail, write_atomic, write_jpeg, write_png};
use longreel_sampling::Segment;
use serde::Serialize;

use super::reel::{Denoised, Reel, Tell};
use super::{DRIFT, FRAMES, JOURNAL, LATENTS, Outcome, SHEET, SHEET_FRAMES};
use crate::append::{self, AppendFile};
use crate::checkpoint::{Checkpoint, newest};
use crate::error::FilmError;
use crate::events::{Event, Stop, StopSignal};
use crate::request::FilmRequest;
use crate::run_file::RunFile;

impl Reel<'_> {
    /// Makes the segment durable: film, dumps, then the checkpoint that counts on them.
    pub(super) fn end_part(
        &mut self,
        denoised: &Denoised,
        tell: &mut Tell<'_>,
    ) -> Result<(), FilmError> {
        let segment = &denoised.segment;
        let drift = self.meter.finish_segment(segment.index);
        if let Some(drift) = &drift {
            let file = self.appended.get_mut(DRIFT).expect("opened in new");
            write_line(file, drift).map_err(FilmError::io("write", DRIFT))?;
        }
        let writer = self.writer.as_mut().expect("begin_film opened it");
        let part = sync_beside(&mut self.appended, |&name| name != JOURNAL, || writer.end_part())??;
        let head = writer.init_segment().map(|head| head.len() as u64);
        self.progress.writer = serde_json::to_value(&part.state)
            .map_err(|e| FilmError::io("describe", &self.outputs.film)(e.into()))?;
        let picture = self.preview(segment)?;
        let mut part = Event::Part {
            segment: segment.index,
            frames: self.progress.frames,
            film_seconds: self.progress.frames as f64 / f64::from(self.plan.request().fps),
            prompt: denoised.made_from.0.clone(),
            seed: denoised.made_from.1,
            bytes: head.map(|head| [part.bytes.start - head, part.bytes.end - head]),
            preview: picture.as_ref().map(|(path, _)| path.display().to_string()),
            checkpoint: None,
        };
        let drift_event = drift.clone().map(Event::Drift);
        if let Some(file) = self.appended.get_mut(JOURNAL) {
            [Some(&part), drift_event.as_ref()]
                .into_iter()
                .flatten()
                .try_for_each(|event| write_line(file, event))
                .map_err(FilmError::io("write", JOURNAL))?;
        }
        for (name, file) in &self.appended {
            self.progress.lengths.insert((*name).to_owned(), file.len());
        }
        self.progress.drift = self.meter.state();
        self.progress.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        // After the last segment too: another film may go on from there.
        let (checkpoint, folder) = (self.checkpoint(&denoised.recent), &self.folder);
        let failed = || FilmError::io("write a checkpoint in", folder);
        let written = sync_beside(
            &mut self.appended,
            |&name| name == JOURNAL,
            || match &picture {
                None => checkpoint.write(folder).map_err(failed()),
                // Its own wait for the disk would be as long as the checkpoint's.
                Some((path, frame)) => std::thread::scope(|scope| {
                    let picture = scope.spawn(|| write_jpeg(path, frame));
                    let written = checkpoint.write(folder).map_err(failed());
                    picture.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                    written
                }),
            },
        )??;
        let checkpoint = written.publish().map_err(failed())?;
        if let Event::Part { checkpoint: named, .. } = &mut part {
            *named = self.outputs.checkpoints.then(|| checkpoint.display().to_string());
        }
        tell(part);
        if let Some(event) = drift_event {
            tell(event);
            self.last_drift = drift;
        }
        Ok(())
    }

    /// The picture of a finished segment, and where it goes, when previews are asked for.
    fn preview(&self, segment: &Segment) -> Result<Option<(PathBuf, Frame)>, FilmError> {
        let (true, Some(rgb)) = (self.outputs.previews, self.meter.last_frame()) else {
            return Ok(None);
        };
        let request = self.plan.request();
        let frame = Frame::new(request.width as u32, request.height as u32, rgb.to_vec())?;
        let name = format!("preview-{:08}.jpg", segment.index);
        Ok(Some((self.outputs.preview_folder().join(name), frame)))
    }

    fn checkpoint(&self, recent: &Tensor) -> Checkpoint {
        let mut tensors = vec![("recent_latents".to_owned(), recent.clone())];
        if let Some(pixels) = &self.recent_pixels {
            tensors.push(("recent_pixels".to_owned(), pixels.clone()));
        }
        Checkpoint {
            progress: self.progress.clone(),
            tensors,
            last_frame: self.meter.last_frame().map(<[u8]>::to_vec),
        }
    }

    /// Closes what is open. A complete film gets its dumps and drift report, and the run's folder
    /// goes.
    pub(super) fn close(mut self, stopped: bool, stop: &StopSignal) -> Result<Outcome, FilmError> {
        let mut outcome = Outcome {
            film: self.outputs.film.clone(),
            frames: self.progress.frames,
            stopped,
            playable: self.progress.frames > 0,
            seconds: self.started.elapsed().as_secs_f64(),
            reused_steps: self.progress.reused_steps,
            kept_share: None,
            drift: None,
            last_drift: self.last_drift.take(),
        };
        if stopped {
            // The file is whole up to its last part; the writer is dropped without finishing, so
            // that resume can go on from there.
            if let Some(writer) = self.writer.as_mut().filter(|writer| !writer.grows_in_place()) {
                outcome.playable = stop.get() != Stop::Now;
                if outcome.playable {
                    writer.close()?;
                }
            }
            return Ok(outcome);
        }
        if let Some(writer) = &mut self.writer {
            outcome.frames = writer.close()?.frames;
        }
        let request = self.plan.request();
        let (width, height) = (request.width, request.height);
        if let (Some(file), Some(path)) =
            (self.appended.remove(LATENTS), &self.outputs.dump_latents)
        {
            let channels = self.networks.vae.encoder.latent_channels();
            let shape = [self.progress.latents, channels, height / 8, width / 8];
            file.into_reader()
                .and_then(|mut raw| append::write_latents(&mut raw, path, shape))
                .map_err(FilmError::io("write", path))?;
        }
        if let (Some(file), Some(path)) = (self.appended.remove(FRAMES), &self.outputs.dump_frames)
        {
            let shape = [self.progress.dumped_frames as usize, height, width, 3];
            file.into_reader()
                .and_then(|mut raw| append::write_frames(&mut raw, path, shape))
                .map_err(FilmError::io("write", path))?;
        }
        if let (Some(file), Some((path, side))) =
            (self.appended.remove(SHEET), self.outputs.sheet())
        {
            drop(file);
            self.write_sheet(&path, side)?;
        }
        if let Some(file) = self.appended.remove(DRIFT) {
            let path = self.outputs.drift_path();
            drop(file);
            self.write_drift(&path)?;
            outcome.drift = Some(path);
        }
        // From here on it is no unfinished run, and up to here it can be resumed.
        RunFile::finish(&self.folder)?;
        if let Some(writer) = self.writer.take() {
            writer.clean()?;
        }
        RunFile::remove_finished(&self.folder)?;
        Ok(outcome)
    }

    /// After a failure: a film of which nothing is finished is no film, and goes.
    pub(super) fn give_up(mut self) {
        let unfinished = newest(&self.folder).is_ok_and(|(found, _)| found.is_none());
        if let Some(writer) = self.writer.take().filter(|_| unfinished) {
            // The failure is what is told.
            let _ = writer.discard();
        }
    }

    fn write_drift(&self, path: &Path) -> Result<(), FilmError> {
        let raw = self.folder.join(DRIFT);
        let text = fs::read_to_string(&raw).map_err(FilmError::io("read", &raw))?;
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let json = format!("{{\"segments\":[\n{}\n]}}\n", lines.join(",\n"));
        write_atomic(path, json.as_bytes())?;
        Ok(())
    }

    fn write_sheet(&self, path: &Path, side: u32) -> Result<(), FilmError> {
        let raw = self.folder.join(SHEET);
        let [width, height] = sheet_frame(self.plan.request(), side)?;
        let size = width as usize * height as usize * 3;
        let read = || -> std::io::Result<Vec<Vec<u8>>> {
            let mut file = File::open(&raw)?;
            let count = file.metadata()?.len() / size as u64;
            // An endless film leaves more frames than a sheet holds; take them evenly.
            let step = count.div_ceil(SHEET_FRAMES as u64).max(1);
            let mut frames = Vec::new();
            for index in (0..count).step_by(step as usize) {
                let mut rgb = vec![0; size];
                file.seek(SeekFrom::Start(index * size as u64))?;
                file.read_exact(&mut rgb)?;
                frames.push(rgb);
            }
            Ok(frames)
        };
        let frames = read()
            .map_err(FilmError::io("read", &raw))?
            .into_iter()
            .map(|rgb| Frame::new(width, height, rgb))
            .collect::<Result<Vec<_>, _>>()?;
        let sheet = contact_sheet(&frames, 8)?;
        let is_jpeg =
            |e: &std::ffi::OsStr| ["jpg", "jpeg"].iter().any(|j| e.eq_ignore_ascii_case(j));
        match path.extension().is_some_and(is_jpeg) {
            true => write_jpeg(path, &sheet)?,
            false => write_png(path, &sheet, None)?,
        }
        Ok(())
    }
}

/// Width and height of a frame on the sheet of a film.
///
/// # Errors
/// A side of zero.
pub(crate) fn sheet_frame(request: &FilmRequest, side: u32) -> Result<[u32; 2], FilmError> {
    let black = Frame::filled(request.width as u32, request.height as u32, [0; 3]);
    let small = thumbnail(&black, side)?;
    Ok([small.width(), small.height()])
}

/// Makes the chosen files durable while something else is done: a disk takes several at once in
/// hardly more time than one.
fn sync_beside<T>(
    files: &mut HashMap<&'static str, AppendFile>,
    chosen: impl Fn(&&'static str) -> bool,
    work: impl FnOnce() -> T,
) -> Result<T, FilmError> {
    std::thread::scope(|scope| {
        let syncs: Vec<_> = files
            .iter_mut()
            .filter(|(name, _)| chosen(name))
            .map(|(name, file)| (*name, scope.spawn(|| file.sync())))
            .collect();
        let done = work();
        for (name, sync) in syncs {
            let result = sync.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.map_err(FilmError::io("write", name))?;
        }
        Ok(done)
    })
}

/// Appends a value as a line of JSON.
fn write_line(file: &mut AppendFile, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    file.write(&line)
}
