//! Both passes of guidance as one batch: the film is the same, and the plan says what it takes.

mod common;

use std::path::Path;

use common::{engine, fixture};
use longreel_film::{
    CacheChoice, Engine, Event, FilmRequest, GuidanceBatchChoice, KvCacheChoice, Length, Outputs,
    PlanSummary, RunFile, StartFrom, Stop, StopSignal,
};
use longreel_kernels::Device;
use longreel_kernels::gpu::{Element, Gpu};
use longreel_shim::Shim;

/// Two segments with guidance and overlap.
fn request(engine: &Engine) -> FilmRequest {
    FilmRequest { steps: 3, guidance_scale: 4.0, ..common::request(engine, [48, 64], 29) }
}

type Change = Box<dyn Fn(&mut FilmRequest)>;

/// The film's latents, and its plan.
fn latents(
    engine: &mut Engine,
    change: &Change,
    batch: GuidanceBatchChoice,
) -> (Vec<u8>, PlanSummary) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut request = request(engine);
    change(&mut request);
    request.guidance_batch = batch;
    let (plan, latents) = common::latents(engine, &request, folder.path());
    (latents, plan.summary().clone())
}

fn one_piece(request: &mut FilmRequest) {
    (request.length, request.base_num_frames) = (Length::Frames(9), 9);
}

/// Models, devices, and what is asked for.
fn cases() -> Vec<(&'static str, &'static str, usize, Change)> {
    let image = |request: &mut FilmRequest| {
        one_piece(request);
        request.start = StartFrom::Image(fixture("films/df_image/first.png"));
    };
    let causal = |request: &mut FilmRequest| {
        (request.causal_block_size, request.ar_step, request.base_num_frames) = (Some(2), 2, 21);
        request.length = Length::Frames(37);
    };
    let cached = |request: &mut FilmRequest| {
        (request.cache, request.steps) = (CacheChoice::EasyCache { threshold: 0.4 }, 14);
        request.length = Length::Frames(17);
    };
    let interval = |interval: &'static str| {
        move |request: &mut FilmRequest| {
            request.steps = 6;
            request.guidance_interval = interval.parse().expect("an interval");
        }
    };
    vec![
        ("two segments", "df", 1, Box::new(|_| {})),
        ("text", "t2v", 1, Box::new(one_piece)),
        ("an image", "i2v", 1, Box::new(image)),
        ("noise on the history", "df", 1, Box::new(|r| r.addnoise_condition = 20.0)),
        ("a wave behind kept keys", "df", 1, Box::new(causal)),
        (
            "a wave without",
            "df",
            1,
            Box::new(move |r| {
                causal(r);
                // Otherwise the same film as with them.
                (r.kv_cache, r.seed) = (KvCacheChoice::Off, 8);
            }),
        ),
        (
            "kept keys and guidance of early steps",
            "df",
            1,
            Box::new(move |r| {
                causal(r);
                interval("0.9..1")(r);
            }),
        ),
        ("a step cache", "df", 1, Box::new(cached)),
        (
            "a step cache and guidance of early steps",
            "df",
            1,
            Box::new(move |r| {
                cached(r);
                r.guidance_interval = "0.8..1".parse().expect("an interval");
            }),
        ),
        ("guidance of late steps", "df", 1, Box::new(interval("0..0.9"))),
        (
            "strips of the picture",
            "df",
            3,
            Box::new(move |r| {
                cached(r);
                r.seed = 9;
            }),
        ),
    ]
}

#[test]
fn a_film_is_the_same_whether_both_passes_are_a_batch_or_not() {
    let mut films = Vec::new();
    for (name, model, devices, change) in cases() {
        let mut engine = engine(model, devices);
        let (apart, plan) = latents(&mut engine, &change, GuidanceBatchChoice::Off);
        assert_eq!(plan.guidance_batch, None, "{name}");
        let (together, with) = latents(&mut engine, &change, GuidanceBatchChoice::On);
        let batch = with.guidance_batch.unwrap_or_else(|| panic!("{name}: no batch"));
        assert!(together == apart, "{name}: another film");
        assert_eq!((with.forwards, with.rows), (plan.forwards, plan.rows), "{name}");
        assert!(with.memory_bytes - plan.memory_bytes == batch.added_bytes, "{name}: {batch:?}");
        films.push(apart);
    }
    for (i, film) in films.iter().enumerate() {
        assert!(!films[..i].contains(film), "film {i} is as one before it");
    }
}

#[test]
fn the_shims_film_is_the_same_too_and_goes_on_after_a_stop_with_what_it_began_with() {
    let on_shim = || {
        let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let device = Device::Gpu(Gpu::new(Box::new(shim), Element::Bf16));
        Some(engine("df", 1).on(vec![device]))
    };
    let Some(mut engine) = on_shim() else { return };
    let small: Change = Box::new(|r| {
        (r.width, r.height, r.steps) = (32, 32, 2);
        r.causal_block_size = Some(2);
        (r.base_num_frames, r.length) = (13, Length::Frames(21));
    });
    let (apart, _) = latents(&mut engine, &small, GuidanceBatchChoice::Off);
    let (together, _) = latents(&mut engine, &small, GuidanceBatchChoice::On);
    assert!(apart == together, "another film");

    let folder = tempfile::tempdir().expect("a folder");
    let mut request = request(&engine);
    small(&mut request);
    request.guidance_batch = GuidanceBatchChoice::On;
    let plan = engine.plan(&request).expect("a plan");
    let stop = StopSignal::default();
    let stopper = stop.clone();
    let mut observer = |event: Event| {
        if let Event::Part { .. } = event {
            stopper.request(Stop::AfterSegment);
        }
    };
    let film = folder.path().join("film.mp4");
    let dump = folder.path().join("latents.safetensors");
    let outputs = Outputs { dump_latents: Some(dump.clone()), ..Outputs::new(&film) };
    assert!(engine.run(&plan, &outputs, &stop, &mut observer).expect("a part").stopped);
    let run = std::fs::read_to_string(RunFile::path(&outputs.run_folder())).expect("a run");
    assert!(run.contains("\"guidance_batch\": true"), "{run}");
    let mut engine = on_shim().expect("as before");
    engine.resume(&film, &StopSignal::default(), &mut |_: Event| {}).expect("the rest");
    assert!(std::fs::read(dump).expect("latents") == together, "another film");
}

#[test]
fn a_plan_says_what_a_batch_takes_or_why_there_is_none() {
    let plan = |devices: usize, change: &dyn Fn(&mut FilmRequest)| {
        let engine = engine("df", devices);
        let mut request = request(&engine);
        (request.height, request.guidance_batch) = (96, GuidanceBatchChoice::On);
        change(&mut request);
        engine.plan(&request).expect("a plan").summary().clone()
    };
    let together = plan(1, &|_| {});
    // Decoding takes more than two passes of so small a network.
    assert_eq!(together.guidance_batch.expect("a batch").added_bytes, 0);
    let text = together.to_string();
    assert!(text.contains("both passes of a row in one batch, in what decoding takes"), "{text}");

    for (devices, guidance_scale, why) in
        [(2, 4.0, "devices of its own"), (1, 1.0, "without guidance")]
    {
        let apart = plan(devices, &|r| r.guidance_scale = guidance_scale);
        assert_eq!(apart.guidance_batch, None);
        let text = apart.to_string();
        assert!(text.contains("--guidance-batch on: there is no batch") && text.contains(why));
    }
    // On the processor it is not done by itself.
    let auto = plan(1, &|r| r.guidance_batch = GuidanceBatchChoice::Auto);
    assert!(auto.guidance_batch.is_none() && auto.notes.is_empty(), "{:?}", auto.notes);
}
