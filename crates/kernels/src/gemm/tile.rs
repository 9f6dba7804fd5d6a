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

    /// As [`Simd::steps`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn steps<const ROWS: usize, const VECTORS: usize>(
        _: Segment,
        _a_row: usize,
        _depth: usize,
        _: &mut [[S::V; VECTORS]; ROWS],
    ) -> bool {
        false
    }

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
    unsafe fn steps<const ROWS: usize, const VECTORS: usize>(
        segment: Segment,
        a_row: usize,
        depth: usize,
        sums: &mut [[S::V; VECTORS]; ROWS],
    ) -> bool {
        // SAFETY: the caller vouches for the segment.
        unsafe { S::steps(segment, a_row, depth, sums) }
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

/// Rows of the tiles that are compiled, up to `S::rows(vectors)`. Each takes some tenths of a second to compile, for every
/// instruction set, and only the last rows of a product are no whole tile.
const COMPILED: [usize; 9] = [1, 2, 3, 4, 6, 8, 12, 16, 24];

/// The rows of the tile that a tile of `rows` (1 to 24) begins with: itself, or the half of it or a little more where
/// the rest is one too, or the largest. Tiles of few rows wait for their sums.
const fn first_of(rows: usize) -> usize {
    let half = at_least(rows.div_ceil(2));
    if at_least(rows) == rows {
        rows
    } else if at_least(rows - half) == rows - half {
        half
    } else {
        let mut largest = half;
        while at_least(largest + 1) < rows {
            largest = at_least(largest + 1);
        }
        largest
    }
}

/// The least rows of a compiled tile that has at least `rows` (1 to 24).
pub(crate) const fn at_least(rows: usize) -> usize {
    let mut at = 0;
    while COMPILED[at] < rows {
        at += 1;
    }
    COMPILED[at]
}

/// [`first_of`] each number of rows.
const FIRST: [usize; 25] = {
    let mut first = [0; 25];
    let mut rows = 1;
    while rows < first.len() {
        first[rows] = first_of(rows);
        rows += 1;
    }
    first
};

/// The tile of `rows` (1 to `S::rows(vectors)`) by `vectors` (1 or 2), of those that are compiled. A row has the same bits
/// in each of them.
///
/// # Safety
/// The segments' rows and panels and the tile of C are valid, C for `vectors` whole vectors a row;
/// the CPU has the features of `S`.
#[inline(always)]
pub(crate) unsafe fn tile_body<S: Simd, T: Terms<S>>(rows: usize, vectors: usize, tile: &Tile<'_>) {
    debug_assert!(0 < rows && (vectors == 1 || vectors == 2) && rows <= S::rows(vectors));
    macro_rules! compiled {
        ($rows:expr, $first:expr; $($most:literal)*; $($more:literal)*) => {
            match ($rows, vectors) {
                $(($most, 2) => sum::<S, T, $most, 2>($first, tile),
                ($most, _) => sum::<S, T, $most, 1>($first, tile),)*
                $(($more, 1) => sum::<S, T, $more, 1>($first, tile),)*
                _ => unreachable!("a tile of {rows} rows by {vectors}"),
            }
        };
    }
    let mut done = 0;
    while done < rows {
        let some = FIRST[rows - done];
        // SAFETY: the caller vouches for the tile.
        unsafe {
            if S::MR == 6 {
                compiled!(some, done; 1 2 3 4 6; 8 12)
            } else {
                compiled!(some, done; 1 2 3 4 6 8 12; 16 24)
            }
        }
        done += some;
    }
}

/// `ROWS` rows of the tile, from row `first` on.
///
/// # Safety
/// As for [`tile_body`].
// Plain indices: with iterators the sums do not always stay in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn sum<S: Simd, T: Terms<S>, const ROWS: usize, const VECTORS: usize>(
    first: usize,
    tile: &Tile<'_>,
) {
    let a_row = tile.a_row;
    let c_first = tile.c.wrapping_add(first * tile.c_row);
    // SAFETY: the caller vouches for the tile.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        // The rows of C lie far apart, too far for the CPU to foresee; there is time to fetch them.
        for i in 0..ROWS {
            S::prefetch(c_first.wrapping_add(i * tile.c_row));
        }
        for segment in tile.segments {
            let Segment { a, mut b } = *segment;
            let mut a = a.add(first * a_row);
            if T::steps(Segment { a, b }, a_row, tile.depth, &mut sums) {
                continue;
            }
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
                let c = c_first.add(i * tile.c_row + j * S::LANES);
                let sum = if tile.accumulate { S::add(S::load(c), *sum) } else { *sum };
                S::store(c, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of rows is made of compiled tiles, at most three, and what is compiled is one.
    #[test]
    fn any_number_of_rows_is_made_of_few_compiled_tiles() {
        for rows in 1..FIRST.len() {
            let mut left = rows;
            let mut tiles = 0;
            while left > 0 {
                let some = FIRST[left];
                assert!(COMPILED.contains(&some) && some <= left, "{some} of {left} rows");
                left -= some;
                tiles += 1;
            }
            assert!(tiles <= if COMPILED.contains(&rows) { 1 } else { 3 }, "{rows}: {tiles} tiles");
        }
    }
}
