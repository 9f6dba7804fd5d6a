//! Vectors of `f32` behind one trait, so that each kernel is written once.
//!
//! A kernel is a type that implements [`Kernel`]; its generic body is compiled once for each
//! instruction set inside a function that enables the set's features, and [`dispatch`] calls the
//! one chosen at run time. Bodies and everything they call are `#[inline(always)]`, because only
//! what is inlined there may use the wide registers.

mod isa;
mod math;
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use isa::Isa;
pub(crate) use math::{activate, exp};

use crate::gemm::{Segment, Tile};

/// A vector of `LANES` singles. All pointers may be unaligned.
///
/// # Safety
/// Every function needs the CPU features of the implementing set; pointers must be valid for
/// `LANES` values (or the count given).
pub(crate) trait Simd: Copy {
    /// The vector.
    type V: Copy;
    /// Its number of values.
    const LANES: usize;
    /// Rows of a GEMM tile of two vectors.
    const MR: usize;
    /// Columns of a GEMM tile: two vectors.
    const NR: usize = 2 * Self::LANES;
    /// The side of the square that [`Simd::transpose`] turns.
    const SQUARE: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the CPU can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` when one of them is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` when one of them is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^n` for integers -126 to 127.
    unsafe fn pow2(n: Self::V) -> Self::V;
    /// `value` where `x >= limit` or `x` is NaN, else 0.
    unsafe fn zero_below(x: Self::V, limit: Self::V, value: Self::V) -> Self::V;
    /// The sum of all lanes, in a fixed order.
    unsafe fn sum(v: Self::V) -> f32;
    /// The largest lane; NaN lanes may be passed over.
    unsafe fn largest(v: Self::V) -> f32;
    /// `LANES / 2` values, each twice: `x0 x0 x1 x1 ...`.
    unsafe fn load_twice(from: *const f32) -> Self::V;
    /// Neighbours exchanged: `x1 x0 x3 x2 ...`.
    unsafe fn swap_pairs(v: Self::V) -> Self::V;
    /// `a * b - c` in even lanes, `a * b + c` in odd ones.
    unsafe fn fma_sub_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Turns a square: `to[c * to_row + r] = from[r * from_row + c]`.
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize);
    /// Asks for the cache line at `at`, which may be any address, to be brought near.
    unsafe fn prefetch(at: *const f32);
    /// One GEMM tile, compiled as a function of its own.
    unsafe fn tile(rows: usize, vectors: usize, tile: &Tile<'_>);

    /// Adds a segment of `depth` values to the sums of a tile, the products of each sum in order, where there is
    /// something better for this tile than what is compiled; if not, false.
    #[inline(always)]
    unsafe fn steps<const ROWS: usize, const VECTORS: usize>(
        _: Segment,
        _a_row: usize,
        _depth: usize,
        _: &mut [[Self::V; VECTORS]; ROWS],
    ) -> bool {
        false
    }

    /// Rows of a GEMM tile of one or two vectors: the sums always fill the registers.
    #[inline(always)]
    fn rows(vectors: usize) -> usize {
        Self::MR * 2 / vectors
    }

    /// The first `n <= LANES` values, zeros behind them.
    #[inline(always)]
    unsafe fn load_n(from: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller vouches for `n` values at `from`, and a vector fits the buffer.
        unsafe {
            if n == Self::LANES {
                return Self::load(from);
            }
            let mut buffer = [0.0; 16];
            std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), n);
            Self::load(buffer.as_ptr())
        }
    }

    /// Stores the first `n <= LANES` values.
    #[inline(always)]
    unsafe fn store_n(to: *mut f32, n: usize, v: Self::V) {
        // SAFETY: the caller vouches for `n` values at `to`, and a vector fits the buffer.
        unsafe {
            if n == Self::LANES {
                return Self::store(to, v);
            }
            let mut buffer = [0.0; 16];
            Self::store(buffer.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, n);
        }
    }
}

/// Vectors whose lanes can also hold two bf16 each, the first in the lower half: products of these take half
/// the steps.
///
/// # Safety
/// As for [`Simd`], with the features that [`Isa::has_pairs`] asks for.
pub(crate) trait Pairs: Simd {
    /// `sum + a1 * b1 + a0 * b0` in each lane; products of two bf16 are exact, sums are rounded to `f32`.
    unsafe fn dot(a: Self::V, b: Self::V, sum: Self::V) -> Self::V;
    /// The values of two vectors rounded to bf16, one behind the other.
    unsafe fn narrow(first: Self::V, second: Self::V) -> Self::V;
    /// The values of two vectors rounded to bf16, lane by lane.
    unsafe fn join(first: Self::V, second: Self::V) -> Self::V;
    /// [`Simd::tile`] of pairs: depth and distances count pairs, C is of singles.
    unsafe fn tile_of_pairs(rows: usize, vectors: usize, tile: &Tile<'_>);

    /// `values` values rounded to bf16, in order; where their number is odd, a zero is the last one.
    #[inline(always)]
    unsafe fn narrow_row(from: *const f32, values: usize, to: *mut f32) {
        let mut at = 0;
        // SAFETY: the caller vouches for the values and for half as many places, rounded up.
        unsafe {
            while at < values {
                let n = (values - at).min(2 * Self::LANES);
                let first = Self::load_n(from.add(at), n.min(Self::LANES));
                let second = match n.saturating_sub(Self::LANES) {
                    0 => Self::splat(0.0),
                    n => Self::load_n(from.add(at + Self::LANES), n),
                };
                Self::store_n(to.add(at / 2), n.div_ceil(2), Self::narrow(first, second));
                at += n;
            }
        }
    }
}

/// A [`Kernel`] of pairs.
pub(crate) trait PairKernel {
    /// The body.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    unsafe fn run<S: Pairs>(self);
}

/// Runs `kernel` compiled for the pairs of `isa`, which has some.
#[inline]
pub(crate) fn dispatch_pairs<K: PairKernel>(isa: Isa, kernel: K) {
    assert!(isa.has_pairs(), "dispatch_pairs: {isa:?}");
    match isa {
        // SAFETY: the plain set needs no feature.
        Isa::PlainWide => unsafe { kernel.run::<plain::Plain<16, 12>>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the features were asked for.
        Isa::Avx512 => unsafe { x86::run_avx512_pairs(kernel) },
        _ => unreachable!("asked before"),
    }
}

/// A body to be compiled for each instruction set. Implement `run` as `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What it gives back.
    type Out;

    /// The body.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

/// Runs `kernel` compiled for `isa`.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Out {
    match isa {
        // SAFETY: the plain sets need no feature.
        Isa::Plain => unsafe { kernel.run::<plain::Plain<4, 6>>() },
        // SAFETY: as above.
        Isa::PlainWide => unsafe { kernel.run::<plain::Plain<16, 12>>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` in use was found available on this CPU.
        Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::run_avx512(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => unreachable!("x86 sets are never available here"),
    }
}
