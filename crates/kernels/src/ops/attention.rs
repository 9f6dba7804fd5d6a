//! Softmax attention in tiles, with an online softmax (Dao et al. 2022, FlashAttention, algorithm 1):
//! the scores of a few queries against one block of keys are all that ever stands in memory.

mod blocks;
mod group;
mod kept;
mod pairs;
mod select;
mod sparse;

use std::ops::Range;

use rayon::prelude::*;

use crate::Tensor;
use crate::gemm::{Products, Shared, wanted_tasks, with_scratch};
use crate::gpu::Array;
use crate::gpu::ops::{self as body, Attend, Scores, Seen};
use crate::simd::{Isa, dispatch, dispatch_pairs};
use crate::spans;

pub use self::blocks::{KEY_BLOCK, QUERY_BLOCK, TokenBlocks};
use self::group::{Buffers, Group, KEYS, QUERIES, Rows};
pub use self::pairs::{PairCounter, Pairs};
pub use self::select::LEAST_LIKENESS;
pub use self::sparse::{Sparse, sparse_attention_of_samples};
use super::mask::Mask;

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
    /// What the processor multiplies; the exponentials and all sums are `f32`.
    pub products: Products,
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

/// What the queries of one sample see, and how: rows `keys` of `k` `[.., heads * head_dim]` and of `v`.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    /// Keys.
    pub k: &'a Tensor,
    /// Values. Their head size may differ from the keys'.
    pub v: &'a Tensor,
    /// Which rows of both.
    pub keys: Range<usize>,
    /// The number of heads is the same in all samples.
    pub how: Attention<'a>,
}

impl<'a> Sample<'a> {
    /// One that sees all of `k` and `v`.
    pub fn of(k: &'a Tensor, v: &'a Tensor, how: Attention<'a>) -> Self {
        Self { k, v, keys: 0..k.dim(0), how }
    }

    fn check(&self, q: &Tensor, queries: usize) {
        let Self { k, v, keys, how } = self;
        let (heads, window) = (how.heads, how.mask.window());
        let count = keys.len();
        assert!(
            heads > 0
                && q.dim(1) == k.dim(1)
                && v.dim(0) == k.dim(0)
                && keys.end <= k.dim(0)
                && q.dim(1).is_multiple_of(heads)
                && v.dim(1).is_multiple_of(heads)
                && window.is_none_or(|window| window.tokens_per_block > 0 && queries <= count)
                && match how.bias {
                    Bias::Scores(bias) => bias.shape() == [heads, queries, count],
                    Bias::None | Bias::LastKey(_) => true,
                },
            "attention: {queries} of {:?}, {keys:?} of {:?} and {:?}, {heads} heads, {:?}, {:?}",
            q.shape(),
            k.shape(),
            v.shape(),
            how.mask,
            how.bias
        );
    }

    /// Operations and bytes, without those of queries and result: scores and sums of what is seen.
    fn cost(&self, queries: usize) -> (f64, usize) {
        let widths = self.k.dim(1) + self.v.dim(1);
        let pairs = self.how.mask.pairs(queries, self.keys.len());
        let row = |tensor: &Tensor| tensor.bytes() / tensor.dim(0).max(1);
        (2.0 * pairs * widths as f64, self.keys.len() * (row(self.k) + row(self.v)))
    }
}

/// Queries of one task at most: packing a block of keys and values is then a small part of the work.
const GROUP: usize = 1152;

/// Softmax attention. `q` `[queries, heads * head_dim]`, `k` and `v` `[keys, heads * head_dim]`,
/// result `[queries, heads * head_dim]`. The value's head size may differ from the key's.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention<'_>) -> Tensor {
    attention_of_samples(q, &[Sample::of(k, v, *how)])
}

/// [`attention`] of several samples, whose queries lie one behind the other and are equally many: `q`
/// `[samples * queries, heads * head_dim]`. Each sees its own keys alone, at least one of them where there
/// are several, and its result is the one that it has alone, bit for bit.
pub fn attention_of_samples(q: &Tensor, samples: &[Sample<'_>]) -> Tensor {
    let _span = spans::begin("attention", || cost(q, samples));
    let Some((queries, shape)) = checked(q, samples) else { return nothing(q, samples) };
    let parts = samples.iter().enumerate().map(|(index, sample)| Part {
        sample,
        keys: sample.keys.clone(),
        rows: index * queries..(index + 1) * queries,
    });
    let parts: Vec<_> = parts.collect();
    if let Some(q) = q.array() {
        let mut out = Array::unset(q.gpu(), q.element(), shape[0] * shape[1]);
        parts.iter().for_each(|part| part.on_gpu(&mut out, q));
        spans::settle(q.gpu());
        return Tensor::from_array(&shape, out);
    }
    // SAFETY: the parts' rows cover the result.
    unsafe { Tensor::fill(&shape, |out| on_cpu(q, &parts, out)) }
}

/// Operations, and bytes that are read and written.
fn cost(q: &Tensor, samples: &[Sample<'_>]) -> (f64, usize) {
    let queries = q.dim(0) / samples.len().max(1);
    let costs = samples.iter().map(|sample| sample.cost(queries));
    costs.fold((0.0, 2 * q.bytes()), |(flops, bytes), (f, b)| (flops + f, bytes + b))
}

/// The queries of a sample and the shape of the result, unless nothing is seen or asked for; see
/// [`attention_of_samples`] for what has to hold.
fn checked(q: &Tensor, samples: &[Sample<'_>]) -> Option<(usize, [usize; 2])> {
    let first = samples.first().expect("attention: no sample");
    let (heads, width) = (first.how.heads, first.v.dim(1));
    let queries = q.dim(0) / samples.len();
    samples.iter().for_each(|sample| sample.check(q, queries));
    let alike = |s: &Sample<'_>| s.how.heads == heads && s.v.dim(1) == width && !s.keys.is_empty();
    assert!(
        queries * samples.len() == q.dim(0) && (samples.len() == 1 || samples.iter().all(alike)),
        "attention: {:?} of {} samples that differ in heads or see nothing",
        q.shape(),
        samples.len()
    );
    let anything = !first.keys.is_empty() && !q.is_empty() && width > 0;
    anything.then_some((queries, [q.dim(0), width]))
}

fn nothing(q: &Tensor, samples: &[Sample<'_>]) -> Tensor {
    Tensor::zeros_on(&q.device(), &[q.dim(0), samples[0].v.dim(1)])
}

/// Some queries of a sample, and all of its keys up to the last that they may see.
struct Part<'a> {
    sample: &'a Sample<'a>,
    keys: Range<usize>,
    /// Of the queries of all samples, and of the result.
    rows: Range<usize>,
}

impl Part<'_> {
    /// Computes it on a GPU, in what the queries are.
    fn on_gpu(&self, out: &mut Array, q: &Array) {
        let Sample { k, v, how, .. } = self.sample;
        let gpu = q.gpu();
        let widths = [k.dim(1), v.dim(1)];
        let [k, v] = [k, v].map(|tensor| tensor.array_as(gpu, q.element()));
        let bias = match how.bias {
            Bias::Scores(bias) => Some(bias.array_on(gpu)),
            _ => None,
        };
        let added = match how.bias {
            Bias::LastKey(added) => Scores::LastKey(added),
            _ => bias.as_deref().map_or(Scores::None, Scores::All),
        };
        let seen = Seen::by(how.mask, self.rows.len(), self.keys.len());
        let attend = Attend { heads: how.heads, scale: how.scale, seen, added };
        let (queries, keys) = (self.rows.clone(), self.keys.clone());
        let rows = body::AttentionRows { queries, keys, widths };
        body::attention_rows(out, q, &k, &v, &rows, &attend);
    }
}

/// Computes parts on the processor. Each writes its rows of the result.
fn on_cpu(q: &Tensor, parts: &[Part<'_>], out: Shared) {
    let isa = Isa::current();
    let nr = isa.tile_columns();
    let Some(longest) = parts.iter().map(|part| part.rows.len()).max() else { return };
    let (heads, width) = (parts[0].sample.how.heads, parts[0].sample.v.dim(1));
    // Several tasks for each thread, if there are queries enough.
    let wanted = wanted_tasks().div_ceil(heads * parts.len());
    let group = longest.div_ceil(wanted).clamp(QUERIES, GROUP);
    let group = longest.div_ceil(longest.div_ceil(group)).next_multiple_of(QUERIES);
    let (key_size, value_size) = (q.dim(1) / heads, width / heads);
    let wide = value_size.next_multiple_of(nr);
    let task = |(Part { sample, keys, rows: all }, head, first): (&Part<'_>, usize, usize)| {
        let Sample { k, v, how, .. } = sample;
        let rows = first..(first + group).min(all.len());
        let n = rows.len();
        let block = KEYS.min(keys.len()).next_multiple_of(nr);
        let lengths = [
            n * key_size,
            block * key_size,
            block * wide.max(key_size),
            QUERIES * block,
            n * wide,
            n,
            n,
        ];
        let q = Rows::of(q, all.clone());
        let (k, v) = (Rows::of(k, keys.clone()), Rows::of(v, keys.clone()));
        let (first_row, window) = (all.start, how.mask.window());
        with_scratch(lengths, |[queries, keys, values, scores, sums, largest, total]| {
            let buffers = Buffers { queries, keys, values, scores, sums, largest, total };
            let group = Group {
                q,
                k,
                v,
                how,
                window,
                head,
                rows,
                order: None,
                first_row,
                block,
                wide,
                buffers,
                out,
            };
            match how.products.of_pairs(isa) {
                true => dispatch_pairs(isa, group),
                false => dispatch(isa, group),
            }
        });
    };
    let of = |part| (0..heads).map(move |head| (part, head));
    let tasks = parts.iter().flat_map(of).flat_map(|(part, head)| {
        (0..part.rows.len()).step_by(group).map(move |first| (part, head, first))
    });
    let pairs: usize = parts.iter().map(|part| part.rows.len() * part.keys.len()).sum();
    if pairs * q.dim(1) <= 1 << 15 {
        tasks.for_each(task);
    } else {
        let tasks: Vec<_> = tasks.collect();
        tasks.into_par_iter().with_max_len(1).for_each(task);
    }
}
