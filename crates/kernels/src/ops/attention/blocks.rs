//! Tokens of a video in blocks of neighbours.

use std::ops::Range;

use crate::gpu::{Array, Element};
use crate::{Device, GpuError};

/// Tokens of a block of keys.
pub const KEY_BLOCK: usize = 64;
/// Tokens of a block of queries: two blocks of keys.
pub const QUERY_BLOCK: usize = 2 * KEY_BLOCK;
/// Latent frames that a block reaches over at most.
const FRAMES: usize = 4;

/// The order in which a video's tokens stand in blocks, so that those of a block are near each other in
/// time, height and width, and blocks next to each other are neighbours too.
///
/// A beam of a few frames and rows is gone along column by column, then the next beam backwards, so that
/// any run of tokens is compact: 64 of them are about 4 frames x 4 rows x 4 columns. The tokens of a causal
/// block are one run, and no block has tokens of two.
#[derive(Debug)]
pub struct TokenBlocks {
    pub(crate) cut: Cut,
    /// Place by place the token there, among all of them in the order frame, row, column.
    pub(crate) order: Vec<u32>,
    /// The same on a GPU, as integers of four bytes.
    pub(crate) array: Option<Array>,
}

impl TokenBlocks {
    /// Of `frames` latent frames of `[rows, columns]` tokens, of which `frames_per_block` are a causal block
    /// (all of them where attention has none).
    ///
    /// # Errors
    /// What went wrong on the device, in this or before.
    pub fn new(
        frames: usize,
        [rows, columns]: [usize; 2],
        frames_per_block: usize,
        device: &Device,
    ) -> Result<Self, GpuError> {
        let per_frame = rows * columns;
        let tokens = frames * per_frame;
        assert!(
            frames_per_block > 0 && tokens > 0 && i32::try_from(tokens).is_ok(),
            "TokenBlocks: {frames} frames of {rows} x {columns} tokens, {frames_per_block} a block"
        );
        let mut order = Vec::with_capacity(tokens);
        for first in (0..frames).step_by(frames_per_block) {
            let causal = frames_per_block.min(frames - first);
            beams([causal, rows, columns], |token| order.push((first * per_frame) as u32 + token));
        }
        let array = match device.gpu() {
            None => None,
            Some(gpu) => {
                let bytes: Vec<u8> = order.iter().flat_map(|token| token.to_le_bytes()).collect();
                // Out of the way of activations, as long as graphs read it.
                let array = Array::from_bytes(gpu, Element::F32, &bytes).into_kept();
                device.check()?;
                Some(array)
            }
        };
        let tokens_per_block = frames_per_block.min(frames) * per_frame;
        Ok(Self { cut: Cut { tokens, tokens_per_block }, order, array })
    }

    /// Place by place the token there.
    pub fn order(&self) -> &[u32] {
        &self.order
    }
}

/// Calls `token` for each of a grid of frames, rows and columns, in the order of [`TokenBlocks`].
fn beams([frames, rows, columns]: [usize; 3], mut token: impl FnMut(u32)) {
    let part = |all: usize, parts: usize, i: usize| i * all / parts..(i + 1) * all / parts;
    let turned = |count: usize, backwards: bool| {
        (0..count).map(move |i| if backwards { count - 1 - i } else { i })
    };
    let parts = frames.div_ceil(FRAMES);
    let (mut up, mut left) = (false, false);
    for own in (0..parts).map(|i| part(frames, parts, i)) {
        // As high as it is long once it has the tokens of a block of keys.
        let side = (KEY_BLOCK as f64 / own.len() as f64).sqrt().round() as usize;
        let beams = rows.div_ceil(side);
        for high in turned(beams, up).map(|beam| part(rows, beams, beam)) {
            for column in turned(columns, left) {
                for (frame, row) in own.clone().flat_map(|f| high.clone().map(move |r| (f, r))) {
                    token(((frame * rows + row) * columns + column) as u32);
                }
            }
            left = !left;
        }
        up = !up;
    }
}

/// How so many tokens are cut into blocks: each causal block into whole ones and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub tokens: usize,
    /// Of a causal block; the last one may have fewer.
    pub tokens_per_block: usize,
}

impl Cut {
    /// The first blocks of `size` tokens that have `tokens` tokens, which end where a causal block does or
    /// where all tokens do.
    pub fn count(&self, tokens: usize, size: usize) -> usize {
        let whole = tokens / self.tokens_per_block * self.tokens_per_block.div_ceil(size);
        whole + (tokens % self.tokens_per_block).div_ceil(size)
    }

    /// Places of block `index` of `size` tokens.
    pub fn places(&self, index: usize, size: usize) -> Range<usize> {
        let per_causal = self.tokens_per_block.div_ceil(size);
        let causal = index / per_causal * self.tokens_per_block;
        let start = causal + index % per_causal * size;
        start..(start + size).min(causal + self.tokens_per_block).min(self.tokens)
    }

    /// The causal block of block `index` of `size` tokens, and which of its own it is.
    pub fn causal(&self, index: usize, size: usize) -> (usize, usize) {
        let per_causal = self.tokens_per_block.div_ceil(size);
        (index / per_causal, index % per_causal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(frames: usize, sides: [usize; 2], frames_per_block: usize) -> TokenBlocks {
        TokenBlocks::new(frames, sides, frames_per_block, &Device::Cpu).expect("on the host")
    }

    #[test]
    fn every_token_has_one_place_in_its_causal_block() {
        for (frames, sides, per_block) in
            [(1, [1, 1], 1), (25, [34, 60], 25), (7, [5, 3], 3), (6, [9, 7], 1), (5, [1, 40], 8)]
        {
            let blocks = made(frames, sides, per_block);
            let tokens = frames * sides[0] * sides[1];
            let causal = per_block * sides[0] * sides[1];
            let mut seen = vec![false; tokens];
            for (place, &token) in blocks.order.iter().enumerate() {
                assert_eq!(place / causal, token as usize / causal);
                assert!(!std::mem::replace(&mut seen[token as usize], true));
            }
            assert!(seen.iter().all(|&seen| seen));
            let mut next = 0;
            for block in 0..blocks.cut.count(tokens, KEY_BLOCK) {
                let places = blocks.cut.places(block, KEY_BLOCK);
                assert!(places.start == next && !places.is_empty() && places.len() <= KEY_BLOCK);
                assert_eq!(places.start / causal, (places.end - 1) / causal);
                next = places.end;
            }
            assert_eq!(next, tokens);
        }
    }

    /// What makes the mean of a block stand for its tokens.
    #[test]
    fn blocks_are_compact_in_time_height_and_width() {
        let [rows, columns] = [34, 60];
        for per_block in [1, 2, 3, 5, 25] {
            let blocks = made(25, [rows, columns], per_block);
            let count = blocks.cut.count(blocks.order().len(), KEY_BLOCK);
            let mut sum = 0;
            for block in 0..count {
                let tokens = &blocks.order[blocks.cut.places(block, KEY_BLOCK)];
                let reach = |of: fn(usize, usize, usize) -> usize| {
                    let places = tokens.iter().map(|&token| of(token as usize, rows, columns));
                    places.clone().max().unwrap() - places.min().unwrap() + 1
                };
                let reaches = [
                    reach(|token, rows, columns| token / (rows * columns)),
                    reach(|token, rows, columns| token / columns % rows),
                    reach(|token, _, columns| token % columns),
                ];
                sum += reaches.iter().sum::<usize>();
            }
            // A cube of 64 has sides of 4, and a square sides of 8.
            let most = if per_block == 1 { 20.0 } else { 16.0 };
            let mean = sum as f64 / count as f64;
            assert!(mean <= most, "{per_block} frames a block: sides add up to {mean}");
        }
    }
}
