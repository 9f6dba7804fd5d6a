//! Norms.

use super::fp8::Codes;
use super::{PerFrame, blocks, int, kernel, long, pointer, pointer_or_none, row_threads};
use crate::gpu::{Arg, Array, Element};

/// Panics unless a parameter has `dim` values of `f32`.
fn check(operation: &str, parameter: &Array, dim: usize) {
    let (len, element) = (parameter.len(), parameter.element());
    assert!(
        len == dim && element == Element::F32,
        "{operation}: a parameter of {len} {element:?} values against {dim}"
    );
}

/// What a layer norm does, as its kernels take it.
struct LayerNorm {
    rows: usize,
    args: [Arg; 8],
}

impl LayerNorm {
    fn of(
        x: &Array,
        dim: usize,
        affine: Option<(&Array, &Array)>,
        eps: f32,
        modulation: Option<[PerFrame<'_>; 2]>,
    ) -> Self {
        let rows = x.len() / dim.max(1);
        assert_eq!(rows * dim, x.len(), "layer_norm: rows of {dim}");
        let (weight, bias) = affine.unzip();
        weight.iter().chain(&bias).for_each(|parameter| check("layer_norm", parameter, dim));
        modulation.iter().flatten().for_each(|part| part.check("layer_norm", rows, dim));
        let per_frame = |i: usize| {
            let part = modulation.map(|both| both[i]);
            [
                pointer_or_none(part.map(|part| part.values)),
                part.map_or(Arg::Int(0), |part| part.tokens(dim)),
            ]
        };
        let [shift, shift_tokens] = per_frame(0);
        let [scale, scale_tokens] = per_frame(1);
        let (weight, bias) = (pointer_or_none(weight), pointer_or_none(bias));
        let args =
            [weight, bias, shift, shift_tokens, scale, scale_tokens, int(dim), Arg::Float(eps)];
        Self { rows, args }
    }
}

/// [`crate::ops::layer_norm`]: `x` `[rows, dim]`, `affine` weight and bias `[dim]`, `modulation` shift
/// and scale; the result is of element `out`.
pub fn layer_norm(
    x: &Array,
    dim: usize,
    affine: Option<(&Array, &Array)>,
    eps: f32,
    modulation: Option<[PerFrame<'_>; 2]>,
    out: Element,
) -> Array {
    let LayerNorm { rows, args } = LayerNorm::of(x, dim, affine, eps, modulation);
    let result = Array::unset(x.gpu(), out, x.len());
    let kernel = kernel!("layer_norm", x.element(), out);
    let args: Vec<_> = [pointer(&result), pointer(x)].into_iter().chain(args).collect();
    x.gpu().launch(blocks("norm", kernel, rows, row_threads(dim)), &args);
    result
}

/// As [`layer_norm`], and what an array of `through` would hold of it becomes [`Codes`] at once: those of
/// [`Codes::of`], to the bit.
pub fn layer_norm_codes(
    x: &Array,
    dim: usize,
    affine: Option<(&Array, &Array)>,
    eps: f32,
    modulation: Option<[PerFrame<'_>; 2]>,
    through: Element,
) -> Codes {
    let LayerNorm { rows, args } = LayerNorm::of(x, dim, affine, eps, modulation);
    let result = Codes::room(x.gpu(), rows, dim);
    let kernel = kernel!("layer_norm_codes", x.element(), through);
    let args: Vec<_> = result.args().into_iter().chain([pointer(x)]).chain(args).collect();
    // As many threads as the norm alone has, which sum in the same order.
    x.gpu().launch(blocks("norm", kernel, rows, row_threads(dim)), &args);
    result
}

/// [`crate::ops::rms_norm_rope`]: `x` `[tokens, dim]`, `weight` `[dim]`, `rope` cosines and sines
/// `[tokens or more, head_dim / 2]`, or for each of several equal runs of tokens, and the number of heads.
pub fn rms_norm_rope(
    x: &mut Array,
    dim: usize,
    weight: Option<&Array>,
    eps: f32,
    rope: Option<(&Array, &Array, usize)>,
) {
    let tokens = x.len() / dim.max(1);
    assert_eq!(tokens * dim, x.len(), "rms_norm_rope: rows of {dim}");
    if let Some(weight) = weight {
        check("rms_norm_rope", weight, dim);
    }
    let heads = rope.map_or(1, |(_, _, heads)| heads);
    let half = dim / (2 * heads);
    let rows = rope.map_or(0, |(cos, ..)| cos.len() / half.max(1));
    if let Some((cos, sin, _)) = rope {
        let whole = tokens <= rows || (rows > 0 && tokens.is_multiple_of(rows));
        assert!(
            dim.is_multiple_of(2 * heads)
                && [cos, sin].iter().all(|t| t.element() == Element::F32 && t.len() == rows * half)
                && whole,
            "rms_norm_rope: tables of {} and {} values against {tokens} tokens of {half}",
            cos.len(),
            sin.len()
        );
    }
    if weight.is_none() && rope.is_none() {
        return;
    }
    let args = [
        pointer(x),
        pointer_or_none(weight),
        pointer_or_none(rope.map(|(cos, ..)| cos)),
        pointer_or_none(rope.map(|(_, sin, _)| sin)),
        int(rows),
        int(dim),
        int(dim / heads),
        Arg::Float(eps),
    ];
    let kernel = kernel!("rms_norm_rope", x.element());
    x.gpu().launch(blocks("norm", kernel, tokens, row_threads(dim)), &args);
}

/// [`crate::ops::channel_norm`]: `x` `[.., C]`, `gamma` and `bias` `[C]`.
pub fn channel_norm(x: &mut Array, gamma: &Array, bias: Option<&Array>, silu: bool) {
    start_channel_norm(x, x, gamma, bias, silu);
}

/// [`crate::ops::channel_normed`]: as [`channel_norm`], into a new array of element `out`.
pub fn channel_normed(
    x: &Array,
    gamma: &Array,
    bias: Option<&Array>,
    silu: bool,
    out: Element,
) -> Array {
    let result = Array::unset(x.gpu(), out, x.len());
    start_channel_norm(&result, x, gamma, bias, silu);
    result
}

fn start_channel_norm(out: &Array, x: &Array, gamma: &Array, bias: Option<&Array>, silu: bool) {
    const THREADS: usize = 256;
    let dim = gamma.len();
    let rows = x.len() / dim.max(1);
    assert_eq!(rows * dim, x.len(), "channel_norm: rows of {dim}");
    check("channel_norm", gamma, dim);
    if let Some(bias) = bias {
        check("channel_norm", bias, dim);
    }
    let packs = if dim.is_multiple_of(8) { dim / 8 } else { dim };
    let lanes = packs.next_power_of_two().min(32);
    let args = [
        pointer(out),
        pointer(x),
        pointer(gamma),
        pointer_or_none(bias),
        long(rows),
        int(dim),
        int(lanes),
        Arg::Int(i32::from(silu)),
    ];
    let kernel = kernel!("channel_norm", x.element(), out.element());
    let wanted = rows.div_ceil(THREADS / lanes);
    x.gpu().launch(blocks("norm", kernel, wanted, THREADS as u32), &args);
}
