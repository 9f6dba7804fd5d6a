//! Moves of values: embedding rows, patches.

use crate::spans;
use crate::{Tensor, Weight};

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
    let _span = spans::begin("layout", || (0.0, 2 * x.len()));
    let (t, c, h, w) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let [ph, pw] = patch;
    assert!(h % ph == 0 && w % pw == 0, "patchify: {:?} by {patch:?}", x.shape());
    let (gh, gw) = (h / ph, w / pw);
    let mut out = Tensor::zeros(&[t * gh * gw, c * ph * pw]);
    let dim = c * ph * pw;
    for (token, row) in out.data_mut().chunks_exact_mut(dim).enumerate() {
        let (f, y, x0) = (token / (gh * gw), token / gw % gh, token % gw);
        for (i, v) in row.iter_mut().enumerate() {
            let (channel, dy, dx) = (i / (ph * pw), i / pw % ph, i % pw);
            *v = x.data()[((f * c + channel) * h + y * ph + dy) * w + x0 * pw + dx];
        }
    }
    out
}

/// The way back from the output head's rows `[T * gh * gw, ph * pw * C]` (channels innermost, as the
/// reference's head orders them) to latents `[T, C, gh * ph, gw * pw]`.
pub fn unpatchify(x: &Tensor, grid: [usize; 3], patch: [usize; 2], channels: usize) -> Tensor {
    let _span = spans::begin("layout", || (0.0, 2 * x.len()));
    let [t, gh, gw] = grid;
    let [ph, pw] = patch;
    assert_eq!(x.shape(), [t * gh * gw, ph * pw * channels], "unpatchify: shape");
    let (h, w) = (gh * ph, gw * pw);
    let mut out = Tensor::zeros(&[t, channels, h, w]);
    let dim = ph * pw * channels;
    for (token, row) in x.data().chunks_exact(dim).enumerate() {
        let (f, y, x0) = (token / (gh * gw), token / gw % gh, token % gw);
        for (i, v) in row.iter().enumerate() {
            let (dy, dx, channel) = (i / (pw * channels), i / channels % pw, i % channels);
            out.data_mut()[((f * channels + channel) * h + y * ph + dy) * w + x0 * pw + dx] = *v;
        }
    }
    out
}
