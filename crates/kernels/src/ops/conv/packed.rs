//! The weights of a convolution, ready for the tile.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::gemm::{Aligned, pack_panels};
use crate::simd::{Isa, Kernel, Simd, dispatch};

/// Values of one run at most; a longer line of the window is cut into equal parts.
const RUN: usize = 384;
/// Values summed in one tile at most, several runs together: their panel about fills the first cache.
const GROUP: usize = 512;
/// Runs in one group at most.
pub(super) const GROUP_RUNS: usize = 32;

/// A part of one line of the window: `depth` values from `offset` on.
pub(super) struct Run {
    /// Which line of the window: `dt * kh + dy`.
    pub line: usize,
    pub offset: usize,
    /// Where the panels of this run begin; panel `p` follows after `p * depth * NR` values.
    pub panels: usize,
}

/// Runs of one depth that are summed in one tile.
pub(super) struct Group {
    pub runs: Range<usize>,
    pub depth: usize,
}

/// Weights as panels, run by run, in one instruction set's shape.
#[derive(Clone)]
pub(super) struct Packed(Arc<Inner>);

pub(super) struct Inner {
    pub isa: Isa,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: [usize; 3],
    pub runs: Vec<Run>,
    pub groups: Vec<Group>,
    pub values: Aligned,
    pub bias: Option<Vec<f32>>,
}

impl std::ops::Deref for Packed {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} <- {}, {:?})", self.outputs, self.inputs, self.kernel)
    }
}

impl Packed {
    /// `dense` is `[O, I, kt, kh, kw]`.
    pub fn new(
        dense: &[f32],
        inputs: usize,
        outputs: usize,
        kernel: [usize; 3],
        bias: Option<Vec<f32>>,
    ) -> Self {
        let isa = Isa::current().for_channels(outputs);
        let lines = kernel[0] * kernel[1];
        let line = kernel[2] * inputs;
        let panels = outputs.div_ceil(isa.tile_columns()) * isa.tile_columns();
        let depth = line.div_ceil(line.div_ceil(RUN));
        let (mut runs, mut groups, mut at) = (Vec::new(), Vec::new(), 0);
        for offset in (0..line).step_by(depth) {
            let depth = depth.min(line - offset);
            let together = (GROUP / depth).clamp(1, GROUP_RUNS);
            for first in (0..lines).step_by(together) {
                let last = (first + together).min(lines);
                let start = runs.len();
                for line in first..last {
                    runs.push(Run { line, offset, panels: at });
                    at += depth * panels;
                }
                groups.push(Group { runs: start..runs.len(), depth });
            }
        }

        // [O, line of the window, dx, I], whose rows are then packed as they stand.
        let mut rows = vec![0.0; dense.len()];
        for (pair, taps) in dense.chunks_exact(lines * kernel[2]).enumerate() {
            let (o, i) = (pair / inputs, pair % inputs);
            for (tap, value) in taps.iter().enumerate() {
                rows[(o * lines * kernel[2] + tap) * inputs + i] = *value;
            }
        }
        let mut values = Aligned::zeros(at);
        let pack =
            Pack { rows: &rows, row: lines * line, outputs, line, runs: &runs, groups: &groups };
        dispatch(isa, PackInto { pack, to: values.as_mut_slice() });
        Self(Arc::new(Inner { isa, inputs, outputs, kernel, runs, groups, values, bias }))
    }
}

struct Pack<'a> {
    rows: &'a [f32],
    row: usize,
    outputs: usize,
    line: usize,
    runs: &'a [Run],
    groups: &'a [Group],
}

struct PackInto<'a> {
    pack: Pack<'a>,
    to: &'a mut [f32],
}

impl Kernel for PackInto<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Pack { rows, row, outputs, line, runs, groups } = self.pack;
        for group in groups {
            for run in &runs[group.runs.clone()] {
                // SAFETY: the run lies inside each row, and its panels inside `to`.
                unsafe {
                    let from = rows.as_ptr().add(run.line * line + run.offset);
                    let to = self.to.as_mut_ptr().add(run.panels);
                    pack_panels::<S>(from, row, outputs, group.depth, to);
                }
            }
        }
    }
}
