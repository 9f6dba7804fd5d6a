//! The processor's attention over some blocks of keys: a block of queries of one head at a time.

use super::blocks::{Cut, KEY_BLOCK};
use super::group::{Group, KEYS, QUERIES, Rows, Values, take_row};
use crate::gemm::{OfSingles, Shared, pack_panels};
use crate::simd::{Kernel, Simd};

/// Keys and values of one head that are packed already, block after block of [`KEY_BLOCK`] places.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    /// Panels of keys.
    pub keys: &'a [f32],
    /// Panels of values, of all places.
    pub values: &'a [f32],
    /// Keys of each block.
    pub cut: Cut,
}

/// A group whose queries all see the blocks `kept`, in order, of what is packed.
pub(super) struct KeptGroup<'a> {
    pub group: Group<'a>,
    pub packed: Packed<'a>,
    pub kept: &'a [usize],
}

impl Kernel for KeptGroup<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: as for a group; the packed keys and values have all places of the blocks.
        unsafe {
            self.group.take_queries::<S, OfSingles>();
            let mut begins = true;
            let mut kept = self.kept;
            while let Some(&first) = kept.first() {
                // Blocks that follow each other are one tile, up to a block that is not whole.
                let len = |block| self.packed.cut.places(block, KEY_BLOCK).len();
                let mut count = 1;
                while count < (KEYS / KEY_BLOCK).min(kept.len())
                    && kept[count] == first + count
                    && len(first + count - 1) == KEY_BLOCK
                {
                    count += 1;
                }
                let keys = (count - 1) * KEY_BLOCK + len(first + count - 1);
                self.add_tile::<S>(first, keys, begins);
                (begins, kept) = (false, &kept[count..]);
            }
            self.group.write::<S>();
        }
    }
}

impl KeptGroup<'_> {
    /// Adds the first `keys` keys from block `first` on to all queries.
    #[inline(always)]
    unsafe fn add_tile<S: Simd>(&mut self, first: usize, keys: usize, begins: bool) {
        let group = &mut self.group;
        let place = first * KEY_BLOCK;
        // SAFETY: see `run`.
        unsafe {
            let panels = self.packed.keys.as_ptr().add(place * group.key_size());
            let all = self.packed.values.len() / group.wide;
            let values = Values { panels: self.packed.values.as_ptr(), keys: all, first: place };
            for r0 in (0..group.rows.len()).step_by(QUERIES) {
                let part = r0..(r0 + QUERIES).min(group.rows.len());
                group.scores::<S, OfSingles>(
                    part.clone(),
                    panels,
                    keys.next_multiple_of(KEY_BLOCK),
                    keys,
                );
                for r in part.clone() {
                    group.soften::<S, OfSingles>(r, r - r0, place, begins, keys, keys);
                }
                group.add_values::<S, OfSingles>(part, values, keys, !begins);
            }
        }
    }
}

/// Some places' keys and values, to be packed.
pub(super) struct Pack<'a> {
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    pub heads: usize,
    pub head: usize,
    /// The tokens of one block of keys.
    pub tokens: &'a [u32],
    /// Places of all blocks, and the block's first one.
    pub places: usize,
    pub first: usize,
    /// `[KEY_BLOCK, key_size]`: the block's keys.
    pub gathered: &'a mut [f32],
    /// See [`Packed`].
    pub keys: Shared,
    /// See [`Packed`].
    pub values: Shared,
}

impl Kernel for Pack<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (size, value_size) = (self.k.width / self.heads, self.v.width / self.heads);
        let (own, rest) = self.gathered.split_at_mut(self.tokens.len() * size);
        for (to, &token) in own.chunks_exact_mut(size).zip(self.tokens) {
            let at = token as usize * self.k.width + self.head * size;
            to.copy_from_slice(&self.k.data[at..at + size]);
        }
        rest.fill(0.0);
        // SAFETY: both have room for all places, and this block's are nobody else's.
        unsafe {
            let to = self.keys.at(self.first * size);
            pack_panels::<S>(self.gathered.as_ptr(), size, KEY_BLOCK, size, to);
            for (panel, d0) in (0..value_size).step_by(S::NR).enumerate() {
                let inside = (value_size - d0).min(S::NR);
                let width = if inside <= S::LANES { S::LANES } else { S::NR };
                let to = self.values.at(panel * self.places * S::NR + self.first * width);
                for (i, &token) in self.tokens.iter().enumerate() {
                    let at = token as usize * self.v.width + self.head * value_size + d0;
                    let from = self.v.data[at..at + inside].as_ptr();
                    take_row::<S>(from, inside, to.add(i * width), width);
                }
            }
        }
    }
}
