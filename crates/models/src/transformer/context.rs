//! What depends on the conditioning alone, computed once for a whole film.

use longreel_kernels::{Attention, Sample, Tensor};

use super::recurring::Stamp;

/// How a [`Context`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextOptions {
    /// Length to which the reference pads text embeddings with zeros. The padding takes part in
    /// cross-attention, so it changes the result. Published models: 512.
    pub padded_tokens: usize,
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self { padded_tokens: 512 }
    }
}

/// The conditioning of one prompt (and image), ready for every step of every segment: the keys and values that
/// cross-attention has of it in each block.
///
/// The reference pads the text by zeros to a fixed length, and all positions take part in
/// cross-attention. After the projection every padded position holds the same row, hence the same
/// key and value in each block; softmax over `n` equal keys is softmax over one of them with weight
/// `n`. So one such row stands for all, with `ln n` added to its score: the same sum, with up to five
/// times fewer keys.
#[derive(Debug)]
pub struct Context {
    /// One entry for each block.
    pub(super) blocks: Vec<BlockContext>,
    /// The model's width.
    pub(super) dim: usize,
    pub(super) stamp: Stamp,
}

/// Keys and values, both `[tokens, dim]`.
#[derive(Debug, Clone)]
pub(super) struct KeyValue {
    pub keys: Tensor,
    pub values: Tensor,
}

impl KeyValue {
    /// As a sample's queries see all of it.
    pub fn seen<'a>(&'a self, how: Attention<'a>) -> Sample<'a> {
        Sample::of(&self.keys, &self.values, how)
    }
}

/// The conditioning as one block sees it.
#[derive(Debug, Clone)]
pub(super) struct BlockContext {
    pub text: KeyValue,
    pub image: Option<KeyValue>,
    /// How many padded positions the last row of the text stands for.
    pub padding: usize,
}

impl BlockContext {
    /// The same where activations that come and go leave it alone.
    pub fn into_kept(self) -> Self {
        let kept = |KeyValue { keys, values }: KeyValue| {
            let [keys, values] = [keys, values].map(Tensor::into_kept);
            KeyValue { keys, values }
        };
        Self { text: kept(self.text), image: self.image.map(kept), padding: self.padding }
    }
}
