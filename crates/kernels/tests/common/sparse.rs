//! Sparse attention as its documents say it, in f64: which blocks are kept, and softmax over their keys.

use std::ops::Range;

use longreel_kernels::ops::{KEY_BLOCK, LEAST_LIKENESS, QUERY_BLOCK, TokenBlocks};
use longreel_kernels::{Attention, Bias, Device, Mask, Pairs, Products};

use super::{Numbers, wide};

/// Tokens of a video, of which the last frames are queries.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub frames: usize,
    /// Rows and columns.
    pub sides: [usize; 2],
    /// Frames of a causal block.
    pub causal: Option<usize>,
    /// Blocks before its own that a block sees, and first ones.
    pub window: Option<[usize; 2]>,
    pub first_query_frame: usize,
    pub heads: usize,
    pub size: usize,
    pub value_size: usize,
    pub mass: f32,
    /// Frames, among those of the queries, that see all.
    pub whole: Vec<Range<usize>>,
}

pub(crate) const SCALE: f32 = 0.25;

/// What a case should give.
pub(crate) struct Reference {
    pub out: Vec<f64>,
    /// The share of the pairs of a query and a key that its mask lets it see which is kept.
    pub share: f64,
    /// The same of queries that do not see all.
    pub chosen: Pairs,
}

impl Case {
    /// One whose frames all see all.
    pub fn of(frames: usize, sides: [usize; 2], size: usize) -> Self {
        Self {
            frames,
            sides,
            causal: None,
            window: None,
            first_query_frame: 0,
            heads: 2,
            size,
            value_size: size,
            mass: 0.6,
            whole: Vec::new(),
        }
    }

    /// How its queries look at its keys, before any are left out.
    pub fn attention(&self) -> Attention<'static> {
        Attention {
            heads: self.heads,
            scale: SCALE,
            mask: self.mask(),
            bias: Bias::None,
            products: Products::F32,
        }
    }

    /// The same with causal blocks of so many frames.
    pub fn causal(self, frames: usize) -> Self {
        Self { causal: Some(frames), ..self }
    }

    /// The same where these frames, behind others that do, see all.
    pub fn whole(mut self, frames: Range<usize>) -> Self {
        self.whole.push(frames);
        self
    }

    pub fn per_frame(&self) -> usize {
        self.sides[0] * self.sides[1]
    }

    pub fn keys(&self) -> usize {
        self.frames * self.per_frame()
    }

    pub fn queries(&self) -> usize {
        (self.frames - self.first_query_frame) * self.per_frame()
    }

    fn causal_tokens(&self) -> usize {
        self.causal.unwrap_or(self.frames).min(self.frames) * self.per_frame()
    }

    pub fn mask(&self) -> Mask {
        let per_frame = self.per_frame();
        let tokens_per_block = self.causal.map(|frames| frames * per_frame);
        match (tokens_per_block, self.window) {
            (None, _) => Mask::None,
            (Some(tokens_per_block), None) => Mask::BlockCausal { tokens_per_block },
            (Some(tokens_per_block), Some([before, sink])) => {
                Mask::BlockWindow { tokens_per_block, before, sink }
            }
        }
    }

    pub fn blocks(&self, device: &Device) -> TokenBlocks {
        let causal = self.causal.unwrap_or(self.frames);
        TokenBlocks::new(self.frames, self.sides, causal, device).expect("room")
    }

    /// Runs of queries that see all.
    pub fn whole_tokens(&self) -> Vec<Range<usize>> {
        let per_frame = self.per_frame();
        self.whole.iter().map(|run| run.start * per_frame..run.end * per_frame).collect()
    }

    /// Queries, keys and values: patches of 4 x 8 x 8 tokens have something in common, and some of them
    /// nothing, as the tokens of a video.
    pub fn values(&self, seed: u64) -> [Vec<f32>; 3] {
        let mut numbers = Numbers::new(seed);
        let [rows, columns] = self.sides;
        let themes = 5;
        let mut field = |tokens: Range<usize>, size: usize| {
            let width = self.heads * size;
            let common = numbers.vec(themes * width);
            tokens
                .flat_map(|token| {
                    let place = [token / (rows * columns), token / columns % rows, token % columns];
                    let patch = place[0] / 4 * 7 + place[1] / 8 * 3 + place[2] / 8;
                    let own = numbers.vec(width);
                    let strength = if patch % 12 == 8 { 0.0 } else { 2.5 };
                    let theme = patch % themes * width;
                    (0..width).map(|i| strength * common[theme + i] + own[i]).collect::<Vec<f32>>()
                })
                .collect::<Vec<f32>>()
        };
        let keys = self.keys();
        [
            field(keys - self.queries()..keys, self.size),
            field(0..keys, self.size),
            field(0..keys, self.value_size),
        ]
    }

    fn block_ranges(&self, size: usize) -> Vec<Range<usize>> {
        let (causal, keys) = (self.causal_tokens(), self.keys());
        let starts = (0..keys).step_by(causal);
        let ranges = starts.flat_map(|first| {
            let end = (first + causal).min(keys);
            (first..end).step_by(size).map(move |start| start..(start + size).min(end))
        });
        ranges.collect()
    }

    /// Panics where a choice hangs on a rounding: such values test nothing.
    pub fn reference(&self, [q, k, v]: [&[f32]; 3]) -> Reference {
        let order = self.blocks(&Device::Cpu).order().to_vec();
        let first_query = self.keys() - self.queries();
        let [query_blocks, key_blocks] =
            [QUERY_BLOCK, KEY_BLOCK].map(|size| self.block_ranges(size));
        let causal = |range: &Range<usize>| range.start / self.causal_tokens();
        let mut out = vec![0.0; self.queries() * self.heads * self.value_size];
        let (mut all, mut chosen) = (Pairs::default(), Pairs::default());
        for (head, own) in (0..self.heads).flat_map(|h| query_blocks.iter().map(move |b| (h, b))) {
            if own.start < first_query {
                continue;
            }
            let row = |of: &[f32], token: usize, size: usize| {
                wide(&of[(token * self.heads + head) * size..][..size])
            };
            let tokens = |range: &Range<usize>| -> Vec<usize> {
                order[range.clone()].iter().map(|&token| token as usize).collect()
            };
            let queries: Vec<_> = tokens(own);
            let ours: Vec<_> =
                queries.iter().map(|&token| row(q, token - first_query, self.size)).collect();
            let seen: Vec<_> = (0..key_blocks.len())
                .filter(|&block| {
                    let (mine, other) = (causal(own), causal(&key_blocks[block]));
                    let [before, sink] = self.window.unwrap_or([usize::MAX, 0]);
                    other <= mine && (mine - other <= before || other < sink)
                })
                .collect();
            let frame = (queries[0] - first_query) / self.per_frame();
            let sees_all = self.mass >= 1.0 || self.whole.iter().any(|run| run.contains(&frame));
            let (mean, alike) = pooled(&ours);
            let mut kept = Vec::new();
            let mut scored = Vec::new();
            for &block in &seen {
                let theirs: Vec<_> =
                    tokens(&key_blocks[block]).iter().map(|&t| row(k, t, self.size)).collect();
                let (other, other_alike) = pooled(&theirs);
                if sees_all || !alike || !other_alike {
                    kept.push(block);
                } else {
                    let score = f64::from(SCALE) * dot(&mean, &other);
                    scored.push((block, theirs.len() as f64 * score.exp()));
                }
            }
            scored.sort_by(|a, b| b.1.total_cmp(&a.1));
            let total: f64 = scored.iter().map(|(_, weight)| weight).sum();
            let mut sum = 0.0;
            for (block, weight) in scored {
                let before = sum / total - f64::from(self.mass);
                assert!(before.abs() > 1e-5, "{self:?}: a choice hangs on a rounding");
                sum += weight;
                let theirs = &key_blocks[block];
                let near = theirs.start < own.end + KEY_BLOCK && theirs.end + KEY_BLOCK > own.start;
                if before < 0.0 || (near && causal(own) == causal(theirs)) {
                    kept.push(block);
                }
            }
            let count = |blocks: &[usize]| {
                let keys: usize = blocks.iter().map(|&block| key_blocks[block].len()).sum();
                (queries.len() * keys) as u64
            };
            let pairs = Pairs { kept: count(&kept), seen: count(&seen) };
            all = all + pairs;
            if !sees_all {
                chosen = chosen + pairs;
            }
            let keys: Vec<_> = kept.iter().flat_map(|&block| tokens(&key_blocks[block])).collect();
            let of = |of: &[f32], size: usize| -> Vec<_> {
                keys.iter().map(|&key| row(of, key, size)).collect()
            };
            let (theirs, values) = (of(k, self.size), of(v, self.value_size));
            for (query, ours) in queries.iter().zip(&ours) {
                let scores: Vec<_> =
                    theirs.iter().map(|key| f64::from(SCALE) * dot(ours, key)).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<_> = scores.iter().map(|score| (score - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                let at = ((query - first_query) * self.heads + head) * self.value_size;
                let out = &mut out[at..at + self.value_size];
                for (values, weight) in values.iter().zip(&weights) {
                    for (out, value) in out.iter_mut().zip(values) {
                        *out += weight / total * value;
                    }
                }
            }
        }
        Reference { out, share: all.share().expect("pairs"), chosen }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean of some tokens, and whether they are alike.
fn pooled(tokens: &[Vec<f64>]) -> (Vec<f64>, bool) {
    let count = tokens.len() as f64;
    let mut mean = vec![0.0; tokens[0].len()];
    let mut direction = mean.clone();
    for token in tokens {
        let length = dot(token, token).sqrt();
        for (i, value) in token.iter().enumerate() {
            mean[i] += value / count;
            direction[i] += value / length / count;
        }
    }
    let likeness = dot(&direction, &direction) - f64::from(LEAST_LIKENESS);
    assert!(likeness.abs() > 1e-5, "a choice hangs on a rounding");
    (mean, likeness >= 0.0)
}

/// Awkward shapes: last blocks that are short, masks, windows, queries of the last frames, frames that see all.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::of(1, [1, 1], 8),
        Case::of(5, [15, 22], 16),
        Case { heads: 1, value_size: 40, ..Case::of(4, [16, 24], 64) },
        Case { value_size: 6, ..Case::of(3, [18, 21], 20) },
        Case { heads: 1, mass: 0.9, ..Case::of(4, [8, 16], 128) },
        Case::of(7, [15, 13], 16).causal(3),
        Case::of(6, [20, 16], 16).causal(1),
        Case { window: Some([1, 1]), ..Case::of(9, [13, 17], 16).causal(2) },
        Case { first_query_frame: 4, ..Case::of(7, [16, 17], 16).causal(2) },
        Case { first_query_frame: 2, window: Some([1, 0]), ..Case::of(8, [16, 15], 16) }
            .causal(2)
            .whole(2..4),
        Case::of(7, [15, 17], 16).causal(2).whole(0..2).whole(4..7),
    ]
}
