//! Moves of values.

use std::ops::Range;

use super::{each, int, kernel, long, pointer};
use crate::gpu::{Address, Arg, Array, Element, Launch};

/// [`crate::ops::patchify`]: `x` of shape `[T, C, H, W]`, into element `out`.
pub fn patchify(x: &Array, shape: [usize; 4], patch: [usize; 2], out: Element) -> Array {
    let [_, channels, height, width] = shape;
    let [ph, pw] = patch;
    assert!(
        shape.iter().product::<usize>() == x.len() && height % ph == 0 && width % pw == 0,
        "patchify: {shape:?} by {patch:?}"
    );
    let result = Array::unset(x.gpu(), out, x.len());
    let sizes = [channels, height, width, ph, pw];
    move_values("patchify", &result, x, sizes);
    result
}

/// [`crate::ops::unpatchify`]: from rows `[T * gh * gw, ph * pw * C]`, into element `out`.
pub fn unpatchify(
    x: &Array,
    grid: [usize; 3],
    patch: [usize; 2],
    channels: usize,
    out: Element,
) -> Array {
    let ([frames, gh, gw], [ph, pw]) = (grid, patch);
    let len = frames * gh * gw * ph * pw * channels;
    assert_eq!(x.len(), len, "unpatchify: {grid:?} of {patch:?} of {channels}");
    let result = Array::unset(x.gpu(), out, x.len());
    move_values("unpatchify", &result, x, [channels, gh, gw, ph, pw]);
    result
}

fn move_values(what: &'static str, out: &Array, x: &Array, sizes: [usize; 5]) {
    let kernel = match what {
        "patchify" => kernel!("patchify", x.element(), out.element()),
        _ => kernel!("unpatchify", x.element(), out.element()),
    };
    let mut args = vec![pointer(out), pointer(x), long(x.len())];
    args.extend(sizes.map(int));
    x.gpu().launch(each("layout", kernel, x.len()), &args);
}

/// [`crate::ops::add_row`]: adds `row` `[dim]` to each row of `x` `[rows, dim]`.
pub fn add_row(x: &mut Array, row: &Array) {
    assert!(x.len().is_multiple_of(row.len()), "add_row: {} to rows of {}", row.len(), x.len());
    let args = [pointer(x), pointer(row), long(x.len()), int(row.len())];
    let kernel = kernel!("add_row", x.element(), row.element());
    x.gpu().launch(each("layout", kernel, x.len()), &args);
}

/// [`crate::ops::split_modulation`]: `signal` `[rows, N * dim]` or `[rows, dim]`, `table` `[N, dim]`, to
/// `N` (at most 6) arrays `[rows, dim]`, all `f32` but for the signal.
pub fn split_modulation<const N: usize>(signal: &Array, rows: usize, table: &Array) -> [Array; N] {
    const { assert!(N > 0 && N <= 6) };
    let dim = table.len() / N;
    let width = signal.len() / rows.max(1);
    assert!(
        dim * N == table.len()
            && table.element() == Element::F32
            && width * rows == signal.len()
            && (width == dim || width == N * dim),
        "split_modulation: {rows} rows of {width} with a table of {N} x {dim}"
    );
    let outs: [Array; N] =
        std::array::from_fn(|_| Array::unset(signal.gpu(), Element::F32, rows * dim));
    let mut args: Vec<Arg> =
        (0..6).map(|i| Arg::Pointer(outs.get(i).map_or(Address(0), Array::address))).collect();
    args.extend([pointer(signal), pointer(table), long(rows), int(dim), int(width)]);
    let kernel = kernel!("split_modulation", signal.element());
    let launch = each("layout", kernel, rows * dim);
    let grid = [launch.grid[0], N as u32, 1];
    signal.gpu().launch(Launch { grid, ..launch }, &args);
    outs
}

/// [`crate::ops::interleave0`]: `first`, if any, then in turn `inner` values of `even` and of `odd`, all
/// of one element.
pub fn interleave(first: Option<&Array>, even: &Array, odd: &Array, inner: usize) -> Array {
    assert!(
        even.len() == odd.len() && even.len().is_multiple_of(inner),
        "interleave: {} and {} values by {inner}",
        even.len(),
        odd.len()
    );
    let lead = first.map_or(0, Array::len);
    let mut result = Array::unset(even.gpu(), even.element(), lead + 2 * even.len());
    if let Some(first) = first {
        result.copy_from(0, first, 0..lead);
    }
    for start in (0..even.len()).step_by(inner.max(1)) {
        let at = lead + 2 * start;
        result.copy_from(at, even, start..start + inner);
        result.copy_from(at + inner, odd, start..start + inner);
    }
    result
}

/// [`crate::ops::columns`]: columns `range` of `x` of shape `[rows, width]`.
pub fn columns(x: &Array, [rows, width]: [usize; 2], range: Range<usize>) -> Array {
    assert!(
        x.len() == rows * width && range.end <= width,
        "columns: {range:?} of {rows} x {width} in {} values",
        x.len()
    );
    let out = Array::unset(x.gpu(), x.element(), rows * range.len());
    move_columns(&out, [range.len(), 0], x, [width, range.start], [rows, range.len()]);
    out
}

/// [`crate::ops::join_columns`]: arrays of `rows` rows and one element side by side.
pub fn join_columns(parts: &[&Array], rows: usize) -> Array {
    let (gpu, element) = (parts[0].gpu(), parts[0].element());
    let len: usize = parts.iter().map(|part| part.len()).sum();
    assert!(
        parts
            .iter()
            .all(|part| part.element() == element && part.len().is_multiple_of(rows.max(1))),
        "join_columns: {} arrays of {rows} rows",
        parts.len()
    );
    let (out, width) = (Array::unset(gpu, element, len), len / rows.max(1));
    let mut at = 0;
    for part in parts {
        let own = part.len() / rows.max(1);
        move_columns(&out, [width, at], part, [own, 0], [rows, own]);
        at += own;
    }
    out
}

/// Copies `count` columns of `rows` rows between two matrices, each with its width and its first column.
fn move_columns(
    out: &Array,
    to: [usize; 2],
    x: &Array,
    from: [usize; 2],
    [rows, count]: [usize; 2],
) {
    let mut args = vec![pointer(out), pointer(x), long(rows * count)];
    args.extend([count, to[0], to[1], from[0], from[1]].map(long));
    let kernel = kernel!("move_columns", x.element());
    x.gpu().launch(each("layout", kernel, rows * count), &args);
}
