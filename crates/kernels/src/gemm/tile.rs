//! The innermost loop.

use crate::DType;
use crate::simd::{Pairs, Simd};

/// What a product is made of, and stands in each place of its sides.
pub(crate) trait Terms<S: Simd> {
    /// Values in a place.
    const VALUES: usize;
    /// Their format.
    const DTYPE: DType;

    /// `sum` and what a place of each side adds to it, in each lane.
    ///
    /// # Safety
    /// The CPU has the features of `S`.
    unsafe fn add(a: S::V, b: S::V, sum: S::V) -> S::V;

    /// As [`Simd::tile`]; depth and distances count places, C is of singles.
    ///
    /// # Safety
    /// As there.
    unsafe fn tile(rows: usize, vectors: usize, tile: &Tile<'_>);

    /// Turns a row of `values` `f32` into places, where it stands.
    ///
    /// # Safety
    /// It is readable and writable; the CPU has the features of `S`.
    unsafe fn turn(row: *mut f32, values: usize);

    /// `rows` rows of `values` `f32`, `from_row` apart, as places: the first row, and the places from one to the
    /// next. They may be those of `turned`.
    ///
    /// # Safety
    /// The rows are readable, and `turned` has places for all of them; the CPU has the features of `S`.
    unsafe fn rows(
        from: *const f32,
        from_row: usize,
        rows: usize,
        values: usize,
        turned: *mut f32,
    ) -> (*const f32, usize);
}

/// A product of two `f32`.
pub(crate) struct OfSingles;

/// Two products of bf16.
pub(crate) struct OfPairs;

impl<S: Simd> Terms<S> for OfSingles {
    const VALUES: usize = 1;
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    unsafe fn add(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller vouches for the features.
        unsafe { S::fma(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn tile(rows: usize, vectors: usize, tile: &Tile<'_>) {
        // SAFETY: the caller vouches for the tile.
        unsafe { S::tile(rows, vectors, tile) }
    }

    #[inline(always)]
    unsafe fn turn(_: *mut f32, _: usize) {}

    #[inline(always)]
    unsafe fn rows(
        from: *const f32,
        from_row: usize,
        _: usize,
        _: usize,
        _: *mut f32,
    ) -> (*const f32, usize) {
        (from, from_row)
    }
}

impl<S: Pairs> Terms<S> for OfPairs {
    const VALUES: usize = 2;
    const DTYPE: DType = DType::BF16;

    #[inline(always)]
    unsafe fn add(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: the caller vouches for the features.
        unsafe { S::dot(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn tile(rows: usize, vectors: usize, tile: &Tile<'_>) {
        // SAFETY: the caller vouches for the tile.
        unsafe { S::tile_of_pairs(rows, vectors, tile) }
    }

    #[inline(always)]
    unsafe fn turn(row: *mut f32, values: usize) {
        // SAFETY: the caller vouches for the row. Pairs are written behind what is read.
        unsafe { S::narrow_row(row, values, row) }
    }

    #[inline(always)]
    unsafe fn rows(
        from: *const f32,
        from_row: usize,
        rows: usize,
        values: usize,
        turned: *mut f32,
    ) -> (*const f32, usize) {
        let places = values.div_ceil(2);
        for row in 0..rows {
            // SAFETY: the caller vouches for the rows and the places.
            unsafe { S::narrow_row(from.add(row * from_row), values, turned.add(row * places)) };
        }
        (turned, places)
    }
}

/// One run of `k`: rows of A begin at `a`, the packed panel of B at `b`.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub a: *const f32,
    pub b: *const f32,
}

/// The sum over segments of `depth` values each, written or added to `c`.
///
/// A linear layer has one segment; a convolution has one for each line of its window, in which
/// neighbouring pixels' windows overlap: there `a_row` is shorter than `depth`.
pub(crate) struct Tile<'a> {
    pub segments: &'a [Segment],
    pub depth: usize,
    /// Distance between rows of A.
    pub a_row: usize,
    pub c: *mut f32,
    /// Distance between rows of C.
    pub c_row: usize,
    /// Whether C already holds a part of the sum.
    pub accumulate: bool,
}

/// Chooses the tile of `rows` (1 to `S::rows(vectors)`) by `vectors` (1 or 2).
///
/// # Safety
/// The segments' rows and panels and the tile of C are valid, C for `vectors` whole vectors a row;
/// the CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn tile_body<S: Simd, T: Terms<S>>(rows: usize, vectors: usize, tile: &Tile<'_>) {
    debug_assert!(0 < rows && (vectors == 1 || vectors == 2) && rows <= S::rows(vectors));
    macro_rules! choose {
        ($($rows:literal)*; $($more:literal)*) => {
            match (rows, vectors) {
                $(($rows, 2) => sum::<S, T, $rows, 2>(tile),
                ($rows, _) => sum::<S, T, $rows, 1>(tile),)*
                $(($more, 1) => sum::<S, T, $more, 1>(tile),)*
                _ => unreachable!("a tile of {rows} rows by {vectors}"),
            }
        };
    }
    // SAFETY: the caller vouches for the tile.
    unsafe {
        if S::MR == 6 {
            choose!(6 5 4 3 2 1; 7 8 9 10 11 12)
        } else {
            choose!(12 11 10 9 8 7 6 5 4 3 2 1; 13 14 15 16 17 18 19 20 21 22 23 24)
        }
    }
}

// Plain indices: with iterators the sums do not always stay in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn sum<S: Simd, T: Terms<S>, const ROWS: usize, const VECTORS: usize>(tile: &Tile<'_>) {
    // SAFETY: the caller vouches for the tile.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        // The rows of C lie far apart, too far for the CPU to foresee; there is time to fetch them.
        for i in 0..ROWS {
            S::prefetch(tile.c.wrapping_add(i * tile.c_row));
        }
        for segment in tile.segments {
            let Segment { mut a, mut b } = *segment;
            let a_row = tile.a_row;
            for _ in 0..tile.depth {
                let mut columns = [S::splat(0.0); VECTORS];
                for j in 0..VECTORS {
                    columns[j] = S::load(b.add(j * S::LANES));
                }
                for i in 0..ROWS {
                    let value = S::splat(*a.add(i * a_row));
                    for j in 0..VECTORS {
                        sums[i][j] = T::add(value, columns[j], sums[i][j]);
                    }
                }
                a = a.add(1);
                b = b.add(VECTORS * S::LANES);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let c = tile.c.add(i * tile.c_row + j * S::LANES);
                let sum = if tile.accumulate { S::add(S::load(c), *sum) } else { *sum };
                S::store(c, sum);
            }
        }
    }
}
