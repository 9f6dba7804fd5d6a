use longreel_kernels::ops::{channel_norm, channel_normed, layer_norm, rms_norm_rope};
use longreel_kernels::{Modulation, PerFrame, RopeTable, Tensor, Vector};

use crate::{
    Expected, Numbers, assert_close, assert_same_on_any_threads, host, on_every_device, wide,
};

const DIMS: [usize; 6] = [4, 20, 37, 64, 150, 1536];

/// The result is of order one, each step rounds once: a few units of the largest intermediate.
fn expected(value: f64, size: f64) -> Expected {
    Expected { value, tolerance: 1.5e-6 * (value.abs() + size) }
}

#[test]
fn layer_norm_with_affine_and_modulation_equals_the_reference() {
    on_every_device(|place| {
        for (i, dim) in DIMS.into_iter().enumerate() {
            let mut numbers = Numbers::new(i as u64);
            let rows = 12;
            let mut x = numbers.tensor(&[rows, dim]);
            // A mean far from zero, as residual streams have.
            x.data_mut().iter_mut().for_each(|v| *v += 3.0);
            let (weight, bias) = (Vector::from(numbers.vec(dim)), Vector::from(numbers.vec(dim)));
            let (shift, scale) = (numbers.tensor(&[3, dim]), numbers.tensor(&[1, dim]));
            for (affine, modulated) in [(false, false), (true, false), (false, true), (true, true)]
            {
                let mut all = Vec::new();
                for (token, row) in x.data().chunks_exact(dim).enumerate() {
                    let row = wide(row);
                    let mean = row.iter().sum::<f64>() / dim as f64;
                    let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
                    for (j, v) in row.iter().enumerate() {
                        let mut v = (v - mean) / (var + 1e-6).sqrt();
                        let mut size = 3.0 / (var + 1e-6).sqrt();
                        if affine {
                            v = v * f64::from(weight[j]) + f64::from(bias[j]);
                            size += 1.0;
                        }
                        if modulated {
                            v = v * (1.0 + f64::from(scale.data()[j]))
                                + f64::from(shift.data()[token / 4 * dim + j]);
                            size = 2.0 * size + 1.0;
                        }
                        all.push(expected(v, size));
                    }
                }
                let (shift, scale) = (place.on(&shift), place.on(&scale));
                let found = layer_norm(
                    &place.on(&x),
                    affine.then_some((&weight, &bias)),
                    1e-6,
                    modulated.then_some(Modulation {
                        shift: PerFrame { values: &shift, tokens_per_frame: 4 },
                        scale: PerFrame { values: &scale, tokens_per_frame: 4 },
                    }),
                );
                assert_close(&format!("{place} layer_norm {dim}"), host(found).data(), &all);
            }
        }
    });
}

#[test]
fn rms_norm_and_rope_equal_the_reference() {
    on_every_device(|place| {
        for (heads, half) in [(1, 2), (2, 5), (3, 10), (2, 16), (4, 32), (12, 64)] {
            let (rows, dim) = (9, 2 * heads * half);
            let mut numbers = Numbers::new(half as u64);
            let x = numbers.tensor(&[rows, dim]);
            let weight = Vector::from(numbers.vec(dim));
            let angles: Vec<f32> = (0..rows * half).map(|_| 3.0 * numbers.next()).collect();
            let of = |f: fn(f32) -> f32| {
                Tensor::from_vec(&[rows, half], angles.iter().map(|&a| f(a)).collect())
            };
            let (cos, sin) = (of(f32::cos), of(f32::sin));
            let table = RopeTable { cos: &cos, sin: &sin };
            for (normed, turned) in [(true, true), (true, false), (false, true)] {
                let mut all = Vec::new();
                for (token, row) in x.data().chunks_exact(dim).enumerate() {
                    let mut row = wide(row);
                    if normed {
                        let mean = row.iter().map(|v| v * v).sum::<f64>() / dim as f64;
                        for (v, w) in row.iter_mut().zip(&weight[..]) {
                            *v = *v / (mean + 1e-6).sqrt() * f64::from(*w);
                        }
                    }
                    if turned {
                        for (i, pair) in row.chunks_exact_mut(2).enumerate() {
                            let at = token * half + i % half;
                            let cos = f64::from(table.cos.data()[at]);
                            let sin = f64::from(table.sin.data()[at]);
                            let (a, b) = (pair[0], pair[1]);
                            (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
                        }
                    }
                    all.extend(row.into_iter().map(|v| expected(v, 1.0)));
                }
                let mut found = place.on(&x);
                let weight = normed.then_some(&weight);
                let (cos, sin) = (place.on(table.cos), place.on(table.sin));
                let table = RopeTable { cos: &cos, sin: &sin };
                rms_norm_rope(&mut found, weight, 1e-6, turned.then_some((table, heads)));
                let name = format!("{place} rms_norm_rope {heads}x{half}");
                assert_close(&name, host(found).data(), &all);
            }
        }
    });
}

#[test]
fn tokens_behind_the_last_angle_begin_again_with_the_first() {
    on_every_device(|place| {
        let (heads, half, rows) = (3, 10, 7);
        let dim = 2 * heads * half;
        let mut numbers = Numbers::new(1);
        let [cos, sin] = [(); 2].map(|()| numbers.tensor(&[rows, half]));
        let (cos, sin) = (place.on(&cos), place.on(&sin));
        let table = RopeTable { cos: &cos, sin: &sin };
        let weight = Vector::from(numbers.vec(dim));
        let x = numbers.tensor(&[3 * rows, dim]);
        let turned = |x: &Tensor| {
            let mut x = place.on(x);
            rms_norm_rope(&mut x, Some(&weight), 1e-6, Some((table, heads)));
            host(x)
        };
        let together = turned(&x);
        for first in [0, rows, 2 * rows] {
            let own = first..first + rows;
            assert!(together.slice0(own.clone()) == turned(&x.slice0(own)), "{place}: {first}");
        }
    });
}

#[test]
fn channel_norm_equals_the_reference() {
    on_every_device(|place| {
        for (i, dim) in [1, 3, 8, 12, 16, 40, 96, 384].into_iter().enumerate() {
            let mut numbers = Numbers::new(i as u64);
            let mut x = numbers.tensor(&[2, 3, 5, dim]);
            // A pixel of zeros is divided by the bound instead.
            x.data_mut()[..dim].fill(0.0);
            let (gamma, bias) = (Vector::from(numbers.vec(dim)), Vector::from(numbers.vec(dim)));
            for (biased, silu) in [(false, true), (true, false), (true, true)] {
                let mut all = Vec::new();
                for row in x.data().chunks_exact(dim) {
                    let row = wide(row);
                    let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
                    for (j, v) in row.iter().enumerate() {
                        let mut v = v / norm * (dim as f64).sqrt() * f64::from(gamma[j]);
                        if biased {
                            v += f64::from(bias[j]);
                        }
                        all.push(expected(if silu { v / (1.0 + (-v).exp()) } else { v }, 1.0));
                    }
                }
                let mut found = place.on(&x);
                channel_norm(&mut found, &gamma, biased.then_some(&bias), silu);
                let new = channel_normed(&place.on(&x), &gamma, biased.then_some(&bias), silu);
                let found = host(found);
                assert_eq!(host(new), found, "{place} channel_normed {dim}");
                assert_close(&format!("{place} channel_norm {dim}"), found.data(), &all);
            }
        }
    });
}

#[test]
fn norms_do_not_depend_on_the_number_of_threads() {
    let x = Numbers::new(2).tensor(&[700, 96]);
    let gamma = Vector::from(vec![1.0; 96]);
    assert_same_on_any_threads("layer_norm", || layer_norm(&x, None, 1e-6, None));
    assert_same_on_any_threads("rms_norm", || {
        let mut x = x.clone();
        rms_norm_rope(&mut x, Some(&gamma), 1e-6, None);
        channel_norm(&mut x, &gamma, None, true);
        x
    });
}
