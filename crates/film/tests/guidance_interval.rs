//! Guidance at some noise levels: which rows take the second pass, and what that makes of a film.

mod common;

use longreel_film::{CacheChoice, Engine, EngineOptions, FilmRequest};

fn engine() -> Engine {
    Engine::open(&EngineOptions::new(common::fixture("models/df"))).expect("a model")
}

/// Six steps of one segment, at sigmas from 1 to about 0.6.
fn request(engine: &Engine, interval: &str) -> FilmRequest {
    let guidance_interval = interval.parse().expect("an interval");
    let request = common::request(engine, [64, 48], 9);
    FilmRequest { base_num_frames: 9, steps: 6, guidance_scale: 4.0, guidance_interval, ..request }
}

/// Passes and rows of the plan, and the latents of its film.
fn film(request: &FilmRequest) -> (usize, usize, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine();
    let (plan, latents) = common::latents(&mut engine, request, folder.path());
    let summary = plan.summary();
    (summary.forwards, summary.rows, latents)
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
