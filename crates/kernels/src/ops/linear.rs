//! Fully connected layers.

use crate::spans;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::per_frame::OnGpu;
use super::{Activation, PerFrame};
use crate::fp8::rounded_rows;
use crate::gemm::{Finish, Matrix, Products, Shared, multiply};
use crate::gpu::{Array, Element, Gpu, Layer, Ready, ReadyCodes, Use, ops as body};
use crate::simd::{Simd, activate};
use crate::{DType, Tensor, Vector, Weight};

/// A fully connected layer `y = x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    matrix: Matrix,
    bias: Option<Vector>,
    gpu: Layer,
    products: Products,
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
        let (bias, gpu) = (bias.map(Vector::from), Layer::default());
        Self { matrix, bias, gpu, products: Products::default() }
    }

    /// The same layer with other products.
    ///
    /// # Panics
    /// When products of 8-bit floats are asked for and the weight is not e4m3.
    pub fn with_products(self, products: Products) -> Self {
        let dtype = self.weight().dtype();
        assert!(
            products != Products::Fp8 || dtype == DType::F8E4M3,
            "Linear::with_products: {products:?} of a weight in {}",
            dtype.name()
        );
        Self { products, ..self }
    }

    /// The same layer with a weight that is used so often. Where a GPU has no room for all, what each pass needs stays.
    pub fn used(self, used: Use) -> Self {
        Self { gpu: Layer::of(used), ..self }
    }

    fn in_8_bits(&self) -> bool {
        self.products == Products::Fp8
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

    /// As [`ready`](Self::ready), for products in 8 bits.
    fn ready_codes(&self, gpu: &Arc<Gpu>) -> (ReadyCodes, Option<Arc<Array>>) {
        let shape = [self.outputs(), self.inputs()];
        let weight = self.gpu.ready_codes(gpu, self.weight(), shape);
        (weight, self.bias.as_ref().map(|bias| bias.on(gpu)))
    }

    /// `act(x W^T + b)` in 8 bits on a GPU.
    fn by_codes(&self, x: &body::Codes, activation: Activation, out: Element) -> Array {
        let (ready, bias) = self.ready_codes(x.gpu());
        body::linear_codes(x, &ready.weight(), bias.as_deref(), activation, out)
    }

    /// What is multiplied of the rows `x` on the processor.
    fn given<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        match self.in_8_bits() {
            true => Cow::Owned(rounded_rows(x, self.inputs())),
            false => Cow::Borrowed(x),
        }
    }

    /// The weight as stored.
    pub fn weight(&self) -> &Weight {
        self.matrix.weight()
    }
}

/// Rows that layers multiply, as their products want them. Those of 8-bit floats are given codes, which are made once
/// for all layers that take the same rows.
#[derive(Debug)]
pub struct LinearInput {
    rows: Rows,
    /// Whether they are for products in 8 bits.
    in_8_bits: bool,
}

#[derive(Debug)]
enum Rows {
    /// `[rows, inputs]`; on the processor what e4m3 leaves of them, where products are in 8 bits.
    Values(Tensor),
    Codes(body::Codes),
}

impl LinearInput {
    /// Of values that are there, `[rows, inputs]`.
    pub fn new(x: Tensor, products: Products) -> Self {
        let in_8_bits = products == Products::Fp8;
        let rows = match x.array() {
            _ if !in_8_bits => Rows::Values(x),
            Some(array) => Rows::Codes(body::Codes::of(array, x.dim(0), x.dim(1))),
            None => {
                let rounded = rounded_rows(x.data(), x.dim(1));
                Rows::Values(Tensor::from_vec(x.shape(), rounded))
            }
        };
        Self { rows, in_8_bits }
    }

    /// Of codes on a GPU.
    pub(super) fn of_codes(codes: body::Codes) -> Self {
        Self { rows: Rows::Codes(codes), in_8_bits: true }
    }

    /// `[rows, inputs]`.
    fn shape(&self) -> [usize; 2] {
        match &self.rows {
            Rows::Values(x) => [x.dim(0), x.dim(1)],
            Rows::Codes(codes) => codes.shape(),
        }
    }

    /// Bytes of what is there: of codes a byte a value, and a factor for each row.
    fn bytes(&self) -> usize {
        match &self.rows {
            Rows::Values(x) => x.bytes(),
            Rows::Codes(codes) => {
                let [rows, inputs] = codes.shape();
                rows * (inputs + size_of::<f32>())
            }
        }
    }

    /// Bytes of a value of what layers make of it.
    fn result_bytes(&self) -> usize {
        match &self.rows {
            Rows::Values(x) => x.bytes() / x.len().max(1),
            Rows::Codes(codes) => codes.gpu().compute().bytes(),
        }
    }

    /// Panics unless `layer` takes such rows.
    fn check(&self, operation: &str, layer: &Linear) {
        let (inputs, products) = (layer.inputs(), layer.products);
        assert!(
            self.shape()[1] == inputs && self.in_8_bits == layer.in_8_bits(),
            "{operation}: {:?} (in 8 bits: {}) with {inputs} inputs and products of {products:?}",
            self.shape(),
            self.in_8_bits
        );
    }
}

/// Hidden values of `feed_forward_residual` that stand in memory at once: 64 MiB.
const HIDDEN_VALUES: usize = 1 << 24;

/// Operations and bytes of a layer for rows of `given` bytes, of which it makes `made` bytes. The weight is read as it is
/// stored, or as the rows are where that is less.
fn cost(rows: usize, given: usize, layer: &Linear, made: usize) -> (f64, usize) {
    let (inputs, outputs) = (layer.inputs(), layer.outputs());
    let flops = 2.0 * rows as f64 * inputs as f64 * outputs as f64;
    let weight = layer.weight();
    let value = given / (rows * inputs).max(1);
    (flops, given + weight.bytes().len().min(value * weight.len()) + made)
}

/// [`cost`] of a result in the element of `x`, for as many rows.
fn cost_alike(x: &Tensor, layer: &Linear) -> (f64, usize) {
    let made = x.bytes() / layer.inputs().max(1) * layer.outputs();
    cost(x.dim(0), x.bytes(), layer, made)
}

/// `act(x W^T + b)`: `[rows, inputs]` to `[rows, outputs]`.
pub fn linear(x: &Tensor, layer: &Linear, activation: Activation) -> Tensor {
    let _span = spans::begin("linear", || cost_alike(x, layer));
    let inputs = layer.inputs();
    assert_eq!(x.shape()[1..], [inputs], "linear: {:?} with {inputs} inputs", x.shape());
    if let Some(array) = x.array() {
        return on_gpu(x, layer, activation, array.element());
    }
    rows_to(&[x.dim(0), layer.outputs()], x.data(), layer, activation)
}

/// As [`linear`] without an activation by each of some layers, whose products are those that `x` is for.
pub fn linear_each<const N: usize>(x: &LinearInput, layers: [&Linear; N]) -> [Tensor; N] {
    let [rows, _] = x.shape();
    layers.map(|layer| {
        let _span = spans::begin("linear", || {
            let made = rows * layer.outputs() * x.result_bytes();
            cost(rows, x.bytes(), layer, made)
        });
        x.check("linear_each", layer);
        let (shape, none) = ([rows, layer.outputs()], Activation::None);
        match &x.rows {
            Rows::Codes(codes) => {
                let gpu = codes.gpu();
                let result = layer.by_codes(codes, none, gpu.compute());
                spans::settle(gpu);
                Tensor::from_array(&shape, result)
            }
            Rows::Values(x) => match x.array() {
                Some(array) => by_values_on_gpu(&shape, array, rows, layer, none, array.element()),
                None => given_rows_to(&shape, x.data(), layer, none),
            },
        }
    })
}

/// As [`linear`] without an activation, into values that are kept in full: a sum along the layers, or
/// a result of the network.
pub fn linear_full(x: &Tensor, layer: &Linear) -> Tensor {
    if x.array().is_some() {
        let _span = spans::begin("linear", || {
            let made = size_of::<f32>() * x.dim(0) * layer.outputs();
            cost(x.dim(0), x.bytes(), layer, made)
        });
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
    if !layer.in_8_bits() {
        return by_values_on_gpu(shape, x, rows, layer, activation, out);
    }
    let result = layer.by_codes(&body::Codes::of(x, rows, layer.inputs()), activation, out);
    spans::settle(x.gpu());
    Tensor::from_array(shape, result)
}

/// A product of values as they are.
fn by_values_on_gpu(
    shape: &[usize],
    x: &Array,
    rows: usize,
    layer: &Linear,
    activation: Activation,
    out: Element,
) -> Tensor {
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
    given_rows_to(shape, &layer.given(x), layer, activation)
}

/// The same of rows as they are multiplied.
fn given_rows_to(shape: &[usize], x: &[f32], layer: &Linear, activation: Activation) -> Tensor {
    let (outputs, bias) = (layer.outputs(), layer.bias.as_deref());
    // SAFETY: `multiply` hands every value of the result to `Store` exactly once.
    unsafe {
        Tensor::fill(shape, |out| {
            multiply(x, &layer.matrix, layer.products, &Store { out, outputs, bias, activation });
        })
    }
}

/// `x += gate * (y W^T + b)`, the gate by latent frame (1 without one). `x` is `[rows, outputs]`.
pub fn linear_residual(x: &mut Tensor, y: &Tensor, layer: &Linear, gate: Option<PerFrame<'_>>) {
    let _span = spans::begin("linear", || cost(y.dim(0), y.bytes(), layer, 2 * x.bytes()));
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
        let gate = gate.as_ref().map(OnGpu::body);
        if layer.in_8_bits() {
            let codes = body::Codes::of(y, rows, inputs);
            let (ready, bias) = layer.ready_codes(y.gpu());
            body::linear_residual_codes(into, &codes, &ready.weight(), bias.as_deref(), gate);
        } else {
            let (ready, bias) = layer.ready(y.gpu(), y.element());
            body::linear_residual(into, y, rows, &ready.weight, bias.as_deref(), gate);
        }
        spans::settle(y.gpu());
        return;
    }
    add_product(x.data_mut(), y.data(), layer, gate, 0);
}

/// `x += gate * down(act(up(y)))`, computed in slices of rows so that the wide hidden layer never
/// stands in memory as a whole. `x` and `y` are `[rows, dim]`; both layers have the products that `y` is for.
pub fn feed_forward_residual(
    x: &mut Tensor,
    y: &LinearInput,
    up: &Linear,
    down: &Linear,
    activation: Activation,
    gate: Option<PerFrame<'_>>,
) {
    const NAME: &str = "feed_forward_residual";
    let [rows, inputs] = y.shape();
    let _span = spans::begin("feed-forward", || {
        let wide = rows * up.outputs() * y.result_bytes();
        let (up, down) = (cost(rows, y.bytes(), up, wide), cost(rows, wide, down, 2 * x.bytes()));
        (up.0 + down.0, up.1 + down.1)
    });
    let (hidden, outputs) = (up.outputs(), down.outputs());
    y.check(NAME, up);
    assert!(
        down.inputs() == hidden
            && x.shape() == [rows, outputs]
            && up.in_8_bits() == down.in_8_bits(),
        "{NAME}: {:?} += {:?} by {inputs} -> {hidden} ({:?}), {} -> {outputs} ({:?})",
        x.shape(),
        y.shape(),
        up.products,
        down.inputs(),
        down.products
    );
    if let Some(gate) = &gate {
        gate.check(NAME, rows, outputs);
    }
    if let Some(into) = x.array_mut() {
        let gpu = into.gpu().clone();
        let gate = gate.as_ref().map(|gate| gate.on(&gpu));
        let gate = gate.as_ref().map(OnGpu::body);
        match &y.rows {
            Rows::Codes(y) => {
                let (up, up_bias) = up.ready_codes(&gpu);
                let (down, down_bias) = down.ready_codes(&gpu);
                body::feed_forward_residual_codes(
                    into,
                    y,
                    (&up.weight(), up_bias.as_deref()),
                    (&down.weight(), down_bias.as_deref()),
                    activation,
                    gate,
                    gpu.compute(),
                );
            }
            Rows::Values(y) => {
                let y = y.array().expect("feed_forward_residual: on different devices");
                let (up, up_bias) = up.ready(&gpu, y.element());
                let (down, down_bias) = down.ready(&gpu, y.element());
                body::feed_forward_residual(
                    into,
                    y,
                    rows,
                    (&up.weight, up_bias.as_deref()),
                    (&down.weight, down_bias.as_deref()),
                    activation,
                    gate,
                );
            }
        }
        spans::settle(&gpu);
        return;
    }
    let Rows::Values(y) = &y.rows else { panic!("{NAME}: on different devices") };
    // Even slices, so that the last is not a short one.
    let slices = (rows * hidden).div_ceil(HIDDEN_VALUES).max(1);
    let slice = rows.div_ceil(slices).max(1);
    let mut first = 0;
    while first < rows {
        let here = slice.min(rows - first);
        let y = &y.data()[first * inputs..(first + here) * inputs];
        let wide = given_rows_to(&[here, hidden], y, up, activation);
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
    multiply(&layer.given(y), &layer.matrix, layer.products, &finish);
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
