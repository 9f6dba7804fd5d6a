//! One task: the same squares of some frames, from their patches to output pixels.

use std::ops::Range;

use super::super::lines::{Output, Source};
use super::turn::{fold, load, turn_patch};
use super::{Inner, MAX_WINDOW, PATCH, POINTS, SIDE};
use crate::gemm::{Segment, Tile, at_least};
use crate::simd::{Kernel, Simd};

/// How the buffers of a task are laid out.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// Values of a row of sums: whole vectors.
    pub wide: usize,
    /// Distances between points.
    pub turned_point: usize,
    pub sums_point: usize,
}

/// The same squares of some frames. A row is one square of one frame; those of a frame follow each other,
/// then comes the next frame, so that the window's frames are the same rows some squares on.
pub(super) struct Squares<'a> {
    pub source: &'a Source<'a>,
    pub doubled: bool,
    pub weights: &'a Inner,
    pub output: &'a Output,
    pub squares: Range<usize>,
    pub frames: Range<usize>,
    pub places: Places,
    /// `[POINTS, window - 1 + frames, squares, I]`.
    pub turned: &'a mut [f32],
    /// `[POINTS, frames, squares, wide]`.
    pub sums: &'a mut [f32],
    /// A pixel beyond an edge, `[I]`.
    pub zeros: &'a [f32],
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
