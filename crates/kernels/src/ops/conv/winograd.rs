//! Convolution of 3 x 3 in space by Winograd's minimal filtering, F(4 x 4, 3 x 3).
//!
//! Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4. A patch of 6 x 6
//! input pixels is turned into 36 numbers for each channel; their products with the turned weights, summed
//! over channels and the frames of the window, turn into a square of 4 x 4 output pixels. That is 36
//! multiplications where the sum as it stands takes 144.
//!
//! The turning evaluates polynomials at 0, `A`, `-A`, `B`, `-B` and infinity. How much of an `f32` it
//! loses depends on these points (Barabasz et al. 2018, "Error Analysis and Improving the Accuracy of
//! Winograd Convolution for Deep Neural Networks"). With 5/8 and 3/2, whose squares and products are exact,
//! the error over 8 to 96 channels is 2.5 times that of F(2 x 2, 3 x 3), and half that of the usual 1 and 2.
//!
//! Squares lie at pixels that are multiples of four whatever a task holds, and sums run in one order, so
//! results depend neither on the number of threads nor on how many frames come at once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::lines::{Output, Source};
use crate::gemm::{Aligned, Segment, Tile, at_least, pack_panels, wanted_tasks, with_scratch};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Channels in for which a plain convolution goes this way: with fewer the turning is most of the work, and
/// no published network has more. The turned weights are four times the plain ones.
pub(super) const INPUTS: std::ops::RangeInclusive<usize> = 8..=384;
/// Sides of an output square and of the patch under it.
pub(super) const SIDE: usize = 4;
const PATCH: usize = SIDE + 2;
/// Numbers of one patch.
const POINTS: usize = PATCH * PATCH;
/// Frames of a window at most.
const MAX_WINDOW: usize = 3;
/// Where polynomials are evaluated, beside 0 and infinity.
const A: f32 = 0.625;
const B: f32 = 1.5;
/// Values of one task that should stay in the second cache.
const VALUES: usize = 80_000;
/// Squares of one task, those of all its frames: enough that weights are read once for many.
const ROWS: Range<usize> = 72..192;
/// Squares side by side that are read well together; from there on further frames are worth more.
const TOGETHER: usize = 16;

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
    /// Whether a convolution should go this way. `padding` is `[top, bottom, left, right]`.
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
        let isa = Isa::current().for_channels(outputs);
        let panels = outputs.div_ceil(isa.tile_columns()) * isa.tile_columns() * inputs;
        let mut values = Aligned::zeros(POINTS * window * panels);
        let part = outputs * inputs;
        // [window, 9, O, I], so that a tap's values lie together.
        let mut taps = vec![0.0; dense.len()];
        for (index, kernel) in dense.chunks_exact(9).enumerate() {
            let (pair, frame) = (index / window, index % window);
            for (tap, value) in kernel.iter().enumerate() {
                taps[(frame * 9 + tap) * part + pair] = *value;
            }
        }
        // Not with a thread pool: layers are made inside a lock, and a worker that waits here could pick up
        // a task that wants the same one.
        for (matrix, to) in values.as_mut_slice().chunks_exact_mut(panels).enumerate() {
            let (point, frame) = (matrix / window, matrix % window);
            let taps = &taps[frame * 9 * part..][..9 * part];
            dispatch(isa, Pack { taps, factors: factors(point), inputs, outputs, to });
        }
        Self(Arc::new(Inner { isa, inputs, outputs, window, values, bias }))
    }
}

/// What the nine taps of a kernel are multiplied with for one point: of `G g G^T` the outer product of two rows
/// of `G`. A row has the powers of a finite point over the product of its distances to the others; that of
/// infinity takes the last tap.
fn factors(point: usize) -> [f64; 9] {
    let (a, b) = (f64::from(A), f64::from(B));
    let points = [0.0, a, -a, b, -b];
    let row = |i: usize| -> [f64; 3] {
        let Some(point) = points.get(i) else { return [0.0, 0.0, 1.0] };
        let others = points.iter().filter(|other| *other != point);
        let distances: f64 = others.map(|other| point - other).product();
        [1.0, *point, point * point].map(|power| power / distances)
    };
    let (down, across) = (row(point / PATCH), row(point % PATCH));
    std::array::from_fn(|tap| down[tap / 3] * across[tap % 3])
}

/// The matrix of one point and frame into its panels.
struct Pack<'a> {
    /// `[9, O, I]`.
    taps: &'a [f32],
    factors: [f64; 9],
    inputs: usize,
    outputs: usize,
    to: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Out = ();

    // Plain indices: closures would be compiled without the wide registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const TOGETHER: usize = 32;
        let Self { taps, factors, inputs, outputs, to } = self;
        let mut turned = vec![0.0f32; outputs * inputs];
        for start in (0..turned.len()).step_by(TOGETHER) {
            let n = TOGETHER.min(turned.len() - start);
            let mut sums = [0.0f64; TOGETHER];
            for tap in 0..9 {
                if factors[tap] != 0.0 {
                    let values = &taps[tap * turned.len() + start..][..n];
                    for i in 0..n {
                        sums[i] += factors[tap] * f64::from(values[i]);
                    }
                }
            }
            for i in 0..n {
                turned[start + i] = sums[i] as f32;
            }
        }
        // SAFETY: the matrix has `outputs` rows of `inputs` values, and the panels room for them.
        unsafe { pack_panels::<S>(turned.as_ptr(), inputs, outputs, inputs, to.as_mut_ptr()) }
    }
}

/// Computes every output pixel. With `doubled` the input is the picture of twice the source's height and
/// width in which each of its pixels stands four times, and the output is of that size.
pub(super) fn run(source: &Source<'_>, doubled: bool, weights: &Winograd, output: &Output) {
    let weights = &*weights.0;
    let [frames, height, width, _] = output.shape;
    let across = width.div_ceil(SIDE);
    let squares = height.div_ceil(SIDE) * across;
    let columns = weights.isa.tile_columns();
    let wide = match weights.outputs {
        few if few <= columns / 2 => columns / 2,
        many => many.next_multiple_of(columns),
    };
    // As many rows as the cache takes: squares that lie side by side, then frames, and if there are few
    // frames, more squares.
    let rows = (VALUES / (POINTS * (weights.inputs + wide))).clamp(ROWS.start, ROWS.end);
    let most_frames = (rows / across.min(TOGETHER)).clamp(1, frames);
    let parts = frames.div_ceil(most_frames);
    let some_frames = frames.div_ceil(parts);
    let enough = squares.div_ceil(wanted_tasks().div_ceil(parts));
    let least = weights.isa.tile_rows(weights.outputs).div_ceil(some_frames);
    let some_squares = (rows / some_frames).min(enough).max(least).min(squares);
    let blocks = squares.div_ceil(some_squares);
    (0..blocks * parts).into_par_iter().with_max_len(1).for_each(|task| {
        let (block, part) = (task / parts, task % parts);
        let squares = block * some_squares..((block + 1) * some_squares).min(squares);
        let frames = part * some_frames..((part + 1) * some_frames).min(frames);
        let seen = frames.len() + weights.window - 1;
        let turned_point = apart(seen * squares.len() * weights.inputs);
        let sums_point = apart(frames.len() * squares.len() * wide);
        let lengths = [POINTS * turned_point, POINTS * sums_point, weights.inputs];
        with_scratch(lengths, |[turned, sums, zeros]| {
            zeros.fill(0.0);
            let places = Places { wide, turned_point, sums_point };
            let task = Squares {
                source,
                doubled,
                weights,
                output,
                squares,
                frames,
                places,
                turned,
                sums,
                zeros,
            };
            dispatch(weights.isa, task);
        });
    });
}

/// A distance of at least `values` at which places fall into different sets of the first cache: an odd
/// number of lines.
fn apart(values: usize) -> usize {
    (values.div_ceil(16) | 1) * 16
}

/// How the buffers of a task are laid out.
#[derive(Clone, Copy)]
struct Places {
    /// Values of a row of sums: whole vectors.
    wide: usize,
    /// Distances between points.
    turned_point: usize,
    sums_point: usize,
}

/// The same squares of some frames. A row is one square of one frame; those of a frame follow each other,
/// then comes the next frame, so that the window's frames are the same rows some squares on.
struct Squares<'a> {
    source: &'a Source<'a>,
    doubled: bool,
    weights: &'a Inner,
    output: &'a Output,
    squares: Range<usize>,
    frames: Range<usize>,
    places: Places,
    /// `[POINTS, window - 1 + frames, squares, I]`.
    turned: &'a mut [f32],
    /// `[POINTS, frames, squares, wide]`.
    sums: &'a mut [f32],
    /// A pixel beyond an edge, `[I]`.
    zeros: &'a [f32],
}

impl Kernel for Squares<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let Inner { inputs, window, .. } = *self.weights;
        // SAFETY: the buffers have the sizes given at their fields, panels those of `Winograd::new`.
        unsafe {
            for index in 0..window - 1 + self.frames.len() {
                match self.source.frame(inputs, window, self.frames.start + index) {
                    Some(frame) => self.turn::<S>(frame, index),
                    None => self.clear(index),
                }
            }
            self.multiply::<S>();
            self.finish::<S>();
        }
    }
}

impl Squares<'_> {
    /// The output pixel at the upper left of a square.
    #[inline(always)]
    fn corner(&self, square: usize) -> (usize, usize) {
        let across = self.output.shape[2].div_ceil(SIDE);
        (SIDE * (square / across), SIDE * (square % across))
    }

    /// Nothing in frame `index` of those seen.
    fn clear(&mut self, index: usize) {
        let values = self.squares.len() * self.weights.inputs;
        for point in self.turned.chunks_exact_mut(self.places.turned_point) {
            point[index * values..][..values].fill(0.0);
        }
    }

    /// `B^T d B` of every patch of a frame, which is the frame `index` of those seen.
    // Plain indices: closures would be compiled without the wide registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn turn<S: Simd>(&mut self, frame: &[f32], index: usize) {
        let (inputs, n) = (self.weights.inputs, self.squares.len());
        let [_, height, width, _] = self.output.shape;
        let (line, point) = (self.source.width * inputs, self.places.turned_point);
        let shift = usize::from(self.doubled);
        let zeros = self.zeros.as_ptr();
        for (i, square) in self.squares.clone().enumerate() {
            let (y, x) = self.corner(square);
            let inside = y > 0 && x > 0 && y + SIDE < height && x + SIDE < width;
            let mut pixels = [[zeros; PATCH]; PATCH];
            for i in 0..PATCH {
                // One pixel up and left of the output's.
                let y = (y + i).wrapping_sub(1);
                if !inside && y >= height {
                    continue;
                }
                let row = &frame[(y >> shift) * line..][..line];
                for j in 0..PATCH {
                    let x = (x + j).wrapping_sub(1);
                    if inside || x < width {
                        pixels[i][j] = row.as_ptr().wrapping_add((x >> shift) * inputs);
                    }
                }
            }
            let to = self.turned[(index * n + i) * inputs..].as_mut_ptr();
            // SAFETY: pixels, zeros and places have `inputs` values.
            unsafe {
                if inputs < S::LANES {
                    turn_patch::<S, false>(&pixels, 0, to, point, inputs);
                    continue;
                }
                let mut at = 0;
                while at < inputs {
                    // A last vector that is not whole begins earlier, and turns some values again.
                    at = at.min(inputs - S::LANES);
                    turn_patch::<S, true>(&pixels, at, to, point, S::LANES);
                    at += S::LANES;
                }
            }
        }
    }

    /// The sums over channels and the window's frames, for each point.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&mut self) {
        let Inner { inputs, outputs, window, ref values, .. } = *self.weights;
        let Places { wide, turned_point, sums_point } = self.places;
        let (n, frames) = (self.squares.len(), self.frames.len());
        let rows = n * frames;
        // Of the window's frames those that some output sees.
        let mut first = 0;
        while self.source.frame(inputs, window, self.frames.end - 1 + first).is_none() {
            first += 1;
        }
        let panels = outputs.div_ceil(S::NR);
        let panel_values = inputs * S::NR;
        let values = values.as_slice().as_ptr();
        for point in 0..POINTS {
            for panel in 0..panels {
                let vectors = if outputs - panel * S::NR <= S::LANES { 1 } else { 2 };
                let tiles = rows.div_ceil(S::rows(vectors));
                let mut row = 0;
                for tile in 0..tiles {
                    // Even tiles: a last one of few rows would take almost as long as a whole one.
                    let some = at_least((rows - row).div_ceil(tiles - tile)).min(rows - row);
                    let mut segments =
                        [Segment { a: std::ptr::null(), b: std::ptr::null() }; MAX_WINDOW];
                    // SAFETY: the rows of the window's frame `d` lie `d * n` rows on.
                    unsafe {
                        for d in first..window {
                            let place = (point * window + d) * panels + panel;
                            let a = point * turned_point + (d * n + row) * inputs;
                            segments[d - first] = Segment {
                                a: self.turned.as_ptr().add(a),
                                b: values.add(place * panel_values),
                            };
                        }
                        let c = point * sums_point + row * wide + panel * S::NR;
                        let sums = Tile {
                            segments: &segments[..window - first],
                            depth: inputs,
                            a_row: inputs,
                            c: self.sums.as_mut_ptr().add(c),
                            c_row: wide,
                            accumulate: false,
                        };
                        S::tile(some, vectors, &sums);
                    }
                    row += some;
                }
            }
        }
    }

    /// `A^T m A` of every square, with the bias, to the output.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self) {
        let outputs = self.weights.outputs;
        let mut sums = self.sums.as_ptr();
        for t in self.frames.clone() {
            for square in self.squares.clone() {
                let (y, x) = self.corner(square);
                // SAFETY: sums are whole vectors, and squares begin inside the output.
                unsafe {
                    let mut at = 0;
                    while at + S::LANES <= outputs {
                        self.finish_square::<S, true>(sums.add(at), [t, y, x], at, S::LANES);
                        at += S::LANES;
                    }
                    if at < outputs {
                        self.finish_square::<S, false>(sums.add(at), [t, y, x], at, outputs - at);
                    }
                    sums = sums.add(self.places.wide);
                }
            }
        }
    }

    /// `lanes` channels from `at` on of the square at pixel `[t, y, x]`, a whole vector when `FULL`.
    // Plain indices: closures would be compiled without the wide registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn finish_square<S: Simd, const FULL: bool>(
        &self,
        sums: *const f32,
        [t, y, x]: [usize; 3],
        at: usize,
        lanes: usize,
    ) {
        let [_, height, width, _] = self.output.shape;
        let point = self.places.sums_point;
        // SAFETY: sums are whole vectors; pixels inside the output have the channels, and tasks have
        // squares of their own.
        unsafe {
            let mut columns = [[S::splat(0.0); PATCH]; SIDE];
            for j in 0..PATCH {
                let mut m = [S::splat(0.0); PATCH];
                for i in 0..PATCH {
                    m[i] = S::load(sums.add((PATCH * i + j) * point));
                }
                let folded = fold::<S>(m);
                for i in 0..SIDE {
                    columns[i][j] = folded[i];
                }
            }
            let mut bias = S::splat(0.0);
            if let Some(values) = &self.weights.bias {
                bias = load::<S, FULL>(values.as_ptr().add(at), lanes);
            }
            let first = self.output.at(t, y, x).add(at);
            let line = width * self.weights.outputs;
            let add = self.output.add;
            let (down, across) = (SIDE.min(height - y), SIDE.min(width - x));
            for dy in 0..SIDE {
                let folded = fold::<S>(columns[dy]);
                if dy >= down {
                    break;
                }
                let to = first.add(dy * line);
                for dx in 0..SIDE {
                    if dx < across {
                        let mut value = S::add(folded[dx], bias);
                        let to = to.add(dx * self.weights.outputs);
                        if add {
                            value = S::add(value, load::<S, FULL>(to, lanes));
                        }
                        if FULL {
                            S::store(to, value);
                        } else {
                            S::store_n(to, lanes, value);
                        }
                    }
                }
            }
        }
    }
}

/// A vector, or its first `lanes` values when it is not `FULL`.
#[inline(always)]
unsafe fn load<S: Simd, const FULL: bool>(from: *const f32, lanes: usize) -> S::V {
    // SAFETY: the caller vouches for the values.
    unsafe { if FULL { S::load(from) } else { S::load_n(from, lanes) } }
}

/// Turns `lanes` channels from `at` on of one patch of pixels; the points go to `to + at`, `point` values
/// apart.
// Plain indices: closures would be compiled without the wide registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn turn_patch<S: Simd, const FULL: bool>(
    pixels: &[[*const f32; PATCH]; PATCH],
    at: usize,
    to: *mut f32,
    point: usize,
    lanes: usize,
) {
    // SAFETY: the caller vouches for the pixels and the places.
    unsafe {
        let mut half = [[S::splat(0.0); PATCH]; PATCH];
        for j in 0..PATCH {
            let mut d = [S::splat(0.0); PATCH];
            for i in 0..PATCH {
                d[i] = load::<S, FULL>(pixels[i][j].add(at), lanes);
            }
            let turned = turn::<S>(d);
            for i in 0..PATCH {
                half[i][j] = turned[i];
            }
        }
        for i in 0..PATCH {
            let turned = turn::<S>(half[i]);
            for j in 0..PATCH {
                let to = to.add((PATCH * i + j) * point + at);
                if FULL {
                    S::store(to, turned[j]);
                } else {
                    S::store_n(to, lanes, turned[j]);
                }
            }
        }
    }
}

/// `B^T` times a column of six. The row of a point has the coefficients of the product of `x - other` over
/// all other points, which pairs of opposite points share.
#[inline(always)]
unsafe fn turn<S: Simd>(d: [S::V; PATCH]) -> [S::V; PATCH] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let both = S::splat(A * A * B * B);
        let minus_sum = S::splat(-(A * A + B * B));
        let (minus_a2, minus_b2) = (S::splat(-A * A), S::splat(-B * B));
        let (even_a, odd_a) = (S::fma(d[2], minus_b2, d[4]), S::fma(d[1], minus_b2, d[3]));
        let (even_b, odd_b) = (S::fma(d[2], minus_a2, d[4]), S::fma(d[1], minus_a2, d[3]));
        [
            S::fma(d[0], both, S::fma(d[2], minus_sum, d[4])),
            S::fma(odd_a, S::splat(A), even_a),
            S::fma(odd_a, S::splat(-A), even_a),
            S::fma(odd_b, S::splat(B), even_b),
            S::fma(odd_b, S::splat(-B), even_b),
            S::fma(d[1], both, S::fma(d[3], minus_sum, d[5])),
        ]
    }
}

/// `A^T` times a column of six: row `k` has the `k`-th powers of the points.
#[inline(always)]
unsafe fn fold<S: Simd>(m: [S::V; PATCH]) -> [S::V; SIDE] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let (sum_a, difference_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (sum_b, difference_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let cubed = S::fma(difference_a, S::splat(A * A * A), m[5]);
        [
            S::add(m[0], S::add(sum_a, sum_b)),
            S::fma(difference_b, S::splat(B), S::mul(difference_a, S::splat(A))),
            S::fma(sum_b, S::splat(B * B), S::mul(sum_a, S::splat(A * A))),
            S::fma(difference_b, S::splat(B * B * B), cubed),
        ]
    }
}
