//! Films whose attention leaves out what weighs little.

mod common;

use std::path::Path;

use common::assert_goes_on;
use longreel_film::{
    Engine, EngineOptions, Event, FilmRequest, KvCacheChoice, Outputs, PlanError, StopSignal,
};

/// The demo model's: the tokens of weights at random have little in common, and nothing of them is left out.
fn engine() -> Engine {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    Engine::open(&EngineOptions::new(demo)).expect("a model")
}

/// Segments of 9 latent frames of 36 tokens, of which 3 are history.
fn request(engine: &Engine) -> FilmRequest {
    let request = common::request(engine, [96, 96], 57);
    FilmRequest { base_num_frames: 33, overlap_history: 9, steps: 4, ..request }
}

fn latents(engine: &mut Engine, request: &FilmRequest, folder: &Path) -> Vec<f32> {
    common::values(&common::latents(engine, request, folder).1)
}

/// Whether two films differ by more than what a change of rounding makes of them.
fn differ(a: &[f32], b: &[f32]) -> bool {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
    let off = square(&mut a.iter().zip(b).map(|(a, b)| a - b));
    off > 1e-5 * square(&mut a.iter().copied())
}

#[test]
fn it_changes_the_film_and_all_of_the_weights_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine();
    let mut request = request(&engine);
    let all = latents(&mut engine, &request, folder.path());
    request.sparse_attention = Some(1.0);
    assert!(latents(&mut engine, &request, folder.path()) == all, "1 leaves something out");
    request.sparse_attention = Some(0.3);
    let sparse = latents(&mut engine, &request, folder.path());
    assert!(differ(&sparse, &all), "0.3 leaves nothing out");
    request.sparse_after = Some(0.75);
    let late = latents(&mut engine, &request, folder.path());
    assert!(differ(&late, &all) && differ(&late, &sparse), "the first steps are not heeded");
}

#[test]
fn each_step_tells_what_it_kept_and_the_end_what_all_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine();
    let mut request = request(&engine);
    let told = |engine: &mut Engine, request: &FilmRequest| {
        let plan = engine.plan(request).expect("a plan");
        let outputs = Outputs { overwrite: true, ..Outputs::new(folder.path().join("film.mp4")) };
        let (mut steps, mut done) = (Vec::new(), None);
        let outcome =
            engine.run(&plan, &outputs, &StopSignal::default(), &mut |event: Event| match event {
                Event::Step { kept_share, .. } => steps.push(kept_share),
                Event::Done { kept_share, .. } => done = Some(kept_share),
                _ => {}
            });
        let all = outcome.expect("a film").kept_share;
        assert_eq!(done, Some(all));
        (steps, all)
    };
    assert_eq!(told(&mut engine, &request), (vec![None; 8], None), "nothing is left out");
    request.sparse_attention = Some(0.3);
    // Of four steps the first one sees all.
    let (steps, all) = told(&mut engine, &request);
    assert_eq!(steps.len(), 8);
    for segment in steps.chunks(4) {
        assert_eq!(segment[0], None, "{steps:?}");
        assert!(segment[1..].iter().all(|share| share.is_some_and(|s| s > 0.0 && s < 1.0)));
    }
    let shares: Vec<_> = steps.into_iter().flatten().collect();
    let (least, most) = shares.iter().fold((1.0_f64, 0.0_f64), |(a, b), &s| (a.min(s), b.max(s)));
    let all = all.expect("some are left out");
    assert!(least < most && least < all && all < most, "{all} of all, {shares:?}");
    // The networks count on, and the next film's share is its own.
    request.sparse_attention = Some(0.9);
    let (_, more) = told(&mut engine, &request);
    assert!(more.expect("some are left out") > all, "{more:?}");
}

#[test]
fn a_film_is_the_same_whether_finished_blocks_are_kept_or_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine();
    for (ar_step, window) in [(2, None), (4, None), (4, Some(3))] {
        let mut request = request(&engine);
        (request.ar_step, request.causal_block_size) = (ar_step, Some(3));
        (request.attention_window, request.sparse_attention) = (window, Some(0.3));
        let kept = latents(&mut engine, &request, folder.path());
        request.kv_cache = KvCacheChoice::Off;
        let whole = latents(&mut engine, &request, folder.path());
        assert!(whole == kept, "--ar-step {ar_step}, window {window:?}: another film");
        request.sparse_attention = None;
        let all = latents(&mut engine, &request, folder.path());
        assert!(
            differ(&all, &whole),
            "--ar-step {ar_step}, window {window:?}: nothing is left out"
        );
    }
}

#[test]
fn a_film_goes_on_after_a_stop_as_if_there_had_been_none() {
    let mut engine = engine();
    let mut request = request(&engine);
    request.sparse_attention = Some(0.3);
    assert_goes_on(&mut engine, &request, 2);
}

#[test]
fn a_plan_says_what_it_may_save() {
    let engine = engine();
    let mut request = request(&engine);
    (request.width, request.height) = (640, 512);
    let summary = |request: &FilmRequest| engine.plan(request).expect("a plan").summary().clone();
    let all = summary(&request);
    let offered = all.savings.iter().find(|saving| saving.option == "--sparse-attention 0.9");
    let offered = offered.expect("an offer");
    assert!(offered.time_share < 0.97 && offered.time_share > 0.5, "{offered:?}");
    request.sparse_attention = Some(0.9);
    let sparse = summary(&request);
    assert!(sparse.total_flops < 0.97 * all.total_flops);
    assert!(sparse.savings.iter().all(|saving| !saving.option.starts_with("--sparse")));
    let text = sparse.to_string();
    assert!(text.contains("--sparse-attention 0.9: about"), "{text}");
    assert!(text.contains("assuming that 50% of the keys are kept"), "{text}");
    request.sparse_after = Some(0.75);
    let late = summary(&request);
    assert!(late.total_flops > sparse.total_flops && late.total_flops < all.total_flops);
}

#[test]
fn shares_that_mean_nothing_are_refused_with_the_way_out() {
    let engine = engine();
    let message = |attention: Option<f32>, after: Option<f32>| {
        let mut request = request(&engine);
        (request.sparse_attention, request.sparse_after) = (attention, after);
        match engine.plan(&request) {
            Ok(plan) => panic!("planned: {}", plan.summary()),
            Err(error @ PlanError::Value { .. }) => error.to_string(),
            Err(error) => panic!("{error:?}"),
        }
    };
    for share in [0.0, -1.0, 90.0, f32::NAN] {
        let message = message(Some(share), None);
        assert!(message.contains("--sparse-attention") && message.contains("use 0.9"), "{message}");
    }
    for share in [1.0, -0.1, f32::NAN] {
        let message = message(Some(0.9), Some(share));
        assert!(message.contains("--sparse-after") && message.contains("use 0.25"), "{message}");
    }
    let message = message(None, Some(0.5));
    assert!(message.contains("--sparse-after") && message.contains("--sparse-attention"));
}
