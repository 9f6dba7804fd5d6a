//! What becomes of a plan whose device cannot be used.

use longreel_kernels::cuda;
use longreel_kernels::gpu::{Element, Gpu};
use longreel_shim::Shim;
use longreel_weights::published_models;

use super::*;
use crate::events::Stop;
use crate::memory::available_memory_bytes;
use crate::request::Length;

/// An engine that takes the processor for a card; `None` on a machine that has one.
fn mistaken() -> Option<Engine> {
    if !cuda::cards().is_empty() {
        println!("skipped: there is a card, which can be used");
        return None;
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
    let mut engine = Engine::open(&EngineOptions::new(model)).expect("a model");
    engine.facts.gpu = Some(crate::GpuFacts {
        name: "a card".into(),
        free_bytes: 80 << 30,
        peak_flops: 1e15,
        peak_8_bit_flops: 2e15,
        link: None,
        host: HostLink::Unknown,
    });
    Some(engine)
}

fn request(engine: &Engine) -> FilmRequest {
    let mut request = engine.defaults(false).expect("defaults").request("a red circle");
    (request.width, request.height, request.length) = (32, 32, Length::Frames(13));
    (request.base_num_frames, request.overlap_history, request.steps) = (9, 5, 1);
    request
}

/// Whether each plan that is told of is for a GPU.
#[derive(Default)]
struct Plans(Vec<bool>);

impl Observer for Plans {
    fn event(&mut self, event: Event) {
        if let Event::Plan(summary) = event {
            self.0.push(summary.gpu.is_some());
        }
    }
}

#[test]
fn a_film_planned_for_a_card_that_cannot_be_used_is_planned_again_for_the_processor() {
    let Some(mut engine) = mistaken() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let plan = engine.plan(&request(&engine)).expect("a plan");
    assert!(plan.summary().gpu.is_some() && plan.summary().expected_seconds < 1e-3);
    let outputs = Outputs::new(folder.path().join("film.mp4"));
    let (mut plans, stop) = (Plans::default(), StopSignal::default());
    stop.request(Stop::AfterSegment);
    engine.run(&plan, &outputs, &stop, &mut plans).expect("a part of a film");
    assert_eq!(plans.0, [true, false], "planned twice");
    // What was planned before is of no use for the next film either.
    let again = engine.plan(plan.request()).expect("a plan");
    assert!(again.summary().gpu.is_none());
    let outputs = Outputs { overwrite: true, ..outputs };
    let mut plans = Plans::default();
    engine.run(&plan, &outputs, &stop, &mut plans).expect("a part of a film");
    assert_eq!(plans.0, [true, false]);
}

#[test]
fn what_the_processor_has_no_memory_for_is_refused_where_it_takes_a_cards_place() {
    let Some(mut engine) = mistaken() else { return };
    if available_memory_bytes().is_none() {
        return println!("skipped: this system does not tell how much memory there is");
    }
    let folder = tempfile::tempdir().expect("a folder");
    // Weights that are the card's alone where there is one.
    engine.facts.transformer_bytes = 1 << 50;
    engine.facts.gpu.as_mut().expect("one").free_bytes = 1 << 60;
    let plan = engine.plan(&request(&engine)).expect("a plan for the card");
    let outputs = Outputs::new(folder.path().join("film.mp4"));
    let never = StopSignal::default();
    let error = engine.run(&plan, &outputs, &never, &mut Plans::default()).expect_err("refused");
    assert!(error.is_bad_input() && error.to_string().contains("of memory"), "{error}");
    assert!(!outputs.run_folder().exists(), "nothing was begun");
}

#[test]
fn a_run_that_goes_on_without_its_card_is_planned_for_the_processor() {
    let Some(mut engine) = mistaken() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let plan = engine.plan(&request(&engine)).expect("a plan");
    let outputs = Outputs::new(folder.path().join("film.mp4"));
    let stop = StopSignal::default();
    stop.request(Stop::AfterSegment);
    engine.run(&plan, &outputs, &stop, &mut Plans::default()).expect("a part of a film");
    let mut another = mistaken().expect("as before");
    let (mut plans, never) = (Plans::default(), StopSignal::default());
    another.resume(&outputs.film, &never, &mut plans).expect("the rest");
    assert_eq!(plans.0, [false]);
}

/// A card that has room for half the weights is asked how fast they come, once, and the plan has its answer.
#[test]
fn how_fast_weights_come_is_measured_where_they_are_brought_again_and_again() {
    let Some(mut engine) = mistaken() else { return };
    // No kernel is compiled.
    let folder = tempfile::tempdir().expect("a folder");
    let Some(shim) = Shim::or_skip(folder.path()) else { return };
    let large = published_models().into_iter().find(|model| model.name.contains("1.3B"));
    let large = ModelFacts::of_published(&large.expect("one"), None).expect("published");
    (engine.facts.transformer, engine.facts.transformer_bytes) =
        (large.transformer, large.transformer_bytes);
    let request = request(&engine);
    let all_stay = engine.plan(&request).expect("a plan");
    let gpu = all_stay.summary().gpu.clone().expect("a card");
    engine = engine.on(vec![Device::Gpu(Gpu::new(Box::new(shim), Element::F32))]);
    let planned = |engine: &mut Engine, free_bytes| {
        engine.facts.gpu.as_mut().expect("a card").free_bytes = free_bytes;
        let plan = engine.plan(&request).expect("a plan");
        let plan = engine.for_devices(&plan, &mut Plans::default()).expect("an answer");
        plan.summary().bringing.clone()
    };
    assert_eq!(planned(&mut engine, 80 << 30), None);
    assert_eq!(engine.facts.gpu.as_ref().expect("a card").host, HostLink::Unknown);
    let half = gpu.least_bytes + gpu.weight_bytes / 2;
    let bringing = planned(&mut engine, half).expect("not all stay");
    assert!(bringing.is_measured && bringing.bytes_per_second > 1e6, "{bringing:?}");
    let again = planned(&mut engine, half).expect("not all stay");
    assert_eq!(again.bytes_per_second, bringing.bytes_per_second, "measured once");
}
