//! Keys and values of the latent frames that no later forward of a segment can change.
//!
//! In block-causal attention a block sees itself and earlier blocks only. Once its latents and its
//! timestep stay as they are, so do its keys and values in every layer, and later forwards need
//! nothing else of it: they run the frames behind it, at their own positions, against what is kept.

use std::ops::Range;

use longreel_kernels::gpu::Address;
use longreel_kernels::{Device, Tensor};

use super::Transformer;
use super::context::KeyValue;

/// What is kept of the first frames of a window, for one branch of guidance.
///
/// Keys and values lie in memory that is reserved for as many frames as there is room for, and stay there: what
/// fills and reads it is the same work in a later row that keeps as much, which a device may replay.
#[derive(Debug)]
pub struct KeyValueCache {
    device: Device,
    /// After norm and rotation, with a row for each token that there is room for; one entry for each block of the
    /// network.
    layers: Vec<KeyValue>,
    /// Frames that room is made for at least, once some are kept.
    room: usize,
    /// Tokens of one latent frame of the whole picture, as the first forward has them; 0 before it.
    tokens_per_frame: usize,
    /// Which of the frames that there is room for are held, in their order.
    held: Vec<Range<usize>>,
    /// The window's frame that the next forward begins with.
    next: usize,
}

/// Where what a cache holds lies.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    held: Vec<Range<usize>>,
    /// Of keys and values in each layer.
    addresses: Vec<Option<Address>>,
}

impl KeyValueCache {
    /// A cache of nothing, with room for so many latent frames at once; it grows where more are kept.
    pub fn new(model: &Transformer, room: usize) -> Self {
        Self::of_heads(model, room, 1)
    }

    /// As [`new`](Self::new), for one of `ranks` equal parts of the heads.
    pub(super) fn of_heads(model: &Transformer, room: usize, ranks: usize) -> Self {
        let empty = || Tensor::zeros(&[0, model.dim / ranks]);
        let empty = |_| KeyValue { keys: empty(), values: empty() };
        let layers = model.blocks.iter().map(empty).collect();
        let device = model.device.clone();
        Self { device, layers, room, tokens_per_frame: 0, held: Vec::new(), next: 0 }
    }

    /// The window's frame that the next forward begins with: all before it were kept, though some
    /// may have been [forgotten](Self::forget) since.
    pub fn next_frame(&self) -> usize {
        self.next
    }

    /// Latent frames whose keys are kept.
    pub fn held_frames(&self) -> usize {
        self.held.iter().map(ExactSizeIterator::len).sum()
    }

    /// Bytes of its memory.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|kv| (kv.keys.bytes() + kv.values.bytes()) as u64).sum()
    }

    /// Bytes that one latent frame of `tokens` tokens takes in a network of `layers` blocks of width
    /// `dim`, in values of `element` bytes.
    pub fn bytes_of(tokens: usize, layers: usize, dim: usize, element: usize) -> u64 {
        let values = [tokens, layers, 2, dim, element];
        values.iter().fold(1, |bytes: u64, &n| bytes.saturating_mul(n as u64))
    }

    /// Lets go of frames, counted among those that are held, that no later frame will see. What lies behind them
    /// moves up when frames are kept the next time.
    pub fn forget(&mut self, frames: Range<usize>) {
        let mut at = 0;
        let mut left = Vec::new();
        for run in &self.held {
            let gone = [frames.start, frames.end].map(|end| end.clamp(at, at + run.len()) - at);
            at += run.len();
            match gone[0] < gone[1] {
                true => left.extend([run.start..run.start + gone[0], run.start + gone[1]..run.end]),
                false => left.push(run.clone()),
            }
        }
        left.retain(|run| !run.is_empty());
        self.held = left;
    }

    /// Whether it is of a network of so many blocks, and of frames of so many tokens.
    pub(super) fn fits(&self, layers: usize, tokens_per_frame: usize) -> bool {
        self.layers.len() == layers && [0, tokens_per_frame].contains(&self.tokens_per_frame)
    }

    /// Its layers, and the tokens of a frame, for whoever it does not [fit](Self::fits).
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.layers.len(), self.tokens_per_frame]
    }

    /// Makes room for `keep` frames more of so many tokens.
    pub(super) fn reserve(&mut self, keep: usize, tokens_per_frame: usize) {
        self.tokens_per_frame = tokens_per_frame;
        let (held, device) = (&self.held, &self.device);
        let frames = held.iter().map(ExactSizeIterator::len).sum::<usize>() + keep;
        let there = self.layers.first().map_or(0, |layer| layer.keys.dim(0));
        if keep == 0 || frames * tokens_per_frame <= there {
            return;
        }
        let rows = frames.max(self.room) * tokens_per_frame;
        let wider = |old: &mut Tensor| {
            let mut wide = Tensor::room_on(device, &[rows, old.dim(1)]);
            let mut at = 0;
            for run in tokens_of(held, tokens_per_frame) {
                wide.write0(at, old, run.clone());
                at += run.len();
            }
            *old = wide;
        };
        for layer in &mut self.layers {
            wider(&mut layer.keys);
            wider(&mut layer.values);
        }
        self.held = one_run(frames - keep);
    }

    /// Where what it holds lies.
    pub(super) fn place(&self) -> Place {
        let layers = self.layers.iter();
        let addresses = layers.flat_map(|kv| [kv.keys.address(), kv.values.address()]);
        Place { held: self.held.clone(), addresses: addresses.collect() }
    }

    /// What block `layer` of the network has of it in a forward whose first `keep` frames are to be kept, for
    /// which there is [room](Self::reserve).
    pub(super) fn before(&mut self, layer: usize, keep: usize) -> Before<'_> {
        let tokens = self.tokens_per_frame;
        let held = tokens_of(&self.held, tokens).collect();
        Before { kept: &mut self.layers[layer], held, keep: keep * tokens }
    }

    /// Counts frames that a forward has added to all layers.
    pub(super) fn grow(&mut self, frames: usize) {
        self.next += frames;
        if frames > 0 {
            self.held = one_run(self.held_frames() + frames);
        }
    }
}

/// The first frames of all.
fn one_run(frames: usize) -> Vec<Range<usize>> {
    (frames > 0).then_some(0..frames).into_iter().collect()
}

/// The tokens of frames.
fn tokens_of(frames: &[Range<usize>], each: usize) -> impl Iterator<Item = Range<usize>> {
    frames.iter().map(move |run| run.start * each..run.end * each)
}

/// The cache of one layer and sample in one forward.
#[derive(Debug)]
pub(super) struct Before<'a> {
    /// Has the tokens before those of the forward.
    kept: &'a mut KeyValue,
    /// Which of its tokens, in their order.
    held: Vec<Range<usize>>,
    /// How many of the forward's first tokens are to be kept too.
    keep: usize,
}

impl Before<'_> {
    /// All keys and values of each sample up to the forward's last token; `keys` and `values` are those of the
    /// forward's tokens, sample by sample. Those that are to be kept are written behind the ones that are; what these
    /// are read from is as it was until all of it was read, but the work may not be done twice.
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
        if let [Self { kept, held, keep }] = before
            && held.is_empty()
        {
            if *keep > 0 {
                part(kept).write0(0, &own, 0..*keep);
            }
            return vec![own];
        }
        let of = |(sample, before): (usize, &mut Self)| {
            let kept = part(before.kept);
            let own = (&own, sample * tokens..(sample + 1) * tokens);
            let held = before.held.iter().map(|run| (&*kept, run.clone()));
            let all = Tensor::concat_rows(&held.chain([own]).collect::<Vec<_>>());
            if before.keep > 0 {
                // Those at the head stay where they are.
                let head = before.held.first().filter(|run| run.start == 0);
                let stay = head.map_or(0, |run| run.end);
                kept.write0(stay, &all, stay..all.dim(0) - tokens + before.keep);
            }
            all
        };
        before.iter_mut().enumerate().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of one token whose value says which one it is, in a cache of one layer.
    fn cache(room: usize) -> KeyValueCache {
        let empty = || Tensor::zeros(&[0, 1]);
        KeyValueCache {
            device: Device::Cpu,
            layers: vec![KeyValue { keys: empty(), values: empty() }],
            room,
            tokens_per_frame: 0,
            held: Vec::new(),
            next: 0,
        }
    }

    /// A forward of so many frames; all keys that it sees.
    fn forward(cache: &mut KeyValueCache, frames: usize, keep: usize) -> Vec<f32> {
        let first = cache.next_frame();
        let own = |sign: f32| {
            let values = (first..first + frames).map(|frame| sign * frame as f32);
            Tensor::from_vec(&[frames, 1], values.collect())
        };
        cache.reserve(keep, 1);
        let mut all = Before::all(&mut [cache.before(0, keep)], own(1.0), own(-1.0));
        cache.grow(keep);
        let [keys, values] = all.remove(0);
        assert!(keys.data().iter().zip(values.data()).all(|(key, value)| *key == -value));
        keys.into_vec()
    }

    #[test]
    fn what_is_kept_stays_in_its_order_whatever_is_let_go_of_between() {
        for room in [0, 4, 6, 20] {
            let mut cache = cache(room);
            assert_eq!(forward(&mut cache, 4, 2), [0.0, 1.0, 2.0, 3.0]);
            assert_eq!(forward(&mut cache, 3, 0), [0.0, 1.0, 2.0, 3.0, 4.0]);
            assert_eq!(forward(&mut cache, 4, 2), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
            cache.forget(1..2);
            cache.forget(0..0);
            assert_eq!((cache.held_frames(), cache.next_frame()), (3, 4));
            assert_eq!(forward(&mut cache, 1, 0), [0.0, 2.0, 3.0, 4.0]);
            cache.forget(1..3);
            assert_eq!(forward(&mut cache, 2, 1), [0.0, 4.0, 5.0]);
            cache.forget(0..1);
            assert_eq!(forward(&mut cache, 3, 3), [4.0, 5.0, 6.0, 7.0]);
            cache.forget(0..4);
            assert_eq!(forward(&mut cache, 1, 0), [8.0], "room for {room}");
            assert_eq!(cache.bytes(), 2 * 4 * room.max(4) as u64, "the most at once");
        }
    }
}
