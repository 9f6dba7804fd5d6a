//! Moves of values: embedding rows, patches, columns.

use std::ops::Range;

use crate::gpu::ops as body;
use crate::spans;
use crate::{Tensor, Vector, Weight};

/// Rows of an embedding table: `ids` to `[ids, dim]`. Every id must be below the table's rows.
pub fn embedding(table: &Weight, ids: &[u32]) -> Tensor {
    let dim = table.shape()[1];
    let mut out = Tensor::zeros(&[ids.len(), dim]);
    for (row, &id) in out.data_mut().chunks_exact_mut(dim).zip(ids) {
        table.rows_to_f32(id as usize..id as usize + 1, row);
    }
    out
}

/// Cuts latents `[T, C, H, W]` into patches of `[1, ph, pw]`: `[T * H/ph * W/pw, C * ph * pw]`.
pub fn patchify(x: &Tensor, patch: [usize; 2]) -> Tensor {
    let _span = spans::begin("layout", || (0.0, 2 * x.bytes()));
    let (t, c, h, w) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let [ph, pw] = patch;
    assert!(h % ph == 0 && w % pw == 0, "patchify: {:?} by {patch:?}", x.shape());
    let (gh, gw) = (h / ph, w / pw);
    if let Some(array) = x.array() {
        let out = body::patchify(array, [t, c, h, w], patch, array.element());
        spans::settle(array.gpu());
        return Tensor::from_array(&[t * gh * gw, c * ph * pw], out);
    }
    let mut out = Tensor::zeros(&[t * gh * gw, c * ph * pw]);
    let dim = c * ph * pw;
    let to = out.data_mut();
    for (line, values) in x.data().chunks_exact(w.max(1)).enumerate() {
        let (f, channel, y) = (line / (c * h), line / h % c, line % h);
        let first = (f * gh + y / ph) * gw * dim + (channel * ph + y % ph) * pw;
        for (column, values) in values.chunks_exact(pw).enumerate() {
            to[first + column * dim..][..pw].copy_from_slice(values);
        }
    }
    out
}

/// The way back from the output head's rows `[T * gh * gw, ph * pw * C]` (channels innermost, as the
/// reference's head orders them) to latents `[T, C, gh * ph, gw * pw]`.
pub fn unpatchify(x: &Tensor, grid: [usize; 3], patch: [usize; 2], channels: usize) -> Tensor {
    let _span = spans::begin("layout", || (0.0, 2 * x.bytes()));
    let [t, gh, gw] = grid;
    let [ph, pw] = patch;
    assert_eq!(x.shape(), [t * gh * gw, ph * pw * channels], "unpatchify: shape");
    let (h, w) = (gh * ph, gw * pw);
    if let Some(array) = x.array() {
        let out = body::unpatchify(array, grid, patch, channels, array.element());
        spans::settle(array.gpu());
        return Tensor::from_array(&[t, channels, h, w], out);
    }
    let mut out = Tensor::zeros(&[t, channels, h, w]);
    let dim = ph * pw * channels;
    let from = x.data();
    for (line, values) in out.data_mut().chunks_exact_mut(w.max(1)).enumerate() {
        let (f, channel, y) = (line / (channels * h), line / h % channels, line % h);
        let first = (f * gh + y / ph) * gw * dim + y % ph * pw * channels + channel;
        for (column, values) in values.chunks_exact_mut(pw).enumerate() {
            let from = from[first + column * dim..].iter().step_by(channels);
            values.iter_mut().zip(from).for_each(|(to, &value)| *to = value);
        }
    }
    out
}

/// Adds a table `[n, dim]` (flat) to each row of a signal `[rows, n * dim]`, or to `n` copies of a
/// signal `[rows, dim]`, and splits the sum into `n` tensors `[rows, dim]`.
pub fn split_modulation<const N: usize>(signal: &Tensor, table: &Vector) -> [Tensor; N] {
    let _span = spans::begin("layout", || {
        (0.0, signal.bytes() + size_of::<f32>() * signal.dim(0) * table.len())
    });
    let dim = table.len() / N;
    let (rows, width) = (signal.dim(0), signal.dim(1));
    assert!(
        table.len() == N * dim && (width == dim || width == N * dim),
        "split_modulation: {:?} with a table of {N} x {dim}",
        signal.shape()
    );
    if let Some(array) = signal.array() {
        let parts = body::split_modulation(array, rows, &table.on(array.gpu()));
        spans::settle(array.gpu());
        return parts.map(|part| Tensor::from_array(&[rows, dim], part));
    }
    std::array::from_fn(|part| {
        let table = &table[part * dim..(part + 1) * dim];
        let start = if width == dim { 0 } else { part * dim };
        let mut values = Vec::with_capacity(rows * dim);
        for row in signal.data().chunks_exact(width) {
            values.extend(row[start..start + dim].iter().zip(table).map(|(s, t)| t + s));
        }
        Tensor::from_vec(&[rows, dim], values)
    })
}

/// `first`, if any, then in turn one of `even` and one of `odd`, along the outermost axis; all of one
/// inner shape, and as many odd as even ones.
pub fn interleave0(first: Option<&Tensor>, even: &Tensor, odd: &Tensor) -> Tensor {
    let _span = spans::begin("layout", || (0.0, 4 * even.bytes()));
    assert_eq!(even.shape(), odd.shape(), "interleave0: shapes");
    let lead = first.map_or(0, |first| first.dim(0));
    let mut shape = even.shape().to_vec();
    let inner: usize = shape[1..].iter().product();
    shape[0] = lead + 2 * even.dim(0);
    assert!(
        first.is_none_or(|first| first.shape()[1..] == shape[1..]),
        "interleave0: inner shapes"
    );
    if let Some(even) = even.array() {
        let first = first.map(|first| first.array_as(even.gpu(), even.element()));
        let odd = odd.array_as(even.gpu(), even.element());
        let out = body::interleave(first.as_deref(), even, &odd, inner);
        spans::settle(even.gpu());
        return Tensor::from_array(&shape, out);
    }
    let mut values = Vec::with_capacity(shape[0] * inner);
    if let Some(first) = first {
        values.extend_from_slice(first.data());
    }
    let pairs = even.data().chunks_exact(inner.max(1)).zip(odd.data().chunks_exact(inner.max(1)));
    for (even, odd) in pairs {
        values.extend_from_slice(even);
        values.extend_from_slice(odd);
    }
    Tensor::from_vec(&shape, values)
}

/// Columns `range` of a matrix `[rows, width]`: `[rows, range.len()]`.
pub fn columns(x: &Tensor, range: Range<usize>) -> Tensor {
    let &[rows, width] = x.shape() else { panic!("columns: {:?} is no matrix", x.shape()) };
    assert!(range.start <= range.end && range.end <= width, "columns: {range:?} of {width}");
    let _span = spans::begin("layout", || (0.0, 2 * x.bytes() / width.max(1) * range.len()));
    let shape = [rows, range.len()];
    if let Some(array) = x.array() {
        let out = body::columns(array, [rows, width], range);
        spans::settle(array.gpu());
        return Tensor::from_array(&shape, out);
    }
    let mut values = Vec::with_capacity(rows * range.len());
    for row in x.data().chunks_exact(width.max(1)) {
        values.extend_from_slice(&row[range.clone()]);
    }
    Tensor::from_vec(&shape, values)
}

/// Matrices `[rows, width_i]` of one device side by side: `[rows, sum of width_i]`.
pub fn join_columns(parts: &[Tensor]) -> Tensor {
    let rows = parts.first().expect("join_columns: no parts").dim(0);
    let fits = |part: &Tensor| part.shape().len() == 2 && part.dim(0) == rows;
    assert!(parts.iter().all(fits), "join_columns: parts of {rows} and other rows");
    let width = parts.iter().map(|part| part.dim(1)).sum();
    let _span =
        spans::begin("layout", || (0.0, 2 * parts.iter().map(Tensor::bytes).sum::<usize>()));
    if parts[0].array().is_some() {
        let arrays: Vec<_> = parts
            .iter()
            .map(|part| part.array().expect("join_columns: parts on different devices"))
            .collect();
        let out = body::join_columns(&arrays, rows);
        spans::settle(arrays[0].gpu());
        return Tensor::from_array(&[rows, width], out);
    }
    let mut values = Vec::with_capacity(rows * width);
    for row in 0..rows {
        for part in parts {
            let width = part.dim(1);
            values.extend_from_slice(&part.data()[row * width..(row + 1) * width]);
        }
    }
    Tensor::from_vec(&[rows, width], values)
}
