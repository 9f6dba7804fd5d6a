//! Convolutions of films of more values than 32 bits count.

use std::sync::Arc;

use longreel_kernels::Weight;
use longreel_kernels::gpu::{Array, Element, Gpu, ops};

use super::{MANY, TOLERANCE, close, dot, get, given, large, put, unset, weights, wide};
use crate::Numbers;

/// Frames `[frames, 720, 1280, channels]`, of which the last corner is written: three frames, three lines, ten
/// columns.
struct Film {
    values: Array,
    shape: [usize; 4],
    corner: Vec<f64>,
}

const CORNER: [usize; 3] = [3, 3, 10];

impl Film {
    fn new(gpu: &Arc<Gpu>, frames: usize, channels: usize) -> Option<Self> {
        let shape = [frames, 720, 1280, channels];
        let values = unset(gpu, Element::Bf16, shape.iter().product())?;
        let mut numbers = Numbers::new(channels as u64);
        let [t, h, w] = CORNER;
        let mut corner = Vec::new();
        for (frame, line) in (0..t).flat_map(|t| (0..h).map(move |line| (t, line))) {
            let line_values = numbers.vec(w * channels);
            let at = ((frames - t + frame) * 720 + 720 - h + line) * 1280 + 1280 - w;
            put(&values, at * channels, &line_values);
            corner.extend(wide(&line_values));
        }
        Some(Self { values, shape, corner })
    }

    fn frames(&self) -> ops::Frames<'_> {
        ops::Frames { values: &self.values, shape: self.shape, history: None }
    }

    /// A pixel of the corner, counted from its start; zeros beyond the picture's end.
    fn pixel(&self, frame: usize, line: usize, column: usize) -> Vec<f64> {
        let (channels, [_, h, w]) = (self.shape[3], CORNER);
        match line < h && column < w {
            true => {
                self.corner[((frame * h + line) * w + column) * channels..][..channels].to_vec()
            }
            false => vec![0.0; channels],
        }
    }
}

#[test]
fn convolutions_reach_the_last_pixels_of_long_films() {
    // On the tensor cores, and in f32.
    for (channels, outputs) in [(24, 16), (23, 3)] {
        let Some(gpu) = large() else { return };
        let Some(film) = Film::new(&gpu, 121, channels) else { return };
        assert!(film.values.len() > MANY);
        let stored = weights(&mut Numbers::new(9), outputs, channels * 27);
        let weight = Weight::from_f32(&[outputs, channels, 3, 3, 3], &stored);
        let packed = given(&gpu, Element::Bf16, &ops::window_weight(&weight).to_f32());
        let dense = ops::Dense::of(&packed, outputs, 27 * channels);
        let windows = ops::Windows { kernel: [3; 3], stride: [1; 3], padding: [1; 4] };
        let out = ops::conv3d(film.frames(), &windows, &dense, None, Element::Bf16);
        let stored = wide(&stored);
        // The last pixel: its window ends beyond the last line and column.
        let sum = |output: usize| -> f64 {
            let taps = (0..27).map(|tap| (tap / 9, tap / 3 % 3, tap % 3));
            let value = |(t, y, x): (usize, usize, usize)| {
                let seen = film.pixel(t, 1 + y, 8 + x);
                let weight = |i: usize| stored[(output * channels + i) * 27 + t * 9 + y * 3 + x];
                (0..channels).map(|i| seen[i] * weight(i)).sum::<f64>()
            };
            taps.map(value).sum()
        };
        let expected: Vec<f64> = (0..outputs).map(sum).collect();
        let len = out.len();
        close("a convolution", &get(&out, len - outputs..len), &expected, TOLERANCE);
    }
}

#[test]
fn doubled_pictures_are_written_to_their_last_pixels() {
    let Some(gpu) = large() else { return };
    let (frames, channels, outputs) = (25, 24, 24);
    let Some(film) = Film::new(&gpu, frames, channels) else { return };
    assert!(4 * frames * 720 * 1280 * outputs > MANY);
    let stored = weights(&mut Numbers::new(9), outputs, channels * 9);
    let weight = Weight::from_f32(&[outputs, channels, 3, 3], &stored);
    let quarters = ops::quarter_weight(&weight).to_f32();
    let packed = given(&gpu, Element::Bf16, &quarters);
    let dense = ops::Dense::of(&packed, 4 * outputs, 4 * channels);
    let out = ops::upsampled_conv(film.frames(), &dense, None, Element::Bf16);
    // The last pixel of the last quarter sees the last pixel alone, and zeros beyond the picture.
    let (seen, quarters) = (film.pixel(2, 2, 9), wide(&quarters));
    let sum =
        |output: usize| dot(&seen, &quarters[(3 * outputs + output) * 4 * channels..][..channels]);
    let expected: Vec<f64> = (0..outputs).map(sum).collect();
    let len = out.len();
    close("a doubled picture", &get(&out, len - outputs..len), &expected, TOLERANCE);
}
