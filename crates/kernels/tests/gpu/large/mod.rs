//! Arrays of more than 2^31 values: what the last blocks of a launch make of the last values, which 32 bits
//! do not count. On the shim only those blocks run, and nothing but what they touch takes memory.

mod attention;
mod conv;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use longreel_kernels::gpu::{Array, Element, Gpu, Stream, ops};
use longreel_kernels::{Activation, DType, Weight};
use longreel_shim::Shim;

use crate::{Numbers, device, on_card, rounded};

/// Just beyond what 32 bits count, signed.
const MANY: usize = (1 << 31) + (1 << 24);

fn large() -> Option<Arc<Gpu>> {
    if on_card() {
        return device();
    }
    let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    Some(Gpu::new(Box::new(shim.with_ends_of_launches(64 << 30, 1)), Element::Bf16))
}

/// An array that nobody has written; `None`, said aloud, where there is no memory of this size.
fn unset(gpu: &Arc<Gpu>, element: Element, len: usize) -> Option<Array> {
    let array = Array::unset(gpu, element, len);
    gpu.check().map_err(|why| eprintln!("skipped: {why}")).ok().map(|()| array)
}

/// An array of these values, by a copy: of a kernel that rounds them not all blocks would run.
fn given(gpu: &Arc<Gpu>, element: Element, values: &[f32]) -> Array {
    let array = Array::unset(gpu, element, values.len());
    put(&array, 0, values);
    array
}

fn put(to: &Array, at: usize, values: &[f32]) {
    let bytes: Vec<u8> = match to.element() {
        Element::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Element::Bf16 => {
            values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()
        }
    };
    let at = to.address().plus(at * to.element().bytes());
    to.gpu().driver().upload(Stream::Compute, at, &bytes).expect("it is there");
}

fn get(from: &Array, range: Range<usize>) -> Vec<f32> {
    let size = from.element().bytes();
    let mut bytes = vec![0; range.len() * size];
    from.gpu().check().expect("nothing failed");
    let at = from.address().plus(range.start * size);
    from.gpu().driver().download(at, &mut bytes).expect("it is there");
    from.element().singles(&bytes)
}

fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs();
        assert!(
            off <= tolerance * (1.0 + expected.abs()),
            "{what}: {i} is {found}, not {expected}"
        );
    }
}

/// Of bf16 results.
const TOLERANCE: f64 = 1.0 / 128.0;

fn wide(values: &[f32]) -> Vec<f64> {
    rounded(values, Element::Bf16).into_iter().map(f64::from).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Weights for sums of about one.
fn weights(numbers: &mut Numbers, outputs: usize, inputs: usize) -> Vec<f32> {
    let factor = 2.0 / (inputs as f32).sqrt();
    numbers.vec(outputs * inputs).into_iter().map(|v| v * factor).collect()
}

#[test]
fn products_reach_the_last_rows_of_long_inputs() {
    let Some(gpu) = large() else { return };
    // On the tensor cores, and in f32 for rows that are not in pieces of 16 bytes.
    for (inputs, outputs, element) in [(13_824, 40, Element::Bf16), (1001, 5, Element::F32)] {
        let rows = MANY.div_ceil(inputs);
        let Some(x) = unset(&gpu, Element::Bf16, rows * inputs) else { return };
        let mut numbers = Numbers::new(inputs as u64);
        let (last, weight) = (numbers.vec(2 * inputs), weights(&mut numbers, outputs, inputs));
        put(&x, (rows - 2) * inputs, &last);
        let dense = given(&gpu, element, &weight);
        let dense = ops::Dense::of(&dense, outputs, inputs);
        let out = ops::linear(&x, rows, &dense, None, Activation::None, Element::F32);
        let (last, weight) = (wide(&last), rounded(&weight, element));
        let weight: Vec<f64> = weight.into_iter().map(f64::from).collect();
        let product = |i: usize| {
            dot(&last[i / outputs * inputs..][..inputs], &weight[i % outputs * inputs..][..inputs])
        };
        let expected: Vec<f64> = (0..2 * outputs).map(product).collect();
        close("a product", &get(&out, (rows - 2) * outputs..rows * outputs), &expected, 1e-4);
    }
}

#[test]
fn products_in_8_bits_reach_the_last_rows_of_long_inputs() {
    let Some(gpu) = large() else { return };
    // On the tensor cores, and for rows that are not in pieces of 16 bytes.
    for (inputs, outputs) in [(13_824, 40), (1001, 5)] {
        let rows = MANY.div_ceil(inputs);
        let Some(x) = unset(&gpu, Element::Bf16, rows * inputs) else { return };
        let mut numbers = Numbers::new(inputs as u64);
        let (last, weight) = (numbers.vec(inputs), weights(&mut numbers, outputs, inputs));
        put(&x, (rows - 1) * inputs, &last);
        let codes = ops::Codes::of(&x, rows, inputs);
        drop(x);
        let weight = Weight::e4m3(&[outputs, inputs], &weight);
        let mut bytes = weight.bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let there = Array::from_bytes(&gpu, Element::Bf16, &bytes);
        let factors = Array::from_host(&gpu, weight.scales().expect("a factor a row"));
        let dense = ops::DenseCodes { address: there.address(), factors: &factors, inputs };
        let out = ops::linear_codes(&codes, &dense, None, Activation::None, Element::F32);
        let last = rounded(&last, Element::Bf16);
        let last = Weight::e4m3(&[1, inputs], &last).to_f32();
        let last: Vec<f64> = last.into_iter().map(f64::from).collect();
        let weight: Vec<f64> = weight.to_f32().into_iter().map(f64::from).collect();
        let expected: Vec<f64> = weight.chunks(inputs).map(|w| dot(&last, w)).collect();
        close(
            "an 8-bit product",
            &get(&out, (rows - 1) * outputs..rows * outputs),
            &expected,
            1e-4,
        );
    }
}

#[test]
fn products_are_added_to_the_last_rows_of_long_results_by_their_gates() {
    let Some(gpu) = large() else { return };
    let (inputs, outputs, tokens) = (64, 13_824, 3600);
    let rows = MANY.div_ceil(outputs);
    let frames = rows.div_ceil(tokens);
    let Some(mut into) = unset(&gpu, Element::Bf16, rows * outputs) else { return };
    let Some(y) = unset(&gpu, Element::Bf16, rows * inputs) else { return };
    let mut numbers = Numbers::new(1);
    let (last, before) = (numbers.vec(inputs), numbers.vec(outputs));
    put(&y, (rows - 1) * inputs, &last);
    put(&into, (rows - 1) * outputs, &before);
    let weight = weights(&mut numbers, outputs, inputs);
    let gates = numbers.vec(frames * outputs);
    let dense = given(&gpu, Element::Bf16, &weight);
    let values = Array::from_host(&gpu, &gates);
    let gate = ops::PerFrame { values: &values, tokens_per_frame: tokens };
    let dense = ops::Dense::of(&dense, outputs, inputs);
    ops::linear_residual(&mut into, &y, rows, &dense, None, Some(gate));
    let (last, before, weight) = (wide(&last), wide(&before), wide(&weight));
    // The last tile's columns.
    let columns = outputs - 128..outputs;
    let expected: Vec<f64> = columns
        .clone()
        .map(|c| {
            let gate = f64::from(gates[(frames - 1) * outputs + c]);
            before[c] + gate * dot(&last, &weight[c * inputs..][..inputs])
        })
        .collect();
    let found = get(&into, (rows - 1) * outputs + columns.start..rows * outputs);
    close("a gated product", &found, &expected, TOLERANCE);
}

#[test]
fn norms_and_gates_reach_the_last_rows() {
    let Some(gpu) = large() else { return };
    let (dim, tokens, head) = (5120, 3600, 128);
    let rows = MANY.div_ceil(dim);
    let frames = rows.div_ceil(tokens);
    let at = (rows - 1) * dim;
    let Some(mut x) = unset(&gpu, Element::Bf16, rows * dim) else { return };
    let mut numbers = Numbers::new(5);
    let row = numbers.vec(dim);
    put(&x, at, &row);
    let row = wide(&row);
    let signal = numbers.vec(frames * dim);
    let values = Array::from_host(&gpu, &signal);
    let signal = &signal[(frames - 1) * dim..];
    let frame = ops::PerFrame { values: &values, tokens_per_frame: tokens };
    let normed = ops::layer_norm(&x, dim, None, 1e-6, Some([frame; 2]), Element::Bf16);
    let mean = row.iter().sum::<f64>() / dim as f64;
    let square = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
    let expected: Vec<f64> = row
        .iter()
        .zip(signal)
        .map(|(v, &s)| (v - mean) / (square + 1e-6).sqrt() * (1.0 + f64::from(s)) + f64::from(s))
        .collect();
    let found = get(&normed, at..at + dim);
    close("a layer norm", &found, &expected, TOLERANCE);

    ops::gate_residual(&mut x, &normed, dim, Some(frame));
    let sums = row.iter().zip(&found).zip(signal);
    let expected: Vec<f64> = sums.map(|((v, &n), &s)| v + f64::from(s) * f64::from(n)).collect();
    let row = get(&x, at..at + dim);
    close("a gate", &row, &expected, TOLERANCE);
    drop(normed);

    let Some(table) = unset(&gpu, Element::F32, rows * head / 2) else { return };
    let angles = numbers.vec(head / 2);
    put(&table, (rows - 1) * head / 2, &angles);
    let gamma = numbers.vec(dim);
    let weight = Array::from_host(&gpu, &gamma);
    ops::rms_norm_rope(&mut x, dim, Some(&weight), 1e-6, Some((&table, &table, dim / head)));
    let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / dim as f64;
    let normed = |i: usize| f64::from(row[i]) / (mean + 1e-6).sqrt() * f64::from(gamma[i]);
    let turned = |i: usize| {
        let (angle, first) = (f64::from(angles[i % head / 2]), i / 2 * 2);
        let sign = if i == first { -1.0 } else { 1.0 };
        angle * (normed(first + i % 2) + sign * normed(first + 1 - i % 2))
    };
    let expected: Vec<f64> = (0..dim).map(turned).collect();
    close("an RMS norm", &get(&x, at..at + dim), &expected, TOLERANCE);
}

#[test]
fn channels_are_normed_in_the_last_pixels() {
    let Some(gpu) = large() else { return };
    let dim = 96;
    let rows = MANY.div_ceil(dim);
    let Some(mut x) = unset(&gpu, Element::Bf16, rows * dim) else { return };
    let mut numbers = Numbers::new(6);
    let (row, gamma) = (numbers.vec(dim), numbers.vec(dim));
    put(&x, (rows - 1) * dim, &row);
    let row = wide(&row);
    ops::channel_norm(&mut x, &Array::from_host(&gpu, &gamma), None, false);
    let size = (dot(&row, &row) / dim as f64).sqrt();
    let expected: Vec<f64> =
        row.iter().zip(&gamma).map(|(v, &g)| v / size * f64::from(g)).collect();
    close("a channel norm", &get(&x, (rows - 1) * dim..rows * dim), &expected, TOLERANCE);
}

/// Where the last of 4096 blocks of 256 threads, with so many values a thread at a time, has its last
/// values in an array of `len`.
fn last_of_the_last_block(len: usize, values: usize) -> usize {
    let (turn, own) = (4096 * 256 * values, 256 * values);
    len / turn * turn - own
}

#[test]
fn values_are_changed_one_by_one_to_the_last() {
    let Some(gpu) = large() else { return };
    let len = MANY;
    let at = last_of_the_last_block(len, 8);
    assert!(at > 1 << 31);
    let Some(mut x) = unset(&gpu, Element::Bf16, len) else { return };
    let Some(y) = unset(&gpu, Element::Bf16, len) else { return };
    let mut numbers = Numbers::new(7);
    let (ours, theirs) = (numbers.vec(2048), numbers.vec(2048));
    put(&x, at, &ours);
    put(&y, at, &theirs);
    let (ours, theirs) = (wide(&ours), wide(&theirs));
    let sums = ops::combine(&[(0.5, &x), (2.0, &y)], Element::Bf16);
    let expected: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| 0.5 * a + 2.0 * b).collect();
    close("a sum", &get(&sums, at..at + 2048), &expected, TOLERANCE);
    drop(sums);
    ops::mul_inplace(&mut x, &y);
    let products: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a * b).collect();
    close("products", &get(&x, at..at + 2048), &products, TOLERANCE);
    let slopes = Array::from_host(&gpu, &[0.25, 0.5]);
    ops::prelu_inplace(&mut x, &slopes);
    let slope = |i: usize| if i.is_multiple_of(2) { 0.25 } else { 0.5 };
    let turned: Vec<f64> =
        products.iter().enumerate().map(|(i, &v)| if v < 0.0 { v * slope(i) } else { v }).collect();
    close("a prelu", &get(&x, at..at + 2048), &turned, TOLERANCE);
    ops::activate_inplace(&mut x, Activation::Silu);
    let silu: Vec<f64> = turned.iter().map(|v| v / (1.0 + (-v).exp())).collect();
    close("an activation", &get(&x, at..at + 2048), &silu, TOLERANCE);
    ops::clamp_inplace(&mut x, -0.1, 0.1);
    let clamped: Vec<f64> = silu.iter().map(|v| v.clamp(-0.1, 0.1)).collect();
    close("a clamp", &get(&x, at..at + 2048), &clamped, TOLERANCE);
    drop(y);
    let Some(_) = unset(&gpu, Element::F32, len) else { return };
    let singles = ops::convert(&x, Element::F32);
    close("singles", &get(&singles, at..at + 2048), &clamped, TOLERANCE);
}

#[test]
fn weights_become_values_to_the_last() {
    let Some(gpu) = large() else { return };
    let (rows, columns) = (2000, MANY / 2000 / 32 * 32 + 32);
    let len = rows * columns;
    let at = last_of_the_last_block(len, 8);
    // Blocks of 34 bytes, in an array of as many as that takes.
    let Some(bytes) = unset(&gpu, Element::Bf16, len / 32 * 17) else { return };
    let block = [&[0x00, 0x3c][..], &[3; 32]].concat();
    let blocks = block.repeat(2048 / 32);
    let place = bytes.address().plus(at / 32 * 34);
    gpu.driver().upload(Stream::Compute, place, &blocks).expect("it is there");
    let mut factors = vec![0.0; rows];
    factors[at / columns] = 0.5;
    factors[(at + 2047) / columns] = 0.5;
    let scales = Array::from_host(&gpu, &factors);
    let values =
        ops::dequantize(&gpu, bytes.address(), DType::Q8_0, len, Some(&scales), Element::Bf16);
    assert_eq!(get(&values, at..at + 2048), [1.5; 2048]);
}

#[test]
fn columns_are_moved_in_the_last_rows() {
    let Some(gpu) = large() else { return };
    let width = 5120;
    let rows = MANY.div_ceil(width);
    let (first, count) = (4096, 1024);
    let Some(x) = unset(&gpu, Element::Bf16, rows * width) else { return };
    // Values of the result that the last block moves last.
    let at = last_of_the_last_block(rows * count, 1);
    let row = at / count;
    assert!(row * width > 1 << 31);
    let values = Numbers::new(8).vec(4 * count);
    for (i, values) in values.chunks(count).enumerate() {
        put(&x, (row + i) * width + first, values);
    }
    let found = ops::columns(&x, [rows, width], first..first + count);
    let expected = &wide(&values)[at % count..][..256];
    close("columns", &get(&found, at..at + 256), expected, 0.0);
}
