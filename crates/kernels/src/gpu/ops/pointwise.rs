//! Value by value.

use super::{PerFrame, blocks, each, int, kernel, long, pointer, pointer_or_none, row_threads};
use crate::Activation;
use crate::gpu::{Arg, Array, Element, GpuError};

/// [`crate::ops::gate_residual`]: `x += gate * y`, both `[rows, dim]`.
pub fn gate_residual(x: &mut Array, y: &Array, dim: usize, gate: Option<PerFrame<'_>>) {
    let rows = x.len() / dim.max(1);
    assert!(
        rows * dim == x.len() && x.len() == y.len(),
        "gate_residual: {} and {} values in rows of {dim}",
        x.len(),
        y.len()
    );
    if let Some(gate) = gate {
        gate.check("gate_residual", rows, dim);
    }
    let tokens = gate.map_or(Arg::Int(0), |gate| gate.tokens(dim));
    let gate = pointer_or_none(gate.map(|gate| gate.values));
    let args = [pointer(x), pointer(y), gate, tokens, int(dim)];
    let kernel = kernel!("gate_residual", x.element(), y.element());
    x.gpu().launch(blocks("pointwise", kernel, rows, row_threads(dim)), &args);
}

/// [`crate::ops::mul_inplace`]: `x *= y`.
pub fn mul_inplace(x: &mut Array, y: &Array) {
    assert_eq!(x.len(), y.len(), "mul_inplace: lengths");
    let kernel = kernel!("multiply", x.element(), y.element());
    x.gpu().launch(each("pointwise", kernel, x.len()), &[pointer(x), pointer(y), long(x.len())]);
}

/// What the kernels call an activation.
pub(super) fn activation_code(activation: Activation) -> Arg {
    Arg::Int(match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::QuickGelu => 3,
        Activation::Silu => 4,
    })
}

/// [`crate::ops::activate_inplace`].
pub fn activate_inplace(x: &mut Array, activation: Activation) {
    let args = [pointer(x), long(x.len()), activation_code(activation)];
    x.gpu().launch(each("pointwise", kernel!("activate", x.element()), x.len()), &args);
}

/// [`crate::ops::prelu_inplace`]: `x` `[.., C]`, `slopes` `[C]`, `f32`.
pub fn prelu_inplace(x: &mut Array, slopes: &Array) {
    let channels = slopes.len();
    assert!(
        x.len().is_multiple_of(channels) && slopes.element() == Element::F32,
        "prelu_inplace: {} values with {channels} slopes",
        x.len()
    );
    let args = [pointer(x), long(x.len()), pointer(slopes), int(channels)];
    x.gpu().launch(each("pointwise", kernel!("prelu", x.element()), x.len()), &args);
}

/// [`crate::ops::clamp_inplace`].
pub fn clamp_inplace(x: &mut Array, least: f32, most: f32) {
    let args = [pointer(x), long(x.len()), Arg::Float(least), Arg::Float(most)];
    x.gpu().launch(each("pointwise", kernel!("clamp", x.element()), x.len()), &args);
}

/// The most terms of [`combine`].
const TERMS: usize = 4;

/// The sum of `factor * x` over one to four arrays of one element and length, as element `out`.
pub fn combine(terms: &[(f32, &Array)], out: Element) -> Array {
    let (_, first) = *terms.first().expect("combine: at least one term");
    let (len, element) = (first.len(), first.element());
    assert!(
        terms.len() <= TERMS && terms.iter().all(|(_, x)| x.len() == len && x.element() == element),
        "combine: {} terms, of which the first has {len} {element:?} values",
        terms.len()
    );
    let result = Array::unset(first.gpu(), out, len);
    let mut args = vec![pointer(&result), long(len)];
    for i in 0..TERMS {
        let term = terms.get(i);
        args.push(pointer_or_none(term.map(|&(_, x)| x)));
        args.push(Arg::Float(term.map_or(0.0, |&(factor, _)| factor)));
    }
    first.gpu().launch(each("pointwise", kernel!("combine", element, out), len), &args);
    result
}

/// The sums of |x - y| and of |y|, on the host once all work before is done; both of one element.
///
/// # Errors
/// What went wrong, in this or before.
pub fn change(x: &Array, y: &Array) -> Result<[f64; 2], GpuError> {
    assert!(
        x.len() == y.len() && x.element() == y.element(),
        "change: {} and {} values",
        x.len(),
        y.len()
    );
    let launch = each("pointwise", kernel!("change", x.element()), x.len());
    let parts = Array::unset(x.gpu(), Element::F32, 2 * launch.grid[0] as usize);
    x.gpu().launch(launch, &[pointer(&parts), pointer(x), pointer(y), long(x.len())]);
    let parts = parts.to_host()?;
    Ok([0, 1].map(|sum| parts.iter().skip(sum).step_by(2).map(|&part| f64::from(part)).sum()))
}
