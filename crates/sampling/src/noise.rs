//! Counter-based Gaussian noise: the same seed gives the same film on every machine.
//!
//! Each value is a function of (seed, purpose, segment, latent frame, row, position) and of nothing
//! else: not of the values drawn before it, the number of threads, or where a run was interrupted.
//! So a resumed film draws what it would have drawn, and noise never has to be stored.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel Random Numbers: As
//! Easy as 1, 2, 3", SC11), the transform is Box & Muller (1958). Logarithm, sine and cosine come
//! from the `libm` crate, plain Rust in f64: the functions behind `f64::ln` and `f64::sin` are the
//! system's, which differ by platform and pick code by processor, and one differing bit here would
//! make another film. The square root is exact by IEEE 754 everywhere.

/// What noise is for; purposes never share values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// The start of a segment's new frames.
    Initial = 1,
    /// Mixed into frozen frames in every row (`addnoise_condition`).
    Condition = 2,
    /// Added again after each step by few-step solvers.
    Renoise = 3,
}

/// Names the noise of one latent frame. Two keys that differ in any field give independent values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NoiseKey {
    /// The film's seed.
    pub seed: u64,
    /// The segment's index in the film.
    pub segment: u32,
    /// The frame's place in the segment's window.
    pub latent_frame: u32,
    /// What the noise is for.
    pub purpose: Purpose,
    /// The row of the timetable, for noise that is drawn anew in each; otherwise 0.
    pub row: u32,
}

impl NoiseKey {
    /// The noise that a segment's frame starts from.
    pub fn initial(seed: u64, segment: u32, latent_frame: u32) -> Self {
        Self { seed, segment, latent_frame, purpose: Purpose::Initial, row: 0 }
    }

    /// The noise mixed into a frozen frame in `row`.
    pub fn condition(seed: u64, segment: u32, latent_frame: u32, row: u32) -> Self {
        Self { seed, segment, latent_frame, purpose: Purpose::Condition, row }
    }

    /// The noise a few-step solver adds to a frame in `row`.
    pub fn renoise(seed: u64, segment: u32, latent_frame: u32, row: u32) -> Self {
        Self { seed, segment, latent_frame, purpose: Purpose::Renoise, row }
    }

    /// The Philox key: the seed, with the purpose mixed in by the generator itself, so that the
    /// four counter words stay free for position, frame, segment and row.
    fn philox_key(&self) -> [u32; 2] {
        let seed = [self.seed as u32, (self.seed >> 32) as u32];
        let [low, high, _, _] = philox4x32_10([self.purpose as u32, 0, 0, 0], seed);
        [low, high]
    }
}

/// Fills `out` with standard normal values: `out[i]` is value `first_element + i` of the frame.
///
/// A frame has 2^34 values; positions beyond wrap around. Any split of a frame into calls gives the
/// same values.
pub fn fill_normal(key: &NoiseKey, first_element: u64, out: &mut [f32]) {
    let philox_key = key.philox_key();
    let four = |block: u64| {
        four_normals(philox4x32_10(
            [block as u32, key.latent_frame, key.segment, key.row],
            philox_key,
        ))
    };
    let skip = (first_element % 4) as usize;
    let (head, tail) = out.split_at_mut(if skip == 0 { 0 } else { (4 - skip).min(out.len()) });
    if !head.is_empty() {
        let values = four(first_element / 4);
        head.copy_from_slice(&values[skip..skip + head.len()]);
    }
    let first_block = first_element.div_ceil(4);
    for (block, chunk) in (first_block..).zip(tail.chunks_mut(4)) {
        chunk.copy_from_slice(&four(block)[..chunk.len()]);
    }
}

/// Philox4x32 with 10 rounds: a bijection of `counter` for each `key`.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    // Weyl constants: the golden ratio and sqrt(3) - 1, as fractions of 2^32.
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
    }
    counter
}

/// Box-Muller twice: four uniform words to four normal values, |value| <= 6.67.
fn four_normals(words: [u32; 4]) -> [f32; 4] {
    let (a, b) = two_normals(words[0], words[1]);
    let (c, d) = two_normals(words[2], words[3]);
    [a, b, c, d]
}

fn two_normals(first: u32, second: u32) -> (f32, f32) {
    const SCALE: f64 = 1.0 / 4_294_967_296.0;
    // In (0, 1], so that the logarithm is finite; in [0, 1) for the angle.
    let radius = (-2.0 * libm::log((f64::from(first) + 1.0) * SCALE)).sqrt();
    let (sin, cos) = libm::sincos(std::f64::consts::TAU * (f64::from(second) * SCALE));
    ((radius * cos) as f32, (radius * sin) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors of the authors' Random123 library (`tests/kat_vectors`, philox4x32 10).
    #[test]
    fn philox_matches_the_published_vectors() {
        let vectors = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in vectors {
            assert_eq!(philox4x32_10(counter, key), expected, "counter {counter:x?} key {key:x?}");
        }
    }

    #[test]
    fn extreme_words_give_finite_values() {
        for words in [[0; 4], [u32::MAX; 4], [0, u32::MAX, u32::MAX, 0]] {
            for value in four_normals(words) {
                assert!(value.abs() <= 6.67, "{words:x?} gave {value}");
            }
        }
    }
}
