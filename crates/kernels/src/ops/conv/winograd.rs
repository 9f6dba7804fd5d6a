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

mod squares;
mod turn;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use self::squares::{Places, Squares};
use self::turn::factors;
use super::lines::{Output, Source};
use crate::gemm::{Aligned, pack_panels, wanted_tasks, with_scratch};
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
