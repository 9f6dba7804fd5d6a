use longreel_kernels::gpu::{Element, ops};

use crate::{ELEMENTS, Numbers, array, assert_close, device, rounded, wide};

/// One value, less than a vector, whole vectors, more than a block keeps in registers.
const DIMS: [usize; 9] = [1, 7, 20, 64, 150, 1536, 1537, 5120, 9000];

#[test]
fn layer_norm_with_affine_and_modulation_equals_the_reference() {
    let Some(gpu) = device() else { return };
    for (i, dim) in DIMS.into_iter().enumerate() {
        // The last frame is not whole.
        let (rows, per_frame) = (7, 3);
        for (element, out) in
            [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (ELEMENTS[a], ELEMENTS[b]))
        {
            let mut numbers = Numbers::new(i as u64);
            // A mean far from zero, as residual streams have.
            let x: Vec<f32> = numbers.vec(rows * dim).iter().map(|v| v + 3.0).collect();
            let x = rounded(&x, element);
            let (weight, bias) = (numbers.vec(dim), numbers.vec(dim));
            let (shift, scale) = (numbers.vec(3 * dim), numbers.vec(dim));
            let there = |values: &[f32]| array(&gpu, values, Element::F32);
            let parameters = [&weight, &bias, &shift, &scale].map(|v| there(v));
            let x_there = array(&gpu, &x, element);
            for (affine, modulated) in [(false, false), (true, false), (false, true), (true, true)]
            {
                let mut expected = Vec::new();
                for (token, row) in x.chunks_exact(dim).enumerate() {
                    let row = wide(row);
                    let mean = row.iter().sum::<f64>() / dim as f64;
                    let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
                    for (j, v) in row.iter().enumerate() {
                        let mut v = (v - mean) / (var + 1e-6).sqrt();
                        if affine {
                            v = v * f64::from(weight[j]) + f64::from(bias[j]);
                        }
                        if modulated {
                            let shift = shift[token / per_frame * dim + j];
                            v = v * (1.0 + f64::from(scale[j])) + f64::from(shift);
                        }
                        expected.push(v);
                    }
                }
                let [weight, bias, shift, scale] = &parameters;
                let frames = |values| ops::PerFrame { values, tokens_per_frame: per_frame };
                let found = ops::layer_norm(
                    &x_there,
                    dim,
                    affine.then_some((weight, bias)),
                    1e-6,
                    modulated.then_some([frames(shift), frames(scale)]),
                    out,
                );
                // The mean is rounded at its own size, ten times the deviation.
                let what = format!("layer_norm {element:?} {dim} {affine} {modulated}");
                assert_close(&what, found, &expected, 1e-5);
            }
        }
    }
}

#[test]
fn rms_norm_and_rope_equal_the_reference() {
    let Some(gpu) = device() else { return };
    for (heads, half) in [(1, 1), (2, 5), (3, 10), (2, 16), (4, 32), (12, 64), (40, 64), (70, 64)] {
        // The table goes on behind the last token, or begins again for the second half of them.
        let (rows, known, dim) = (6, if heads % 2 == 0 { 3 } else { 8 }, 2 * heads * half);
        let mut numbers = Numbers::new(half as u64);
        let (values, weight) = (numbers.vec(rows * dim), numbers.vec(dim));
        let angles: Vec<f32> = (0..known * half).map(|_| 3.0 * numbers.next()).collect();
        let [cos, sin] =
            [f32::cos, f32::sin].map(|f| angles.iter().map(|&a| f(a)).collect::<Vec<_>>());
        let [w, c, s] = [&weight, &cos, &sin].map(|v| array(&gpu, v, Element::F32));
        for element in ELEMENTS {
            let x = rounded(&values, element);
            for (normed, turned) in [(true, true), (true, false), (false, true), (false, false)] {
                let mut expected = Vec::new();
                for (token, row) in x.chunks_exact(dim).enumerate() {
                    let mut row = wide(row);
                    if normed {
                        let mean = row.iter().map(|v| v * v).sum::<f64>() / dim as f64;
                        for (v, w) in row.iter_mut().zip(&weight) {
                            *v = *v / (mean + 1e-6).sqrt() * f64::from(*w);
                        }
                    }
                    if turned {
                        for (i, pair) in row.chunks_exact_mut(2).enumerate() {
                            let at = token % known * half + i % half;
                            let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                            let (a, b) = (pair[0], pair[1]);
                            (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
                        }
                    }
                    expected.extend(row);
                }
                let mut found = array(&gpu, &x, element);
                let rope = turned.then_some((&c, &s, heads));
                ops::rms_norm_rope(&mut found, dim, normed.then_some(&w), 1e-6, rope);
                let what = format!("rms_norm_rope {heads}x{half} {normed} {turned}");
                assert_close(&what, found, &expected, 2e-6);
            }
        }
    }
}

#[test]
fn rms_norm_of_rows_of_any_length_equals_the_reference() {
    let Some(gpu) = device() else { return };
    for dim in DIMS {
        let mut numbers = Numbers::new(dim as u64);
        let (x, weight) = (numbers.vec(3 * dim), numbers.vec(dim));
        let mut expected = Vec::new();
        for row in x.chunks_exact(dim) {
            let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / dim as f64;
            let scaled = row.iter().zip(&weight);
            expected
                .extend(scaled.map(|(&v, &w)| f64::from(v) / (mean + 1e-6).sqrt() * f64::from(w)));
        }
        let mut found = array(&gpu, &x, Element::F32);
        let weight = array(&gpu, &weight, Element::F32);
        ops::rms_norm_rope(&mut found, dim, Some(&weight), 1e-6, None);
        assert_close(&format!("rms_norm {dim}"), found, &expected, 2e-6);
    }
}

#[test]
fn channel_norm_equals_the_reference() {
    let Some(gpu) = device() else { return };
    for (i, dim) in [1, 3, 8, 12, 16, 40, 96, 192, 384, 1000, 1100].into_iter().enumerate() {
        let mut numbers = Numbers::new(i as u64);
        let mut values = numbers.vec(45 * dim);
        // A pixel of zeros is divided by the bound instead.
        values[..dim].fill(0.0);
        let (gamma, bias) = (numbers.vec(dim), numbers.vec(dim));
        let [g, b] = [&gamma, &bias].map(|v| array(&gpu, v, Element::F32));
        for element in ELEMENTS {
            let x = rounded(&values, element);
            for (biased, silu) in [(false, true), (true, false), (true, true)] {
                let mut expected = Vec::new();
                for row in x.chunks_exact(dim) {
                    let row = wide(row);
                    let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
                    for (j, v) in row.iter().enumerate() {
                        let mut v = v / norm * (dim as f64).sqrt() * f64::from(gamma[j]);
                        if biased {
                            v += f64::from(bias[j]);
                        }
                        expected.push(if silu { v / (1.0 + (-v).exp()) } else { v });
                    }
                }
                let mut there = array(&gpu, &x, element);
                let bias = biased.then_some(&b);
                let what = format!("channel_norm {element:?} {dim} {biased} {silu}");
                for out in ELEMENTS {
                    let found = ops::channel_normed(&there, &g, bias, silu, out);
                    assert_close(&what, found, &expected, 2e-6);
                }
                ops::channel_norm(&mut there, &g, bias, silu);
                assert_close(&what, there, &expected, 2e-6);
            }
        }
    }
}

#[test]
fn a_value_that_is_no_number_spoils_its_own_row_and_no_other() {
    let Some(gpu) = device() else { return };
    let (rows, dim) = (3, 40);
    let mut x = Numbers::new(3).vec(rows * dim);
    x[dim + 17] = f32::NAN;
    let ones = array(&gpu, &vec![1.0; dim], Element::F32);
    let there = array(&gpu, &x, Element::F32);
    let normed = ops::layer_norm(&there, dim, None, 1e-6, None, Element::F32);
    let channels = ops::channel_normed(&there, &ones, None, true, Element::Bf16);
    for found in [normed, channels] {
        let found = found.to_host().expect("done");
        for (row, values) in found.chunks_exact(dim).enumerate() {
            assert!(values.iter().all(|v| v.is_nan() == (row == 1)), "row {row}: {values:?}");
        }
    }
}
