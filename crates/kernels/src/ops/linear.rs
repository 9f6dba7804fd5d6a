//! Fully connected layers.

use crate::spans;
use std::ops::Range;
use std::sync::Arc;

use super::per_frame::OnGpu;
use super::{Activation, PerFrame};
use crate::gemm::{Finish, Matrix, Shared, multiply};
use crate::gpu::{Array, Element, Gpu, Layer, Ready, ops as body};
use crate::simd::{Simd, activate};
use crate::{Tensor, Vector, Weight};

/// A fully connected layer `y = x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    matrix: Matrix,
    bias: Option<Vector>,
    gpu: Layer,
}

impl Linear {
    /// `weight` is seen as `[outputs, inputs]` (trailing axes are joined), `bias` as `[outputs]`.
    ///
    /// The weight stays in its own format and place; a small one is kept packed beside it after its
    /// first use.
    pub fn new(weight: Weight, bias: Option<Vec<f32>>) -> Self {
        let matrix = Matrix::new(weight);
        if let Some(bias) = &bias {
            let outputs = matrix.outputs();
            assert_eq!(bias.len(), outputs, "Linear::new: bias against {outputs} outputs");
        }
        Self { matrix, bias: bias.map(Vector::from), gpu: Layer::default() }
    }

    /// Length of an input row.
    pub fn inputs(&self) -> usize {
        self.matrix.inputs()
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.matrix.outputs()
    }

    /// `into += x W^T + b`, for `x` of any number of rows.
    pub(super) fn add_rows(&self, into: &mut [f32], x: &[f32]) {
        add_product(into, x, self, None, 0);
    }

    /// The weight on a GPU, for an input of `element`, and the bias.
    pub(super) fn ready(&self, gpu: &Arc<Gpu>, element: Element) -> (Ready, Option<Arc<Array>>) {
        let shape = [self.outputs(), self.inputs()];
        let weight = self.gpu.ready(gpu, self.weight(), element, shape);
        (weight, self.bias.as_ref().map(|bias| bias.on(gpu)))
    }

    /// The weight as stored.
    pub fn weight(&self) -> &Weight {
        self.matrix.weight()
    }
}

/// Hidden values of `feed_forward_residual` that stand in memory at once: 64 MiB.
const HIDDEN_VALUES: usize = 1 << 24;

/// Operations and values of a layer for so many rows.
fn cost(rows: usize, layer: &Linear) -> (f64, usize) {
    let (inputs, outputs) = (layer.inputs(), layer.outputs());
    let flops = 2.0 * rows as f64 * inputs as f64 * outputs as f64;
    (flops, rows * (inputs + outputs) + inputs * outputs)
}

/// `act(x W^T + b)`: `[rows, inputs]` to `[rows, outputs]`.
pub fn linear(x: &Tensor, layer: &Linear, activation: Activation) -> Tensor {
    let _span = spans::begin("linear", || cost(x.dim(0), layer));
    let inputs = layer.inputs();
    assert_eq!(x.shape()[1..], [inputs], "linear: {:?} with {inputs} inputs", x.shape());
    if let Some(array) = x.array() {
        return on_gpu(x, layer, activation, array.element());
    }
    rows_to(&[x.dim(0), layer.outputs()], x.data(), layer, activation)
}

/// As [`linear`] without an activation, into values that are kept in full: a sum along the layers, or
/// a result of the network.
pub fn linear_full(x: &Tensor, layer: &Linear) -> Tensor {
    if x.array().is_some() {
        let _span = spans::begin("linear", || cost(x.dim(0), layer));
        return on_gpu(x, layer, Activation::None, Element::F32);
    }
    linear(x, layer, Activation::None)
}

/// [`linear`] on a GPU, the result as `out`.
fn on_gpu(x: &Tensor, layer: &Linear, activation: Activation, out: Element) -> Tensor {
    let rows = x.dim(0);
    rows_on_gpu(&[rows, layer.outputs()], x, rows, layer, activation, out)
}

/// As [`rows_to`], on a GPU, the result as `out`.
pub(super) fn rows_on_gpu(
    shape: &[usize],
    x: &Tensor,
    rows: usize,
    layer: &Linear,
    activation: Activation,
    out: Element,
) -> Tensor {
    let x = x.array().expect("asked before");
    let (ready, bias) = layer.ready(x.gpu(), x.element());
    let result = body::linear(x, rows, &ready.weight, bias.as_deref(), activation, out);
    spans::settle(x.gpu());
    Tensor::from_array(shape, result)
}

/// `act(x W^T + b)` for `x` of any number of rows, under a shape.
pub(super) fn rows_to(
    shape: &[usize],
    x: &[f32],
    layer: &Linear,
    activation: Activation,
) -> Tensor {
    let (outputs, bias) = (layer.outputs(), layer.bias.as_deref());
    // SAFETY: `multiply` hands every value of the result to `Store` exactly once.
    unsafe {
        Tensor::fill(shape, |out| {
            multiply(x, &layer.matrix, &Store { out, outputs, bias, activation });
        })
    }
}

/// `x += gate * (y W^T + b)`, the gate by latent frame (1 without one). `x` is `[rows, outputs]`.
pub fn linear_residual(x: &mut Tensor, y: &Tensor, layer: &Linear, gate: Option<PerFrame<'_>>) {
    let _span = spans::begin("linear", || cost(y.dim(0), layer));
    let (inputs, outputs) = (layer.inputs(), layer.outputs());
    assert!(
        y.shape()[1..] == [inputs] && x.shape() == [y.dim(0), outputs],
        "linear_residual: {:?} += {:?} with {inputs} inputs, {outputs} outputs",
        x.shape(),
        y.shape()
    );
    if let Some(gate) = &gate {
        gate.check("linear_residual", x.dim(0), outputs);
    }
    if let Some(y) = y.array() {
        let rows = x.dim(0);
        let gate = gate.as_ref().map(|gate| gate.on(y.gpu()));
        let into = x.array_mut().expect("linear_residual: on different devices");
        let (ready, bias) = layer.ready(y.gpu(), y.element());
        let gate = gate.as_ref().map(OnGpu::body);
        body::linear_residual(into, y, rows, &ready.weight, bias.as_deref(), gate);
        spans::settle(y.gpu());
        return;
    }
    add_product(x.data_mut(), y.data(), layer, gate, 0);
}

/// `x += gate * down(act(up(y)))`, computed in slices of rows so that the wide hidden layer never
/// stands in memory as a whole. `x` and `y` are `[rows, dim]`.
pub fn feed_forward_residual(
    x: &mut Tensor,
    y: &Tensor,
    up: &Linear,
    down: &Linear,
    activation: Activation,
    gate: Option<PerFrame<'_>>,
) {
    let _span = spans::begin("feed-forward", || {
        let (up, down) = (cost(y.dim(0), up), cost(y.dim(0), down));
        (up.0 + down.0, up.1 + down.1)
    });
    let (inputs, hidden, outputs) = (up.inputs(), up.outputs(), down.outputs());
    assert!(
        down.inputs() == hidden && y.dim(1) == inputs && x.shape() == [y.dim(0), outputs],
        "feed_forward_residual: {:?} += {:?} by {inputs} -> {hidden}, {} -> {outputs}",
        x.shape(),
        y.shape(),
        down.inputs()
    );
    if let Some(gate) = &gate {
        gate.check("feed_forward_residual", x.dim(0), outputs);
    }
    let rows = x.dim(0);
    if let Some(y) = y.array() {
        let gate = gate.as_ref().map(|gate| gate.on(y.gpu()));
        let into = x.array_mut().expect("feed_forward_residual: on different devices");
        let (up, up_bias) = up.ready(y.gpu(), y.element());
        let (down, down_bias) = down.ready(y.gpu(), y.element());
        body::feed_forward_residual(
            into,
            y,
            rows,
            (&up.weight, up_bias.as_deref()),
            (&down.weight, down_bias.as_deref()),
            activation,
            gate.as_ref().map(OnGpu::body),
        );
        spans::settle(y.gpu());
        return;
    }
    // Even slices, so that the last is not a short one.
    let slices = (rows * hidden).div_ceil(HIDDEN_VALUES).max(1);
    let slice = rows.div_ceil(slices).max(1);
    let mut first = 0;
    while first < rows {
        let here = slice.min(rows - first);
        let y = &y.data()[first * inputs..(first + here) * inputs];
        let wide = rows_to(&[here, hidden], y, up, activation);
        let x = &mut x.data_mut()[first * outputs..(first + here) * outputs];
        add_product(x, wide.data(), down, gate, first);
        first += here;
    }
}

/// `x += gate * (y W^T + b)` for rows whose first is token `first`.
fn add_product(x: &mut [f32], y: &[f32], layer: &Linear, gate: Option<PerFrame<'_>>, first: usize) {
    let finish = AddGated {
        x: Shared::new(x.as_mut_ptr()),
        outputs: layer.outputs(),
        bias: layer.bias.as_deref(),
        gate,
        first,
    };
    multiply(y, &layer.matrix, &finish);
}

/// `out = act(sums + bias)`.
struct Store<'a> {
    /// `[rows, outputs]`.
    out: Shared,
    outputs: usize,
    bias: Option<&'a [f32]>,
    activation: Activation,
}

impl Finish for Store<'_> {
    #[inline(always)]
    unsafe fn row<S: Simd>(&self, row: usize, columns: Range<usize>, sums: *const f32) {
        // SAFETY: the row and columns lie inside the result, and the caller vouches for the sums.
        unsafe {
            let out = self.out.at(row * self.outputs + columns.start);
            let mut at = 0;
            while at < columns.len() {
                let n = (columns.len() - at).min(S::LANES);
                let mut v = S::load_n(sums.add(at), n);
                if let Some(bias) = self.bias {
                    v = S::add(v, S::load_n(bias.as_ptr().add(columns.start + at), n));
                }
                S::store_n(out.add(at), n, activate::<S>(v, self.activation));
                at += n;
            }
        }
    }
}

/// `x += gate * (sums + bias)`.
struct AddGated<'a> {
    /// `[rows, outputs]`.
    x: Shared,
    outputs: usize,
    bias: Option<&'a [f32]>,
    gate: Option<PerFrame<'a>>,
    /// The token of row 0.
    first: usize,
}

impl Finish for AddGated<'_> {
    #[inline(always)]
    unsafe fn row<S: Simd>(&self, row: usize, columns: Range<usize>, sums: *const f32) {
        let gate = self.gate.as_ref().map(|gate| gate.row(self.first + row));
        // SAFETY: as for `Store`; bias and gate are as wide as the result.
        unsafe {
            let x = self.x.at(row * self.outputs + columns.start);
            let mut at = 0;
            while at < columns.len() {
                let n = (columns.len() - at).min(S::LANES);
                let mut v = S::load_n(sums.add(at), n);
                if let Some(bias) = self.bias {
                    v = S::add(v, S::load_n(bias.as_ptr().add(columns.start + at), n));
                }
                let old = S::load_n(x.add(at), n);
                let new = match gate {
                    Some(gate) => {
                        S::fma(S::load_n(gate.as_ptr().add(columns.start + at), n), v, old)
                    }
                    None => S::add(old, v),
                };
                S::store_n(x.add(at), n, new);
                at += n;
            }
        }
    }
}
