//! How latents move: guidance, noise and the steps of the solvers, value by value.
//!
//! Latents are frames of `[T, C, H, W]`, `f32`; whatever goes over them has as many values in the same order. A
//! velocity may be in what its device computes in. Nothing is fused and each operation is rounded for itself, on every
//! device, so that a step from the same velocity has the same bits everywhere.

use rayon::prelude::*;

use super::pointwise::PIECE;
use crate::gpu::ops as body;
use crate::{Frames, FramesMut, Tensor, spans};

/// `cond = uncond + scale * (cond - uncond)`, both `[T, C, H, W]`, in place: classifier-free guidance (Ho & Salimans
/// 2022, arXiv:2207.12598).
pub fn guide(cond: &mut FramesMut<'_>, uncond: &Frames<'_>, scale: f32) {
    combine(
        "guide",
        cond,
        uncond,
        |cond, uncond| body::guide(cond, uncond, scale),
        |c, u| u + scale * (c - u),
    );
}

/// `latents = keep * latents + add * noise`, both `[T, C, H, W]`, in place; the noise may be on the host.
pub fn mix_noise(latents: &mut FramesMut<'_>, noise: &Frames<'_>, [keep, add]: [f32; 2]) {
    let on_gpu =
        |latents: body::Run<'_>, noise: body::Run<'_>| body::mix(latents, noise, [keep, add]);
    combine("mix_noise", latents, noise, on_gpu, |x, n| x * keep + n * add);
}

/// `sample += way * velocity`, both `[T, C, H, W]`, in place, of which `way` is the next noise level less the present
/// one.
pub fn euler_step(sample: &mut FramesMut<'_>, velocity: &Frames<'_>, way: f32) {
    let on_gpu = |sample: body::Run<'_>, velocity: body::Run<'_>| body::go(sample, velocity, way);
    combine("euler_step", sample, velocity, on_gpu, |x, v| x + way * v);
}

/// `x = host(x, y)`, value by value.
fn combine(
    what: &str,
    x: &mut FramesMut<'_>,
    y: &Frames<'_>,
    on_gpu: impl Fn(body::Run<'_>, body::Run<'_>),
    host: impl Fn(f32, f32) -> f32 + Sync,
) {
    let _span = spans::begin("solver", || (0.0, 2 * x.read().bytes() + y.bytes()));
    assert_eq!(x.read().len(), y.len(), "{what}: lengths");
    if let Some(run) = x.run() {
        let gpu = run.array.gpu();
        let y = y.on(gpu);
        on_gpu(run, y.run());
        return spans::settle(gpu);
    }
    let y = y.data();
    super::pointwise::for_each_piece(x.data_mut(), |at, x| {
        x.iter_mut().zip(&y[at..]).for_each(|(x, &y)| *x = host(*x, y));
    });
}

/// The scalars of one update of UniPC from noise level s to level t, in the words of its paper (Zhao et al. 2023,
/// arXiv:2302.04867): alpha is the signal's share, h the way in half the log signal-to-noise ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UniPcUpdate {
    /// 1 to 3.
    pub order: usize,
    /// sigma_t / sigma_s.
    pub keep: f32,
    /// alpha_t * h * phi_1(h).
    pub data: f32,
    /// alpha_t * B(h).
    pub weight: f32,
    /// Weights of the differences of predictions; of a corrector the last of its order is that of the newest one.
    pub rho: [f32; 3],
    /// r_k = (lambda_k - lambda_s) / h of the earlier predictions, the newest first.
    pub r: [f32; 2],
}

/// One step of UniPC, from a velocity on.
#[derive(Debug, Clone, PartialEq)]
pub struct UniPcStep {
    /// The sample's noise level.
    pub sigma: f32,
    /// Corrects the sample by the newest prediction, where that is done.
    pub corrector: Option<UniPcUpdate>,
    /// Goes on to the next level.
    pub predictor: UniPcUpdate,
    /// Whether an uncorrected step remembers its result in the place of its start.
    pub in_place: bool,
}

/// A step of UniPC, in place; sample and velocity are `[T, C, H, W]`.
///
/// `history` has the predictions of earlier steps, the newest first, as many as the orders ask for; `prediction` gets
/// this one's, x0 = sample - sigma * velocity. `last` is the sample from which the step before went on, and becomes
/// that of this one. All of them are as long as the sample, on its device.
pub fn unipc_step(
    step: &UniPcStep,
    velocity: &Frames<'_>,
    sample: &mut FramesMut<'_>,
    history: &[Tensor],
    prediction: &mut Tensor,
    last: &mut Tensor,
) {
    let bytes = || (0.0, (4 + history.len()) * sample.read().bytes() + velocity.bytes());
    let _span = spans::begin("solver", bytes);
    let corrected = step.corrector.as_ref().map_or(0, |corrector| corrector.order);
    let len = sample.read().len();
    let is_whole = history.iter().chain([&*prediction, &*last]).all(|x| x.len() == len);
    assert!(
        is_whole
            && velocity.len() == len
            && history.len() >= corrected.max(step.predictor.order - 1),
        "unipc_step: {len} values, a velocity of {}, {} predictions of orders {corrected} and {}",
        velocity.len(),
        history.len(),
        step.predictor.order,
    );
    if let Some(run) = sample.run() {
        let gpu = run.array.gpu().clone();
        let velocity = velocity.on(&gpu);
        let there = |x: &Tensor| x.array().is_some_and(|x| std::sync::Arc::ptr_eq(x.gpu(), &gpu));
        assert!(history.iter().chain([&*prediction, &*last]).all(there), "unipc_step: elsewhere");
        let history: Vec<_> = history.iter().filter_map(Tensor::array).collect();
        let (Some(prediction), Some(last)) = (prediction.array_mut(), last.array_mut()) else {
            return;
        };
        body::unipc_step(step, velocity.run(), run, &history, prediction, last);
        return spans::settle(&gpu);
    }
    let velocity = velocity.data();
    let pieces = sample.data_mut().par_chunks_mut(PIECE);
    let pieces = pieces.zip(prediction.data_mut().par_chunks_mut(PIECE));
    let pieces = pieces.zip(last.data_mut().par_chunks_mut(PIECE)).enumerate();
    pieces.for_each(|(n, ((sample, prediction), last))| {
        let own = n * PIECE..n * PIECE + sample.len();
        for ((m, x), v) in prediction.iter_mut().zip(&*sample).zip(&velocity[own.clone()]) {
            *m = x - step.sigma * v;
        }
        let mut m = [&[][..]; 3];
        m.iter_mut().zip(history).for_each(|(m, x)| *m = &x.data()[own.clone()]);
        if let Some(corrector) = &step.corrector {
            correct(corrector, m, prediction, last, sample);
        }
        last.copy_from_slice(sample);
        predict(&step.predictor, [prediction, m[0], m[1]], sample);
        if step.in_place && step.corrector.is_none() {
            last.copy_from_slice(sample);
        }
    });
}

/// UniP: `x_t = keep * x - data * m0 - weight * sum_k rho_k * D_k`, in place, where the differences
/// D_k = (m_k - m_0) / r_k are of earlier predictions `m`, the newest first.
fn predict(update: &UniPcUpdate, m: [&[f32]; 3], sample: &mut [f32]) {
    let UniPcUpdate { keep, data, weight, rho, r, .. } = *update;
    match update.order {
        1 => {
            for (x, &m0) in sample.iter_mut().zip(m[0]) {
                *x = keep * *x - data * m0;
            }
        }
        2 => {
            for ((x, &m0), &m1) in sample.iter_mut().zip(m[0]).zip(m[1]) {
                let d1 = (m1 - m0) / r[0];
                *x = keep * *x - data * m0 - weight * (rho[0] * d1);
            }
        }
        _ => {
            for (((x, &m0), &m1), &m2) in sample.iter_mut().zip(m[0]).zip(m[1]).zip(m[2]) {
                let (d1, d2) = ((m1 - m0) / r[0], (m2 - m0) / r[1]);
                *x = keep * *x - data * m0 - weight * (rho[0] * d1 + rho[1] * d2);
            }
        }
    }
}

/// UniC: the predictor's formula from the step before's start `last`, with the difference of the
/// newest prediction `newest` as one more term. Replaces the predicted `sample`.
fn correct(update: &UniPcUpdate, m: [&[f32]; 3], newest: &[f32], last: &[f32], sample: &mut [f32]) {
    let UniPcUpdate { keep, data, weight, rho, r, .. } = *update;
    let values = sample.iter_mut().zip(last).zip(newest).zip(m[0]);
    match update.order {
        1 => {
            for (((x, &x0), &mt), &m0) in values {
                *x = keep * x0 - data * m0 - weight * (rho[0] * (mt - m0));
            }
        }
        2 => {
            for ((((x, &x0), &mt), &m0), &m1) in values.zip(m[1]) {
                let d1 = (m1 - m0) / r[0];
                *x = keep * x0 - data * m0 - weight * (rho[0] * d1 + rho[1] * (mt - m0));
            }
        }
        _ => {
            for (((((x, &x0), &mt), &m0), &m1), &m2) in values.zip(m[1]).zip(m[2]) {
                let (d1, d2) = ((m1 - m0) / r[0], (m2 - m0) / r[1]);
                *x = keep * x0
                    - data * m0
                    - weight * (rho[0] * d1 + rho[1] * d2 + rho[2] * (mt - m0));
            }
        }
    }
}
