//! Guidance at some noise levels: which rows take the second pass, and what that makes of a film.

use std::path::{Path, PathBuf};

use longreel_film::{
    CacheChoice, Engine, EngineOptions, Event, FilmRequest, Length, Outputs, StopSignal,
};

fn engine() -> Engine {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models");
    Engine::open(&EngineOptions::new(models.join("df"))).expect("a model")
}

/// Six steps of one segment, at sigmas from 1 to about 0.6.
fn request(engine: &Engine, interval: &str) -> FilmRequest {
    let mut request = engine.defaults(false).expect("defaults").request("a red circle");
    (request.width, request.height) = (64, 48);
    (request.length, request.base_num_frames) = (Length::Frames(9), 9);
    (request.steps, request.guidance_scale, request.seed) = (6, 4.0, 7);
    request.guidance_interval = interval.parse().expect("an interval");
    request
}

/// Passes and rows of the plan, and the latents of its film.
fn film(request: &FilmRequest) -> (usize, usize, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine();
    let plan = engine.plan(request).expect("a plan");
    let dump: PathBuf = folder.path().join("latents.safetensors");
    let outputs = Outputs {
        dump_latents: Some(dump.clone()),
        ..Outputs::new(folder.path().join("film.mp4"))
    };
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");
    let summary = plan.summary();
    (summary.forwards, summary.rows, std::fs::read(dump).expect("latents"))
}

#[test]
fn rows_outside_the_interval_take_one_pass_and_count_as_one() {
    let engine = engine();
    let (always, rows, guided) = film(&request(&engine, "0..1"));
    assert_eq!(always, 2 * rows);
    let mut off = request(&engine, "0..1");
    off.guidance_scale = 1.0;
    let (passes, _, unguided) = film(&off);
    assert_eq!(passes, rows);
    // No row lies as low as that.
    let (passes, _, never) = film(&request(&engine, "0..0.01"));
    assert_eq!(passes, rows);
    assert!(never == unguided, "guidance where there is none");
    for interval in ["0.9..1", "0..0.9"] {
        let (passes, _, film) = film(&request(&engine, interval));
        assert!(passes > rows && passes < always, "{interval}: {passes} passes of {rows} rows");
        assert!(film != guided && film != unguided, "{interval} without effect");
    }
}

/// A cache answers for a pass from what that pass gave in a row before.
#[test]
fn a_step_cache_has_what_it_answers_with_when_guidance_begins_or_ends_on_the_way() {
    let engine = engine();
    for interval in ["0..0.8", "0.8..1", "0.6..0.9"] {
        let mut request = request(&engine, interval);
        (request.steps, request.cache) = (16, CacheChoice::EasyCache { threshold: 2.0 });
        let (passes, rows, _) = film(&request);
        assert!(passes > rows, "{interval}");
    }
}

/// Frames of an asynchronous timetable are at different noise levels in one row.
#[test]
fn frames_of_a_row_are_guided_each_by_its_own_noise_level() {
    let engine = engine();
    let lagging = |interval| {
        let mut request = request(&engine, interval);
        request.ar_step = 3;
        request
    };
    let (always, rows, guided) = film(&lagging("0..1"));
    let (passes, _, early) = film(&lagging("0.9..1"));
    assert!(passes > rows && passes < always, "{passes} of {always} passes in {rows} rows");
    assert!(early != guided, "without effect");
}
