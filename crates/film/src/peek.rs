//! Pictures of a segment that is still being denoised.
//!
//! A latent of the segment's middle, as the network takes it to be without noise, is decoded alone.
//! That costs a pass of the decoder over one latent frame, so pictures are made as time allows: what
//! they took stays below [`SHARE`] of what the steps took, but for the first one, whose cost nobody
//! knows before. Nothing of the film depends on them.

use std::time::Instant;

use longreel_kernels::Tensor;
use longreel_media::Frame;
use longreel_models::{ModelError, VaeDecoder, VaeDecoderState};

use crate::condition::VAE_BUDGET_BYTES;
use crate::error::FilmError;

/// Part of the time of denoising that pictures may take.
const SHARE: f64 = 0.02;
/// Seconds of denoising between two pictures at least: nobody looks at more.
const EVERY_SECONDS: f64 = 2.0;

/// When pictures are made, and what they cost.
#[derive(Debug, Default)]
pub struct Peeks {
    /// Seconds that pictures took.
    spent: f64,
    /// Seconds that the last one took.
    last: f64,
    /// Seconds of denoising at the last one, or when the segment in work was begun.
    at: f64,
}

impl Peeks {
    /// A segment begins, after `worked` seconds of denoising.
    pub fn begin(&mut self, worked: f64) {
        self.at = worked;
    }

    /// Whether there is time for a picture, after `worked` seconds of denoising.
    pub fn is_due(&self, worked: f64) -> bool {
        worked - self.at >= EVERY_SECONDS && self.spent + self.last <= SHARE * worked
    }

    /// Notes that a picture took `seconds`.
    fn made(&mut self, worked: f64, seconds: f64) {
        self.spent += seconds;
        self.last = seconds;
        self.at = worked;
    }

    /// Makes a picture of `latent`, `[1, C, h, w]`, after `worked` seconds of denoising.
    ///
    /// # Errors
    /// Those of the decoder.
    pub fn make(
        &mut self,
        worked: f64,
        decoder: &VaeDecoder,
        latent: &Tensor,
    ) -> Result<Option<Frame>, FilmError> {
        let started = Instant::now();
        let mut picture = None;
        let state = &mut VaeDecoderState::new();
        decoder.decode_each::<ModelError>(latent, state, VAE_BUDGET_BYTES, |frames| {
            let (height, width) = (frames.dim(1), frames.dim(2));
            let rgb = frames.data()[..height * width * 3]
                .iter()
                .map(|&v| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8)
                .collect();
            picture = Frame::new(width as u32, height as u32, rgb).ok();
            Ok(())
        })?;
        self.made(worked, started.elapsed().as_secs_f64());
        Ok(picture)
    }

    /// Seconds that the last picture took.
    pub fn last_seconds(&self) -> f64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_take_little_of_the_time_however_dear_they_are() {
        for (step, cost) in [(0.01, 0.001), (0.5, 0.1), (3.0, 0.05), (1.0, 20.0), (600.0, 5.0)] {
            let (mut peeks, mut worked, mut last) = (Peeks::default(), 0.0, f64::NEG_INFINITY);
            let mut count = 0;
            for _ in 0..20_000 {
                worked += step;
                if peeks.is_due(worked) {
                    assert!(worked - last >= EVERY_SECONDS, "{worked} after {last}");
                    last = worked;
                    peeks.made(worked, cost);
                    count += 1;
                }
                assert!(peeks.spent <= SHARE * worked + cost, "{} of {worked}", peeks.spent);
            }
            assert!(count > 0, "steps of {step} s, pictures of {cost} s: none in {worked} s");
        }
    }
}
