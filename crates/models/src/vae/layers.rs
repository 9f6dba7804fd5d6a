//! The layers of the VAE, each a stream along time.
//!
//! Every layer may be given any number of frames at a time. What it must remember of earlier frames
//! lies in a slot that the caller owns, so cutting a clip differently changes no bit of the result.
//!
//! Reference: `WanResidualBlock`, `WanAttentionBlock`, `WanResample` of diffusers'
//! `autoencoder_kl_wan.py`. Pictures are `[T, H, W, C]`.

use longreel_kernels::{
    Activation, Attention, Bias, Conv3d, Linear, Mask, Products, Tensor, UpsampledConv, Vector,
    Weight, ops,
};

/// What a layer remembers: the frames just before the next ones, `[0..=2, H, W, C]`.
/// `None` means that the clip has not begun.
pub(super) type Slot = Option<Tensor>;

/// A causal convolution over three frames and the slot that holds its history.
#[derive(Debug)]
pub(super) struct Causal {
    pub conv: Conv3d,
    pub slot: usize,
}

impl Causal {
    fn forward(&self, x: &Tensor, slots: &mut [Slot]) -> Tensor {
        let slot = &mut slots[self.slot];
        let out = ops::conv3d(x, slot.as_ref().filter(|h| h.dim(0) > 0), &self.conv);
        *slot = Some(tail(slot.take(), x, self.conv.history_len()));
        out
    }

    /// As [`forward`](Self::forward), but adds the result to `into`.
    fn forward_add(&self, x: &Tensor, slots: &mut [Slot], into: &mut Tensor) {
        let slot = &mut slots[self.slot];
        ops::conv3d_add(x, slot.as_ref().filter(|h| h.dim(0) > 0), &self.conv, into);
        *slot = Some(tail(slot.take(), x, self.conv.history_len()));
    }
}

/// The last `keep` frames of `history` followed by `x`, or all when there are fewer.
fn tail(history: Option<Tensor>, x: &Tensor, keep: usize) -> Tensor {
    let frames = x.dim(0);
    if frames >= keep {
        return x.slice0(frames - keep..frames);
    }
    match history {
        Some(history) if history.dim(0) > 0 => {
            let spare = (keep - frames).min(history.dim(0));
            let old = history.slice0(history.dim(0) - spare..history.dim(0));
            Tensor::concat0(&[&old, x])
        }
        _ => x.clone(),
    }
}

/// Two normed causal convolutions beside a shortcut.
#[derive(Debug)]
pub(super) struct Residual {
    pub norm_1: Vector,
    pub conv_1: Causal,
    pub norm_2: Vector,
    pub conv_2: Causal,
    pub shortcut: Option<Conv3d>,
}

impl Residual {
    fn forward(&self, x: Tensor, slots: &mut [Slot]) -> Tensor {
        let normed = ops::channel_normed(&x, &self.norm_1, None, true);
        let mut hidden = self.conv_1.forward(&normed, slots);
        drop(normed);
        ops::channel_norm(&mut hidden, &self.norm_2, None, true);
        let mut out = match &self.shortcut {
            // Not needed any more, and as large as what the sum may want beside.
            Some(conv) => {
                let out = ops::conv3d(&x, None, conv);
                drop(x);
                out
            }
            None => x,
        };
        self.conv_2.forward_add(&hidden, slots, &mut out);
        out
    }
}

/// Attention with one head among the pixels of each frame.
#[derive(Debug)]
pub(super) struct PixelAttention {
    pub norm: Vector,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub out: Linear,
}

impl PixelAttention {
    fn forward(&self, x: Tensor) -> Tensor {
        let shape = x.shape().to_vec();
        let (frames, pixels, dim) = (shape[0], shape[1] * shape[2], shape[3]);
        let mut x = x.reshape(&[frames * pixels, dim]);
        let normed = ops::channel_normed(&x, &self.norm, None, false);
        let query = ops::linear(&normed, &self.query, Activation::None);
        let key = ops::linear(&normed, &self.key, Activation::None);
        let value = ops::linear(&normed, &self.value, Activation::None);
        drop(normed);
        let scale = 1.0 / (dim as f32).sqrt();
        let how = Attention {
            heads: 1,
            scale,
            mask: Mask::None,
            bias: Bias::None,
            products: Products::F32,
        };
        let seen: Vec<Tensor> = (0..frames)
            .map(|frame| {
                let rows = frame * pixels..(frame + 1) * pixels;
                let part = |t: &Tensor| t.slice0(rows.clone());
                ops::attention(&part(&query), &part(&key), &part(&value), &how)
            })
            .collect();
        drop((query, key, value));
        let seen = Tensor::concat0(&seen.iter().collect::<Vec<_>>());
        ops::linear_residual(&mut x, &seen, &self.out, None);
        x.reshape(&shape)
    }
}

/// Doubles the frames: of each frame's two results one comes first (`even`), one second (`odd`). The
/// first frame of a clip passes alone and is not part of the history, as in the reference, whose
/// cache holds the word "Rep" at that point.
#[derive(Debug)]
pub(super) struct TimeUp {
    pub even: Conv3d,
    pub odd: Conv3d,
    pub slot: usize,
}

impl TimeUp {
    fn forward(&self, x: Tensor, slots: &mut [Slot]) -> Tensor {
        let slot = &mut slots[self.slot];
        let frames = x.dim(0);
        let (first, history, rest) = match slot.take() {
            Some(history) => (None, history, x),
            None => (Some(x.slice0(0..1)), x.slice0(0..0), x.slice0(1..frames)),
        };
        if rest.dim(0) == 0 {
            *slot = Some(history);
            return first.unwrap_or(rest);
        }
        let past = (history.dim(0) > 0).then_some(&history);
        let even = ops::conv3d(&rest, past, &self.even);
        let odd = ops::conv3d(&rest, past, &self.odd);
        let doubled = ops::interleave0(first.as_ref(), &even, &odd);
        *slot = Some(tail(Some(history), &rest, self.even.history_len()));
        doubled
    }
}

/// Halves the frames: the first frame of a clip passes alone, then each result sees three frames of
/// which it shares the first with the result before. The slot holds the one or two frames that the
/// next result begins with.
#[derive(Debug)]
pub(super) struct TimeDown {
    pub conv: Conv3d,
    pub slot: usize,
}

impl TimeDown {
    fn forward(&self, x: Tensor, slots: &mut [Slot]) -> Tensor {
        let slot = &mut slots[self.slot];
        let (first, waiting) = match slot.take() {
            Some(waiting) => (None, Tensor::concat0(&[&waiting, &x])),
            None => (Some(x.slice0(0..1)), x),
        };
        let frames = waiting.dim(0);
        let results = (frames - 1) / 2;
        *slot = Some(waiting.slice0(2 * results..frames));
        let halved = (results > 0).then(|| {
            let history = waiting.slice0(0..2);
            let rest = waiting.slice0(2..2 * results + 1);
            ops::conv3d(&rest, Some(&history), &self.conv)
        });
        match (first, halved) {
            (Some(first), Some(halved)) => Tensor::concat0(&[&first, &halved]),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => waiting.slice0(0..0),
        }
    }
}

/// One layer.
#[expect(clippy::large_enum_variant, reason = "a network has a dozen of them")]
#[derive(Debug)]
pub(super) enum Layer {
    /// A causal convolution.
    Causal(Causal),
    /// A convolution of one pixel of one frame.
    Pointwise(Conv3d),
    /// A residual block.
    Residual(Box<Residual>),
    /// Attention among the pixels of each frame.
    Attention(Box<PixelAttention>),
    /// Norm over the channels, then SiLU.
    NormSilu(Vector),
    /// Twice the height and width, then a convolution.
    SpatialUp(UpsampledConv),
    /// A convolution with stride 2 that halves height and width.
    SpatialDown(Conv3d),
    /// Twice the frames.
    TimeUp(TimeUp),
    /// Half the frames.
    TimeDown(TimeDown),
}

impl Layer {
    /// Runs the layer on at least one frame; [`TimeDown`](Self::TimeDown) may return none.
    pub fn forward(&self, x: Tensor, slots: &mut [Slot]) -> Tensor {
        match self {
            Self::Causal(conv) => conv.forward(&x, slots),
            Self::Pointwise(conv) | Self::SpatialDown(conv) => ops::conv3d(&x, None, conv),
            Self::Residual(block) => block.forward(x, slots),
            Self::Attention(block) => block.forward(x),
            Self::NormSilu(gamma) => {
                let mut x = x;
                ops::channel_norm(&mut x, gamma, None, true);
                x
            }
            Self::SpatialUp(conv) => ops::upsampled_conv(&x, conv),
            Self::TimeUp(layer) => layer.forward(x, slots),
            Self::TimeDown(layer) => layer.forward(x, slots),
        }
    }

    /// Most values alive at once for each input frame and input pixel.
    pub fn values_per_pixel(&self) -> usize {
        match self {
            Self::Causal(Causal { conv, .. }) | Self::Pointwise(conv) => {
                conv.inputs() + conv.outputs()
            }
            Self::SpatialDown(conv) => conv.inputs() + conv.outputs().div_ceil(4),
            Self::Residual(block) => {
                let (i, o) = (block.conv_1.conv.inputs(), block.conv_1.conv.outputs());
                i + (i + o).max(2 * o)
            }
            Self::Attention(block) => 6 * block.query.inputs(),
            Self::NormSilu(gamma) => gamma.len(),
            Self::SpatialUp(conv) => conv.inputs() + 4 * conv.outputs(),
            Self::TimeUp(layer) => 6 * layer.even.inputs(),
            Self::TimeDown(layer) => 4 * layer.conv.inputs(),
        }
    }

    /// How many latent frames' worth of wrong results a start in the middle of a clip leaves behind,
    /// in frames: `bad` before the layer, the result after it.
    pub fn spread(&self, bad: usize) -> usize {
        match self {
            Self::Causal(Causal { conv, .. }) => bad + conv.history_len(),
            Self::Residual(block) => {
                bad + block.conv_1.conv.history_len() + block.conv_2.conv.history_len()
            }
            Self::TimeUp(layer) => 2 * (bad + layer.even.history_len()),
            _ => bad,
        }
    }
}

/// The rows `rows` of a weight `[O, ...]` as a weight of its own, in f32.
pub(super) fn part_of_weight(weight: &Weight, rows: std::ops::Range<usize>) -> Weight {
    let values = weight.to_f32();
    let inner = values.len() / weight.shape()[0];
    let mut shape = weight.shape().to_vec();
    shape[0] = rows.len();
    Weight::from_f32(&shape, &values[rows.start * inner..rows.end * inner])
}
