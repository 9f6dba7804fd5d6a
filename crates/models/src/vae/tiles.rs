//! Strips of rows in which the decoder can work where a whole picture does not fit its memory.
//!
//! What sees all of a frame (the attention in the middle) is at the latents' own size, and takes little. From
//! there on every layer sees a few rows above and below, so a strip that begins with enough of them comes to
//! the very rows that the whole picture would have, and nothing is blended.

use std::ops::Range;

use longreel_weights::VaeConfig;

/// Rows of a strip begin and end at multiples of this many where the picture is twice as high: a convolution
/// may take its pixels in squares, of which a row above and one below changes the first and the last row alone.
const SQUARE: usize = longreel_kernels::ops::CONV_SQUARE;

/// How a picture is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaeTiles(Vec<VaeTile>);

/// One strip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaeTile {
    /// Rows of latents whose pictures come of it.
    pub own: Range<usize>,
    /// Of each doubling of the height, the rows that it takes, of those that there are before it.
    pub doubled: Vec<Range<usize>>,
}

impl VaeTiles {
    /// Of `rows` rows of latents in `count` strips, or fewer when there are not so many rows.
    pub fn new(config: &VaeConfig, rows: usize, count: usize) -> Self {
        let count = count.clamp(1, rows.max(1));
        let cut = |index: usize| index * rows / count;
        Self((0..count).map(|index| tile(config, rows, cut(index)..cut(index + 1))).collect())
    }

    /// The strips, from the top.
    pub fn tiles(&self) -> &[VaeTile] {
        &self.0
    }
}

impl VaeTile {
    /// Of so many values of the whole picture, of `rows` rows of latents, those that the strip has behind
    /// so many doublings of the height, rounded up: before the first one it has all of them.
    pub fn part_of(&self, values: usize, doublings: usize, rows: usize) -> usize {
        match doublings.checked_sub(1) {
            None => values,
            Some(before) => (values * self.doubled[before].len()).div_ceil((rows << before).max(1)),
        }
    }
}

fn tile(config: &VaeConfig, rows: usize, own: Range<usize>) -> VaeTile {
    let doublings = config.dim_mult.len() - 1;
    // The one after the doubling, and two of each residual block.
    let convolutions = 1 + 2 * (config.num_res_blocks + 1);
    let mut needed = own.start << doublings..own.end << doublings;
    let mut doubled = Vec::new();
    for level in (1..=doublings).rev() {
        // The last convolution of all follows the last level.
        let reach = reach(convolutions + usize::from(level == doublings));
        let whole = rows << level;
        let start = needed.start.saturating_sub(reach) / SQUARE * SQUARE;
        let end = (needed.end + reach).next_multiple_of(SQUARE).min(whole);
        needed = start / 2..end / 2;
        doubled.push(needed.clone());
    }
    doubled.reverse();
    VaeTile { own, doubled }
}

/// Rows from a cut at a square's edge that may be other ones than those of the whole picture after so many
/// convolutions of 3 x 3, each of which sees a row above and one below: a square with a wrong row inside is
/// rounded otherwise in all of its rows, one with a wrong row beside it differs in the nearest row alone.
fn reach(convolutions: usize) -> usize {
    (0..convolutions).fold(0, |wrong: usize, _| match wrong % SQUARE {
        0 => wrong + 1,
        _ => wrong.next_multiple_of(SQUARE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_cover_the_picture_and_reach_a_few_rows_beyond_their_own() {
        let config = VaeConfig::from_json("{}").expect("the default");
        for (rows, count) in [(90, 1), (90, 2), (68, 7), (5, 9), (1, 2)] {
            let tiles = VaeTiles::new(&config, rows, count);
            let tiles = tiles.tiles();
            assert_eq!(tiles.len(), count.min(rows));
            assert_eq!((tiles[0].own.start, tiles[tiles.len() - 1].own.end), (0, rows));
            assert!(tiles.windows(2).all(|two| two[0].own.end == two[1].own.start));
            for tile in tiles {
                for (level, taken) in tile.doubled.iter().enumerate() {
                    let own = tile.own.start << level..tile.own.end << level;
                    assert!(taken.start <= own.start && taken.end >= own.end, "{tile:?}");
                    assert!(taken.end <= rows << level && taken.start % 2 == 0, "{tile:?}");
                    assert!(taken.len() <= own.len() + 30, "{tile:?}");
                }
            }
        }
        let (whole, half) = (tile(&config, 90, 0..90), tile(&config, 90, 0..45));
        assert_eq!(whole.doubled, [0..90, 0..180, 0..360]);
        assert_eq!([0, 1, 2, 3].map(|doublings| whole.part_of(901, doublings, 90)), [901; 4]);
        assert_eq!(half.part_of(901, 0, 90), 901);
        for doublings in 1..=3 {
            let rows = half.doubled[doublings - 1].len();
            assert!((450..901).contains(&half.part_of(901, doublings, 90)), "{half:?}");
            assert_eq!(half.part_of(90 << (doublings - 1), doublings, 90), rows);
            assert_eq!(half.part_of(1, doublings, 90), 1, "rounded up");
        }
    }
}
