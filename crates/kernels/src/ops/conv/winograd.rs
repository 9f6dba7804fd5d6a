//! Convolution of 3 x 3 in space by Winograd's minimal filtering, F(2 x 2, 3 x 3).
//!
//! Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4. A square of 4 x 4
//! input pixels is turned into 16 numbers for each channel; their products with the turned weights, summed
//! over channels and the frames of the window, turn into 2 x 2 output pixels. That is 16 multiplications
//! where the sum as it stands takes 36. The turning adds, subtracts and halves, so in `f32` little is lost.
//!
//! Squares lie at even pixels whatever a task holds, and sums run in one order, so results depend neither
//! on the number of threads nor on how many frames come at once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::lines::{Output, Source};
use crate::gemm::{Aligned, Segment, Tile, pack_panels, wanted_tasks, with_scratch};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Channels in for which this way is taken: with fewer the turning is most of the work, and no published
/// network has more. The turned weights are 16/9 of the plain ones.
pub(super) const INPUTS: std::ops::RangeInclusive<usize> = 8..=384;
/// Numbers of one square.
const POINTS: usize = 16;
/// Frames of a window at most.
const MAX_WINDOW: usize = 3;
/// Values of one task that should stay in the second cache.
const VALUES: usize = 96_000;
/// Squares of one task: enough that weights are read once for many.
const SQUARES: Range<usize> = 48..192;
/// Stands for every pixel beyond an edge.
static ZEROS: [f32; *INPUTS.end() + 16] = [0.0; *INPUTS.end() + 16];

/// Turned weights as panels.
#[derive(Clone)]
pub(super) struct Winograd(Arc<Inner>);

struct Inner {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    /// Frames of the window.
    window: usize,
    /// `[POINTS, window, panels]`.
    values: Aligned,
    bias: Option<Vec<f32>>,
}

impl fmt::Debug for Winograd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Winograd({} <- {}, {} frames)", self.0.outputs, self.0.inputs, self.0.window)
    }
}

impl Winograd {
    /// Whether a convolution can go this way. `padding` is `[top, bottom, left, right]`.
    pub fn fits(
        inputs: usize,
        kernel: [usize; 3],
        stride: [usize; 3],
        padding: [usize; 4],
    ) -> bool {
        let window = kernel[0] <= MAX_WINDOW && kernel[1..] == [3, 3] && padding == [1; 4];
        window && stride == [1; 3] && INPUTS.contains(&inputs)
    }

    /// `dense` is `[O, I, window, 3, 3]`.
    pub fn new(
        dense: &[f32],
        inputs: usize,
        outputs: usize,
        window: usize,
        bias: Option<Vec<f32>>,
    ) -> Self {
        let isa = Isa::current();
        let part = outputs * inputs;
        let mut turned = vec![0.0f32; POINTS * window * part];
        for (index, taps) in dense.chunks_exact(9).enumerate() {
            let (pair, frame) = (index / window, index % window);
            for (point, value) in turn_weights(taps).into_iter().enumerate() {
                turned[(point * window + frame) * part + pair] = value;
            }
        }
        let panels = outputs.div_ceil(isa.tile_columns());
        let mut values = Aligned::zeros(POINTS * window * panels * isa.tile_columns() * inputs);
        let pack = Pack { turned: &turned, inputs, outputs, to: values.as_mut_slice() };
        dispatch(isa, pack);
        Self(Arc::new(Inner { isa, inputs, outputs, window, values, bias }))
    }
}

/// `G g G^T` of one 3 x 3 kernel.
fn turn_weights(taps: &[f32]) -> [f32; POINTS] {
    let turn = |[a, b, c]: [f64; 3]| [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c];
    let tap = |y: usize, x: usize| f64::from(taps[3 * y + x]);
    let columns: [[f64; 4]; 3] = std::array::from_fn(|x| turn([tap(0, x), tap(1, x), tap(2, x)]));
    let mut out = [0.0; POINTS];
    for (y, row) in out.chunks_exact_mut(4).enumerate() {
        let turned = turn([columns[0][y], columns[1][y], columns[2][y]]);
        row.iter_mut().zip(turned).for_each(|(out, value)| *out = value as f32);
    }
    out
}

struct Pack<'a> {
    /// `[POINTS, window, O, I]`.
    turned: &'a [f32],
    inputs: usize,
    outputs: usize,
    to: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { turned, inputs, outputs, to } = self;
        let panels = outputs.div_ceil(S::NR) * S::NR * inputs;
        let matrices = turned.chunks_exact(outputs * inputs);
        for (matrix, to) in matrices.zip(to.chunks_exact_mut(panels)) {
            // SAFETY: a matrix has `outputs` rows of `inputs` values, and its panels room for them.
            unsafe { pack_panels::<S>(matrix.as_ptr(), inputs, outputs, inputs, to.as_mut_ptr()) }
        }
    }
}

/// Computes every output pixel.
pub(super) fn run(source: &Source<'_>, weights: &Winograd, output: &Output) {
    let weights = &*weights.0;
    let [_, height, width, _] = output.shape;
    let squares = height.div_ceil(2) * width.div_ceil(2);
    let columns = weights.isa.tile_columns();
    let wide = match weights.outputs {
        few if few <= columns / 2 => columns / 2,
        many => many.next_multiple_of(columns),
    };
    let of_square = POINTS * (weights.window * weights.inputs + wide);
    let together = (VALUES / of_square).clamp(SQUARES.start, SQUARES.end);
    let together = together.min(squares.div_ceil(wanted_tasks()));
    let together = together.next_multiple_of(weights.isa.tile_rows(weights.outputs));
    (0..squares.div_ceil(together)).into_par_iter().with_max_len(1).for_each(|task| {
        let squares = task * together..((task + 1) * together).min(squares);
        let n = squares.len();
        let lengths = [POINTS * weights.window * n * weights.inputs, POINTS * n * wide];
        with_scratch(lengths, |[turned, sums]| {
            dispatch(weights.isa, Squares { source, weights, output, squares, turned, sums, wide });
        });
    });
}

/// The same squares of every frame.
struct Squares<'a> {
    source: &'a Source<'a>,
    weights: &'a Inner,
    output: &'a Output,
    squares: Range<usize>,
    /// `[window, POINTS, squares, I]`, a ring of frames.
    turned: &'a mut [f32],
    /// `[POINTS, squares, wide]`.
    sums: &'a mut [f32],
    wide: usize,
}

impl Kernel for Squares<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let Inner { inputs, outputs, window, ref values, .. } = *self.weights;
        let n = self.squares.len();
        let panels = outputs.div_ceil(S::NR);
        let panel_values = inputs * S::NR;
        // SAFETY: the buffers have the sizes given at their fields, panels those of `Winograd::new`.
        unsafe {
            for t in 0..self.output.shape[0] {
                // Frame `t + d` of history and input is the window's frame `d`.
                for d in if t == 0 { 0 } else { window - 1 }..window {
                    if let Some(frame) = self.source.frame(inputs, window, t + d) {
                        self.turn::<S>(frame, (t + d) % window);
                    }
                }
                // The window's frames that there are, and their places in the ring.
                let mut frames = [(0, 0); MAX_WINDOW];
                let mut count = 0;
                for d in 0..window {
                    if self.source.frame(inputs, window, t + d).is_some() {
                        frames[count] = (d, (t + d) % window);
                        count += 1;
                    }
                }
                for point in 0..POINTS {
                    for panel in 0..panels {
                        let vectors = if outputs - panel * S::NR <= S::LANES { 1 } else { 2 };
                        let mut segments =
                            [Segment { a: std::ptr::null(), b: std::ptr::null() }; MAX_WINDOW];
                        for (segment, &(d, slot)) in segments.iter_mut().zip(&frames[..count]) {
                            let turned = (slot * POINTS + point) * n * inputs;
                            let place = (point * window + d) * panels + panel;
                            *segment = Segment {
                                a: self.turned.as_ptr().add(turned),
                                b: values.as_slice().as_ptr().add(place * panel_values),
                            };
                        }
                        for r in (0..n).step_by(S::rows(vectors)) {
                            let segments: [Segment; MAX_WINDOW] = std::array::from_fn(|i| {
                                Segment { a: segments[i].a.wrapping_add(r * inputs), ..segments[i] }
                            });
                            let c = (point * n + r) * self.wide + panel * S::NR;
                            let tile = Tile {
                                segments: &segments[..count],
                                depth: inputs,
                                a_row: inputs,
                                c: self.sums.as_mut_ptr().add(c),
                                c_row: self.wide,
                                accumulate: false,
                            };
                            S::tile((n - r).min(S::rows(vectors)), vectors, &tile);
                        }
                    }
                }
                self.finish::<S>(t);
            }
        }
    }
}

impl Squares<'_> {
    /// `B^T d B` of every square of a frame, into slot `slot` of the ring.
    // Plain indices: closures would be compiled without the wide registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn turn<S: Simd>(&mut self, frame: &[f32], slot: usize) {
        let Source { height, width, .. } = *self.source;
        let inputs = self.weights.inputs;
        let n = self.squares.len();
        let across = width.div_ceil(2);
        for (index, square) in self.squares.clone().enumerate() {
            let (y, x) = (2 * (square / across), 2 * (square % across));
            let pixels: [[*const f32; 4]; 4] = std::array::from_fn(|i| {
                std::array::from_fn(|j| {
                    // One pixel up and left of the output's.
                    let (y, x) = ((y + i).wrapping_sub(1), (x + j).wrapping_sub(1));
                    match y < height && x < width {
                        true => frame[(y * width + x) * inputs..].as_ptr(),
                        false => ZEROS.as_ptr(),
                    }
                })
            });
            let to = &mut self.turned[(slot * POINTS * n + index) * inputs..];
            let mut at = 0;
            while at < inputs {
                let lanes = (inputs - at).min(S::LANES);
                // SAFETY: pixels and places in the ring have `inputs` values.
                unsafe {
                    let mut columns = [[S::splat(0.0); 4]; 4];
                    for j in 0..4 {
                        let d = |i: usize| S::load_n(pixels[i][j].add(at), lanes);
                        let turned = turn::<S>([d(0), d(1), d(2), d(3)]);
                        for i in 0..4 {
                            columns[i][j] = turned[i];
                        }
                    }
                    for (i, row) in columns.into_iter().enumerate() {
                        for (j, value) in turn::<S>(row).into_iter().enumerate() {
                            let place = (4 * i + j) * n * inputs + at;
                            S::store_n(to.as_mut_ptr().add(place), lanes, value);
                        }
                    }
                }
                at += S::LANES;
            }
        }
    }

    /// `A^T m A` of every square, with the bias, to frame `t` of the output.
    // Plain indices: closures would be compiled without the wide registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, t: usize) {
        let [_, height, width, outputs] = self.output.shape;
        let (n, wide) = (self.squares.len(), self.wide);
        let across = width.div_ceil(2);
        for (index, square) in self.squares.clone().enumerate() {
            let (y, x) = (2 * (square / across), 2 * (square % across));
            let mut at = 0;
            while at < outputs {
                let lanes = (outputs - at).min(S::LANES);
                // SAFETY: sums are `wide`, a multiple of a vector; pixels inside the output have
                // `outputs` values, and tasks have squares of their own.
                unsafe {
                    let sums = self.sums.as_ptr().add(index * wide + at);
                    let mut columns = [[S::splat(0.0); 4]; 2];
                    for j in 0..4 {
                        let m = |i: usize| S::load(sums.add((4 * i + j) * n * wide));
                        let folded = fold::<S>([m(0), m(1), m(2), m(3)]);
                        columns[0][j] = folded[0];
                        columns[1][j] = folded[1];
                    }
                    for (dy, row) in columns.into_iter().enumerate() {
                        for (dx, value) in fold::<S>(row).into_iter().enumerate() {
                            if y + dy >= height || x + dx >= width {
                                continue;
                            }
                            let mut value = value;
                            if let Some(bias) = &self.weights.bias {
                                value = S::add(value, S::load_n(bias.as_ptr().add(at), lanes));
                            }
                            let to = self.output.at(t, y + dy, x + dx).add(at);
                            if self.output.add {
                                value = S::add(value, S::load_n(to, lanes));
                            }
                            S::store_n(to, lanes, value);
                        }
                    }
                }
                at += S::LANES;
            }
        }
    }
}

/// `B^T` times a column of four.
#[inline(always)]
unsafe fn turn<S: Simd>(d: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller vouches for the CPU.
    unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[1], d[3])] }
}

/// `A^T` times a column of four.
#[inline(always)]
unsafe fn fold<S: Simd>(m: [S::V; 4]) -> [S::V; 2] {
    // SAFETY: the caller vouches for the CPU.
    unsafe { [S::add(S::add(m[0], m[1]), m[2]), S::sub(S::sub(m[1], m[2]), m[3])] }
}
