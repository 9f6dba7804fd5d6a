//! AVX2 with FMA, and AVX-512.

mod steps;

use std::arch::x86_64::*;

use super::{Kernel, PairKernel, Pairs, Simd};
use crate::gemm::{OfPairs, OfSingles, Segment, Tile, tile_body};

/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the features are enabled here.
    unsafe { kernel.run::<Avx2>() }
}

/// # Safety
/// The CPU has AVX-512 F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: the features are enabled here.
    unsafe { kernel.run::<Avx512>() }
}

/// # Safety
/// The CPU has AVX-512 F and BF16, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_avx512_pairs<K: PairKernel>(kernel: K) {
    // SAFETY: the features are enabled here.
    unsafe { kernel.run::<Avx512>() }
}

/// Eight lanes, sixteen registers: tiles of 6 x 16 use twelve for sums, two for B, one for A.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Sixteen lanes, thirty-two registers: tiles of 12 x 32 use twenty-four for sums.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY of every intrinsic below: callers of `Simd` vouch for the CPU's features and for pointers.

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const MR: usize = 6;
    const SQUARE: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m256) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    unsafe fn zero_below(x: __m256, limit: __m256, value: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, limit), value) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn largest(v: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    unsafe fn load_twice(from: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let four = _mm_loadu_ps(from);
            let (low, high) = (_mm_unpacklo_ps(four, four), _mm_unpackhi_ps(four, four));
            _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
        }
    }
    #[inline(always)]
    unsafe fn swap_pairs(v: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_permute_ps::<0b10_11_00_01>(v) }
    }
    #[inline(always)]
    unsafe fn fma_sub_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmaddsub_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // SAFETY: see above.
        unsafe { transpose8(from, from_row, to, to_row) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: see above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn steps<const ROWS: usize, const VECTORS: usize>(
        segment: Segment,
        a_row: usize,
        depth: usize,
        sums: &mut [[__m256; VECTORS]; ROWS],
    ) -> bool {
        if ROWS != Self::MR || VECTORS != 2 {
            return false;
        }
        // SAFETY: see above; the sums are of this many rows and vectors.
        unsafe { steps::of_6(segment, a_row, depth, &mut *(&raw mut *sums).cast()) };
        true
    }
    #[inline(always)]
    unsafe fn tile(rows: usize, vectors: usize, tile: &Tile<'_>) {
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        unsafe fn compiled(rows: usize, vectors: usize, tile: &Tile<'_>) {
            // SAFETY: the caller vouches for the tile.
            unsafe { tile_body::<Avx2, OfSingles>(rows, vectors, tile) }
        }
        // SAFETY: see above.
        unsafe { compiled(rows, vectors, tile) }
    }
}

/// The first `n <= 16` of sixteen lanes.
#[inline(always)]
fn first16(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

/// Turns an 8 x 8 square in registers.
#[inline(always)]
unsafe fn transpose8(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
    // SAFETY: the caller vouches for both squares and for AVX.
    unsafe {
        // Each by name: closures do not have the features, and stay calls with them.
        let r0 = _mm256_loadu_ps(from);
        let r1 = _mm256_loadu_ps(from.add(from_row));
        let r2 = _mm256_loadu_ps(from.add(2 * from_row));
        let r3 = _mm256_loadu_ps(from.add(3 * from_row));
        let r4 = _mm256_loadu_ps(from.add(4 * from_row));
        let r5 = _mm256_loadu_ps(from.add(5 * from_row));
        let r6 = _mm256_loadu_ps(from.add(6 * from_row));
        let r7 = _mm256_loadu_ps(from.add(7 * from_row));
        // Pairs of rows, then fours, then the two halves.
        let a0 = _mm256_unpacklo_ps(r0, r1);
        let a1 = _mm256_unpackhi_ps(r0, r1);
        let a2 = _mm256_unpacklo_ps(r2, r3);
        let a3 = _mm256_unpackhi_ps(r2, r3);
        let a4 = _mm256_unpacklo_ps(r4, r5);
        let a5 = _mm256_unpackhi_ps(r4, r5);
        let a6 = _mm256_unpacklo_ps(r6, r7);
        let a7 = _mm256_unpackhi_ps(r6, r7);
        let b0 = _mm256_shuffle_ps::<0b01_00_01_00>(a0, a2);
        let b1 = _mm256_shuffle_ps::<0b11_10_11_10>(a0, a2);
        let b2 = _mm256_shuffle_ps::<0b01_00_01_00>(a1, a3);
        let b3 = _mm256_shuffle_ps::<0b11_10_11_10>(a1, a3);
        let b4 = _mm256_shuffle_ps::<0b01_00_01_00>(a4, a6);
        let b5 = _mm256_shuffle_ps::<0b11_10_11_10>(a4, a6);
        let b6 = _mm256_shuffle_ps::<0b01_00_01_00>(a5, a7);
        let b7 = _mm256_shuffle_ps::<0b11_10_11_10>(a5, a7);
        for (i, (low, high)) in [(b0, b4), (b1, b5), (b2, b6), (b3, b7)].into_iter().enumerate() {
            _mm256_storeu_ps(to.add(i * to_row), _mm256_permute2f128_ps::<0x20>(low, high));
            _mm256_storeu_ps(to.add((i + 4) * to_row), _mm256_permute2f128_ps::<0x31>(low, high));
        }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const MR: usize = 12;
    const SQUARE: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_n(from: *const f32, n: usize) -> __m512 {
        // SAFETY: see above; what is masked out is not read.
        unsafe { _mm512_maskz_loadu_ps(first16(n), from) }
    }
    #[inline(always)]
    unsafe fn store_n(to: *mut f32, n: usize, v: __m512) {
        // SAFETY: see above; what is masked out is not written.
        unsafe { _mm512_mask_storeu_ps(to, first16(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    unsafe fn zero_below(x: __m512, limit: __m512, value: __m512) -> __m512 {
        // SAFETY: see above. "Not less than" is true for NaN.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), value) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn largest(v: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_twice(from: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm512_castps256_ps512(_mm256_loadu_ps(from));
            let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            _mm512_permutexvar_ps(twice, eight)
        }
    }
    #[inline(always)]
    unsafe fn swap_pairs(v: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_permute_ps::<0b10_11_00_01>(v) }
    }
    #[inline(always)]
    unsafe fn fma_sub_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmaddsub_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // SAFETY: see above; AVX2 is enabled along with AVX-512.
        unsafe { transpose8(from, from_row, to, to_row) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: see above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn steps<const ROWS: usize, const VECTORS: usize>(
        segment: Segment,
        a_row: usize,
        depth: usize,
        sums: &mut [[__m512; VECTORS]; ROWS],
    ) -> bool {
        if ROWS != Self::MR || VECTORS != 2 {
            return false;
        }
        // SAFETY: see above; the sums are of this many rows and vectors.
        unsafe { steps::of_12(segment, a_row, depth, &mut *(&raw mut *sums).cast()) };
        true
    }
    #[inline(always)]
    unsafe fn tile(rows: usize, vectors: usize, tile: &Tile<'_>) {
        #[target_feature(enable = "avx512f,avx2,fma")]
        #[inline(never)]
        unsafe fn compiled(rows: usize, vectors: usize, tile: &Tile<'_>) {
            // SAFETY: the caller vouches for the tile.
            unsafe { tile_body::<Avx512, OfSingles>(rows, vectors, tile) }
        }
        // SAFETY: see above.
        unsafe { compiled(rows, vectors, tile) }
    }
}

impl Pairs for Avx512 {
    #[inline(always)]
    unsafe fn dot(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: see above; the bits are bf16 on both sides.
        unsafe { _mm512_dpbf16_ps(sum, bf16s(a), bf16s(b)) }
    }
    #[inline(always)]
    unsafe fn narrow(first: __m512, second: __m512) -> __m512 {
        // SAFETY: see above; the result's bits stay as they are.
        unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
    }
    #[inline(always)]
    unsafe fn join(first: __m512, second: __m512) -> __m512 {
        // SAFETY: see above; the results' bits stay as they are.
        unsafe {
            let wide = |v| {
                let narrow = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm512_cvtepu16_epi32(narrow)
            };
            let both = _mm512_or_si512(wide(first), _mm512_slli_epi32::<16>(wide(second)));
            _mm512_castsi512_ps(both)
        }
    }
    #[inline(always)]
    unsafe fn tile_of_pairs(rows: usize, vectors: usize, tile: &Tile<'_>) {
        #[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
        #[inline(never)]
        unsafe fn compiled(rows: usize, vectors: usize, tile: &Tile<'_>) {
            // SAFETY: the caller vouches for the tile.
            unsafe { tile_body::<Avx512, OfPairs>(rows, vectors, tile) }
        }
        // SAFETY: see above.
        unsafe { compiled(rows, vectors, tile) }
    }
}

/// The same bits.
#[inline(always)]
fn bf16s(v: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes, and all bits are values of either.
    unsafe { std::mem::transmute(v) }
}
