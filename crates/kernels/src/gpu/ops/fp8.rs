//! Fully connected layers in 8-bit floats (`fp8.cu`).
//!
//! Activations become e4m3 row by row, so that a row's result depends on no other row: where they are made, if
//! that goes over whole rows (a norm, what is left of a layer behind a product of codes), else in a pass of its own. The
//! vendor's library is asked for the whole layer first, with the factors of rows and columns; then
//! for the product of the codes alone, which most of them can, with the rest in a pass of its own; else our
//! kernel does all of it.

use std::sync::Arc;

use super::linear::{FILLING, HIDDEN_BYTES, Product, SUMS_BYTES, tensor_tile_bytes};
use super::pointwise::activation_code;
use super::{Dense, PerFrame, blocks, each, int, kernel, pointer, pointer_or_none};
use crate::Activation;
use crate::gpu::{Address, Arg, Array, Element, Gpu, GpuError, MatMul, Operands};

/// The fewest rows of a frame that are worth a product of their own.
const GATED_ROWS: usize = 1024;

/// Factors in 16 bytes, at multiples of which a library wants them to begin.
const FACTORS: usize = 4;

/// Rows of activations as e4m3, each with a factor.
#[derive(Debug)]
pub struct Codes {
    /// `[rows, inputs]`, a byte each.
    codes: Array,
    /// `[rows]` of f32.
    factors: Array,
    rows: usize,
    inputs: usize,
}

impl Codes {
    /// The rows of `x`, `[rows, inputs]`, to the nearest; the largest of each row becomes the largest e4m3.
    pub fn of(x: &Array, rows: usize, inputs: usize) -> Self {
        assert_eq!(x.len(), rows * inputs, "Codes::of: {rows} rows of {inputs}");
        let codes = Self::room(x.gpu(), rows, inputs);
        codes.fill(x.address(), x.element(), rows);
        codes
    }

    /// Where they are.
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.codes.gpu()
    }

    /// Rows, and values of each.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.inputs]
    }

    /// Codes and factors on the host, once all work before is done.
    ///
    /// # Errors
    /// As [`Array::to_host`].
    pub fn to_host(&self) -> Result<(Vec<u8>, Vec<f32>), GpuError> {
        let mut codes = self.codes.to_bytes()?;
        codes.truncate(self.rows * self.inputs);
        Ok((codes, self.factors.to_host()?))
    }

    /// For so many rows, not set.
    pub(super) fn room(gpu: &Arc<Gpu>, rows: usize, inputs: usize) -> Self {
        // No element has one byte.
        let codes = Array::unset(gpu, Element::Bf16, (rows * inputs).div_ceil(2));
        let factors = Array::unset(gpu, Element::F32, rows);
        Self { codes, factors, rows, inputs }
    }

    /// Both, as kernels that make them take them.
    pub(super) fn args(&self) -> [Arg; 2] {
        [pointer(&self.codes), pointer(&self.factors)]
    }

    /// Sets the first of its rows.
    fn fill(&self, x: Address, element: Element, rows: usize) {
        let launch =
            blocks("fp8", kernel!("quantize_rows", element), rows, code_threads(self.inputs));
        let [codes, factors] = self.args();
        self.codes.gpu().launch(launch, &[codes, factors, Arg::Pointer(x), int(self.inputs)]);
    }
}

/// Packs of a row that a thread keeps in registers, and threads of a block at most (`rows.cu`).
const KEPT: usize = 4;
const CODE_THREADS: usize = 512;

/// Threads of a block that makes codes of a row of `dim` values, which it goes over twice: enough to keep them all
/// where there are as many.
fn code_threads(dim: usize) -> u32 {
    let packs = if dim.is_multiple_of(8) { dim / 8 } else { dim };
    packs.div_ceil(KEPT).next_multiple_of(32).clamp(32, CODE_THREADS) as u32
}

/// A weight in e4m3, row-major `[outputs, inputs]`, with a factor for each row.
#[derive(Debug, Clone, Copy)]
pub struct DenseCodes<'a> {
    /// Where it is.
    pub address: Address,
    /// `[outputs]` of f32.
    pub factors: &'a Array,
    /// Columns.
    pub inputs: usize,
}

impl DenseCodes<'_> {
    fn outputs(&self) -> usize {
        self.factors.len()
    }
}

/// [`linear`](super::linear()) in 8 bits.
pub fn linear_codes(
    x: &Codes,
    weight: &DenseCodes<'_>,
    bias: Option<&Array>,
    activation: Activation,
    out: Element,
) -> Array {
    let result = Array::unset(x.codes.gpu(), out, x.rows * weight.outputs());
    let product = CodesProduct::new("linear_codes", x, weight, bias, &result);
    product.product.check_output("linear_codes", &result);
    product.with(|product| Product { activation, ..product }).run();
    result
}

/// [`linear_residual`](super::linear_residual) in 8 bits.
pub fn linear_residual_codes(
    into: &mut Array,
    y: &Codes,
    weight: &DenseCodes<'_>,
    bias: Option<&Array>,
    gate: Option<PerFrame<'_>>,
) {
    const NAME: &str = "linear_residual_codes";
    let product = CodesProduct::new(NAME, y, weight, bias, into);
    let product = product.with(|product| Product { add: true, gate, ..product });
    product.product.check_output(NAME, into);
    product.run();
}

/// [`feed_forward_residual`](super::feed_forward_residual) in 8 bits; the hidden layer is `hidden` before
/// it becomes codes.
pub fn feed_forward_residual_codes(
    into: &mut Array,
    y: &Codes,
    up: (&DenseCodes<'_>, Option<&Array>),
    down: (&DenseCodes<'_>, Option<&Array>),
    activation: Activation,
    gate: Option<PerFrame<'_>>,
    hidden: Element,
) {
    const NAME: &str = "feed_forward_residual_codes";
    let (gpu, width) = (y.codes.gpu(), up.0.outputs());
    let all = CodesProduct::new(NAME, y, up.0, up.1, into).product;
    let weight = Dense { outputs: down.0.outputs(), ..all.weight };
    Product { weight, bias: down.1, gate, ..all }.check_output(NAME, into);
    let bytes = y.rows * width * hidden.bytes();
    // So that the factors of a slice begin where the library wants them.
    let slice =
        y.rows.div_ceil(bytes.div_ceil(HIDDEN_BYTES).max(1)).max(1).next_multiple_of(FACTORS);
    let wide = Array::unset(gpu, hidden, slice * width);
    let codes = Codes::room(gpu, slice, width);
    for first in (0..y.rows).step_by(slice) {
        let rows = slice.min(y.rows - first);
        let widen = CodesProduct::new(NAME, y, up.0, up.1, &wide);
        let widen = widen.with(|product| Product { activation, ..product }).part(first, 0, rows);
        widen.run_to_codes(&codes);
        let narrow = CodesProduct::new(NAME, &codes, down.0, down.1, into);
        narrow.with(|product| Product { add: true, gate, ..product }).part(0, first, rows).run();
    }
}

/// A [`Product`] whose `x` and weight are codes.
#[derive(Clone, Copy)]
struct CodesProduct<'a> {
    /// All else of it. Its elements of `x` and weight are what sums wait in.
    product: Product<'a>,
    /// `[rows]`.
    row_factors: Address,
    /// `[outputs]`.
    column_factors: Address,
}

impl<'a> CodesProduct<'a> {
    fn new(
        name: &str,
        x: &'a Codes,
        weight: &DenseCodes<'_>,
        bias: Option<&'a Array>,
        out: &Array,
    ) -> Self {
        let (outputs, inputs) = (weight.outputs(), weight.inputs);
        assert_eq!(x.inputs, inputs, "{name}: rows for {inputs} inputs");
        let element = Element::Bf16;
        let weight_codes = Dense { address: weight.address, element, outputs, inputs };
        let product = Product::new(&x.codes, x.rows, &weight_codes, bias, out);
        Self { product, row_factors: x.factors.address(), column_factors: weight.factors.address() }
    }

    fn with(self, change: impl FnOnce(Product<'a>) -> Product<'a>) -> Self {
        Self { product: change(self.product), ..self }
    }

    /// So many rows of it, from row `from` of `x`, which go to row `to` of the result and are those of tokens
    /// from there on.
    fn part(self, from: usize, to: usize, rows: usize) -> Self {
        let product = self.product;
        let Dense { inputs, outputs, .. } = product.weight;
        let product = Product {
            x: product.x.plus(from * inputs),
            out: product.out.plus(to * outputs * product.out_element.bytes()),
            rows,
            first_token: product.first_token + to,
            ..product
        };
        let row_factors = self.row_factors.plus(from * Element::F32.bytes());
        Self { product, row_factors, ..self }
    }

    fn run(self) {
        let Product { rows, weight, .. } = self.product;
        if rows == 0 || weight.outputs == 0 {
            return;
        }
        let done = match self.product.gate {
            Some(gate) => self.by_library_with(gate),
            None => self.by_library(),
        };
        if !(done || self.by_library_in_slices()) {
            self.by_kernel();
        }
    }

    /// Has the first rows of `codes` be what the result, whose place is room for its values, becomes as codes.
    fn run_to_codes(self, codes: &Codes) {
        let Product { gpu, rows, out, out_element, .. } = self.product;
        if rows == 0 || codes.inputs == 0 {
            return;
        }
        if !self.by_library() {
            // Sums are no larger than what they become.
            if gpu.attempt(|driver| driver.matmul(&self.asked_for_sums(out))).unwrap_or(true) {
                return self.finish_to_codes(codes);
            }
            self.by_kernel();
        }
        codes.fill(out, out_element, rows);
    }

    /// What a library is asked for; with the factors it does all that its epilogue knows.
    fn asked(&self, with_factors: bool) -> MatMul {
        let Product { x, rows, weight, out, out_element, bias, activation, add, .. } = self.product;
        let factors = with_factors.then_some([self.row_factors, self.column_factors]);
        MatMul {
            x,
            weight: weight.address,
            out,
            bias: bias.map(Array::address),
            rows,
            inputs: weight.inputs,
            outputs: weight.outputs,
            operands: Operands::E4m3 { factors },
            out_element,
            gelu: activation == Activation::GeluTanh,
            add,
        }
    }

    /// The product of the codes alone.
    fn asked_for_sums(&self, out: Address) -> MatMul {
        let out_element = self.product.x_element;
        MatMul { out, out_element, bias: None, gelu: false, add: false, ..self.asked(false) }
    }

    /// All of it by the vendor's library; `false` when there is none that can.
    fn by_library(&self) -> bool {
        let Product { gpu, activation, add, .. } = self.product;
        let known = match activation {
            Activation::None => true,
            Activation::GeluTanh => !add,
            _ => false,
        };
        // After a failure nothing is started, by any way.
        known && gpu.attempt(|driver| driver.matmul(&self.asked(true))).unwrap_or(true)
    }

    /// As [`by_library`](Self::by_library), of a residual whose gate goes into the factors of the columns: a
    /// product for each frame, or one where all have the same gate.
    fn by_library_with(&self, gate: PerFrame<'_>) -> bool {
        let Product { gpu, rows, weight, bias, first_token, activation, add, .. } = self.product;
        let outputs = weight.outputs;
        let frame = if gate.values.len() == outputs { usize::MAX } else { gate.tokens_per_frame };
        // Factors of rows that begin anywhere else the library does not take, and our kernel is slow for whole frames.
        let fits = || {
            let whole = first_token.is_multiple_of(FACTORS) && frame.is_multiple_of(FACTORS);
            whole || (first_token % frame).saturating_add(rows) <= frame
        };
        if !gpu.driver().takes_factors()
            || frame < GATED_ROWS
            || !fits()
            || activation != Activation::None
            || !add
        {
            return false;
        }
        let folded = Array::unset(gpu, Element::F32, 2 * outputs);
        let mut first = 0;
        while first < rows {
            let n = (first_token + first) / frame;
            let here = (rows - first).min(frame - (first_token + first) % frame);
            let part = self.part(first, first, here);
            let row = gate.values.address().plus(n * outputs * Element::F32.bytes());
            let args = [
                pointer(&folded),
                Arg::Pointer(self.column_factors),
                pointer_or_none(bias),
                Arg::Pointer(row),
                int(outputs),
            ];
            gpu.launch(each("fp8", "fp8_fold_gate", outputs), &args);
            let product = MatMul {
                operands: Operands::E4m3 { factors: Some([part.row_factors, folded.address()]) },
                bias: Some(folded.address().plus(outputs * Element::F32.bytes())),
                ..part.asked(true)
            };
            if !gpu.attempt(|driver| driver.matmul(&product)).unwrap_or(true) {
                if first == 0 {
                    return false;
                }
                // It may have no way for a last frame that is shorter.
                part.by_kernel();
            }
            first += here;
        }
        true
    }

    /// Products of the codes of some rows by the library, each of which is finished by us.
    fn by_library_in_slices(&self) -> bool {
        let Product { gpu, rows, weight, x_element, .. } = self.product;
        let slice = (SUMS_BYTES / (weight.outputs * x_element.bytes())).clamp(1, rows);
        let sums = Array::unset(gpu, x_element, slice * weight.outputs);
        for first in (0..rows).step_by(slice) {
            let part = self.part(first, first, slice.min(rows - first));
            let product = part.asked_for_sums(sums.address());
            if gpu.attempt(|driver| driver.matmul(&product)).unwrap_or(true) {
                part.finish(sums.address());
            } else if first == 0 {
                return false;
            } else {
                // It may have no way for a last slice that is shorter.
                part.by_kernel();
            }
        }
        true
    }

    /// What is left to do after a product of the codes.
    fn finish(&self, sums: Address) {
        let Product { gpu, rows, weight, .. } = self.product;
        let mut args = vec![Arg::Pointer(sums)];
        args.extend(self.finish_args());
        args.extend([int(rows), int(weight.outputs)]);
        gpu.launch(each("fp8", "fp8_finish", rows * weight.outputs), &args);
    }

    /// The same of sums that wait in the result's place, which becomes codes.
    fn finish_to_codes(&self, codes: &Codes) {
        let Product { gpu, rows, out, out_element, bias, activation, .. } = self.product;
        let [to, factors] = codes.args();
        let [row_factors, column_factors] =
            [self.row_factors, self.column_factors].map(Arg::Pointer);
        let args = [
            to,
            factors,
            Arg::Pointer(out),
            row_factors,
            column_factors,
            pointer_or_none(bias),
            activation_code(activation),
            int(codes.inputs),
        ];
        let kernel = kernel!("fp8_finish_codes", out_element);
        gpu.launch(blocks("fp8", kernel, rows, code_threads(codes.inputs)), &args);
    }

    /// From the factors to `add`, as the kernels take them.
    fn finish_args(&self) -> impl Iterator<Item = Arg> {
        let factors = [self.row_factors, self.column_factors].map(Arg::Pointer);
        factors.into_iter().chain(self.product.finish_args())
    }

    fn by_kernel(&self) {
        let Product { gpu, x, rows, weight, .. } = self.product;
        let Dense { outputs, inputs, address, .. } = weight;
        let in_pieces = |address: Address| address.0.is_multiple_of(16);
        let tensor = inputs.is_multiple_of(16) && in_pieces(x) && in_pieces(address);
        let tiles = |[down, across]: [usize; 2]| rows.div_ceil(down) * outputs.div_ceil(across);
        let (kernel, size, threads) = if !tensor {
            ("fp8_plain", [64, 64], 256)
        } else if tiles([128, 64]) >= FILLING {
            ("fp8_128x64", [128, 64], 128)
        } else {
            ("fp8_64x64", [64, 64], 128)
        };
        let mut launch = blocks("fp8", kernel, tiles(size), threads);
        if tensor {
            launch.shared_bytes = tensor_tile_bytes(size[0], size[1]);
        }
        let mut args = vec![Arg::Pointer(x), Arg::Pointer(address)];
        args.extend(self.finish_args());
        args.extend([int(rows), int(inputs), int(outputs)]);
        gpu.launch(launch, &args);
    }
}
