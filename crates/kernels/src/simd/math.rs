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
        for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let value = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        S::zero_below(x, lowest, S::mul(value, S::pow2(n)))
    }
}

/// The complementary error function for `x >= 0`, to a few units in the last place of the result
/// even where that is tiny (Press et al., Numerical Recipes, `erfcc`).
#[inline(always)]
unsafe fn erfc<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as in `exp`.
    unsafe {
        let one = S::splat(1.0);
        let t = S::div(one, S::fma(x, S::splat(0.5), one));
        let mut p = S::splat(0.170_872_77);
        for c in [
            -0.822_152_2,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ] {
            p = S::fma(p, t, S::splat(c));
        }
        S::mul(t, exp::<S>(S::sub(p, S::mul(x, x))))
    }
}

/// `x` times the sigmoid of `-minus_z`.
#[inline(always)]
unsafe fn times_sigmoid<S: Simd>(x: S::V, minus_z: S::V) -> S::V {
    // SAFETY: as in `exp`.
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(minus_z))) }
}

/// One vector through an activation.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(x: S::V, activation: Activation) -> S::V {
    // SAFETY: as in `exp`.
    unsafe {
        match activation {
            Activation::None => x,
            // x Phi(x), as max(x, 0) minus the part that vanishes on both sides.
            Activation::Gelu => {
                let magnitude = S::max(S::sub(S::splat(0.0), x), x);
                let erfc = erfc::<S>(S::mul(magnitude, S::splat(std::f32::consts::FRAC_1_SQRT_2)));
                let half = S::mul(magnitude, S::splat(-0.5));
                S::fma(half, erfc, S::max(S::splat(0.0), x))
            }
            // (1 + tanh u) / 2 is the sigmoid of 2 u, u = sqrt(2 / pi) (x + 0.044715 x^3).
            Activation::GeluTanh => {
                let cubic = S::fma(S::mul(x, x), S::splat(-0.071_354_814), S::splat(-1.595_769));
                times_sigmoid::<S>(x, S::mul(x, cubic))
            }
            Activation::QuickGelu => times_sigmoid::<S>(x, S::mul(x, S::splat(-1.702))),
            Activation::Silu => times_sigmoid::<S>(x, S::mul(x, S::splat(-1.0))),
        }
    }
}
