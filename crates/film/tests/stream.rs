//! A causal few-step model makes its film as CausVid and Self Forcing do: block by block, each in a few
//! steps with fresh noise between them, on clean blocks before it.

use std::path::{Path, PathBuf};

use longreel_film::{
    Engine, EngineOptions, Event, FilmRequest, Length, Outputs, SolverChoice, StartFrom, Stop,
    StopSignal,
};
use longreel_kernels::Tensor;
use longreel_models::{
    Context, ContextOptions, ForwardOptions, TextEncoder, Tokenizer, Transformer,
};
use longreel_sampling::{NoiseKey, fill_normal};
use longreel_weights::ModelFolder;
use safetensors::SafeTensors;

const BLOCK: usize = 3;
const SEED: u64 = 41;

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
    (request.base_num_frames, request.overlap_history, request.seed) = (33, 9, SEED);
    request
}

/// The algorithm by itself, every forward over all frames up to the block's end: Huang et al. 2025
/// (arXiv:2506.08009), algorithm 2, and `pipeline/causal_inference.py` of its code.
struct Reference {
    transformer: Transformer,
    context: Context,
}

impl Reference {
    fn open(model: &Path) -> Self {
        let folder = ModelFolder::open(model).expect("a model");
        let tokenizer = Tokenizer::from_dir(folder.tokenizer().expect("it")).expect("a tokenizer");
        let (config, source) = folder.text_encoder().expect("it");
        let encoder = TextEncoder::load(&config, source).expect("an encoder");
        let ids = tokenizer.encode("a red circle", 512).expect("tokens").ids;
        let text = encoder.encode(&ids).expect("an embedding");
        let (config, source) = folder.transformer().expect("it");
        let transformer = Transformer::load(&config, source).expect("a transformer");
        let context = transformer.context(&text, None, &ContextOptions::default());
        Self { context: context.expect("a context"), transformer }
    }

    /// The latents `[9, 16, h, w]` of a segment that begins with `history`.
    fn segment(&self, index: u32, history: Option<&Tensor>) -> Tensor {
        let (h, w) = (4, 6);
        let frame_len = 16 * h * w;
        let options = ForwardOptions { causal_block: Some(BLOCK), ..ForwardOptions::default() };
        let mut film = history.map_or(Vec::new(), |history| history.data().to_vec());
        let mut row = 0;
        for block in film.len() / (BLOCK * frame_len)..3 {
            let frames = block * BLOCK..(block + 1) * BLOCK;
            let noise = |purpose: &dyn Fn(u32) -> NoiseKey| {
                let mut noise = vec![0.0; BLOCK * frame_len];
                for (frame, out) in frames.clone().zip(noise.chunks_exact_mut(frame_len)) {
                    fill_normal(&purpose(frame as u32), 0, out);
                }
                noise
            };
            let mut x = noise(&|frame| NoiseKey::initial(SEED, index, frame));
            let sigma = |step: usize| {
                let s = [1.0f32, 0.75, 0.5, 0.25].get(step).copied().unwrap_or(0.0);
                5.0 * s / (1.0 + 4.0 * s)
            };
            for step in 0..4 {
                let all = [film.as_slice(), &x].concat();
                let latents = Tensor::from_vec(&[frames.end, 16, h, w], all);
                let mut timesteps = vec![0.0; frames.start];
                timesteps.resize(frames.end, 1000.0 * sigma(step));
                let velocity = self
                    .transformer
                    .forward(&latents, &timesteps, &self.context, &options)
                    .expect("a velocity");
                let velocity = &velocity.data()[frames.start * frame_len..];
                let fresh = noise(&|frame| NoiseKey::renoise(SEED, index, frame, row));
                for ((x, v), n) in x.iter_mut().zip(velocity).zip(&fresh) {
                    let clean = *x - sigma(step) * v;
                    *x = (1.0 - sigma(step + 1)) * clean + sigma(step + 1) * n;
                }
                row += 1;
            }
            film.extend(x);
        }
        Tensor::from_vec(&[3 * BLOCK, 16, h, w], film)
    }
}

/// The dumped latents, `[T, C, h, w]`.
fn dumped(path: &Path) -> Tensor {
    let bytes = std::fs::read(path).expect("a dump");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let view = file.tensor("final_latents").expect("named");
    let [_, c, t, h, w] = *view.shape() else { panic!("{:?}", view.shape()) };
    let at = |i: usize| f32::from_le_bytes(view.data()[4 * i..4 * i + 4].try_into().expect("four"));
    let plane = h * w;
    let place = |i: usize| {
        let (frame, channel, pixel) = (i / (c * plane), i / plane % c, i % plane);
        (channel * t + frame) * plane + pixel
    };
    let values = (0..c * t * plane).map(|i| at(place(i))).collect();
    Tensor::from_vec(&[t, c, h, w], values)
}

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

    let reference = Reference::open(&model);
    let first = reference.segment(0, None);
    let second = reference.segment(1, Some(&first.slice0(6..9)));
    let expected = Tensor::concat0(&[&first, &second.slice0(3..9)]);
    let found = dumped(&dump);
    assert_eq!(found.shape(), expected.shape());
    let differences = found.data().iter().zip(expected.data()).map(|(a, b)| (a - b).abs());
    let worst = differences.fold(0.0, f32::max);
    // Nothing but the order of a few products in the solver.
    assert!(worst < 1e-5, "the latents differ by {worst:.1e}");
    let size = found.data().iter().fold(0.0f32, |most, v| most.max(v.abs()));
    assert!(size > 0.1, "the latents are nothing");
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
