use std::sync::Arc;

use longreel_kernels::Activation;
use longreel_kernels::gpu::{Arg, Array, Element, Gpu, Launch, ops};

use crate::{ELEMENTS, Numbers, array, assert_close, device, device_with_products, rounded, wide};

const ACTIVATIONS: [Activation; 5] = [
    Activation::None,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Silu,
];

pub(crate) fn activated(x: f64, activation: Activation) -> f64 {
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    match activation {
        Activation::None => x,
        Activation::Gelu => 0.5 * x * libm::erfc(-x / 2f64.sqrt()),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Silu => x * sigmoid(x),
    }
}

/// A layer whose outputs are of about one, and some rows for it.
struct Layer {
    rows: usize,
    outputs: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        let mut numbers = Numbers::new((rows * 31 + inputs * 7 + outputs) as u64);
        let factor = 3.0 / (inputs as f32).sqrt();
        let weight = numbers.vec(outputs * inputs).iter().map(|w| w * factor).collect();
        let (x, bias) = (numbers.vec(rows * inputs), numbers.vec(outputs));
        Self { rows, outputs, x, weight, bias }
    }

    fn inputs(&self) -> usize {
        self.weight.len() / self.outputs
    }

    /// `x W^T + b` of what is left of the values in these elements.
    fn expected(&self, x_element: Element, weight_element: Element) -> Vec<f64> {
        let (x, weight) = (rounded(&self.x, x_element), rounded(&self.weight, weight_element));
        let value = |i: usize| {
            let (row, column) = (i / self.outputs, i % self.outputs);
            let x = &x[row * self.inputs()..][..self.inputs()];
            let w = &weight[column * self.inputs()..][..self.inputs()];
            let product: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            product + f64::from(self.bias[column])
        };
        (0..self.rows * self.outputs).map(value).collect()
    }

    fn on(&self, gpu: &Arc<Gpu>, x: Element, weight: Element) -> (Array, Array, Array) {
        (
            array(gpu, &self.x, x),
            array(gpu, &self.weight, weight),
            Array::from_host(gpu, &self.bias),
        )
    }
}

/// Rows, inputs, outputs: one of each, edges of tiles and stages, inputs that are not in pieces of 16
/// bytes, an odd number of outputs.
const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 8, 64],
    [3, 40, 5],
    [64, 32, 64],
    [65, 96, 66],
    [70, 136, 130],
    [129, 64, 7],
    [20, 33, 31],
    [7, 100, 9],
];

#[test]
fn a_layer_equals_the_reference_in_every_mix_of_elements() {
    let Some(gpu) = device() else { return };
    for [rows, inputs, outputs] in SHAPES {
        let layer = Layer::new(rows, inputs, outputs);
        for (x_element, weight_element) in ELEMENTS.map(|a| ELEMENTS.map(|b| (a, b))).concat() {
            let (x, weight, bias) = layer.on(&gpu, x_element, weight_element);
            let weight = ops::Dense::of(&weight, outputs, inputs);
            let expected = layer.expected(x_element, weight_element);
            for out in ELEMENTS {
                let found = ops::linear(&x, rows, &weight, Some(&bias), Activation::None, out);
                let what = format!("{rows} x {inputs} x {outputs} of {x_element:?}, {weight:?}");
                assert_close(&what, found, &expected, 3e-6);
            }
        }
    }
}

#[test]
fn a_layer_too_large_for_small_tiles_equals_the_reference() {
    let Some(gpu) = device() else { return };
    let layer = Layer::new(1030, 40, 2050);
    let (x, weight, bias) = layer.on(&gpu, Element::Bf16, Element::Bf16);
    let weight = ops::Dense::of(&weight, 2050, 40);
    let found = ops::linear(&x, 1030, &weight, Some(&bias), Activation::None, Element::F32);
    assert_close("large", found, &layer.expected(Element::Bf16, Element::Bf16), 3e-6);
}

#[test]
fn every_activation_follows_the_bias() {
    for gpu in [device(), device_with_products()].into_iter().flatten() {
        for element in ELEMENTS {
            let layer = Layer::new(9, 48, 35);
            let (x, weight, bias) = layer.on(&gpu, element, element);
            let weight = ops::Dense::of(&weight, 35, 48);
            for activation in ACTIVATIONS {
                let expected = layer.expected(element, element);
                let expected: Vec<f64> =
                    expected.into_iter().map(|v| activated(v, activation)).collect();
                for out in ELEMENTS {
                    let found = ops::linear(&x, 9, &weight, Some(&bias), activation, out);
                    // What a library gives as bf16 is rounded before an activation of ours, too.
                    let tolerance = if out == Element::F32 { 5e-6 } else { 4e-3 };
                    assert_close(&format!("{activation:?}"), found, &expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn a_residual_is_added_by_the_gate_of_its_frame() {
    for (library, gpu) in [(false, device()), (true, device_with_products())] {
        let Some(gpu) = gpu else { return };
        for (rows, inputs, outputs) in [(22, 24, 13), (67, 40, 66), (10, 9, 8)] {
            let layer = Layer::new(rows, inputs, outputs);
            let mut numbers = Numbers::new(5);
            let before = numbers.vec(rows * outputs);
            // Eight tokens a frame, the last frame not full; one row for all; none.
            for frames in [rows.div_ceil(8), 1, 0] {
                let gate = numbers.vec(frames * outputs);
                let gates = (frames > 0).then(|| Array::from_host(&gpu, &gate));
                let gates =
                    gates.as_ref().map(|values| ops::PerFrame { values, tokens_per_frame: 8 });
                for (element, into_element) in ELEMENTS.map(|a| ELEMENTS.map(|b| (a, b))).concat() {
                    let (y, weight, bias) = layer.on(&gpu, element, element);
                    let weight = ops::Dense::of(&weight, outputs, inputs);
                    let mut into = array(&gpu, &before, into_element);
                    let product = layer.expected(element, element);
                    let old = rounded(&before, into_element);
                    let value = |i: usize| {
                        let (frame, column) = (i / outputs / 8, i % outputs);
                        let factor = match frames {
                            0 => 1.0,
                            1 => f64::from(gate[column]),
                            _ => f64::from(gate[frame * outputs + column]),
                        };
                        f64::from(old[i]) + factor * product[i]
                    };
                    let expected: Vec<f64> = (0..before.len()).map(value).collect();
                    ops::linear_residual(&mut into, &y, rows, &weight, Some(&bias), gates);
                    // A library's product waits for its gate in the element of `y`.
                    let narrow = library && frames > 0 && element == Element::Bf16;
                    let tolerance = if narrow { 2e-2 } else { 3e-6 };
                    let what = format!("{element:?} {frames} gates, library: {library}");
                    assert_close(&what, into, &expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn a_feed_forward_in_one_call_is_its_two_layers() {
    for gpu in [device(), device_with_products()].into_iter().flatten() {
        for element in ELEMENTS {
            let (rows, dim, hidden) = (37, 24, 56);
            let (up, mut down) = (Layer::new(rows, dim, hidden), Layer::new(rows, hidden, dim));
            let gate = Numbers::new(3).vec(5 * dim);
            let gates = Array::from_host(&gpu, &gate);
            let gate_of = |i: usize| f64::from(gate[i / dim / 8 * dim + i % dim]);
            let (y, first, first_bias) = up.on(&gpu, element, element);
            let (_, second, second_bias) = down.on(&gpu, element, element);
            let wide = up.expected(element, element);
            down.x = wide.into_iter().map(|v| activated(v, Activation::GeluTanh) as f32).collect();
            let narrow = down.expected(element, element);
            let expected: Vec<f64> =
                narrow.into_iter().enumerate().map(|(i, v)| 0.5 + gate_of(i) * v).collect();
            let mut into = array(&gpu, &vec![0.5; rows * dim], Element::F32);
            ops::feed_forward_residual(
                &mut into,
                &y,
                rows,
                (&ops::Dense::of(&first, hidden, dim), Some(&first_bias)),
                (&ops::Dense::of(&second, dim, hidden), Some(&second_bias)),
                Activation::GeluTanh,
                Some(ops::PerFrame { values: &gates, tokens_per_frame: 8 }),
            );
            let tolerance = if element == Element::F32 { 5e-6 } else { 2e-2 };
            assert_close(&format!("{element:?}"), into, &expected, tolerance);
        }
    }
}

/// What a slice of a long film's rows is: row 0 is a later token.
#[test]
fn rows_of_a_later_token_use_its_gate() {
    let Some(gpu) = device() else { return };
    let (rows, outputs, first) = (12, 64, 21);
    let layer = Layer::new(rows, 8, outputs);
    let gate = Numbers::new(4).vec(5 * outputs);
    let gates = Array::from_host(&gpu, &gate);
    let (x, weight, bias) = layer.on(&gpu, Element::Bf16, Element::Bf16);
    let product = layer.expected(Element::Bf16, Element::Bf16);
    let factor = |i: usize| f64::from(gate[(first + i / outputs) / 8 * outputs + i % outputs]);
    let expected: Vec<f64> = product.iter().enumerate().map(|(i, v)| factor(i) * v).collect();
    for (kernel, threads, shared_bytes) in
        [("gemm_64x64", 128, 3 * 128 * 64), ("gemm_bf16_bf16", 256, 0)]
    {
        let out = Array::zeros(&gpu, Element::F32, rows * outputs);
        let pointer = |array: &Array| Arg::Pointer(array.address());
        let [out_bf16, tokens_per_frame, activation, add] = [0, 8, 0, 1].map(Arg::Int);
        let [first, rows, inputs, outputs] =
            [first as i32, rows as i32, 8, outputs as i32].map(Arg::Int);
        let args = [
            pointer(&x),
            pointer(&weight),
            pointer(&out),
            out_bf16,
            pointer(&bias),
            pointer(&gates),
            tokens_per_frame,
            first,
            activation,
            add,
            rows,
            inputs,
            outputs,
        ];
        let launch = Launch { module: "gemm", kernel, grid: [1, 1, 1], threads, shared_bytes };
        gpu.driver().launch(&launch, &args).expect("it runs");
        assert_close(kernel, out, &expected, 3e-6);
    }
}

/// Why f16 files need no products of their own: what bf16 takes of their weights is no more than what it takes of
/// what they are multiplied with.
#[test]
fn half_precision_weights_lose_less_in_bf16_than_activations_do() {
    let Some(gpu) = device() else { return };
    let [rows, inputs, outputs] = [48, 256, 96];
    let layer = Layer::new(rows, inputs, outputs);
    let half: Vec<f32> = layer.weight.iter().map(|&w| half::f16::from_f32(w).to_f32()).collect();
    let product = |x: &[f32], w: &[f32]| -> Vec<f64> {
        let value = |i: usize| {
            let pairs = x[i / outputs * inputs..][..inputs].iter();
            let pairs = pairs.zip(&w[i % outputs * inputs..][..inputs]);
            pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        (0..rows * outputs).map(value).collect()
    };
    let exact = product(&layer.x, &half);
    let distance = |found: &[f64]| {
        let error: f64 = found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum();
        (error / exact.iter().map(|v| v * v).sum::<f64>()).sqrt()
    };
    let activations = distance(&product(&rounded(&layer.x, Element::Bf16), &half));
    let (x, weight) = (array(&gpu, &layer.x, Element::Bf16), array(&gpu, &half, Element::Bf16));
    let weight = ops::Dense::of(&weight, outputs, inputs);
    let both = ops::linear(&x, rows, &weight, None, Activation::None, Element::F32);
    let both = distance(&wide(&both.to_host().expect("it runs")));
    println!("activations in bf16 {activations:.1e}, weights too {both:.1e}");
    // Two errors of one size, of which neither knows of the other.
    assert!((1e-4..2e-3).contains(&activations), "{activations:.1e}");
    assert!(both < 1.6 * activations, "{both:.1e} against {activations:.1e}");
}
