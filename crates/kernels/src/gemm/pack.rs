//! Packing rows into panels.

use crate::simd::Simd;

/// Packs `rows` rows of `depth` values (row `r` at `from + r * from_row`) as columns of panels:
/// panel `p` holds rows `p * NR ..`, as `[depth][NR]`; the last panel is padded with zeros, and is
/// `[depth][LANES]` where that is enough. Panels follow each other every `depth * NR` values.
///
/// # Safety
/// The rows are readable; `to` has room for `rows.div_ceil(NR) * NR * depth` values; the CPU has the
/// features of `S`.
#[inline(always)]
pub(crate) unsafe fn pack_panels<S: Simd>(
    from: *const f32,
    from_row: usize,
    rows: usize,
    depth: usize,
    to: *mut f32,
) {
    let mut row = 0;
    let mut panel = to;
    // SAFETY: all offsets stay within what the caller vouches for.
    unsafe {
        while row < rows {
            let inside = (rows - row).min(S::NR);
            let width = if inside <= S::LANES { S::LANES } else { S::NR };
            let mut r = 0;
            while r < width {
                let source = from.add((row + r) * from_row);
                if r + S::SQUARE <= inside {
                    let mut k = 0;
                    while k + S::SQUARE <= depth {
                        S::transpose(source.add(k), from_row, panel.add(k * width + r), width);
                        k += S::SQUARE;
                    }
                    while k < depth {
                        for i in 0..S::SQUARE {
                            *panel.add(k * width + r + i) = *source.add(i * from_row + k);
                        }
                        k += 1;
                    }
                } else {
                    for i in 0..S::SQUARE {
                        for k in 0..depth {
                            let value =
                                if r + i < inside { *source.add(i * from_row + k) } else { 0.0 };
                            *panel.add(k * width + r + i) = value;
                        }
                    }
                }
                r += S::SQUARE;
            }
            row += S::NR;
            panel = panel.add(depth * S::NR);
        }
    }
}
