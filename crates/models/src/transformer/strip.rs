//! A forward by several ranks, each of which has a strip of the picture.
//!
//! This is the sequence parallelism of DeepSpeed Ulysses (Jacobs et al. 2023, arXiv:2309.14509). A rank
//! has rows of patches in all frames, so that whatever goes token by token needs no other rank. For
//! self-attention the ranks exchange: each gets some of the heads for all tokens, in the order that
//! one rank would have them, so that masks and kept keys are the same; and the result goes back.

use std::borrow::Cow;
use std::ops::Range;

use longreel_kernels::ranks::{Communicator, RankError};
use longreel_kernels::{Tensor, ops};

use crate::ModelError;
use crate::error::input;

/// Which rows of patches of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    /// The first one.
    pub first: usize,
    /// Rows of the whole picture.
    pub all: usize,
}

impl Strip {
    /// Rows of patches of rank `rank` of `count`: as many as others have, or one more.
    pub fn rows(all: usize, rank: usize, count: usize) -> Range<usize> {
        rank * all / count..(rank + 1) * all / count
    }

    /// Latents `[T, C, H, W]` of a picture of `all` rows of patches `patch` latent pixels high, cut for
    /// `count` ranks.
    ///
    /// # Errors
    /// There are fewer rows than ranks.
    pub fn cut(
        latents: &Tensor,
        [all, patch]: [usize; 2],
        count: usize,
    ) -> Result<Vec<(Self, Cow<'_, Tensor>)>, ModelError> {
        if count == 1 {
            return Ok(vec![(Self { first: 0, all }, Cow::Borrowed(latents))]);
        }
        if all < count {
            let rule = format!(
                "each of the {count} devices takes at least one: use fewer devices or a higher picture"
            );
            return Err(input("the number of rows of patches", all, rule));
        }
        let &[t, c, h, w] = latents.shape() else { unreachable!("the grid was counted") };
        let planes = latents.clone().reshape(&[t * c, h * w]);
        let strip = |rank: usize| {
            let rows = Self::rows(all, rank, count);
            let height = rows.len() * patch;
            let own = ops::columns(&planes, rows.start * patch * w..rows.end * patch * w);
            (Self { first: rows.start, all }, Cow::Owned(own.reshape(&[t, c, height, w])))
        };
        Ok((0..count).map(strip).collect())
    }

    /// Puts strips `[T, C, h, W]` together again.
    pub fn join(mut strips: Vec<Tensor>) -> Tensor {
        if strips.len() == 1 {
            return strips.remove(0);
        }
        let &[t, c, _, w] = strips[0].shape() else { unreachable!("a rank's velocity") };
        let height = strips.iter().map(|strip| strip.dim(2)).sum();
        let planes: Vec<_> = strips
            .into_iter()
            .map(|strip| {
                let plane = strip.dim(2) * w;
                strip.reshape(&[t * c, plane])
            })
            .collect();
        ops::join_columns(&planes).reshape(&[t, c, height, w])
    }
}

/// How a forward's ranks exchange what self-attention needs.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub ranks: &'a dyn Communicator,
    /// Latent frames of the forward, of all samples.
    pub frames: usize,
    /// Rows of patches of the picture.
    pub rows: usize,
    /// Patches of a row.
    pub columns: usize,
}

impl Exchange<'_> {
    /// All heads of this rank's tokens, `[own tokens, dim]`, to this rank's heads of all tokens,
    /// `[tokens, dim / count]`.
    pub fn to_heads(self, x: Tensor) -> Result<Tensor, RankError> {
        let count = self.ranks.count();
        if count == 1 {
            return Ok(x);
        }
        let width = x.dim(1) / count;
        let parts = (0..count).map(|rank| ops::columns(&x, rank * width..(rank + 1) * width));
        let parts = parts.collect();
        drop(x);
        let strips = self.ranks.all_to_all(parts)?;
        let strips: Vec<_> = strips
            .into_iter()
            .map(|strip| {
                let frame = strip.len() / self.frames;
                strip.reshape(&[self.frames, frame])
            })
            .collect();
        Ok(ops::join_columns(&strips).reshape(&[self.frames * self.rows * self.columns, width]))
    }

    /// The way back from [`to_heads`](Self::to_heads).
    pub fn to_strip(self, x: Tensor) -> Result<Tensor, RankError> {
        let count = self.ranks.count();
        if count == 1 {
            return Ok(x);
        }
        let width = x.dim(1);
        let row = self.columns * width;
        let frames = x.reshape(&[self.frames, self.rows * row]);
        let parts = (0..count).map(|rank| {
            let rows = Strip::rows(self.rows, rank, count);
            let tokens = self.frames * rows.len() * self.columns;
            ops::columns(&frames, rows.start * row..rows.end * row).reshape(&[tokens, width])
        });
        let parts = parts.collect();
        drop(frames);
        Ok(ops::join_columns(&self.ranks.all_to_all(parts)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_differ_by_one_row_and_none_is_empty() {
        for all in 1..40 {
            for count in 1..=all {
                let rows: Vec<_> = (0..count).map(|rank| Strip::rows(all, rank, count)).collect();
                assert!((rows[0].start, rows[count - 1].end) == (0, all));
                assert!(rows.windows(2).all(|pair| pair[0].end == pair[1].start));
                let lens = rows.iter().map(|rows| rows.len());
                let (least, most) = (lens.clone().min().unwrap(), lens.max().unwrap());
                assert!(least > 0 && most <= least + 1, "{rows:?}");
            }
        }
    }
}
