//! Strips of pictures: cut out, and put together again.

use std::ops::Range;

use longreel_kernels::Tensor;

use super::super::tiles::VaeTile;

/// Rows `rows` of each frame `[T, H, W, C]`.
pub(super) fn rows_of(x: &Tensor, rows: &Range<usize>) -> Tensor {
    let [frames, height, width, channels] = std::array::from_fn(|axis| x.dim(axis));
    if *rows == (0..height) {
        return x.clone();
    }
    let part = |frame: usize| {
        let lines = x.slice0(frame..frame + 1).reshape(&[height, width * channels]);
        lines.slice0(rows.clone())
    };
    let parts: Vec<Tensor> = (0..frames).map(part).collect();
    let parts = Tensor::concat0(&parts.iter().collect::<Vec<_>>());
    parts.reshape(&[frames, rows.len(), width, channels])
}

/// Whole pictures, put together of strips.
#[derive(Debug, Default)]
pub(super) struct Stitched {
    /// `[F, H, W, C]`.
    values: Vec<f32>,
    shape: [usize; 4],
    /// Rows that the strip has, and those of them that are its own.
    has: Range<usize>,
    own: Range<usize>,
    /// Frames of the strip so far.
    frames: usize,
}

impl Stitched {
    /// The next parts are of this strip, of a picture of so many rows of latents.
    pub fn next_strip(&mut self, tile: &VaeTile, rows: usize) {
        let last = tile.doubled.last().expect("a doubling");
        let scale = 1 << tile.doubled.len();
        self.has = 2 * last.start..2 * last.end;
        self.own = scale * tile.own.start..scale * tile.own.end;
        self.shape[1] = scale * rows;
        self.frames = 0;
    }

    /// Adds frames of the strip.
    pub fn add(&mut self, part: &Tensor) {
        let (frames, width, channels) = (part.dim(0), part.dim(2), part.dim(3));
        let line = width * channels;
        self.shape = [self.shape[0].max(self.frames + frames), self.shape[1], width, channels];
        self.values.resize(self.shape.iter().product(), 0.0);
        let own = (self.own.start - self.has.start) * line..(self.own.end - self.has.start) * line;
        for frame in part.data().chunks_exact(part.dim(1) * line) {
            let to = (self.frames * self.shape[1] + self.own.start) * line;
            self.values[to..to + own.len()].copy_from_slice(&frame[own.clone()]);
            self.frames += 1;
        }
    }

    pub fn into_tensor(self) -> Tensor {
        Tensor::from_vec(&self.shape, self.values)
    }
}
