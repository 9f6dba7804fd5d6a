//! Convolution by lines: spans of output pixels, each a row of tiles.

use std::ops::Range;

use rayon::prelude::*;

use super::packed::{GROUP_RUNS, Packed};
use crate::gemm::{Segment, Shared, Tile, wanted_tasks, with_scratch};
use crate::simd::{Kernel, Simd, dispatch};

/// Output pixels of one task, about: enough that weights are read once for many, few enough that the
/// sums stay in the second cache.
const PIXELS: usize = 240;

/// The input: frames `[T, H, W, I]` and those before them.
pub(super) struct Source<'a> {
    pub frames: &'a [f32],
    pub history: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub stride: [usize; 3],
    pub top: usize,
    pub left: usize,
}

/// Where output pixels go.
pub(super) struct Output {
    out: Shared,
    /// `[T, H, W, O]`.
    pub shape: [usize; 4],
    /// Whether results are added to what is there.
    pub add: bool,
}

impl<'a> Source<'a> {
    /// Frame `index` of all that a window of `window` frames may reach, the first of which is frame 0:
    /// of the history, of the input, or none where nothing is known.
    pub fn frame(&self, inputs: usize, window: usize, index: usize) -> Option<&'a [f32]> {
        let size = self.height * self.width * inputs;
        let lead = window - 1;
        let (data, frame) = match index.checked_sub(lead) {
            Some(frame) => (self.frames, frame),
            None => (self.history, (self.history.len() / size + index).checked_sub(lead)?),
        };
        Some(&data[frame * size..][..size])
    }
}

impl Output {
    /// Where a pixel's values begin.
    ///
    /// # Safety
    /// The pixel lies inside the output.
    #[inline(always)]
    pub unsafe fn at(&self, t: usize, y: usize, x: usize) -> *mut f32 {
        let [_, height, width, outputs] = self.shape;
        let place = ((t * height + y) * width + x) * outputs;
        // SAFETY: the caller vouches for the pixel.
        unsafe { self.out.at(place) }
    }

    pub fn whole(out: Shared, shape: [usize; 4], add: bool) -> Self {
        Self { out, shape, add }
    }
}

/// One tile's worth of output pixels on one line.
struct Piece {
    t: usize,
    y: usize,
    x: usize,
    pixels: usize,
    /// Index of the line's table of input lines.
    lines: usize,
    /// Where its copied windows begin, when some of them reach over an edge.
    copied: Option<usize>,
}

/// Computes every output pixel.
pub(super) fn run(source: &Source<'_>, packed: &Packed, output: &Output) {
    let [frames, mut height, mut width, outputs] = output.shape;
    let isa = packed.isa;
    let flat;
    let mut source = source;
    let mut output = output;
    // A window of one pixel in space (a convolution in time) sees a frame as one long line.
    if packed.kernel[1..] == [1, 1]
        && source.stride[1..] == [1, 1]
        && (source.height, source.width) == (height, width)
    {
        width *= height;
        height = 1;
        flat = (
            Source { height: 1, width, ..*source },
            Output { shape: [frames, 1, width, outputs], ..*output },
        );
        (source, output) = (&flat.0, &flat.1);
    }

    // Spans of a line of at most PIXELS, and as many lines as make about PIXELS.
    let parts = width.div_ceil(PIXELS);
    let span = width.div_ceil(parts).next_multiple_of(isa.tile_rows(outputs)).min(width);
    let parts = width.div_ceil(span);
    let spans = frames * height * parts;
    let panels = outputs.div_ceil(isa.tile_columns());
    let wanted = wanted_tasks();
    let together = (PIXELS / span).max(1).min(spans.div_ceil(wanted).max(1));
    let span_tasks = spans.div_ceil(together);
    // Few pixels and many channels: share the channels out instead.
    let splits = wanted.div_ceil(span_tasks).min(panels);
    let task_panels = panels.div_ceil(splits);
    let splits = panels.div_ceil(task_panels);

    (0..span_tasks * splits).into_par_iter().with_max_len(1).for_each(|task| {
        let (spans_task, split) = (task / splits, task % splits);
        let panels = split * task_panels..((split + 1) * task_panels).min(panels);
        let mut plan = Plan::new(source, packed);
        for index in spans_task * together..((spans_task + 1) * together).min(spans) {
            let (line, part) = (index / parts, index % parts);
            let x = part * span..((part + 1) * span).min(width);
            plan.add(line / height, line % height, x);
        }
        let wide = panels.len() * isa.tile_columns();
        with_scratch([plan.pixels * wide, plan.copied], |[sums, copied]| {
            plan.copy_edges(copied);
            dispatch(isa, Lines { plan: &plan, copied, sums, panels, output });
        });
    });
}

/// What one task computes.
struct Plan<'a> {
    source: &'a Source<'a>,
    packed: &'a Packed,
    pieces: Vec<Piece>,
    /// For each output line, the input line under each line of the window, if there is one.
    lines: Vec<Option<&'a [f32]>>,
    pixels: usize,
    /// Values to be copied.
    copied: usize,
}

impl<'a> Plan<'a> {
    fn new(source: &'a Source<'a>, packed: &'a Packed) -> Self {
        Self { source, packed, pieces: Vec::new(), lines: Vec::new(), pixels: 0, copied: 0 }
    }

    /// Adds the pixels `x` of output line `(t, y)`.
    fn add(&mut self, t: usize, y: usize, x: Range<usize>) {
        let [kt, kh, kw] = self.packed.kernel;
        let lines = self.lines.len();
        for (dt, dy) in (0..kt * kh).map(|i| (i / kh, i % kh)) {
            let line = self.input_line(t * self.source.stride[0] + dt, y, dy);
            self.lines.push(line);
        }
        // Even tiles: two of four rows are faster than one of six and one of two.
        let tiles = x.len().div_ceil(self.packed.isa.tile_rows(self.packed.outputs));
        let (stride, left) = (self.source.stride[2], self.source.left);
        let mut at = x.start;
        for tile in 0..tiles {
            let pixels = (x.end - at).div_ceil(tiles - tile);
            let (first, last) = (at * stride, (at + pixels - 1) * stride + kw);
            let inside = first >= left && last - left <= self.source.width;
            let copied = (!inside).then_some(self.copied);
            if !inside {
                self.copied += kt * kh * self.window(pixels);
            }
            self.pieces.push(Piece { t, y, x: at, pixels, lines, copied });
            at += pixels;
        }
        self.pixels += x.len();
    }

    /// Line `dy` of the window of output line `y`, in frame `frame` counted from the first frame the
    /// window may reach.
    fn input_line(&self, frame: usize, y: usize, dy: usize) -> Option<&'a [f32]> {
        let Source { height, width, stride, top, .. } = *self.source;
        let line = width * self.packed.inputs;
        let y = (y * stride[1] + dy).checked_sub(top).filter(|&y| y < height)?;
        let frame = self.source.frame(self.packed.inputs, self.packed.kernel[0], frame)?;
        Some(&frame[y * line..][..line])
    }

    /// Values of one line of the window over `pixels` output pixels.
    fn window(&self, pixels: usize) -> usize {
        ((pixels - 1) * self.source.stride[2] + self.packed.kernel[2]) * self.packed.inputs
    }

    fn window_lines(&self) -> usize {
        self.packed.kernel[0] * self.packed.kernel[1]
    }

    /// Copies the windows that reach over an edge, with zeros beyond it.
    fn copy_edges(&self, to: &mut [f32]) {
        let inputs = self.packed.inputs;
        for piece in &self.pieces {
            let Some(start) = piece.copied else { continue };
            let window = self.window(piece.pixels);
            let first = piece.x * self.source.stride[2];
            for i in 0..self.window_lines() {
                let Some(line) = self.lines[piece.lines + i] else { continue };
                let to = &mut to[start + i * window..][..window];
                // The window covers input pixels `first - left ..`.
                let before = self.source.left.saturating_sub(first).min(window / inputs);
                let from = (first + before - self.source.left).min(self.source.width);
                let inside = (window / inputs - before).min(self.source.width - from);
                to[..before * inputs].fill(0.0);
                to[before * inputs..][..inside * inputs]
                    .copy_from_slice(&line[from * inputs..][..inside * inputs]);
                to[(before + inside) * inputs..].fill(0.0);
            }
        }
    }
}

struct Lines<'a> {
    plan: &'a Plan<'a>,
    copied: &'a [f32],
    /// `[pixels, panels]`.
    sums: &'a mut [f32],
    panels: Range<usize>,
    output: &'a Output,
}

impl Kernel for Lines<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { plan, copied, sums, panels, output } = self;
        let Plan { source, packed, .. } = *plan;
        let (inputs, outputs) = (packed.inputs, packed.outputs);
        let a_row = source.stride[2] * inputs;
        let c_row = panels.len() * S::NR;
        let sums = sums.as_mut_ptr();
        // SAFETY: windows inside a line and copied windows hold every value the tile reads, the
        // panels are packed for this instruction set, and sums have room for all panels.
        unsafe {
            for (g, group) in packed.groups.iter().enumerate() {
                let runs = &packed.runs[group.runs.clone()];
                for panel in panels.clone() {
                    let vectors = if outputs - panel * S::NR <= S::LANES { 1 } else { 2 };
                    let b = packed.values.as_slice().as_ptr().add(panel * group.depth * S::NR);
                    let mut row = 0;
                    for piece in &plan.pieces {
                        let mut segments =
                            [Segment { a: std::ptr::null(), b: std::ptr::null() }; GROUP_RUNS];
                        let mut n = 0;
                        let window = plan.window(piece.pixels);
                        for run in runs {
                            let Some(line) = plan.lines[piece.lines + run.line] else { continue };
                            let a = match piece.copied {
                                Some(start) => copied.as_ptr().add(start + run.line * window),
                                None => {
                                    let x = piece.x * source.stride[2] - source.left;
                                    line.as_ptr().add(x * inputs)
                                }
                            };
                            segments[n] = Segment { a: a.add(run.offset), b: b.add(run.panels) };
                            n += 1;
                        }
                        let tile = Tile {
                            segments: &segments[..n],
                            depth: group.depth,
                            a_row,
                            c: sums.add(row * c_row + (panel - panels.start) * S::NR),
                            c_row,
                            accumulate: g > 0,
                        };
                        S::tile(piece.pixels, vectors, &tile);
                        row += piece.pixels;
                    }
                }
            }

            let first = panels.start * S::NR;
            let channels = (panels.end * S::NR).min(outputs) - first;
            let mut from = sums.cast_const();
            for piece in &plan.pieces {
                for x in piece.x..piece.x + piece.pixels {
                    let to = output.at(piece.t, piece.y, x).add(first);
                    let mut at = 0;
                    while at < channels {
                        let n = (channels - at).min(S::LANES);
                        let mut v = S::load(from.add(at));
                        if let Some(bias) = &packed.bias {
                            v = S::add(v, S::load_n(bias.as_ptr().add(first + at), n));
                        }
                        if output.add {
                            v = S::add(v, S::load_n(to.add(at), n));
                        }
                        S::store_n(to.add(at), n, v);
                        at += n;
                    }
                    from = from.add(c_row);
                }
            }
        }
    }
}
