//! Forwards whose blocks a GPU replays give what they give without that, in every bit, over the steps of a film:
//! with other latents and timesteps each time, with guidance in a batch and apart, behind kept keys, with keys left
//! out, and around a step cache. The second device here starts every kernel by itself.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Fixture, OnHost, areas, assert_same_bits, noise};
use longreel_kernels::gpu::{Arg, Driver, Element, Gpu, GpuError, Launch, WeightPlan};
use longreel_kernels::{Device, Pairs, Tensor};
use longreel_models::{
    AttentionWindow, ContextOptions, ForwardOptions, SparseAttention, SplitContext,
    SplitTransformer, Transformer,
};
use longreel_shim::{Shim, Watch, Watched};

const FRAMES: usize = 6;
const SIZE: [usize; 2] = [6, 4];

/// What a device was asked for.
#[derive(Debug, Default)]
struct Asked {
    launches: BTreeMap<&'static str, usize>,
    allocations: usize,
    uploads: Vec<usize>,
    downloads: Vec<usize>,
}

#[derive(Default)]
struct Watcher(Mutex<Asked>);

impl Watcher {
    fn with<T>(&self, body: impl FnOnce(&mut Asked) -> T) -> T {
        body(&mut self.0.lock().expect("no panic"))
    }

    /// Since the last look.
    fn take(&self) -> Asked {
        self.with(std::mem::take)
    }
}

impl Watch for Watcher {
    fn alloc(&self, _: usize) {
        self.with(|asked| asked.allocations += 1);
    }

    fn upload(&self, bytes: &[u8]) {
        self.with(|asked| asked.uploads.push(bytes.len()));
    }

    fn download(&self, bytes: usize) {
        self.with(|asked| asked.downloads.push(bytes));
    }

    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        self.with(|asked| *asked.launches.entry(launch.kernel).or_default() += 1);
        shim.launch(launch, args)
    }
}

/// A network on a device.
struct On {
    gpu: Arc<Gpu>,
    watcher: Arc<Watcher>,
    model: SplitTransformer,
}

impl On {
    /// `None`, said aloud, without a compiler.
    fn new(name: &str, replays: bool) -> Option<Self> {
        let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let watcher = Arc::<Watcher>::default();
        let gpu = Gpu::new(Box::new(Watched::new(shim, watcher.clone())), Element::Bf16);
        gpu.set_replays(replays);
        let fixture = Fixture::open(name);
        let model = Transformer::load(&fixture.config(), fixture.source()).expect(name);
        let model = model.on(&Device::Gpu(gpu.clone()));
        let model = SplitTransformer::new(vec![model]).expect("one device");
        Some(Self { gpu, watcher, model })
    }

    /// One that replays, and one that does not.
    fn both(name: &str) -> Option<[Self; 2]> {
        Some([Self::new(name, true)?, Self::new(name, false)?])
    }

    /// Two prompts.
    fn contexts(&self) -> [SplitContext; 2] {
        [7, 3].map(|tokens| self.context(tokens))
    }

    fn context(&self, tokens: usize) -> SplitContext {
        let config = self.model.config();
        let image = config.image_dim.map(|width| noise(4, &[5, width]));
        let text = noise(tokens as u64, &[tokens, config.text_dim]);
        let options = ContextOptions { padded_tokens: 12 };
        self.model.context(&text, image.as_ref(), &options).expect("a context")
    }

    /// Of a step.
    fn latents(&self, step: usize, frames: usize) -> Tensor {
        noise(50 + step as u64, &[frames, self.model.config().in_channels, SIZE[0], SIZE[1]])
    }

    fn replayed(&self) -> usize {
        self.gpu.tally().replayed
    }
}

fn options(causal_block: Option<usize>, window: Option<AttentionWindow>) -> ForwardOptions {
    ForwardOptions {
        fps: Some(24),
        causal_block,
        attention_window: window,
        answer_from: 0,
        sparse: None,
    }
}

/// Of a step: one for all frames, or a wave of blocks.
fn timesteps(step: usize, wave: bool) -> Vec<f32> {
    let of = |frame: usize| match wave {
        false => 999.0 - 150.0 * step as f32,
        true => 700.0 - 120.0 * step as f32 + 100.0 * (frame / 2) as f32,
    };
    (0..FRAMES).map(of).collect()
}

const STEPS: usize = 5;

/// The velocities of all steps: each with both contexts one after the other, and as a batch.
fn steps(on: &On, wave: bool, options: &ForwardOptions) -> Vec<Tensor> {
    let contexts = on.contexts();
    let [cond, uncond] = contexts.each_ref();
    let run = |step: usize| {
        let (latents, timesteps) = (on.latents(step, FRAMES), timesteps(step, wave));
        let of = |contexts: &[&SplitContext]| {
            on.model.forward(&latents, &timesteps, contexts, options).expect("runs").on_host()
        };
        [of(&[cond]), of(&[uncond]), of(&[cond, uncond])].concat()
    };
    (0..STEPS).flat_map(run).collect()
}

#[test]
fn steps_that_are_replayed_are_the_plain_ones_in_every_bit() {
    let window = Some(AttentionWindow { before: 1, sink: 1 });
    for (name, wave, options) in [
        ("transformer_df", false, options(None, None)),
        ("transformer_df", true, options(Some(2), None)),
        ("transformer_df", true, options(Some(2), window)),
        ("transformer_df", true, ForwardOptions { answer_from: 2, ..options(Some(2), None) }),
        ("transformer_i2v", false, options(None, None)),
    ] {
        let Some([replaying, plain]) = On::both(name) else { return };
        let what = format!("{name}, {options:?}");
        let found = steps(&replaying, wave, &options);
        let expected = steps(&plain, wave, &options);
        for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_same_bits(&format!("{what}, velocity {n}"), found, expected);
        }
        assert!(found[0] != found[4], "{what}: steps without effect");
        // Plain, captured, and replayed; of each context and of both together.
        assert_eq!(replaying.replayed(), 3 * (STEPS - 2), "{what}: {:?}", replaying.gpu.tally());
        assert_eq!(plain.gpu.tally().captured, 0);
    }
}

#[test]
fn a_step_asks_for_no_memory_and_beside_its_graph_for_few_kernels() {
    let Some(on) = On::new("transformer_df", true) else { return };
    let contexts = on.contexts();
    let contexts: Vec<_> = contexts.iter().collect();
    let mut asked = Vec::new();
    for step in 0..STEPS {
        let latents = on
            .latents(step, FRAMES)
            .into_device(&Device::Gpu(on.gpu.clone()))
            .expect("room")
            .into_kept();
        let timesteps = timesteps(step, true);
        on.watcher.take();
        on.model.forward(&latents, &timesteps, &contexts, &options(Some(2), None)).expect("runs");
        asked.push(on.watcher.take());
    }
    let kernels = |asked: &Asked| asked.launches.values().sum::<usize>();
    let whole = kernels(&asked[0]);
    for asked in &asked[2..] {
        assert_eq!(asked.allocations, 0, "{asked:?}");
        // The timesteps' angles, and a row for the frame rate.
        assert_eq!(asked.uploads.len(), 2, "{asked:?}");
        assert!(asked.downloads.is_empty(), "velocities stay where they are: {asked:?}");
        // Patches and what the timesteps become before, the head behind; none of a block's.
        let own = ["patchify_f32_f32", "unpatchify_f32_f32", "activate_f32", "add_row_f32_f32"];
        assert!(own.iter().all(|kernel| asked.launches.contains_key(kernel)), "{asked:?}");
        let of_blocks = ["rms_norm_rope", "attention", "gate_residual"];
        let mut launched = asked.launches.keys();
        assert!(!launched.any(|kernel| of_blocks.iter().any(|of| kernel.starts_with(of))));
        assert!(kernels(asked) <= 24 && whole > 3 * kernels(asked), "{whole} in all, {asked:?}");
    }
}

#[test]
fn rows_behind_kept_keys_are_replayed_until_others_are_kept() {
    let Some([replaying, plain]) = On::both("transformer_i2v") else { return };
    let options = options(Some(2), Some(AttentionWindow { before: 1, sink: 0 }));
    let rows = |on: &On| {
        let contexts = on.contexts();
        let contexts: Vec<_> = contexts.iter().collect();
        let mut caches = [on.model.new_cache(0), on.model.new_cache(0)];
        let mut velocities = Vec::new();
        // Some steps behind the history, one that finishes a block, some behind it, and some of the same
        // shape when the history is seen no more.
        let keeps = [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        for (row, keep) in keeps.into_iter().enumerate() {
            if row == 9 {
                caches.iter_mut().for_each(|cache| cache.forget(0..2));
            }
            let first = caches[0].next_frame();
            let latents = on.latents(row, FRAMES - first);
            let timesteps = timesteps(row / 3, true);
            let mut caches: Vec<_> = caches.iter_mut().collect();
            let made = on
                .model
                .forward_after(&mut caches, keep, &latents, &timesteps, &contexts, &options)
                .expect("runs")
                .on_host();
            velocities.extend(made);
        }
        velocities
    };
    let (found, expected) = (rows(&replaying), rows(&plain));
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_same_bits(&format!("velocity {n}"), found, expected);
    }
    assert_eq!(replaying.replayed(), 2 + 1 + 1, "{:?}", replaying.gpu.tally());
}

#[test]
fn a_step_cache_keeps_its_residuals_beside_replayed_steps() {
    let Some([replaying, plain]) = On::both("transformer_df") else { return };
    let options = options(None, None);
    let rows = |on: &On| {
        let contexts = on.contexts();
        let mut residuals = [None, None];
        let mut velocities = Vec::new();
        for step in 0..8 {
            let latents = on.latents(step, FRAMES);
            for (context, residual) in contexts.iter().zip(&mut residuals) {
                let mut pass =
                    on.model.begin(&latents, &timesteps(step / 2, false), &options).expect("fits");
                match residual {
                    Some(residual) if step % 3 == 2 => pass.add_residual(residual).expect("fits"),
                    residual => {
                        *residual = None;
                        let kept = pass.run_blocks_keeping_residuals(&[context]).expect("runs");
                        *residual = kept.into_iter().next();
                    }
                }
                velocities.extend(pass.finish().expect("ends").on_host());
            }
        }
        velocities
    };
    let (found, expected) = (rows(&replaying), rows(&plain));
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_same_bits(&format!("velocity {n}"), found, expected);
    }
    // Six of eight steps are computed.
    assert_eq!(replaying.replayed(), 2 * (6 - 2), "{:?}", replaying.gpu.tally());
}

#[test]
fn another_prompt_is_never_answered_by_the_graph_of_one_that_is_gone() {
    let Some([replaying, plain]) = On::both("transformer_df") else { return };
    let options = options(None, None);
    let velocities = |on: &On| {
        let run = |tokens: usize| {
            // Where the one before was.
            let context = on.context(tokens);
            let run = |step: usize| {
                let (latents, timesteps) = (on.latents(step, FRAMES), timesteps(step, false));
                on.model
                    .forward(&latents, &timesteps, &[&context], &options)
                    .expect("runs")
                    .on_host()
            };
            (0..4).flat_map(run).collect::<Vec<_>>()
        };
        [5, 5, 6, 5].map(run).concat()
    };
    let (found, expected) = (velocities(&replaying), velocities(&plain));
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_same_bits(&format!("velocity {n}"), found, expected);
    }
    assert_eq!(replaying.replayed(), 4 * 2, "{:?}", replaying.gpu.tally());
}

/// What is left out is chosen anew each time, by the values of that time; which tokens see all is part of a graph.
#[test]
fn steps_that_leave_keys_out_are_replayed_with_the_choice_of_their_own_values() {
    let Some([replaying, plain]) = On::both("transformer_df") else { return };
    let sparse = Some(SparseAttention { mass: 0.3, dense_above: 600.0 });
    let options = ForwardOptions { sparse, ..options(Some(2), None) };
    // Of two blocks of two frames, the second one behind: all see all, then some, then nobody.
    let rows = [950.0, 850.0, 750.0, 580.0, 560.0, 540.0, 400.0, 300.0, 200.0];
    /// The velocity, how often a choice was started by itself, and what was kept.
    type Step = (Tensor, usize, Pairs);
    let steps = |on: &On| -> Vec<Step> {
        let context = on.context(7);
        let mut before = Pairs::default();
        let run = |(step, first): (usize, f32)| {
            let latents = areas(step as u64, [4, on.model.config().in_channels, 16, 20]);
            let timesteps = [first, first, first + 80.0, first + 80.0];
            on.watcher.take();
            let made = on.model.forward(&latents, &timesteps, &[&context], &options);
            let choices = on.watcher.take().launches.get("keep_blocks").copied().unwrap_or(0);
            let pairs = on.model.pairs().expect("no failure");
            let since = pairs - std::mem::replace(&mut before, pairs);
            (made.expect("runs").on_host().remove(0), choices, since)
        };
        rows.into_iter().enumerate().map(run).collect()
    };
    let (found, expected) = (steps(&replaying), steps(&plain));
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_same_bits(&format!("step {n}"), &found.0, &expected.0);
        assert_eq!(found.2, expected.2, "step {n}: replayed work counts too");
    }
    let seen: Vec<_> = expected.iter().map(|step| step.2.seen).collect();
    assert!(seen[..3] == [0; 3] && seen[3] > 0 && seen[6] > seen[3], "{seen:?}");
    assert!(expected[6..].iter().all(|(_, _, pairs)| pairs.kept < pairs.seen), "{expected:?}");
    assert!(expected[6..].iter().any(|(_, _, pairs)| *pairs != expected[6].2), "one choice");
    // Each kind of row is plain, captured, and replayed.
    assert_eq!(replaying.replayed(), 3, "{:?}", replaying.gpu.tally());
    let choices = |steps: &[Step]| steps.iter().map(|step| step.1).collect::<Vec<_>>();
    let layers = replaying.model.config().num_layers - 1;
    let (none, each) = ([0; 3], [layers; 3]);
    assert_eq!(choices(&expected), [none, each, each].concat());
    assert_eq!(choices(&found), [none, [layers, layers, 0], [layers, layers, 0]].concat());
}

/// What a row of a stream gives, and what the device was asked for.
type Streamed = (Vec<Tensor>, Asked);

/// Rows of a stream of causal blocks, each in so many steps: the first one of a block runs the finished one before it
/// once more, and keeps it.
fn stream(on: &On, blocks: usize, steps: usize) -> Vec<Streamed> {
    const BLOCK: usize = 2;
    let window = AttentionWindow { before: 1, sink: 1 };
    let contexts = on.contexts();
    let contexts: Vec<_> = contexts.iter().collect();
    let options = options(Some(BLOCK), Some(window));
    let most = BLOCK * (window.before + window.sink + 1);
    let mut caches = [(); 2].map(|()| on.model.new_cache(most));
    let mut rows = Vec::new();
    for row in 0..blocks * steps {
        let (block, step) = (row / steps, row % steps);
        let keep = if block > 0 && step == 0 { BLOCK } else { 0 };
        let mut timesteps = vec![0.0; block * BLOCK];
        timesteps.extend([900.0 - 200.0 * step as f32; BLOCK]);
        let latents = on.latents(row, BLOCK + keep);
        on.watcher.take();
        let mut both: Vec<_> = caches.iter_mut().collect();
        let made = on
            .model
            .forward_after(&mut both, keep, &latents, &timesteps, &contexts, &options)
            .expect("runs")
            .on_host();
        rows.push((made, on.watcher.take()));
        let near = (block * BLOCK).saturating_sub(window.before * BLOCK);
        let held = caches[0].held_frames();
        let gone = block * BLOCK - held;
        let sink = (window.sink * BLOCK).min(held);
        let hidden = sink..near.saturating_sub(gone).max(sink);
        caches.iter_mut().for_each(|cache| cache.forget(hidden.clone()));
    }
    rows
}

/// Kernels that were started by themselves.
fn kernels((_, asked): &Streamed) -> usize {
    asked.launches.values().sum()
}

#[test]
fn rows_of_a_stream_are_replayed_whichever_block_they_are_of() {
    let Some([replaying, plain]) = On::both("transformer_df") else { return };
    let (blocks, steps) = (7, 4);
    let [found, expected] = [&replaying, &plain].map(|on| stream(on, blocks, steps));
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        for (found, expected) in found.0.iter().zip(&expected.0) {
            assert_same_bits(&format!("row {n}"), found, expected);
        }
    }
    // What begins and ends a row, from the second block on that finds the window full.
    let (whole, beside) = (kernels(&expected[0]), kernels(&found[steps - 1]));
    assert!(4 * beside < whole && expected.iter().all(|row| kernels(row) == whole));
    for (n, row) in found.iter().enumerate().skip(5 * steps + 1) {
        assert_eq!((kernels(row), row.1.allocations), (beside, 0), "row {n}");
    }
    assert_eq!(replaying.gpu.tally().refused, None);
}

/// On a device that has room for a part of the weights.
#[test]
fn rows_of_a_stream_are_replayed_while_weights_come_for_each_of_them() {
    let Some([replaying, plain]) = On::both("transformer_df") else { return };
    let (blocks, steps) = (7, 3);
    let expected = stream(&plain, blocks, steps);
    let resident = plain.gpu.bytes().1 / 6;
    let plan = WeightPlan { resident, places: WeightPlan::PLACES, place: 1 << 12 };
    replaying.gpu.plan_weights(plan);
    let found = stream(&replaying, blocks, steps);
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        for (found, expected) in found.0.iter().zip(&expected.0) {
            assert_same_bits(&format!("row {n}"), found, expected);
        }
    }
    let last = found.len() - steps;
    for (n, (row, resident)) in found.iter().zip(&expected).enumerate().skip(last) {
        let (uploads, without) = (row.1.uploads.len(), resident.1.uploads.len());
        assert!(uploads > without + WeightPlan::PLACES, "row {n}: {uploads}, {without} without");
        assert_eq!(row.1.allocations, 0, "row {n}");
        assert!(4 * kernels(row) < kernels(resident), "row {n}: {:?}", row.1.launches);
    }
    let tally = replaying.gpu.tally();
    assert!(tally.refused.is_none() && tally.replayed >= 2 * steps, "{tally:?}");
}

/// A film whose prompt changes, on a device that has room for a part of the weights: those of a prompt come with it and to
/// the places of others, which have their own weights there again for the passes behind it.
#[test]
fn prompts_that_change_between_passes_leave_their_bits_and_what_is_replayed_alone() {
    for name in ["transformer_df", "transformer_i2v"] {
        let Some([replaying, plain]) = On::both(name) else { return };
        let options = options(None, None);
        // A negative prompt for all segments, and another prompt for each.
        let film = |on: &On| {
            let negative = on.context(3);
            let mut made = Vec::new();
            let (mut of_prompts, mut of_steps) = (Vec::new(), Vec::new());
            for segment in 0..4 {
                let brought = on.gpu.brought_bytes();
                let context = on.context(5 + segment);
                of_prompts.push(on.gpu.brought_bytes() - brought);
                for step in 0..STEPS {
                    let brought = on.gpu.brought_bytes();
                    let (latents, timesteps) = (on.latents(step, FRAMES), timesteps(step, false));
                    for context in [&context, &negative] {
                        let velocity = on.model.forward(&latents, &timesteps, &[context], &options);
                        made.extend(velocity.expect("runs").on_host());
                    }
                    of_steps.push(on.gpu.brought_bytes() - brought);
                }
            }
            (made, of_prompts, of_steps)
        };
        let (expected, of_prompts, of_steps) = film(&plain);
        assert!(of_prompts.iter().chain(&of_steps).all(|bytes| *bytes == 0), "all stay");
        let resident = plain.gpu.bytes().1 / 4;
        let plan = WeightPlan { resident, places: WeightPlan::PLACES, place: 1 << 12 };
        replaying.gpu.plan_weights(plan);
        let (found, of_prompts, of_steps) = film(&replaying);
        for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_same_bits(&format!("{name}, pass {n}"), found, expected);
        }
        assert!(of_prompts[1..].iter().all(|bytes| *bytes > 0), "{of_prompts:?}");
        // Each segment's steps but for the first, which finds a prompt's weights in the places.
        let steady = of_steps[STEPS - 1];
        for (n, &bytes) in of_steps.iter().enumerate().filter(|(n, _)| n % STEPS > 0) {
            assert!(n < STEPS || bytes == steady, "{name}: {bytes} in step {n}, {steady}");
        }
        // The negative prompt's passes are replayed from segment to segment: each prompt is captured once, and what came
        // to other places when the first prompt changed once more.
        let tally = replaying.gpu.tally();
        assert_eq!(tally.refused, None, "{name}");
        assert!(tally.captured <= 1 + 4 + 2, "{name}: {tally:?}");
    }
}
