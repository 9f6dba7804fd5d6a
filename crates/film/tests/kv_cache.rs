//! Finished causal blocks that are kept between rows change no bit of a film, and a film whose blocks
//! see a window goes on after a stop as if nothing had been.

mod common;

use std::path::Path;

use common::{assert_goes_on, fixture};

use longreel_film::{
    CacheChoice, Engine, EngineOptions, FilmRequest, KvCacheChoice, Length, PlanError,
    SolverChoice, StartFrom,
};

fn engine() -> Engine {
    Engine::open(&EngineOptions::new(fixture("models/df"))).expect("a model")
}

/// Segments of 9 latent frames in blocks of 3, of which 3 are history.
fn request(engine: &Engine) -> FilmRequest {
    let mut request = common::request(engine, [80, 64], 57);
    (request.base_num_frames, request.overlap_history) = (33, 9);
    (request.steps, request.ar_step, request.causal_block_size) = (4, 2, Some(3));
    request
}

/// The film's latents, and how many of its tokens were computed, as the plan has it.
fn latents(engine: &mut Engine, request: &FilmRequest, folder: &Path) -> (Vec<u8>, Option<f64>) {
    let (plan, latents) = common::latents(engine, request, folder);
    (latents, plan.summary().kv_cache.as_ref().map(|kept| kept.token_share))
}

type Change = Box<dyn Fn(&mut FilmRequest)>;

fn changes() -> Vec<(&'static str, f64, Change)> {
    let interval = |interval: &'static str| -> Change {
        Box::new(|r| r.guidance_interval = interval.parse().expect("an interval"))
    };
    let few = || SolverChoice::FewStep { timesteps: vec![1000, 750, 500, 250], renoise: true };
    vec![
        // What it is about, the most tokens that may be computed, how.
        ("a wave", 0.8, Box::new(|_| {})),
        ("no guidance", 0.8, Box::new(|r| r.guidance_scale = 1.0)),
        ("guidance of early steps", 0.8, interval("0.9..1")),
        ("guidance of late steps", 0.8, interval("0..0.9")),
        ("block after block", 0.5, Box::new(|r| r.ar_step = 4)),
        (
            "frame after frame",
            0.8,
            Box::new(|r| {
                (r.causal_block_size, r.causal_attention) = (Some(1), Some(true));
            }),
        ),
        (
            "all together behind a long history",
            0.95,
            Box::new(|r| {
                (r.ar_step, r.overlap_history) = (0, 21);
            }),
        ),
        ("history with fresh noise", 0.9, Box::new(|r| r.addnoise_condition = 20.0)),
        ("a window", 0.8, Box::new(|r| r.attention_window = Some(3))),
        (
            "a window without a sink",
            0.8,
            Box::new(|r| {
                (r.attention_window, r.attention_sink) = (Some(6), Some(0));
            }),
        ),
        ("Euler", 0.8, Box::new(|r| r.solver = SolverChoice::Euler)),
        (
            "few steps as a stream",
            0.5,
            Box::new(move |r| {
                (r.solver, r.ar_step, r.guidance_scale) = (few(), 4, 1.0);
            }),
        ),
        (
            "a first image inside a block",
            0.8,
            Box::new(|r| {
                r.start = StartFrom::Image(fixture("films/df_image/first.png"));
            }),
        ),
    ]
}

#[test]
fn a_film_is_the_same_whether_finished_blocks_are_kept_or_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine();
    let mut films = Vec::new();
    for (name, most, change) in changes() {
        let mut request = request(&engine);
        change(&mut request);
        let (kept, share) = latents(&mut engine, &request, folder.path());
        assert!(share.is_some_and(|share| share < most), "{name}: {share:?} computed");
        request.kv_cache = KvCacheChoice::Off;
        let (whole, share) = latents(&mut engine, &request, folder.path());
        assert!(share.is_none() && kept == whole, "{name}: another film");
        films.push(whole);
    }
    // Otherwise a setting that is not looked at would be the same too.
    for (i, film) in films.iter().enumerate() {
        assert!(!films[..i].contains(film), "film {i} is as one before it");
    }
}

/// The noise of a history that is kept is the same in every row, and nothing else of the film is.
#[test]
fn a_noised_history_is_kept_when_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = engine();
    let mut request = request(&engine);
    (request.addnoise_condition, request.length) = (20.0, Length::Frames(33));
    let (first, before) = latents(&mut engine, &request, folder.path());
    request.kv_cache = KvCacheChoice::On;
    let (same, _) = latents(&mut engine, &request, folder.path());
    assert!(same == first, "a segment without history has no noise in it");
    request.length = Length::Frames(57);
    let (kept, share) = latents(&mut engine, &request, folder.path());
    assert!(share < before, "{share:?} of the tokens, and {before:?} where nothing was kept");
    request.kv_cache = KvCacheChoice::Off;
    assert!(latents(&mut engine, &request, folder.path()).0 != kept, "the noise is the same");
}

#[test]
fn a_film_with_a_window_goes_on_after_a_stop_as_if_there_had_been_none() {
    let mut engine = engine();
    let mut request = request(&engine);
    (request.ar_step, request.attention_window) = (4, Some(3));
    // In the middle of the second segment, whose kept blocks are lost with it.
    assert_goes_on(&mut engine, &request, 5);
}

#[test]
fn a_plan_says_what_keeping_takes_and_what_options_would_save() {
    let engine = engine();
    let mut request = request(&engine);
    request.ar_step = request.steps;
    let summary = |request: &FilmRequest| engine.plan(request).expect("a plan").summary().clone();
    let kept = summary(&request);
    let of = kept.kv_cache.clone().expect("a cache");
    // Two blocks of three frames, keys and values of 20 tokens in all layers and both passes.
    let config = &engine.facts().transformer;
    let values = 6 * 20 * 2 * config.dim() * config.num_layers * 2;
    assert_eq!((of.frames, of.bytes), (6, 4 * values as u64));
    let text = kept.to_string();
    assert!(text.contains("kv cache") && text.contains("6 finished latent frames"), "{text}");

    request.kv_cache = KvCacheChoice::Off;
    let whole = summary(&request);
    assert!(whole.memory_bytes >= kept.memory_bytes - of.bytes);
    assert!(whole.kv_cache.is_none() && whole.tokens > kept.tokens);
    assert!(whole.total_flops > 1.1 * kept.total_flops);
    let offers = |summary: &longreel_film::PlanSummary, flag: &str| {
        summary.savings.iter().any(|saving| saving.option.starts_with(flag))
    };
    assert!(offers(&whole, "--kv-cache auto") && !offers(&kept, "--kv-cache"));

    (request.base_num_frames, request.length) = (129, Length::Frames(129));
    request.overlap_history = 9;
    let long = summary(&request);
    assert!(offers(&long, "--attention-window 9"), "{:?}", long.savings);
    request.attention_window = Some(9);
    let narrow = summary(&request);
    assert!(narrow.total_flops < long.total_flops && !offers(&narrow, "--attention-window"));
}

#[test]
fn what_cannot_be_kept_is_refused_with_the_way_out() {
    let engine = engine();
    let message = |change: &dyn Fn(&mut FilmRequest)| {
        let mut request = request(&engine);
        change(&mut request);
        match engine.plan(&request) {
            Ok(plan) => panic!("planned: {}", plan.summary()),
            Err(error @ PlanError::Value { .. }) => error.to_string(),
            Err(error) => panic!("{error:?}"),
        }
    };
    let frames_see_all = |request: &mut FilmRequest| {
        (request.causal_block_size, request.ar_step) = (None, 0);
        (request.base_num_frames, request.overlap_history) = (33, 9);
    };
    type Case<'a> = (&'a dyn Fn(&mut FilmRequest), &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
        (&|r| r.attention_window = Some(2), &["--attention-window 2", "blocks of 3", "use 3"]),
        (&|r| r.attention_window = Some(7), &["--attention-window 7", "use 6 or 9"]),
        (&|r| r.attention_sink = Some(3), &["--attention-sink 3", "--attention-window"]),
        (
            &|r| (r.attention_window, r.attention_sink) = (Some(3), Some(4)),
            &["--attention-sink 4", "use 3 or 6"],
        ),
        (
            &|r| {
                frames_see_all(r);
                r.attention_window = Some(3);
            },
            &["--attention-window 3", "--causal-block-size"],
        ),
        (
            &|r| {
                frames_see_all(r);
                r.kv_cache = KvCacheChoice::On;
            },
            &["--kv-cache on", "block-causal", "--causal-block-size"],
        ),
        (
            &|r| (r.causal_attention, r.kv_cache) = (Some(false), KvCacheChoice::On),
            &["--kv-cache on", "block-causal"],
        ),
        (
            &|r| {
                r.kv_cache = KvCacheChoice::On;
                r.cache = CacheChoice::EasyCache { threshold: 0.1 };
            },
            &["--kv-cache on", "--easycache"],
        ),
    ];
    for (change, parts) in cases {
        let message = message(change);
        for part in parts {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }
    // Left to itself it is only not used.
    let mut request = request(&engine);
    request.cache = CacheChoice::EasyCache { threshold: 0.1 };
    assert!(engine.plan(&request).expect("a plan").summary().kv_cache.is_none());
}
