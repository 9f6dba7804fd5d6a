//! Elementary functions on vectors.

use super::Simd;
use crate::Activation;

/// `e^x` to about one unit in the last place; 0 below -87.33 (where the result would be
/// subnormal), at most 2.4e38, NaN for NaN. Cephes' `expf` with fused steps.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    const LOWEST: f32 = -87.336_54;
    // SAFETY: the caller vouches for the features of `S`, here and in all functions below.
    unsafe {
        let lowest = S::splat(LOWEST);
        let clamped = S::max(lowest, S::min(S::splat(88.376_26), x));
        let n = S::round(S::mul(clamped, S::splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, the first of which times n is exact.
        let r = S::fma(n, S::splat(-0.693_359_4), clamped);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1] {
            p = S::fma(p, r, S::splat(c));
        }
        let value = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        S::zero_below(x, lowest, S::mul(value, S::pow2(n)))
    }
}

/// The error function to a few units in the last place, as the rational approximation on [-4, 4]
/// that Eigen uses (`generic_fast_erf_float`).
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as in `exp`.
    unsafe {
        let x = S::max(S::splat(-4.0), S::min(S::splat(4.0), x));
        let x2 = S::mul(x, x);
        let mut p = S::splat(-2.726_142_3e-10);
        for c in [
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_4e-5,
            -7.349_906_3e-4,
            -2.954_599_9e-3,
            -1.609_603_3e-2,
        ] {
            p = S::fma(p, x2, S::splat(c));
        }
        let mut q = S::splat(-1.456_606_5e-5);
        for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_3e-3, -1.426_473_9e-2] {
            q = S::fma(q, x2, S::splat(c));
        }
        // One unit more, so that the ends reach 1 and GELU vanishes far below zero.
        let value = S::mul(S::div(S::mul(x, p), q), S::splat(1.0 + f32::EPSILON));
        S::max(S::splat(-1.0), S::min(S::splat(1.0), value))
    }
}

/// One vector through an activation.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(x: S::V, activation: Activation) -> S::V {
    // SAFETY: as in `exp`.
    unsafe {
        let sigmoid_times_x = |minus_z: S::V| S::div(x, S::add(S::splat(1.0), exp::<S>(minus_z)));
        match activation {
            Activation::None => x,
            Activation::Gelu => {
                let erf = erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
                S::mul(S::mul(x, S::splat(0.5)), S::add(S::splat(1.0), erf))
            }
            // (1 + tanh u) / 2 is the sigmoid of 2 u, u = sqrt(2 / pi) (x + 0.044715 x^3).
            Activation::GeluTanh => {
                let cubic = S::fma(S::mul(x, x), S::splat(-0.071_354_814), S::splat(-1.595_769_1));
                sigmoid_times_x(S::mul(x, cubic))
            }
            Activation::QuickGelu => sigmoid_times_x(S::mul(x, S::splat(-1.702))),
            Activation::Silu => sigmoid_times_x(S::mul(x, S::splat(-1.0))),
        }
    }
}
