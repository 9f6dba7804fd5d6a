//! Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): the model is asked with and
//! without the prompt, and the difference is exaggerated.

use thiserror::Error;

/// A guidance scale; at 1.0 and below the unconditional pass is skipped altogether, as in
/// `do_classifier_free_guidance` of the reference pipelines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    scale: f32,
}

impl Guidance {
    /// Checks that `guidance_scale` is a finite number.
    pub fn new(guidance_scale: f32) -> Result<Self, GuidanceError> {
        if guidance_scale.is_finite() {
            Ok(Self { scale: guidance_scale })
        } else {
            Err(GuidanceError::NotFinite { guidance_scale })
        }
    }

    /// Whether the unconditional pass is needed.
    pub fn enabled(self) -> bool {
        self.scale > 1.0
    }

    /// The scale.
    pub fn scale(self) -> f32 {
        self.scale
    }

    /// `cond = uncond + scale * (cond - uncond)`, in place; both are velocities of one shape.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn combine(self, cond: &mut [f32], uncond: &[f32]) -> Result<(), GuidanceError> {
        if cond.len() != uncond.len() {
            return Err(GuidanceError::Length { cond: cond.len(), uncond: uncond.len() });
        }
        for (c, &u) in cond.iter_mut().zip(uncond) {
            *c = u + self.scale * (*c - u);
        }
        Ok(())
    }
}

/// Why guidance cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum GuidanceError {
    /// A scale that is no number.
    #[error(
        "guidance_scale is {guidance_scale}; it must be finite (6 is usual, 1 switches guidance off)"
    )]
    NotFinite {
        /// The scale asked for.
        guidance_scale: f32,
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

    #[test]
    fn scale_of_one_or_less_switches_guidance_off() {
        for (scale, enabled) in [(0.0, false), (1.0, false), (1.000_001, true), (6.0, true)] {
            assert_eq!(Guidance::new(scale).unwrap().enabled(), enabled, "scale {scale}");
        }
        assert!(Guidance::new(f32::NAN).is_err());
    }

    #[test]
    fn combine_moves_away_from_the_unconditional_velocity() {
        let mut cond = [1.0, 2.0, -3.0];
        Guidance::new(6.0).unwrap().combine(&mut cond, &[0.5, 2.0, 1.0]).unwrap();
        assert_eq!(cond, [3.5, 2.0, -23.0]);
        assert!(Guidance::new(6.0).unwrap().combine(&mut cond, &[0.0]).is_err());
    }
}
