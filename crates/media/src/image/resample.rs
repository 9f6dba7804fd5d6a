//! Resampling as Pillow does it, because the reference resizes its input images with Pillow and the
//! condition should start from the same pixels.
//!
//! The arithmetic follows Pillow's `src/libImaging/Resample.c`: a window that widens when shrinking,
//! weights as 22-bit fixed point, one pass for each axis, each rounded to 8 bits.

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
    Ok(Resizer::new([frame.width(), frame.height()], [width, height], filter)?.into_resized(frame))
}

/// Scales the region `[left, top, right, bottom]` of `frame` (inside it, in pixels, not necessarily
/// whole ones) to `width` x `height`.
pub(super) fn resize_region(
    frame: &Frame,
    region: [f64; 4],
    width: u32,
    height: u32,
    filter: Filter,
) -> Result<Frame> {
    let from = [frame.width(), frame.height()];
    Ok(Resizer::of_region(from, region, [width, height], filter)?.into_resized(frame))
}

/// Scales frames of one size to another one, one after another, in the same memory.
pub struct Resizer {
    from: [usize; 2],
    across: Option<Vec<Window>>,
    down: Option<Vec<Window>>,
    lines_first: bool,
    /// Between the two passes.
    middle: Vec<u8>,
    result: Frame,
}

impl Resizer {
    /// For frames of `from` to ones of `to`, `[width, height]` each, sides at least 1.
    ///
    /// # Errors
    /// [`MediaError::Setting`](crate::MediaError::Setting) for a side of zero.
    pub fn new(from: [u32; 2], to: [u32; 2], filter: Filter) -> Result<Self> {
        let whole = [0.0, 0.0, f64::from(from[0]), f64::from(from[1])];
        Self::of_region(from, whole, to, filter)
    }

    fn of_region(
        from: [u32; 2],
        [left, top, right, bottom]: [f64; 4],
        [width, height]: [u32; 2],
        filter: Filter,
    ) -> Result<Self> {
        let [w, h] = from.map(|side| side as usize);
        let (out_w, out_h) = (width as usize, height as usize);
        let result = Frame::new(width, height, vec![0; out_w * out_h * 3])?;
        let across = ((left, right) != (0.0, w as f64) || out_w != w)
            .then(|| windows(w, left, right, out_w, filter));
        let down = ((top, bottom) != (0.0, h as f64) || out_h != h)
            .then(|| windows(h, top, bottom, out_h, filter));
        // Each pass rounds to 8 bits, so their order shows: Pillow 13 begins with the one that leaves
        // fewer pixels for the other when the height shrinks much more than the width.
        let shrinks = |from: usize, to: usize| from as i64 - to as i64;
        let lines_first = shrinks(h, out_h) > 0 && shrinks(h, out_h) > 2 * shrinks(w, out_w);
        let between = match (&across, &down) {
            (Some(_), Some(_)) if lines_first => w * out_h * 3,
            (Some(_), Some(_)) => out_w * h * 3,
            _ => 0,
        };
        Ok(Self { from: [w, h], across, down, lines_first, middle: vec![0; between], result })
    }

    /// Bytes that it holds for such sizes, the result included.
    pub fn bytes(from: [usize; 2], to: [usize; 2]) -> usize {
        let between = if from[0] == to[0] || from[1] == to[1] { 0 } else { to[0] * from[1] };
        3 * (between + to[0] * to[1])
    }

    /// `frame`, which has the size that was said, in the other one, until the next call.
    ///
    /// # Panics
    /// When the frame has another size.
    pub fn resize(&mut self, frame: &Frame) -> &Frame {
        let [w, h] = self.from;
        let size = [frame.width() as usize, frame.height() as usize];
        assert_eq!(size, [w, h], "Resizer::resize: the frame's size");
        let out_w = self.result.width() as usize;
        let (middle, result) = (&mut self.middle[..], self.result.rgb_mut());
        match (&self.across, &self.down) {
            (Some(across), Some(down)) if self.lines_first => {
                vertical(frame.rgb(), w * 3, down, middle);
                horizontal(middle, w, across, result);
            }
            (Some(across), Some(down)) => {
                horizontal(frame.rgb(), w, across, middle);
                vertical(middle, out_w * 3, down, result);
            }
            (Some(across), None) => horizontal(frame.rgb(), w, across, result),
            (None, Some(down)) => vertical(frame.rgb(), w * 3, down, result),
            (None, None) => result.copy_from_slice(frame.rgb()),
        }
        &self.result
    }

    fn into_resized(mut self, frame: &Frame) -> Frame {
        self.resize(frame);
        self.result
    }
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

/// Lines of `width` pixels to lines of as many as there are windows.
fn horizontal(rgb: &[u8], width: usize, windows: &[Window], out: &mut [u8]) {
    for (row, out) in rgb.chunks_exact(width * 3).zip(out.chunks_exact_mut(windows.len() * 3)) {
        for (window, out) in windows.iter().zip(out.chunks_exact_mut(3)) {
            let mut sums = [HALF; 3];
            let pixels = row[window.start * 3..].chunks_exact(3);
            for (pixel, &weight) in pixels.zip(&window.weights) {
                for k in 0..3 {
                    sums[k] += i32::from(pixel[k]) * weight;
                }
            }
            out.copy_from_slice(&sums.map(rounded));
        }
    }
}

/// Lines of `row_bytes` to as many of them as there are windows.
fn vertical(rgb: &[u8], row_bytes: usize, windows: &[Window], out: &mut [u8]) {
    let mut sums = vec![0i32; row_bytes];
    for (window, out) in windows.iter().zip(out.chunks_exact_mut(row_bytes)) {
        sums.fill(HALF);
        let rows = rgb[window.start * row_bytes..].chunks_exact(row_bytes);
        for (row, &weight) in rows.zip(&window.weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = rounded(sum));
    }
}
