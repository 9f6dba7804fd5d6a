//! The right-hand side of a product: a weight matrix, packed as it is used or once for all.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{Aligned, DEPTH, OfSingles, Terms, pack_panels, panel_offset, with_scratch};
use crate::simd::{Isa, Kernel, Simd, dispatch};
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

    /// Where row `row`, value `k0` stands, when the values are of `dtype` and can be used in place, so many in four
    /// bytes. `k0` is a multiple of that.
    pub(super) fn in_place(
        &self,
        dtype: DType,
        values: usize,
        row: usize,
        k0: usize,
    ) -> Option<*const f32> {
        let start = self.weight.bytes().as_ptr().cast::<f32>();
        let usable = self.weight.dtype() == dtype
            && self.weight.is_unscaled()
            && self.inputs.is_multiple_of(values)
            && start.is_aligned()
            && cfg!(target_endian = "little");
        // `wrapping_add`: the offset is inside, but nothing is read here.
        usable.then(|| start.wrapping_add((row * self.inputs + k0) / values))
    }

    /// Values `k0 ..` of row `row` as `f32`; both ends lie between whole blocks.
    pub(super) fn convert(&self, row: usize, k0: usize, out: &mut [f32]) {
        self.weight.values_to_f32(row * self.inputs + k0, out);
    }

    /// Packs the panels `panels` of the block `k0 .. k0 + depth` to `to`, one behind the other, in the places of
    /// `T`; one that is cut has zeros behind. `rows` has room for the values of a panel's rows.
    ///
    /// # Safety
    /// `to` has room for `panels.len() * NR` times the places of `depth` values; the CPU has the features of `S`.
    #[inline(always)]
    pub(super) unsafe fn pack_block<S: Simd, T: Terms<S>>(
        &self,
        panels: std::ops::Range<usize>,
        k0: usize,
        depth: usize,
        to: *mut f32,
        rows: &mut [f32],
    ) {
        let first = panels.start * S::NR;
        let last = (panels.end * S::NR).min(self.outputs);
        let places = depth.div_ceil(T::VALUES);
        // SAFETY: rows `first .. last` are the weight's own, and the caller vouches for `to`.
        unsafe {
            if let Some(from) = self.in_place(T::DTYPE, T::VALUES, first, k0) {
                let row = self.inputs / T::VALUES;
                return pack_panels::<S>(from, row, last - first, places, to);
            }
            for (i, row) in (first..last).step_by(S::NR).enumerate() {
                let inside = (last - row).min(S::NR);
                for r in 0..inside {
                    let own = &mut rows[r * places..][..depth];
                    self.convert(row + r, k0, own);
                    T::turn(own.as_mut_ptr(), depth);
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
            self.matrix.pack_block::<S, OfSingles>(panels, self.k0, self.depth, to, self.rows);
        }
    }
}
