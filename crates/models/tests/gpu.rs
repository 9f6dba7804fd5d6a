//! Networks on a GPU that is too small for them, on the shim: what they give does not change.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Fixture, assert_same_bits, noise};
use longreel_kernels::gpu::{Element, Gpu, WeightPlan};
use longreel_kernels::{Device, GpuError, Tensor};
use longreel_models::{
    ContextOptions, ForwardOptions, ModelError, Transformer, Vae, VaeDecoderState,
};
use longreel_shim::Shim;

fn shim() -> Option<Shim> {
    Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn gpu(shim: Shim) -> Arc<Gpu> {
    Gpu::new(Box::new(shim), Element::Bf16)
}

fn velocity(gpu: &Arc<Gpu>) -> Result<Tensor, ModelError> {
    let fixture = Fixture::open("transformer_df");
    let model = Transformer::load(&fixture.config(), fixture.source())?;
    let model = model.on(&Device::Gpu(gpu.clone()));
    let text = noise(1, &[5, model.config().text_dim]);
    let options = ContextOptions { padded_tokens: 8 };
    let context = model.context(&text, None, &options)?;
    let latents = noise(2, &[3, model.in_channels(), 4, 4]);
    let options = ForwardOptions { fps: Some(24), ..ForwardOptions::default() };
    // The second pass is one that knows the order of the weights.
    model.forward(&latents, &[900.0, 500.0, 0.0], &context, &options)?;
    Ok(model.forward(&latents, &[900.0, 500.0, 0.0], &context, &options)?.into_host()?)
}

#[test]
fn weights_that_are_brought_for_each_pass_give_the_same_bits() {
    let (Some(large), Some(small), Some(none)) = (shim(), shim(), shim()) else { return };
    let all = gpu(large);
    let expected = velocity(&all).expect("room for everything");
    for (shim, resident) in [(small, 20 << 10), (none, 0)] {
        let gpu = gpu(shim);
        gpu.plan_weights(WeightPlan { resident, places: WeightPlan::PLACES, place: 1 << 20 });
        assert_same_bits("brought in turn", &velocity(&gpu).expect("room"), &expected);
        assert_eq!(gpu.bytes().1, 0, "weights of a network that is gone");
    }
}

#[test]
fn a_decoder_whose_memory_the_host_keeps_goes_on_in_every_bit() {
    let (Some(large), Some(small)) = (shim(), shim()) else { return };
    let fixture = Fixture::open("vae");
    let latents = noise(3, &[4, 16, 2, 3]);
    let decoded = |gpu: &Arc<Gpu>| {
        let vae = Vae::load(&fixture.config(), fixture.source()).expect("a VAE");
        let vae = vae.on(&Device::Gpu(gpu.clone()));
        let mut state = VaeDecoderState::new();
        let mut parts = Vec::new();
        for part in [0..1, 1..3, 3..4] {
            let part = latents.slice0(part);
            parts.push(vae.decoder.decode(&part, &mut state, usize::MAX).expect("decodes"));
            if gpu.is_scarce() {
                assert_eq!(gpu.bytes().0, 0, "memory is held between two segments");
            }
        }
        Tensor::concat0(&parts.iter().collect::<Vec<_>>())
    };
    let (large, small) = (gpu(large), gpu(small));
    small.set_scarce(true);
    assert_same_bits("kept by the host", &decoded(&small), &decoded(&large));
}

#[test]
fn too_little_memory_is_an_error_after_which_the_device_is_used_again() {
    let Some(shim) = shim() else { return };
    let gpu = gpu(shim.with_memory(64 << 10));
    let error = velocity(&gpu).expect_err("no room");
    assert!(matches!(error, ModelError::Gpu(GpuError::Memory { .. })), "{error}");
    let tensor = noise(4, &[16]);
    let there = tensor.on(&Device::Gpu(gpu.clone())).expect("room for that").into_owned();
    assert_same_bits("what came back", &there.into_host().expect("usable"), &tensor);
}
