//! Softmax attention in tiles, with an online softmax (Dao et al. 2022, FlashAttention, algorithm 1):
//! the scores of a few queries against one block of keys are all that ever stands in memory.

mod group;

use rayon::prelude::*;

use crate::Tensor;
use crate::gemm::{Shared, wanted_tasks, with_scratch};
use crate::gpu::Array;
use crate::gpu::ops::{self as body, Attend, Scores, Seen};
use crate::simd::{Isa, dispatch};
use crate::spans;

use self::group::{Buffers, Group, KEYS, QUERIES};
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
