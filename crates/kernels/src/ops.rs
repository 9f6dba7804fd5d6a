//! The operations. Plain bodies first; see each function for shapes.

use rayon::prelude::*;

use crate::{Tensor, Weight};

/// A fully connected layer `y = x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
    dense: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// `weight` is seen as `[outputs, inputs]` (trailing axes are joined), `bias` as `[outputs]`.
    pub fn new(weight: Weight, bias: Option<Vec<f32>>) -> Self {
        let outputs = weight.shape()[0];
        let inputs = weight.len() / outputs.max(1);
        let dense = weight.to_f32();
        Self { weight, bias, dense, inputs, outputs }
    }

    /// Length of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The weight as stored.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }
}

/// What is applied to each value of a linear layer's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU by the error function.
    Gelu,
    /// GELU by the tanh approximation.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`, CLIP's.
    QuickGelu,
    /// `x * sigmoid(x)`.
    Silu,
}

/// One row of values for each latent frame, or a single row for all: `values` is `[frames, dim]`.
/// Token `i` uses row `i / tokens_per_frame`, or row 0 when `frames` is 1.
#[derive(Debug, Clone, Copy)]
pub struct PerFrame<'a> {
    /// `[frames, dim]`.
    pub values: &'a Tensor,
    /// Tokens that share a row.
    pub tokens_per_frame: usize,
}

impl PerFrame<'_> {
    fn row(&self, token: usize) -> &[f32] {
        let dim = self.values.dim(1);
        let frame = if self.values.dim(0) == 1 { 0 } else { token / self.tokens_per_frame };
        &self.values.data()[frame * dim..(frame + 1) * dim]
    }
}

/// Shift and scale after a norm: `norm(x) * (1 + scale) + shift`, by latent frame.
#[derive(Debug, Clone, Copy)]
pub struct Modulation<'a> {
    /// Added.
    pub shift: PerFrame<'a>,
    /// Multiplied, as `1 + scale`.
    pub scale: PerFrame<'a>,
}

/// Rotary angles: for each token `head_dim / 2` pairs `(cos, sin)`.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[tokens, head_dim / 2]`.
    pub cos: Tensor,
    /// `[tokens, head_dim / 2]`.
    pub sin: Tensor,
}

/// Which keys a query may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// Keys of its own and earlier blocks of `tokens_per_block` tokens.
    BlockCausal {
        /// Tokens in one causal block.
        tokens_per_block: usize,
    },
}

/// How attention is computed.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Number of heads; the dim of q, k and v is `heads * head_dim`.
    pub heads: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Which keys a query may see.
    pub mask: Mask,
    /// Added to the scaled scores: `[heads, queries, keys]` (UMT5's relative positions).
    pub bias: Option<&'a Tensor>,
}

fn activate(value: f32, activation: Activation) -> f32 {
    match activation {
        Activation::None => value,
        Activation::Gelu => 0.5 * value * (1.0 + libm::erff(value / std::f32::consts::SQRT_2)),
        Activation::GeluTanh => {
            let inner = 0.797_884_56 * (value + 0.044_715 * value * value * value);
            0.5 * value * (1.0 + inner.tanh())
        }
        Activation::QuickGelu => value / (1.0 + (-1.702 * value).exp()),
        Activation::Silu => value / (1.0 + (-value).exp()),
    }
}

/// Applies an activation to every value.
pub fn activate_inplace(x: &mut Tensor, activation: Activation) {
    x.data_mut().par_iter_mut().for_each(|v| *v = activate(*v, activation));
}

/// `act(x W^T + b)`: `[rows, inputs]` to `[rows, outputs]`.
pub fn linear(x: &Tensor, layer: &Linear, activation: Activation) -> Tensor {
    assert_eq!(x.dim(1), layer.inputs, "linear: {:?} with {} inputs", x.shape(), layer.inputs);
    let (rows, n, k) = (x.dim(0), layer.outputs, layer.inputs);
    let mut out = Tensor::zeros(&[rows, n]);
    let source = x.data();
    out.data_mut().par_chunks_mut(n).enumerate().for_each(|(r, out)| {
        let x = &source[r * k..(r + 1) * k];
        for (o, w) in out.iter_mut().zip(layer.dense.chunks_exact(k)) {
            *o = x.iter().zip(w).map(|(a, b)| a * b).sum();
        }
        if let Some(bias) = &layer.bias {
            out.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
        }
        out.iter_mut().for_each(|o| *o = activate(*o, activation));
    });
    out
}

/// `x += gate * (y W^T + b)`, the gate by latent frame (1 without one). `x` is `[rows, outputs]`.
pub fn linear_residual(x: &mut Tensor, y: &Tensor, layer: &Linear, gate: Option<PerFrame<'_>>) {
    let update = linear(y, layer, Activation::None);
    gate_residual(x, &update, gate);
}

/// `x += gate * down(act(up(y)))`, computed in slices of rows so that the wide hidden layer never
/// stands in memory as a whole. `x` and `y` are `[rows, dim]`.
pub fn feed_forward_residual(
    x: &mut Tensor,
    y: &Tensor,
    up: &Linear,
    down: &Linear,
    activation: Activation,
    gate: Option<PerFrame<'_>>,
) {
    let hidden = linear(y, up, activation);
    linear_residual(x, &hidden, down, gate);
}

/// `x += gate * y`, the gate by latent frame (1 without one). Both `[rows, dim]`.
pub fn gate_residual(x: &mut Tensor, y: &Tensor, gate: Option<PerFrame<'_>>) {
    assert_eq!(x.shape(), y.shape(), "gate_residual: shapes");
    let dim = *x.shape().last().expect("rank");
    x.data_mut().par_chunks_mut(dim).zip(y.data().par_chunks(dim)).enumerate().for_each(
        |(token, (x, y))| match gate {
            Some(gate) => {
                for ((x, y), g) in x.iter_mut().zip(y).zip(gate.row(token)) {
                    *x += y * g;
                }
            }
            None => x.iter_mut().zip(y).for_each(|(x, y)| *x += y),
        },
    );
}

/// `x *= y`, value by value.
pub fn mul_inplace(x: &mut Tensor, y: &Tensor) {
    assert_eq!(x.shape(), y.shape(), "mul_inplace: shapes");
    x.data_mut().par_iter_mut().zip(y.data()).for_each(|(x, y)| *x *= y);
}

/// Layer norm over the last axis, with an optional affine part (`weight`, `bias`: `[dim]`) and an
/// optional modulation by latent frame. `[rows, dim]` to `[rows, dim]`.
pub fn layer_norm(
    x: &Tensor,
    affine: Option<(&[f32], &[f32])>,
    eps: f32,
    modulation: Option<Modulation<'_>>,
) -> Tensor {
    let dim = x.dim(1);
    let mut out = x.clone();
    out.data_mut().par_chunks_mut(dim).enumerate().for_each(|(token, row)| {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / dim as f64;
        let var = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / dim as f64;
        let inv = 1.0 / (var + f64::from(eps)).sqrt();
        row.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * inv) as f32);
        if let Some((weight, bias)) = affine {
            row.iter_mut().zip(weight).zip(bias).for_each(|((v, w), b)| *v = *v * w + b);
        }
        if let Some(m) = modulation {
            let (shift, scale) = (m.shift.row(token), m.scale.row(token));
            row.iter_mut().zip(scale).zip(shift).for_each(|((v, s), t)| *v = *v * (1.0 + s) + t);
        }
    });
    out
}

/// RMS norm over the last axis, `x / sqrt(mean(x^2) + eps) * weight`, then, when given, rotary
/// positions on each head. `x` is `[tokens, heads * head_dim]`; the pairs `(x0, x1)` are neighbours.
pub fn rms_norm_rope(
    x: &mut Tensor,
    weight: Option<&[f32]>,
    eps: f32,
    rope: Option<(&RopeTable, usize)>,
) {
    let dim = x.dim(1);
    x.data_mut().par_chunks_mut(dim).enumerate().for_each(|(token, row)| {
        if let Some(weight) = weight {
            let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / dim as f64;
            let inv = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
            row.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * inv * w);
        }
        if let Some((table, heads)) = rope {
            let half = table.cos.dim(1);
            assert_eq!(half * 2 * heads, dim, "rms_norm_rope: table against {heads} heads");
            let cos = &table.cos.data()[token * half..(token + 1) * half];
            let sin = &table.sin.data()[token * half..(token + 1) * half];
            for head in row.chunks_exact_mut(2 * half) {
                for (pair, (c, s)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * c - b * s;
                    pair[1] = a * s + b * c;
                }
            }
        }
    });
}

/// The VAE's norm over channels, `x / max(|x|, 1e-12) * sqrt(C) * gamma`, then, when `silu`, SiLU.
/// `x` is `[..., C]`, `gamma` `[C]`, `bias` `[C]` or none.
pub fn channel_norm(x: &mut Tensor, gamma: &[f32], bias: Option<&[f32]>, silu: bool) {
    let dim = gamma.len();
    assert_eq!(x.shape().last(), Some(&dim), "channel_norm: {:?} with {dim}", x.shape());
    let root = (dim as f32).sqrt();
    x.data_mut().par_chunks_mut(dim).for_each(|row| {
        let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() as f32;
        let inv = root / norm.max(1e-12);
        for (i, v) in row.iter_mut().enumerate() {
            *v = *v * inv * gamma[i] + bias.map_or(0.0, |b| b[i]);
            if silu {
                *v = activate(*v, Activation::Silu);
            }
        }
    });
}

/// Softmax attention. `q` `[queries, heads * head_dim]`, `k` and `v` `[keys, heads * head_dim]`,
/// result `[queries, heads * head_dim]`. The value's head size may differ from the key's.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention<'_>) -> Tensor {
    let (queries, keys, heads) = (q.dim(0), k.dim(0), how.heads);
    let (dim, vdim) = (q.dim(1), v.dim(1));
    let (hd, vhd) = (dim / heads, vdim / heads);
    let mut out = Tensor::zeros(&[queries, vdim]);
    out.data_mut().par_chunks_mut(vdim).enumerate().for_each(|(i, out)| {
        let visible = match how.mask {
            Mask::None => keys,
            Mask::BlockCausal { tokens_per_block } => {
                ((i / tokens_per_block + 1) * tokens_per_block).min(keys)
            }
        };
        for h in 0..heads {
            let q = &q.data()[i * dim + h * hd..][..hd];
            let mut scores: Vec<f32> = (0..visible)
                .map(|j| {
                    let k = &k.data()[j * dim + h * hd..][..hd];
                    let dot: f32 = q.iter().zip(k).map(|(a, b)| a * b).sum();
                    let bias = how.bias.map_or(0.0, |b| b.data()[(h * queries + i) * keys + j]);
                    dot * how.scale + bias
                })
                .collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for s in &mut scores {
                *s = (*s - max).exp();
                sum += *s;
            }
            let out = &mut out[h * vhd..(h + 1) * vhd];
            for (j, s) in scores.iter().enumerate() {
                let v = &v.data()[j * vdim + h * vhd..][..vhd];
                out.iter_mut().zip(v).for_each(|(o, v)| *o += s / sum * v);
            }
        }
    });
    out
}

/// Rows of an embedding table: `ids` to `[ids, dim]`. Every id must be below the table's rows.
pub fn embedding(table: &Weight, ids: &[u32]) -> Tensor {
    let dim = table.shape()[1];
    let mut out = Tensor::zeros(&[ids.len(), dim]);
    for (row, &id) in out.data_mut().chunks_exact_mut(dim).zip(ids) {
        table.rows_to_f32(id as usize..id as usize + 1, row);
    }
    out
}

/// A 3-D convolution (1- and 2-D cases included), causal in time.
#[derive(Debug, Clone)]
pub struct Conv3d {
    taps: Vec<f32>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    /// Zeros before and after: `[top, bottom, left, right]`.
    padding: [usize; 4],
}

impl Conv3d {
    /// `weight` is `[O, I, kt, kh, kw]` or `[O, I, kh, kw]`, `bias` `[O]`, `stride` `[t, h, w]`,
    /// `padding` `[top, bottom, left, right]`. In time nothing follows the input, and before it stand
    /// the frames of the history that [`conv3d`] is given, or zeros.
    pub fn new(
        weight: &Weight,
        bias: Option<Vec<f32>>,
        stride: [usize; 3],
        padding: [usize; 4],
    ) -> Self {
        let shape = weight.shape();
        let (outputs, inputs) = (shape[0], shape[1]);
        let kernel = match shape[2..] {
            [t, h, w] => [t, h, w],
            [h, w] => [1, h, w],
            _ => panic!("Conv3d::new: weight of shape {shape:?}"),
        };
        let taps_len: usize = kernel.iter().product();
        let dense = weight.to_f32();
        let mut taps = vec![0.0; dense.len()];
        for o in 0..outputs {
            for i in 0..inputs {
                for t in 0..taps_len {
                    taps[(t * inputs + i) * outputs + o] = dense[(o * inputs + i) * taps_len + t];
                }
            }
        }
        Self { taps, bias, inputs, outputs, kernel, stride, padding }
    }

    /// How many frames before the input an output may look at: `kt - 1`.
    pub fn history_len(&self) -> usize {
        self.kernel[0] - 1
    }

    /// Channels in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// Causal convolution. `x` is `[T, H, W, I]`; `history` holds the frames just before `x`, at most
/// `kt - 1` of them (`[<= kt - 1, H, W, I]`), and what is missing counts as zeros. The result is
/// `[(T + kt - 1 - kt) / st + 1, (H + top + bottom - kh) / sh + 1, (W + left + right - kw) / sw + 1, O]`.
pub fn conv3d(x: &Tensor, history: Option<&Tensor>, conv: &Conv3d) -> Tensor {
    let (frames, height, width) = (x.dim(0), x.dim(1), x.dim(2));
    assert_eq!(x.dim(3), conv.inputs, "conv3d: {:?} with {} inputs", x.shape(), conv.inputs);
    let past = history.map_or(0, |h| h.dim(0));
    let lead = conv.kernel[0] - 1;
    assert!(past <= lead, "conv3d: {past} frames of history, {lead} at most");
    let [kt, kh, kw] = conv.kernel;
    let [st, sh, sw] = conv.stride;
    let [top, bottom, left, right] = conv.padding;
    let (ot, oh, ow) = (
        (frames + lead - kt) / st + 1,
        (height + top + bottom - kh) / sh + 1,
        (width + left + right - kw) / sw + 1,
    );
    let (ci, co) = (conv.inputs, conv.outputs);
    let mut out = Tensor::zeros(&[ot, oh, ow, co]);
    out.data_mut().par_chunks_mut(ow * co).enumerate().for_each(|(line, out)| {
        let (t, y) = (line / oh, line % oh);
        for x_out in 0..ow {
            let out = &mut out[x_out * co..(x_out + 1) * co];
            if let Some(bias) = &conv.bias {
                out.copy_from_slice(bias);
            }
            for dt in 0..kt {
                let frame = (t * st + dt) as isize - lead as isize;
                let (data, frame) = if frame >= 0 {
                    (x.data(), frame as usize)
                } else if frame + past as isize >= 0 {
                    (history.expect("past > 0").data(), (frame + past as isize) as usize)
                } else {
                    continue;
                };
                for dy in 0..kh {
                    let Some(iy) = (y * sh + dy).checked_sub(top).filter(|&v| v < height) else {
                        continue;
                    };
                    for dx in 0..kw {
                        let Some(ix) = (x_out * sw + dx).checked_sub(left).filter(|&v| v < width)
                        else {
                            continue;
                        };
                        let input = &data[((frame * height + iy) * width + ix) * ci..][..ci];
                        let tap = (dt * kh + dy) * kw + dx;
                        let taps = &conv.taps[tap * ci * co..(tap + 1) * ci * co];
                        for (v, taps) in input.iter().zip(taps.chunks_exact(co)) {
                            out.iter_mut().zip(taps).for_each(|(o, w)| *o += v * w);
                        }
                    }
                }
            }
        }
    });
    out
}

/// Nearest-neighbour doubling of height and width: `[T, H, W, C]` to `[T, 2H, 2W, C]`.
pub fn upsample_nearest_2x(x: &Tensor) -> Tensor {
    let (t, h, w, c) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let mut out = Tensor::zeros(&[t, 2 * h, 2 * w, c]);
    out.data_mut().par_chunks_mut(2 * w * c).enumerate().for_each(|(line, out)| {
        let source = &x.data()[(line / 2) * w * c..(line / 2 + 1) * w * c];
        for (pair, v) in out.chunks_exact_mut(2 * c).zip(source.chunks_exact(c)) {
            pair[..c].copy_from_slice(v);
            pair[c..].copy_from_slice(v);
        }
    });
    out
}

/// Cuts latents `[T, C, H, W]` into patches of `[1, ph, pw]`: `[T * H/ph * W/pw, C * ph * pw]`.
pub fn patchify(x: &Tensor, patch: [usize; 2]) -> Tensor {
    let (t, c, h, w) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let [ph, pw] = patch;
    assert!(h % ph == 0 && w % pw == 0, "patchify: {:?} by {patch:?}", x.shape());
    let (gh, gw) = (h / ph, w / pw);
    let mut out = Tensor::zeros(&[t * gh * gw, c * ph * pw]);
    let dim = c * ph * pw;
    for (token, row) in out.data_mut().chunks_exact_mut(dim).enumerate() {
        let (f, y, x0) = (token / (gh * gw), token / gw % gh, token % gw);
        for (i, v) in row.iter_mut().enumerate() {
            let (channel, dy, dx) = (i / (ph * pw), i / pw % ph, i % pw);
            *v = x.data()[((f * c + channel) * h + y * ph + dy) * w + x0 * pw + dx];
        }
    }
    out
}

/// The way back from the output head's rows `[T * gh * gw, ph * pw * C]` (channels innermost, as the
/// reference's head orders them) to latents `[T, C, gh * ph, gw * pw]`.
pub fn unpatchify(x: &Tensor, grid: [usize; 3], patch: [usize; 2], channels: usize) -> Tensor {
    let [t, gh, gw] = grid;
    let [ph, pw] = patch;
    assert_eq!(x.shape(), [t * gh * gw, ph * pw * channels], "unpatchify: shape");
    let (h, w) = (gh * ph, gw * pw);
    let mut out = Tensor::zeros(&[t, channels, h, w]);
    let dim = ph * pw * channels;
    for (token, row) in x.data().chunks_exact(dim).enumerate() {
        let (f, y, x0) = (token / (gh * gw), token / gw % gh, token % gw);
        for (i, v) in row.iter().enumerate() {
            let (dy, dx, channel) = (i / (pw * channels), i / channels % pw, i % channels);
            out.data_mut()[((f * channels + channel) * h + y * ph + dy) * w + x0 * pw + dx] = *v;
        }
    }
    out
}
