//! Softmax attention in tiles, with an online softmax (Dao et al. 2022, FlashAttention, algorithm 1):
//! the scores of a few queries against one block of keys are all that ever stands in memory.

use crate::spans;
use std::ops::Range;

use rayon::prelude::*;

use crate::Tensor;
use crate::gemm::{Segment, Shared, Tile, pack_panels, wanted_tasks, with_scratch};
use crate::gpu::Array;
use crate::gpu::ops::{self as body, Attend, Scores, Seen};
use crate::simd::{Isa, Kernel, Simd, dispatch, exp};

use super::mask::{Mask, Window};

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Number of heads; the dim of q, k and v is `heads * head_dim`.
    pub heads: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which keys a query may see.
    pub mask: Mask,
    /// What is added to the scaled scores.
    pub bias: Bias<'a>,
}

/// What is added to the scaled scores of an attention.
#[derive(Debug, Clone, Copy, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// A value for each, `[heads, queries, keys]` (UMT5's relative positions).
    Scores(&'a Tensor),
    /// A value for the last key of each query: the logarithm of how many equal keys it stands for.
    LastKey(f32),
}

/// Queries of one task at most: packing a block of keys and values is then a small part of the work.
const GROUP: usize = 1152;
/// Queries whose scores stand in memory at once; whole tiles for every instruction set.
const QUERIES: usize = 24;
/// Keys of one block. Fixed, because the order of the sums depends on it.
const KEYS: usize = 256;

/// Operations and values of [`attention`]: scores and sums of what is seen.
fn cost(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention<'_>) -> (f64, usize) {
    let flops = 2.0 * how.mask.pairs(q.dim(0), k.dim(0)) * (k.dim(1) + v.dim(1)) as f64;
    (flops, 2 * q.len() + k.len() + v.len())
}

/// Softmax attention. `q` `[queries, heads * head_dim]`, `k` and `v` `[keys, heads * head_dim]`,
/// result `[queries, heads * head_dim]`. The value's head size may differ from the key's.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention<'_>) -> Tensor {
    let (queries, keys, heads) = (q.dim(0), k.dim(0), how.heads);
    let window = how.mask.window();
    assert!(
        heads > 0
            && q.dim(1) == k.dim(1)
            && v.dim(0) == keys
            && q.dim(1).is_multiple_of(heads)
            && v.dim(1).is_multiple_of(heads)
            && window.is_none_or(|window| window.tokens_per_block > 0 && queries <= keys)
            && match how.bias {
                Bias::Scores(bias) => bias.shape() == [heads, queries, keys],
                Bias::None | Bias::LastKey(_) => true,
            },
        "attention: {:?}, {:?}, {:?}, {heads} heads, {:?}, {:?}",
        q.shape(),
        k.shape(),
        v.shape(),
        how.mask,
        how.bias
    );
    let _span = spans::begin("attention", || cost(q, k, v, how));
    let (key_size, value_size) = (q.dim(1) / heads, v.dim(1) / heads);
    if keys == 0 || q.is_empty() || v.is_empty() {
        return Tensor::zeros_on(&q.device(), &[queries, v.dim(1)]);
    }
    if let Some(q) = q.array() {
        let out = on_gpu(q, k, v, queries, how);
        return Tensor::from_array(&[queries, v.dim(1)], out);
    }
    let isa = Isa::current();
    let nr = isa.tile_columns();
    // Several tasks for each thread, if there are queries enough.
    let wanted = wanted_tasks().div_ceil(heads);
    let group = queries.div_ceil(wanted).clamp(QUERIES, GROUP);
    let group = queries.div_ceil(queries.div_ceil(group)).next_multiple_of(QUERIES);
    let groups = queries.div_ceil(group);
    let block = KEYS.min(keys).next_multiple_of(nr);
    let wide = value_size.next_multiple_of(nr);
    let task = |index: usize, out: Shared| {
        let (head, first) = (index / groups, index % groups * group);
        let rows = first..(first + group).min(queries);
        let n = rows.len();
        let lengths =
            [n * key_size, block * key_size, block * wide, QUERIES * block, n * wide, n, n];
        with_scratch(lengths, |[queries, keys, values, scores, sums, largest, total]| {
            let buffers = Buffers { queries, keys, values, scores, sums, largest, total };
            let group = Group { q, k, v, how, window, head, rows, block, wide, buffers, out };
            dispatch(isa, group);
        });
    };
    // SAFETY: the tasks' heads and rows cover the result, and each writes all of its own.
    unsafe {
        Tensor::fill(&[queries, v.dim(1)], |out| {
            if queries * keys * q.dim(1) <= 1 << 15 {
                (0..heads * groups).for_each(|index| task(index, out));
            } else {
                (0..heads * groups)
                    .into_par_iter()
                    .with_max_len(1)
                    .for_each(|index| task(index, out));
            }
        })
    }
}

/// [`attention`] on a GPU, in what the queries are.
fn on_gpu(q: &Array, k: &Tensor, v: &Tensor, queries: usize, how: &Attention<'_>) -> Array {
    let gpu = q.gpu();
    let [keys, values] = [k, v].map(|tensor| tensor.array_as(gpu, q.element()));
    let bias = match how.bias {
        Bias::Scores(bias) => Some(bias.array_on(gpu)),
        _ => None,
    };
    let added = match how.bias {
        Bias::LastKey(added) => Scores::LastKey(added),
        _ => bias.as_deref().map_or(Scores::None, Scores::All),
    };
    let seen = Seen::by(how.mask, queries, k.dim(0));
    let attend = Attend { heads: how.heads, scale: how.scale, seen, added };
    let out = body::attention(q, &keys, &values, queries, k.dim(0), &attend);
    spans::settle(gpu);
    out
}

struct Buffers<'a> {
    /// `[rows, key_size]`, scaled.
    queries: &'a mut [f32],
    /// Panels of `block` keys.
    keys: &'a mut [f32],
    /// Panels of `block` values.
    values: &'a mut [f32],
    /// `[QUERIES, block]`.
    scores: &'a mut [f32],
    /// `[rows, wide]`.
    sums: &'a mut [f32],
    /// The largest score so far, by row.
    largest: &'a mut [f32],
    /// The sum of the exponentials so far, by row.
    total: &'a mut [f32],
}

/// Some queries of one head against all keys they may see.
struct Group<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    how: &'a Attention<'a>,
    window: Option<Window>,
    head: usize,
    rows: Range<usize>,
    block: usize,
    wide: usize,
    buffers: Buffers<'a>,
    out: Shared,
}

impl Kernel for Group<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the tensors have the shapes that `attention` checked, the buffers those given at
        // their fields.
        unsafe {
            self.take_queries::<S>();
            match (self.how.mask, self.window) {
                (Mask::BlockWindow { .. }, Some(window)) => {
                    // A tile ends where its block does, so that blocks left out move no other tile.
                    let last = self.block_of(self.rows.end - 1, window);
                    let near = window.first_near(self.block_of(self.rows.start, window));
                    for block in (0..window.sink.min(near)).chain(near..last + 1) {
                        let tokens = window.tokens(block, self.k.dim(0));
                        for k0 in tokens.clone().step_by(KEYS) {
                            self.add_tile::<S>(k0..(k0 + KEYS).min(tokens.end), Some(block));
                        }
                    }
                }
                _ => {
                    let end = self.end(self.rows.end - 1);
                    for k0 in (0..end).step_by(KEYS) {
                        self.add_tile::<S>(k0..(k0 + KEYS).min(end), None);
                    }
                }
            }
            self.write::<S>();
        }
    }
}

impl Group<'_> {
    /// The block of a query.
    fn block_of(&self, query: usize, window: Window) -> usize {
        (query + self.k.dim(0) - self.q.dim(0)) / window.tokens_per_block
    }

    /// Where the keys end that a query sees.
    fn end(&self, query: usize) -> usize {
        let keys = self.k.dim(0);
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
    unsafe fn add_tile<S: Simd>(&mut self, tile: Range<usize>, block: Option<usize>) {
        let first = self.rows.start;
        // A tile that all see first begins the sums; where there are windows they begin with zeros.
        let begins = block.is_none() && tile.start == 0;
        // SAFETY: see `run`.
        unsafe {
            self.pack_block::<S>(tile.clone());
            for r0 in (0..self.rows.len()).step_by(QUERIES) {
                let part = r0..(r0 + QUERIES).min(self.rows.len());
                let seen = |r| self.seen(first + r, &tile, block);
                let most = part.clone().map(seen).max().unwrap_or(0);
                if most > 0 {
                    self.scores::<S>(part.clone(), tile.len(), most);
                    for r in part.clone() {
                        let seen = self.seen(first + r, &tile, block);
                        self.soften::<S>(r, r - r0, tile.start, begins, seen, most);
                    }
                    self.add_values::<S>(part, tile.len(), most, !begins);
                }
            }
        }
    }

    fn key_size(&self) -> usize {
        self.q.dim(1) / self.how.heads
    }

    fn value_size(&self) -> usize {
        self.v.dim(1) / self.how.heads
    }

    /// Copies the head's queries, scaled.
    #[inline(always)]
    unsafe fn take_queries<S: Simd>(&mut self) {
        let (size, dim) = (self.key_size(), self.q.dim(1));
        // SAFETY: see `run`.
        unsafe {
            let scale = S::splat(self.how.scale);
            for (r, row) in self.rows.clone().enumerate() {
                let from = self.q.data().as_ptr().add(row * dim + self.head * size);
                let to = self.buffers.queries.as_mut_ptr().add(r * size);
                let mut at = 0;
                while at < size {
                    let n = (size - at).min(S::LANES);
                    S::store_n(to.add(at), n, S::mul(S::load_n(from.add(at), n), scale));
                    at += n;
                }
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
    unsafe fn pack_block<S: Simd>(&mut self, keys: Range<usize>) {
        let (size, dim) = (self.key_size(), self.k.dim(1));
        let (value_size, value_dim) = (self.value_size(), self.v.dim(1));
        // SAFETY: see `run`.
        unsafe {
            let from = self.k.data().as_ptr().add(keys.start * dim + self.head * size);
            let to = self.buffers.keys.as_mut_ptr();
            pack_panels::<S>(from, dim, keys.len(), size, to);
            for (panel, d0) in (0..value_size).step_by(S::NR).enumerate() {
                let inside = (value_size - d0).min(S::NR);
                let width = if inside <= S::LANES { S::LANES } else { S::NR };
                let to = self.buffers.values.as_mut_ptr().add(panel * keys.len() * S::NR);
                for (i, key) in keys.clone().enumerate() {
                    let from = self.v.data().as_ptr();
                    let from = from.add(key * value_dim + self.head * value_size + d0);
                    let mut at = 0;
                    while at < width {
                        let n = inside.saturating_sub(at).min(S::LANES);
                        S::store(to.add(i * width + at), S::load_n(from.add(at), n));
                        at += S::LANES;
                    }
                }
            }
        }
    }

    /// The scores of the queries `part` against the first `seen` of the block's `keys` keys.
    #[inline(always)]
    unsafe fn scores<S: Simd>(&mut self, part: Range<usize>, keys: usize, seen: usize) {
        let size = self.key_size();
        // SAFETY: see `run`.
        unsafe {
            for (panel, j) in (0..seen).step_by(S::NR).enumerate() {
                let vectors = if keys - j <= S::LANES { 1 } else { 2 };
                let b = self.buffers.keys.as_ptr().add(panel * size * S::NR);
                for r in part.clone().step_by(S::rows(vectors)) {
                    let a = self.buffers.queries.as_ptr().add(r * size);
                    let c = self.buffers.scores.as_mut_ptr();
                    let tile = Tile {
                        segments: &[Segment { a, b }],
                        depth: size,
                        a_row: size,
                        c: c.add((r - part.start) * self.block + j),
                        c_row: self.block,
                        accumulate: false,
                    };
                    S::tile((part.end - r).min(S::rows(vectors)), vectors, &tile);
                }
            }
        }
    }

    /// Turns the scores of row `r` (`line` of the buffer) against the keys from `k0` on into weights
    /// relative to the largest score so far: `seen` of them, zeros up to `end`; what was summed before
    /// is scaled to match, unless this `begins` the sums.
    #[inline(always)]
    unsafe fn soften<S: Simd>(
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
            let keys = self.k.dim(0);
            if let Bias::LastKey(added) = self.how.bias
                && k0 + seen == keys
                && seen > 0
            {
                *scores.add(seen - 1) += added;
            }
            if let Bias::Scores(bias) = self.how.bias {
                let queries = self.q.dim(0);
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

    /// Adds the values of the first `seen` of the block's `keys` keys by their weights.
    #[inline(always)]
    unsafe fn add_values<S: Simd>(
        &mut self,
        part: Range<usize>,
        keys: usize,
        seen: usize,
        accumulate: bool,
    ) {
        let size = self.value_size();
        // SAFETY: see `run`.
        unsafe {
            for (panel, d0) in (0..size).step_by(S::NR).enumerate() {
                let vectors = if size - d0 <= S::LANES { 1 } else { 2 };
                let b = self.buffers.values.as_ptr().add(panel * keys * S::NR);
                for r in part.clone().step_by(S::rows(vectors)) {
                    let a = self.buffers.scores.as_ptr().add((r - part.start) * self.block);
                    let c = self.buffers.sums.as_mut_ptr();
                    let tile = Tile {
                        segments: &[Segment { a, b }],
                        depth: seen,
                        a_row: self.block,
                        c: c.add(r * self.wide + d0),
                        c_row: self.wide,
                        accumulate,
                    };
                    S::tile((part.end - r).min(S::rows(vectors)), vectors, &tile);
                }
            }
        }
    }

    /// Divides by the sum of the weights and writes the result.
    #[inline(always)]
    unsafe fn write<S: Simd>(&mut self) {
        let (size, dim) = (self.value_size(), self.v.dim(1));
        // SAFETY: see `run`; heads and rows are this task's own.
        unsafe {
            for (r, row) in self.rows.clone().enumerate() {
                let inverse = S::splat(1.0 / self.buffers.total[r]);
                let from = self.buffers.sums.as_ptr().add(r * self.wide);
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
