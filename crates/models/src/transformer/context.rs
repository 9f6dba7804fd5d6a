//! What depends on the conditioning alone, computed once for a whole film.

use longreel_kernels::{Attention, Sample, Tensor};

use super::recurring::Stamp;

/// How a [`Context`] is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextOptions {
    /// Length to which the reference pads text embeddings with zeros. The padding takes part in
    /// cross-attention, so it changes the result. Published models: 512.
    pub padded_tokens: usize,
    /// Most bytes that the keys and values of all blocks may take together; all that they need by default. When they
    /// need more, they are computed again in every forward, for which a GPU without room for all weights has those
    /// that make them brought each time.
    pub cache_bytes: usize,
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self { padded_tokens: 512, cache_bytes: usize::MAX }
    }
}

/// The conditioning of one prompt (and image), ready for every step of every segment.
///
/// The reference pads the text by zeros to a fixed length, and all positions take part in
/// cross-attention. After the projection every padded position holds the same row, hence the same
/// key and value in each block; softmax over `n` equal keys is softmax over one of them with weight
/// `n`. So one such row stands for all, with `ln n` added to its score: the same sum, with up to five
/// times fewer keys.
#[derive(Debug)]
pub struct Context {
    /// `[text tokens (+ 1 for the padding), dim]`, after the text projection.
    pub(super) text: Tensor,
    /// `[image tokens, dim]`, after the image projection.
    pub(super) image: Option<Tensor>,
    /// How many padded positions the last text row stands for.
    pub(super) padding: usize,
    /// One entry for each block, unless they need more than the cache may take.
    pub(super) blocks: Option<Vec<BlockContext>>,
    pub(super) stamp: Stamp,
}

impl Context {
    /// True when keys and values are kept between forwards.
    pub fn is_cached(&self) -> bool {
        self.blocks.is_some()
    }
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
    /// As [`Context::padding`].
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
