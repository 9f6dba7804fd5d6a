//! Keys and values of the latent frames that no later forward of a segment can change.
//!
//! In block-causal attention a block sees itself and earlier blocks only. Once its latents and its
//! timestep stay as they are, so do its keys and values in every layer, and later forwards need
//! nothing else of it: they run the frames behind it, at their own positions, against what is kept.

use longreel_kernels::Tensor;

use super::Transformer;
use super::context::KeyValue;
use super::recurring::Stamp;

/// What is kept of the first frames of a window, for one branch of guidance.
#[derive(Debug)]
pub struct KeyValueCache {
    /// After norm and rotation; one entry for each block of the network.
    pub(super) layers: Vec<KeyValue>,
    /// Tokens of one latent frame of the whole picture, as the first forward has them; 0 before it.
    pub(super) tokens_per_frame: usize,
    /// Latent frames whose keys are kept.
    held: usize,
    /// The window's frame that the next forward begins with.
    next: usize,
    /// Of the keys as they are now.
    pub(super) stamp: Stamp,
}

impl KeyValueCache {
    /// A cache of nothing.
    pub fn new(model: &Transformer) -> Self {
        Self::of_heads(model, 1)
    }

    /// A cache of nothing, for one of `ranks` equal parts of the heads.
    pub(super) fn of_heads(model: &Transformer, ranks: usize) -> Self {
        let empty = || Tensor::zeros(&[0, model.dim / ranks]);
        let empty = |_| KeyValue { keys: empty(), values: empty() };
        let layers = model.blocks.iter().map(empty).collect();
        Self { layers, tokens_per_frame: 0, held: 0, next: 0, stamp: Stamp::default() }
    }

    /// The window's frame that the next forward begins with: all before it were kept, though some
    /// may have been [forgotten](Self::forget) since.
    pub fn next_frame(&self) -> usize {
        self.next
    }

    /// Latent frames whose keys are kept.
    pub fn held_frames(&self) -> usize {
        self.held
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|kv| (kv.keys.bytes() + kv.values.bytes()) as u64).sum()
    }

    /// Bytes that one latent frame of `tokens` tokens takes in a network of `layers` blocks of width
    /// `dim`, in values of `element` bytes.
    pub fn bytes_of(tokens: usize, layers: usize, dim: usize, element: usize) -> u64 {
        let values = [tokens, layers, 2, dim, element];
        values.iter().fold(1, |bytes: u64, &n| bytes.saturating_mul(n as u64))
    }

    /// Lets go of frames, counted among those that are held, that no later frame will see.
    pub fn forget(&mut self, frames: std::ops::Range<usize>) {
        if frames.is_empty() {
            return;
        }
        let tokens = frames.start * self.tokens_per_frame..frames.end * self.tokens_per_frame;
        for layer in &mut self.layers {
            layer.keys.remove0(tokens.clone());
            layer.values.remove0(tokens.clone());
        }
        self.held -= frames.len();
        self.stamp = Stamp::default();
    }

    /// Counts frames that a forward has added to all layers.
    pub(super) fn grow(&mut self, frames: usize, tokens_per_frame: usize) {
        self.tokens_per_frame = tokens_per_frame;
        self.held += frames;
        self.next += frames;
        if frames > 0 {
            self.stamp = Stamp::default();
        }
    }
}

/// The cache of one layer and sample in one forward.
#[derive(Debug)]
pub(super) struct Before<'a> {
    /// Of the tokens before those of the forward.
    pub kept: &'a mut KeyValue,
    /// How many of the forward's first tokens are to be kept too.
    pub keep: usize,
}

impl Before<'_> {
    /// All keys and values of each sample up to the forward's last token; `keys` and `values` are those of the
    /// forward's tokens, sample by sample.
    pub fn all(before: &mut [Self], keys: Tensor, values: Tensor) -> Vec<[Tensor; 2]> {
        let keys = Self::joined(before, keys, |kept| &mut kept.keys);
        let values = Self::joined(before, values, |kept| &mut kept.values);
        keys.into_iter().zip(values).map(|(keys, values)| [keys, values]).collect()
    }

    fn joined(
        before: &mut [Self],
        own: Tensor,
        part: impl Fn(&mut KeyValue) -> &mut Tensor,
    ) -> Vec<Tensor> {
        let tokens = own.dim(0) / before.len();
        if let [Self { kept, keep }] = before
            && part(kept).is_empty()
        {
            if *keep > 0 {
                part(kept).append0(&own.slice0(0..*keep));
            }
            return vec![own];
        }
        let of = |(sample, before): (usize, &mut Self)| {
            let kept = part(before.kept);
            let held = kept.dim(0);
            let rows = sample * tokens..(sample + 1) * tokens;
            let all = match held {
                0 => own.slice0(rows),
                _ => Tensor::concat_rows(&[(kept, 0..held), (&own, rows)]),
            };
            if before.keep > 0 {
                kept.append0(&all.slice0(held..held + before.keep));
            }
            all
        };
        before.iter_mut().enumerate().map(of).collect()
    }
}
