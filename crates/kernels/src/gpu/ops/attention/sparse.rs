//! Attention over the blocks of keys that weigh most, by `select.cu` and `attention_kept.cu`. Everything is decided on
//! the card. Checked without a card; not measured on one.

use std::ops::Range;

use super::{Seen, VARIANTS, at_most, at_once, grid};
use crate::gpu::ops::{int, kernel, pointer};
use crate::gpu::{Address, Arg, Array, Element, Launch};
use crate::ops::{KEY_BLOCK, QUERY_BLOCK, TokenBlocks};

/// Values of a head at most, as `select.cu` has them.
const LARGEST_HEAD: usize = 256;
/// Queries of a block of threads of the kernel in f32.
const PLAIN_QUERIES: usize = 16;

/// Which rows of its arrays a sparse attention is of, and how it is computed.
#[derive(Debug)]
pub struct SparseRows<'a> {
    /// Of queries and result.
    pub queries: Range<usize>,
    /// Of keys and values.
    pub keys: Range<usize>,
    /// Values in a row of queries and keys, and of values and result.
    pub widths: [usize; 2],
    /// Number of heads.
    pub heads: usize,
    /// Factor on the scores, above 0.
    pub scale: f32,
    /// Which keys a query may see.
    pub seen: Seen,
    /// Of the keys, on the device.
    pub blocks: &'a TokenBlocks,
    /// Share of the weights that is kept.
    pub mass: f32,
    /// Blocks whose tokens are less alike are kept.
    pub least_likeness: f32,
    /// Two integers of eight bytes that grow by the pairs of a query and a key that are kept and by those that are
    /// seen; 0 where they are not counted.
    pub counter: Address,
}

/// Sparse attention of a run of blocks of queries, counted among those of all keys' tokens, into their rows of
/// `out`; all arrays of one element. See [`crate::ops::sparse_attention_of_samples`].
pub fn sparse_attention_rows(
    out: &mut Array,
    q: &Array,
    k: &Array,
    v: &Array,
    rows: &SparseRows<'_>,
    run: Range<usize>,
) {
    let (gpu, element) = (q.gpu(), q.element());
    let &SparseRows { heads, widths: [width, value_width], seen, .. } = rows;
    let (size, value_size) = (width / heads, value_width / heads);
    let cut = rows.blocks.cut;
    let inside = |array: &Array, end: usize, width: usize| {
        array.element() == element && end * width <= array.len()
    };
    assert!(
        size <= LARGEST_HEAD
            && rows.scale > 0.0
            && rows.keys.len() == cut.tokens
            && inside(q, rows.queries.end, width)
            && inside(k, rows.keys.end, width)
            && inside(v, rows.keys.end, value_width)
            && inside(out, rows.queries.end, value_width),
        "sparse attention: {rows:?} of {q:?}, {k:?}, {v:?} and {out:?}"
    );
    // As if all were kept: how much is nobody knows yet.
    let flops = 2.0 * cut.tokens as f64 * (width + value_width) as f64;
    let blocks = at_once(gpu, element, run.len() * QUERY_BLOCK, flops).div_ceil(QUERY_BLOCK);
    if blocks < run.len() {
        for first in run.clone().step_by(blocks.max(1)) {
            let slice = first..run.end.min(first + blocks);
            sparse_attention_rows(out, q, k, v, rows, slice);
        }
        return;
    }
    let order = rows.blocks.array.as_ref().expect("blocks are where the tokens are");
    let place = |array: &Array, row: usize, width: usize| {
        array.address().plus(row * width * array.element().bytes())
    };
    let at = [
        place(q, rows.queries.start, width),
        place(k, rows.keys.start, width),
        place(v, rows.keys.start, value_width),
        place(out, rows.queries.start, value_width),
    ];
    // Queries see all keys of their causal block.
    let end = cut.places(run.end - 1, QUERY_BLOCK).end;
    let end = end.next_multiple_of(cut.tokens_per_block).min(cut.tokens);
    let key_blocks = cut.count(end, KEY_BLOCK);
    let first_query = cut.tokens - rows.queries.len();

    let pool = |x: Address, block_size: usize, blocks: Range<usize>, first_row: usize| {
        let count = blocks.len();
        let means = Array::unset(gpu, Element::F32, count * width);
        let likeness = Array::unset(gpu, Element::F32, count * heads);
        let launch = Launch {
            module: "sparse",
            kernel: kernel!("pool_blocks", element),
            grid: grid(count, heads, 1),
            threads: 128,
            shared_bytes: 0,
        };
        let args = [
            Arg::Pointer(x),
            pointer(order),
            pointer(&means),
            pointer(&likeness),
            int(cut.tokens),
            int(cut.tokens_per_block),
            int(block_size),
            int(blocks.start),
            int(first_row),
            int(size),
        ];
        gpu.launch(launch, &args);
        [means, likeness]
    };
    let queries = pool(at[0], QUERY_BLOCK, run.clone(), first_query);
    let keys = pool(at[1], KEY_BLOCK, 0..key_blocks, 0);
    let words = key_blocks.div_ceil(32);
    // Bits, in values of four bytes.
    let kept = Array::unset(gpu, Element::F32, heads * run.len() * words);
    let launch = Launch {
        module: "sparse",
        kernel: "keep_blocks",
        grid: grid(run.len(), heads, 1),
        threads: 128,
        shared_bytes: ((size + key_blocks) * 4) as u32,
    };
    let args = [
        pointer(&queries[0]),
        pointer(&queries[1]),
        pointer(&keys[0]),
        pointer(&keys[1]),
        pointer(&kept),
        Arg::Pointer(rows.counter),
        int(cut.tokens),
        int(cut.tokens_per_block),
        int(key_blocks),
        int(run.start),
        at_most(seen.before),
        at_most(seen.sink),
        int(size),
        int(words),
        Arg::Float(rows.scale),
        Arg::Float(rows.mass),
        Arg::Float(rows.least_likeness),
    ];
    gpu.launch(launch, &args);

    let tensor = element == Element::Bf16
        && size.is_multiple_of(8)
        && value_size.is_multiple_of(8)
        && at[..3].iter().all(|address| address.0.is_multiple_of(16));
    let variants = [("sparse_attention_64", &VARIANTS[0]), ("sparse_attention_128", &VARIANTS[1])];
    let fitting =
        variants.iter().find(|(_, variant)| tensor && size.max(value_size) <= variant.size);
    let launch = match fitting {
        Some((kernel, variant)) => Launch {
            module: "sparse",
            kernel,
            grid: grid(run.len(), heads, 1),
            ..variant.launch(QUERY_BLOCK, heads)
        },
        None => Launch {
            module: "sparse",
            kernel: kernel!("sparse_attention", element),
            grid: grid(run.len() * (QUERY_BLOCK / PLAIN_QUERIES), heads, value_size.div_ceil(512)),
            threads: 128,
            shared_bytes: 0,
        },
    };
    let [q, k, v, out] = at.map(Arg::Pointer);
    let args = [
        q,
        k,
        v,
        out,
        pointer(order),
        pointer(&kept),
        int(cut.tokens),
        int(size),
        int(value_size),
        Arg::Float(rows.scale),
        int(first_query),
        int(cut.tokens_per_block),
        int(run.start),
        int(words),
    ];
    gpu.launch(launch, &args);
}
