//! One film, from plan to closed file: segments in order, frames out as they are decoded, a
//! checkpoint after each segment.

mod steering;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use longreel_kernels::Tensor;
use longreel_media::{
    FilmOptions, FilmState, FilmWriter, Frame, FrameRate, VideoOptions, VideoReader, contact_sheet,
    write_atomic, write_png,
};
use longreel_models::{ForwardOptions, VaeDecoderState};
use longreel_sampling::{Segment, StepCache};

use crate::append::{self, AppendFile};
use crate::checkpoint::{Checkpoint, Progress};
use crate::condition::{Conditions, VAE_BUDGET_BYTES, fit_frame, to_tensor};
use crate::denoise::{SegmentTask, denoise};
use crate::drift::{DriftMeter, SegmentDrift};
use crate::engine::Networks;
use crate::error::FilmError;
use crate::estimate::peak_memory_bytes;
use crate::events::{Event, Observer, Stop, StopSignal};
use crate::noise::NoiseSource;
use crate::outputs::Outputs;
use crate::plan::FilmPlan;
use crate::prompts::Prompter;
use crate::request::{Carry, FilmRequest, StartFrom};
use crate::run_file::{Maker, RunFile};

/// Names of the growing files of a run.
const LATENTS: &str = "latents.raw";
const FRAMES: &str = "frames.raw";
pub(crate) const DRIFT: &str = "drift.jsonl";
const SHEET: &str = "sheet.raw";
/// Frames of a contact sheet at most; of a longer film every n-th is kept.
const SHEET_FRAMES: usize = 48;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The film.
    pub film: PathBuf,
    /// Frames in it.
    pub frames: u64,
    /// True when it was stopped before its end; `resume` goes on.
    pub stopped: bool,
    /// Seconds of work in this process.
    pub seconds: f64,
    /// Rows saved by a step cache.
    pub reused_steps: usize,
    /// Where the drift report is, once the film is complete.
    pub drift: Option<PathBuf>,
    /// The drift of the last segment made.
    pub last_drift: Option<SegmentDrift>,
}

/// A film in the making.
pub struct Run<'a> {
    /// Changes when the film is steered.
    plan: Arc<FilmPlan>,
    outputs: &'a Outputs,
    maker: Maker<'a>,
    folder: PathBuf,
    networks: &'a Networks,
    prompter: Prompter<'a>,
    conditions: Conditions,
    noise: NoiseSource,
    cache: Option<Box<dyn StepCache>>,
    options: FilmOptions,
    writer: Option<FilmWriter>,
    meter: DriftMeter,
    decoder_state: VaeDecoderState,
    /// The film's last latents, as many as the next segment and a resumed decoder need.
    recent: Option<Tensor>,
    /// The film's last frames `[F, H, W, 3]` in [-1, 1], kept when history is carried as pixels.
    recent_pixels: Option<Tensor>,
    appended: HashMap<&'static str, AppendFile>,
    progress: Progress,
    started: Instant,
    seconds_before: f64,
    timing: Timing,
    last_drift: Option<SegmentDrift>,
}

/// Measured so far, for the time left.
#[derive(Debug, Default)]
struct Timing {
    row_seconds: f64,
    rows: usize,
    part_seconds: f64,
    part_latents: usize,
}

impl<'a> Run<'a> {
    /// Prepares a run, from its beginning or from `checkpoint`.
    ///
    /// # Errors
    /// When files of the run cannot be opened, or the checkpoint does not fit them.
    #[expect(clippy::too_many_arguments, reason = "each is one stage's result")]
    pub fn new(
        plan: &FilmPlan,
        outputs: &'a Outputs,
        maker: Maker<'a>,
        networks: &'a Networks,
        prompter: Prompter<'a>,
        conditions: Conditions,
        noise: NoiseSource,
        cache: Option<Box<dyn StepCache>>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Self, FilmError> {
        let request = plan.request();
        let folder = outputs.run_folder();
        let mut options = film_options(request, outputs);
        options.metadata = Some(maker.metadata(request, outputs, &outputs.command));
        let mut run = Self {
            plan: Arc::new(plan.clone()),
            outputs,
            maker,
            networks,
            prompter,
            conditions,
            noise,
            cache,
            options,
            writer: None,
            meter: DriftMeter::default(),
            decoder_state: VaeDecoderState::new(),
            recent: None,
            recent_pixels: None,
            appended: HashMap::new(),
            progress: Progress {
                next_segment: 0,
                frames: 0,
                dumped_frames: 0,
                latents: 0,
                writer: serde_json::Value::Null,
                lengths: HashMap::new(),
                drift: Default::default(),
                seconds: 0.0,
                reused_steps: 0,
            },
            started: Instant::now(),
            seconds_before: 0.0,
            timing: Timing::default(),
            last_drift: None,
            folder,
        };
        if let Some(checkpoint) = checkpoint {
            run.restore(checkpoint)?;
        }
        let mut names = vec![DRIFT];
        names.extend(outputs.dump_latents.as_ref().map(|_| LATENTS));
        names.extend(outputs.dump_frames.as_ref().map(|_| FRAMES));
        names.extend(outputs.contact_sheet.as_ref().map(|_| SHEET));
        for name in names {
            let path = run.folder.join(name);
            let length = run.progress.lengths.get(name).copied().unwrap_or(0);
            let file = AppendFile::open(&path, length).map_err(FilmError::io("open", &path))?;
            run.appended.insert(name, file);
        }
        Ok(run)
    }

    fn restore(&mut self, mut checkpoint: Checkpoint) -> Result<(), FilmError> {
        self.progress = checkpoint.progress.clone();
        self.seconds_before = self.progress.seconds;
        self.recent = checkpoint.take("recent_latents");
        self.recent_pixels = checkpoint.take("recent_pixels");
        self.meter = DriftMeter::resume(&self.progress.drift, checkpoint.last_frame);
        if let (Some(recent), Carry::Latents) = (&self.recent, self.plan.request().carry) {
            let starts_clip = recent.dim(0) == self.progress.latents;
            self.decoder_state =
                self.networks.vae.decoder.rebuild_state(recent, starts_clip, VAE_BUDGET_BYTES)?;
        }
        let state: FilmState = serde_json::from_value(self.progress.writer.clone())
            .map_err(|e| FilmError::io("read the checkpoint in", &self.folder)(e.into()))?;
        self.writer = Some(FilmWriter::resume(&self.outputs.film, &self.options, &state)?);
        Ok(())
    }

    /// Makes the segments that are left and closes the film.
    ///
    /// # Errors
    /// Those of the networks, the disk and the encoder. What was finished stays, and the run can be
    /// resumed.
    pub fn finish(
        mut self,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, FilmError> {
        let mut stopped = false;
        while let Some(segment) = self.plan.segments.segment(self.progress.next_segment) {
            if stop.get() != Stop::No {
                stopped = true;
                break;
            }
            if let Some(change) = observer.steer(segment.index) {
                self.follow(change, observer)?;
            }
            // Whoever steers may have taken a while.
            if stop.get() != Stop::No || !self.make(&segment, stop, observer)? {
                stopped = true;
                break;
            }
        }
        if self.plan.segments.count().is_none() && self.progress.next_segment > 0 {
            // An endless film is complete when it is stopped at a segment's end.
            stopped = stop.get() == Stop::Now;
        }
        let outcome = self.close(stopped)?;
        observer.event(Event::Done {
            path: outcome.film.display().to_string(),
            frames: outcome.frames,
            seconds: outcome.seconds,
            peak_memory_bytes: peak_memory_bytes(),
            reused_steps: outcome.reused_steps,
            stopped,
        });
        Ok(outcome)
    }

    /// One segment; false when it was given up.
    fn make(
        &mut self,
        segment: &Segment,
        stop: &StopSignal,
        observer: &mut dyn Observer,
    ) -> Result<bool, FilmError> {
        let plan = self.plan.clone();
        let request = plan.request();
        let (prompt, seed) = request.in_force(pixel_frame(segment.first_new_latent));
        observer.event(Event::Segment {
            segment: segment.index,
            segments: plan.segments.count(),
            prompt: prompt.to_owned(),
        });
        let mut window = self.window(segment, seed)?;
        let timetable = plan.timetable(segment)?;
        let rows_after = self.rows_after(segment, timetable.rows().len());
        let latents_left = plan.segments.total().map(|t| t.get() - self.progress.latents);
        let (cond, uncond) = self.prompter.contexts(prompt)?;
        let task = SegmentTask {
            transformer: &self.networks.transformer,
            cond,
            uncond,
            guidance: plan.guidance,
            extra_channels: self.conditions.extra_channels.as_ref(),
            timetable: &timetable,
            schedule: &plan.schedule,
            solver: &plan.solver,
            forward: ForwardOptions { fps: Some(request.fps), causal_block: plan.causal_mask },
            noise: &self.noise,
            seed,
            segment: segment.index,
            prefix: segment.prefix_latents,
            addnoise_condition: request.addnoise_condition,
        };
        let timing = &mut self.timing;
        let mut on_row = |done: usize, rows: usize, seconds: f64| {
            timing.row_seconds += seconds;
            timing.rows += 1;
            let left = rows_after.zip(latents_left).map(|(after, latents)| {
                let row = timing.row_seconds / timing.rows as f64;
                let latent = timing.part_seconds / timing.part_latents.max(1) as f64;
                row * (rows - done + after) as f64 + latent * latents as f64
            });
            observer.event(Event::Step {
                segment: segment.index,
                step: done,
                steps: rows,
                seconds,
                left_seconds: left,
            });
            stop.get() != Stop::Now
        };
        let whole = denoise(&task, &mut window, self.cache.as_deref_mut(), &mut on_row)?;
        if !whole {
            return Ok(false);
        }
        if let Some(cache) = &self.cache {
            self.progress.reused_steps += cache.reused();
        }
        let started = Instant::now();
        self.take_in(segment, window, observer)?;
        self.timing.part_seconds += started.elapsed().as_secs_f64();
        self.timing.part_latents += segment.new_latents;
        Ok(true)
    }

    /// Rows of the segments after this one; all but the last have as many as a middle one.
    fn rows_after(&self, segment: &Segment, rows: usize) -> Option<usize> {
        let count = self.plan.segments.count()?;
        Some(rows * (count - segment.index - 1))
    }

    /// The window before denoising: prefix, noise, last image.
    fn window(&self, segment: &Segment, seed: u64) -> Result<Tensor, FilmError> {
        let request = self.plan.request();
        let (h, w) = (request.height / 8, request.width / 8);
        let channels = self.networks.vae.encoder.latent_channels();
        let film = segment.film_latents();
        let mut window = self.noise.initial(seed, segment.index, [film, channels, h, w])?;
        let prefix = if segment.index == 0 {
            self.conditions.prefix.clone()
        } else {
            Some(self.history(segment.prefix_latents)?)
        };
        if let Some(prefix) = prefix {
            window.data_mut()[..prefix.len()].copy_from_slice(prefix.data());
        }
        if segment.end_latents > 0
            && let Some(end) = &self.conditions.end
        {
            window = Tensor::concat0(&[&window, end]);
        }
        Ok(window)
    }

    /// The latents a later segment begins with.
    fn history(&self, count: usize) -> Result<Tensor, FilmError> {
        if let (Carry::Pixels, Some(pixels)) = (self.plan.request().carry, &self.recent_pixels) {
            return crate::condition::encode(&self.networks.vae.encoder, pixels);
        }
        let recent = self.recent.as_ref().expect("a later segment has a film before it");
        Ok(recent.slice0(recent.dim(0) - count..recent.dim(0)))
    }

    /// Takes a denoised window into the film: dumps, frames, drift, checkpoint.
    fn take_in(
        &mut self,
        segment: &Segment,
        window: Tensor,
        observer: &mut dyn Observer,
    ) -> Result<(), FilmError> {
        let first = if segment.index == 0 { 0 } else { segment.prefix_latents };
        let added = window.slice0(first..segment.film_latents());
        if let Some(file) = self.appended.get_mut(LATENTS) {
            file.write_f32(added.data()).map_err(FilmError::io("write", LATENTS))?;
        }
        if segment.index == 0 {
            self.begin_film(observer)?;
        }
        match self.plan.request().carry {
            Carry::Latents => {
                let skip = match self.plan.request().start {
                    // The video's own frames are already in the film.
                    StartFrom::Video(_) if segment.index == 0 => {
                        pixel_frame(segment.prefix_latents)
                    }
                    _ => 0,
                };
                let mut state = std::mem::take(&mut self.decoder_state);
                self.decode(&added, &mut state, skip as usize, 0)?;
                self.decoder_state = state;
            }
            Carry::Pixels => {
                let skip = match self.plan.request().start {
                    StartFrom::Image(_) if segment.index == 0 => 0,
                    _ => pixel_frame(segment.prefix_latents),
                };
                let film = window.slice0(0..segment.film_latents());
                let undumped = if segment.index == 0 { 0 } else { skip };
                let state = &mut VaeDecoderState::new();
                self.decode(&film, state, skip as usize, undumped as usize)?;
            }
        }
        self.remember(&added);
        self.progress.latents += added.dim(0);
        self.progress.next_segment = segment.index + 1;
        self.end_part(segment, observer)
    }

    /// Opens the film's file and, when a video is extended, puts the video's frames into it.
    fn begin_film(&mut self, observer: &mut dyn Observer) -> Result<(), FilmError> {
        self.writer = Some(FilmWriter::create(&self.outputs.film, &self.options)?);
        let plan = self.plan.clone();
        let request = plan.request();
        let StartFrom::Video(path) = &request.start else {
            return Ok(());
        };
        observer.event(Event::Stage { what: "copying the video that is extended".into() });
        for frame in VideoReader::open(path, &VideoOptions::default())? {
            let (frame, _) = fit_frame(&frame?, request)?;
            if request.carry == Carry::Pixels {
                self.remember_pixels(&to_tensor(std::slice::from_ref(&frame)));
            }
            self.put(frame)?;
        }
        // The look of the video is no segment's; the first segment still has its seam measured.
        self.meter =
            DriftMeter::resume(&self.meter.state(), self.meter.last_frame().map(<[u8]>::to_vec));
        Ok(())
    }

    /// Decodes latents as a continuation of `state`, a slice at a time. The first `skip` frames do not
    /// go into the film, the first `undumped` ones not into the dump, which holds what the dumped
    /// latents decode to.
    fn decode(
        &mut self,
        latents: &Tensor,
        state: &mut VaeDecoderState,
        mut skip: usize,
        mut undumped: usize,
    ) -> Result<(), FilmError> {
        // Out of `self` for the call: the sink writes to everything else of it.
        let networks = self.networks;
        networks.vae.decoder.decode_each(latents, state, VAE_BUDGET_BYTES, |frames| {
            let dropped = |count: &mut usize| {
                let dropped = (*count).min(frames.dim(0));
                *count -= dropped;
                dropped
            };
            self.dump_frames(&frames, dropped(&mut undumped))?;
            match dropped(&mut skip) {
                0 => self.write_frames(&frames),
                first => self.write_frames(&frames.slice0(first..frames.dim(0))),
            }
        })
    }

    /// Adds decoded frames `[F, H, W, 3]` in [-1, 1] from frame `first` on to the dump, when there is
    /// one.
    fn dump_frames(&mut self, frames: &Tensor, first: usize) -> Result<(), FilmError> {
        let Some(file) = self.appended.get_mut(FRAMES) else {
            return Ok(());
        };
        let frame_len = frames.shape()[1..].iter().product::<usize>();
        let values: Vec<f32> =
            frames.data()[first * frame_len..].iter().map(|&v| unit(v)).collect();
        file.write_f32(&values).map_err(FilmError::io("write", FRAMES))?;
        self.progress.dumped_frames += (frames.dim(0) - first) as u64;
        Ok(())
    }

    /// Writes decoded frames `[F, H, W, 3]` in [-1, 1].
    fn write_frames(&mut self, frames: &Tensor) -> Result<(), FilmError> {
        let (height, width) = (frames.dim(1), frames.dim(2));
        for frame in frames.data().chunks_exact(height * width * 3) {
            let rgb = frame.iter().map(|&v| (unit(v) * 255.0).round() as u8).collect();
            self.put(Frame::new(width as u32, height as u32, rgb)?)?;
        }
        if self.plan.request().carry == Carry::Pixels {
            self.remember_pixels(frames);
        }
        Ok(())
    }

    /// Keeps the frames `[F, H, W, 3]` that the next segment's prefix needs.
    fn remember_pixels(&mut self, added: &Tensor) {
        let keep = pixel_count(self.plan.history_latents());
        let all = match &self.recent_pixels {
            Some(before) => Tensor::concat0(&[before, added]),
            None => added.clone(),
        };
        let count = all.dim(0);
        self.recent_pixels = Some(all.slice0(count.saturating_sub(keep)..count));
    }

    /// One frame into drift meter, contact sheet and file.
    fn put(&mut self, frame: Frame) -> Result<(), FilmError> {
        self.meter.push(frame.width() as usize, frame.rgb());
        if let Some(file) = self.appended.get_mut(SHEET)
            && self.progress.frames.is_multiple_of(sheet_step(self.plan.request()))
        {
            file.write(frame.rgb()).map_err(FilmError::io("write", SHEET))?;
        }
        self.writer.as_mut().expect("begin_film opened it").push(&frame)?;
        self.progress.frames += 1;
        Ok(())
    }

    /// Keeps the latents that the next segment's prefix and a resumed decoder need.
    fn remember(&mut self, added: &Tensor) {
        let receptive = self.networks.vae.decoder.receptive_latents();
        let keep = self.plan.history_latents().max(receptive);
        let all = match &self.recent {
            Some(recent) => Tensor::concat0(&[recent, added]),
            None => added.clone(),
        };
        let count = all.dim(0);
        self.recent = Some(all.slice0(count.saturating_sub(keep)..count));
    }

    /// Makes the segment durable: film, dumps, then the checkpoint that counts on them.
    fn end_part(
        &mut self,
        segment: &Segment,
        observer: &mut dyn Observer,
    ) -> Result<(), FilmError> {
        let writer = self.writer.as_mut().expect("begin_film opened it");
        let part = writer.end_part()?;
        self.progress.writer = serde_json::to_value(&part.state)
            .map_err(|e| FilmError::io("describe", &self.outputs.film)(e.into()))?;
        let drift = self.meter.finish_segment(segment.index);
        if let Some(drift) = &drift {
            let mut line = serde_json::to_string(drift)
                .map_err(|e| FilmError::io("describe", DRIFT)(e.into()))?;
            line.push('\n');
            let file = self.appended.get_mut(DRIFT).expect("opened in new");
            file.write(line.as_bytes()).map_err(FilmError::io("write", DRIFT))?;
        }
        for (name, file) in &mut self.appended {
            let length = file.sync().map_err(FilmError::io("write", *name))?;
            self.progress.lengths.insert((*name).to_owned(), length);
        }
        self.progress.drift = self.meter.state();
        self.progress.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        // After the last segment too: another film may go on from there.
        let checkpoint = self
            .checkpoint()
            .save(&self.folder)
            .map_err(FilmError::io("write a checkpoint in", &self.folder))?;
        let request = self.plan.request();
        observer.event(Event::Part {
            segment: segment.index,
            frames: self.progress.frames,
            film_seconds: self.progress.frames as f64 / f64::from(request.fps),
            preview: self.preview(segment)?,
            checkpoint: self.outputs.checkpoints.then(|| checkpoint.display().to_string()),
        });
        if let Some(drift) = drift {
            observer.event(Event::Drift(drift.clone()));
            self.last_drift = Some(drift);
        }
        Ok(())
    }

    fn preview(&self, segment: &Segment) -> Result<Option<String>, FilmError> {
        let (true, Some(rgb)) = (self.outputs.previews, self.meter.last_frame()) else {
            return Ok(None);
        };
        let request = self.plan.request();
        let frame = Frame::new(request.width as u32, request.height as u32, rgb.to_vec())?;
        let path = self.folder.join(format!("preview-{:06}.png", segment.index));
        write_png(&path, &frame, None)?;
        Ok(Some(path.display().to_string()))
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut tensors = Vec::new();
        if let Some(recent) = &self.recent {
            tensors.push(("recent_latents".to_owned(), recent.clone()));
        }
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
    fn close(mut self, stopped: bool) -> Result<Outcome, FilmError> {
        let mut outcome = Outcome {
            film: self.outputs.film.clone(),
            frames: self.progress.frames,
            stopped,
            seconds: self.started.elapsed().as_secs_f64(),
            reused_steps: self.progress.reused_steps,
            drift: None,
            last_drift: self.last_drift.take(),
        };
        if stopped {
            // The file is whole up to its last part; the writer is dropped without finishing, so
            // that resume can go on from there.
            return Ok(outcome);
        }
        if let Some(writer) = self.writer.take() {
            outcome.frames = writer.finish()?.frames;
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
        if let (Some(file), Some(path)) = (self.appended.remove(SHEET), &self.outputs.contact_sheet)
        {
            drop(file);
            self.write_sheet(path)?;
        }
        if let Some(file) = self.appended.remove(DRIFT) {
            let path = self.outputs.drift_path();
            drop(file);
            self.write_drift(&path)?;
            outcome.drift = Some(path);
        }
        // What makes it a run goes first: a kill in the middle of this leaves no unfinished run.
        let run_file = RunFile::path(&self.folder);
        fs::remove_file(&run_file).map_err(FilmError::io("remove", &run_file))?;
        fs::remove_dir_all(&self.folder).map_err(FilmError::io("remove", &self.folder))?;
        Ok(outcome)
    }

    fn write_drift(&self, path: &Path) -> Result<(), FilmError> {
        let raw = self.folder.join(DRIFT);
        let text = fs::read_to_string(&raw).map_err(FilmError::io("read", &raw))?;
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let json = format!("{{\"segments\":[\n{}\n]}}\n", lines.join(",\n"));
        write_atomic(path, json.as_bytes())?;
        Ok(())
    }

    fn write_sheet(&self, path: &Path) -> Result<(), FilmError> {
        let raw = self.folder.join(SHEET);
        let request = self.plan.request();
        let (width, height) = (request.width, request.height);
        let size = width * height * 3;
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
            .map(|rgb| Frame::new(width as u32, height as u32, rgb))
            .collect::<Result<Vec<_>, _>>()?;
        write_png(path, &contact_sheet(&frames, 8)?, None)?;
        Ok(())
    }
}

/// How the film's file is written.
pub fn film_options(request: &FilmRequest, outputs: &Outputs) -> FilmOptions {
    let rate = FrameRate::whole(request.fps);
    let mut options = FilmOptions::new(request.width as u32, request.height as u32, rate);
    options.codec = outputs.encoding.codec;
    options.crf = outputs.encoding.crf;
    options
}

/// Every how many frames one goes to the contact sheet.
fn sheet_step(request: &FilmRequest) -> u64 {
    match request.length {
        crate::request::Length::Frames(frames) => frames.div_ceil(SHEET_FRAMES as u64).max(1),
        crate::request::Length::Endless => u64::from(request.fps),
    }
}

/// From the decoder's [-1, 1] to [0, 1].
fn unit(v: f32) -> f32 {
    (v * 0.5 + 0.5).clamp(0.0, 1.0)
}

/// The first pixel frame of latent frame `latent`: 0, 1, 5, 9, ...
pub(crate) fn pixel_frame(latent: usize) -> u64 {
    match latent {
        0 => 0,
        n => 4 * (n as u64 - 1) + 1,
    }
}

/// Pixel frames of `latents` latent frames that begin a clip.
fn pixel_count(latents: usize) -> usize {
    if latents == 0 { 0 } else { 4 * (latents - 1) + 1 }
}
