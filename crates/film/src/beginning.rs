//! A film that begins with what another one has made: it goes on from a checkpoint of the other, with
//! another length, or other prompts and seeds from there on.
//!
//! The result is the film that a run with the new request makes from its beginning, byte for byte; the
//! shared segments only need not be made again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use longreel_media::{
    FilmState, FilmWriter, Filter, VideoOptions, VideoReader, read_metadata, resize,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::append::AppendFile;
use crate::checkpoint::{Checkpoint, Written};
use crate::engine::EngineOptions;
use crate::error::{FilmError, PlanError};
use crate::outputs::Outputs;
use crate::plan::{FilmPlan, ModelFacts, plan};
use crate::request::FilmRequest;
use crate::run::{DRIFT, SHEET, film_options, sheet_frame, sheet_step};
use crate::run_file::{Maker, RunFile, adaptation};
use crate::source::sources;

/// What another film leaves to begin with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The other film, finished or not.
    pub film: PathBuf,
    /// Its drift report, or that of an unfinished run, `drift.jsonl`.
    pub drift: PathBuf,
    /// Its checkpoint after the last segment that is shared.
    pub checkpoint: PathBuf,
}

/// Makes the folder of an unfinished run at `outputs` that goes on from `beginning`.
///
/// # Errors
/// A beginning that is not one of the planned film, or cannot be read; a disk that cannot be written.
pub(crate) fn prepare(
    beginning: &Beginning,
    planned: &FilmPlan,
    outputs: &Outputs,
    facts: &ModelFacts,
    engine: &EngineOptions,
    adapters: &[String],
) -> Result<RunFile, FilmError> {
    let request = planned.request();
    let refuse = |problem: String| FilmError::Beginning { path: beginning.film.clone(), problem };
    if outputs.dump_latents.is_some()
        || outputs.dump_frames.is_some()
        || outputs.contact_sheet.is_some()
        || outputs.noise.is_some()
    {
        return Err(refuse(
            "dumps, contact sheets and given noise need the whole film made".into(),
        ));
    }
    let mut checkpoint = Checkpoint::load(&beginning.checkpoint)
        .map_err(|why| FilmError::Beginning { path: beginning.checkpoint.clone(), problem: why })?;
    let made = checkpoint.progress.next_segment;
    let maker = Maker { facts, engine, adapters, film: &outputs.film, given_frames: 0 };
    let given_frames = check_film(beginning, planned, made, maker)?;
    let maker = Maker { given_frames, ..maker };
    let state: FilmState = serde_json::from_value(checkpoint.progress.writer.clone())
        .map_err(|e| refuse(format!("its checkpoint has no place in the film ({e})")))?;

    let folder = outputs.run_folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(FilmError::io("remove", &folder))?;
    }
    fs::create_dir(&folder).map_err(FilmError::io("create", &folder))?;
    copy(&beginning.film, &outputs.film)
        .map_err(FilmError::io("copy the film to", &outputs.film))?;
    let mut options = film_options(request, outputs);
    options.metadata = Some(maker.metadata(request, outputs, &outputs.command));
    let mut writer = FilmWriter::resume(&outputs.film, &options, &state)?;
    writer.write_metadata()?;
    checkpoint.progress.writer = serde_json::to_value(writer.state())
        .map_err(|e| FilmError::io("describe", &outputs.film)(e.into()))?;
    drop(writer);
    let drift = drift_of(&beginning.drift, made)
        .map_err(FilmError::io("read", &beginning.drift))?
        .ok_or_else(|| refuse(format!("its drift report has not {made} segments")))?;
    let mut lengths = HashMap::from([(DRIFT.to_owned(), drift.len() as u64)]);
    let drift_path = folder.join(DRIFT);
    fs::write(&drift_path, &drift)
        .and_then(|()| File::open(&drift_path)?.sync_all())
        .map_err(FilmError::io("write", &drift_path))?;
    if let Some((_, side)) = outputs.sheet() {
        let length = write_sheet(&outputs.film, request, side, &folder.join(SHEET))?;
        lengths.insert(SHEET.to_owned(), length);
    }
    checkpoint.progress.lengths = lengths;
    checkpoint
        .write(&folder)
        .and_then(Written::publish)
        .map_err(FilmError::io("write a checkpoint in", &folder))?;
    let sources = sources(request, &outputs.film, true)?;
    let file = RunFile::begun(planned, maker, sources, outputs);
    // Last: what makes it a run is there when all else is.
    file.write(&folder)?;
    Ok(file)
}

/// Whether the first `made` segments of the film at `beginning` are those of the planned one, as far as
/// the film tells of itself: prompts and seeds are the caller's to keep. Gives the frames of it that its
/// length does not count.
fn check_film(
    beginning: &Beginning,
    planned: &FilmPlan,
    made: usize,
    maker: Maker<'_>,
) -> Result<u64, FilmError> {
    let Maker { facts, engine, adapters, .. } = maker;
    let refuse = |problem: String| FilmError::Beginning { path: beginning.film.clone(), problem };
    let text = read_metadata(&beginning.film)?;
    let told: Value = text
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or_else(|| refuse("it does not tell how it was made".into()))?;
    if told["revision"] != facts.revision {
        return Err(FilmError::OtherModel {
            model: engine.model.clone(),
            began: told["revision"].as_str().unwrap_or("nothing known").to_owned(),
            now: facts.revision.clone(),
        });
    }
    let now = adaptation(engine, adapters);
    if told["adaptation"] != now {
        let began = &told["adaptation"];
        return Err(FilmError::OtherEngine { began: began.to_string(), now: now.to_string() });
    }
    let before: FilmRequest = serde_json::from_value(told["request"].clone())
        .map_err(|e| refuse(format!("it was made by another version ({e})")))?;
    let request = planned.request();
    // What may differ. Pictures are named by their place, which does; the machine may be another one.
    let likened = FilmRequest {
        prompts: request.prompts.clone(),
        length: request.length,
        start: request.start.clone(),
        end_image: request.end_image.clone(),
        guidance_batch: request.guidance_batch,
        ..before.clone()
    };
    if likened != *request {
        return Err(refuse(
            "it was made with other settings; only length, prompts and seeds can change on the way"
                .into(),
        ));
    }
    let shared = plan(&before, facts, false)?.shared_segments(planned);
    if made == 0 || made > shared {
        return Err(refuse(format!(
            "{made} segments of it are to be kept, and {shared} are as those of the new film"
        )));
    }
    if planned.segments().is_some_and(|count| made >= count) {
        return Err(PlanError::value(
            "--num-frames",
            planned.summary().frames.unwrap_or_default(),
            format!("has no segment after the {made} that are kept"),
            "ask for a longer film",
        )
        .into());
    }
    Ok(told["given_frames"].as_u64().unwrap_or(0))
}

/// Copies a film, which may be growing, and makes the copy durable.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

/// Writes what the contact sheet shows of the frames that are taken over, from the film itself: which
/// frames go on it depends on the new length, so that the other film's sheet has not all of them.
/// Returns the length of the file `raw`, in bytes.
fn write_sheet(
    film: &Path,
    request: &FilmRequest,
    side: u32,
    raw: &Path,
) -> Result<u64, FilmError> {
    let [width, height] = sheet_frame(request, side)?;
    // In the file there are also the frames between.
    let step = sheet_step(request).saturating_mul(u64::from(request.finish.frames.max(1)));
    let mut file = AppendFile::open(raw, 0).map_err(FilmError::io("create", raw))?;
    for (index, frame) in (0_u64..).zip(VideoReader::open(film, &VideoOptions::default())?) {
        let frame = frame?;
        if index.is_multiple_of(step) {
            let small = resize(&frame, width, height, Filter::Lanczos)?;
            file.write(small.rgb()).map_err(FilmError::io("write", raw))?;
        }
    }
    file.sync().map_err(FilmError::io("write", raw))?;
    Ok(file.len())
}

/// The lines of the first `made` segments of a drift report; `None` when it has not so many.
fn drift_of(path: &Path, made: usize) -> io::Result<Option<String>> {
    let text = fs::read_to_string(path)?;
    let lines: String = text
        .lines()
        .map(|line| line.trim().trim_end_matches(','))
        .filter(|line| line.starts_with("{\"segment\":"))
        .take(made)
        .map(|line| format!("{line}\n"))
        .collect();
    Ok((lines.lines().count() == made).then_some(lines))
}
