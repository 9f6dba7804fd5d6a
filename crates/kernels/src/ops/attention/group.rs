//! The processor's attention: some queries of one head at a time.

use std::ops::Range;

use super::{Attention, Bias};
use crate::Tensor;
use crate::gemm::{OfPairs, OfSingles, Segment, Shared, Terms, Tile, pack_panels};
use crate::ops::mask::{Mask, Window};
use crate::simd::{Kernel, PairKernel, Pairs, Simd, exp};

/// Queries, keys or values of one sample: some rows of a tensor.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// `[count, width]`.
    pub data: &'a [f32],
    pub count: usize,
    pub width: usize,
}

impl<'a> Rows<'a> {
    pub fn of(tensor: &'a Tensor, rows: Range<usize>) -> Self {
        let (count, width) = (rows.len(), tensor.dim(1));
        Self { data: &tensor.data()[rows.start * width..rows.end * width], count, width }
    }
}

/// Which queries stand where: at place `i` that of token `places[i]`, where the first token is `first`.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub places: &'a [u32],
    pub first: usize,
}

/// Queries whose scores stand in memory at once; whole tiles for every instruction set.
pub(super) const QUERIES: usize = 24;
/// Keys of one block. Fixed, because the order of the sums depends on it.
pub(super) const KEYS: usize = 256;

/// Values in panels: a panel has some columns of all `keys` of them.
#[derive(Clone, Copy)]
pub(super) struct Values {
    pub panels: *const f32,
    pub keys: usize,
    /// The first one that is used.
    pub first: usize,
}

/// Scratch of one task.
pub(super) struct Buffers<'a> {
    /// `[rows, key_size]`, scaled; pairs stand at the beginnings of rows.
    pub queries: &'a mut [f32],
    /// Panels of `block` keys.
    pub keys: &'a mut [f32],
    /// Panels of `block` values, and before that keys as places.
    pub values: &'a mut [f32],
    /// `[QUERIES, block]`.
    pub scores: &'a mut [f32],
    /// `[rows, wide]`.
    pub sums: &'a mut [f32],
    /// The largest score so far, by row.
    pub largest: &'a mut [f32],
    /// The sum of the exponentials so far, by row.
    pub total: &'a mut [f32],
}

/// Some queries of one sample and head against all keys they may see.
pub(super) struct Group<'a> {
    pub q: Rows<'a>,
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    pub how: &'a Attention<'a>,
    pub window: Option<Window>,
    pub head: usize,
    /// Among the sample's queries, by their place where there is an order.
    pub rows: Range<usize>,
    pub order: Option<Order<'a>>,
    /// Of the sample's queries in the result.
    pub first_row: usize,
    pub block: usize,
    pub wide: usize,
    pub buffers: Buffers<'a>,
    pub out: Shared,
}

impl Kernel for Group<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller vouches for the features.
        unsafe { self.all::<S, OfSingles>() }
    }
}

impl PairKernel for Group<'_> {
    #[inline(always)]
    unsafe fn run<S: Pairs>(self) {
        // SAFETY: the caller vouches for the features.
        unsafe { self.all::<S, OfPairs>() }
    }
}

/// How values are laid out for tiles.
pub(super) trait Form<S: Simd>: Terms<S> {
    /// Packs `inside` values of each of `rows` rows, `from_row` apart, as rows of a panel, filled up to `width`.
    ///
    /// # Safety
    /// The values are readable, the panel writable; the CPU has the features of `S`.
    unsafe fn pack_values(
        from: *const f32,
        from_row: usize,
        rows: usize,
        inside: usize,
        to: *mut f32,
        width: usize,
    );
}

impl<S: Simd> Form<S> for OfSingles {
    #[inline(always)]
    unsafe fn pack_values(
        from: *const f32,
        from_row: usize,
        rows: usize,
        inside: usize,
        to: *mut f32,
        width: usize,
    ) {
        for row in 0..rows {
            // SAFETY: the caller vouches for both.
            unsafe { take_row::<S>(from.add(row * from_row), inside, to.add(row * width), width) }
        }
    }
}

impl<S: Pairs> Form<S> for OfPairs {
    /// A place has the values of two rows.
    #[inline(always)]
    unsafe fn pack_values(
        from: *const f32,
        from_row: usize,
        rows: usize,
        inside: usize,
        to: *mut f32,
        width: usize,
    ) {
        for row in (0..rows).step_by(2) {
            let mut at = 0;
            while at < width {
                let n = inside.saturating_sub(at).min(S::LANES);
                // SAFETY: the caller vouches for both.
                unsafe {
                    let from = from.add(row * from_row + at);
                    let first = S::load_n(from, n);
                    let second = match row + 1 < rows {
                        true => S::load_n(from.add(from_row), n),
                        false => S::splat(0.0),
                    };
                    S::store(to.add(row / 2 * width + at), S::join(first, second));
                }
                at += S::LANES;
            }
        }
    }
}

impl Group<'_> {
    #[inline(always)]
    unsafe fn all<S: Simd, T: Form<S>>(mut self) {
        // SAFETY: the tensors have the shapes that `attention` checked, the buffers those given at
        // their fields.
        unsafe {
            self.take_queries::<S, T>();
            match (self.how.mask, self.window) {
                (Mask::BlockWindow { .. }, Some(window)) => {
                    // A tile ends where its block does, so that blocks left out move no other tile.
                    let last = self.block_of(self.rows.end - 1, window);
                    let near = window.first_near(self.block_of(self.rows.start, window));
                    for block in (0..window.sink.min(near)).chain(near..last + 1) {
                        let tokens = window.tokens(block, self.k.count);
                        for k0 in tokens.clone().step_by(KEYS) {
                            self.add_tile::<S, T>(k0..(k0 + KEYS).min(tokens.end), Some(block));
                        }
                    }
                }
                _ => {
                    let end = self.end(self.rows.end - 1);
                    for k0 in (0..end).step_by(KEYS) {
                        self.add_tile::<S, T>(k0..(k0 + KEYS).min(end), None);
                    }
                }
            }
            self.write::<S>();
        }
    }

    /// The block of a query.
    fn block_of(&self, query: usize, window: Window) -> usize {
        (query + self.k.count - self.q.count) / window.tokens_per_block
    }

    /// Where the keys end that a query sees.
    fn end(&self, query: usize) -> usize {
        let keys = self.k.count;
        match self.window {
            None => keys,
            Some(window) => window.tokens(self.block_of(query, window), keys).end,
        }
    }

    /// How many of a tile's keys a query sees, always its first ones. `block` is that of the tile,
    /// where a query sees all of a tile or nothing.
    fn seen(&self, query: usize, tile: &Range<usize>, block: Option<usize>) -> usize {
        match (block, self.window) {
            (Some(block), Some(window)) if !window.sees(self.block_of(query, window), block) => 0,
            (Some(_), _) => tile.len(),
            (None, _) => self.end(query).min(tile.end).saturating_sub(tile.start),
        }
    }

    /// Adds the keys of one tile to all queries that see it.
    #[inline(always)]
    unsafe fn add_tile<S: Simd, T: Form<S>>(&mut self, tile: Range<usize>, block: Option<usize>) {
        let first = self.rows.start;
        // A tile that all see first begins the sums; where there are windows they begin with zeros.
        let begins = block.is_none() && tile.start == 0;
        // SAFETY: see `run`.
        unsafe {
            self.pack_block::<S, T>(tile.clone());
            for r0 in (0..self.rows.len()).step_by(QUERIES) {
                let part = r0..(r0 + QUERIES).min(self.rows.len());
                let seen = |r| self.seen(first + r, &tile, block);
                let most = part.clone().map(seen).max().unwrap_or(0);
                if most > 0 {
                    let keys = self.buffers.keys.as_ptr();
                    let values = self.buffers.values.as_ptr();
                    self.scores::<S, T>(part.clone(), keys, tile.len(), most);
                    for r in part.clone() {
                        let seen = self.seen(first + r, &tile, block);
                        self.soften::<S, T>(r, r - r0, tile.start, begins, seen, most);
                    }
                    let values = Values { panels: values, keys: tile.len(), first: 0 };
                    self.add_values::<S, T>(part, values, most, !begins);
                }
            }
        }
    }

    /// The query at a place.
    fn query(&self, place: usize) -> usize {
        match self.order {
            None => place,
            Some(Order { places, first }) => places[place] as usize - first,
        }
    }

    pub(super) fn key_size(&self) -> usize {
        self.q.width / self.how.heads
    }

    fn value_size(&self) -> usize {
        self.v.width / self.how.heads
    }

    /// Copies the head's queries, scaled.
    #[inline(always)]
    pub(super) unsafe fn take_queries<S: Simd, T: Form<S>>(&mut self) {
        let (size, dim) = (self.key_size(), self.q.width);
        // SAFETY: see `run`.
        unsafe {
            let scale = S::splat(self.how.scale);
            for (r, row) in self.rows.clone().enumerate() {
                let from = self.q.data.as_ptr().add(self.query(row) * dim + self.head * size);
                let to = self.buffers.queries.as_mut_ptr().add(r * size);
                let mut at = 0;
                while at < size {
                    let n = (size - at).min(S::LANES);
                    S::store_n(to.add(at), n, S::mul(S::load_n(from.add(at), n), scale));
                    at += n;
                }
                T::turn(to, size);
                self.buffers.largest[r] = f32::NEG_INFINITY;
                self.buffers.total[r] = 0.0;
            }
            if matches!(self.how.mask, Mask::BlockWindow { .. }) {
                self.buffers.sums[..self.rows.len() * self.wide].fill(0.0);
            }
        }
    }

    /// Packs keys as columns and values as rows of panels.
    #[inline(always)]
    unsafe fn pack_block<S: Simd, T: Form<S>>(&mut self, keys: Range<usize>) {
        let (size, dim) = (self.key_size(), self.k.width);
        let (value_size, value_dim) = (self.value_size(), self.v.width);
        // SAFETY: see `run`.
        unsafe {
            let from = self.k.data.as_ptr().add(keys.start * dim + self.head * size);
            let to = self.buffers.keys.as_mut_ptr();
            let turned = self.buffers.values.as_mut_ptr();
            let (from, row) = T::rows(from, dim, keys.len(), size, turned);
            pack_panels::<S>(from, row, keys.len(), size.div_ceil(T::VALUES), to);
            for (panel, d0) in (0..value_size).step_by(S::NR).enumerate() {
                let inside = (value_size - d0).min(S::NR);
                let width = if inside <= S::LANES { S::LANES } else { S::NR };
                let to = self.buffers.values.as_mut_ptr().add(panel * keys.len() * S::NR);
                let from = self.v.data.as_ptr();
                let from = from.add(keys.start * value_dim + self.head * value_size + d0);
                T::pack_values(from, value_dim, keys.len(), inside, to, width);
            }
        }
    }

    /// The scores of the queries `part` against the first `seen` of `keys` keys, which are packed at
    /// `panels`.
    #[inline(always)]
    pub(super) unsafe fn scores<S: Simd, T: Form<S>>(
        &mut self,
        part: Range<usize>,
        panels: *const f32,
        keys: usize,
        seen: usize,
    ) {
        let size = self.key_size();
        let places = size.div_ceil(T::VALUES);
        // SAFETY: see `run`.
        unsafe {
            for (panel, j) in (0..seen).step_by(S::NR).enumerate() {
                let vectors = if keys - j <= S::LANES { 1 } else { 2 };
                let b = panels.add(panel * places * S::NR);
                for r in part.clone().step_by(S::rows(vectors)) {
                    let a = self.buffers.queries.as_ptr().add(r * size);
                    let c = self.buffers.scores.as_mut_ptr();
                    let tile = Tile {
                        segments: &[Segment { a, b }],
                        depth: places,
                        a_row: size,
                        c: c.add((r - part.start) * self.block + j),
                        c_row: self.block,
                        accumulate: false,
                    };
                    T::tile((part.end - r).min(S::rows(vectors)), vectors, &tile);
                }
            }
        }
    }

    /// Turns the scores of row `r` (`line` of the buffer) against the keys from `k0` on into weights
    /// relative to the largest score so far: `seen` of them, zeros up to `end`; what was summed before
    /// is scaled to match, unless this `begins` the sums.
    #[inline(always)]
    pub(super) unsafe fn soften<S: Simd, T: Form<S>>(
        &mut self,
        r: usize,
        line: usize,
        k0: usize,
        begins: bool,
        seen: usize,
        end: usize,
    ) {
        // SAFETY: see `run`; a line of scores has room for whole vectors.
        unsafe {
            let scores = self.buffers.scores.as_mut_ptr().add(line * self.block);
            let whole = seen.next_multiple_of(S::LANES);
            let keys = self.k.count;
            if let Bias::LastKey(added) = self.how.bias
                && k0 + seen == keys
                && seen > 0
            {
                *scores.add(seen - 1) += added;
            }
            if let Bias::Scores(bias) = self.how.bias {
                let queries = self.q.count;
                let at = (self.head * queries + self.rows.start + r) * keys + k0;
                let bias = bias.data().as_ptr().add(at);
                let mut j = 0;
                while j < seen {
                    let n = (seen - j).min(S::LANES);
                    let v = S::add(S::load(scores.add(j)), S::load_n(bias.add(j), n));
                    S::store(scores.add(j), v);
                    j += n;
                }
            }
            for j in seen..whole {
                *scores.add(j) = f32::NEG_INFINITY;
            }
            for j in whole..end {
                *scores.add(j) = 0.0;
            }
            if seen == 0 {
                return;
            }

            let mut largest = S::splat(f32::NEG_INFINITY);
            let mut j = 0;
            while j < whole {
                largest = S::max(S::load(scores.add(j)), largest);
                j += S::LANES;
            }
            let before = self.buffers.largest[r];
            let largest = S::largest(largest).max(before);
            self.buffers.largest[r] = largest;
            // Where everything is forbidden there is nothing to be relative to.
            let origin = if largest == f32::NEG_INFINITY { 0.0 } else { largest };

            let mut total = [S::splat(0.0); 2];
            let minus = S::splat(origin);
            let mut j = 0;
            while j + 2 * S::LANES <= whole {
                let a = exp::<S>(S::sub(S::load(scores.add(j)), minus));
                let b = exp::<S>(S::sub(S::load(scores.add(j + S::LANES)), minus));
                S::store(scores.add(j), a);
                S::store(scores.add(j + S::LANES), b);
                total = [S::add(total[0], a), S::add(total[1], b)];
                j += 2 * S::LANES;
            }
            if j < whole {
                let a = exp::<S>(S::sub(S::load(scores.add(j)), minus));
                S::store(scores.add(j), a);
                total[0] = S::add(total[0], a);
            }
            T::turn(scores, end);
            let total = S::sum(S::add(total[0], total[1]));
            if begins {
                self.buffers.total[r] = total;
            } else if before == origin {
                self.buffers.total[r] += total;
            } else {
                let shrink = (before - origin).exp();
                self.buffers.total[r] = self.buffers.total[r] * shrink + total;
                let sums = self.buffers.sums.as_mut_ptr().add(r * self.wide);
                let shrink = S::splat(shrink);
                let mut at = 0;
                while at < self.wide {
                    S::store(sums.add(at), S::mul(S::load(sums.add(at)), shrink));
                    at += S::LANES;
                }
            }
        }
    }

    /// Adds the values of `seen` keys by their weights.
    #[inline(always)]
    pub(super) unsafe fn add_values<S: Simd, T: Form<S>>(
        &mut self,
        part: Range<usize>,
        values: Values,
        seen: usize,
        accumulate: bool,
    ) {
        let size = self.value_size();
        // SAFETY: see `run`.
        unsafe {
            for (panel, d0) in (0..size).step_by(S::NR).enumerate() {
                let vectors = if size - d0 <= S::LANES { 1 } else { 2 };
                let row = vectors * S::LANES;
                let b = values.panels.add(panel * values.keys * S::NR + values.first * row);
                for r in part.clone().step_by(S::rows(vectors)) {
                    let a = self.buffers.scores.as_ptr().add((r - part.start) * self.block);
                    let c = self.buffers.sums.as_mut_ptr();
                    let tile = Tile {
                        segments: &[Segment { a, b }],
                        depth: seen.div_ceil(T::VALUES),
                        a_row: self.block,
                        c: c.add(r * self.wide + d0),
                        c_row: self.wide,
                        accumulate,
                    };
                    T::tile((part.end - r).min(S::rows(vectors)), vectors, &tile);
                }
            }
        }
    }

    /// Divides by the sum of the weights and writes the result.
    #[inline(always)]
    pub(super) unsafe fn write<S: Simd>(&mut self) {
        let (size, dim) = (self.value_size(), self.v.width);
        // SAFETY: see `run`; heads and rows are this task's own.
        unsafe {
            for (r, row) in self.rows.clone().enumerate() {
                let inverse = S::splat(1.0 / self.buffers.total[r]);
                let from = self.buffers.sums.as_ptr().add(r * self.wide);
                let row = self.first_row + self.query(row);
                let to = self.out.at(row * dim + self.head * size);
                let mut at = 0;
                while at < size {
                    let n = (size - at).min(S::LANES);
                    S::store_n(to.add(at), n, S::mul(S::load_n(from.add(at), n), inverse));
                    at += n;
                }
            }
        }
    }
}

/// Copies `inside` values to a row of `width`, zeros behind them.
#[inline(always)]
pub(super) unsafe fn take_row<S: Simd>(
    from: *const f32,
    inside: usize,
    to: *mut f32,
    width: usize,
) {
    // SAFETY: the caller vouches for both.
    unsafe {
        for at in (0..width).step_by(S::LANES) {
            let n = inside.saturating_sub(at).min(S::LANES);
            S::store(to.add(at), S::load_n(from.add(at), n));
        }
    }
}
