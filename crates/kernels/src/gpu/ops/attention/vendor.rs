//! Attention by the vendor's library. It does the plain kind, in which each query sees each key: the whole of
//! it where nothing is masked, and otherwise block for block, whose queries all see the same run of keys.

use std::ops::Range;
use std::sync::Arc;

use super::super::vendor::{Comparison, TOLERANCE};
use super::{Attend, Scores, Seen, Sizes, start};
use crate::gpu::{Address, Array, Element, Gpu, SoftmaxAttention, Vendor, VendorWork};

/// Operations of one piece at least: a way has to be compiled once, and for less than this our kernel takes
/// a millisecond or less.
const LEAST_FLOPS: f64 = 2e10;
/// Rows that are compared at each of a few places of the result.
const ROWS: usize = 32;

/// A part of an attention in which all queries see the same keys, those of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    queries: Range<usize>,
    keys: Range<usize>,
}

/// The pieces that an attention falls into, in order; `None` where what a query sees is no run of keys.
fn pieces(seen: &Seen, queries: usize, keys: usize) -> Option<Vec<Piece>> {
    let &Seen { tokens_per_block, before, sink, first_query } = seen;
    if tokens_per_block == 0 {
        return Some(vec![Piece { queries: 0..queries, keys: 0..keys }]);
    }
    let last = first_query + queries;
    let mut pieces = Vec::new();
    let mut query = first_query;
    while query < last {
        let block = query / tokens_per_block;
        let end = (block + 1).saturating_mul(tokens_per_block);
        let near = block.saturating_sub(before);
        if near > sink && sink > 0 {
            return None;
        }
        let first = if sink > 0 { 0 } else { near * tokens_per_block };
        let own = query.min(last)..end.min(last);
        let piece = Piece {
            queries: own.start - first_query..own.end - first_query,
            keys: first.min(keys)..end.min(keys),
        };
        query = own.end;
        pieces.push(piece);
    }
    Some(pieces)
}

/// Whether the library has done it, for arrays at these places: q, k, v and the result; our kernel is to be
/// used otherwise.
pub(super) fn attention(
    [q, k, v, out]: [Address; 4],
    gpu: &Arc<Gpu>,
    element: Element,
    sizes: &Sizes,
    how: &Attend<'_>,
) -> bool {
    let &Sizes { queries, keys, key_size: size, value_size } = sizes;
    let plain = element == Element::Bf16
        && size == value_size
        && size.is_multiple_of(8)
        && size <= 128
        && matches!(how.added, Scores::None);
    if !plain {
        return false;
    }
    let flops = |piece: &Piece| {
        4.0 * (piece.queries.len() * how.heads * size) as f64 * piece.keys.len() as f64
    };
    let Some(pieces) = pieces(&how.seen, queries, keys) else { return false };
    if pieces.iter().map(flops).sum::<f64>() < LEAST_FLOPS * pieces.len() as f64 {
        return false;
    }
    let row_bytes = how.heads * size * Element::Bf16.bytes();
    let whole =
        SoftmaxAttention { q, k, v, out, queries, keys, heads: how.heads, size, scale: how.scale };
    pieces.iter().all(|piece| {
        let part = SoftmaxAttention {
            q: whole.q.plus(piece.queries.start * row_bytes),
            k: whole.k.plus(piece.keys.start * row_bytes),
            v: whole.v.plus(piece.keys.start * row_bytes),
            out: whole.out.plus(piece.queries.start * row_bytes),
            queries: piece.queries.len(),
            keys: piece.keys.len(),
            ..whole
        };
        // After a failure nothing is started, by either way.
        match gpu.attempt(|driver| driver.attention(&part)).unwrap_or(Vendor::Done) {
            Vendor::Done => true,
            Vendor::Refused => false,
            Vendor::First => agrees(gpu, &part),
        }
    })
}

/// Whether some rows of what the library did are what our kernel does; says so to the driver when not.
fn agrees(gpu: &Arc<Gpu>, part: &SoftmaxAttention) -> bool {
    let &SoftmaxAttention { queries, heads, size, .. } = part;
    let rows = ROWS.min(queries);
    let row_bytes = heads * size * Element::Bf16.bytes();
    let mut comparison = Comparison::default();
    for first in [0, (queries - rows) / 2, queries - rows] {
        let ours = Array::unset(gpu, Element::Bf16, rows * heads * size);
        let how = Attend { heads, scale: part.scale, seen: Seen::ALL, added: Scores::None };
        let sizes = Sizes { queries: rows, keys: part.keys, key_size: size, value_size: size };
        let at = [part.q.plus(first * row_bytes), part.k, part.v, ours.address()];
        start(at, gpu, Element::Bf16, &sizes, &how);
        let theirs = part.out.plus(first * row_bytes);
        if !comparison.add(gpu, ours.address(), theirs, ours.len()) {
            return true;
        }
    }
    let Some(distance) = comparison.too_far() else { return true };
    let why = format!(
        "its attention of {queries} queries and {} keys in {heads} heads of {size} is off by {distance:.1e} of our \
         kernel's, and {TOLERANCE:e} is allowed; a newer cuDNN or driver may do better",
        part.keys
    );
    gpu.attempt(|driver| {
        driver.distrust(VendorWork::Attention, &why);
        Ok(())
    });
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a query sees, key by key, as `Seen` says.
    fn sees(seen: &Seen, query: usize, key: usize) -> bool {
        let &Seen { tokens_per_block, before, sink, first_query } = seen;
        if tokens_per_block == 0 {
            return true;
        }
        let (own, other) = ((first_query + query) / tokens_per_block, key / tokens_per_block);
        other <= own && (own - other <= before || other < sink)
    }

    #[test]
    fn pieces_see_what_the_mask_lets_their_queries_see() {
        let seen = |tokens_per_block, before, sink, first_query| Seen {
            tokens_per_block,
            before,
            sink,
            first_query,
        };
        let mut with_pieces = 0;
        for (seen, queries, keys) in [
            (Seen::ALL, 7, 30),
            (Seen::causal(8), 40, 40),
            (Seen::causal(8), 37, 37),
            (seen(8, usize::MAX, 0, 19), 21, 40),
            (seen(8, 2, 0, 0), 43, 43),
            (seen(8, 2, 1, 0), 24, 24),
            (seen(8, 2, 3, 0), 45, 45),
            (seen(8, 1, 1, 30), 10, 40),
        ] {
            let Some(pieces) = pieces(&seen, queries, keys) else {
                let runs = (0..queries).all(|query| {
                    let row: Vec<bool> = (0..keys).map(|key| sees(&seen, query, key)).collect();
                    row.windows(2).filter(|pair| pair[0] != pair[1]).count() < 2
                });
                assert!(!runs, "{seen:?}: each query sees a run of keys");
                continue;
            };
            with_pieces += 1;
            let mut next = 0;
            for Piece { queries, keys: run } in &pieces {
                assert!(queries.start == next && !queries.is_empty(), "{seen:?}: {pieces:?}");
                next = queries.end;
                for (query, key) in queries.clone().flat_map(|q| (0..keys).map(move |k| (q, k))) {
                    let found = run.contains(&key);
                    assert_eq!(found, sees(&seen, query, key), "{seen:?}: {query}, {key}");
                }
            }
            assert_eq!(next, queries, "{seen:?}");
        }
        assert_eq!(with_pieces, 7);
    }
}
