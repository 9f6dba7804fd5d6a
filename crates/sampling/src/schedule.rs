//! Noise levels: from a scheduler's configuration and a number of steps to sigmas and timesteps.
//!
//! All schedules are flow matching: x = (1 - sigma) * data + sigma * noise, the model predicts the
//! velocity noise - data, and `flow_shift` s moves steps towards noise by
//! sigma' = s * sigma / (1 + (s - 1) * sigma) (Esser et al. 2024, arXiv:2403.03206, eq. 23).

use thiserror::Error;

use crate::config::{SchedulerConfig, SchedulerKind};

/// Most steps a schedule may have; more is a mistake, and the bound keeps allocations small.
pub const MAX_STEPS: usize = 100_000;

/// Noise levels of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What the model is told in each step, N values in train timesteps, first step first. Whole
    /// numbers for UniPC, as the reference truncates them.
    pub timesteps: Vec<f32>,
    /// The noise level before each step and after the last one, N + 1 values in [0, 1].
    pub sigmas: Vec<f32>,
}

impl Schedule {
    /// Number of steps N.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The schedule of `config` with `steps` steps.
    ///
    /// # Errors
    /// When `steps` is 0 or beyond [`MAX_STEPS`].
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, ScheduleError> {
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(ScheduleError::Steps { steps });
        }
        Ok(match config.kind {
            SchedulerKind::UniPc => flow_sigmas(config, steps),
            SchedulerKind::Euler => flow_match_euler(config, steps),
        })
    }

    /// The schedule of a distilled checkpoint, made for a short list of timesteps.
    ///
    /// The table of noise levels has one entry per train timestep, linear from 1 and then shifted,
    /// as in LightX2V (`WanStepDistillScheduler`) and Self Forcing (`FlowMatchScheduler` with
    /// `sigma_min` 0 and `extra_one_step`).
    ///
    /// # Errors
    /// When the list is empty, too long, not falling, or leaves (0, num_train_timesteps].
    pub fn few_step(few: &FewStep) -> Result<Self, ScheduleError> {
        let count = few.num_train_timesteps;
        if !(1..=MAX_STEPS).contains(&count) {
            return Err(ScheduleError::TrainTimesteps { num_train_timesteps: count });
        }
        if !(few.flow_shift.is_finite() && few.flow_shift > 0.0) {
            return Err(ScheduleError::Shift { flow_shift: few.flow_shift });
        }
        if few.steps.is_empty() || few.steps.len() > count {
            return Err(ScheduleError::Steps { steps: few.steps.len() });
        }
        for (i, &step) in few.steps.iter().enumerate() {
            let falls = i == 0 || step < few.steps[i - 1];
            if step == 0 || step as usize > count || !falls {
                return Err(ScheduleError::StepList {
                    position: i,
                    step,
                    num_train_timesteps: count,
                });
            }
        }
        let table = shifted_table(count, few.flow_shift as f32);
        let (mut timesteps, mut sigmas) = (Vec::new(), Vec::new());
        for &step in &few.steps {
            let (timestep, sigma) = if few.warp {
                let sigma = table[count - step as usize];
                (sigma * count as f32, sigma)
            } else {
                (step as f32, nearest_sigma(&table, step as f32))
            };
            timesteps.push(timestep);
            sigmas.push(sigma);
        }
        sigmas.push(0.0);
        Ok(Self { timesteps, sigmas })
    }
}

/// The step list a distilled checkpoint was trained for.
#[derive(Clone, Debug, PartialEq)]
pub struct FewStep {
    /// Nominal train timesteps, falling: 1000, 750, 500, 250 for the usual four.
    pub steps: Vec<u32>,
    /// Shift of the noise levels; 5 for CausVid, Self Forcing and LightX2V checkpoints.
    pub flow_shift: f64,
    /// Length of the table of noise levels, 1000.
    pub num_train_timesteps: usize,
    /// Whether a nominal step is a position in the shifted table, so that the model is told the
    /// shifted timestep (`warp_denoising_step` of Self Forcing; what LightX2V does). Without it the
    /// model is told the nominal timestep and the nearest shifted level is used.
    pub warp: bool,
}

impl FewStep {
    /// Four warped steps, as distilled by DMD for CausVid, Self Forcing and LightX2V.
    pub fn four(flow_shift: f64) -> Self {
        Self { steps: vec![1000, 750, 500, 250], flow_shift, num_train_timesteps: 1000, warp: true }
    }
}

/// UniPC with `use_flow_sigmas`: `UniPCMultistepScheduler.set_timesteps` of diffusers 0.42.1, in
/// f64 like NumPy there, rounded to f32 at the end.
fn flow_sigmas(config: &SchedulerConfig, steps: usize) -> Schedule {
    let train = config.num_train_timesteps as f64;
    let mut sigmas: Vec<f64> = linspace(1.0, 1.0 / train, steps + 1)
        .take(steps)
        .map(|sigma| shift(sigma, config.flow_shift))
        .collect();
    // At sigma 1 the signal's share is 0 and its logarithm infinite, which the solver cannot use.
    const EPS: f64 = 1e-6;
    if (sigmas[0] - 1.0).abs() < EPS {
        sigmas[0] -= EPS;
    }
    let timesteps = sigmas.iter().map(|sigma| (sigma * train).trunc() as f32).collect();
    let last = if config.final_sigma_zero { 0.0 } else { sigmas[steps - 1] };
    sigmas.push(last);
    Schedule { timesteps, sigmas: sigmas.into_iter().map(|sigma| sigma as f32).collect() }
}

/// `FlowMatchEulerDiscreteScheduler.set_timesteps`. Its bounds are already shifted when the shift
/// is applied again to the points between them; that is how published checkpoints are sampled.
fn flow_match_euler(config: &SchedulerConfig, steps: usize) -> Schedule {
    let train = config.num_train_timesteps as f64;
    let bound = |timestep: f32| {
        let sigma = timestep / config.num_train_timesteps as f32;
        let s = config.flow_shift as f32;
        f64::from(s * sigma / (1.0 + (config.flow_shift - 1.0) as f32 * sigma))
    };
    let (first, last) = (bound(config.num_train_timesteps as f32), bound(1.0));
    let mut sigmas: Vec<f32> = linspace(first * train, last * train, steps)
        .map(|timestep| shift(timestep / train, config.flow_shift) as f32)
        .collect();
    let timesteps = sigmas.iter().map(|sigma| sigma * config.num_train_timesteps as f32).collect();
    sigmas.push(0.0);
    Schedule { timesteps, sigmas }
}

fn shift(sigma: f64, flow_shift: f64) -> f64 {
    flow_shift * sigma / (1.0 + (flow_shift - 1.0) * sigma)
}

/// `numpy.linspace`: steps of equal size from `start`, the last value exactly `stop`.
fn linspace(start: f64, stop: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = (stop - start) / (count.max(2) - 1) as f64;
    (0..count).map(move |i| if i > 0 && i + 1 == count { stop } else { i as f64 * step + start })
}

/// `torch.linspace(1, 0, count + 1)[:-1]` in f32, shifted. Torch counts the first half from the
/// start and the second from the end.
fn shifted_table(count: usize, flow_shift: f32) -> Vec<f32> {
    let step = -1.0 / count as f32;
    (0..count)
        .map(|i| {
            let sigma = if i < count.div_ceil(2) {
                1.0 + step * i as f32
            } else {
                0.0 - step * (count - i) as f32
            };
            flow_shift * sigma / (1.0 + (flow_shift - 1.0) * sigma)
        })
        .collect()
}

/// The level whose timestep is nearest; the first of equals, as `torch.argmin` finds it.
fn nearest_sigma(table: &[f32], timestep: f32) -> f32 {
    let distance = |sigma: f32| (sigma * table.len() as f32 - timestep).abs();
    table
        .iter()
        .copied()
        .reduce(|best, sigma| if distance(sigma) < distance(best) { sigma } else { best })
        .unwrap_or(0.0)
}

/// Why there is no schedule.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ScheduleError {
    /// No steps, or too many.
    #[error("{steps} steps: must be 1..={MAX_STEPS}; 30 to 50 are usual, 4 for distilled models")]
    Steps {
        /// The number asked for.
        steps: usize,
    },
    /// A step list that does not fall through the table.
    #[error(
        "step {position} of the list is {step}; steps must fall and lie in 1..={num_train_timesteps}, for example 1000,750,500,250"
    )]
    StepList {
        /// Position in the list, from 0.
        position: usize,
        /// The step there.
        step: u32,
        /// Length of the table.
        num_train_timesteps: usize,
    },
    /// A table of no noise levels, or of too many.
    #[error(
        "num_train_timesteps is {num_train_timesteps}; must be 1..={MAX_STEPS}, and is 1000 in every published model"
    )]
    TrainTimesteps {
        /// The length asked for.
        num_train_timesteps: usize,
    },
    /// A shift that is none.
    #[error(
        "flow_shift is {flow_shift}; must be a positive number (8 for text, 5 or 3 for images)"
    )]
    Shift {
        /// The shift asked for.
        flow_shift: f64,
    },
    /// A configuration that is no JSON object.
    #[error("the scheduler configuration is not a JSON object: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// A setting with a value that this crate does not implement.
    #[error("scheduler setting {name} is {value}, which is not supported; {way_out}")]
    Unsupported {
        /// The key.
        name: String,
        /// Its value as JSON.
        value: String,
        /// What works.
        way_out: &'static str,
    },
}
