//! Films that are larger and smoother than the model makes them.

mod common;

use std::path::Path;

use common::fixture;
use longreel_film::{Engine, EngineOptions, Event, FilmRequest, Finish, Outputs, Stop, StopSignal};
use longreel_media::{VideoOptions, VideoReader};

/// Two segments of 17 and 12 frames.
fn request(engine: &Engine, finish: Finish) -> FilmRequest {
    FilmRequest { steps: 2, finish, ..common::request(engine, [48, 32], 29) }
}

fn frames(film: &Path) -> (Vec<longreel_media::Frame>, Option<f64>) {
    let reader = VideoReader::open(film, &VideoOptions::default()).expect("a film");
    let rate = reader.info().fps;
    (reader.map(|frame| frame.expect("a frame")).collect(), rate)
}

#[test]
fn a_film_has_the_size_and_the_frames_that_were_asked_for_also_after_a_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let mut engine = Engine::open(&EngineOptions::new(fixture("models/df"))).expect("a model");
    let finish = Finish { size: Some([96, 64]), frames: 3 };
    let plan = engine.plan(&request(&engine, finish)).expect("a plan");
    let never = StopSignal::default();
    let outputs = Outputs::new(at("whole.mp4"));
    engine.run(&plan, &outputs, &never, &mut |_: Event| {}).expect("a film");
    let (whole, rate) = frames(&at("whole.mp4"));
    assert_eq!((whole.len(), rate), (28 * 3 + 1, Some(72.0)));
    assert_eq!((whole[0].width(), whole[0].height()), (96, 64));

    // Stopped after the first segment: the frames across the seam are made by the run that goes on.
    let stop = StopSignal::default();
    let stopper = stop.clone();
    let outputs = Outputs::new(at("stopped.mp4"));
    let mut observer = |event: Event| {
        if let Event::Part { .. } = event {
            stopper.request(Stop::AfterSegment);
        }
    };
    assert!(engine.run(&plan, &outputs, &stop, &mut observer).expect("a part").stopped);
    engine.resume(&at("stopped.mp4"), &never, &mut |_: Event| {}).expect("the rest");
    let read = |name: &str| std::fs::read(at(name)).expect("a film");
    assert!(read("stopped.mp4") == read("whole.mp4"), "another film");
}

#[test]
fn a_network_enlarges_otherwise_than_lanczos_and_belongs_to_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let plain = EngineOptions::new(fixture("models/df"));
    let learned = EngineOptions { upscaler: Some(fixture("upscaler/x2.pth")), ..plain.clone() };
    let finish = Finish { size: Some([96, 64]), frames: 1 };
    let never = StopSignal::default();
    let mut films = Vec::new();
    for (name, options) in [("plain.mp4", &plain), ("learned.mp4", &learned)] {
        let mut engine = Engine::open(options).expect("a model");
        let plan = engine.plan(&request(&engine, finish)).expect("a plan");
        engine.run(&plan, &Outputs::new(at(name)), &never, &mut |_: Event| {}).expect("a film");
        films.push(frames(&at(name)).0);
    }
    assert_eq!((films[1].len(), films[1][0].width(), films[1][0].height()), (29, 96, 64));
    assert!(films[0][3].rgb() != films[1][3].rgb(), "the network changed nothing");
    // A run that was begun with it does not go on without it.
    let mut engine = Engine::open(&learned).expect("a model");
    let plan = engine.plan(&request(&engine, finish)).expect("a plan");
    let stop = StopSignal::default();
    stop.request(Stop::AfterSegment);
    engine.run(&plan, &Outputs::new(at("begun.mp4")), &stop, &mut |_: Event| {}).expect("begun");
    let mut other = Engine::open(&plain).expect("a model");
    let refused = other.resume(&at("begun.mp4"), &never, &mut |_: Event| {});
    assert!(refused.expect_err("another engine").to_string().contains("upscaler"));
}

#[test]
fn a_plan_counts_what_finishing_takes_and_blames_it_where_the_rest_fits() {
    let learned = EngineOptions {
        upscaler: Some(fixture("upscaler/x2.pth")),
        ..EngineOptions::new(fixture("models/df"))
    };
    let plain = EngineOptions::new(fixture("models/df"));
    let (large, smooth) = (Some([1920, 1080]), None);
    for (options, size, frames, shown, flag) in [
        (&plain, large, 1, "finish     1920x1080 by Lanczos, ", "--upscale"),
        (&learned, large, 2, "1920x1080 by a network of 2x, 2 frames for each one, ", "--upscale"),
        (&plain, smooth, 4, "finish     4 frames for each one, ", "--interpolate"),
    ] {
        let engine = Engine::open(options).expect("a model");
        let planned = |finish| engine.plan(&request(&engine, finish)).expect("a plan");
        let (with, without) = (planned(Finish { size, frames }), planned(Finish::default()));
        let (summary, added) = (with.summary(), with.summary().finish.clone().expect("finished"));
        assert_eq!(summary.memory_bytes - added.added_bytes, without.summary().memory_bytes);
        assert!(summary.to_string().contains(shown), "{summary}");
        assert!(without.summary().finish.is_none());
        let enough = without.summary().memory_bytes;
        assert_eq!(with.beyond(enough).flag, flag);
        assert_eq!(with.beyond(enough - 1).flag, "--size");
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let engine = Engine::open(&EngineOptions::new(fixture("models/df"))).expect("a model");
    for (size, frames, part) in [
        (Some([97, 64]), 1, "use 98x64"),
        (Some([32, 32]), 1, "frames of 48x32"),
        (Some([9000, 6000]), 1, "at most 8192"),
        (None, 0, "use 1"),
        (None, 9, "use 8"),
    ] {
        let refused = engine.plan(&request(&engine, Finish { size, frames }));
        let message = refused.expect_err("it cannot be").to_string();
        assert!(message.contains(part), "{message}");
    }
    let mut fast = request(&engine, Finish { size: None, frames: 5 });
    fast.fps = 60;
    let message = engine.plan(&fast).expect_err("300 frames a second").to_string();
    assert!(message.contains("use 4"), "{message}");
}
