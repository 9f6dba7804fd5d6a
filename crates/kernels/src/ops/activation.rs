//! Activations.

use crate::spans;
use rayon::prelude::*;

use super::pointwise::for_each_piece;
use crate::gpu::ops as body;
use crate::simd::{Isa, Kernel, Simd, activate, dispatch};
use crate::{Tensor, Vector};

/// Rows that a thread takes at a time.
const PRELU_ROWS: usize = 256;

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

/// Applies an activation to every value.
pub fn activate_inplace(x: &mut Tensor, activation: Activation) {
    let _span = spans::begin("activation", || (0.0, 2 * x.bytes()));
    if let Some(array) = x.array_mut() {
        body::activate_inplace(array, activation);
        return spans::settle(array.gpu());
    }
    let isa = Isa::current();
    for_each_piece(x.data_mut(), |_, values| dispatch(isa, Activate { values, activation }));
}

/// PReLU (He et al. 2015): negative values of `x`, `[.., C]`, times the slope of their channel, of
/// `slopes`, `[C]`.
pub fn prelu_inplace(x: &mut Tensor, slopes: &Vector) {
    let _span = spans::begin("activation", || (0.0, 2 * x.bytes()));
    let channels = x.shape().last().copied().unwrap_or_default();
    assert_eq!(
        channels,
        slopes.len(),
        "prelu_inplace: {:?} with {} slopes",
        x.shape(),
        slopes.len()
    );
    if let Some(array) = x.array_mut() {
        let slopes = slopes.on(array.gpu());
        body::prelu_inplace(array, &slopes);
        return spans::settle(array.gpu());
    }
    x.data_mut().par_chunks_mut(channels * PRELU_ROWS).for_each(|rows| {
        for row in rows.chunks_exact_mut(channels) {
            for (value, slope) in row.iter_mut().zip(&slopes[..]) {
                *value = if *value < 0.0 { *value * slope } else { *value };
            }
        }
    });
}

struct Activate<'a> {
    values: &'a mut [f32],
    activation: Activation,
}

impl Kernel for Activate<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (x, len) = (self.values.as_mut_ptr(), self.values.len());
        let mut at = 0;
        while at < len {
            let n = (len - at).min(S::LANES);
            // SAFETY: `at + n <= len`.
            unsafe {
                let v = activate::<S>(S::load_n(x.add(at), n), self.activation);
                S::store_n(x.add(at), n, v);
            }
            at += n;
        }
    }
}
