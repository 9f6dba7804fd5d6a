//! Attention that leaves out what matters little: a block of queries sees the blocks of keys that weigh most.
//!
//! The way is that of SpargeAttn (Zhang et al. 2025, arXiv:2502.18137), which needs no training and no model's
//! own settings: the means of the blocks stand for their tokens, softmax of the products of those means says
//! what share of its weights a block of queries gives to each block of keys, and the largest are kept until
//! their sum is the share that is asked for. Blocks whose tokens are too little alike for a mean to stand for
//! them are kept in any case. Over the keys that are kept softmax is exact. Of the paper's other parts the
//! second filter within a block and the 8-bit products are left out; blocks are runs of [`TokenBlocks`]
//! instead of a Hilbert curve's; and a block's own keys and those next to them are always kept.

use std::ops::Range;

use rayon::prelude::*;

use super::blocks::{Cut, KEY_BLOCK, QUERY_BLOCK, TokenBlocks};
use super::group::{Buffers, Group, KEYS, Order, QUERIES, Rows};
use super::kept::{KeptGroup, Pack, Packed};
use super::pairs::PairCounter;
use super::select::{Keys, LEAST_LIKENESS, pool};
use super::{Bias, Part, Sample, attention_of_samples, checked, cost, nothing, on_cpu};
use crate::Tensor;
use crate::gemm::{Aligned, Shared, with_scratch};
use crate::gpu::ops::{self as body, Seen, SparseRows};
use crate::gpu::{Address, Array};
use crate::simd::{Isa, dispatch};
use crate::spans;

/// What is left out of an attention.
#[derive(Debug, Clone, Copy)]
pub struct Sparse<'a> {
    /// Of the keys of each sample.
    pub blocks: &'a TokenBlocks,
    /// Share of the weights that is kept, as the means tell it, above 0; 1 leaves nothing out.
    pub mass: f32,
    /// Runs of queries, in order, that see all that their mask lets them see: whole causal blocks, or under
    /// no mask all queries.
    pub whole: &'a [Range<usize>],
    /// Counts what is kept, on the device of the queries; nothing is counted without one.
    pub counter: Option<&'a PairCounter>,
}

/// [`attention_of_samples`] that leaves out blocks of keys. Nothing may be added to the scores, and with
/// masks queries begin with a causal block. A query's result depends on its sample's keys that it may see
/// and on the queries of its block, and not on what else is computed with it; on another device the choice
/// may differ where weights are almost equal.
pub fn sparse_attention_of_samples(
    q: &Tensor,
    samples: &[Sample<'_>],
    sparse: &Sparse<'_>,
) -> Tensor {
    let queries = q.dim(0) / samples.len().max(1);
    if sparse.mass >= 1.0 || sparse.whole.contains(&(0..queries)) {
        return attention_of_samples(q, samples);
    }
    let _span = spans::begin("sparse attention", || cost(q, samples));
    let Some((queries, shape)) = checked(q, samples) else { return nothing(q, samples) };
    samples.iter().for_each(|sample| sparse.check(sample, queries));
    let rows =
        |index: usize, run: Range<usize>| index * queries + run.start..index * queries + run.end;
    let first_query = sparse.blocks.cut.tokens - queries;
    let whole = samples.iter().enumerate().flat_map(|(index, sample)| {
        sparse.whole.iter().map(move |run| Part {
            sample,
            keys: sample.keys.start..sample.keys.start + first_query + run.end,
            rows: rows(index, run.clone()),
        })
    });
    let whole: Vec<_> = whole.collect();
    let chosen = samples.iter().enumerate().map(|(index, sample)| Chosen {
        sample,
        sparse,
        rows: rows(index, 0..queries),
        blocks: sparse.query_blocks(queries),
    });
    if let Some(q) = q.array() {
        let mut out = Array::unset(q.gpu(), q.element(), shape[0] * shape[1]);
        whole.iter().for_each(|part| part.on_gpu(&mut out, q));
        chosen.for_each(|part| part.on_gpu(&mut out, q));
        spans::settle(q.gpu());
        return Tensor::from_array(&shape, out);
    }
    // SAFETY: the rows of both kinds of parts cover the result.
    unsafe {
        Tensor::fill(&shape, |out| {
            on_cpu(q, &whole, out);
            chosen.for_each(|part| part.on_cpu(q, out));
        })
    }
}

impl Sparse<'_> {
    fn check(&self, sample: &Sample<'_>, queries: usize) {
        let Cut { tokens, tokens_per_block } = self.blocks.cut;
        let mask = sample.how.mask;
        let per_block = mask.window().map_or(tokens, |window| window.tokens_per_block.min(tokens));
        let starts = |token: usize| token.is_multiple_of(tokens_per_block);
        let first_query = tokens.wrapping_sub(queries);
        let mut runs = self.whole.iter().scan(0, |next, run| {
            let follows = run.start >= std::mem::replace(next, run.end);
            Some((run, follows))
        });
        let run_fits = |(run, follows): (&Range<usize>, bool)| {
            follows
                && run.start < run.end
                && run.end <= queries
                && starts(first_query + run.start)
                && (run.end == queries || starts(first_query + run.end))
        };
        assert!(
            self.mass > 0.0
                && matches!(sample.how.bias, Bias::None)
                && sample.keys.len() == tokens
                && queries <= tokens
                && tokens_per_block == per_block
                && starts(first_query)
                && runs.all(run_fits),
            "sparse attention: {queries} queries and keys {:?} in blocks of {:?}, {mask:?}, all of {:?}, {}",
            sample.keys,
            self.blocks.cut,
            self.whole,
            self.mass
        );
    }

    /// The runs of blocks of queries that do not see all.
    fn query_blocks(&self, queries: usize) -> Vec<Range<usize>> {
        let cut = self.blocks.cut;
        let first_query = cut.tokens - queries;
        let block = |query: usize| cut.count(first_query + query, QUERY_BLOCK);
        let ends = self.whole.iter().map(|run| run.start).chain([queries]);
        let starts = [0].into_iter().chain(self.whole.iter().map(|run| run.end));
        let runs = starts.zip(ends).filter(|(start, end)| start < end);
        runs.map(|(start, end)| block(start)..block(end)).collect()
    }
}

/// The blocks of a sample's queries that see some blocks of keys.
struct Chosen<'a> {
    sample: &'a Sample<'a>,
    sparse: &'a Sparse<'a>,
    /// Of the sample's queries among those of all, and of the result.
    rows: Range<usize>,
    /// Runs of blocks of queries.
    blocks: Vec<Range<usize>>,
}

impl Chosen<'_> {
    /// Computes it on the processor, head by head: packs the keys and values that are seen once for all
    /// queries, then goes through the blocks of queries.
    fn on_cpu(&self, q: &Tensor, out: Shared) {
        let Sample { k, v, keys, how } = self.sample;
        let cut = self.sparse.blocks.cut;
        let order = &self.sparse.blocks.order[..];
        let first_query = cut.tokens - self.rows.len();
        let (q, k, v) =
            (Rows::of(q, self.rows.clone()), Rows::of(k, keys.clone()), Rows::of(v, keys.clone()));
        let isa = Isa::current();
        let heads = how.heads;
        let (size, value_size) = (q.width / heads, v.width / heads);
        let wide = value_size.next_multiple_of(isa.tile_columns());
        let Some(last) = self.blocks.last() else { return };
        let key_blocks = cut.count(cut.places(last.end - 1, QUERY_BLOCK).end, KEY_BLOCK);
        let places = key_blocks * KEY_BLOCK;
        let mut packed = [Aligned::zeros(places * size), Aligned::zeros(places * wide)];
        let (mut means, mut likeness) = (vec![0.0; key_blocks * size], vec![0.0; key_blocks]);
        let query_blocks: Vec<usize> = self.blocks.iter().cloned().flatten().collect();
        for head in 0..heads {
            let [keys, values] =
                packed.each_mut().map(|part| Shared::new(part.as_mut_slice().as_mut_ptr()));
            let blocks = means.par_chunks_mut(size).zip(&mut likeness).enumerate();
            blocks.for_each(|(block, (mean, likeness))| {
                with_scratch([KEY_BLOCK * size, size], |[gathered, directions]| {
                    let tokens = &order[cut.places(block, KEY_BLOCK)];
                    let first = block * KEY_BLOCK;
                    let gathered_keys = &mut *gathered;
                    let pack = Pack {
                        k,
                        v,
                        heads,
                        head,
                        tokens,
                        places,
                        first,
                        gathered: gathered_keys,
                        keys,
                        values,
                    };
                    dispatch(isa, pack);
                    let own = gathered[..tokens.len() * size].chunks_exact(size);
                    *likeness = pool(own, mean, directions);
                });
            });
            let packed = Packed { keys: packed[0].as_slice(), values: packed[1].as_slice(), cut };
            let choice = Keys {
                cut,
                window: how.mask.window(),
                means: &means,
                likeness: &likeness,
                scale: how.scale,
                mass: self.sparse.mass,
            };
            query_blocks.par_iter().with_max_len(1).for_each(|&block| {
                let rows = cut.places(block, QUERY_BLOCK);
                let (n, line) = (rows.len(), KEYS);
                let lengths = [n * size, QUERIES * line, n * wide, n, n, size, size];
                with_scratch(
                    lengths,
                    |[queries, scores, sums, largest, total, mean, directions]| {
                        let own = order[rows.clone()].iter().map(|&token| {
                            let at = (token as usize - first_query) * q.width + head * size;
                            &q.data[at..at + size]
                        });
                        let likeness = pool(own, mean, directions);
                        let mut kept = Vec::new();
                        choice.choose(block, mean, likeness, &mut kept);
                        if let Some(counter) = self.sparse.counter {
                            counter.add(choice.pairs(block, &kept));
                        }
                        let buffers = Buffers {
                            queries,
                            keys: &mut [],
                            values: &mut [],
                            scores,
                            sums,
                            largest,
                            total,
                        };
                        let group = Group {
                            q,
                            k,
                            v,
                            how,
                            window: None,
                            head,
                            rows,
                            order: Some(Order { places: order, first: first_query }),
                            first_row: self.rows.start,
                            block: line,
                            wide,
                            buffers,
                            out,
                        };
                        dispatch(isa, KeptGroup { group, packed, kept: &kept });
                    },
                );
            });
        }
    }

    /// Computes it on a GPU, in what the queries are.
    fn on_gpu(&self, out: &mut Array, q: &Array) {
        let Sample { k, v, keys, how } = self.sample;
        let [key_rows, value_rows] = [k, v].map(|tensor| tensor.array_as(q.gpu(), q.element()));
        let rows = SparseRows {
            queries: self.rows.clone(),
            keys: keys.clone(),
            widths: [k.dim(1), v.dim(1)],
            heads: how.heads,
            scale: how.scale,
            seen: Seen::by(how.mask, self.rows.len(), keys.len()),
            blocks: self.sparse.blocks,
            mass: self.sparse.mass,
            least_likeness: LEAST_LIKENESS,
            counter: self.sparse.counter.map_or(Address(0), PairCounter::address),
        };
        for run in &self.blocks {
            body::sparse_attention_rows(out, q, &key_rows, &value_rows, &rows, run.clone());
        }
    }
}
