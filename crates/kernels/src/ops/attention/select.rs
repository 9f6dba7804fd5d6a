//! Which blocks of keys a block of queries sees; see [`Sparse`](super::Sparse).

use std::ops::Range;

use super::blocks::{Cut, KEY_BLOCK, QUERY_BLOCK};
use super::pairs::Pairs;
use crate::ops::mask::Window;

/// Mean cosine of a block's tokens below which their mean does not stand for them. The paper's authors have it
/// tuned for each model, between 0.1 and 0.6 to begin with; the blocks of the demo model, each of four whole
/// frames, are about 0.5 on average.
pub const LEAST_LIKENESS: f32 = 0.3;

/// Writes the mean of some tokens of one head; the mean cosine of any two of them.
pub(super) fn pool<'a>(
    tokens: impl ExactSizeIterator<Item = &'a [f32]>,
    mean: &mut [f32],
    directions: &mut [f32],
) -> f32 {
    let count = tokens.len() as f32;
    mean.fill(0.0);
    directions.fill(0.0);
    for token in tokens {
        let squares = dot(token, token);
        let inverse = if squares > 0.0 { 1.0 / squares.sqrt() } else { 0.0 };
        for ((mean, direction), value) in mean.iter_mut().zip(&mut *directions).zip(token) {
            *mean += value;
            *direction += value * inverse;
        }
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
    dot(directions, directions) / (count * count)
}

/// In eight sums, which the compiler keeps in one register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The blocks of keys of one head, as choosing among them needs them.
pub(super) struct Keys<'a> {
    pub cut: Cut,
    /// `None` where all see all.
    pub window: Option<Window>,
    /// `[blocks, size]`.
    pub means: &'a [f32],
    /// Of each block; see [`pool`].
    pub likeness: &'a [f32],
    pub scale: f32,
    pub mass: f32,
}

impl Keys<'_> {
    /// What block `block` of queries sees, in order, into `kept`, by the mean of its queries and their likeness.
    pub fn choose(&self, block: usize, mean: &[f32], likeness: f32, kept: &mut Vec<usize>) {
        // What is no number is like nothing.
        let alike = likeness >= LEAST_LIKENESS;
        let is_alike = |key: usize| alike && self.likeness[key] >= LEAST_LIKENESS;
        kept.clear();
        let mut scores: Vec<(usize, f32)> = Vec::new();
        for run in self.seen(block) {
            for key in run {
                if is_alike(key) {
                    let size = mean.len();
                    let score = dot(mean, &self.means[key * size..(key + 1) * size]);
                    scores.push((key, score * self.scale));
                } else {
                    kept.push(key);
                }
            }
        }
        let largest = scores.iter().fold(f32::NEG_INFINITY, |most, (_, score)| most.max(*score));
        for (key, score) in &mut scores {
            let tokens = self.cut.places(*key, KEY_BLOCK).len() as f32;
            *score = tokens * (*score - largest).exp();
        }
        let least = least_weight(scores.iter().map(|(_, weight)| *weight), self.mass);
        let beside = self.beside(block);
        let chosen = scores.iter().filter(|(key, weight)| *weight >= least || beside.contains(key));
        kept.extend(chosen.map(|(key, _)| *key));
        kept.sort_unstable();
    }

    /// How many pairs of a query of a block and a key there are, where it sees the blocks `kept`.
    pub fn pairs(&self, block: usize, kept: &[usize]) -> Pairs {
        let queries = self.cut.places(block, QUERY_BLOCK).len();
        let tokens = |key: usize| self.cut.places(key, KEY_BLOCK).len();
        let count = |keys: usize| (queries * keys) as u64;
        Pairs {
            kept: count(kept.iter().map(|&key| tokens(key)).sum()),
            seen: count(self.seen(block).into_iter().flatten().map(tokens).sum()),
        }
    }

    /// The blocks of keys that the mask lets a block of queries see.
    fn seen(&self, block: usize) -> [Range<usize>; 2] {
        let all = self.likeness.len();
        let Some(window) = self.window else { return [0..0, 0..all] };
        let (causal, _) = self.cut.causal(block, QUERY_BLOCK);
        let per_causal = self.cut.tokens_per_block.div_ceil(KEY_BLOCK);
        let near = window.first_near(causal);
        let end = ((causal + 1) * per_causal).min(all);
        [0..window.sink.min(near) * per_causal, near * per_causal..end]
    }

    /// The blocks of a block's own tokens and those next to them, in its causal block.
    fn beside(&self, block: usize) -> Range<usize> {
        let (causal, index) = self.cut.causal(block, QUERY_BLOCK);
        let per_causal = self.cut.tokens_per_block.div_ceil(KEY_BLOCK);
        let (first, own) = (causal * per_causal, index * QUERY_BLOCK / KEY_BLOCK);
        let end = (own + QUERY_BLOCK / KEY_BLOCK + 1).min(per_causal);
        first + own.saturating_sub(1)..first + end
    }
}

/// The largest weight such that those from it on are `mass` of all.
fn least_weight(weights: impl Iterator<Item = f32>, mass: f32) -> f32 {
    let mut weights: Vec<f32> = weights.collect();
    weights.sort_unstable_by(|a, b| b.total_cmp(a));
    let enough = mass * weights.iter().sum::<f32>();
    let mut sum = 0.0;
    for weight in weights {
        sum += weight;
        if sum >= enough {
            return weight;
        }
    }
    0.0
}
