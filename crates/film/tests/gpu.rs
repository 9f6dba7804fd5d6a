//! Whole films on the GPU's body of the operations, run by the shim.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longreel_film::{
    CacheChoice, Engine, EngineOptions, Event, FilmRequest, GuidanceBatchChoice, Length, Outputs,
    SolverChoice, Stop, StopSignal,
};
use longreel_kernels::Device;
use longreel_kernels::gpu::{Element, Gpu};
use longreel_shim::{Copies, Shim, Watched};

fn engine() -> Engine {
    Engine::open(&EngineOptions::new(common::fixture("models/df"))).expect("a model")
}

fn shim(element: Element) -> Option<Arc<Gpu>> {
    let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    Some(Gpu::new(Box::new(shim), element))
}

fn on_shim(element: Element) -> Option<Engine> {
    Some(engine().on(vec![Device::Gpu(shim(element)?)]))
}

/// Two segments with guidance, overlap and noise on the condition.
fn request(engine: &Engine) -> FilmRequest {
    FilmRequest { steps: 2, guidance_scale: 4.0, ..common::request(engine, [48, 32], 29) }
}

/// Makes the film and gives the file of its latents.
fn latents(engine: &mut Engine, folder: &Path, name: &str) -> Vec<f32> {
    let request = request(engine);
    latents_of(engine, &request, folder, name)
}

fn latents_of(engine: &mut Engine, request: &FilmRequest, folder: &Path, name: &str) -> Vec<f32> {
    let plan = engine.plan(request).expect("a plan");
    let path = folder.join(name).with_extension("safetensors");
    let outputs = Outputs { dump_latents: Some(path.clone()), ..outputs(folder, name) };
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");
    common::values(&std::fs::read(path).expect("latents"))
}

fn outputs(folder: &Path, name: &str) -> Outputs {
    Outputs::new(PathBuf::from(folder).join(name))
}

#[test]
fn a_film_by_the_gpus_body_has_the_latents_of_the_processors() {
    let folder = tempfile::tempdir().expect("a folder");
    let expected = latents(&mut engine(), folder.path(), "cpu.mp4");
    // Two segments of a few steps, each of which begins with what the one before has rounded.
    for (element, allowed) in [(Element::F32, 2e-5), (Element::Bf16, 5e-2)] {
        let Some(mut engine) = on_shim(element) else { return };
        let found = latents(&mut engine, folder.path(), "gpu.mp4");
        let off = expected.iter().zip(&found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let size = expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let distance = (off / size).sqrt();
        println!("{element:?}: {distance:.1e}");
        assert!(found.len() == expected.len() && distance < allowed, "{element:?}: {distance:e}");
    }
}

/// How a film is made, and what its request says of that.
type Way<'a> = (&'a str, &'a dyn Fn(&mut FilmRequest));

/// Two segments, whose decoding gives memory back between them.
#[test]
fn a_film_of_replayed_passes_is_that_of_plain_ones_in_every_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut request = request(&engine());
    request.steps = 4;
    let ways: [Way<'_>; 2] = [
        ("in a batch", &|r| r.guidance_batch = GuidanceBatchChoice::On),
        ("as a wave, pass by pass", &|r| {
            (r.causal_block_size, r.ar_step) = (Some(1), 1);
            r.guidance_batch = GuidanceBatchChoice::Off;
        }),
    ];
    for (what, change) in ways {
        let mut request = request.clone();
        change(&mut request);
        let (Some(replaying), Some(plain)) = (shim(Element::Bf16), shim(Element::Bf16)) else {
            return;
        };
        plain.set_replays(false);
        let film = |gpu: &Arc<Gpu>, name: &str| {
            let mut engine = engine().on(vec![Device::Gpu(gpu.clone())]);
            latents_of(&mut engine, &request, folder.path(), &format!("{name} {what}.mp4"))
        };
        assert!(film(&replaying, "replayed") == film(&plain, "plain"), "{what}: other latents");
        let tally = replaying.tally();
        assert!(
            tally.captured > 0 && tally.replayed >= tally.captured && plain.tally().captured == 0,
            "{what}: {tally:?}"
        );
    }
}

/// With each solver, guidance and step cache.
#[test]
fn latents_stay_on_the_device_while_their_segment_is_denoised() {
    let folder = tempfile::tempdir().expect("a folder");
    let one_segment = Length::Frames(17);
    let few = |renoise| SolverChoice::FewStep { timesteps: vec![999, 700, 400], renoise };
    let ways: [Way<'_>; 5] = [
        ("unipc", &|r| r.guidance_batch = GuidanceBatchChoice::Off),
        ("wave", &|r| {
            (r.causal_block_size, r.ar_step, r.length) = (Some(1), 1, one_segment);
        }),
        ("euler", &|r| (r.solver, r.length) = (SolverChoice::Euler, one_segment)),
        ("renoise", &|r| (r.solver, r.length) = (few(true), one_segment)),
        ("easycache", &|r| {
            (r.cache, r.length) = (CacheChoice::EasyCache { threshold: 0.1 }, one_segment);
        }),
    ];
    for (what, change) in ways {
        let Some(shim) = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
        let copies = Arc::new(Copies::default());
        let gpu = Gpu::new(Box::new(Watched::new(shim, copies.clone())), Element::Bf16);
        let mut engine = engine().on(vec![Device::Gpu(gpu)]);
        let mut request = FilmRequest { steps: 4, ..request(&engine) };
        change(&mut request);
        let plan = engine.plan(&request).expect("a plan");
        let mut rows = 0;
        let mut observer = |event: Event| {
            let Event::Step { step, .. } = event else { return };
            let [to_host, to_device] = copies.take();
            // The first row is preceded by what makes the window, and the networks have come by the second.
            if step < 3 {
                return;
            }
            rows += 1;
            // Sums of a few blocks: whether a velocity is finite, and how far EasyCache finds it from others.
            let sums = if what == "easycache" { 4 } else { 1 };
            assert!(to_host.len() <= sums, "{what}, step {step}: {to_host:?} bytes to the host");
            assert!(to_host.iter().all(|bytes| *bytes <= 64), "{what}, step {step}: {to_host:?}");
            // What is made of the timesteps, and fresh noise, a frame or a block at once.
            let frame = 4 * 16 * (48 / 8) * (32 / 8);
            let most = if what == "renoise" { 5 * frame } else { frame };
            assert!(to_device.iter().all(|bytes| *bytes <= most), "{what}, {step}: {to_device:?}");
        };
        let outputs = outputs(folder.path(), &format!("{what}.mp4"));
        engine.run(&plan, &outputs, &StopSignal::default(), &mut observer).expect("a film");
        assert!(rows >= 1, "{what}: {rows} rows were looked at");
    }
}

#[test]
fn a_stopped_film_goes_on_in_every_byte_on_the_same_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut engine) = on_shim(Element::Bf16) else { return };
    latents(&mut engine, folder.path(), "whole.mp4");
    let plan = engine.plan(&request(&engine)).expect("a plan");
    let stop = StopSignal::default();
    let stopper = stop.clone();
    let mut observer = |event: Event| {
        if let Event::Part { .. } = event {
            stopper.request(Stop::AfterSegment);
        }
    };
    let stopped = outputs(folder.path(), "stopped.mp4");
    assert!(engine.run(&plan, &stopped, &stop, &mut observer).expect("a part").stopped);
    let Some(mut engine) = on_shim(Element::Bf16) else { return };
    let film = folder.path().join("stopped.mp4");
    engine.resume(&film, &StopSignal::default(), &mut |_: Event| {}).expect("the rest");
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a film");
    let frames_of = |film: Vec<u8>| {
        let at = film.windows(4).position(|four| four == b"moof").expect("a fragment");
        film[at..].to_vec()
    };
    assert!(frames_of(read("stopped.mp4")) == frames_of(read("whole.mp4")), "another film");
}
