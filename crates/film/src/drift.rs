//! How much a film changes its look from segment to segment, measured on the frames as written.

use serde::{Deserialize, Serialize};

/// Means over the frames of one segment. Values are on the 0..255 scale of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Look {
    /// Mean red, green and blue.
    pub colour: [f64; 3],
    /// Standard deviation of luma (BT.709) within a frame.
    pub contrast: f64,
    /// Mean of `max(r, g, b) - min(r, g, b)`.
    pub saturation: f64,
    /// Mean absolute difference of luma between neighbouring pixels.
    pub sharpness: f64,
}

/// The look of a segment beside that of the first, and the jump where it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentDrift {
    /// From 0.
    pub segment: usize,
    /// Frames measured.
    pub frames: u64,
    /// The look of this segment.
    pub look: Look,
    /// This look less the first segment's.
    pub change: Look,
    /// Mean absolute pixel difference between the frame before the seam and the one after it.
    /// `None` in the first segment.
    pub seam_jump: Option<f64>,
    /// Mean absolute pixel difference between neighbouring frames inside the segment: what a seam
    /// would show if it were none.
    pub frame_change: f64,
}

/// Measures frames as they pass. Constant memory: it keeps one frame.
#[derive(Debug, Clone, Default)]
pub struct DriftMeter {
    first: Option<Look>,
    last_frame: Option<Vec<u8>>,
    sum: Look,
    frames: u64,
    seam_jump: Option<f64>,
    change_sum: f64,
    changes: u64,
}

/// What a [`DriftMeter`] needs to go on after a restart.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DriftState {
    /// The look of the first segment.
    pub first: Option<Look>,
}

impl DriftMeter {
    /// Goes on at a segment's start. `last_frame` is the film's last frame, `[H, W, 3]`.
    pub fn resume(state: &DriftState, last_frame: Option<Vec<u8>>) -> Self {
        Self { first: state.first, last_frame, ..Self::default() }
    }

    /// What to keep at a segment's end; the last frame is [`DriftMeter::last_frame`].
    pub fn state(&self) -> DriftState {
        DriftState { first: self.first }
    }

    /// The last frame seen, `[H, W, 3]`.
    pub fn last_frame(&self) -> Option<&[u8]> {
        self.last_frame.as_deref()
    }

    /// Takes one frame, `rgb` `[H, W, 3]`.
    pub fn push(&mut self, width: usize, rgb: &[u8]) {
        let look = look_of(width, rgb);
        for (s, v) in self.sum.colour.iter_mut().zip(look.colour) {
            *s += v;
        }
        self.sum.contrast += look.contrast;
        self.sum.saturation += look.saturation;
        self.sum.sharpness += look.sharpness;
        if let Some(last) = &self.last_frame {
            let jump = mean_difference(last, rgb);
            if self.frames == 0 {
                self.seam_jump = Some(jump);
            } else {
                self.change_sum += jump;
                self.changes += 1;
            }
        }
        self.frames += 1;
        match &mut self.last_frame {
            Some(last) => last.copy_from_slice(rgb),
            None => self.last_frame = Some(rgb.to_vec()),
        }
    }

    /// Ends a segment; `None` when it had no frames.
    pub fn finish_segment(&mut self, segment: usize) -> Option<SegmentDrift> {
        if self.frames == 0 {
            return None;
        }
        let n = self.frames as f64;
        let look = Look {
            colour: self.sum.colour.map(|v| v / n),
            contrast: self.sum.contrast / n,
            saturation: self.sum.saturation / n,
            sharpness: self.sum.sharpness / n,
        };
        let first = *self.first.get_or_insert(look);
        let drift = SegmentDrift {
            segment,
            frames: self.frames,
            look,
            change: Look {
                colour: std::array::from_fn(|i| look.colour[i] - first.colour[i]),
                contrast: look.contrast - first.contrast,
                saturation: look.saturation - first.saturation,
                sharpness: look.sharpness - first.sharpness,
            },
            seam_jump: self.seam_jump,
            frame_change: self.change_sum / (self.changes.max(1)) as f64,
        };
        *self = Self { first: self.first, last_frame: self.last_frame.take(), ..Self::default() };
        Some(drift)
    }
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
    sum as f64 / a.len().max(1) as f64
}

fn look_of(width: usize, rgb: &[u8]) -> Look {
    let pixels = (rgb.len() / 3).max(1) as f64;
    let mut colour = [0u64; 3];
    let mut saturation = 0u64;
    let (mut luma_sum, mut luma_square, mut edges) = (0.0f64, 0.0f64, 0.0f64);
    let luma =
        |p: &[u8]| 0.2126 * f64::from(p[0]) + 0.7152 * f64::from(p[1]) + 0.0722 * f64::from(p[2]);
    let row = width * 3;
    let mut above: Vec<f64> = Vec::with_capacity(width);
    let mut edge_count = 0u64;
    for line in rgb.chunks_exact(row.max(3)) {
        let mut current: Vec<f64> = Vec::with_capacity(width);
        for (x, p) in line.chunks_exact(3).enumerate() {
            for (c, &v) in colour.iter_mut().zip(p) {
                *c += u64::from(v);
            }
            let (low, high) = (p[0].min(p[1]).min(p[2]), p[0].max(p[1]).max(p[2]));
            saturation += u64::from(high - low);
            let y = luma(p);
            luma_sum += y;
            luma_square += y * y;
            if x > 0 {
                edges += (y - current[x - 1]).abs();
                edge_count += 1;
            }
            if let Some(&up) = above.get(x) {
                edges += (y - up).abs();
                edge_count += 1;
            }
            current.push(y);
        }
        above = current;
    }
    let mean = luma_sum / pixels;
    Look {
        colour: colour.map(|c| c as f64 / pixels),
        contrast: (luma_square / pixels - mean * mean).max(0.0).sqrt(),
        saturation: saturation as f64 / pixels,
        sharpness: edges / edge_count.max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(r: u8, g: u8, b: u8) -> Vec<u8> {
        [r, g, b].repeat(8 * 4)
    }

    #[test]
    fn a_brighter_second_segment_shows_as_colour_change_and_seam_jump() {
        let mut meter = DriftMeter::default();
        meter.push(8, &flat(10, 20, 30));
        meter.push(8, &flat(10, 20, 30));
        let first = meter.finish_segment(0).expect("two frames");
        assert_eq!(first.change, Look::default());
        assert_eq!(first.seam_jump, None);
        assert_eq!(first.frame_change, 0.0);
        meter.push(8, &flat(40, 20, 30));
        let second = meter.finish_segment(1).expect("one frame");
        assert_eq!(second.change.colour, [30.0, 0.0, 0.0]);
        assert_eq!(second.seam_jump, Some(10.0));
        assert_eq!(second.look.saturation, 20.0);
    }

    #[test]
    fn a_resumed_meter_reports_what_an_uninterrupted_one_does() {
        let frames: Vec<Vec<u8>> =
            (0..6u8).map(|i| (0..96).map(|p| i * 7 + p * (i + 1)).collect()).collect();
        let mut whole = DriftMeter::default();
        frames[..3].iter().for_each(|f| whole.push(8, f));
        whole.finish_segment(0);
        let mut resumed =
            DriftMeter::resume(&whole.state(), whole.last_frame().map(<[u8]>::to_vec));
        for meter in [&mut whole, &mut resumed] {
            frames[3..].iter().for_each(|f| meter.push(8, f));
        }
        assert_eq!(whole.finish_segment(1), resumed.finish_segment(1));
    }

    #[test]
    fn a_checkerboard_is_sharper_and_has_more_contrast_than_a_ramp() {
        let board: Vec<u8> =
            (0..64).flat_map(|i| [if (i + i / 8) % 2 == 0 { 0 } else { 255 }; 3]).collect();
        let ramp: Vec<u8> = (0..64).flat_map(|i| [(i % 8 * 32) as u8; 3]).collect();
        let (board, ramp) = (look_of(8, &board), look_of(8, &ramp));
        assert!(board.sharpness > 2.0 * ramp.sharpness, "{board:?} {ramp:?}");
        assert!(board.contrast > ramp.contrast, "{board:?} {ramp:?}");
    }
}
