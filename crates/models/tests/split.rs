//! A transformer on several devices gives what it gives on one, in every bit: each has a strip of the
//! picture and some of the heads, and every token's sums are the same ones. (A card's library for
//! products may choose another order for another number of rows; the shim has none.)

mod common;

use std::path::Path;
use std::process::Command;

use common::{Fixture, OnHost, TOLERANCE, areas, assert_close, assert_same_bits, distance, noise};
use longreel_kernels::gpu::{Element, Gpu, LinkKind};
use longreel_kernels::{Device, GpuError, Tensor, cuda};
use longreel_models::{
    AttentionWindow, ContextOptions, ForwardOptions, KeyValueCache, ModelError, SparseAttention,
    SplitTransformer, Transformer,
};
use longreel_shim::{Shim, StandInNccl};
use longreel_weights::TransformerConfig;

/// A fixture's network, its width cut into so many heads.
fn model(name: &str, heads: usize) -> Transformer {
    let fixture = Fixture::open(name);
    let mut config: TransformerConfig = fixture.config();
    config.attention_head_dim = config.dim() / heads;
    config.num_attention_heads = heads;
    Transformer::load(&config, fixture.source()).expect(name)
}

fn processors(count: usize) -> Vec<Device> {
    vec![Device::Cpu; count]
}

/// GPUs of their own, with memory of their own; `None`, said aloud, without a compiler.
fn shims(count: usize, compute: Element) -> Option<Vec<Device>> {
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    (0..count).map(|_| Some(Device::Gpu(Gpu::new(Box::new(shim()?), compute)))).collect()
}

/// The same, which reach each other.
fn linked_shims(count: usize, compute: Element, kind: LinkKind) -> Option<Vec<Device>> {
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let linked = |_| Some(Device::Gpu(Gpu::new(Box::new(shim()?.with_link(kind)), compute)));
    (0..count).map(linked).collect()
}

fn on(model: &Transformer, devices: Vec<Device>) -> Result<SplitTransformer, ModelError> {
    SplitTransformer::new(devices.iter().map(|device| model.clone().on(device)).collect())
}

/// What is shown to a model.
struct Shown {
    latents: Tensor,
    timesteps: Vec<f32>,
    text: Tensor,
    image: Option<Tensor>,
    options: ForwardOptions,
}

const CONTEXT: ContextOptions = ContextOptions { padded_tokens: 12 };
/// Latent pixels: five rows of patches, which neither two nor four ranks share evenly.
const SIZE: [usize; 2] = [10, 6];

impl Shown {
    fn new(model: &Transformer, frames: usize, timesteps: &[f32], causal_block: usize) -> Self {
        let config = model.config();
        let image = model.takes_image().then(|| {
            let tokens = config.pos_embed_seq_len.unwrap_or(5);
            noise(4, &[tokens, config.image_dim.expect("a width")])
        });
        Self {
            latents: noise(2, &[frames, model.in_channels(), SIZE[0], SIZE[1]]),
            timesteps: timesteps.to_vec(),
            text: noise(1, &[7, config.text_dim]),
            image,
            options: ForwardOptions {
                fps: Some(24),
                causal_block: (causal_block > 1).then_some(causal_block),
                ..ForwardOptions::default()
            },
        }
    }

    fn alone(&self, model: &Transformer) -> Tensor {
        let context = model.context(&self.text, self.image.as_ref(), &CONTEXT).expect("a context");
        model
            .forward(&self.latents, &self.timesteps, &context, &self.options)
            .expect("alone")
            .on_host()
    }

    fn split(&self, model: &Transformer, devices: Vec<Device>) -> Result<Tensor, ModelError> {
        let model = on(model, devices)?;
        let context = model.context(&self.text, self.image.as_ref(), &CONTEXT)?;
        let one = model.forward(&self.latents, &self.timesteps, &[&context], &self.options)?;
        Ok(only(one).into_host()?)
    }
}

/// Of a batch of one.
fn only(velocities: Vec<Tensor>) -> Tensor {
    let [velocity] = velocities.try_into().expect("one");
    velocity
}

/// Every published kind of model, with its heads, and its kind of attention and timesteps.
fn every_kind() -> Vec<(&'static str, Transformer, Shown)> {
    let each = [900.0, 500.0, 500.0, 20.0, 0.0];
    [
        ("transformer_df", 2, &each[..], 2),
        ("transformer_df", 2, &each[..1], 1),
        ("transformer_wan_t2v", 2, &each[..1], 1),
        ("transformer_wan_i2v", 2, &each[..1], 1),
        ("transformer_wan_flf2v", 2, &each[..1], 1),
        ("transformer_i2v", 4, &each[..], 2),
        ("transformer_i2v", 4, &each[..1], 1),
    ]
    .map(|(name, heads, timesteps, block)| {
        let model = model(name, heads);
        let shown = Shown::new(&model, 5, timesteps, block);
        (name, model, shown)
    })
    .into()
}

#[test]
fn processors_together_give_the_velocity_of_one_in_every_bit() {
    for (name, model, shown) in every_kind() {
        let alone = shown.alone(&model);
        for count in [1, 2, 4] {
            if !model.config().num_attention_heads.is_multiple_of(count) {
                continue;
            }
            let together = shown.split(&model, processors(count)).expect("together");
            assert_same_bits(&format!("{name} on {count}"), &together, &alone);
        }
    }
}

/// A rank has all tokens of its heads, so it leaves out the keys that one device would.
#[test]
fn devices_together_leave_out_the_keys_that_one_leaves_out() {
    let mut left_out = 0;
    for (name, model, mut shown) in every_kind() {
        shown.latents = areas(2, [5, model.in_channels(), 24, 24]);
        let all = shown.alone(&model);
        shown.options.sparse = Some(SparseAttention { mass: 0.3, dense_above: 950.0 });
        let alone = shown.alone(&model);
        left_out += usize::from(distance(alone.data(), all.data()) > 1e-3);
        let together = shown.split(&model, processors(2)).expect("together");
        assert_same_bits(name, &together, &alone);
    }
    assert!(left_out > 0, "no model leaves anything out");
}

#[test]
fn gpus_together_give_the_velocity_of_one_in_every_bit() {
    // One of each: block-causal, with an image, of four heads.
    for (name, model, shown) in every_kind().into_iter().step_by(3) {
        for compute in [Element::F32, Element::Bf16] {
            let Some(one) = shims(1, compute) else { return };
            let alone = shown.alone(&model.clone().on(&one[0]));
            let count = model.config().num_attention_heads;
            let devices = shims(count, compute).expect("there was one");
            let together = shown.split(&model, devices).expect("together");
            assert_same_bits(&format!("{name} on {count}, {compute:?}"), &together, &alone);
        }
    }
}

/// One of each kind of model by two and four GPUs that have no need of the host between them.
fn linked_gpus_give_the_velocity_of_one(kind: LinkKind, way: &str) {
    for (name, model, shown) in every_kind().into_iter().step_by(3) {
        for compute in [Element::F32, Element::Bf16] {
            let Some(one) = shims(1, compute) else { return };
            let alone = shown.alone(&model.clone().on(&one[0]));
            for count in [2, 4] {
                if !model.config().num_attention_heads.is_multiple_of(count) {
                    continue;
                }
                let devices = linked_shims(count, compute, kind).expect("there was one");
                let split = on(&model, devices.clone()).expect("even heads");
                assert_eq!(split.way().as_deref(), Some(way), "{name} on {count}");
                assert_eq!(split.warnings().count(), 0);
                let together = shown.split(&model, devices).expect("together");
                let what = format!("{name} on {count}, {compute:?}, by {way}");
                assert_same_bits(&what, &together, &alone);
            }
        }
    }
}

#[test]
fn gpus_that_copy_to_each_other_give_the_velocity_of_one_in_every_bit() {
    linked_gpus_give_the_velocity_of_one(LinkKind::Peer, "copies from shim to shim");
}

/// In a process that has the stand-in for NCCL, see below.
#[test]
fn gpus_with_nccl_give_the_velocity_of_one_in_every_bit() {
    if std::env::var_os(STAND_IN).is_some() {
        linked_gpus_give_the_velocity_of_one(LinkKind::Nccl, "NCCL 2.27.3");
    }
}

const STAND_IN: &str = "LONGREEL_TEST_STAND_IN_NCCL";

#[test]
fn the_stand_in_for_nccl_brings_what_self_attention_exchanges_and_is_used_as_it_is_documented() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(library) = StandInNccl::build(folder, "split") else { return };
    if shims(1, Element::F32).is_none() {
        return;
    }
    let ran = Command::new(std::env::current_exe().expect("this test"))
        .args(["gpus_with_nccl_", "--nocapture"])
        .env("LD_LIBRARY_PATH", library.folder())
        .env_remove("LONGREEL_EXCHANGE")
        .env(STAND_IN, "1")
        .output()
        .expect("this test runs");
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    assert!(!said.contains("NCCL MISUSE") && !said.contains("LEFT BEHIND"), "{said}");
}

/// One card as several: contexts of their own, and the way between them is that of several cards.
#[test]
fn a_card_as_several_gives_the_velocity_of_one() {
    for (compute, tolerance) in [(Element::F32, TOLERANCE), (Element::Bf16, 6e-2)] {
        let card = || cuda::open(0).map(|driver| Device::Gpu(Gpu::new(driver, compute)));
        for (name, model, shown) in every_kind() {
            let count = model.config().num_attention_heads;
            let cards = match (0..count).map(|_| card()).collect::<Result<Vec<_>, _>>() {
                Ok(cards) => cards,
                Err(error) => return println!("skipped, a card as several: {error}"),
            };
            let alone = shown.alone(&model.clone().on(&cards[0]));
            let together = shown.split(&model, cards).expect("together");
            assert_close(&format!("{name} on {count}"), &together, &alone, tolerance);
        }
    }
}

#[test]
fn kept_keys_of_each_ranks_heads_give_the_velocity_of_one() {
    let model = model("transformer_i2v", 4);
    let timesteps = [[0.0; 2], [20.0; 2], [437.0; 2], [999.0; 2]].concat();
    for window in [None, Some(AttentionWindow { before: 1, sink: 1 })] {
        let mut shown = Shown::new(&model, 8, &timesteps, 2);
        shown.options.attention_window = window;
        let (text, image, options) = (&shown.text, shown.image.as_ref(), &shown.options);
        let context = model.context(text, image, &CONTEXT).expect("a context");
        let mut cache = KeyValueCache::new(&model, 0);
        for count in [2, 4] {
            let split = on(&model, processors(count)).expect("even heads");
            let split_context = split.context(text, image, &CONTEXT).expect("a context");
            let mut split_cache = split.new_cache(0);
            for (frames, keep) in [(0..4, 2), (2..6, 4), (6..8, 0)] {
                let latents = shown.latents.slice0(frames);
                let alone =
                    model.forward_after(&mut cache, keep, &latents, &timesteps, &context, options);
                let together = split.forward_after(
                    &mut [&mut split_cache],
                    keep,
                    &latents,
                    &timesteps,
                    &[&split_context],
                    options,
                );
                let what = format!("behind kept frames on {count}");
                let together = only(together.expect("together"));
                assert_same_bits(&what, &together, &alone.expect("alone"));
                assert_eq!(split_cache.bytes(), cache.bytes(), "kept by all together");
            }
            cache = KeyValueCache::new(&model, 0);
        }
    }
}

#[test]
fn a_step_that_is_reused_is_put_together_as_it_was_taken_apart() {
    let model = model("transformer_df", 2);
    let shown = Shown::new(&model, 3, &[700.0], 1);
    let alone = shown.alone(&model);
    let split = on(&model, processors(2)).expect("even heads");
    let context = split.context(&shown.text, None, &CONTEXT).expect("a context");
    let begin = |latents: &Tensor| split.begin(latents, &[700.0], &shown.options).expect("begins");
    let mut pass = begin(&shown.latents);
    let residuals = pass.run_blocks_keeping_residuals(&[&context]).expect("runs");
    let [residual] = residuals.try_into().expect("one");
    assert_same_bits("in steps", &only(pass.finish().expect("ends").on_host()), &alone);
    let mut pass = begin(&shown.latents);
    assert!(pass.takes(&residual));
    pass.add_residual(&residual).expect("fits");
    assert_close("reused", &only(pass.finish().expect("ends").on_host()), &alone, 1e-5);
    let mut shorter = begin(&shown.latents.slice0(0..2));
    assert!(!shorter.takes(&residual));
    assert!(shorter.add_residual(&residual).is_err());
}

#[test]
fn a_device_that_fails_is_an_error_and_the_others_do_not_wait() {
    let model = model("transformer_df", 2);
    let shown = Shown::new(&model, 3, &[700.0], 1);
    let Some(devices) = shims(2, Element::Bf16) else { return };
    for failing in 0..2 {
        let small = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("as before");
        let mut devices = devices.clone();
        devices[failing] =
            Device::Gpu(Gpu::new(Box::new(small.with_memory(192 << 10)), Element::Bf16));
        let error = shown.split(&model, devices).expect_err("no room");
        assert!(matches!(error, ModelError::Gpu(GpuError::Memory { .. })), "{error}");
    }
    shown.split(&model, devices).expect("the others can be used again");
}

#[test]
fn what_cannot_be_shared_out_is_refused_with_a_way_out() {
    let model = model("transformer_df", 2);
    let heads = model.config().num_attention_heads;
    let error = on(&model, processors(heads + 1)).expect_err("uneven heads");
    assert!(error.to_string().contains(&format!("{heads} heads")), "{error}");
    let mut shown = Shown::new(&model, 3, &[700.0], 1);
    shown.latents = noise(2, &[3, model.in_channels(), 2, 8]);
    let error = shown.split(&model, processors(2)).expect_err("one row of patches");
    assert!(error.to_string().contains("fewer devices or a higher picture"), "{error}");
}
