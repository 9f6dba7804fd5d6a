use longreel_kernels::ops::{activate_inplace, gate_residual, mul_inplace, patchify, unpatchify};
use longreel_kernels::{Activation, PerFrame, Tensor};

use crate::linear::activation;
use crate::{Expected, Numbers, assert_close, host, on_every_device};

/// Relative to the result, plus one rounding of the argument at the function's steepest.
#[test]
fn activations_equal_the_reference_over_their_whole_range() {
    let values: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.0077).chain([-90.0, 1e4]).collect();
    on_every_device(|place| {
        for act in [
            Activation::None,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::QuickGelu,
            Activation::Silu,
        ] {
            let mut found = place.on(&Tensor::from_vec(&[values.len()], values.clone()));
            activate_inplace(&mut found, act);
            let expected: Vec<_> = values
                .iter()
                .map(|&x| {
                    let value = activation(f64::from(x), act);
                    // Where the exact result nearly vanishes only its absolute size matters.
                    Expected {
                        value,
                        tolerance: 1e-6 * value.abs() + 4e-7 * f64::from(x.abs()).min(1.0) + 1e-30,
                    }
                })
                .collect();
            assert_close(&format!("{place} {act:?}"), host(found).data(), &expected);
        }
    });
}

#[test]
fn gate_residual_and_mul_equal_the_reference() {
    on_every_device(|place| {
        let mut numbers = Numbers::new(4);
        let (rows, dim) = (30, 1037);
        let (x, y) = (numbers.tensor(&[rows, dim]), numbers.tensor(&[rows, dim]));
        let gates = numbers.tensor(&[5, dim]);
        let (mut found, other, values) = (place.on(&x), place.on(&y), place.on(&gates));
        let gate = PerFrame { values: &values, tokens_per_frame: 6 };
        gate_residual(&mut found, &other, Some(gate));
        mul_inplace(&mut found, &other);
        let expected: Vec<_> = (0..rows * dim)
            .map(|i| {
                let gate = f64::from(gates.data()[i / dim / 6 * dim + i % dim]);
                let (x, y) = (f64::from(x.data()[i]), f64::from(y.data()[i]));
                Expected { value: (x + gate * y) * y, tolerance: 4e-7 }
            })
            .collect();
        assert_close(&format!("{place} gate_residual"), host(found).data(), &expected);
    });
}

#[test]
fn patches_come_back_where_they_were() {
    let x = Numbers::new(6).tensor(&[3, 5, 4, 6]);
    on_every_device(|place| {
        let rows = host(patchify(&place.on(&x), [2, 3]));
        assert_eq!(rows.shape(), [3 * 2 * 2, 5 * 6]);
        // Row 1 (frame 0, patch (0, 1)), channel 1, dy 1, dx 2.
        assert_eq!(rows.data()[30 + (6 + 3 + 2)], x.data()[24 + 6 + 5]);
        // The head's order has channels innermost.
        let mut turned = rows.clone();
        for (to, from) in turned.data_mut().chunks_exact_mut(30).zip(rows.data().chunks_exact(30)) {
            for channel in 0..5 {
                for place in 0..6 {
                    to[place * 5 + channel] = from[channel * 6 + place];
                }
            }
        }
        assert_eq!(host(unpatchify(&place.on(&turned), [3, 2, 2], [2, 3], 5)), x, "{place}");
    });
}

#[test]
fn enlargement_repeats_each_pixel_in_a_square() {
    let x = Numbers::new(8).tensor(&[2, 3, 4, 5]);
    let y = crate::upsample_nearest_2x(&x);
    assert_eq!(y.shape(), [2, 6, 8, 5]);
    for (i, v) in y.data().iter().enumerate() {
        let (t, h, w, c) = (i / 240, i / 40 % 6, i / 5 % 8, i % 5);
        assert_eq!(*v, x.data()[((t * 3 + h / 2) * 4 + w / 2) * 5 + c]);
    }
}
