//! The transformer with products of fewer bits in its blocks: how far that is from f32, and that every device
//! means the same by those of 8-bit floats.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Fixture, OnHost, assert_close, distance, noise};
use longreel_kernels::gpu::{Arg, Driver, Element, Gpu, GpuError, Launch, MatMul, Operands};
use longreel_kernels::{DType, Device, Isa, Tensor, Weight};
use longreel_models::{ContextOptions, ForwardOptions, Transformer};
use longreel_shim::{Shim, Watch, Watched};
use longreel_weights::{TensorSource, TransformerConfig, WeightDtype};

fn forward(config: &TransformerConfig, source: TensorSource, device: &Device) -> Tensor {
    let model = Transformer::load(config, source).expect("a model").on(device);
    let text = noise(1, &[6, config.text_dim]);
    let image = config.image_dim.map(|dim| noise(2, &[257, dim]));
    let options = ContextOptions { padded_tokens: 8 };
    let context = model.context(&text, image.as_ref(), &options).expect("a context");
    let latents = noise(3, &[3, model.in_channels(), 8, 6]);
    let fps = config.inject_sample_info.then_some(24);
    let options = ForwardOptions { fps, ..Default::default() };
    model.forward(&latents, &[700.0], &context, &options).expect("a velocity").on_host()
}

fn shims(element: Element) -> Vec<(&'static str, Device)> {
    let shim = || Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let of = |shim: Shim| Device::Gpu(Gpu::new(Box::new(shim), element));
    let ours = shim().map(|shim| ("our kernel", of(shim)));
    ours.into_iter().chain(shim().map(|shim| ("library", of(shim.with_products())))).collect()
}

/// The recorded models' weights, of all kinds.
#[test]
fn a_pass_in_8_bits_is_off_by_hundredths_of_its_size() {
    for name in ["transformer_df", "transformer_t2v", "transformer_wan_i2v"] {
        let fixture = Fixture::open(name);
        let config: TransformerConfig = fixture.config();
        let full = forward(&config, fixture.source(), &Device::Cpu);
        let source = || fixture.source().in_dtype(WeightDtype::Fp8);
        let mut places = vec![("processor", Device::Cpu)];
        places.extend(shims(Element::Bf16));
        for (place, device) in places {
            if device.gpu().is_some() {
                let bf16 = forward(&config, fixture.source(), &device);
                let off = distance(bf16.data(), full.data());
                println!("{name} on {place}: relative L2 {off:.2e} from f32 in bf16 alone");
            }
            let found = forward(&config, source(), &device);
            let off = distance(found.data(), full.data());
            println!("{name} on {place}: relative L2 {off:.2e} from f32");
            // Three bits behind the first are a relative error of 2 % a value, more where values are small.
            assert!((2e-3..6e-2).contains(&off), "{name} on {place}: {off:.1e}");
        }
    }
}

/// Layers as wide as the kernels for tensor cores want them, with values that differ from channel to channel.
fn wide() -> (TransformerConfig, HashMap<String, Weight>) {
    let mut config: TransformerConfig = Fixture::open("transformer_df").config();
    (config.num_attention_heads, config.attention_head_dim, config.ffn_dim) = (2, 64, 256);
    let weight = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
        let mut values = noise(seed as u64, &shape).into_vec();
        let inputs = shape[1..].iter().product::<usize>().max(1);
        // About what training leaves: norms of one, and matrices that keep the size.
        let size = if shape.len() > 1 { (inputs as f32).sqrt().recip() } else { 0.1 };
        let norm = name.contains("norm") && name.ends_with("weight");
        values.iter_mut().for_each(|v| *v = *v * size + f32::from(u8::from(norm)));
        (name, Weight::from_f32(&shape, &values))
    };
    let tensors = config.expected_tensors().into_iter().enumerate().map(weight).collect();
    (config, tensors)
}

#[test]
fn a_pass_in_bf16_is_off_by_thousandths_where_the_processor_multiplies_that() {
    let (config, tensors) = wide();
    // Of weights that are bf16 already, so that nothing else differs.
    let narrow =
        |(name, w): (String, Weight)| (name, Weight::narrowed(w.shape(), &w.to_f32(), DType::BF16));
    let tensors: HashMap<_, _> = tensors.into_iter().map(narrow).collect();
    let source = || TensorSource::from_tensors(tensors.clone());
    let full = forward(&config, source(), &Device::Cpu);
    let pairs = forward(&config, source().in_dtype(WeightDtype::Bf16), &Device::Cpu);
    let off = distance(pairs.data(), full.data());
    println!("relative L2 {off:.2e} from f32");
    match Isa::current().has_pairs() {
        true => assert!((2e-4..2e-2).contains(&off), "{off:.1e}"),
        false => assert!(pairs == full, "there is nothing to gain here"),
    }
}

#[test]
fn every_device_means_the_same_by_8_bits() {
    let (config, tensors) = wide();
    let source = || TensorSource::from_tensors(tensors.clone()).in_dtype(WeightDtype::Fp8);
    let plain = forward(&config, TensorSource::from_tensors(tensors.clone()), &Device::Cpu);
    let expected = forward(&config, source(), &Device::Cpu);
    let off = distance(expected.data(), plain.data());
    assert!((2e-3..6e-2).contains(&off), "from f32: {off:.1e}");
    for (way, device) in shims(Element::F32) {
        let found = forward(&config, source(), &device);
        // Sums in another order move a few values to the next code, which is what 8 bits are off by anyway.
        assert_close(way, &found, &expected, off / 4.0);
    }
}

/// Kernels that were started, and the bytes that those for norms, codes and what is left of products read and wrote.
#[derive(Default)]
struct Started(Mutex<(BTreeMap<&'static str, usize>, usize)>);

impl Watch for Started {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        let int = |n: usize| match args[n] {
            Arg::Int(n) => n as usize,
            other => panic!("{other:?} is no length"),
        };
        // Bytes of a value that is read and of one that is written, and values. Activations are bf16, and the hidden
        // state is f32.
        let blocks = launch.grid[0] as usize;
        let (of_value, values) = match launch.kernel {
            "layer_norm_f32_bf16" => (4 + 2, blocks * int(8)),
            "layer_norm_codes_f32_bf16" => (4 + 1, blocks * int(9)),
            "quantize_rows_bf16" => (2 + 1, blocks * int(3)),
            "quantize_rows_f32" => (4 + 1, blocks * int(3)),
            "fp8_finish" => (2 + 2, int(11) * int(12)),
            "fp8_finish_codes_bf16" => (2 + 1, blocks * int(7)),
            _ => (0, 0),
        };
        let mut started = self.0.lock().expect("no panic");
        *started.0.entry(launch.kernel).or_default() += 1;
        started.1 += of_value * values;
        drop(started);
        shim.launch(launch, args)
    }

    /// Of codes alone, as those of Ada.
    fn matmul(&self, shim: &Shim, what: &MatMul) -> Result<bool, GpuError> {
        match what.operands {
            Operands::E4m3 { factors: Some(_) } => Ok(false),
            _ => shim.matmul(what),
        }
    }
}

/// What is multiplied in 8 bits is made by whatever goes over its rows before, and once for all layers that take it:
/// alone attention's results, of which no kernel sees whole rows, become codes in a pass of their own.
#[test]
fn rows_become_codes_where_they_are_made() {
    let (config, tensors) = wide();
    let Some(shim) = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let started = Arc::<Started>::default();
    let watched = Watched::new(shim.with_products(), started.clone());
    let device = Device::Gpu(Gpu::new(Box::new(watched), Element::Bf16));
    forward(&config, TensorSource::from_tensors(tensors).in_dtype(WeightDtype::Fp8), &device);
    let (kernels, bytes) = &*started.0.lock().expect("no panic");
    println!("{} launches, {bytes} bytes: {kernels:?}", kernels.values().sum::<usize>());
    let blocks = config.num_layers;
    let count = |kernel: &str| kernels.get(kernel).copied().unwrap_or(0);
    assert_eq!(count("layer_norm_codes_f32_bf16"), 3 * blocks, "{kernels:?}");
    assert_eq!(count("fp8_finish_codes_bf16"), blocks, "{kernels:?}");
    assert_eq!(count("quantize_rows_bf16"), 2 * blocks, "{kernels:?}");
}

/// What a file has in 8 bits already is taken bit by bit, and what it lacks is made of the rest.
#[test]
fn weights_in_8_bits_are_taken_as_they_are() {
    let (config, mut tensors) = wide();
    let converted = forward(
        &config,
        TensorSource::from_tensors(tensors.clone()).in_dtype(WeightDtype::Fp8),
        &Device::Cpu,
    );
    for (name, weight) in &mut tensors {
        if name.starts_with("blocks.") && weight.shape().len() == 2 {
            *weight = Weight::e4m3(weight.shape(), &weight.to_f32());
        }
    }
    let stored = || TensorSource::from_tensors(tensors.clone());
    let taken = forward(&config, stored().in_dtype(WeightDtype::Fp8), &Device::Cpu);
    common::assert_same_bits("8 bits from the file", &taken, &converted);
    // Unasked, what the weights are multiplied with keeps its bits.
    let unasked = forward(&config, stored(), &Device::Cpu);
    let off = distance(unasked.data(), taken.data());
    assert!(off > 2e-3, "without --dtype fp8 activations were rounded: {off:.1e}");
}
