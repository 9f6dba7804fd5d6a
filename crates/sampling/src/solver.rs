//! Solvers: from a velocity and a noisy sample to a sample with less noise.
//!
//! A solver belongs to one *group*, the latent frames of one causal block: they share timesteps and
//! therefore history and coefficients. It holds the state of one run through one schedule; a window
//! makes one solver for each group and calls it in the rows that update the group.
//!
//! Notation of the papers, for flow matching: alpha = 1 - sigma is the signal's share, lambda =
//! ln(alpha / sigma) the half log signal-to-noise ratio, x0 = x - sigma * velocity the data that the
//! model predicts.

mod first_order;
mod unipc;

use std::sync::Arc;

use longreel_kernels::{Frames, FramesMut, Tensor};
use thiserror::Error;

use crate::schedule::Schedule;

pub use first_order::{Euler, Renoise};
pub use unipc::{UniPc, UniPcConfig, UniPcVariant};

/// One run of a solver through a schedule.
pub trait Solver: Send {
    /// Advances `sample` by one step, in place.
    ///
    /// `velocity` is the model's output for `sample` at this step's timestep, after guidance, in
    /// the same layout and on the same device; both keep their length through the run. `noise` is fresh standard normal
    /// noise of the same length, there or on the host, needed only when [`Self::wants_noise`] says so.
    ///
    /// # Errors
    /// When lengths differ from each other or from the step before, when noise is wanted and
    /// missing, when the schedule is used up. The sample is unchanged then.
    fn step(
        &mut self,
        velocity: &Frames<'_>,
        sample: &mut FramesMut<'_>,
        noise: Option<&Frames<'_>>,
    ) -> Result<(), SolverError>;

    /// Steps done so far, from 0 to N; the next step uses this index of the schedule.
    fn step_index(&self) -> usize;

    /// Whether all N steps are done.
    fn is_finished(&self) -> bool;

    /// Whether the next step needs noise.
    fn wants_noise(&self) -> bool {
        false
    }

    /// Forgets everything, for another run through the same schedule.
    fn reset(&mut self);
}

/// Which solver.
#[derive(Clone, Debug, PartialEq)]
pub enum SolverKind {
    /// UniPC multistep, the reference's.
    UniPc(UniPcConfig),
    /// Euler's method, also for LightX2V's distilled checkpoints.
    Euler,
    /// Denoise at once, then add fresh noise of the next level: consistency-style sampling for
    /// checkpoints distilled by DMD (CausVid, Self Forcing).
    Renoise,
}

impl SolverKind {
    /// The solver as the diffusion-forcing pipelines use it ([`UniPcConfig::in_place`]); any other
    /// than UniPC has no such difference.
    pub fn in_place(self) -> Self {
        match self {
            SolverKind::UniPc(config) => {
                SolverKind::UniPc(UniPcConfig { in_place: true, ..config })
            }
            other => other,
        }
    }

    /// Builds a solver at the start of `schedule`.
    ///
    /// # Errors
    /// When the schedule is malformed for this solver: other than N + 1 sigmas, sigmas that leave
    /// [0, 1) or rise, or an order that cannot reach noise level 0.
    pub fn build(&self, schedule: &Arc<Schedule>) -> Result<Box<dyn Solver>, SolverError> {
        let schedule = Arc::clone(schedule);
        Ok(match self {
            SolverKind::UniPc(config) => Box::new(UniPc::new(config.clone(), schedule)?),
            SolverKind::Euler => Box::new(Euler::new(schedule)?),
            SolverKind::Renoise => Box::new(Renoise::new(schedule)?),
        })
    }
}

/// Checks what all solvers need of a schedule: N + 1 finite levels in [0, 1] that do not rise.
fn check_schedule(schedule: &Schedule) -> Result<(), SolverError> {
    let (steps, sigmas) = (schedule.timesteps.len(), schedule.sigmas.len());
    if steps == 0 || sigmas != steps + 1 {
        return Err(SolverError::ScheduleLength { steps, sigmas });
    }
    for (i, &sigma) in schedule.sigmas.iter().enumerate() {
        if !(0.0..=1.0).contains(&sigma) || (i > 0 && sigma > schedule.sigmas[i - 1]) {
            return Err(SolverError::Sigma { position: i, sigma });
        }
    }
    Ok(())
}

/// Checks the arguments of one step.
fn check_step(
    step_index: usize,
    schedule: &Schedule,
    velocity: &Frames<'_>,
    sample: &FramesMut<'_>,
) -> Result<(), SolverError> {
    if step_index >= schedule.steps() {
        return Err(SolverError::Finished { steps: schedule.steps() });
    }
    if velocity.len() != sample.len() {
        return Err(SolverError::Length {
            what: "velocity",
            given: velocity.len(),
            sample: sample.len(),
        });
    }
    Ok(())
}

/// A tensor as large as a sample, beside it, for what is remembered from one step to the next.
fn kept_like(sample: &FramesMut<'_>) -> Tensor {
    Tensor::zeros_on(&sample.device(), &sample.shape()).into_kept()
}

/// Why a solver cannot step.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SolverError {
    /// Other than one level more than steps.
    #[error(
        "a schedule of {steps} steps has {sigmas} sigmas; it needs at least one step and one sigma more than steps"
    )]
    ScheduleLength {
        /// Steps.
        steps: usize,
        /// Noise levels.
        sigmas: usize,
    },
    /// A level that no sample can have, or that rises.
    #[error(
        "sigma {position} of the schedule is {sigma}; sigmas must lie in 0..=1 and never rise (UniPC: start below 1, fall in every step, reach 0 only at the end; fewer steps or a smaller shift help)"
    )]
    Sigma {
        /// Position in the schedule.
        position: usize,
        /// Its value.
        sigma: f32,
    },
    /// An order beyond what is implemented.
    #[error("solver_order is {order}; use 1, 2 or 3")]
    Order {
        /// The order asked for.
        order: usize,
    },
    /// A last step of order above 1 to noise level 0, or of order above 2 from a level to itself.
    #[error(
        "without lower_order_final a solver of order {order} divides by zero in its last step; switch it on"
    )]
    FinalOrder {
        /// The order asked for.
        order: usize,
    },
    /// More steps than the schedule has.
    #[error("all {steps} steps of the schedule are done; reset the solver for another run")]
    Finished {
        /// Steps of the schedule.
        steps: usize,
    },
    /// Slices of different lengths.
    #[error("{what} has {given} values and the sample {sample}; the two must agree through a run")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        given: usize,
        /// The sample's length.
        sample: usize,
    },
    /// A step that adds noise was given none.
    #[error(
        "step {step_index} adds noise of the next level; pass fresh normal noise of the sample's length"
    )]
    NoiseMissing {
        /// The step.
        step_index: usize,
    },
}
