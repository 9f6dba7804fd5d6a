//! Films that change on their way, and films that begin with another: each is the film that a run makes
//! which was asked for it from the start.

mod common;

use std::path::{Path, PathBuf};

use longreel_film::{
    Beginning, Change, Engine, EngineOptions, Event, FilmError, FilmRequest, Leave, Length,
    Observer, Outputs, Stop, StopSignal, TimedPrompt,
};
use longreel_weights::WeightDtype;

fn options() -> EngineOptions {
    EngineOptions::new(common::fixture("models/df"))
}

fn timed(from_frame: u64, prompt: &str, seed: Option<u64>) -> TimedPrompt {
    TimedPrompt { from_frame, prompt: prompt.into(), seed }
}

/// 17 frames in the first segment, 12 in each later one.
fn request(engine: &Engine, frames: u64, prompts: &[TimedPrompt]) -> FilmRequest {
    let request = common::request(engine, [48, 32], frames);
    FilmRequest { steps: 3, addnoise_condition: 20.0, prompts: prompts.to_vec(), ..request }
}

/// What a run does while it is watched.
#[derive(Default)]
struct Watcher {
    /// Answers to the question before a segment.
    changes: Vec<(usize, Vec<TimedPrompt>)>,
    /// How often it has no answer yet, unless it is waited for.
    hesitates: usize,
    /// How often it was asked without an answer.
    asked: usize,
    /// Gives no leave for this segment, and stops the film when it is waited for.
    stop_waiting_for: Option<usize>,
    /// Stops in the steps of this segment.
    stop_in: Option<usize>,
    stop: StopSignal,
    /// Where checkpoints are kept.
    keep: Option<PathBuf>,
}

impl Observer for Watcher {
    fn event(&mut self, event: Event) {
        match event {
            Event::Step { segment, .. } if Some(segment) == self.stop_in => {
                self.stop.request(Stop::Now);
            }
            Event::Part { segment, checkpoint: Some(path), .. } => {
                if let Some(keep) = &self.keep {
                    std::fs::copy(path, keep.join(segment.to_string())).expect("a checkpoint");
                }
            }
            _ => {}
        }
    }

    fn leave(&mut self, segment: usize, wait: bool) -> Leave {
        if self.stop_waiting_for == Some(segment) && wait {
            self.stop.request(Stop::AfterSegment);
            return Leave::NotYet;
        }
        self.asked += 1;
        if !wait && self.asked <= self.hesitates || self.stop_waiting_for == Some(segment) {
            return Leave::NotYet;
        }
        self.asked = 0;
        let change = self.changes.iter().find(|(at, _)| *at == segment);
        let change = change.map(|(_, prompts)| Change { prompts: prompts.clone(), command: None });
        Leave::Given(change)
    }
}

fn make(engine: &mut Engine, request: &FilmRequest, film: &Path, watcher: &mut Watcher) -> bool {
    let plan = engine.plan(request).expect("a plan");
    let outputs = Outputs { checkpoints: true, ..Outputs::new(film) };
    let stop = watcher.stop.clone();
    engine.run(&plan, &outputs, &stop, watcher).expect("a film").stopped
}

fn read(film: &Path) -> (Vec<u8>, Vec<u8>) {
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    (read(film), read(&film.with_extension("drift.json")))
}

#[test]
fn a_steered_film_is_the_one_that_was_asked_for_with_these_prompts_also_after_a_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let mut engine = Engine::open(&options()).expect("a model");
    let first = [timed(0, "a red circle", None)];
    let second = [first[0].clone(), timed(17, "a blue square", None)];
    let third = [second[0].clone(), second[1].clone(), timed(41, "a green star", None)];
    let whole = request(&engine, 53, &third);
    make(&mut engine, &whole, &at("asked.mp4"), &mut Watcher::default());
    let expected = read(&at("asked.mp4"));
    let asked = request(&engine, 53, &first);
    make(&mut engine, &asked, &at("plain.mp4"), &mut Watcher::default());
    assert!(read(&at("plain.mp4")) != expected, "the prompts change nothing");

    let changes = vec![(1, second.to_vec()), (3, third.to_vec())];
    let mut watcher = Watcher { changes: changes.clone(), ..Watcher::default() };
    assert!(!make(&mut engine, &asked, &at("steered.mp4"), &mut watcher));
    assert!(read(&at("steered.mp4")) == expected, "steered");

    // An answer that comes after one step, after two, after the last one.
    for hesitates in [1, 2, 9] {
        let changes = changes.clone();
        let mut watcher = Watcher { changes, hesitates, ..Watcher::default() };
        assert!(!make(&mut engine, &asked, &at("late-leave.mp4"), &mut watcher));
        assert!(read(&at("late-leave.mp4")) == expected, "steered after {hesitates} questions");
        std::fs::remove_file(at("late-leave.mp4")).expect("a film");
        std::fs::remove_file(at("late-leave.drift.json")).expect("a report");
    }

    // A segment for which there was no leave is not in the film.
    let mut watcher = Watcher { stop_waiting_for: Some(1), ..Watcher::default() };
    assert!(make(&mut engine, &asked, &at("no-leave.mp4"), &mut watcher));
    let mut watcher = Watcher { changes: changes.clone(), ..Watcher::default() };
    let resumed = engine.resume(&at("no-leave.mp4"), &StopSignal::default(), &mut watcher);
    assert!(!resumed.expect("resumed").stopped);
    assert!(read(&at("no-leave.mp4")) == expected, "stopped without leave, and steered");

    // Stopped in a segment under the second prompt; nobody repeats it when the run goes on.
    let mut watcher = Watcher { changes, stop_in: Some(2), ..Watcher::default() };
    assert!(make(&mut engine, &asked, &at("stopped.mp4"), &mut watcher));
    watcher.changes.remove(0);
    watcher.stop_in = None;
    let resumed = engine.resume(&at("stopped.mp4"), &StopSignal::default(), &mut watcher);
    assert!(!resumed.expect("resumed").stopped);
    assert!(read(&at("stopped.mp4")) == expected, "steered, stopped and resumed");

    // What is made cannot be changed.
    let too_late = vec![timed(0, "a blue square", None)];
    let mut watcher = Watcher { changes: vec![(1, too_late)], ..Watcher::default() };
    let plan = engine.plan(&asked).expect("a plan");
    let refused =
        engine.run(&plan, &Outputs::new(at("late.mp4")), &StopSignal::default(), &mut watcher);
    let message = refused.expect_err("too late").to_string();
    assert!(message.contains("segment 0") && message.contains("from segment 1"), "{message}");
}

#[test]
fn a_film_that_begins_with_another_is_the_one_made_in_one_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let mut engine = Engine::open(&options()).expect("a model");
    let red = [timed(0, "a red circle", None)];
    // The last segment has 4 new frames of the 12 that there is room for.
    let parent = request(&engine, 45, &red);
    let mut watcher = Watcher { keep: Some(folder.path().to_owned()), ..Watcher::default() };
    make(&mut engine, &parent, &at("parent.mp4"), &mut watcher);
    let short = request(&engine, 9, &red);
    std::fs::create_dir(at("short")).expect("a folder");
    let mut watcher = Watcher { keep: Some(at("short")), ..Watcher::default() };
    make(&mut engine, &short, &at("short.mp4"), &mut watcher);
    let full = request(&engine, 17, &red);
    std::fs::create_dir(at("full")).expect("a folder");
    let mut watcher = Watcher { keep: Some(at("full")), ..Watcher::default() };
    make(&mut engine, &full, &at("full.mp4"), &mut watcher);

    let branched = |prompt: &str, seed| vec![red[0].clone(), timed(17, prompt, seed)];
    let of_parent = |segment: &str| ("parent.mp4", segment.to_owned());
    for (what, frames, prompts, (film, checkpoint)) in [
        ("the same again", 45, red.to_vec(), of_parent("1")),
        ("another prompt", 45, branched("a blue square", None), of_parent("0")),
        ("another seed", 45, branched("a red circle", Some(9)), of_parent("0")),
        ("longer, its short last segment made anew", 97, red.to_vec(), of_parent("2")),
        ("shorter", 33, branched("a blue square", Some(9)), of_parent("1")),
        ("longer than one window", 41, red.to_vec(), ("full.mp4", "full/0".to_owned())),
    ] {
        // The segment after the shared ones is the first that may differ.
        let prompts: Vec<_> = match &*checkpoint {
            "1" if prompts.len() > 1 => {
                vec![prompts[0].clone(), TimedPrompt { from_frame: 29, ..prompts[1].clone() }]
            }
            _ => prompts,
        };
        let wanted = request(&engine, frames, &prompts);
        make(&mut engine, &wanted, &at("at-once.mp4"), &mut Watcher::default());
        let plan = engine.plan(&wanted).expect("a plan");
        let film = at(film);
        let beginning = Beginning {
            drift: film.with_extension("drift.json"),
            checkpoint: at(&checkpoint),
            film,
        };
        let outputs = Outputs::new(at("begun.mp4"));
        let mut segments = Vec::new();
        let outcome =
            engine.go_on_from(&beginning, &plan, &outputs, &StopSignal::default(), &mut |e| {
                if let Event::Segment { segment, .. } = e {
                    segments.push(segment);
                }
            });
        assert_eq!(outcome.expect("a film").frames, frames, "{what}");
        assert!(segments[0] > 0, "{what}: {segments:?}");
        assert!(read(&at("begun.mp4")) == read(&at("at-once.mp4")), "{what}: another film");
        for name in ["begun.mp4", "at-once.mp4"] {
            std::fs::remove_file(at(name)).expect("a film");
        }
    }

    let beginning = |film: &str, checkpoint: &str| Beginning {
        film: at(film),
        drift: at(film).with_extension("drift.json"),
        checkpoint: at(checkpoint),
    };
    let mut refused = |beginning: Beginning, request: &FilmRequest| {
        let plan = engine.plan(request).expect("a plan");
        let outputs = Outputs::new(at("refused.mp4"));
        let stop = StopSignal::default();
        let refused = engine.go_on_from(&beginning, &plan, &outputs, &stop, &mut |_: Event| {});
        assert!(!at("refused.mp4").exists(), "something was written");
        refused.expect_err("it cannot begin so").to_string()
    };
    let longer = FilmRequest { length: Length::Frames(97), ..parent.clone() };
    let message = refused(beginning("parent.mp4", "3"), &longer);
    assert!(message.contains("4 segments") && message.contains("3 are"), "{message}");
    let message = refused(beginning("short.mp4", "short/0"), &longer);
    assert!(message.contains("0 are"), "{message}");
    let other = FilmRequest { steps: 4, ..longer.clone() };
    let message = refused(beginning("parent.mp4", "1"), &other);
    assert!(message.contains("other settings"), "{message}");
    let mut bytes = std::fs::read(at("1")).expect("a checkpoint");
    bytes[100] ^= 1;
    std::fs::write(at("damaged"), bytes).expect("writable");
    let message = refused(beginning("parent.mp4", "damaged"), &longer);
    assert!(message.contains("checksum"), "{message}");
}

#[test]
fn a_run_is_not_resumed_with_other_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = folder.path().join("film.mp4");
    let mut engine = Engine::open(&options()).expect("a model");
    let asked = request(&engine, 29, &[timed(0, "a red circle", None)]);
    let mut watcher = Watcher { stop_in: Some(1), ..Watcher::default() };
    assert!(make(&mut engine, &asked, &film, &mut watcher));
    let other = EngineOptions { dtype: Some(WeightDtype::Bf16), ..options() };
    let mut other = Engine::open(&other).expect("a model");
    let stop = StopSignal::default();
    let refused = other.resume(&film, &stop, &mut |_: Event| {}).expect_err("another engine");
    assert!(matches!(refused, FilmError::OtherEngine { .. }), "{refused}");
    for part in ["bf16", "--dtype"] {
        assert!(refused.to_string().to_lowercase().contains(part), "{refused}");
    }
    assert!(!engine.resume(&film, &stop, &mut |_: Event| {}).expect("resumed").stopped);
}

#[test]
fn changed_prompts_hold_from_their_segment_to_the_next_prompt() {
    let engine = Engine::open(&options()).expect("a model");
    // Segments begin at frames 0, 17, 29, 41.
    let prompts = [timed(0, "a", None), timed(20, "b", None), timed(41, "c", Some(3))];
    let plan = engine.plan(&request(&engine, 53, &prompts)).expect("a plan");
    assert_eq!(
        (0..5).map(|s| plan.first_frame(s)).collect::<Vec<_>>(),
        [Some(0), Some(17), Some(29), Some(41), None]
    );
    let changed = |segment, prompt, seed| plan.changed_prompts(&prompts, segment, prompt, seed);
    let [a, b, c] = prompts.clone();
    let x = |frame, seed| timed(frame, "x", seed);
    for (segment, prompt, seed, expected) in [
        (0, Some("x"), None, vec![x(0, None), b.clone(), c.clone()]),
        (1, Some("x"), None, vec![a.clone(), x(17, None), b.clone(), c.clone()]),
        (2, Some("x"), None, vec![a.clone(), x(29, None), c.clone()]),
        (3, Some("x"), None, vec![a.clone(), b.clone(), x(41, Some(3))]),
        (2, Some("a"), None, vec![a.clone(), c.clone()]),
        (2, Some("b"), None, prompts.to_vec()),
        (3, None, Some(3), prompts.to_vec()),
        (2, None, Some(3), vec![a.clone(), timed(29, "b", Some(3)), c.clone()]),
        (2, Some("x"), Some(7), vec![a.clone(), x(29, None), timed(41, "c", None)]),
    ] {
        assert_eq!(changed(segment, prompt, seed), Some(expected), "{segment} {prompt:?} {seed:?}");
    }
    assert_eq!(changed(4, Some("x"), None), None);
}
