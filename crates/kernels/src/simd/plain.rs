//! Portable vectors: arrays, which the compiler vectorises for whatever the target has.

use super::{Pairs, Simd};
use crate::gemm::{OfPairs, OfSingles, Tile, tile_body};
use crate::narrow::f32_to_bf16;

/// `N` lanes, tiles of `M` rows.
#[derive(Clone, Copy)]
pub(crate) struct Plain<const N: usize, const M: usize>;

#[inline(always)]
fn zip<const N: usize>(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// Fused only where that is one instruction; a library call would be far slower than two roundings.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

impl<const N: usize, const M: usize> Simd for Plain<N, M> {
    type V = [f32; N];
    const LANES: usize = N;
    const MR: usize = M;
    const SQUARE: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; N] {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; N] {
        // SAFETY: the caller vouches for N values.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; N]) {
        // SAFETY: the caller vouches for N values.
        unsafe { to.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn sqrt(a: [f32; N]) -> [f32; N] {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| fused(a[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; N], b: [f32; N]) -> [f32; N] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(a: [f32; N]) -> [f32; N] {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn pow2(n: [f32; N]) -> [f32; N] {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn zero_below(x: [f32; N], limit: [f32; N], value: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if x[i] < limit[i] { 0.0 } else { value[i] })
    }
    #[inline(always)]
    unsafe fn sum(mut v: [f32; N]) -> f32 {
        let mut half = N / 2;
        while half > 0 {
            for i in 0..half {
                v[i] += v[i + half];
            }
            half /= 2;
        }
        v[0]
    }
    #[inline(always)]
    unsafe fn largest(v: [f32; N]) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn load_twice(from: *const f32) -> [f32; N] {
        // SAFETY: the caller vouches for N / 2 values.
        std::array::from_fn(|i| unsafe { from.add(i / 2).read_unaligned() })
    }
    #[inline(always)]
    unsafe fn swap_pairs(v: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| v[i ^ 1])
    }
    #[inline(always)]
    unsafe fn fma_sub_add(a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| fused(a[i], b[i], if i % 2 == 0 { -c[i] } else { c[i] }))
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for r in 0..Self::SQUARE {
            for c in 0..Self::SQUARE {
                // SAFETY: the caller vouches for both squares.
                unsafe {
                    *to.add(c * to_row + r) = from.add(r * from_row + c).read_unaligned();
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
    unsafe fn tile(rows: usize, vectors: usize, tile: &Tile<'_>) {
        // SAFETY: the caller vouches for the tile.
        unsafe { tile_body::<Self, OfSingles>(rows, vectors, tile) }
    }
}

/// Both values of a pair.
#[inline(always)]
fn values(pair: f32) -> [f32; 2] {
    [f32::from_bits(pair.to_bits() << 16), f32::from_bits(pair.to_bits() & 0xffff_0000)]
}

#[inline(always)]
fn pair(first: f32, second: f32) -> f32 {
    let [first, second] = [first, second].map(|v| u32::from(f32_to_bf16(v)));
    f32::from_bits(first | second << 16)
}

impl<const N: usize, const M: usize> Pairs for Plain<N, M> {
    #[inline(always)]
    unsafe fn dot(a: [f32; N], b: [f32; N], sum: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (values(a[i]), values(b[i]));
            fused(a0, b0, fused(a1, b1, sum[i]))
        })
    }
    #[inline(always)]
    unsafe fn narrow(first: [f32; N], second: [f32; N]) -> [f32; N] {
        let all = |i: usize| if i < N { first[i] } else { second[i - N] };
        std::array::from_fn(|i| pair(all(2 * i), all(2 * i + 1)))
    }
    #[inline(always)]
    unsafe fn join(first: [f32; N], second: [f32; N]) -> [f32; N] {
        zip(first, second, pair)
    }
    #[inline(always)]
    unsafe fn tile_of_pairs(rows: usize, vectors: usize, tile: &Tile<'_>) {
        // SAFETY: the caller vouches for the tile.
        unsafe { tile_body::<Self, OfPairs>(rows, vectors, tile) }
    }
}
