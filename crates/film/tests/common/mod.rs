//! The tiny models, opened, and what is tried with many kinds of films.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use longreel_film::{
    DeviceChoice, Engine, EngineOptions, Event, FilmPlan, FilmRequest, Length, Outputs, Stop,
    StopSignal,
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

/// A film of so many frames, 17 in the first segment and 12 in each later one, `size` its width and height.
pub fn request(engine: &Engine, size: [usize; 2], frames: u64) -> FilmRequest {
    let mut request = engine.defaults(false).expect("defaults").request("a red circle");
    [request.width, request.height] = size;
    request.length = Length::Frames(frames);
    (request.base_num_frames, request.overlap_history, request.seed) = (17, 5, 7);
    request
}

/// Makes the film in a folder, in the place of the one that is there; its plan, and the file of its latents.
pub fn latents(engine: &mut Engine, request: &FilmRequest, folder: &Path) -> (FilmPlan, Vec<u8>) {
    let plan = engine.plan(request).expect("a plan");
    let dump = folder.join("latents.safetensors");
    let outputs = Outputs {
        dump_latents: Some(dump.clone()),
        overwrite: true,
        ..Outputs::new(folder.join("film.mp4"))
    };
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");
    (plan, std::fs::read(dump).expect("latents"))
}

/// The values of such a file.
pub fn values(file: &[u8]) -> Vec<f32> {
    // A header and its length come before them.
    let header = u64::from_le_bytes(file[..8].try_into().expect("a length")) as usize;
    let values = file[8 + header..].chunks_exact(4);
    values.map(|four| f32::from_le_bytes(four.try_into().expect("four"))).collect()
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
