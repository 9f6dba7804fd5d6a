//! Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): the model is asked with and
//! without the prompt, and the difference is exaggerated.

use std::fmt;
use std::str::FromStr;

use longreel_kernels::Tensor;
use longreel_kernels::ops::guide;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::kept::KeptRow;
use crate::timetable::Row;

/// The noise levels at which guidance is applied, as sigmas of 0..=1, both ends included
/// (Kynkäänniemi et al. 2024, arXiv:2404.07724): early on guidance decides what the film shows, later it
/// mostly exaggerates colours and edges, and costs the unconditional pass. Written `0.85..1`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GuidanceInterval {
    low: f32,
    high: f32,
}

impl GuidanceInterval {
    /// Every noise level, as in the reference pipelines.
    pub const ALL: Self = Self { low: 0.0, high: 1.0 };

    /// From `low` to `high`.
    ///
    /// # Errors
    /// When they are not `0 <= low < high <= 1`.
    pub fn new(low: f32, high: f32) -> Result<Self, GuidanceError> {
        if 0.0 <= low && low < high && high <= 1.0 {
            Ok(Self { low, high })
        } else {
            Err(GuidanceError::Interval { interval: format!("{low}..{high}") })
        }
    }

    /// Whether a latent frame at `timestep`, 0..=1000, is guided.
    pub fn contains(self, timestep: f32) -> bool {
        (self.low..=self.high).contains(&(timestep / 1000.0))
    }
}

impl Default for GuidanceInterval {
    fn default() -> Self {
        Self::ALL
    }
}

impl fmt::Display for GuidanceInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.low, self.high)
    }
}

impl FromStr for GuidanceInterval {
    type Err = GuidanceError;

    fn from_str(text: &str) -> Result<Self, GuidanceError> {
        let bounds = text
            .split_once("..")
            .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
        match bounds {
            Some((low, high)) => Self::new(low, high),
            None => Err(GuidanceError::Interval { interval: text.to_owned() }),
        }
    }
}

impl From<GuidanceInterval> for String {
    fn from(interval: GuidanceInterval) -> Self {
        interval.to_string()
    }
}

impl TryFrom<String> for GuidanceInterval {
    type Error = GuidanceError;

    fn try_from(text: String) -> Result<Self, GuidanceError> {
        text.parse()
    }
}

/// A guidance scale and where it holds; at 1.0 and below the unconditional pass is skipped altogether, as in
/// `do_classifier_free_guidance` of the reference pipelines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    scale: f32,
    interval: GuidanceInterval,
}

impl Guidance {
    /// The prompt alone, one pass a row.
    pub const OFF: Self = Self { scale: 1.0, interval: GuidanceInterval::ALL };

    /// Checks that `guidance_scale` is a finite number.
    pub fn new(guidance_scale: f32, interval: GuidanceInterval) -> Result<Self, GuidanceError> {
        if guidance_scale.is_finite() {
            Ok(Self { scale: guidance_scale, interval })
        } else {
            Err(GuidanceError::NotFinite { guidance_scale })
        }
    }

    /// Whether there is an unconditional pass at all.
    pub fn enabled(self) -> bool {
        self.scale > 1.0
    }

    /// Whether a latent frame that the row moves is guided.
    pub fn guides(self, row: &Row) -> bool {
        let mut frames = row.timesteps.iter().zip(&row.update);
        self.enabled()
            && frames.any(|(&timestep, &moved)| moved && self.interval.contains(timestep))
    }

    /// For each row whether it runs the unconditional pass: where it guides; where that pass has keys to keep
    /// for later rows; and with a step cache, which takes over from the row before, up to the last row that
    /// guides.
    pub fn unconditional_rows(self, rows: &[Row], kept: &[KeptRow], step_cache: bool) -> Vec<bool> {
        let last = rows.iter().rposition(|row| self.guides(row));
        let needed = |(index, (row, kept)): (usize, (&Row, &KeptRow))| {
            let followed = step_cache && last.is_some_and(|last| index <= last);
            self.guides(row) || followed || self.enabled() && kept.keep > 0
        };
        rows.iter().zip(kept).enumerate().map(needed).collect()
    }

    /// The scale.
    pub fn scale(self) -> f32 {
        self.scale
    }

    /// `cond = uncond + scale * (cond - uncond)`, in place, for the latent frames that are guided. Both are
    /// velocities of frames at `timesteps`, frame by frame, on one device; `cond` is `f32`.
    ///
    /// # Errors
    /// When the shapes differ, or are not of so many frames.
    pub fn combine(
        self,
        cond: &mut Tensor,
        uncond: &Tensor,
        timesteps: &[f32],
    ) -> Result<(), GuidanceError> {
        if cond.shape() != uncond.shape() || cond.dim(0) != timesteps.len() {
            return Err(GuidanceError::Length { cond: cond.len(), uncond: uncond.len() });
        }
        let mut at = 0;
        for alike in
            timesteps.chunk_by(|&a, &b| self.interval.contains(a) == self.interval.contains(b))
        {
            let frames = at..at + alike.len();
            at = frames.end;
            if self.interval.contains(alike[0]) {
                guide(&mut cond.frames_mut(frames.clone()), &uncond.frames(frames), self.scale);
            }
        }
        Ok(())
    }
}

/// Why guidance cannot be applied.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum GuidanceError {
    /// A scale that is no number.
    #[error(
        "guidance_scale is {guidance_scale}; it must be finite (6 is usual, 1 switches guidance off)"
    )]
    NotFinite {
        /// The scale asked for.
        guidance_scale: f32,
    },
    /// An interval that is none.
    #[error(
        "guidance_interval {interval:?} must be two sigmas LOW..HIGH with 0 <= LOW < HIGH <= 1, such as \
         0.85..1; 0..1 guides every step"
    )]
    Interval {
        /// What was asked for.
        interval: String,
    },
    /// Two passes of different sizes.
    #[error(
        "the conditional pass has {cond} values and the unconditional {uncond}; they must agree"
    )]
    Length {
        /// Values with the prompt.
        cond: usize,
        /// Values without.
        uncond: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guidance(scale: f32, interval: &str) -> Guidance {
        Guidance::new(scale, interval.parse().unwrap()).unwrap()
    }

    #[test]
    fn scale_of_one_or_less_switches_guidance_off() {
        for (scale, enabled) in [(0.0, false), (1.0, false), (1.000_001, true), (6.0, true)] {
            assert_eq!(guidance(scale, "0..1").enabled(), enabled, "scale {scale}");
        }
        assert!(Guidance::new(f32::NAN, GuidanceInterval::ALL).is_err());
    }

    /// So many frames of these values.
    fn frames(count: usize, values: &[f32]) -> Tensor {
        Tensor::from_vec(&[count, values.len() / count], values.to_vec())
    }

    #[test]
    fn combine_moves_away_from_the_unconditional_velocity() {
        let mut cond = frames(1, &[1.0, 2.0, -3.0]);
        let six = guidance(6.0, "0..1");
        six.combine(&mut cond, &frames(1, &[0.5, 2.0, 1.0]), &[500.0]).unwrap();
        assert_eq!(cond.data(), [3.5, 2.0, -23.0]);
        assert!(six.combine(&mut cond, &frames(1, &[0.0]), &[500.0]).is_err());
        assert!(six.combine(&mut cond, &frames(1, &[0.0; 3]), &[0.0, 1.0]).is_err());
    }

    #[test]
    fn frames_outside_the_interval_keep_the_velocity_with_the_prompt() {
        let mut cond = frames(5, &[1.0; 5]);
        let timesteps = [1000.0, 850.0, 849.0, 0.0, 900.0];
        guidance(2.0, "0.85..1").combine(&mut cond, &frames(5, &[0.0; 5]), &timesteps).unwrap();
        assert_eq!(cond.data(), [2.0, 2.0, 1.0, 1.0, 2.0]);
    }

    #[test]
    fn an_interval_is_written_as_it_is_read_and_others_are_refused() {
        for text in ["0..1", "0.85..1", "0.25..0.5"] {
            assert_eq!(text.parse::<GuidanceInterval>().unwrap().to_string(), text);
        }
        assert_eq!(" 0.5 .. 1 ".parse(), GuidanceInterval::new(0.5, 1.0));
        for text in
            ["", "0.5", "1..0.5", "0.5..0.5", "-0.1..1", "0..1.1", "NaN..1", "0..inf", "a..b"]
        {
            let error = text.parse::<GuidanceInterval>().unwrap_err().to_string();
            assert!(error.contains("LOW..HIGH"), "{text}: {error}");
        }
    }
}
