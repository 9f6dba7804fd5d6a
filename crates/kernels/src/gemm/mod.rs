//! The matrix product under linear layers, attention and convolution: `C[m, n] += A[m, k] B[k, n]`.
//!
//! As in BLIS (Van Zee and van de Geijn 2015): B is packed into panels of `NR` columns that stay in
//! the first cache, A is read in rows, and a tile of `MR x NR` sums lives in registers. The order of
//! the sum over `k` depends only on the shapes, so results do not depend on the number of threads.

mod aligned;
mod dots;
mod matrix;
mod pack;
mod product;
mod scratch;
mod tile;

pub(crate) use aligned::Aligned;
pub(crate) use matrix::Matrix;
pub(crate) use pack::pack_panels;
pub use product::Products;
pub(crate) use product::{Finish, multiply, wanted_tasks};
pub(crate) use scratch::{Shared, with_scratch};
pub(crate) use tile::{OfPairs, OfSingles, Segment, Terms, Tile, at_least, tile_body};

/// Values of `k` in one block: a panel of B of this depth (32 or 64 KiB) about fills the first cache,
/// and sums are seldom put down and taken up again. A multiple of every block format's length, so that
/// blocks of weights are never cut.
pub(crate) const DEPTH: usize = 512;

/// The offset of panel `panel` of the block of B that begins at `k0` and is `depth` deep, when all
/// `panels` panels of `nr` columns stand block by block.
pub(crate) fn panel_offset(
    k0: usize,
    depth: usize,
    panels: usize,
    panel: usize,
    nr: usize,
) -> usize {
    (k0 * panels + panel * depth) * nr
}
