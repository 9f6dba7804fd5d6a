use longreel_kernels::ops::{
    feed_forward_residual, layer_norm, layer_norm_input, linear, linear_each, linear_residual,
};
use longreel_kernels::{
    Activation, Bytes, DType, Linear, LinearInput, Modulation, PerFrame, Products, Tensor, Weight,
};

use crate::{
    Expected, FORMATS, Numbers, assert_close, assert_same_on_any_threads, host, on_every_device,
    on_every_isa,
};

/// Rows, outputs, inputs: below and above one tile, one panel, one block, one task, the limits of
/// the dot products; odd everywhere.
pub(crate) const SHAPES: [[usize; 3]; 13] = [
    [1, 1, 1],
    [1, 300, 515],
    [3, 17, 20],
    [5, 33, 7],
    [7, 16, 256],
    [32, 40, 257],
    [33, 48, 600],
    [61, 129, 96],
    [98, 8, 300],
    [257, 70, 64],
    [301, 520, 33],
    [1100, 270, 20],
    [50, 1050, 1030],
];

const ACTIVATIONS: [Activation; 5] = [
    Activation::None,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Silu,
];

pub(crate) fn activation(x: f64, activation: Activation) -> f64 {
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    match activation {
        Activation::None => x,
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
    }
}

pub(crate) fn product(
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    n: usize,
    k: usize,
) -> Vec<Expected> {
    let mut out = Vec::new();
    for x in x.chunks_exact(k) {
        for (j, w) in w.chunks_exact(k).enumerate().take(n) {
            let terms = x.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b));
            let (sum, size) = terms.fold((0.0, 0.0), |(s, m), t: f64| (s + t, m + t.abs()));
            let bias = bias.map_or(0.0, |b| f64::from(b[j]));
            let size = size + bias.abs();
            out.push(Expected { value: sum + bias, tolerance: 1e-6 * size + 1e-30 });
        }
    }
    out
}

#[test]
fn linear_equals_the_reference_at_awkward_shapes() {
    on_every_device(|place| {
        for (i, [rows, n, k]) in SHAPES.into_iter().enumerate() {
            let mut numbers = Numbers::new(i as u64);
            let (x, w, bias) = (numbers.tensor(&[rows, k]), numbers.vec(n * k), numbers.vec(n));
            let bias = (i % 3 > 0).then_some(bias);
            let act = ACTIVATIONS[i % 5];
            let layer = Linear::new(Weight::from_f32(&[n, k], &w), bias.clone());
            let mut expected = product(x.data(), &w, bias.as_deref(), n, k);
            for e in &mut expected {
                // No activation's slope exceeds 1.2; its own rounding is some units of the result.
                e.tolerance = 1.2 * e.tolerance + 1e-6 * e.value.abs();
                e.value = activation(e.value, act);
            }
            let name = format!("{place} linear {rows}x{n}x{k} {act:?}");
            let found = host(linear(&place.on(&x), &layer, act));
            assert_close(&name, found.data(), &expected);
        }
    });
}

/// A matrix over the limit for keeping it packed, so that it is packed while it is used.
#[test]
fn linear_with_a_large_weight_equals_the_reference() {
    on_every_isa(|isa| {
        for rows in [2, 40] {
            let mut numbers = Numbers::new(99);
            let (n, k) = (530, 2000);
            let (x, w) = (numbers.tensor(&[rows, k]), numbers.vec(n * k));
            let layer = Linear::new(Weight::from_f32(&[n, k], &w), None);
            let expected = product(x.data(), &w, None, n, k);
            let name = format!("{isa} linear {rows}x{n}x{k}");
            assert_close(&name, linear(&x, &layer, Activation::None).data(), &expected);
        }
    });
}

/// Random bytes of a format, with block scales that keep values ordinary.
fn stored(dtype: DType, n: usize, k: usize, numbers: &mut Numbers) -> Weight {
    let mut bytes: Vec<u8> = (0..dtype.byte_len(n * k).expect("whole blocks"))
        .map(|_| (numbers.next() * 128.0).floor() as i8 as u8)
        .collect();
    let scale = half::f16::from_f32(0.01).to_le_bytes();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        match dtype {
            DType::F32 => block.copy_from_slice(&numbers.next().to_le_bytes()),
            DType::F16 => {
                block.copy_from_slice(&half::f16::from_f32(numbers.next()).to_le_bytes());
            }
            DType::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(numbers.next()).to_le_bytes());
            }
            DType::F8E4M3 | DType::F8E5M2 => block[0] &= 0xbf,
            DType::Q6K => block[208..].copy_from_slice(&scale),
            DType::Q5K | DType::Q4K => {
                block[..2].copy_from_slice(&scale);
                block[2..4].copy_from_slice(&scale);
            }
            DType::Q8_0 | DType::Q5_0 | DType::Q4_0 => block[..2].copy_from_slice(&scale),
        }
    }
    Weight::new(&[n, k], dtype, Bytes::from(bytes)).expect("sizes fit")
}

/// The stored values are converted without loss, so the tolerance is that of f32.
#[test]
fn linear_takes_every_stored_format() {
    on_every_device(|place| {
        for dtype in FORMATS {
            // Dot products; kept panels; panels packed anew.
            for (rows, n) in [(2, 37), (45, 37), (45, 1400)] {
                let k = 768;
                if place.is_slow() && rows * n > 2000 {
                    continue;
                }
                let mut numbers = Numbers::new(7);
                let weight = stored(dtype, n, k, &mut numbers);
                let x = numbers.tensor(&[rows, k]);
                let expected = product(x.data(), &weight.to_f32(), None, n, k);
                let layer = Linear::new(weight, None);
                let name = format!("{place} linear {rows}x{n}x{k} {}", dtype.name());
                let found = host(linear(&place.on(&x), &layer, Activation::None));
                assert_close(&name, found.data(), &expected);
            }
        }
    });
}

/// One factor for all values, or one for each row, whatever way the product takes.
#[test]
fn linear_scales_stored_values() {
    on_every_device(|place| {
        for (dtype, rows, n) in [
            (DType::F8E4M3, 2, 37),
            (DType::F8E4M3, 45, 37),
            (DType::F8E4M3, 45, 1400),
            (DType::F32, 2, 1400),
            (DType::F32, 45, 1400),
        ] {
            let k = 768;
            if place.is_slow() && rows * n > 3000 {
                continue;
            }
            for factors in [1, n] {
                let mut numbers = Numbers::new(9);
                let scales = numbers.vec(factors);
                let weight = stored(dtype, n, k, &mut numbers);
                let x = numbers.tensor(&[rows, k]);
                let mut w = weight.to_f32();
                for (part, scale) in w.chunks_mut(n * k / factors).zip(&scales) {
                    part.iter_mut().for_each(|v| *v *= scale);
                }
                let weight = weight.scaled(&scales).expect("one, or one for each row");
                assert_eq!(weight.to_f32(), w);
                let mut row = vec![0.0; k];
                weight.rows_to_f32(n - 1..n, &mut row);
                assert_eq!(row, w[(n - 1) * k..]);
                let expected = product(x.data(), &w, None, n, k);
                let layer = Linear::new(weight, None);
                let y = host(linear(&place.on(&x), &layer, Activation::None));
                let name = format!("{place} linear {rows}x{n}x{k} {} by {factors}", dtype.name());
                assert_close(&name, y.data(), &expected);
            }
        }
    });
}

/// Files do not align tensors, so a weight may begin at any byte.
#[test]
fn linear_takes_f32_weights_at_any_address() {
    on_every_isa(|isa| {
        let (rows, n, k) = (50, 1100, 1000);
        let mut numbers = Numbers::new(3);
        let (x, w) = (numbers.tensor(&[rows, k]), numbers.vec(n * k));
        let expected = product(x.data(), &w, None, n, k);
        let mut bytes = vec![0u8];
        bytes.extend(w.iter().flat_map(|v| v.to_le_bytes()));
        let view = Bytes::view(std::sync::Arc::new(bytes), 1..1 + 4 * n * k).expect("inside");
        let weight = Weight::new(&[n, k], DType::F32, view).expect("sizes fit");
        let y = linear(&x, &Linear::new(weight, None), Activation::None);
        assert_close(&format!("{isa} linear at an odd address"), y.data(), &expected);
    });
}

#[test]
fn linear_residual_gates_by_latent_frame() {
    on_every_device(|place| {
        for (rows, n, k, frames) in [(60, 50, 70, 4), (3, 9, 10, 3), (64, 24, 33, 1)] {
            let mut numbers = Numbers::new(11);
            let (y, w, bias) = (numbers.tensor(&[rows, k]), numbers.vec(n * k), numbers.vec(n));
            let (x, gates) = (numbers.tensor(&[rows, n]), numbers.tensor(&[frames, n]));
            let layer = Linear::new(Weight::from_f32(&[n, k], &w), Some(bias.clone()));
            let tokens_per_frame = rows / frames;
            for gated in [true, false] {
                let mut expected = product(y.data(), &w, Some(&bias), n, k);
                for (i, e) in expected.iter_mut().enumerate() {
                    let frame = if frames == 1 { 0 } else { i / n / tokens_per_frame };
                    let gate = if gated { gates.data()[frame * n + i % n] } else { 1.0 };
                    let old = f64::from(x.data()[i]);
                    e.value = old + f64::from(gate) * e.value;
                    e.tolerance += 1e-7 * old.abs();
                }
                let (mut found, values) = (place.on(&x), place.on(&gates));
                let gate = gated.then_some(PerFrame { values: &values, tokens_per_frame });
                linear_residual(&mut found, &place.on(&y), &layer, gate);
                let name = format!("{place} residual {rows}x{n}x{k}");
                assert_close(&name, host(found).data(), &expected);
            }
        }
    });
}

#[test]
fn feed_forward_equals_its_two_layers() {
    on_every_isa(|isa| {
        let (rows, dim, hidden) = (75, 36, 90);
        let mut numbers = Numbers::new(5);
        let up_w = numbers.vec(hidden * dim);
        let down_w = numbers.vec(dim * hidden);
        let (up_b, down_b) = (numbers.vec(hidden), numbers.vec(dim));
        let (x, y) = (numbers.tensor(&[rows, dim]), numbers.tensor(&[rows, dim]));
        let gates = numbers.tensor(&[3, dim]);
        let up = Linear::new(Weight::from_f32(&[hidden, dim], &up_w), Some(up_b));
        let down = Linear::new(Weight::from_f32(&[dim, hidden], &down_w), Some(down_b));
        let gate = Some(PerFrame { values: &gates, tokens_per_frame: 25 });
        let mut expected = x.clone();
        let wide = linear(&y, &up, Activation::GeluTanh);
        linear_residual(&mut expected, &wide, &down, gate);
        let mut found = x;
        let y = LinearInput::new(y, Products::F32);
        feed_forward_residual(&mut found, &y, &up, &down, Activation::GeluTanh, gate);
        let expected: Vec<_> = expected
            .data()
            .iter()
            .map(|&v| Expected { value: v.into(), tolerance: 1e-6 * f64::from(v.abs()) + 1e-6 })
            .collect();
        assert_close(&format!("{isa} feed_forward"), found.data(), &expected);
    });
}

#[test]
fn linear_does_not_depend_on_the_number_of_threads() {
    let mut numbers = Numbers::new(1);
    for (rows, n, k) in [(3, 500, 300), (20, 1030, 1024), (700, 300, 400)] {
        let x = numbers.tensor(&[rows, k]);
        let layer = Linear::new(Weight::from_f32(&[n, k], &numbers.vec(n * k)), None);
        assert_same_on_any_threads(&format!("linear {rows}x{n}x{k}"), || {
            linear(&x, &layer, Activation::GeluTanh)
        });
    }
}

#[test]
fn a_nan_in_the_weights_reaches_the_result() {
    on_every_device(|place| {
        for act in ACTIVATIONS {
            let mut w = vec![0.5; 40 * 40];
            w[7 * 40 + 3] = f32::NAN;
            let layer = Linear::new(Weight::from_f32(&[40, 40], &w), None);
            let x = place.on(&Tensor::from_vec(&[9, 40], vec![1.0; 360]));
            let y = host(linear(&x, &layer, act));
            assert!(y.data()[7].is_nan() && !y.data()[8].is_nan(), "{place} {act:?}");
        }
    });
}

#[test]
fn products_in_8_bits_are_those_of_rounded_rows_whatever_rows_are_beside_them() {
    on_every_isa(|isa| {
        for (i, [rows, n, k]) in SHAPES.into_iter().enumerate() {
            let mut numbers = Numbers::new(i as u64);
            let (x, w, bias) = (numbers.tensor(&[rows, k]), numbers.vec(n * k), numbers.vec(n));
            let weight = Weight::e4m3(&[n, k], &w);
            let rounded = Weight::e4m3(&[rows, k], x.data()).to_f32();
            let expected = product(&rounded, &weight.to_f32(), Some(&bias), n, k);
            let layer = Linear::new(weight, Some(bias.clone())).with_products(Products::Fp8);
            let none = Activation::None;
            let found = linear(&x, &layer, none);
            assert_close(&format!("{isa} 8-bit linear {rows}x{n}x{k}"), found.data(), &expected);
            let mut into = Tensor::zeros(&[rows, n]);
            linear_residual(&mut into, &x, &layer, None);
            assert_close(&format!("{isa} 8-bit residual {rows}x{n}x{k}"), into.data(), &expected);
            // Large products of few rows may be summed otherwise (`DOTS`), as those of any weights.
            if rows > 64 {
                let part = linear(&x.slice0(rows / 2..rows), &layer, none);
                assert_eq!(part.data(), &found.data()[rows / 2 * n..], "{isa} {rows}x{n}x{k}");
            }
        }
    });
}

/// What is rounded where it is made, once for all layers, is what each of them would have rounded.
#[test]
fn layers_behind_a_norm_give_the_bits_of_their_products_of_its_values() {
    on_every_isa(|isa| {
        for (rows, dim, outputs) in [(5, 33, 17), (70, 96, 40)] {
            let mut numbers = Numbers::new(21);
            let (x, shift) = (numbers.tensor(&[rows, dim]), numbers.tensor(&[2, dim]));
            let shift = PerFrame { values: &shift, tokens_per_frame: rows.div_ceil(2) };
            let modulation = Some(Modulation { shift, scale: shift });
            let normed = layer_norm(&x, None, 1e-6, modulation);
            for products in [Products::F32, Products::Fp8] {
                let mut layer = |[outputs, inputs]: [usize; 2]| {
                    let weight = Weight::e4m3(&[outputs, inputs], &numbers.vec(outputs * inputs));
                    Linear::new(weight, Some(numbers.vec(outputs))).with_products(products)
                };
                let (first, second) = (layer([outputs, dim]), layer([outputs, dim]));
                let (up, down) = (layer([outputs, dim]), layer([dim, outputs]));
                let input = layer_norm_input(&x, None, 1e-6, modulation, products);
                let what = format!("{isa} {products:?}, {rows} rows of {dim}");
                for (layer, found) in
                    [&first, &second].into_iter().zip(linear_each(&input, [&first, &second]))
                {
                    assert!(found == linear(&normed, layer, Activation::None), "{what}");
                }
                let (mut found, mut expected) = (x.clone(), x.clone());
                let gelu = Activation::GeluTanh;
                feed_forward_residual(&mut found, &input, &up, &down, gelu, None);
                linear_residual(&mut expected, &linear(&normed, &up, gelu), &down, None);
                assert!(found == expected, "{what}: a feed-forward");
            }
        }
    });
}

#[test]
#[should_panic(expected = "in 8 bits: false")]
fn rows_for_other_products_than_a_layer_has_are_refused() {
    let weight = Weight::e4m3(&[2, 4], &[1.0; 8]);
    let layer = Linear::new(weight, None).with_products(Products::Fp8);
    linear_each(&LinearInput::new(Tensor::zeros(&[3, 4]), Products::F32), [&layer]);
}
