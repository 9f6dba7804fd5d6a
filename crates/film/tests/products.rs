//! Films with products of fewer bits: what the plan says of them, and that nothing else about a film changes.

mod common;

use std::path::Path;

use common::fixture;
use longreel_film::{
    DeviceChoice, Engine, EngineOptions, Event, FilmError, FilmRequest, GuidanceBatchChoice,
    Outputs, RunFile, Stop, StopSignal, resume,
};
use longreel_kernels::Isa;
use longreel_weights::WeightDtype;

fn options(dtype: Option<WeightDtype>) -> EngineOptions {
    let model = fixture("models/df");
    EngineOptions { dtype, device: DeviceChoice::Cpu(1), ..EngineOptions::new(model) }
}

/// Three segments with guidance and overlap.
fn request(engine: &Engine) -> FilmRequest {
    FilmRequest { steps: 3, guidance_scale: 4.0, ..common::request(engine, [48, 32], 41) }
}

fn outputs(folder: &Path) -> Outputs {
    let dump = folder.join("latents.safetensors");
    Outputs { dump_latents: Some(dump), ..Outputs::new(folder.join("film.mp4")) }
}

/// The film's latents and file.
fn made(folder: &Path) -> [Vec<u8>; 2] {
    ["latents.safetensors", "film.mp4"].map(|name| std::fs::read(folder.join(name)).expect(name))
}

fn film(dtype: Option<WeightDtype>, batch: GuidanceBatchChoice) -> [Vec<u8>; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = Engine::open(&options(dtype)).expect("a model");
    let plan = engine.plan(&FilmRequest { guidance_batch: batch, ..request(&engine) });
    let (plan, outputs) = (plan.expect("a plan"), outputs(folder.path()));
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");
    made(folder.path())
}

#[test]
fn a_film_in_fewer_bits_is_another_one_and_the_same_in_a_batch_and_after_a_pause() {
    let plain = film(None, GuidanceBatchChoice::Off);
    for dtype in [WeightDtype::Fp8, WeightDtype::Bf16] {
        let whole = film(Some(dtype), GuidanceBatchChoice::Off);
        assert_ne!(whole[0], plain[0], "{dtype}: nothing was rounded");
        let batch = film(Some(dtype), GuidanceBatchChoice::On);
        assert!(whole[0] == batch[0], "{dtype}: the latents depend on what is beside them");
        goes_on(dtype, &whole);
    }
}

/// A film that was stopped and resumed is `whole`.
fn goes_on(dtype: WeightDtype, whole: &[Vec<u8>; 2]) {
    let folder = tempfile::tempdir().expect("a folder");
    let outputs = outputs(folder.path());
    let mut engine = Engine::open(&options(Some(dtype))).expect("a model");
    let request = FilmRequest { guidance_batch: GuidanceBatchChoice::Off, ..request(&engine) };
    let plan = engine.plan(&request).expect("a plan");
    let stop = StopSignal::default();
    let stopper = stop.clone();
    let mut observer = |event: Event| {
        if let Event::Part { .. } = event {
            stopper.request(Stop::AfterSegment);
        }
    };
    assert!(engine.run(&plan, &outputs, &stop, &mut observer).expect("a part").stopped);
    let run = RunFile::path(&outputs.run_folder());
    let run = std::fs::read_to_string(run).expect("an unfinished run");
    assert!(run.contains(&format!(r#""dtype": "{dtype}""#)), "{run}");
    // Not by a model as its files have it.
    let mut plain = Engine::open(&options(None)).expect("a model");
    let refused = plain.resume(&outputs.film, &StopSignal::default(), &mut |_: Event| {});
    assert!(matches!(refused, Err(FilmError::OtherEngine { .. })), "{:?}", refused.err());
    resume(&outputs.film, None, &StopSignal::default(), &mut |_: Event| {}).expect("the rest");
    assert!(made(folder.path()) == *whole, "{dtype}: resumed in another way");
}

#[test]
fn a_plan_says_what_8_bits_save_and_that_the_film_changes() {
    let plan = |dtype| {
        let engine = Engine::open(&options(dtype)).expect("a model");
        let planned = engine.plan(&request(&engine)).expect("a plan");
        (engine.facts().transformer_bytes, planned.summary().clone())
    };
    let ((full, plain), (fewer, in_8_bits)) = (plan(None), plan(Some(WeightDtype::Fp8)));
    let note = |summary: &longreel_film::PlanSummary| {
        summary.notes.iter().find(|note| note.contains("--dtype fp8")).cloned()
    };
    assert_eq!(note(&plain), None);
    let said = note(&in_8_bits).expect("a note");
    for part in
        [longreel_film::human_bytes(full), longreel_film::human_bytes(fewer), "changes".into()]
    {
        assert!(said.contains(&part), "{part}: {said}");
    }
    // The tiny model is in f32, and most of it is embeddings that stay.
    assert!(fewer < full, "{fewer} of {full}");
    assert!(in_8_bits.memory_bytes < plain.memory_bytes);
}

#[test]
fn a_plan_says_where_bf16_is_multiplied_and_what_it_would_save() {
    let plan = |dtype| {
        let engine = Engine::open(&options(dtype)).expect("a model");
        engine.plan(&request(&engine)).expect("a plan").summary().clone()
    };
    let (plain, bf16) = (plan(None), plan(Some(WeightDtype::Bf16)));
    let offered = plain.savings.iter().find(|saving| saving.option == "--dtype bf16");
    let noted = bf16.notes.iter().any(|note| note.contains("--dtype bf16"));
    let has = Isa::current().has_pairs();
    assert_eq!(noted, has, "as the processor has it");
    // Where both rates are measured beside other programs, it may not seem worth it.
    assert!(offered.is_none() || has, "{offered:?}");
    assert!(offered.is_none_or(|saving| saving.time_share < 1.0));
    assert!(bf16.savings.iter().all(|saving| saving.option != "--dtype bf16"));
}
