//! Which keys a query of attention sees.

use std::ops::Range;

/// Which keys a query may see.
///
/// Blocks are counted from the first key. Where there are more keys than queries, the queries are
/// those of the last keys: what comes before them was computed earlier and only its keys are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// Keys of its own and earlier blocks of `tokens_per_block` tokens.
    BlockCausal {
        /// Tokens in one causal block.
        tokens_per_block: usize,
    },
    /// Of those, keys of its own block, of the `before` blocks before it and of the first `sink`
    /// blocks. Whole blocks between the first ones and those that the first query sees may be left
    /// out of the keys: what a query sees of the rest, and every bit of its result, stays the same.
    BlockWindow {
        /// Tokens in one causal block.
        tokens_per_block: usize,
        /// Blocks before its own that a query sees.
        before: usize,
        /// Blocks from the first key on that every query sees.
        sink: usize,
    },
}

impl Mask {
    /// The mask as a window; `None` where everything is seen.
    pub(super) fn window(self) -> Option<Window> {
        let (tokens_per_block, before, sink) = match self {
            Mask::None => return None,
            Mask::BlockCausal { tokens_per_block } => (tokens_per_block, usize::MAX, 0),
            Mask::BlockWindow { tokens_per_block, before, sink } => {
                (tokens_per_block, before, sink)
            }
        };
        Some(Window { tokens_per_block, before, sink })
    }

    /// Pairs of a query and a key that it sees.
    pub(super) fn pairs(self, queries: usize, keys: usize) -> f64 {
        let Some(window) = self.window() else { return queries as f64 * keys as f64 };
        let first = keys - queries;
        let blocks = first / window.tokens_per_block..keys.div_ceil(window.tokens_per_block);
        let of_block = |block: usize| {
            let tokens = window.tokens(block, keys);
            let asking = tokens.end - tokens.start.max(first);
            let near = window.first_near(block);
            let sink = near.min(window.sink) * window.tokens_per_block;
            asking as f64 * (sink + tokens.end - near * window.tokens_per_block) as f64
        };
        blocks.map(of_block).sum()
    }
}

/// The blocks that a query of a block sees: its own, `before` before it, the first `sink`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub tokens_per_block: usize,
    pub before: usize,
    pub sink: usize,
}

impl Window {
    /// The keys of a block.
    pub fn tokens(&self, block: usize, keys: usize) -> Range<usize> {
        let start = block * self.tokens_per_block;
        start..start.saturating_add(self.tokens_per_block).min(keys)
    }

    /// The first block that a query of `block` sees without the sink.
    pub fn first_near(&self, block: usize) -> usize {
        block.saturating_sub(self.before)
    }

    pub fn sees(&self, query_block: usize, block: usize) -> bool {
        block <= query_block && (block >= self.first_near(query_block) || block < self.sink)
    }
}
