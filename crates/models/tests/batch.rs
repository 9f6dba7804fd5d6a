//! A batch of samples that differ in their context gives what each of them gives alone, in every bit: a row's
//! sums do not depend on how many rows there are. (A card's library for products may choose another order
//! for another number of rows; the shim has none.)

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{
    OnHost, areas, assert_other, assert_same_bits, contexts, exact_devices, model, noise,
};
use longreel_kernels::gpu::{Element, Gpu, WeightPlan};
use longreel_kernels::{Device, Tensor};
use longreel_models::{
    AttentionWindow, ForwardOptions, SparseAttention, SplitCache, SplitContext, SplitTransformer,
};
use longreel_shim::{Shim, Watch, Watched};

const KINDS: [&str; 5] = [
    "transformer_df",
    "transformer_i2v",
    "transformer_wan_t2v",
    "transformer_wan_i2v",
    "transformer_wan_flf2v",
];
const FRAMES: usize = 6;
const SIZE: [usize; 2] = [6, 4];

fn options(causal_block: usize) -> ForwardOptions {
    ForwardOptions { fps: Some(24), causal_block: Some(causal_block), ..ForwardOptions::default() }
}

fn latents(model: &SplitTransformer) -> Tensor {
    noise(2, &[FRAMES, model.config().in_channels, SIZE[0], SIZE[1]])
}

fn assert_all_same(what: &str, together: &[Tensor], alone: &[Tensor]) {
    assert_eq!(together.len(), alone.len(), "{what}");
    for (sample, (together, alone)) in together.iter().zip(alone).enumerate() {
        assert_same_bits(&format!("{what}, sample {sample}"), together, alone);
    }
    assert!(alone[0] != alone[1], "{what}: contexts without effect");
}

#[test]
fn samples_of_a_batch_are_those_that_are_alone_in_every_bit() {
    let each = [900.0, 500.0, 500.0, 20.0, 0.0, 0.0];
    for (on, device) in exact_devices() {
        // The kernels are the same for all of them, and slow here.
        let kinds = if on == "CPU" { &KINDS[..] } else { &KINDS[..2] };
        for name in kinds {
            let model = model(name, std::slice::from_ref(&device));
            let (contexts, latents) = (contexts(&model), latents(&model));
            let contexts: Vec<_> = contexts.iter().collect();
            let mut seen = Vec::new();
            for (timesteps, block) in [(&each[..1], 1), (&each[..], 1), (&each[..], 2)] {
                let run = |contexts: &[&SplitContext]| {
                    model
                        .forward(&latents, timesteps, contexts, &options(block))
                        .expect("runs")
                        .on_host()
                };
                let alone: Vec<_> = contexts.iter().flat_map(|context| run(&[*context])).collect();
                assert_all_same(&format!("{name} on {on}"), &run(&contexts), &alone);
                assert!(!seen.contains(&alone[0]), "timesteps or blocks without effect");
                seen.extend(alone);
            }
        }
    }
}

/// Each sample leaves out keys of its own.
#[test]
fn samples_of_a_batch_leave_out_what_they_leave_out_alone() {
    for (on, device) in exact_devices() {
        let model = model("transformer_df", std::slice::from_ref(&device));
        let contexts = contexts(&model);
        let contexts: Vec<_> = contexts[..2].iter().collect();
        let latents = areas(2, [4, model.config().in_channels, 16, 20]);
        let run = |contexts: &[&SplitContext], sparse| {
            let options = ForwardOptions { sparse, ..options(2) };
            model.forward(&latents, &[500.0], contexts, &options).expect("runs").on_host()
        };
        let sparse = Some(SparseAttention { mass: 0.3, dense_above: 600.0 });
        let alone: Vec<_> = contexts.iter().flat_map(|context| run(&[*context], sparse)).collect();
        assert_all_same(on, &run(&contexts, sparse), &alone);
        assert_other(on, &run(&contexts[..1], None)[0], &alone[0]);
    }
}

#[test]
fn samples_behind_kept_keys_are_those_that_are_alone_in_every_bit() {
    let timesteps = [0.0, 0.0, 437.0, 437.0, 999.0, 999.0];
    let window = Some(AttentionWindow { before: 1, sink: 0 });
    for (on, device) in exact_devices() {
        for attention_window in [None, window] {
            let model = model("transformer_i2v", std::slice::from_ref(&device));
            let (contexts, latents) = (contexts(&model), latents(&model));
            let options = ForwardOptions { attention_window, ..options(2) };
            let mut caches = [(); 3].map(|()| model.new_cache(0));
            let mut alone_caches = [(); 3].map(|()| model.new_cache(0));
            for (frames, keep) in [(0..2, 0), (0..4, 2), (2..6, 2), (4..6, 0)] {
                let latents = latents.slice0(frames.clone());
                let run = |caches: &mut [SplitCache], contexts: &[&SplitContext]| {
                    let mut caches: Vec<_> = caches.iter_mut().collect();
                    model
                        .forward_after(&mut caches, keep, &latents, &timesteps, contexts, &options)
                        .expect("runs")
                        .on_host()
                };
                let all: Vec<_> = contexts.iter().collect();
                let together = run(&mut caches, &all);
                let alone: Vec<_> = alone_caches
                    .iter_mut()
                    .zip(&contexts)
                    .flat_map(|(cache, context)| run(std::slice::from_mut(cache), &[context]))
                    .collect();
                assert_all_same(&format!("{frames:?} on {on}"), &together, &alone);
                let held =
                    |cache: &SplitCache| (cache.next_frame(), cache.held_frames(), cache.bytes());
                assert!(caches.iter().map(held).eq(alone_caches.iter().map(held)));
            }
        }
    }
}

#[test]
fn a_batch_in_strips_is_the_one_of_one_device_in_every_bit() {
    let timesteps = [0.0, 0.0, 437.0, 437.0, 999.0, 999.0];
    let velocities = |count: usize| {
        let model = model("transformer_df", &vec![Device::Cpu; count]);
        let (contexts, latents) = (contexts(&model), latents(&model));
        let contexts: Vec<_> = contexts.iter().collect();
        let whole =
            model.forward(&latents, &timesteps, &contexts, &options(2)).expect("runs").on_host();
        let mut caches = [(); 3].map(|()| model.new_cache(0));
        let mut caches: Vec<_> = caches.iter_mut().collect();
        let mut after = |frames, keep| {
            let latents = latents.slice0(frames);
            model
                .forward_after(&mut caches, keep, &latents, &timesteps, &contexts, &options(2))
                .expect("runs")
                .on_host()
        };
        [whole, after(0..4, 4), after(4..6, 0)].concat()
    };
    let heads = model("transformer_df", &[Device::Cpu]).config().num_attention_heads;
    assert_all_same(&format!("on {heads}"), &velocities(heads), &velocities(1));
}

#[test]
fn what_blocks_add_is_told_of_each_sample() {
    for (on, device) in exact_devices() {
        let model = model("transformer_df", std::slice::from_ref(&device));
        let (contexts, latents) = (contexts(&model), latents(&model));
        let contexts: Vec<_> = contexts.iter().collect();
        let begin = || model.begin(&latents, &[700.0], &options(1)).expect("begins");
        let run = |contexts: &[&SplitContext]| {
            let mut pass = begin();
            let residuals = pass.run_blocks_keeping_residuals(contexts).expect("runs");
            let reused = residuals.iter().flat_map(|residual| {
                let mut pass = begin();
                assert!(pass.takes(residual));
                pass.add_residual(residual).expect("fits");
                pass.finish().expect("ends").on_host()
            });
            let reused: Vec<_> = reused.collect();
            (pass.finish().expect("ends").on_host(), reused)
        };
        let (together, reused) = run(&contexts);
        let (alone, reused_alone): (Vec<_>, Vec<_>) =
            contexts.iter().map(|context| run(&[*context])).unzip();
        assert_all_same(&format!("computed on {on}"), &together, &alone.concat());
        assert_all_same(&format!("reused on {on}"), &reused, &reused_alone.concat());
    }
}

/// Counts the bytes that a device is given.
#[derive(Default)]
struct Copied(AtomicUsize);

impl Watch for Copied {
    fn upload(&self, bytes: &[u8]) {
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
    }
}

/// The copies to a card are what a batch saves where weights do not fit it.
#[test]
fn weights_that_are_brought_for_each_pass_are_brought_once_for_a_batch() {
    let Some(shim) = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let copied = Arc::new(Copied::default());
    let gpu = Gpu::new(Box::new(Watched::new(shim, copied.clone())), Element::Bf16);
    gpu.plan_weights(WeightPlan { resident: 0, places: WeightPlan::PLACES, place: 1 << 20 });
    let model = model("transformer_df", &[Device::Gpu(gpu)]);
    let (contexts, latents) = (contexts(&model), latents(&model));
    let contexts: Vec<_> = contexts.iter().collect();
    let bytes = |contexts: &[&SplitContext]| {
        let run = || {
            copied.0.store(0, Ordering::Relaxed);
            model.forward(&latents, &[700.0], contexts, &options(1)).expect("runs").on_host();
            copied.0.load(Ordering::Relaxed)
        };
        // The second time the order of the weights is known.
        (run(), run()).1
    };
    let (one, all) = (bytes(&contexts[2..]), bytes(&contexts));
    // Latents and timesteps are the same for all, and beside the weights next to nothing.
    assert!(all as f64 <= 1.05 * one as f64, "{one} bytes for one sample, {all} for three");
}
