//! Keys of finished blocks that are kept between forwards change no bit of what comes after.

mod common;

use common::{
    Fixture, On, OnHost, areas, assert_close, assert_other, assert_same_bits, devices, noise,
};
use longreel_kernels::{Device, Tensor};
use longreel_models::{
    AttentionWindow, Context, ContextOptions, ForwardOptions, KeyValueCache, SparseAttention,
    Transformer,
};

const BLOCK: usize = 2;
const FRAMES: usize = 10;

struct Setting {
    model: Transformer,
    context: Context,
    options: ForwardOptions,
    latents: Tensor,
    /// Finished, finished, in the middle, not begun: a wave of blocks.
    timesteps: Vec<f32>,
}

fn setting(window: Option<AttentionWindow>, device: &Device) -> Setting {
    let fixture = Fixture::open("transformer_df");
    let model = Transformer::load(&fixture.config(), fixture.source()).expect("a model");
    let model = model.on(device);
    let text = noise(
        3,
        &[7, fixture.config::<serde_json::Value>()["text_dim"].as_u64().unwrap() as usize],
    );
    let context = model.context(&text, None, &ContextOptions::default()).expect("a context");
    let options = ForwardOptions {
        fps: Some(24),
        causal_block: Some(BLOCK),
        attention_window: window,
        answer_from: 0,
        sparse: None,
    };
    let latents = noise(5, &[FRAMES, 16, 6, 4]);
    let timesteps = [0.0, 20.0, 437.0, 800.0, 999.0].into_iter().flat_map(|t| [t; BLOCK]).collect();
    Setting { model, context, options, latents, timesteps }
}

impl Setting {
    fn whole(&self) -> Tensor {
        self.model
            .forward(&self.latents, &self.timesteps, &self.context, &self.options)
            .unwrap()
            .on_host()
    }

    fn after(&self, cache: &mut KeyValueCache, frames: usize, keep: usize) -> Tensor {
        let first = cache.next_frame();
        let latents = self.latents.slice0(first..first + frames);
        let timesteps = &self.timesteps;
        self.model
            .forward_after(cache, keep, &latents, timesteps, &self.context, &self.options)
            .unwrap()
            .on_host()
    }
}

/// In every bit on the processor; on a GPU, whose sums go by tiles of keys, within what is allowed there.
fn assert_same(what: &str, on: &On, ours: &Tensor, expected: &Tensor) {
    match on.device {
        Device::Cpu => assert_same_bits(what, ours, expected),
        Device::Gpu(_) => {
            assert_close(&format!("{what} on {}", on.name), ours, expected, on.tolerance)
        }
    }
}

#[test]
fn frames_behind_kept_ones_are_the_same_in_every_bit() {
    let windows = [None, Some(AttentionWindow { before: 1, sink: 1 })];
    let all = devices();
    for (window, on) in windows.into_iter().flat_map(|w| all.iter().map(move |on| (w, on))) {
        let setting = setting(window, &on.device);
        let whole = setting.whole();
        for (run, kept) in [([4, 6], 4), ([6, 8], 2), ([10, 2], 8), ([2, 2], 2)] {
            let mut cache = KeyValueCache::new(&setting.model, 0);
            let first = setting.after(&mut cache, run[0], kept);
            assert_same("the first frames", on, &first, &whole.slice0(0..run[0]));
            assert_eq!((cache.next_frame(), cache.held_frames()), (kept, kept));
            // Twice, since nothing of it is kept.
            for _ in 0..2 {
                let then = setting.after(&mut cache, run[1], 0);
                assert_same("later frames", on, &then, &whole.slice0(kept..kept + run[1]));
            }
        }
    }
}

#[test]
fn blocks_that_a_window_hides_may_be_forgotten() {
    for on in &devices() {
        let setting = setting(Some(AttentionWindow { before: 1, sink: 1 }), &on.device);
        let whole = setting.whole();
        // With the block that has just been finished.
        let mut cache = KeyValueCache::new(&setting.model, 3 * BLOCK);
        let mut bytes = Vec::new();
        for block in 0..FRAMES / BLOCK {
            let own = setting.after(&mut cache, BLOCK, BLOCK);
            let frames = block * BLOCK..(block + 1) * BLOCK;
            assert_same("a block", on, &own, &whole.slice0(frames));
            if cache.held_frames() > 2 * BLOCK {
                // The next block sees the first one and the one before it.
                cache.forget(BLOCK..cache.held_frames() - BLOCK);
            }
            bytes.push(cache.bytes());
        }
        assert!(bytes[0] > 0 && bytes == [bytes[0]; 5], "memory grows on {}: {bytes:?}", on.name);
    }
}

/// Which keys are left out of a block's attention hangs on what it sees, and on its own timestep.
#[test]
fn blocks_leave_out_the_same_keys_behind_kept_ones() {
    for on in &devices() {
        let window = Some(AttentionWindow { before: 1, sink: 1 });
        // The kernels are the same without one, and slow here.
        let windows = if on.name == "CPU" { &[None, window][..] } else { &[window] };
        for &window in windows {
            let mut setting = setting(window, &on.device);
            setting.latents = areas(5, [FRAMES, 16, 16, 16]);
            let all = setting.whole();
            // The last two blocks see all.
            setting.options.sparse = Some(SparseAttention { mass: 0.3, dense_above: 500.0 });
            let whole = setting.whole();
            assert_other(on.name, &whole, &all);
            let mut cache = KeyValueCache::new(&setting.model, 0);
            for block in 0..FRAMES / BLOCK {
                let own = setting.after(&mut cache, BLOCK, BLOCK);
                let frames = block * BLOCK..(block + 1) * BLOCK;
                assert_same("a block", on, &own, &whole.slice0(frames));
                if window.is_some() && cache.held_frames() > 2 * BLOCK {
                    cache.forget(BLOCK..cache.held_frames() - BLOCK);
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_reason() {
    let setting = setting(None, &Device::Cpu);
    let mut cache = KeyValueCache::new(&setting.model, 0);
    let mut message = |keep: usize, frames: usize, options: &ForwardOptions, size: usize| {
        let latents = noise(1, &[frames, 16, size, 4]);
        let (timesteps, context) = (&[0.0][..], &setting.context);
        match setting.model.forward_after(&mut cache, keep, &latents, timesteps, context, options) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    let causal = setting.options;
    assert!(message(3, 4, &causal, 4).contains("multiple of 2"));
    assert!(message(6, 4, &causal, 4).contains("at most 4"));
    let all = ForwardOptions { causal_block: None, ..causal };
    assert!(message(0, 4, &all, 4).contains("causal"));
    let window = Some(AttentionWindow { before: 1, sink: 0 });
    let narrow = ForwardOptions { attention_window: window, ..all };
    assert!(setting.model.forward(&setting.latents, &[0.0], &setting.context, &narrow).is_err());
    assert_eq!(message(2, 4, &causal, 4), "");
    assert!(message(0, 4, &causal, 6).contains("tokens"));
}
