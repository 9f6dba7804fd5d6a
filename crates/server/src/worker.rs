//! The worker: a process that holds one model and makes one film at a time, as it is told on stdin.
//!
//! It is a process of its own so that whatever happens to it, from an out-of-memory kill to a fault in
//! a driver, happens to one film and not to the service. It touches nothing but its own folders.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use longreel_film::{
    Change, Engine, EngineOptions, Event, FilmError, Leave, Length, Observer, Outputs, RunFile,
    Stop, StopSignal,
};
use longreel_jobs::{ArtifactKind, ArtifactName, Format};
use serde::Serialize;
use serde_json::Value;

use crate::code::Code;
use crate::own_stdout;
use crate::protocol::{Order, Outcome, Task, Tell};

/// How often a worker says that it is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How often it looks whether another process has let go of a film's folder.
const LOCK_EVERY: Duration = Duration::from_millis(100);
/// How often it looks whether it has to stop while it waits for the order to go on.
const STOP_EVERY: Duration = Duration::from_millis(50);
/// Longest side of the picture that a worker warms up with, in pixels.
const WARM_UP_SIDE: usize = 128;
/// The film's name in a job's folder.
pub(crate) const FILM: &str = "film.mp4";

/// Works until stdin ends or the model turns out to be unusable.
///
/// # Errors
/// When stdin does not begin with the order to start.
pub fn run() -> io::Result<()> {
    let started = Instant::now();
    own_stdout::take();
    let mut first = String::new();
    io::stdin().read_line(&mut first)?;
    let Ok(Order::Start { engine, warm_up }) = serde_json::from_str(&first) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a worker is started by `longreel serve`, which tells it what to do",
        ));
    };
    let (sender, tasks) = mpsc::channel();
    std::thread::spawn(move || obey(io::stdin().lines(), &sender));
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(ALIVE_EVERY);
            tell(&Tell::Alive);
        }
    });
    let (mut engine, is_warm) = match start(&engine, &warm_up) {
        Ok(started) => started,
        Err(error) => {
            tell(&Tell::Ended { outcome: failed(&error) });
            return Ok(());
        }
    };
    tell(&Tell::Ready { seconds: started.elapsed().as_secs_f64(), is_warm });
    work(&mut engine, &tasks);
    Ok(())
}

/// A film to make, and how it is heard of while it is made.
struct Given {
    task: Task,
    stop: StopSignal,
    go_on: Receiver<(u32, Option<Change>)>,
}

/// Reads orders until stdin ends.
fn obey(lines: impl Iterator<Item = io::Result<String>>, tasks: &Sender<Given>) {
    let mut current = StopSignal::default();
    let mut go_on = None;
    for line in lines {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Order::Make(task)) => {
                // A signal of its own for each film, so that an order that comes too late for one
                // does not stop the next.
                current = StopSignal::default();
                let (sender, receiver) = mpsc::channel();
                go_on = Some(sender);
                let given = Given { task: *task, stop: current.clone(), go_on: receiver };
                if tasks.send(given).is_err() {
                    return;
                }
            }
            Ok(Order::GoOn { segment, change }) => {
                // A film that has ended meanwhile needs no leave to go on.
                let _ = go_on.as_ref().map(|go_on| go_on.send((segment, change)));
            }
            Ok(Order::Stop { when }) => current.request(when.into()),
            Ok(Order::Start { .. }) => {}
            Err(error) => tell(&Tell::Warning { message: format!("not an order: {error}") }),
        }
    }
    // Before the sender goes, which ends the wait for leave to go on.
    current.request(Stop::AfterSegment);
}

fn work(engine: &mut Engine, given: &Receiver<Given>) {
    while let Ok(given) = given.recv() {
        let outcome = make(engine, given).unwrap_or_else(|error| failed(&error));
        tell(&Tell::Ended { outcome });
    }
}

/// Opens the model and makes a film of a few frames, so that whoever is told that it is ready does
/// not wait for weights, caches and threads. False with an engine that could not be warmed up.
fn start(options: &EngineOptions, warm_up: &Path) -> Result<(Engine, bool), Box<FilmError>> {
    let mut engine = Engine::open(options)?;
    let mut request = engine.defaults(false)?.request("warm-up");
    request.length = Length::Frames(5);
    request.steps = 1;
    // Every weight is read for a small picture as for a large one.
    request.width = request.width.min(WARM_UP_SIDE);
    request.height = request.height.min(WARM_UP_SIDE);
    // A model that wants an image has none here; it is loaded by its first film.
    let plan = engine.plan(&request);
    let is_warm = plan.is_ok();
    if let Ok(plan) = plan {
        create(warm_up)?;
        let outputs = Outputs { overwrite: true, ..Outputs::new(warm_up.join(FILM)) };
        engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {})?;
        // What a warm-up leaves is of no use to anybody, and the next one takes its place.
        let _ = fs::remove_dir_all(warm_up);
    }
    Ok((engine, is_warm))
}

fn make(engine: &mut Engine, given: Given) -> Result<Outcome, Box<FilmError>> {
    let Given { task, stop, go_on } = given;
    create(&task.folder)?;
    let Some(_lock) = lock(&task.folder, &stop)? else { return Ok(Outcome::Stopped) };
    let film = task.folder.join(FILM);
    let outputs = Outputs {
        previews: true,
        live: true,
        checkpoints: true,
        command: task.command.clone(),
        ..Outputs::new(&film)
    };
    let complete = |reused_steps: usize| Outcome::Complete {
        film: film.clone(),
        drift: outputs.drift_path(),
        sheet: outputs.sheet().map(|sheet| sheet.0).filter(|sheet| sheet.exists()),
        reused_steps: reused_steps as u64,
    };
    let prompts = task.request.prompts.clone();
    let observer = &mut Relay {
        folder: &task.folder,
        journal: outputs.journal_path(),
        segments_done: task.segments_done,
        again: None,
        now: Some(Change { prompts, command: Some(task.command.clone()) }),
        go_on,
        newest: None,
        stop: stop.clone(),
    };
    let outcome = if RunFile::path(&outputs.run_folder()).exists() {
        engine.resume(&film, &stop, observer)?
    } else if film.exists() && outputs.drift_path().exists() {
        // The drift is written after the film is closed and before the run's folder goes: this film
        // was whole when its worker or the server was killed.
        observer.again()?;
        return Ok(complete(0));
    } else {
        let plan = engine.plan(&task.request).map_err(FilmError::from)?;
        let outputs = Outputs { overwrite: true, ..outputs.clone() };
        match &task.beginning {
            Some(beginning) => engine.go_on_from(beginning, &plan, &outputs, &stop, observer)?,
            None => engine.run(&plan, &outputs, &stop, observer)?,
        }
    };
    if !outcome.stopped {
        // There may have been no segment left to make.
        observer.again()?;
    }
    if let Some(Err(error)) = observer.again.take() {
        return Err(error);
    }
    Ok(if outcome.stopped { Outcome::Stopped } else { complete(outcome.reused_steps) })
}

/// Tells the server what a run tells, and before that what it may not have heard of an earlier one;
/// waits for its leave before each segment.
struct Relay<'a> {
    folder: &'a Path,
    journal: PathBuf,
    segments_done: u32,
    /// How it went to tell again, once that is done.
    again: Option<Result<(), Box<FilmError>>>,
    /// What the first segment begins with; the leave for it came with the film.
    now: Option<Change>,
    go_on: Receiver<(u32, Option<Change>)>,
    /// Prompts that came with leave for an earlier segment.
    newest: Option<Change>,
    stop: StopSignal,
}

impl Relay<'_> {
    /// Tells what was not heard, unless that is done.
    fn again(&mut self) -> Result<(), Box<FilmError>> {
        match self.again.replace(Ok(())) {
            None => tell_again(&self.journal, self.folder, self.segments_done, &mut write),
            Some(result) => result,
        }
    }
}

impl Observer for Relay<'_> {
    fn event(&mut self, event: Event) {
        // Now the journal is cut back to the checkpoint from which the film goes on.
        if self.again.is_none() && matches!(event, Event::Segment { .. }) {
            let told = tell_again(&self.journal, self.folder, self.segments_done, &mut write);
            if told.is_err() {
                self.stop.request(Stop::Now);
            }
            self.again = Some(told);
        }
        tell(&keep_checkpoint(event, self.folder));
    }

    fn leave(&mut self, segment: usize, wait: bool) -> Leave {
        if let Some(now) = self.now.take() {
            if segment <= self.segments_done as usize {
                return Leave::Given(Some(now));
            }
            // Segments were made that the server did not hear of, and what it wants may not hold for
            // them. It says so when it does.
            self.newest = Some(now);
        }
        loop {
            let order = if wait {
                self.go_on.recv_timeout(STOP_EVERY)
            } else {
                // A server that is gone has the film stopped soon.
                self.go_on.try_recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match order {
                Ok((of, change)) => {
                    self.newest = change.or(self.newest.take());
                    if of as usize >= segment {
                        return Leave::Given(self.newest.take());
                    }
                }
                Err(RecvTimeoutError::Timeout) if self.stop.get() == Stop::No => {}
                Err(_) => return Leave::NotYet,
            }
        }
    }
}

/// Takes the checkpoint of a segment out of the run's folder, which goes with the end of the film, maybe
/// before the server has looked at it. It gets the name that it is stored by.
fn keep_checkpoint(mut event: Event, folder: &Path) -> Event {
    if let Event::Part { segment, checkpoint: Some(path), .. } = &mut event
        && let Ok(segment) = u32::try_from(*segment)
    {
        let kept = kept_checkpoint(folder, segment);
        // Of an attempt before this one; a link does not take its place.
        let _ = fs::remove_file(&kept);
        // The run goes on from its own; a second name costs nothing.
        let linked = fs::hard_link(path.as_str(), &kept).is_ok();
        if linked || fs::copy(path.as_str(), &kept).is_ok() {
            *path = kept.display().to_string();
        }
    }
    event
}

/// Where the checkpoint of a segment is kept for the server.
fn kept_checkpoint(folder: &Path, segment: u32) -> PathBuf {
    let kind = ArtifactKind::Checkpoint(segment);
    folder.join(ArtifactName { kind, format: Format::Safetensors }.to_string())
}

/// Tells what the journal of a film says of segments from `first` on, and of the look of the one
/// before, which may not have come through. A line is written before its checkpoint, which counts on
/// it, so that it names none: the one that was kept in `folder` is told with it.
///
/// # Errors
/// When the journal cannot be read; no error when there is none.
fn tell_again(
    journal: &Path,
    folder: &Path,
    first: u32,
    tell: &mut dyn FnMut(Vec<u8>),
) -> Result<(), Box<FilmError>> {
    let failed = |cause| Box::new(FilmError::Io { action: "read", path: journal.into(), cause });
    let file = match File::open(journal) {
        Ok(file) => file,
        // A film that was begun before there were journals.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for line in BufReader::new(file).lines() {
        let mut line = line.map_err(failed)?;
        let Ok(mut event) = serde_json::from_str::<Value>(&line) else { continue };
        let segment = event["segment"].as_u64().unwrap_or_default();
        let from = u64::from(first).saturating_sub(u64::from(event["event"] == "drift"));
        if segment < from {
            continue;
        }
        if event["event"] == "part"
            && event["checkpoint"].is_null()
            && let Ok(segment) = u32::try_from(segment)
            && let kept = kept_checkpoint(folder, segment)
            && kept.exists()
        {
            event["checkpoint"] = kept.display().to_string().into();
            line = event.to_string();
        }
        tell(line.into_bytes());
    }
    Ok(())
}

/// Waits until no other process works in a film's folder: a worker whose server was killed finishes
/// its segment first. `None` when it is told to stop meanwhile.
fn lock(folder: &Path, stop: &StopSignal) -> Result<Option<File>, Box<FilmError>> {
    let path = folder.join("lock");
    let failed = |cause| Box::new(FilmError::Io { action: "lock", path: path.clone(), cause });
    let file = File::create(&path).map_err(failed)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if stop.get() != Stop::No => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_EVERY),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
    }
}

fn create(folder: &Path) -> Result<(), Box<FilmError>> {
    let path = folder.to_owned();
    fs::create_dir_all(folder)
        .map_err(|cause| Box::new(FilmError::Io { action: "create", path, cause }))
}

fn failed(error: &FilmError) -> Outcome {
    Outcome::Failed { code: code(error).name().to_owned(), message: error.to_string() }
}

/// The stable name of an error.
fn code(error: &FilmError) -> Code {
    match error {
        error if error.is_disk_full() => Code::DiskFull,
        error if error.is_gpu_memory() => Code::GpuOutOfMemory,
        error if error.gpu().is_some() => Code::GpuFailed,
        FilmError::Plan(_) => Code::InvalidRequest,
        FilmError::Weights(_) | FilmError::Model(_) => Code::ModelUnusable,
        FilmError::NotFinite { .. } => Code::OutputNotFinite,
        FilmError::OtherModel { .. } | FilmError::OtherEngine { .. } => Code::ModelChanged,
        FilmError::Beginning { .. } => Code::BeginningUnusable,
        FilmError::Media(_) | FilmError::Io { .. } => Code::StorageFailed,
        _ => Code::GenerationFailed,
    }
}

/// A server that is gone cannot be told anything; the end of stdin says what to do then.
fn tell(event: &impl Serialize) {
    if let Ok(line) = serde_json::to_vec(event) {
        write(line);
    }
}

fn write(mut line: Vec<u8>) {
    line.push(b'\n');
    let _ = own_stdout::write(&line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Told, When};

    #[test]
    fn the_end_of_stdin_stops_the_film_in_work_after_its_segment() {
        let (sender, tasks) = mpsc::channel();
        let order = |stop: &str| Ok(stop.to_owned());
        let now = serde_json::to_string(&Order::Stop { when: When::Now }).expect("JSON");
        obey([order("not an order")].into_iter(), &sender);
        obey([order(&now)].into_iter(), &sender);
        assert!(tasks.try_recv().is_err(), "there was no film to make");
        let stop = StopSignal::default();
        let folder = tempfile::tempdir().expect("a folder");
        let held = lock(folder.path(), &stop).expect("a lock").expect("nobody has it");
        stop.request(Stop::AfterSegment);
        assert!(lock(folder.path(), &stop).expect("no error").is_none(), "two have one lock");
        drop(held);
        assert!(lock(folder.path(), &stop).expect("no error").is_some());
    }

    #[test]
    fn a_segment_that_is_told_again_has_the_checkpoint_that_was_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = folder.path().join("film.journal");
        let again = |first: u32| {
            let mut told = Vec::new();
            let mut tell = |line: Vec<u8>| {
                let heard: Told = serde_json::from_slice(&line).expect("what a server understands");
                told.push(heard);
            };
            tell_again(&journal, folder.path(), first, &mut tell).expect("readable");
            told
        };
        assert_eq!(again(0), [], "there is no journal");
        let part = |segment: usize| Event::Part {
            segment,
            frames: 33,
            film_seconds: 1.4,
            prompt: "a dog".into(),
            seed: u64::MAX,
            bytes: Some([812, 9000]),
            preview: None,
            checkpoint: None,
        };
        let lines = (0..4).map(|segment| serde_json::to_string(&part(segment)).expect("JSON"));
        let drift = |segment: usize| format!(r#"{{"event":"drift","segment":{segment}}}"#);
        let lines: Vec<_> =
            lines.enumerate().flat_map(|(index, line)| [line, drift(index)]).collect();
        fs::write(&journal, lines.join("\n") + "\n").expect("writable");
        // As it was told when it was made: the worker was ended before the server had heard of it.
        let own = folder.path().join("00000003.checkpoint");
        fs::write(&own, "the state after it").expect("writable");
        let mut told = part(2);
        let Event::Part { checkpoint, .. } = &mut told else { unreachable!("it is one") };
        *checkpoint = Some(own.display().to_string());
        keep_checkpoint(told, folder.path());
        // The run's own goes with the segments after it.
        fs::remove_file(own).expect("it is there");

        let told = again(2);
        assert!(matches!(told[0], Told::Drift(_)), "the look of the one before: {told:?}");
        let kept = kept_checkpoint(folder.path(), 2);
        let checkpoints: Vec<_> = told
            .iter()
            .filter_map(|told| match told {
                Told::Part { segment, seed: u64::MAX, checkpoint, .. } => {
                    Some((*segment, checkpoint))
                }
                _ => None,
            })
            .collect();
        assert_eq!(checkpoints, [(2, &Some(kept.clone())), (3, &None)]);
        assert_eq!(fs::read(kept).expect("it is there"), b"the state after it");
    }
}
