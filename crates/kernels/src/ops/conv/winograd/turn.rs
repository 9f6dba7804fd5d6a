//! What turns weights and patches into points, and points into squares: polynomials, evaluated and put together.

use super::{PATCH, SIDE};
use crate::simd::Simd;

/// Where polynomials are evaluated, beside 0 and infinity.
const A: f32 = 0.625;
const B: f32 = 1.5;

/// What the nine taps of a kernel are multiplied with for one point: of `G g G^T` the outer product of two rows
/// of `G`. A row has the powers of a finite point over the product of its distances to the others; that of
/// infinity takes the last tap.
pub(super) fn factors(point: usize) -> [f64; 9] {
    let (a, b) = (f64::from(A), f64::from(B));
    let points = [0.0, a, -a, b, -b];
    let row = |i: usize| -> [f64; 3] {
        let Some(point) = points.get(i) else { return [0.0, 0.0, 1.0] };
        let others = points.iter().filter(|other| *other != point);
        let distances: f64 = others.map(|other| point - other).product();
        [1.0, *point, point * point].map(|power| power / distances)
    };
    let (down, across) = (row(point / PATCH), row(point % PATCH));
    std::array::from_fn(|tap| down[tap / 3] * across[tap % 3])
}

/// A vector, or its first `lanes` values when it is not `FULL`.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const FULL: bool>(from: *const f32, lanes: usize) -> S::V {
    // SAFETY: the caller vouches for the values.
    unsafe { if FULL { S::load(from) } else { S::load_n(from, lanes) } }
}

/// Turns `lanes` channels from `at` on of one patch of pixels; the points go to `to + at`, `point` values
/// apart.
// Plain indices: closures would be compiled without the wide registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(super) unsafe fn turn_patch<S: Simd, const FULL: bool>(
    pixels: &[[*const f32; PATCH]; PATCH],
    at: usize,
    to: *mut f32,
    point: usize,
    lanes: usize,
) {
    // SAFETY: the caller vouches for the pixels and the places.
    unsafe {
        let mut half = [[S::splat(0.0); PATCH]; PATCH];
        for j in 0..PATCH {
            let mut d = [S::splat(0.0); PATCH];
            for i in 0..PATCH {
                d[i] = load::<S, FULL>(pixels[i][j].add(at), lanes);
            }
            let turned = turn::<S>(d);
            for i in 0..PATCH {
                half[i][j] = turned[i];
            }
        }
        for i in 0..PATCH {
            let turned = turn::<S>(half[i]);
            for j in 0..PATCH {
                let to = to.add((PATCH * i + j) * point + at);
                if FULL {
                    S::store(to, turned[j]);
                } else {
                    S::store_n(to, lanes, turned[j]);
                }
            }
        }
    }
}

/// `B^T` times a column of six. The row of a point has the coefficients of the product of `x - other` over
/// all other points, which pairs of opposite points share.
#[inline(always)]
unsafe fn turn<S: Simd>(d: [S::V; PATCH]) -> [S::V; PATCH] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let both = S::splat(A * A * B * B);
        let minus_sum = S::splat(-(A * A + B * B));
        let (minus_a2, minus_b2) = (S::splat(-A * A), S::splat(-B * B));
        let (even_a, odd_a) = (S::fma(d[2], minus_b2, d[4]), S::fma(d[1], minus_b2, d[3]));
        let (even_b, odd_b) = (S::fma(d[2], minus_a2, d[4]), S::fma(d[1], minus_a2, d[3]));
        [
            S::fma(d[0], both, S::fma(d[2], minus_sum, d[4])),
            S::fma(odd_a, S::splat(A), even_a),
            S::fma(odd_a, S::splat(-A), even_a),
            S::fma(odd_b, S::splat(B), even_b),
            S::fma(odd_b, S::splat(-B), even_b),
            S::fma(d[1], both, S::fma(d[3], minus_sum, d[5])),
        ]
    }
}

/// `A^T` times a column of six: row `k` has the `k`-th powers of the points.
#[inline(always)]
pub(super) unsafe fn fold<S: Simd>(m: [S::V; PATCH]) -> [S::V; SIDE] {
    // SAFETY: the caller vouches for the CPU.
    unsafe {
        let (sum_a, difference_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (sum_b, difference_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let cubed = S::fma(difference_a, S::splat(A * A * A), m[5]);
        [
            S::add(m[0], S::add(sum_a, sum_b)),
            S::fma(difference_b, S::splat(B), S::mul(difference_a, S::splat(A))),
            S::fma(sum_b, S::splat(B * B), S::mul(sum_a, S::splat(A * A))),
            S::fma(difference_b, S::splat(B * B * B), cubed),
        ]
    }
}
