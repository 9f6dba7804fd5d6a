//! The tiny models, opened, and what is tried with many kinds of films.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use longreel_film::{
    DeviceChoice, Engine, EngineOptions, Event, FilmRequest, Outputs, Stop, StopSignal,
};

/// A file or folder of the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures").join(name)
}

/// A tiny model on so many processors.
pub fn engine(model: &str, processors: usize) -> Engine {
    let options = EngineOptions {
        device: DeviceChoice::Cpu(processors),
        ..EngineOptions::new(fixture("models").join(model))
    };
    Engine::open(&options).expect("a model")
}

/// A film that is stopped at once behind a step of its second segment, and resumed, is the one that was not,
/// byte for byte.
pub fn assert_goes_on(engine: &mut Engine, request: &FilmRequest, last_step: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let plan = engine.plan(request).expect("a plan");
    let never = StopSignal::default();
    engine.run(&plan, &Outputs::new(at("a.mp4")), &never, &mut |_: Event| {}).expect("a film");
    let stop = StopSignal::default();
    let stopper = stop.clone();
    let mut observer = |event: Event| {
        if matches!(event, Event::Step { segment: 1, step, .. } if step == last_step) {
            stopper.request(Stop::Now);
        }
    };
    let outcome = engine.run(&plan, &Outputs::new(at("b.mp4")), &stop, &mut observer);
    assert!(outcome.expect("a part").stopped);
    engine.resume(&at("b.mp4"), &never, &mut |_: Event| {}).expect("the rest");
    let read = |name: &str| std::fs::read(at(name)).expect("a film");
    assert!(read("b.mp4") == read("a.mp4"), "another film");
}
