//! A causal few-step model makes its film as CausVid and Self Forcing do: block by block, each in a few
//! steps with fresh noise between them, on clean blocks before it.

use std::path::{Path, PathBuf};

use longreel_film::{
    Engine, EngineOptions, Event, FilmRequest, Length, Outputs, SolverChoice, StartFrom, Stop,
    StopSignal,
};
use safetensors::SafeTensors;

/// Wan's plain model, said to be distilled.
fn model(folder: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/wan_t2v");
    let to = folder.join("model");
    for part in ["", "transformer", "vae", "text_encoder", "tokenizer", "scheduler"] {
        std::fs::create_dir_all(to.join(part)).expect("a folder");
        for entry in std::fs::read_dir(from.join(part)).expect("a fixture") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.file_name().expect("a name");
                std::fs::copy(&path, to.join(part).join(name)).expect("a copy");
            }
        }
    }
    std::fs::write(to.join("longreel.json"), r#"{"kind": "causal_few_step"}"#).expect("written");
    to
}

/// Segments of 9 latent frames in blocks of 3, of which 3 are history.
fn request(engine: &Engine) -> FilmRequest {
    let mut request = engine.defaults(false).expect("defaults").request("a red circle");
    (request.width, request.height) = (48, 32);
    request.length = Length::Frames(57);
    (request.base_num_frames, request.overlap_history, request.seed) = (33, 9, 41);
    request
}

/// The final latents of a film.
fn latents(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).expect("latents");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = file.tensor("final_latents").expect("named");
    let values = view.data().chunks_exact(4);
    let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    (view.shape().to_vec(), values)
}

/// Recorded by `parity/stream.py`: block after block against a cache, in torch and with diffusers' network.
#[test]
fn a_stream_is_that_of_self_forcings_algorithm() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model(folder.path());
    let mut engine = Engine::open(&EngineOptions::new(&model)).expect("a model");
    let request = request(&engine);
    let few = SolverChoice::FewStep { timesteps: vec![1000, 750, 500, 250], renoise: true };
    assert_eq!((&request.solver, request.ar_step, request.guidance_scale), (&few, 4, 1.0));
    let plan = engine.plan(&request).expect("a plan");
    let text = plan.summary().to_string();
    for part in ["a stream: blocks of 3 latent frames", "computed 4 times", "causal"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let dump = folder.path().join("latents.safetensors");
    let film = folder.path().join("film.mp4");
    let outputs = Outputs { dump_latents: Some(dump.clone()), ..Outputs::new(film) };
    engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {}).expect("a film");

    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/streams");
    let (shape, expected) = latents(&recorded.join("expected.safetensors"));
    let (found_shape, found) = latents(&dump);
    assert_eq!(found_shape, shape);
    let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|v| f64::from(v) * f64::from(v)).sum()
    };
    let apart = square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    let distance = (apart / square(&mut expected.iter().copied())).sqrt();
    // The limit of the recorded films, see `parity/films.py`.
    assert!(distance < 1.5e-5, "relative L2 {distance:.1e}");
}

#[test]
fn a_stream_goes_on_after_a_stop_as_if_there_had_been_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let model = model(folder.path());
    let mut engine = Engine::open(&EngineOptions::new(&model)).expect("a model");
    let plan = engine.plan(&request(&engine)).expect("a plan");
    let never = StopSignal::default();
    engine.run(&plan, &Outputs::new(at("a.mp4")), &never, &mut |_: Event| {}).expect("a film");
    // Between two segments, and between two blocks.
    for (segment, step) in [(0, 12), (1, 5)] {
        let stop = StopSignal::default();
        let stopper = stop.clone();
        let mut observer = |event: Event| match event {
            Event::Step { segment: s, step: n, .. } if (s, n) == (segment, step) => {
                stopper.request(if s == 0 { Stop::AfterSegment } else { Stop::Now });
            }
            _ => {}
        };
        let outputs = Outputs { overwrite: true, ..Outputs::new(at("b.mp4")) };
        assert!(engine.run(&plan, &outputs, &stop, &mut observer).expect("a part").stopped);
        engine.resume(&at("b.mp4"), &never, &mut |_: Event| {}).expect("the rest");
        let read = |name: &str| std::fs::read(at(name)).expect("a film");
        assert!(read("b.mp4") == read("a.mp4"), "another film after a stop in segment {segment}");
    }
}

/// Counted, not timed: what a block costs does not depend on how many are before it.
#[test]
fn a_frame_of_a_stream_costs_the_same_however_long_the_film() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = Engine::open(&EngineOptions::new(model(folder.path()))).expect("a model");
    let mut request = request(&engine);
    (request.attention_window, request.attention_sink) = (Some(6), Some(3));
    let mut flops = |frames: u64, base: usize| {
        (request.length, request.base_num_frames) = (Length::Frames(frames), base);
        let plan = engine.plan(&request).expect("a plan");
        let summary = plan.summary();
        (summary.total_flops, summary.kv_cache.clone().expect("a cache"), summary.tokens)
    };
    // One segment of 7 blocks, of 14, of 21.
    let [a, b, c] = [81, 165, 249].map(|frames| flops(frames, frames as usize));
    let grows = (b.0 - a.0) / (c.0 - b.0);
    assert!((grows - 1.0).abs() < 1e-9, "{grows}");
    assert_eq!((a.1.frames, a.1.bytes, a.2), (b.1.frames, b.1.bytes, b.2));
    // Segment after segment: each has its history to run besides.
    let [a, b, c] = [81 + 72, 81 + 2 * 72, 81 + 3 * 72].map(|frames| flops(frames, 81));
    let grows = (b.0 - a.0) / (c.0 - b.0);
    assert!((grows - 1.0).abs() < 1e-9 && a.1.bytes == c.1.bytes, "{grows}");
}

#[test]
fn a_stream_begins_with_an_image_or_a_video_as_any_film() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut engine = Engine::open(&EngineOptions::new(model(folder.path()))).expect("a model");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/films");
    let mut request = request(&engine);
    request.start = StartFrom::Image(fixtures.join("df_image/first.png"));
    request.length = Length::Frames(33);
    let plan = engine.plan(&request).expect("a plan");
    let outputs = Outputs::new(folder.path().join("image.mp4"));
    let made = engine.run(&plan, &outputs, &StopSignal::default(), &mut |_: Event| {});
    assert_eq!(made.expect("a film").frames, 33);
}
