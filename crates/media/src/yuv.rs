//! Colour: 8-bit R'G'B' to 8-bit 4:2:0 and back.
//!
//! Encoding is always BT.709 with limited range, which is what the files are tagged with and what
//! every player assumes for video without a tag. Chroma samples sit where H.264 places them by
//! default (type 0: on the left column of each pair, between the two rows), so the way down filters
//! with \[1 2 1\] along a row and averages two rows, and the way up interpolates from the same places.
//! Taking the mean of each 2x2 block instead would shift all colour edges by half a pixel.

use crate::frame::Frame;

/// Planes of one 4:2:0 picture, each without padding between rows.
pub(crate) struct Yuv420 {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// `[height, width]`
    pub(crate) y: Vec<u8>,
    /// `[height / 2, width / 2]`
    pub(crate) u: Vec<u8>,
    /// `[height / 2, width / 2]`
    pub(crate) v: Vec<u8>,
}

/// Fraction bits of the forward coefficients.
const SHIFT: u32 = 16;

const fn fixed(value: f64) -> i32 {
    let scaled = value * (1i64 << SHIFT) as f64;
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

// BT.709: luma weights, then the differences scaled so that each spans 224 levels.
const KR: f64 = 0.2126;
const KB: f64 = 0.0722;
const KG: f64 = 1.0 - KR - KB;
const Y_SPAN: f64 = 219.0 / 255.0;
const C_SPAN: f64 = 224.0 / 255.0;
const Y_OF: [i32; 3] = [fixed(Y_SPAN * KR), fixed(Y_SPAN * KG), fixed(Y_SPAN * KB)];
const CB_SCALE: f64 = C_SPAN / (2.0 * (1.0 - KB));
const CR_SCALE: f64 = C_SPAN / (2.0 * (1.0 - KR));
const U_OF: [i32; 3] = [fixed(-KR * CB_SCALE), fixed(-KG * CB_SCALE), fixed((1.0 - KB) * CB_SCALE)];
const V_OF: [i32; 3] = [fixed((1.0 - KR) * CR_SCALE), fixed(-KG * CR_SCALE), fixed(-KB * CR_SCALE)];

impl Yuv420 {
    /// Empty planes for frames of an even `width` and `height`.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let chroma = (width / 2) * (height / 2);
        Self {
            width,
            height,
            y: vec![16; width * height],
            u: vec![128; chroma],
            v: vec![128; chroma],
        }
    }

    /// Fills the planes from `frame`, which has this size.
    pub(crate) fn fill(&mut self, frame: &Frame) {
        assert_eq!(
            (frame.width() as usize, frame.height() as usize),
            (self.width, self.height),
            "frame size was checked by the caller"
        );
        let rgb = frame.rgb();
        let half = 1 << (SHIFT - 1);
        for (out, p) in self.y.iter_mut().zip(rgb.chunks_exact(3)) {
            let sum =
                Y_OF[0] * i32::from(p[0]) + Y_OF[1] * i32::from(p[1]) + Y_OF[2] * i32::from(p[2]);
            *out = (16 + ((sum + half) >> SHIFT)) as u8;
        }
        let row = self.width * 3;
        let mut pair = vec![0i32; row];
        for (j, two) in rgb.chunks_exact(2 * row).enumerate() {
            let (upper, lower) = two.split_at(row);
            for ((sum, &a), &b) in pair.iter_mut().zip(upper).zip(lower) {
                *sum = i32::from(a) + i32::from(b);
            }
            let at = j * (self.width / 2);
            for i in 0..self.width / 2 {
                let centre = 6 * i;
                let left = centre.saturating_sub(3);
                let mut c = [0i32; 3];
                for (k, c) in c.iter_mut().enumerate() {
                    // At the left edge the missing neighbour repeats the edge itself.
                    let before = pair[if i == 0 { k } else { left + k }];
                    *c = before + 2 * pair[centre + k] + pair[centre + 3 + k];
                }
                let mix = |of: [i32; 3]| {
                    let sum = i64::from(of[0]) * i64::from(c[0])
                        + i64::from(of[1]) * i64::from(c[1])
                        + i64::from(of[2]) * i64::from(c[2]);
                    (128 + ((sum + i64::from(half) * 8) >> (SHIFT + 3))).clamp(0, 255) as u8
                };
                self.u[at + i] = mix(U_OF);
                self.v[at + i] = mix(V_OF);
            }
        }
    }
}

/// How the numbers of a decoded video are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColourSpace {
    /// The H.264 `matrix_coefficients` code: 1 is BT.709, 5 and 6 are BT.601, 9 is BT.2020.
    pub(crate) matrix: u8,
    /// Luma spans 0..=255 instead of 16..=235.
    pub(crate) full_range: bool,
}

impl ColourSpace {
    /// The usual reading when a file has no tag: BT.709 from 720 lines on, BT.601 below.
    pub(crate) fn resolved(self, width: usize, height: usize) -> Self {
        let known = matches!(self.matrix, 1 | 4..=7 | 9 | 10);
        let matrix = match known {
            true => self.matrix,
            false if width >= 1280 || height >= 720 => 1,
            false => 6,
        };
        Self { matrix, ..self }
    }

    fn weights(self) -> (f64, f64) {
        match self.matrix {
            4..=6 => (0.299, 0.114),
            7 => (0.212, 0.087),
            9 | 10 => (0.2627, 0.0593),
            _ => (KR, KB),
        }
    }
}

/// One plane as a decoder hands it out: rows of `stride` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Plane<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) stride: usize,
}

impl Plane<'_> {
    fn row(&self, y: usize, width: usize) -> &[u8] {
        &self.data[y * self.stride..y * self.stride + width]
    }
}

/// Converts a 4:2:0 picture of an even `width` and `height` to R'G'B', `[height, width, 3]`.
pub(crate) fn to_rgb(
    width: usize,
    height: usize,
    [y, u, v]: [Plane<'_>; 3],
    colour: ColourSpace,
) -> Vec<u8> {
    let colour = colour.resolved(width, height);
    let (kr, kb) = colour.weights();
    let kg = 1.0 - kr - kb;
    let (y_gain, c_gain, black) = match colour.full_range {
        true => (1.0, 1.0, 0),
        false => (255.0 / 219.0, 255.0 / 224.0, 16),
    };
    // Chroma arrives scaled by 8 from the interpolation, so its coefficients are an eighth.
    let y_coef = fixed(y_gain);
    let r_v = fixed(2.0 * (1.0 - kr) * c_gain / 8.0);
    let b_u = fixed(2.0 * (1.0 - kb) * c_gain / 8.0);
    let g_u = fixed(-2.0 * (1.0 - kb) * kb / kg * c_gain / 8.0);
    let g_v = fixed(-2.0 * (1.0 - kr) * kr / kg * c_gain / 8.0);

    let (cw, ch) = (width / 2, height / 2);
    let mut rgb = vec![0u8; width * height * 3];
    let mut u_row = vec![0i32; width];
    let mut v_row = vec![0i32; width];
    for (j, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
        let near = j / 2;
        let far = if j % 2 == 0 { near.saturating_sub(1) } else { (near + 1).min(ch - 1) };
        for (plane, line) in [(&u, &mut u_row), (&v, &mut v_row)] {
            interpolate(plane.row(near, cw), plane.row(far, cw), line);
        }
        let luma = y.row(j, width);
        for (i, p) in out.chunks_exact_mut(3).enumerate() {
            let base = y_coef * (i32::from(luma[i]) - black) + (1 << (SHIFT - 1));
            let (cu, cv) = (u_row[i], v_row[i]);
            p[0] = ((base + r_v * cv) >> SHIFT).clamp(0, 255) as u8;
            p[1] = ((base + g_u * cu + g_v * cv) >> SHIFT).clamp(0, 255) as u8;
            p[2] = ((base + b_u * cu) >> SHIFT).clamp(0, 255) as u8;
        }
    }
    rgb
}

/// Full-width chroma for one luma row, centred on zero and scaled by 8: three parts of the nearer
/// chroma row and one of the farther, then the columns between two samples take their mean.
fn interpolate(near: &[u8], far: &[u8], out: &mut [i32]) {
    let at = |i: usize| 3 * i32::from(near[i]) + i32::from(far[i]) - 4 * 128;
    let last = near.len() - 1;
    for (i, two) in out.chunks_exact_mut(2).enumerate() {
        let here = at(i);
        two[0] = 2 * here;
        two[1] = here + at((i + 1).min(last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITED_709: ColourSpace = ColourSpace { matrix: 1, full_range: false };

    fn round_trip(frame: &Frame) -> Frame {
        let (w, h) = (frame.width() as usize, frame.height() as usize);
        let mut yuv = Yuv420::new(w, h);
        yuv.fill(frame);
        let plane = |data, stride| Plane { data, stride };
        let planes = [plane(&yuv.y[..], w), plane(&yuv.u[..], w / 2), plane(&yuv.v[..], w / 2)];
        Frame::new(frame.width(), frame.height(), to_rgb(w, h, planes, LIMITED_709)).unwrap()
    }

    #[test]
    fn primaries_have_the_published_bt709_codes() {
        // ITU-R BT.709 with 8-bit limited range: the values of the standard's colour bars.
        for (rgb, want) in [
            ([255, 255, 255], [235, 128, 128]),
            ([0, 0, 0], [16, 128, 128]),
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
        ] {
            let mut yuv = Yuv420::new(4, 4);
            yuv.fill(&Frame::filled(4, 4, rgb));
            assert_eq!([yuv.y[5], yuv.u[3], yuv.v[3]], want, "{rgb:?}");
        }
    }

    #[test]
    fn flat_colours_survive_within_the_rounding_of_limited_range() {
        // One luma step is 255/219 = 1.16 levels, one Cb step up to 2.1 levels of blue: half a step
        // of each adds up to at most 2 levels.
        for r in (0..=255u32).step_by(51) {
            for g in (0..=255u32).step_by(51) {
                for b in (0..=255u32).step_by(51) {
                    let colour = [r as u8, g as u8, b as u8];
                    let back = round_trip(&Frame::filled(6, 4, colour));
                    for p in back.rgb().chunks_exact(3) {
                        for k in 0..3 {
                            assert!(p[k].abs_diff(colour[k]) <= 2, "{colour:?} became {p:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_slow_colour_ramp_is_not_shifted() {
        // Blue rises by 2 levels a pixel with luma nearly constant: half a pixel of chroma shift
        // would show as a constant error of one level in the mean of the signed differences.
        let (w, h) = (96u32, 8u32);
        let mut frame = Frame::filled(w, h, [128, 128, 0]);
        for (i, p) in frame.rgb_mut().chunks_exact_mut(3).enumerate() {
            p[2] = 30 + 2 * (i as u32 % w) as u8;
        }
        let back = round_trip(&frame);
        let (mut sum, mut n) = (0i64, 0i64);
        for y in 0..h {
            for x in 4..w - 4 {
                sum += i64::from(back.pixel(x, y).unwrap()[2])
                    - i64::from(frame.pixel(x, y).unwrap()[2]);
                n += 1;
            }
        }
        let mean = sum as f64 / n as f64;
        assert!(mean.abs() < 0.4, "mean signed error of blue is {mean}");
    }
}
