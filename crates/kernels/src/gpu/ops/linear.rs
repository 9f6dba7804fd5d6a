//! Fully connected layers.
//!
//! Products are the vendor library's where the driver has it, with what that cannot add in a pass of
//! its own; else ours (`gemm.cu`): on the tensor cores for bf16 in rows of whole 16 bytes, in f32 for
//! everything else. Ours were compiled for every architecture and checked without a card; their speed
//! and the choice of tiles were not measured on one.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::pointwise::activation_code;
use super::{PerFrame, blocks, each, int, kernel, pointer_or_none};
use crate::Activation;
use crate::gpu::{Address, Arg, Array, Element, Gpu, MatMul, Operands};

/// A weight in a device's memory, row-major `[outputs, inputs]`. An [`Array`] or what a layer brought.
#[derive(Debug, Clone, Copy)]
pub struct Dense {
    /// Where it is.
    pub address: Address,
    /// The type of its values.
    pub element: Element,
    /// Rows.
    pub outputs: usize,
    /// Columns.
    pub inputs: usize,
}

impl Dense {
    /// An array as a weight; it has `outputs * inputs` values.
    pub fn of(array: &Array, outputs: usize, inputs: usize) -> Self {
        assert_eq!(array.len(), outputs * inputs, "Dense::of: {outputs} x {inputs}");
        Self { address: array.address(), element: array.element(), outputs, inputs }
    }
}

/// `act(x W^T + b)` as `out`: `x` is `[rows, inputs]`, `bias` `[outputs]` of f32, the result
/// `[rows, outputs]`.
pub fn linear(
    x: &Array,
    rows: usize,
    weight: &Dense,
    bias: Option<&Array>,
    activation: Activation,
    out: Element,
) -> Array {
    let result = Array::unset(x.gpu(), out, rows * weight.outputs);
    let product = Product::new(x, rows, weight, bias, &result);
    product.check("linear", x, &result);
    Product { activation, ..product }.run();
    result
}

/// `into += gate * (y W^T + b)`: `into` is `[rows, outputs]`, `y` `[rows, inputs]`, `bias`
/// `[outputs]` of f32; the gate is 1 without one.
pub fn linear_residual(
    into: &mut Array,
    y: &Array,
    rows: usize,
    weight: &Dense,
    bias: Option<&Array>,
    gate: Option<PerFrame<'_>>,
) {
    let product = Product { add: true, gate, ..Product::new(y, rows, weight, bias, into) };
    product.check("linear_residual", y, into);
    product.run();
}

/// Bytes of the hidden layer that stand in memory at once.
pub(super) const HIDDEN_BYTES: usize = 256 << 20;

/// `into += gate * down(act(up(y)))` in slices of rows, so that the wide hidden layer never stands in
/// memory as a whole. `into` is `[rows, outputs of down]`, `y` `[rows, inputs of up]`; a layer is a
/// weight and its bias.
pub fn feed_forward_residual(
    into: &mut Array,
    y: &Array,
    rows: usize,
    up: (&Dense, Option<&Array>),
    down: (&Dense, Option<&Array>),
    activation: Activation,
    gate: Option<PerFrame<'_>>,
) {
    const NAME: &str = "feed_forward_residual";
    let hidden = up.0.outputs;
    assert_eq!(down.0.inputs, hidden, "{NAME}: {:?} after {:?}", down.0, up.0);
    // Even slices, so that the last is not a short one.
    let bytes = rows * hidden * y.element().bytes();
    let slice = rows.div_ceil(bytes.div_ceil(HIDDEN_BYTES).max(1)).max(1);
    let wide = Array::unset(y.gpu(), y.element(), slice * hidden);
    let widen = Product { activation, ..Product::new(y, rows, up.0, up.1, &wide) };
    let narrow = Product { add: true, gate, ..Product::new(&wide, rows, down.0, down.1, into) };
    widen.check_input(NAME, y);
    narrow.check_output(NAME, into);
    let (row_in, row_out) =
        (up.0.inputs * y.element().bytes(), down.0.outputs * into.element().bytes());
    for first in (0..rows).step_by(slice) {
        let rows = slice.min(rows - first);
        Product { x: widen.x.plus(first * row_in), rows, ..widen }.run();
        Product { out: narrow.out.plus(first * row_out), rows, first_token: first, ..narrow }.run();
    }
}

/// `out = act(x W^T + b)`, or `out += gate * act(x W^T + b)`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub gpu: &'a Arc<Gpu>,
    /// `[rows, inputs]`.
    pub x: Address,
    pub x_element: Element,
    pub rows: usize,
    pub weight: Dense,
    /// `[rows, outputs]`.
    pub out: Address,
    pub out_element: Element,
    pub bias: Option<&'a Array>,
    pub activation: Activation,
    pub add: bool,
    pub gate: Option<PerFrame<'a>>,
    /// The token of row 0.
    pub first_token: usize,
}

/// Bytes of the sums that wait for their gate at once.
pub(super) const SUMS_BYTES: usize = 64 << 20;
/// The fewest blocks that fill a card: large ones have about so many multiprocessors.
pub(super) const FILLING: usize = 128;

impl<'a> Product<'a> {
    pub fn new(
        x: &'a Array,
        rows: usize,
        weight: &Dense,
        bias: Option<&'a Array>,
        out: &Array,
    ) -> Self {
        Self {
            gpu: x.gpu(),
            x: x.address(),
            x_element: x.element(),
            rows,
            weight: *weight,
            out: out.address(),
            out_element: out.element(),
            bias,
            activation: Activation::None,
            add: false,
            gate: None,
            first_token: 0,
        }
    }

    pub fn check(&self, name: &str, x: &Array, out: &Array) {
        self.check_input(name, x);
        self.check_output(name, out);
    }

    fn check_input(&self, name: &str, x: &Array) {
        let (rows, inputs) = (self.rows, self.weight.inputs);
        assert_eq!(x.len(), rows * inputs, "{name}: {rows} rows of {inputs} inputs");
    }

    pub fn check_output(&self, name: &str, out: &Array) {
        let (rows, outputs) = (self.rows, self.weight.outputs);
        assert_eq!(out.len(), rows * outputs, "{name}: {rows} rows of {outputs} outputs");
        let is_f32 = |array: &Array| array.element() == Element::F32;
        assert!(
            self.bias.is_none_or(|bias| bias.len() == outputs && is_f32(bias)),
            "{name}: a bias that is not {outputs} values of f32"
        );
        if let Some(gate) = &self.gate {
            gate.check(name, rows, outputs);
        }
    }

    /// Starts it.
    pub fn run(self) {
        if self.rows == 0 || self.weight.outputs == 0 {
            return;
        }
        let alike = self.x_element == self.weight.element;
        if !(alike && self.weight.inputs > 0 && self.by_library()) {
            self.by_kernel();
        }
    }

    /// By the vendor's library, which adds a bias and may apply GELU, or add to what is there. `false`
    /// when there is none.
    fn by_library(&self) -> bool {
        let own_activation = !matches!(self.activation, Activation::None | Activation::GeluTanh);
        if self.gate.is_some() || (self.add && self.activation != Activation::None) {
            return self.by_library_in_slices();
        }
        let product = MatMul {
            x: self.x,
            weight: self.weight.address,
            out: self.out,
            bias: self.bias.map(Array::address),
            rows: self.rows,
            inputs: self.weight.inputs,
            outputs: self.weight.outputs,
            operands: Operands::Plain(self.x_element),
            out_element: self.out_element,
            gelu: self.activation == Activation::GeluTanh,
            add: self.add,
        };
        // After a failure nothing is started, by either way.
        let done = self.gpu.work_with_room(|driver| driver.matmul(&product)).unwrap_or(true);
        if done && own_activation {
            self.finish(self.out, self.out_element, Self { bias: None, ..*self });
        }
        done
    }

    /// Products of some rows into memory of their own, each of which is then added by its gate.
    fn by_library_in_slices(&self) -> bool {
        let outputs = self.weight.outputs;
        let slice = (SUMS_BYTES / (outputs * self.x_element.bytes())).clamp(1, self.rows);
        let sums = Array::unset(self.gpu, self.x_element, slice * outputs);
        for first in (0..self.rows).step_by(slice) {
            let rows = slice.min(self.rows - first);
            let part = Self {
                x: self.x.plus(first * self.weight.inputs * self.x_element.bytes()),
                rows,
                out: self.out.plus(first * outputs * self.out_element.bytes()),
                first_token: self.first_token + first,
                ..*self
            };
            let product = Self {
                out: sums.address(),
                out_element: sums.element(),
                activation: Activation::None,
                add: false,
                gate: None,
                ..part
            };
            if !product.by_library() {
                if first == 0 {
                    return false;
                }
                // It may have no way for a last slice that is shorter.
                part.by_kernel();
                continue;
            }
            self.finish(sums.address(), sums.element(), Self { bias: None, ..part });
        }
        true
    }

    /// What is left to do after a product that was done elsewhere.
    fn finish(&self, sums: Address, element: Element, rest: Self) {
        let kernel = kernel!("gemm_finish", element);
        let mut args = vec![Arg::Pointer(sums)];
        args.extend(rest.finish_args());
        args.extend([int(rest.rows), int(rest.weight.outputs)]);
        self.gpu.launch(each("gemm", kernel, rest.rows * rest.weight.outputs), &args);
    }

    /// From `out` to `add`, as the kernels take them.
    pub fn finish_args(&self) -> [Arg; 8] {
        let gate = self.gate.filter(|_| self.add);
        [
            Arg::Pointer(self.out),
            int(usize::from(self.out_element == Element::Bf16)),
            pointer_or_none(self.bias),
            pointer_or_none(gate.map(|gate| gate.values)),
            gate.map_or(Arg::Int(0), |gate| gate.tokens(self.weight.outputs)),
            int(self.first_token),
            activation_code(self.activation),
            int(usize::from(self.add)),
        ]
    }

    /// By our own kernel.
    fn by_kernel(&self) {
        let Dense { outputs, inputs, element, address } = self.weight;
        let in_pieces = |address: Address| address.0.is_multiple_of(16);
        let tensor = self.x_element == Element::Bf16
            && element == Element::Bf16
            && inputs.is_multiple_of(8)
            && in_pieces(self.x)
            && in_pieces(address);
        let tiles = |size: usize| self.rows.div_ceil(size) * outputs.div_ceil(size);
        let (kernel, size, threads) = if !tensor {
            (kernel!("gemm", self.x_element, element), 64, 256)
        } else if tiles(128) >= FILLING {
            ("gemm_128x128", 128, 128)
        } else {
            ("gemm_64x64", 64, 128)
        };
        let mut launch = blocks("gemm", kernel, tiles(size), threads);
        if tensor {
            launch.shared_bytes = tensor_tile_bytes(size, size);
        }
        let mut args = vec![Arg::Pointer(self.x), Arg::Pointer(address)];
        args.extend(self.finish_args());
        args.extend([int(self.rows), int(inputs), int(outputs)]);
        self.gpu.launch(launch, &args);
    }
}

/// Dynamic shared memory of a tile of products on the tensor cores (`TensorTile` in `tile.cu`): three
/// stages of 32 values of bf16 for each row and column.
pub(super) fn tensor_tile_bytes(rows: usize, columns: usize) -> u32 {
    ((rows + columns) * 32 * 2 * 3) as u32
}
