//! Images in: decoded, turned upright, and brought to the size that a model wants.

mod decode;
mod exif;
mod fit;
mod resample;

pub use decode::{ImageFormat, ImageLimits, LoadedImage, decode_image, kind_in_words, load_image};
pub use fit::{Fit, FitReport, fit};
pub use resample::{Filter, Resizer, resize};

use crate::frame::Frame;

/// `frame` turned clockwise by `quarter_turns` times 90 degrees.
pub(crate) fn turned(frame: Frame, quarter_turns: u8) -> Frame {
    match quarter_turns % 4 {
        0 => frame,
        1 => oriented(frame, 6),
        2 => oriented(frame, 3),
        _ => oriented(frame, 8),
    }
}

/// `frame` as its EXIF orientation (1 to 8) says it is to be shown.
pub(crate) fn oriented(frame: Frame, orientation: u8) -> Frame {
    if !(2..=8).contains(&orientation) {
        return frame;
    }
    let (w, h) = (frame.width() as usize, frame.height() as usize);
    let transposed = orientation >= 5;
    let (out_w, out_h) = if transposed { (h, w) } else { (w, h) };
    let source = frame.rgb();
    let mut rgb = Vec::with_capacity(source.len());
    for y in 0..out_h {
        for x in 0..out_w {
            let (sx, sy) = match orientation {
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, h - 1 - x),
                7 => (w - 1 - y, h - 1 - x),
                _ => (w - 1 - y, x),
            };
            let at = (sy * w + sx) * 3;
            rgb.extend_from_slice(&source[at..at + 3]);
        }
    }
    Frame::new(out_w as u32, out_h as u32, rgb).expect("as many pixels as before")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_orientation_puts_the_corners_where_exif_says() {
        // Corners of a 3x2 picture: a b / c d. The table is TIFF 6.0, page 36: where row 0 and
        // column 0 of the stored picture are shown.
        let mut frame = Frame::filled(3, 2, [0; 3]);
        for (at, value) in [(0, 1), (2, 2), (3, 3), (5, 4)] {
            frame.rgb_mut()[at * 3] = value;
        }
        let corners = |f: &Frame| {
            let (r, b) = (f.width() - 1, f.height() - 1);
            [(0, 0), (r, 0), (0, b), (r, b)].map(|(x, y)| f.pixel(x, y).unwrap()[0])
        };
        for (orientation, want) in [
            (1, [1, 2, 3, 4]),
            (2, [2, 1, 4, 3]),
            (3, [4, 3, 2, 1]),
            (4, [3, 4, 1, 2]),
            (5, [1, 3, 2, 4]),
            (6, [3, 1, 4, 2]),
            (7, [4, 2, 3, 1]),
            (8, [2, 4, 1, 3]),
        ] {
            assert_eq!(corners(&oriented(frame.clone(), orientation)), want, "{orientation}");
        }
    }
}
