//! Solvers: from a velocity and a noisy sample to a sample with less noise.
//!
//! A solver belongs to one *group*, the latent frames of one causal block: they share timesteps and
//! therefore history and coefficients. It holds the state of one run through one schedule; a window
//! makes one solver for each group and calls it in the rows that update the group.
//!
//! Notation of the papers, for flow matching: alpha = 1 - sigma is the signal's share, lambda =
//! ln(alpha / sigma) the half log signal-to-noise ratio, x0 = x - sigma * velocity the data that the
//! model predicts.

mod unipc;

use std::sync::Arc;

use longreel_kernels::ops::{euler_step, mix_noise};
use longreel_kernels::{Frames, FramesMut};
use thiserror::Error;

use crate::schedule::Schedule;

use self::unipc::UniPc;
pub use self::unipc::{UniPcConfig, UniPcVariant};

/// One run of a solver through a schedule.
#[derive(Debug)]
pub struct Solver {
    schedule: Arc<Schedule>,
    step_index: usize,
    method: Method,
}

/// How a sample is moved from one noise level to the next.
#[derive(Debug)]
enum Method {
    /// Euler's method on dx/dsigma = velocity: `x + (sigma_next - sigma) * velocity`
    /// (`FlowMatchEulerDiscreteScheduler.step` of diffusers 0.42.1; LightX2V's
    /// `WanStepDistillScheduler.step_post` is the same up to rounding).
    Euler,
    /// Few-step sampling of distilled models: predict the data, add fresh noise of the next level.
    ///
    /// Multistep consistency sampling (Song et al. 2023, arXiv:2303.01469, algorithm 1) as DMD2
    /// (arXiv:2405.14867), CausVid and Self Forcing (`pipeline/causal_inference.py`) do it:
    /// `x0 = x - sigma * velocity`, then `x = (1 - sigma_next) * x0 + sigma_next * noise`; the last step
    /// returns `x0`.
    Renoise,
    UniPc(UniPc),
}

impl Solver {
    /// Advances `sample` by one step, in place.
    ///
    /// `velocity` is the model's output for `sample` at this step's timestep, after guidance, in
    /// the same layout and on the same device; both keep their length through the run. `noise` is fresh standard normal
    /// noise of the same length, there or on the host, needed only when [`Self::wants_noise`] says so.
    ///
    /// # Errors
    /// When lengths differ from each other or from the step before, when noise is wanted and
    /// missing, when the schedule is used up. The sample is unchanged then.
    pub fn step(
        &mut self,
        velocity: &Frames<'_>,
        sample: &mut FramesMut<'_>,
        noise: Option<&Frames<'_>>,
    ) -> Result<(), SolverError> {
        let (i, wants_noise) = (self.step_index, self.wants_noise());
        if self.is_finished() {
            return Err(SolverError::Finished { steps: i });
        }
        let noise = noise.filter(|_| wants_noise);
        let remembered = match &self.method {
            Method::UniPc(solver) => solver.remembered(),
            Method::Euler | Method::Renoise => None,
        };
        let lengths = [
            ("velocity", Some(velocity.len())),
            ("noise", noise.map(Frames::len)),
            ("the step before", remembered),
        ];
        let len = sample.read().len();
        for (what, given) in lengths {
            if let Some(given) = given.filter(|given| *given != len) {
                return Err(SolverError::Length { what, given, sample: len });
            }
        }
        if wants_noise && noise.is_none() {
            return Err(SolverError::NoiseMissing { step_index: i });
        }
        let sigmas = &self.schedule.sigmas;
        match (&mut self.method, noise) {
            (Method::Euler, _) => euler_step(sample, velocity, sigmas[i + 1] - sigmas[i]),
            (Method::Renoise, noise) => {
                euler_step(sample, velocity, -sigmas[i]);
                if let Some(noise) = noise {
                    mix_noise(sample, noise, [1.0 - sigmas[i + 1], sigmas[i + 1]]);
                }
            }
            (Method::UniPc(solver), _) => solver.step(i, sigmas, velocity, sample),
        }
        self.step_index += 1;
        Ok(())
    }

    /// Steps done so far, from 0 to N; the next step uses this index of the schedule.
    pub fn step_index(&self) -> usize {
        self.step_index
    }

    /// Whether all N steps are done.
    pub fn is_finished(&self) -> bool {
        self.step_index == self.schedule.steps()
    }

    /// Whether the next step needs noise.
    pub fn wants_noise(&self) -> bool {
        let next = self.schedule.sigmas.get(self.step_index + 1);
        matches!(self.method, Method::Renoise) && next.is_some_and(|&sigma| sigma > 0.0)
    }

    /// Forgets everything, for another run through the same schedule.
    pub fn reset(&mut self) {
        self.step_index = 0;
        if let Method::UniPc(solver) = &mut self.method {
            solver.forget();
        }
    }
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
    pub fn build(&self, schedule: &Arc<Schedule>) -> Result<Solver, SolverError> {
        check_schedule(schedule)?;
        let method = match self {
            SolverKind::UniPc(config) => Method::UniPc(UniPc::new(config.clone(), schedule)?),
            SolverKind::Euler => Method::Euler,
            SolverKind::Renoise => Method::Renoise,
        };
        Ok(Solver { schedule: Arc::clone(schedule), step_index: 0, method })
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
