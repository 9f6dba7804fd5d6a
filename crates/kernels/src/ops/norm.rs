//! Norms, with what usually follows them.

use std::sync::Arc;

use super::per_frame::OnGpu;
use super::pointwise::{for_each_rows, for_row_groups};
use super::{LinearInput, Modulation};
use crate::gpu::{Array, Element, Gpu, ops as body};
use crate::simd::{Isa, Kernel, Simd, activate, dispatch};
use crate::spans::{self, narrow_bytes};
use crate::{Activation, Products, Tensor, Vector};

/// Rotary angles: for each token `head_dim / 2` pairs `(cos, sin)`. Behind the last row the first one
/// follows again: samples one behind the other share a table.
#[derive(Debug, Clone, Copy)]
pub struct RopeTable<'a> {
    /// `[tokens, head_dim / 2]`.
    pub cos: &'a Tensor,
    /// `[tokens, head_dim / 2]`.
    pub sin: &'a Tensor,
}

/// Layer norm over the last axis, with an optional affine part (`weight`, `bias`: `[dim]`) and an
/// optional modulation by latent frame. `[rows, dim]` to `[rows, dim]`.
pub fn layer_norm(
    x: &Tensor,
    affine: Option<(&Vector, &Vector)>,
    eps: f32,
    modulation: Option<Modulation<'_>>,
) -> Tensor {
    let _span = spans::begin("norm", || (0.0, x.bytes() + narrow_bytes(x)));
    check_layer_norm(x, affine, modulation.as_ref());
    if let Some(array) = x.array() {
        return norm_on_gpu(x, affine, eps, modulation, array.gpu().compute());
    }
    let dim = x.dim(1);
    let affine = affine.map(|(weight, bias)| (&weight[..], &bias[..]));
    let isa = Isa::current();
    // SAFETY: the groups of rows cover the result, and each is written whole.
    unsafe {
        Tensor::fill(x.shape(), |out| {
            for_row_groups(x.dim(0), dim, |rows| {
                for token in rows {
                    let modulation =
                        modulation.as_ref().map(|m| (m.shift.row(token), m.scale.row(token)));
                    let x = &x.data()[token * dim..][..dim];
                    let out = out.at(token * dim);
                    dispatch(isa, LayerNorm { x, out, affine, eps, modulation });
                }
            });
        })
    }
}

/// [`layer_norm`] for layers with such products: what they are given is made with it, and nothing else kept.
pub fn layer_norm_input(
    x: &Tensor,
    affine: Option<(&Vector, &Vector)>,
    eps: f32,
    modulation: Option<Modulation<'_>>,
    products: Products,
) -> LinearInput {
    let array = x.array().filter(|_| products == Products::Fp8);
    let Some(array) = array else {
        return LinearInput::new(layer_norm(x, affine, eps, modulation), products);
    };
    // A byte a value, and the factors of the rows.
    let _span = spans::begin("norm", || (0.0, x.bytes() + x.len() + size_of::<f32>() * x.dim(0)));
    check_layer_norm(x, affine, modulation.as_ref());
    let gpu = array.gpu();
    let there = NormOnGpu::of(affine, modulation.as_ref(), gpu);
    let (affine, modulation) = (there.affine(), there.modulation());
    let codes = body::layer_norm_codes(array, x.dim(1), affine, eps, modulation, gpu.compute());
    spans::settle(gpu);
    LinearInput::of_codes(codes)
}

/// Panics unless parameters and modulation fit the rows.
fn check_layer_norm(
    x: &Tensor,
    affine: Option<(&Vector, &Vector)>,
    modulation: Option<&Modulation<'_>>,
) {
    let dim = x.dim(1);
    if let Some((weight, bias)) = affine {
        assert!(weight.len() == dim && bias.len() == dim, "layer_norm: affine part against {dim}");
    }
    if let Some(m) = modulation {
        m.shift.check("layer_norm", x.dim(0), dim);
        m.scale.check("layer_norm", x.dim(0), dim);
    }
}

/// As [`layer_norm`] without a modulation, into values that are kept in full: a sum along the layers
/// begins with it.
pub fn layer_norm_full(x: &Tensor, affine: Option<(&Vector, &Vector)>, eps: f32) -> Tensor {
    if x.array().is_some() {
        let _span = spans::begin("norm", || (0.0, x.bytes() + size_of::<f32>() * x.len()));
        return norm_on_gpu(x, affine, eps, None, Element::F32);
    }
    layer_norm(x, affine, eps, None)
}

/// [`layer_norm`] on a GPU, the result as `out`.
fn norm_on_gpu(
    x: &Tensor,
    affine: Option<(&Vector, &Vector)>,
    eps: f32,
    modulation: Option<Modulation<'_>>,
    out: Element,
) -> Tensor {
    let array = x.array().expect("asked before");
    let gpu = array.gpu();
    let there = NormOnGpu::of(affine, modulation.as_ref(), gpu);
    let (affine, modulation) = (there.affine(), there.modulation());
    let result = body::layer_norm(array, x.dim(1), affine, eps, modulation, out);
    spans::settle(gpu);
    Tensor::from_array(x.shape(), result)
}

/// A layer norm's parameters and modulation on a GPU.
struct NormOnGpu<'a> {
    affine: Option<(Arc<Array>, Arc<Array>)>,
    /// Shift and scale.
    modulation: Option<[OnGpu<'a>; 2]>,
}

impl<'a> NormOnGpu<'a> {
    fn of(
        affine: Option<(&Vector, &Vector)>,
        modulation: Option<&'a Modulation<'_>>,
        gpu: &Arc<Gpu>,
    ) -> Self {
        Self {
            affine: affine.map(|(weight, bias)| (weight.on(gpu), bias.on(gpu))),
            modulation: modulation.map(|m| [m.shift.on(gpu), m.scale.on(gpu)]),
        }
    }

    fn affine(&self) -> Option<(&Array, &Array)> {
        self.affine.as_ref().map(|(weight, bias)| (&**weight, &**bias))
    }

    fn modulation(&self) -> Option<[body::PerFrame<'_>; 2]> {
        self.modulation.as_ref().map(|both| both.each_ref().map(OnGpu::body))
    }
}

/// RMS norm over the last axis, `x / sqrt(mean(x^2) + eps) * weight`, then, when given, rotary
/// positions on each head. `x` is `[tokens, heads * head_dim]`; the pairs `(x0, x1)` are neighbours.
pub fn rms_norm_rope(
    x: &mut Tensor,
    weight: Option<&Vector>,
    eps: f32,
    rope: Option<(RopeTable<'_>, usize)>,
) {
    let _span = spans::begin("norm", || {
        let angles = rope.map_or(0, |(table, _)| table.cos.bytes() + table.sin.bytes());
        (0.0, 2 * x.bytes() + angles)
    });
    let dim = x.dim(1);
    if let Some(weight) = weight {
        assert_eq!(weight.len(), dim, "rms_norm_rope: weight against {dim}");
    }
    if let Some((table, heads)) = rope {
        let (cos, sin) = (table.cos.shape(), table.sin.shape());
        let whole = x.dim(0) <= cos[0] || (cos[0] > 0 && x.dim(0).is_multiple_of(cos[0]));
        assert!(
            cos == sin && cos[1] * 2 * heads == dim && whole,
            "rms_norm_rope: tables {cos:?}, {sin:?} against {:?} in {heads} heads",
            x.shape()
        );
    }
    if let Some(array) = x.array_mut() {
        let gpu = array.gpu().clone();
        let weight = weight.map(|weight| weight.on(&gpu));
        let rope = rope.map(|(table, heads)| {
            let [cos, sin] = [table.cos, table.sin].map(|t| t.array_as(&gpu, Element::F32));
            (cos, sin, heads)
        });
        let rope = rope.as_ref().map(|(cos, sin, heads)| (&**cos, &**sin, *heads));
        body::rms_norm_rope(array, dim, weight.as_deref(), eps, rope);
        spans::settle(&gpu);
        return;
    }
    let weight = weight.map(|weight| &weight[..]);
    let isa = Isa::current();
    for_each_rows(x.data_mut(), dim, |first, rows| {
        for (i, row) in rows.chunks_exact_mut(dim).enumerate() {
            let angles = rope.map(|(table, heads)| {
                let (rows, half) = (table.cos.dim(0), table.cos.dim(1));
                let at = (first + i) % rows * half;
                (&table.cos.data()[at..at + half], &table.sin.data()[at..at + half], heads)
            });
            dispatch(isa, RmsNormRope { row, weight, eps, angles });
        }
    });
}

/// The VAE's norm over channels, `x / max(|x|, 1e-12) * sqrt(C) * gamma`, then, when `silu`, SiLU.
/// `x` is `[..., C]`, `gamma` `[C]`, `bias` `[C]` or none.
pub fn channel_norm(x: &mut Tensor, gamma: &Vector, bias: Option<&Vector>, silu: bool) {
    let _span = spans::begin("norm", || (0.0, 2 * x.bytes()));
    let dim = channels("channel_norm", x, gamma, bias);
    if let Some(array) = x.array_mut() {
        let gpu = array.gpu().clone();
        let bias = bias.map(|bias| bias.on(&gpu));
        body::channel_norm(array, &gamma.on(&gpu), bias.as_deref(), silu);
        spans::settle(&gpu);
        return;
    }
    let bias = bias.map(|bias| &bias[..]);
    let isa = Isa::current();
    for_each_rows(x.data_mut(), dim, |_, rows| {
        let (x, len) = (rows.as_mut_ptr(), rows.len());
        dispatch(isa, ChannelNorm { x, out: x, len, gamma, bias, silu });
    });
}

/// As [`channel_norm`], into a new tensor of the shape of `x`.
pub fn channel_normed(x: &Tensor, gamma: &Vector, bias: Option<&Vector>, silu: bool) -> Tensor {
    let _span = spans::begin("norm", || (0.0, 2 * x.bytes()));
    let dim = channels("channel_normed", x, gamma, bias);
    if let Some(array) = x.array() {
        let gpu = array.gpu();
        let bias = bias.map(|bias| bias.on(gpu));
        let out = array.element();
        let out = body::channel_normed(array, &gamma.on(gpu), bias.as_deref(), silu, out);
        spans::settle(gpu);
        return Tensor::from_array(x.shape(), out);
    }
    let bias = bias.map(|bias| &bias[..]);
    let isa = Isa::current();
    // SAFETY: the groups of rows cover the result, and each is written whole.
    unsafe {
        Tensor::fill(x.shape(), |out| {
            for_row_groups(x.len() / dim.max(1), dim, |rows| {
                let x = &x.data()[rows.start * dim..rows.end * dim];
                let (len, out) = (x.len(), out.at(rows.start * dim));
                dispatch(isa, ChannelNorm { x: x.as_ptr(), out, len, gamma, bias, silu });
            });
        })
    }
}

/// The channels of `x`; panics when `gamma` or `bias` have others.
fn channels(op: &str, x: &Tensor, gamma: &Vector, bias: Option<&Vector>) -> usize {
    let dim = gamma.len();
    assert_eq!(x.shape().last(), Some(&dim), "{op}: {:?} with {dim}", x.shape());
    if let Some(bias) = bias {
        assert_eq!(bias.len(), dim, "{op}: bias against {dim}");
    }
    dim
}

/// The sum of `f(x)` over a row, in four vectors of partial sums.
#[inline(always)]
unsafe fn row_sum<S: Simd>(x: *const f32, len: usize, minus: S::V, square: bool) -> f32 {
    // SAFETY: the caller vouches for `len` values.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        let mut at = 0;
        while at + 4 * S::LANES <= len {
            for (i, sum) in sums.iter_mut().enumerate() {
                let v = S::sub(S::load(x.add(at + i * S::LANES)), minus);
                *sum = if square { S::fma(v, v, *sum) } else { S::add(*sum, v) };
            }
            at += 4 * S::LANES;
        }
        // At most three vectors are left; a loop of that many, so that the sums stay in registers.
        for sum in &mut sums[..3] {
            if at + S::LANES <= len {
                let v = S::sub(S::load(x.add(at)), minus);
                *sum = if square { S::fma(v, v, *sum) } else { S::add(*sum, v) };
                at += S::LANES;
            }
        }
        let mut sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
        if at < len {
            let mut minus_values = [0.0; 16];
            S::store(minus_values.as_mut_ptr(), minus);
            while at < len {
                let v = *x.add(at) - minus_values[0];
                sum += if square { v * v } else { v };
                at += 1;
            }
        }
        sum
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    out: *mut f32,
    affine: Option<(&'a [f32], &'a [f32])>,
    eps: f32,
    modulation: Option<(&'a [f32], &'a [f32])>,
}

impl Kernel for LayerNorm<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (x, len) = (self.x.as_ptr(), self.x.len());
        // SAFETY: all rows have `len` values.
        unsafe {
            let mean = row_sum::<S>(x, len, S::splat(0.0), false) / len as f32;
            let variance = row_sum::<S>(x, len, S::splat(mean), true) / len as f32;
            let inverse = S::splat(1.0 / (variance + self.eps).sqrt());
            let mean = S::splat(mean);
            let mut at = 0;
            while at < len {
                let n = (len - at).min(S::LANES);
                let mut v = S::mul(S::sub(S::load_n(x.add(at), n), mean), inverse);
                if let Some((weight, bias)) = self.affine {
                    let weight = S::load_n(weight.as_ptr().add(at), n);
                    v = S::fma(v, weight, S::load_n(bias.as_ptr().add(at), n));
                }
                if let Some((shift, scale)) = self.modulation {
                    let scale = S::add(S::load_n(scale.as_ptr().add(at), n), S::splat(1.0));
                    v = S::fma(v, scale, S::load_n(shift.as_ptr().add(at), n));
                }
                S::store_n(self.out.add(at), n, v);
                at += n;
            }
        }
    }
}

struct RmsNormRope<'a> {
    row: &'a mut [f32],
    weight: Option<&'a [f32]>,
    eps: f32,
    /// Cosines and sines of this token, and the number of heads.
    angles: Option<(&'a [f32], &'a [f32], usize)>,
}

impl Kernel for RmsNormRope<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (x, len) = (self.row.as_mut_ptr(), self.row.len());
        // SAFETY: row and weight have `len` values, and `heads` heads fill the row.
        unsafe {
            if let Some(weight) = self.weight {
                let mean = row_sum::<S>(x, len, S::splat(0.0), true) / len as f32;
                let inverse = S::splat(1.0 / (mean + self.eps).sqrt());
                let mut at = 0;
                while at < len {
                    let n = (len - at).min(S::LANES);
                    let v = S::mul(S::load_n(x.add(at), n), inverse);
                    let v = S::mul(v, S::load_n(weight.as_ptr().add(at), n));
                    S::store_n(x.add(at), n, v);
                    at += n;
                }
            }
            if let Some((cos, sin, heads)) = self.angles {
                let size = 2 * cos.len();
                for head in 0..heads {
                    rotate::<S>(x.add(head * size), cos, sin);
                }
            }
        }
    }
}

/// Turns the pairs of one head: `(a, b)` to `(a cos - b sin, a sin + b cos)`.
#[inline(always)]
unsafe fn rotate<S: Simd>(x: *mut f32, cos: &[f32], sin: &[f32]) {
    let (len, mut at) = (2 * cos.len(), 0);
    // SAFETY: the head has a pair for each angle.
    unsafe {
        while at + S::LANES <= len {
            let v = S::load(x.add(at));
            let cos = S::load_twice(cos.as_ptr().add(at / 2));
            let sin = S::load_twice(sin.as_ptr().add(at / 2));
            S::store(x.add(at), S::fma_sub_add(v, cos, S::mul(S::swap_pairs(v), sin)));
            at += S::LANES;
        }
        while at < len {
            let (a, b) = (*x.add(at), *x.add(at + 1));
            let (cos, sin) = (cos[at / 2], sin[at / 2]);
            *x.add(at) = a * cos - b * sin;
            *x.add(at + 1) = a * sin + b * cos;
            at += 2;
        }
    }
}

/// SiLU of `len` values, two vectors at a time: so the function's constants are fetched half as often.
#[inline(always)]
unsafe fn silu<S: Simd>(x: *mut f32, len: usize) {
    let mut at = 0;
    // SAFETY: the caller vouches for the values.
    unsafe {
        while at + 2 * S::LANES <= len {
            let (first, second) = (x.add(at), x.add(at + S::LANES));
            let values = [S::load(first), S::load(second)];
            S::store(first, activate::<S>(values[0], Activation::Silu));
            S::store(second, activate::<S>(values[1], Activation::Silu));
            at += 2 * S::LANES;
        }
        while at < len {
            let n = (len - at).min(S::LANES);
            let value = activate::<S>(S::load_n(x.add(at), n), Activation::Silu);
            S::store_n(x.add(at), n, value);
            at += n;
        }
    }
}

/// Pixels whose norms are taken together: whole vectors of any instruction set, since a root and a quotient
/// take as long for one value as for a vector.
const NORMS: usize = 16;

/// Pixels of `gamma.len()` values, `len` values in all, from `x` to `out`, which may be the same.
struct ChannelNorm<'a> {
    x: *const f32,
    out: *mut f32,
    len: usize,
    gamma: &'a [f32],
    bias: Option<&'a [f32]>,
    silu: bool,
}

impl Kernel for ChannelNorm<'_> {
    type Out = ();

    // Plain indices: closures would be compiled without the wide registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let dim = self.gamma.len();
        let pixels = self.len / dim.max(1);
        // SAFETY: input and output have `len` values, whole rows of `dim`, and gamma and bias have `dim`.
        unsafe {
            let root = S::splat((dim as f32).sqrt());
            let least = S::splat(1e-12);
            for first in (0..pixels).step_by(NORMS) {
                let (x, out) = (self.x.add(first * dim), self.out.add(first * dim));
                let some = NORMS.min(pixels - first);
                let mut factors = [0.0; NORMS];
                for pixel in 0..some {
                    factors[pixel] = row_sum::<S>(x.add(pixel * dim), dim, S::splat(0.0), true);
                }
                for at in (0..NORMS).step_by(S::LANES) {
                    let factors = factors.as_mut_ptr().add(at);
                    // In this order a NaN is kept.
                    let norm = S::max(least, S::sqrt(S::load(factors)));
                    S::store(factors, S::div(root, norm));
                }
                for pixel in 0..some {
                    let factor = S::splat(factors[pixel]);
                    let mut at = 0;
                    while at < dim {
                        let n = (dim - at).min(S::LANES);
                        let gamma = S::load_n(self.gamma.as_ptr().add(at), n);
                        let x = S::load_n(x.add(pixel * dim + at), n);
                        let mut v = S::mul(S::mul(x, factor), gamma);
                        if let Some(bias) = self.bias {
                            v = S::add(v, S::load_n(bias.as_ptr().add(at), n));
                        }
                        S::store_n(out.add(pixel * dim + at), n, v);
                        at += n;
                    }
                }
                if self.silu {
                    silu::<S>(out, some * dim);
                }
            }
        }
    }
}
