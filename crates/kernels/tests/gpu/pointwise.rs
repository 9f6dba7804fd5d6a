use longreel_kernels::Activation;
use longreel_kernels::gpu::{Element, ops};

use crate::{ELEMENTS, Numbers, array, assert_close, device, rounded};

/// `(x, y)` of all pairs of elements, with values already rounded to them.
fn pairs(numbers: &mut Numbers, len: usize) -> Vec<(Element, Vec<f32>, Element, Vec<f32>)> {
    let (x, y) = (numbers.vec(len), numbers.vec(len));
    let all = ELEMENTS.iter().flat_map(|&a| ELEMENTS.map(|b| (a, b)));
    all.map(|(a, b)| (a, rounded(&x, a), b, rounded(&y, b))).collect()
}

#[test]
fn gate_residual_equals_the_reference() {
    let Some(gpu) = device() else { return };
    for (rows, dim) in [(1, 1), (7, 37), (9, 64), (4, 1536), (2, 5120)] {
        let mut numbers = Numbers::new(dim as u64);
        let gates = numbers.vec(4 * dim);
        for (a, x, b, y) in pairs(&mut numbers, rows * dim) {
            for (gated, frames) in [(false, 1), (true, 1), (true, 4)] {
                let per_frame = if frames == 1 { 1 } else { rows.div_ceil(3) };
                let expected: Vec<f64> = (0..rows * dim)
                    .map(|i| {
                        let frame = if frames == 1 { 0 } else { i / dim / per_frame };
                        let gate = f64::from(gates[frame * dim + i % dim]);
                        let gate = if gated { gate } else { 1.0 };
                        f64::from(x[i]) + gate * f64::from(y[i])
                    })
                    .collect();
                let mut found = array(&gpu, &x, a);
                let there = array(&gpu, &gates[..frames * dim], Element::F32);
                let gate =
                    gated.then_some(ops::PerFrame { values: &there, tokens_per_frame: per_frame });
                ops::gate_residual(&mut found, &array(&gpu, &y, b), dim, gate);
                let what = format!("gate_residual {a:?} {b:?} {rows}x{dim} {gated} {frames}");
                assert_close(&what, found, &expected, 2e-7);
            }
        }
    }
}

#[test]
fn products_and_sums_equal_the_reference() {
    let Some(gpu) = device() else { return };
    for len in [1, 8, 1037, 40_003] {
        for (a, x, b, y) in pairs(&mut Numbers::new(5), len) {
            let each = |f: fn(f64, f64) -> f64| -> Vec<f64> {
                x.iter().zip(&y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).collect()
            };
            let mut found = array(&gpu, &x, a);
            ops::mul_inplace(&mut found, &array(&gpu, &y, b));
            assert_close("mul_inplace", found, &each(|x, y| x * y), 1e-7);
            if a != b {
                continue;
            }
            let [x, y] = [&x, &y].map(|v| array(&gpu, v, a));
            let sums = ops::change(&x, &y).expect("done");
            // Its parts are memory that was written.
            gpu.shrink();
            let expected = [each(|x, y| (x - y).abs()), each(|_, y| y.abs())];
            for (sum, expected) in sums.iter().zip(expected.map(|terms| terms.iter().sum::<f64>()))
            {
                assert!((sum / expected - 1.0).abs() < 1e-5, "change {a:?}: {sum} for {expected}");
            }
            for out in ELEMENTS {
                let terms = [(0.75, &x), (-2.5, &y), (3.0, &x), (0.125, &y)];
                for count in 1..=4 {
                    let found = ops::combine(&terms[..count], out);
                    let expected: Vec<f64> = match count {
                        1 => each(|x, _| 0.75 * x),
                        2 => each(|x, y| 0.75 * x - 2.5 * y),
                        3 => each(|x, y| 3.75 * x - 2.5 * y),
                        _ => each(|x, y| 3.75 * x - 2.375 * y),
                    };
                    assert_close(&format!("combine {count}"), found, &expected, 1e-6);
                }
            }
        }
    }
}

fn activation(x: f64, activation: Activation) -> f64 {
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    match activation {
        Activation::None => x,
        Activation::Gelu => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x * sigmoid(2.0 * u)
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
    }
}

#[test]
fn activations_equal_the_reference_over_their_whole_range() {
    let Some(gpu) = device() else { return };
    let values: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.0077).chain([-90.0, 1e4]).collect();
    for element in ELEMENTS {
        let x = rounded(&values, element);
        for act in [
            Activation::None,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::QuickGelu,
            Activation::Silu,
        ] {
            let mut found = array(&gpu, &x, element);
            ops::activate_inplace(&mut found, act);
            let expected: Vec<f64> = x.iter().map(|&x| activation(f64::from(x), act)).collect();
            assert_close(&format!("{act:?}"), found, &expected, 1e-6);
        }
    }
}

#[test]
fn values_are_clamped_and_turned_by_the_slope_of_their_channel() {
    let Some(gpu) = device() else { return };
    for (pixels, channels) in [(5, 3), (90, 64), (1, 1)] {
        let mut numbers = Numbers::new(7);
        let (values, slopes) = (numbers.vec(pixels * channels), numbers.vec(channels));
        let slopes_there = array(&gpu, &slopes, Element::F32);
        for element in ELEMENTS {
            let x = rounded(&values, element);
            let mut found = array(&gpu, &x, element);
            ops::prelu_inplace(&mut found, &slopes_there);
            let expected: Vec<f64> = x
                .iter()
                .enumerate()
                .map(|(i, &v)| {
                    let slope = if v < 0.0 { slopes[i % channels] } else { 1.0 };
                    f64::from(v) * f64::from(slope)
                })
                .collect();
            assert_close("prelu_inplace", found, &expected, 1e-7);
            let mut found = array(&gpu, &x, element);
            ops::clamp_inplace(&mut found, -0.5, 0.25);
            let expected: Vec<f64> = x.iter().map(|&v| f64::from(v.clamp(-0.5, 0.25))).collect();
            assert_close("clamp_inplace", found, &expected, 0.0);
        }
    }
    let mut nan = array(&gpu, &[f32::NAN, 9.0], Element::F32);
    ops::clamp_inplace(&mut nan, -1.0, 1.0);
    let found = nan.to_host().expect("done");
    assert!(found[0].is_nan() && found[1] == 1.0, "{found:?}");
}
