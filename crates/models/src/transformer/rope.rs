//! Rotary positions over (time, height, width).

use std::sync::Arc;

use longreel_kernels::{Device, GpuError, Tensor};

use super::known::Known;

/// The base of the angles' geometric series (`theta` in the reference).
const BASE: f64 = 10_000.0;

/// The first frame and row, and the grid.
type Place = ([usize; 2], [usize; 3]);

/// The angles of a grid's tokens, each part `[tokens, head_dim / 2]`.
#[derive(Debug)]
pub(super) struct Angles {
    pub cos: Tensor,
    pub sin: Tensor,
}

/// Builds the tables of grids.
#[derive(Debug, Clone)]
pub(super) struct Rope {
    head_dim: usize,
    tables: Known<Place, Angles>,
}

impl Rope {
    /// `head_dim` must be even.
    pub fn new(head_dim: usize) -> Self {
        Self { head_dim, tables: Known::default() }
    }

    /// The table of a grid `[T, H/ph, W/pw]` on a device, tokens in that order; positions start at `first`
    /// in time and height and at 0 in width.
    pub fn table(
        &self,
        first: [usize; 2],
        grid: [usize; 3],
        device: &Device,
    ) -> Result<Arc<Angles>, GpuError> {
        self.tables.of((first, grid), || {
            let Angles { cos, sin } = build(self.head_dim, first, grid);
            // Steps come and go beside it.
            let on = |part: Tensor| Ok::<_, GpuError>(part.on(device)?.into_owned().into_kept());
            Ok(Angles { cos: on(cos)?, sin: on(sin)? })
        })
    }
}

/// Height and width get `2 * (head_dim / 6)` values each and time the rest, as in the reference's
/// `SkyReelsV2RotaryPosEmbed`; angles are computed in f64 and rounded once.
fn build(head_dim: usize, first: [usize; 2], grid: [usize; 3]) -> Angles {
    let spatial = head_dim / 6;
    let pairs = [head_dim / 2 - 2 * spatial, spatial, spatial];
    let axes: Vec<Vec<(f32, f32)>> = grid
        .iter()
        .zip([first[0], first[1], 0])
        .zip(pairs)
        .map(|((&positions, first), pairs)| {
            (first..first + positions)
                .flat_map(|position| {
                    (0..pairs).map(move |i| {
                        let exponent = (2 * i) as f64 / (2 * pairs) as f64;
                        let angle = position as f64 * (1.0 / BASE.powf(exponent));
                        (angle.cos() as f32, angle.sin() as f32)
                    })
                })
                .collect()
        })
        .collect();
    let half = head_dim / 2;
    let tokens = grid.iter().product::<usize>();
    let (mut cos, mut sin) = (Vec::with_capacity(tokens * half), Vec::with_capacity(tokens * half));
    for token in 0..tokens {
        let place = [token / (grid[1] * grid[2]), token / grid[2] % grid[1], token % grid[2]];
        for axis in 0..3 {
            let row = &axes[axis][place[axis] * pairs[axis]..(place[axis] + 1) * pairs[axis]];
            cos.extend(row.iter().map(|angle| angle.0));
            sin.extend(row.iter().map(|angle| angle.1));
        }
    }
    Angles {
        cos: Tensor::from_vec(&[tokens, half], cos),
        sin: Tensor::from_vec(&[tokens, half], sin),
    }
}
