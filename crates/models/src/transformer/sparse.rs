//! Self-attention that leaves out keys that matter little.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use longreel_kernels::{Device, GpuError, PairCounter, Pairs, Sparse, TokenBlocks};

use super::ForwardOptions;
use super::known::Known;

/// Layers from the first one on that see all keys. Radial Attention (Li et al. 2025, arXiv:2506.19852) keeps the
/// first one of Wan 2.1, as Sparse VideoGen does (Xi et al. 2025, arXiv:2502.01776).
pub(super) const DENSE_LAYERS: usize = 1;

/// Which keys self-attention leaves out; see [`Sparse`](longreel_kernels::Sparse).
///
/// Frames see all keys while they are noisy, since these steps decide what a film shows: as long as a frame of
/// their causal block (of the window, where there are none) has a timestep above `dense_above`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseAttention {
    /// Share of the weights of softmax that is kept, as the means of blocks tell it, above 0; 1 leaves nothing out.
    pub mass: f32,
    /// A timestep, in thousandths.
    pub dense_above: f32,
}

impl SparseAttention {
    /// The runs of tokens that see all keys. `timesteps` has one for each frame of `tokens` tokens; the frames begin
    /// with a causal block, of `causal_block` frames.
    pub(super) fn dense_tokens(
        &self,
        timesteps: impl Iterator<Item = f32>,
        causal_block: Option<usize>,
        tokens: usize,
    ) -> Vec<Range<usize>> {
        let timesteps: Vec<f32> = timesteps.collect();
        let size = causal_block.unwrap_or(timesteps.len()).max(1);
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (index, block) in timesteps.chunks(size).enumerate() {
            if !block.iter().any(|t| *t > self.dense_above) {
                continue;
            }
            let first = index * size;
            let run = first * tokens..(first + block.len()) * tokens;
            match runs.last_mut().filter(|last| last.end == run.start) {
                Some(last) => last.end = run.end,
                None => runs.push(run),
            }
        }
        runs
    }
}

/// What one forward leaves out of self-attention.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    mass: f32,
    /// Tokens of a sample that see all.
    dense: Vec<Range<usize>>,
    causal_block: Option<usize>,
}

impl Chosen {
    /// For frames of `tokens` tokens with these timesteps; `None` where nothing is left out.
    pub fn of(
        options: &ForwardOptions,
        timesteps: impl ExactSizeIterator<Item = f32>,
        tokens: usize,
    ) -> Option<Self> {
        let sparse = options.sparse.filter(|sparse| sparse.mass < 1.0)?;
        let all = 0..timesteps.len() * tokens;
        let causal_block = options.causal_block;
        let dense = sparse.dense_tokens(timesteps, causal_block, tokens);
        let leaves_out = dense != [all];
        leaves_out.then_some(Self { mass: sparse.mass, dense, causal_block })
    }
}

/// Frames of the keys, rows and columns of tokens, frames of a causal block.
type Shape = (usize, [usize; 2], usize);

/// What sparse attention on a device goes by: tokens in blocks, and a count of what is kept.
#[derive(Debug, Default)]
pub(super) struct Choosing {
    blocks: Known<Shape, TokenBlocks>,
    counter: OnceLock<Arc<PairCounter>>,
}

impl Clone for Choosing {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Choosing {
    /// How attention leaves out what is `chosen`, among keys of so many frames of `[rows, columns]` tokens.
    pub fn among(
        &self,
        chosen: &Chosen,
        frames: usize,
        sides: [usize; 2],
        device: &Device,
    ) -> Result<LeftOut, GpuError> {
        let causal_block = chosen.causal_block.unwrap_or(frames);
        let blocks = self.blocks.of((frames, sides, causal_block), || {
            TokenBlocks::new(frames, sides, causal_block, device)
        })?;
        let counter = match self.counter.get() {
            Some(counter) => counter.clone(),
            None => {
                let made = Arc::new(PairCounter::new(device)?);
                self.counter.get_or_init(|| made).clone()
            }
        };
        Ok(LeftOut { chosen: chosen.clone(), blocks, counter })
    }

    /// What was kept so far, of all forwards.
    pub fn pairs(&self) -> Result<Pairs, GpuError> {
        self.counter.get().map_or(Ok(Pairs::default()), |counter| counter.pairs())
    }
}

/// What the attention of one forward leaves out, and where its blocks lie.
#[derive(Debug, Clone)]
pub(super) struct LeftOut {
    chosen: Chosen,
    blocks: Arc<TokenBlocks>,
    counter: Arc<PairCounter>,
}

/// Whether both read the same, where it lies.
impl PartialEq for LeftOut {
    fn eq(&self, other: &Self) -> bool {
        self.chosen == other.chosen
            && Arc::ptr_eq(&self.blocks, &other.blocks)
            && Arc::ptr_eq(&self.counter, &other.counter)
    }
}

impl LeftOut {
    /// As attention takes it.
    pub fn sparse(&self) -> Sparse<'_> {
        let Self { chosen: Chosen { mass, dense, .. }, blocks, counter } = self;
        Sparse { blocks, mass: *mass, whole: dense, counter: Some(counter) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_causal_block_sees_all_while_one_of_its_frames_is_noisy() {
        let sparse = SparseAttention { mass: 0.9, dense_above: 500.0 };
        let dense = |timesteps: &[f32], block| {
            let runs = sparse.dense_tokens(timesteps.iter().copied(), block, 10);
            runs.iter().map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        let wave = [0.0, 20.0, 500.0, 499.0, 0.0, 501.0, 999.0, 999.0, 0.0];
        assert_eq!(dense(&wave, Some(2)), [(40, 80)]);
        assert_eq!(dense(&wave, Some(1)), [(50, 80)]);
        assert_eq!(dense(&wave, Some(6)), [(0, 90)]);
        assert_eq!(dense(&wave, None), [(0, 90)]);
        assert_eq!(dense(&[999.0, 0.0, 999.0], Some(1)), [(0, 10), (20, 30)]);
        assert!(dense(&[500.0; 4], None).is_empty());
    }
}
