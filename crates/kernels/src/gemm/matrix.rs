//! The right-hand side of a product: a weight matrix, packed as it is used or once for all.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{Aligned, DEPTH, pack_panels, panel_offset, with_scratch};
use crate::simd::{Isa, Kernel, Pairs, Simd, dispatch};
use crate::{DType, Weight};

/// Up to this many values a matrix is packed once and kept as `f32`: 4 MiB a layer. Small models are
/// then packed once for all; large ones keep their weights in the mapped file alone.
const KEEP_PACKED: usize = 1 << 20;

/// A weight `[outputs, inputs]` that multiplies rows of activations: `C = A W^T`.
#[derive(Clone)]
pub(crate) struct Matrix {
    weight: Weight,
    outputs: usize,
    inputs: usize,
    packed: OnceLock<Arc<Packed>>,
}

/// Panels of the whole matrix, block by block of `k`, in one instruction set's shape.
pub(super) struct Packed {
    pub isa: Isa,
    pub values: Aligned,
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Matrix").field(&self.weight).finish()
    }
}

impl Matrix {
    pub(crate) fn new(weight: Weight) -> Self {
        let outputs = weight.shape()[0];
        let inputs = weight.len() / outputs.max(1);
        Self { weight, outputs, inputs, packed: OnceLock::new() }
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The panels for `isa` when the matrix is small enough to keep them; packed at the first use.
    pub(super) fn packed(&self, isa: Isa) -> Option<&Packed> {
        if self.weight.len() > KEEP_PACKED {
            return None;
        }
        let packed = self.packed.get_or_init(|| Arc::new(Packed::new(isa, self)));
        (packed.isa == isa).then_some(packed)
    }

    /// Where row `row`, value `k0` stands, when the values are `f32` that can be used in place.
    pub(super) fn in_place(&self, row: usize, k0: usize) -> Option<*const f32> {
        // `wrapping_add`: the offset is inside, but nothing is read here.
        self.start_of(DType::F32).map(|start| start.wrapping_add(row * self.inputs + k0))
    }

    /// As [`in_place`](Self::in_place), for pairs of bf16; both `k0` and rows are of whole pairs.
    fn pairs_in_place(&self, row: usize, k0: usize) -> Option<*const f32> {
        let start = self.start_of(DType::BF16).filter(|_| self.inputs.is_multiple_of(2));
        start.map(|start| start.wrapping_add((row * self.inputs + k0) / 2))
    }

    /// The first four bytes of values of `dtype` that are used as they are stored.
    fn start_of(&self, dtype: DType) -> Option<*const f32> {
        let start = self.weight.bytes().as_ptr().cast::<f32>();
        let usable = self.weight.dtype() == dtype
            && self.weight.is_unscaled()
            && start.is_aligned()
            && cfg!(target_endian = "little");
        usable.then_some(start)
    }

    /// Values `k0 ..` of row `row` as `f32`; both ends lie between whole blocks.
    pub(super) fn convert(&self, row: usize, k0: usize, out: &mut [f32]) {
        self.weight.values_to_f32(row * self.inputs + k0, out);
    }

    /// Packs the panels `panels` of the block `k0 .. k0 + depth` to `to`, one behind the other.
    ///
    /// # Safety
    /// `to` has room for `panels.len() * depth * NR` values; the CPU has the features of `S`.
    #[inline(always)]
    pub(super) unsafe fn pack_block<S: Simd>(
        &self,
        panels: std::ops::Range<usize>,
        k0: usize,
        depth: usize,
        to: *mut f32,
        rows: &mut [f32],
    ) {
        let first = panels.start * S::NR;
        let last = (panels.end * S::NR).min(self.outputs);
        // SAFETY: rows `first .. last` are the weight's own, and the caller vouches for `to`.
        unsafe {
            if let Some(from) = self.in_place(first, k0) {
                return pack_panels::<S>(from, self.inputs, last - first, depth, to);
            }
            for (i, row) in (first..last).step_by(S::NR).enumerate() {
                let inside = (last - row).min(S::NR);
                for r in 0..inside {
                    self.convert(row + r, k0, &mut rows[r * depth..(r + 1) * depth]);
                }
                let panel = to.add(i * depth * S::NR);
                pack_panels::<S>(rows.as_ptr(), depth, inside, depth, panel);
            }
        }
    }
}

impl Matrix {
    /// As [`pack_block`](Self::pack_block), in pairs of bf16; a pair that is cut has a zero behind.
    ///
    /// # Safety
    /// As there, with half as many places, rounded up.
    #[inline(always)]
    pub(super) unsafe fn pack_pairs<S: Pairs>(
        &self,
        panels: std::ops::Range<usize>,
        k0: usize,
        depth: usize,
        to: *mut f32,
        rows: &mut [f32],
    ) {
        let first = panels.start * S::NR;
        let last = (panels.end * S::NR).min(self.outputs);
        let places = depth.div_ceil(2);
        // SAFETY: rows `first .. last` are the weight's own, and the caller vouches for `to`.
        unsafe {
            if let Some(from) = self.pairs_in_place(first, k0) {
                return pack_panels::<S>(from, self.inputs / 2, last - first, places, to);
            }
            for (i, row) in (first..last).step_by(S::NR).enumerate() {
                let inside = (last - row).min(S::NR);
                for r in 0..inside {
                    // A row of pairs ends before the next row of values begins, so that both share the buffer.
                    self.convert(row + r, k0, &mut rows[r * depth..(r + 1) * depth]);
                    let rows = rows.as_mut_ptr();
                    S::narrow_row(rows.add(r * depth), depth, rows.add(r * places));
                }
                let panel = to.add(i * places * S::NR);
                pack_panels::<S>(rows.as_ptr(), places, inside, places, panel);
            }
        }
    }
}

impl Packed {
    fn new(isa: Isa, matrix: &Matrix) -> Self {
        let nr = isa.tile_columns();
        let panels = matrix.outputs.div_ceil(nr);
        let mut values = Aligned::zeros(panels * nr * matrix.inputs);
        let mut blocks = Vec::new();
        let mut rest = values.as_mut_slice();
        for k0 in (0..matrix.inputs).step_by(DEPTH) {
            let depth = DEPTH.min(matrix.inputs - k0);
            debug_assert_eq!(panel_offset(k0, depth, panels, 0, nr), k0 * panels * nr);
            let (block, behind) = rest.split_at_mut(panels * nr * depth);
            blocks.extend(
                block.chunks_exact_mut(nr * depth).enumerate().map(|(p, to)| (p, k0, depth, to)),
            );
            rest = behind;
        }
        // Not with a thread pool: this runs inside a lock that other workers may wait for, and a
        // worker that waits for them here could pick up a task that wants the same lock.
        with_scratch([nr * DEPTH], |[rows]| {
            for (panel, k0, depth, to) in blocks {
                dispatch(isa, Pack { matrix, panel, k0, depth, to, rows });
            }
        });
        Self { isa, values }
    }
}

struct Pack<'a> {
    matrix: &'a Matrix,
    panel: usize,
    k0: usize,
    depth: usize,
    to: &'a mut [f32],
    rows: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let panels = self.panel..self.panel + 1;
        // SAFETY: `to` is one panel of this depth; the features are the dispatcher's.
        unsafe {
            let to = self.to.as_mut_ptr();
            self.matrix.pack_block::<S>(panels, self.k0, self.depth, to, self.rows);
        }
    }
}
