//! Solvers that look at nothing but the current step.

use std::sync::Arc;

use longreel_kernels::ops::{euler_step, mix_noise};
use longreel_kernels::{Frames, FramesMut};

use super::{Solver, SolverError, check_schedule, check_step};
use crate::schedule::Schedule;

/// Euler's method on dx/dsigma = velocity: `x + (sigma_next - sigma) * velocity`
/// (`FlowMatchEulerDiscreteScheduler.step` of diffusers 0.42.1; LightX2V's
/// `WanStepDistillScheduler.step_post` is the same up to rounding).
#[derive(Debug)]
pub struct Euler {
    schedule: Arc<Schedule>,
    step_index: usize,
}

impl Euler {
    /// A run through `schedule`.
    ///
    /// # Errors
    /// When the schedule is malformed.
    pub fn new(schedule: Arc<Schedule>) -> Result<Self, SolverError> {
        check_schedule(&schedule)?;
        Ok(Self { schedule, step_index: 0 })
    }
}

impl Solver for Euler {
    fn step(
        &mut self,
        velocity: &Frames<'_>,
        sample: &mut FramesMut<'_>,
        _noise: Option<&Frames<'_>>,
    ) -> Result<(), SolverError> {
        check_step(self.step_index, &self.schedule, velocity, sample)?;
        let dt = self.schedule.sigmas[self.step_index + 1] - self.schedule.sigmas[self.step_index];
        euler_step(sample, velocity, dt);
        self.step_index += 1;
        Ok(())
    }

    fn step_index(&self) -> usize {
        self.step_index
    }

    fn is_finished(&self) -> bool {
        self.step_index == self.schedule.steps()
    }

    fn reset(&mut self) {
        self.step_index = 0;
    }
}

/// Few-step sampling of distilled models: predict the data, add fresh noise of the next level.
///
/// Multistep consistency sampling (Song et al. 2023, arXiv:2303.01469, algorithm 1) as DMD2
/// (arXiv:2405.14867), CausVid and Self Forcing (`pipeline/causal_inference.py`) do it:
/// `x0 = x - sigma * velocity`, then `x = (1 - sigma_next) * x0 + sigma_next * noise`; the last step
/// returns `x0`.
#[derive(Debug)]
pub struct Renoise {
    schedule: Arc<Schedule>,
    step_index: usize,
}

impl Renoise {
    /// A run through `schedule`.
    ///
    /// # Errors
    /// When the schedule is malformed.
    pub fn new(schedule: Arc<Schedule>) -> Result<Self, SolverError> {
        check_schedule(&schedule)?;
        Ok(Self { schedule, step_index: 0 })
    }
}

impl Solver for Renoise {
    fn step(
        &mut self,
        velocity: &Frames<'_>,
        sample: &mut FramesMut<'_>,
        noise: Option<&Frames<'_>>,
    ) -> Result<(), SolverError> {
        check_step(self.step_index, &self.schedule, velocity, sample)?;
        let sigma = self.schedule.sigmas[self.step_index];
        let sigma_next = self.schedule.sigmas[self.step_index + 1];
        let noise = noise.filter(|_| self.wants_noise());
        if self.wants_noise() && noise.is_none() {
            return Err(SolverError::NoiseMissing { step_index: self.step_index });
        }
        if let Some(noise) = noise
            && noise.len() != sample.len()
        {
            return Err(SolverError::Length {
                what: "noise",
                given: noise.len(),
                sample: sample.len(),
            });
        }
        // x0 = x - sigma * velocity.
        euler_step(sample, velocity, -sigma);
        if let Some(noise) = noise {
            mix_noise(sample, noise, [1.0 - sigma_next, sigma_next]);
        }
        self.step_index += 1;
        Ok(())
    }

    fn step_index(&self) -> usize {
        self.step_index
    }

    fn is_finished(&self) -> bool {
        self.step_index == self.schedule.steps()
    }

    fn wants_noise(&self) -> bool {
        self.schedule.sigmas.get(self.step_index + 1).is_some_and(|&sigma| sigma > 0.0)
    }

    fn reset(&mut self) {
        self.step_index = 0;
    }
}
