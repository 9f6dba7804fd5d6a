//! UniPC: a unified predictor-corrector for diffusion models
//! (Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2), multistep, on predicted data.
//!
//! Each step first corrects the sample of the step before with the model output it now has (UniC),
//! then predicts the next sample (UniP). Both integrate the same exponential integrator with finite
//! differences of earlier predictions; they differ in whether the difference to the newest model
//! output takes part. The arithmetic follows `UniPCMultistepScheduler` of diffusers 0.42.1, scalars
//! in f32 like the tensors there, so that results agree to the last bits.
//!
//! One difference: a first-order step of variant bh1 to noise level 0 is NaN in the reference (it
//! multiplies an infinite B(h) with an absent difference). The term is left out here, as in the
//! paper.

use longreel_kernels::ops::{UniPcStep, UniPcUpdate, unipc_step};
use longreel_kernels::{Frames, FramesMut, Tensor};

use super::SolverError;
use crate::schedule::Schedule;

/// Settings of the multistep solver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniPcConfig {
    /// Order of the predictor, 1 to 3; the corrector adds one.
    pub order: usize,
    /// The function B(h).
    pub variant: UniPcVariant,
    /// Whether the order falls to 1 towards the end, which steps to noise level 0 need.
    pub lower_order_final: bool,
    /// Step indices k whose result is not corrected in step k + 1.
    pub disable_corrector: Vec<usize>,
    /// Whether the solver works as the diffusion-forcing pipelines use it, which write each result
    /// over its sample. Where a step has no corrector, as the first never has, the scheduler there
    /// remembers its start by reference and so finds the *result* in its place when it corrects in
    /// the next step. Every SkyReels-V2 film is sampled so, by diffusers as by the official code,
    /// and it moves the latents by some per cent. False is the algorithm as published, and what the
    /// plain text-to-video and image-to-video pipelines do.
    pub in_place: bool,
}

impl Default for UniPcConfig {
    /// Order 2, bh2, lower order at the end, corrector everywhere: what every checkpoint ships.
    /// Not in place.
    fn default() -> Self {
        Self {
            order: 2,
            variant: UniPcVariant::Bh2,
            lower_order_final: true,
            disable_corrector: Vec::new(),
            in_place: false,
        }
    }
}

/// The function B(h) of the paper (section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UniPcVariant {
    /// B1(h) = h, suggested for few steps without guidance.
    Bh1,
    /// B2(h) = e^h - 1.
    Bh2,
}

/// Most predictions of the model that are remembered: the order's bound.
const MAX_ORDER: usize = 3;

/// What UniPC remembers from one step to the next.
#[derive(Debug)]
pub(super) struct UniPc {
    config: UniPcConfig,
    /// Data predicted in earlier steps, the newest first. At most `order` of them.
    predictions: Vec<Tensor>,
    /// The corrected sample of the step before, where its predictor started.
    last_sample: Option<Tensor>,
    /// Order of the predictor of the step before, which its corrector shares.
    last_order: usize,
    /// The prediction being made; its buffer rotates with `predictions`, so that steps allocate
    /// nothing once the history is full.
    spare: Option<Tensor>,
}

impl UniPc {
    /// At the start of a run through `schedule`.
    ///
    /// # Errors
    /// When the order is not 1 to 3, when the schedule starts at noise level 1 or
    /// reaches 0 before its end (both have an infinite lambda), repeats a level (a step of no length
    /// has no differences), or when the last step would be of higher order to level 0.
    pub fn new(config: UniPcConfig, schedule: &Schedule) -> Result<Self, SolverError> {
        if !(1..=MAX_ORDER).contains(&config.order) {
            return Err(SolverError::Order { order: config.order });
        }
        let steps = schedule.steps();
        for (position, &sigma) in schedule.sigmas[..steps].iter().enumerate() {
            let repeats = position > 0 && sigma >= schedule.sigmas[position - 1];
            if sigma <= 0.0 || sigma >= 1.0 || repeats {
                return Err(SolverError::Sigma { position, sigma });
            }
        }
        let last_order = match schedule.sigmas[steps] {
            0.0 => 1,
            level if level == schedule.sigmas[steps - 1] => 2,
            _ => usize::MAX,
        };
        if !config.lower_order_final && config.order > last_order {
            return Err(SolverError::FinalOrder { order: config.order });
        }
        Ok(Self { config, predictions: Vec::new(), last_sample: None, last_order: 0, spare: None })
    }

    /// Values of the step before.
    pub fn remembered(&self) -> Option<usize> {
        self.last_sample.as_ref().map(Tensor::len)
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.predictions.clear();
        (self.last_sample, self.last_order, self.spare) = (None, 0, None);
    }

    /// Step `i`, whose velocity is as long as the sample and as those before.
    pub fn step(
        &mut self,
        i: usize,
        sigmas: &[f32],
        velocity: &Frames<'_>,
        sample: &mut FramesMut<'_>,
    ) {
        let updates = Updates { config: &self.config, sigmas };
        // From the second step on, unless it is disabled for the step before.
        let corrects = i > 0 && !self.config.disable_corrector.contains(&(i - 1));
        let corrector = corrects.then(|| updates.corrector(i, self.last_order));
        self.last_order = self.order(i, sigmas.len() - 1);
        let step = UniPcStep {
            sigma: sigmas[i],
            corrector,
            predictor: updates.predictor(i, self.last_order),
            in_place: self.config.in_place,
        };
        let (device, shape) = (sample.read().device(), sample.read().shape());
        let kept = || Tensor::zeros_on(&device, &shape).into_kept();
        let mut prediction = self.spare.take().unwrap_or_else(kept);
        let mut last = self.last_sample.take().unwrap_or_else(kept);
        unipc_step(&step, velocity, sample, &self.predictions, &mut prediction, &mut last);
        self.last_sample = Some(last);
        self.predictions.insert(0, prediction);
        if self.predictions.len() > self.config.order {
            self.spare = self.predictions.pop();
        }
    }

    /// The order grows with the history and, with `lower_order_final`, falls with what is left.
    fn order(&self, i: usize, steps: usize) -> usize {
        let most = if self.config.lower_order_final { steps - i } else { usize::MAX };
        self.config.order.min(most).min(i + 1)
    }
}

/// What updates are made of: a solver's settings and the noise levels of its schedule.
struct Updates<'a> {
    config: &'a UniPcConfig,
    sigmas: &'a [f32],
}

impl Updates<'_> {
    /// From level `i` to level `i + 1`.
    fn predictor(&self, i: usize, order: usize) -> UniPcUpdate {
        let mut update = self.update(i, order);
        match order {
            1 => {}
            // The reference (and the authors' code) take 1/2 instead of solving for one unknown.
            2 => update.rho[0] = 0.5,
            _ => {
                let (matrix, b) = self.system(&update, i);
                let solved = solve(
                    [[matrix[0][0], matrix[0][1]], [matrix[1][0], matrix[1][1]]],
                    [b[0], b[1]],
                );
                update.rho[..2].copy_from_slice(&solved);
            }
        }
        update
    }

    /// From level `i - 1` to level `i`, whose model output is known now.
    fn corrector(&self, i: usize, order: usize) -> UniPcUpdate {
        let mut update = self.update(i - 1, order);
        let (matrix, b) = self.system(&update, i - 1);
        match order {
            1 => update.rho[0] = 0.5,
            2 => {
                let solved = solve(
                    [[matrix[0][0], matrix[0][1]], [matrix[1][0], matrix[1][1]]],
                    [b[0], b[1]],
                );
                update.rho[..2].copy_from_slice(&solved);
            }
            _ => update.rho = solve(matrix, b),
        }
        update
    }

    /// From level `s` to the next one, without the weights of differences.
    fn update(&self, s: usize, order: usize) -> UniPcUpdate {
        let Self { config, sigmas } = self;
        let (alpha_t, sigma_t, sigma_s) = (1.0 - sigmas[s + 1], sigmas[s + 1], sigmas[s]);
        let hh = minus_h(sigmas, s);
        let h_phi_1 = expm1(hh);
        let b_h = b_of_h(config.variant, hh, h_phi_1);
        let mut r = [1.0; MAX_ORDER - 1];
        for (k, r) in r.iter_mut().enumerate().take(order - 1) {
            *r = (lambda(sigmas[s - k - 1]) - lambda(sigmas[s])) / -hh;
        }
        UniPcUpdate {
            order,
            keep: sigma_t / sigma_s,
            data: alpha_t * h_phi_1,
            weight: alpha_t * b_h,
            rho: [0.0; MAX_ORDER],
            r,
        }
    }

    /// The linear system of the paper's equation (8): row k of the matrix is r^(k-1), its right side
    /// is phi_{k+1}(h) k! h / B(h). Only the leading part that `order` spans is meaningful.
    fn system(
        &self,
        update: &UniPcUpdate,
        s: usize,
    ) -> ([[f32; MAX_ORDER]; MAX_ORDER], [f32; MAX_ORDER]) {
        let hh = minus_h(self.sigmas, s);
        let h_phi_1 = expm1(hh);
        let b_h = b_of_h(self.config.variant, hh, h_phi_1);
        // The last one is the way to the newest output, all of it.
        let mut r = [1.0; MAX_ORDER];
        r[..update.order - 1].copy_from_slice(&update.r[..update.order - 1]);
        let mut matrix = [[1.0; MAX_ORDER]; MAX_ORDER];
        let mut b = [0.0; MAX_ORDER];
        let mut h_phi_k = h_phi_1 / hh - 1.0;
        let mut factorial = 1.0_f32;
        for k in 0..update.order {
            for (entry, r) in matrix[k].iter_mut().zip(r) {
                *entry = match k {
                    0 => 1.0,
                    1 => r,
                    _ => r * r,
                };
            }
            b[k] = h_phi_k * factorial / b_h;
            factorial *= (k + 2) as f32;
            h_phi_k = h_phi_k / hh - 1.0 / factorial;
        }
        (matrix, b)
    }
}

/// -h = lambda_s - lambda_t; minus infinity for a step to noise level 0.
fn minus_h(sigmas: &[f32], s: usize) -> f32 {
    -(lambda(sigmas[s + 1]) - lambda(sigmas[s]))
}

fn b_of_h(variant: UniPcVariant, hh: f32, h_phi_1: f32) -> f32 {
    match variant {
        UniPcVariant::Bh1 => hh,
        UniPcVariant::Bh2 => h_phi_1,
    }
}

/// ln(alpha) - ln(sigma), each rounded to f32 as torch rounds it. Infinite at 0.
fn lambda(sigma: f32) -> f32 {
    ln(1.0 - sigma) - ln(sigma)
}

/// The logarithm of an f32 through f64, so that it is rounded once and alike on every machine.
fn ln(x: f32) -> f32 {
    libm::log(f64::from(x)) as f32
}

/// e^x - 1, likewise.
fn expm1(x: f32) -> f32 {
    libm::expm1(f64::from(x)) as f32
}

/// Solves `matrix * x = b` by elimination with row pivoting, as LAPACK's `gesv` does.
fn solve<const N: usize>(mut matrix: [[f32; N]; N], mut b: [f32; N]) -> [f32; N] {
    for k in 0..N {
        let pivot =
            (k + 1..N).fold(k, |p, i| if matrix[i][k].abs() > matrix[p][k].abs() { i } else { p });
        matrix.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..N {
            let factor = matrix[i][k] / matrix[k][k];
            let pivot_row = matrix[k];
            for (entry, pivot) in matrix[i].iter_mut().zip(pivot_row).skip(k) {
                *entry -= factor * pivot;
            }
            b[i] -= factor * b[k];
        }
    }
    for k in (0..N).rev() {
        for j in k + 1..N {
            b[k] -= matrix[k][j] * b[j];
        }
        b[k] /= matrix[k][k];
    }
    b
}
