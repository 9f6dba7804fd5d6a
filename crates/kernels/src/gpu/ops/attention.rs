//! Softmax attention: by the vendor's library where it does the same (`vendor.rs`), and by `attention.cu`,
//! on the tensor cores for bf16 heads of a multiple of 8 values up to 384, in f32 for everything else.
//! Checked without a card; not measured on one.

mod sparse;
mod vendor;

use std::ops::Range;

pub use self::sparse::{SparseRows, sparse_attention_rows};
use super::{int, kernel, pointer_or_none};
use crate::Mask;
use crate::gpu::{Address, Arg, Array, Element, Gpu, Launch};

/// What is added to the scaled scores.
#[derive(Debug, Clone, Copy, Default)]
pub enum Scores<'a> {
    /// Nothing.
    #[default]
    None,
    /// A value of f32 for each, `[heads, queries, keys]`.
    All(&'a Array),
    /// A value for the last key of each query.
    LastKey(f32),
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// Number of heads; the dim of q, k and v is `heads * head size`.
    pub heads: usize,
    /// Factor on the scores, above 0.
    pub scale: f32,
    /// Which keys a query sees.
    pub seen: Seen,
    /// What is added to the scaled scores.
    pub added: Scores<'a>,
}

/// Which keys a query sees. Tokens stand in blocks, counted from the first key; a query sees its own
/// block, `before` before it and the first `sink` of all, and none after its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Tokens in one block; 0 when all keys are seen.
    pub tokens_per_block: usize,
    /// Blocks before its own.
    pub before: usize,
    /// Blocks from the first key on.
    pub sink: usize,
    /// The place of the first query among the keys' tokens.
    pub first_query: usize,
}

impl Seen {
    /// All keys.
    pub const ALL: Self = Self { tokens_per_block: 0, before: 0, sink: 0, first_query: 0 };

    /// Its own and all earlier blocks.
    pub const fn causal(tokens_per_block: usize) -> Self {
        Self { tokens_per_block, before: usize::MAX, ..Self::ALL }
    }
}

impl Seen {
    /// What a mask lets so many queries see, which are those of the last keys.
    pub fn by(mask: Mask, queries: usize, keys: usize) -> Self {
        let first_query = keys.saturating_sub(queries);
        match mask {
            Mask::None => Self::ALL,
            Mask::BlockCausal { tokens_per_block } => {
                Self { first_query, ..Self::causal(tokens_per_block) }
            }
            Mask::BlockWindow { tokens_per_block, before, sink } => {
                Self { tokens_per_block, before, sink, first_query }
            }
        }
    }
}

/// Softmax attention. `q` is `[queries, heads * size]`, `k` `[keys, heads * size]`, `v` `[keys, heads *
/// value size]`, all of one element, as is the result, `[queries, heads * value size]`.
pub fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    queries: usize,
    keys: usize,
    how: &Attend<'_>,
) -> Array {
    if keys == 0 || q.is_empty() {
        // Nothing is seen. How wide values would be is not known then; as wide as queries, as in every
        // model.
        return Array::zeros(q.gpu(), q.element(), q.len());
    }
    let widths = [k.len() / keys, v.len() / keys];
    assert!(
        k.len() == keys * widths[0]
            && v.len() == keys * widths[1]
            && q.len() == queries * widths[0],
        "attention: {q:?} of {queries} queries, {k:?} and {v:?} of {keys} keys"
    );
    let mut out = Array::unset(q.gpu(), q.element(), queries * widths[1]);
    let rows = AttentionRows { queries: 0..queries, keys: 0..keys, widths };
    attention_rows(&mut out, q, k, v, &rows, how);
    out
}

/// Which rows of its arrays an attention is of.
#[derive(Debug, Clone)]
pub struct AttentionRows {
    /// Of queries and result.
    pub queries: Range<usize>,
    /// Of keys and values, at least one.
    pub keys: Range<usize>,
    /// Values in a row of queries and keys, and of values and result.
    pub widths: [usize; 2],
}

/// [`attention`] of some rows of `q` over some of `k` and `v`, into the same rows of `out`; all of one
/// element.
pub fn attention_rows(
    out: &mut Array,
    q: &Array,
    k: &Array,
    v: &Array,
    rows: &AttentionRows,
    how: &Attend<'_>,
) {
    let (heads, [width, value_width]) = (how.heads, rows.widths);
    let (queries, keys) = (rows.queries.len(), rows.keys.len());
    let inside = |array: &Array, end: usize, width: usize| {
        array.element() == q.element() && end * width <= array.len()
    };
    assert!(
        heads > 0
            && how.scale > 0.0
            && keys > 0
            && width.is_multiple_of(heads)
            && value_width.is_multiple_of(heads)
            && inside(q, rows.queries.end, width)
            && inside(k, rows.keys.end, width)
            && inside(v, rows.keys.end, value_width)
            && inside(out, rows.queries.end, value_width),
        "attention: {rows:?} of {q:?}, {k:?}, {v:?} and {out:?}, {how:?}"
    );
    let added = match how.added {
        Scores::All(bias) => Some(bias),
        Scores::None | Scores::LastKey(_) => None,
    };
    assert!(
        added.is_none_or(|bias| {
            bias.element() == Element::F32 && bias.len() == heads * queries * keys
        }),
        "attention: {added:?} for {heads} heads, {queries} queries, {keys} keys"
    );
    let (key_size, value_size) = (width / heads, value_width / heads);
    let sizes = Sizes { queries, keys, key_size, value_size };
    let place = |array: &Array, row: usize, width: usize| {
        array.address().plus(row * width * array.element().bytes())
    };
    let at = [
        place(q, rows.queries.start, width),
        place(k, rows.keys.start, width),
        place(v, rows.keys.start, value_width),
        place(out, rows.queries.start, value_width),
    ];
    let (gpu, element) = (q.gpu(), q.element());
    let flops = 2.0 * keys as f64 * (width + value_width) as f64;
    // A value for each score stands by queries.
    let slice = if added.is_some() { queries } else { at_once(gpu, element, queries, flops) };
    for first in (0..queries).step_by(slice.max(1)) {
        let [q, k, v, out] = at;
        let on = |place: Address, width: usize| place.plus(first * width * element.bytes());
        let at = [on(q, width), k, v, on(out, value_width)];
        let sizes = Sizes { queries: slice.min(queries - first), ..sizes };
        let seen = Seen { first_query: how.seen.first_query + first, ..how.seen };
        let how = Attend { seen, ..*how };
        if !vendor::attention(at, gpu, element, &sizes, &how) {
            start(at, gpu, element, &sizes, &how);
        }
    }
}

/// How much slower than the kernels on the tensor cores those in f32 are counted.
const PLAIN_TIMES: f64 = 16.0;
/// Queries of a tile of the largest kernel, of which those of all others are parts.
const TILE: usize = 128;

/// Of `count` queries, of which each takes so many operations, as many as one kernel may be given: slices of equal
/// length in whole tiles, so that no result depends on how many there are.
fn at_once(gpu: &Gpu, element: Element, count: usize, flops: f64) -> usize {
    let most = match element {
        Element::Bf16 => gpu.driver().most_flops(),
        Element::F32 => gpu.driver().most_flops() / PLAIN_TIMES,
    };
    let slices = (count as f64 * flops / most).ceil().max(1.0) as usize;
    count.div_ceil(slices).next_multiple_of(TILE).min(count)
}

/// Lengths of an attention's arrays.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    queries: usize,
    keys: usize,
    key_size: usize,
    value_size: usize,
}

/// Starts our kernel for arrays at these places: q, k, v and the result.
fn start(at: [Address; 4], gpu: &Gpu, element: Element, sizes: &Sizes, how: &Attend<'_>) {
    let &Sizes { queries, keys, key_size, value_size } = sizes;
    let (added, last_key) = match how.added {
        Scores::None => (None, 0.0),
        Scores::All(bias) => (Some(bias), 0.0),
        Scores::LastKey(value) => (None, value),
    };
    let tensor = element == Element::Bf16
        && key_size.is_multiple_of(8)
        && value_size.is_multiple_of(8)
        && at[..3].iter().all(|address| address.0.is_multiple_of(16));
    let fitting =
        VARIANTS.iter().find(|variant| tensor && key_size.max(value_size) <= variant.size);
    let launch = match fitting {
        Some(variant) => variant.launch(queries, how.heads),
        None => Launch {
            module: "attention",
            kernel: kernel!("attention", element),
            grid: grid(queries.div_ceil(16), how.heads, value_size.div_ceil(512)),
            threads: 128,
            shared_bytes: 0,
        },
    };
    let Seen { tokens_per_block, before, sink, first_query } = how.seen;
    let [q, k, v, out] = at.map(Arg::Pointer);
    let args = [
        q,
        k,
        v,
        out,
        pointer_or_none(added),
        int(queries),
        int(keys),
        int(key_size),
        int(value_size),
        Arg::Float(how.scale),
        Arg::Float(last_key),
        int(first_query),
        at_most(tokens_per_block),
        at_most(before),
        at_most(sink),
    ];
    gpu.launch(launch, &args);
}

/// A kernel on the tensor cores.
struct Variant {
    kernel: &'static str,
    /// The largest head.
    size: usize,
    /// Queries of a block.
    queries: usize,
    /// Keys of a tile.
    keys: usize,
}

/// As `attention.cu` has them, the smallest first.
const VARIANTS: [Variant; 4] = [
    Variant { kernel: "attention_64", size: 64, queries: 128, keys: 32 },
    Variant { kernel: "attention_128", size: 128, queries: 128, keys: 32 },
    Variant { kernel: "attention_256", size: 256, queries: 64, keys: 32 },
    Variant { kernel: "attention_384", size: 384, queries: 64, keys: 16 },
];

impl Variant {
    fn launch(&self, queries: usize, heads: usize) -> Launch {
        Launch {
            module: "attention",
            kernel: self.kernel,
            grid: grid(queries.div_ceil(self.queries), heads, 1),
            threads: 128,
            // Queries, keys and values.
            shared_bytes: ((self.queries + 2 * self.keys) * self.size * 2) as u32,
        }
    }
}

/// A number of blocks, of which more than fit an integer are as good as all.
fn at_most(n: usize) -> Arg {
    Arg::Int(i32::try_from(n).unwrap_or(i32::MAX))
}

fn grid(x: usize, y: usize, z: usize) -> [u32; 3] {
    [x, y, z].map(|n| u32::try_from(n).expect("fewer blocks than a grid can have"))
}
