//! Resampling as Pillow does it, because the reference resizes its input images with Pillow and the
//! condition should start from the same pixels.
//!
//! The arithmetic follows Pillow's `src/libImaging/Resample.c`: a window that widens when shrinking,
//! weights as 22-bit fixed point, one pass for each axis, each rounded to 8 bits.

use std::borrow::Cow;

use crate::error::Result;
use crate::frame::Frame;

/// Fraction bits of a weight: 8 bits of pixel and 2 of headroom are left of 32.
const PRECISION: u32 = 32 - 8 - 2;

/// How neighbouring pixels are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Three lobes of a windowed sinc: the sharpest, for what people look at.
    Lanczos,
    /// Cubic convolution with a = -0.5: what CLIP was trained on.
    Bicubic,
}

impl Filter {
    /// Pixels that count on each side, at the original size.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Lanczos => lanczos(x),
            Self::Bicubic => bicubic(x),
        }
    }
}

/// Scales `frame` to exactly `width` x `height`, each at least 1.
///
/// # Errors
/// [`MediaError::Setting`](crate::MediaError::Setting) for a side of zero.
pub fn resize(frame: &Frame, width: u32, height: u32, filter: Filter) -> Result<Frame> {
    let whole = [0.0, 0.0, f64::from(frame.width()), f64::from(frame.height())];
    resize_region(frame, whole, width, height, filter)
}

/// Scales the region `[left, top, right, bottom]` of `frame` (inside it, in pixels, not necessarily
/// whole ones) to `width` x `height`.
pub(super) fn resize_region(
    frame: &Frame,
    [left, top, right, bottom]: [f64; 4],
    width: u32,
    height: u32,
    filter: Filter,
) -> Result<Frame> {
    if width == 0 || height == 0 {
        // The error that such a frame has.
        return Frame::new(width, height, Vec::new());
    }
    let (w, h) = (frame.width() as usize, frame.height() as usize);
    let (out_w, out_h) = (width as usize, height as usize);
    let across = ((left, right) != (0.0, w as f64) || out_w != w)
        .then(|| windows(w, left, right, out_w, filter));
    let down = ((top, bottom) != (0.0, h as f64) || out_h != h)
        .then(|| windows(h, top, bottom, out_h, filter));
    // Each pass rounds to 8 bits, so their order shows: Pillow 13 begins with the one that leaves
    // fewer pixels for the other when the height shrinks much more than the width.
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let lines_first = shrinks(h, out_h) > 0 && shrinks(h, out_h) > 2 * shrinks(w, out_w);
    let mut rgb = Cow::Borrowed(frame.rgb());
    if let (Some(down), true) = (&down, lines_first) {
        rgb = vertical(&rgb, w * 3, down).into();
    }
    if let Some(across) = &across {
        rgb = horizontal(&rgb, w, across).into();
    }
    if let (Some(down), false) = (&down, lines_first) {
        rgb = vertical(&rgb, out_w * 3, down).into();
    }
    Frame::new(width, height, rgb.into_owned())
}

/// Where an output sample reads, and with which weights.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| match x == 0.0 {
        true => 1.0,
        false => (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x),
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn windows(length: usize, from: f64, to: f64, out: usize, filter: Filter) -> Vec<Window> {
    let scale = (to - from) / out as f64;
    let widened = scale.max(1.0);
    let support = filter.support() * widened;
    (0..out)
        .map(|index| {
            let centre = from + (index as f64 + 0.5) * scale;
            let start = ((centre - support + 0.5).max(0.0) as usize).min(length - 1);
            let end = ((centre + support + 0.5) as usize).clamp(start + 1, length);
            let raw: Vec<f64> =
                (start..end).map(|x| filter.weight((x as f64 - centre + 0.5) / widened)).collect();
            let sum: f64 = raw.iter().sum();
            let one = f64::from(1 << PRECISION);
            let weights = raw
                .iter()
                .map(|w| if sum == 0.0 { *w } else { w / sum })
                .map(|w| (w * one).round() as i32)
                .collect();
            Window { start, weights }
        })
        .collect()
}

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

fn horizontal(rgb: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = Vec::with_capacity(windows.len() * (rgb.len() / width));
    for row in rgb.chunks_exact(width * 3) {
        for window in windows {
            let mut sums = [HALF; 3];
            let pixels = row[window.start * 3..].chunks_exact(3);
            for (pixel, &weight) in pixels.zip(&window.weights) {
                for k in 0..3 {
                    sums[k] += i32::from(pixel[k]) * weight;
                }
            }
            out.extend(sums.map(rounded));
        }
    }
    out
}

fn vertical(rgb: &[u8], row_bytes: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = Vec::with_capacity(windows.len() * row_bytes);
    let mut sums = vec![0i32; row_bytes];
    for window in windows {
        sums.fill(HALF);
        let rows = rgb[window.start * row_bytes..].chunks_exact(row_bytes);
        for (row, &weight) in rows.zip(&window.weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&s| rounded(s)));
    }
    out
}
