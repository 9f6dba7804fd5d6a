//! One segment: from noise to latents, row by row of its timetable.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use longreel_kernels::Tensor;
use longreel_models::{ForwardOptions, SplitCache, SplitContext};
use longreel_sampling::{
    Branch, Guidance, Keeping, KeptRow, Row, Schedule, Solver, SolverKind, Timetable, kept_rows,
    mix_condition_noise,
};

use crate::error::{FilmError, PlanError};
use crate::noise::{ConditionNoise, NoiseSource};
use crate::sharing::Denoisers;
use crate::step_cache::{CachedRows, ShownRow, StepCache};

/// What stays the same in all rows of a segment.
pub struct SegmentTask<'a> {
    /// The network.
    pub denoisers: &'a Denoisers,
    /// The prompt.
    pub cond: &'a SplitContext,
    /// The negative prompt; `None` when guidance is off.
    pub uncond: Option<&'a SplitContext>,
    /// How the two passes are combined.
    pub guidance: Guidance,
    /// Whether they go through the network together, where one group of devices has both.
    pub guidance_batch: bool,
    /// Extra input channels of image-to-video models, `[window, extra, h, w]`.
    pub extra_channels: Option<&'a Tensor>,
    /// Rows and groups.
    pub timetable: &'a Timetable,
    /// The schedule the solvers run on.
    pub schedule: &'a Arc<Schedule>,
    /// Which solver.
    pub solver: &'a SolverKind,
    /// What is kept of finished blocks; without it every row runs all frames. Not with a step cache.
    pub keeping: Option<Keeping>,
    /// fps class and causal mask; which frames are answered for depends on the row.
    pub forward: ForwardOptions,
    /// Noise of conditions and of renoising solvers.
    pub noise: &'a NoiseSource,
    /// Seed of this segment.
    pub seed: u64,
    /// From 0.
    pub segment: usize,
    /// Prefix frames of the window.
    pub prefix: usize,
    /// See `FilmRequest::addnoise_condition`.
    pub addnoise_condition: f32,
}

/// A row that is done.
pub struct RowDone<'a> {
    /// Rows done.
    pub done: usize,
    /// Rows of the segment.
    pub rows: usize,
    /// Seconds the row took.
    pub seconds: f64,
    /// The latent `[1, C, h, w]` in the middle of those that the row moved, as the network takes it to
    /// be without noise.
    pub clean: &'a dyn Fn() -> Tensor,
}

/// Told after each row; returns false to give the segment up.
pub type OnRow<'a> = dyn FnMut(&RowDone<'_>) -> Result<bool, FilmError> + 'a;

/// Denoises `window`, `[window, C, h, w]`, in place: frozen frames hold their latents, the others
/// noise. Returns false when `on_row` gave it up.
///
/// The reference is the denoising loop of `SkyReelsV2DiffusionForcingPipeline.__call__`
/// (diffusers 0.42.1) and, for models without diffusion forcing, that of `SkyReelsV2Pipeline`, whose
/// timetable has one block.
///
/// # Errors
/// A network or solver error, noise missing in a noise file, and [`FilmError::NotFinite`].
pub fn denoise(
    task: &SegmentTask<'_>,
    window: &mut Tensor,
    cache: Option<&mut StepCache>,
    on_row: &mut OnRow<'_>,
) -> Result<bool, FilmError> {
    let rows = task.timetable.rows();
    let kept_rows = kept_rows(task.timetable, task.keeping);
    let unconditional = task.guidance.unconditional_rows(rows, &kept_rows, cache.is_some());
    let mut reuse = match (cache, task.keeping) {
        (Some(cache), _) => Reuse::Steps(CachedRows::new(cache, rows.len())),
        (None, Some(_)) => {
            let room = kept_rows.iter().map(KeptRow::peak).max().unwrap_or(0);
            let empty = |branch| Some(task.denoisers.of(branch).new_cache(room));
            Reuse::Keys([Branch::Cond, Branch::Uncond].map(empty))
        }
        (None, None) => Reuse::Keys([None, None]),
    };
    let mut solvers = task
        .timetable
        .groups()
        .iter()
        .map(|_| task.solver.build(task.schedule))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, (row, kept)) in rows.iter().zip(&kept_rows).enumerate() {
        let started = Instant::now();
        let input = model_input(task, window, index, row, kept.run.clone())?;
        let mut contexts = vec![(Branch::Cond, task.cond)];
        let uncond = task.uncond.filter(|_| unconditional[index]);
        contexts.extend(uncond.map(|context| (Branch::Uncond, context)));
        let timesteps = &row.timesteps[row.interval.clone()];
        let answered = match reuse {
            // Another row may move what this one leaves.
            Reuse::Steps(_) => kept.run.clone(),
            Reuse::Keys(_) => first_moved(task.timetable, row, kept)..kept.run.end,
        };
        let options =
            &ForwardOptions { answer_from: answered.start - kept.run.start, ..task.forward };
        let (batch, contexts) = (task.guidance_batch, &contexts[..]);
        let shown = ShownRow { index, input: &input, timesteps, options, contexts, batch };
        let at_work = AtWork { row, kept, answered, shown };
        let (mut velocity, other) = evaluate(task, &at_work, &mut reuse)?;
        if let Some(other) = other {
            let timesteps = &row.timesteps[at_work.answered.clone()];
            task.guidance.combine(velocity.data_mut(), other.data(), timesteps)?;
        }
        if !velocity.data().iter().all(|v| v.is_finite()) {
            let what = format!("the model's answer in segment {}, step {index}", task.segment);
            return Err(FilmError::NotFinite { what });
        }
        for &group in &row.updated_groups {
            let frames = task.timetable.groups()[group].clone();
            advance(task, &mut *solvers[group], &velocity, window, &at_work, frames)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let clean = || clean_latent(task.timetable, &at_work, &velocity);
        let row_done = RowDone { done: index + 1, rows: rows.len(), seconds, clean: &clean };
        if !on_row(&row_done)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first frame that a row's velocity moves: history's is never asked for.
fn first_moved(timetable: &Timetable, row: &Row, kept: &KeptRow) -> usize {
    let groups = row.updated_groups.iter().map(|&group| timetable.groups()[group].start);
    groups.min().unwrap_or(kept.run.start)
}

/// A row, and what of it is run.
struct AtWork<'a> {
    row: &'a Row,
    kept: &'a KeptRow,
    /// The frames of the window that the velocity is of.
    answered: Range<usize>,
    /// Of the frames that are run.
    shown: ShownRow<'a>,
}

/// What rows take over from earlier ones.
enum Reuse<'a> {
    Steps(CachedRows<'a>),
    /// Of each branch of guidance, if anything is kept.
    Keys([Option<SplitCache>; 2]),
}

/// What the network is shown of `frames` in a row: the prefix mixed with noise where the row says so,
/// and the extra channels.
fn model_input(
    task: &SegmentTask<'_>,
    window: &Tensor,
    index: usize,
    row: &Row,
    frames: Range<usize>,
) -> Result<Tensor, FilmError> {
    let [channels, height, width] = [window.dim(1), window.dim(2), window.dim(3)];
    let frame_len = channels * height * width;
    let mut input = window.slice0(frames.clone());
    // History that is kept has the noise of the first row in all of them.
    let same = task.keeping.is_some_and(|keeping| keeping.same_condition_noise);
    let mut noise = vec![0.0; if row.noisy_condition.is_empty() { 0 } else { frame_len }];
    for frame in row.noisy_condition.clone().filter(|frame| frames.contains(frame)) {
        let at = ConditionNoise {
            seed: task.seed,
            segment: task.segment,
            row: if same { 0 } else { index },
            frame,
            prefix: task.prefix,
        };
        task.noise.condition(at, [channels, height, width], &mut noise)?;
        let latent = &window.data()[frame * frame_len..(frame + 1) * frame_len];
        let place = frame - frames.start;
        let out = &mut input.data_mut()[place * frame_len..(place + 1) * frame_len];
        mix_condition_noise(latent, &noise, task.addnoise_condition, out)
            .map_err(PlanError::from)?;
    }
    Ok(match task.extra_channels {
        None => input,
        Some(extra) => {
            let extra = extra.slice0(frames);
            let (frames, more) = (input.dim(0), extra.dim(1));
            let extra_len = more * height * width;
            let mut joined = Vec::with_capacity(input.len() + extra.len());
            for frame in 0..frames {
                joined.extend_from_slice(&input.data()[frame * frame_len..(frame + 1) * frame_len]);
                joined.extend_from_slice(&extra.data()[frame * extra_len..(frame + 1) * extra_len]);
            }
            Tensor::from_vec(&[frames, channels + more, height, width], joined)
        }
    })
}

/// See [`RowDone::clean`]: x0 = x - sigma * v, of flow matching (Lipman et al. 2023), with sigma the
/// timestep in thousandths.
fn clean_latent(timetable: &Timetable, at_work: &AtWork<'_>, velocity: &Tensor) -> Tensor {
    let AtWork { row, kept, answered, shown } = at_work;
    let moved = row.updated_groups.get(row.updated_groups.len() / 2);
    let frames = moved.map_or(answered.clone(), |&group| timetable.groups()[group].clone());
    let frame = ((frames.start + frames.end) / 2).clamp(answered.start, answered.end - 1);
    let sigma = row.timesteps[frame] / 1000.0;
    let of = |tensor: &Tensor, first: usize| tensor.slice0(frame - first..frame - first + 1);
    let (noised, velocity) = (of(shown.input, kept.run.start), of(velocity, answered.start));
    // Image-to-video models are shown more channels than they answer; the first ones are the latent.
    let values = noised.data().iter().zip(velocity.data()).map(|(x, v)| x - sigma * v).collect();
    Tensor::from_vec(velocity.shape(), values)
}

/// The branches of guidance that the row needs: at the same time where they have devices of their own, and
/// else one after the other or as one batch.
fn evaluate(
    task: &SegmentTask<'_>,
    at_work: &AtWork<'_>,
    reuse: &mut Reuse<'_>,
) -> Result<(Tensor, Option<Tensor>), FilmError> {
    let shown = &at_work.shown;
    let velocities = match reuse {
        Reuse::Steps(cached) => cached.evaluate(task.denoisers, shown)?,
        Reuse::Keys(caches) => {
            let (caches, idle) = caches.split_at_mut(shown.contexts.len());
            if task.uncond.is_some() {
                let idle = idle.iter_mut().flatten();
                idle.for_each(|cache| cache.forget(at_work.kept.forget.clone()));
            }
            evaluate_branches(task, at_work, caches)?
        }
    };
    let mut velocities = velocities.into_iter();
    Ok((velocities.next().expect("of the first branch"), velocities.next()))
}

/// As [`evaluate`], behind the kept keys of finished blocks if there are any.
fn evaluate_branches(
    task: &SegmentTask<'_>,
    at_work: &AtWork<'_>,
    caches: &mut [Option<SplitCache>],
) -> Result<Vec<Tensor>, FilmError> {
    let contexts = at_work.shown.contexts;
    let mut velocities = Vec::with_capacity(contexts.len());
    if contexts.len() == 1 || !task.denoisers.are_apart() {
        let size = if task.guidance_batch { contexts.len() } else { 1 };
        for (contexts, caches) in contexts.chunks(size).zip(caches.chunks_mut(size)) {
            velocities.extend(evaluate_batch(task, at_work, contexts, caches)?);
        }
        return Ok(velocities);
    }
    std::thread::scope(|scope| {
        let branches = contexts.chunks(1).zip(caches.chunks_mut(1));
        let begin = |(contexts, caches)| {
            scope.spawn(move || evaluate_batch(task, at_work, contexts, caches))
        };
        let begun: Vec<_> = branches.map(begin).collect();
        for branch in begun {
            velocities.extend(branch.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(velocities)
    })
}

/// Branches of guidance that go through the network together.
fn evaluate_batch(
    task: &SegmentTask<'_>,
    at_work: &AtWork<'_>,
    contexts: &[(Branch, &SplitContext)],
    caches: &mut [Option<SplitCache>],
) -> Result<Vec<Tensor>, FilmError> {
    let AtWork { kept, shown, .. } = at_work;
    let ShownRow { index, input, timesteps, options, .. } = *shown;
    let model = task.denoisers.of(contexts[0].0);
    let contexts: Vec<_> = contexts.iter().map(|(_, context)| *context).collect();
    let mut caches: Vec<_> = caches.iter_mut().flatten().collect();
    if caches.is_empty() {
        return Ok(model.forward(input, timesteps, &contexts, options)?);
    }
    for cache in &caches {
        assert_eq!(cache.next_frame(), kept.run.start, "row {index} begins elsewhere");
    }
    let velocities =
        model.forward_after(&mut caches, kept.keep, input, timesteps, &contexts, options)?;
    caches.iter_mut().for_each(|cache| cache.forget(kept.forget.clone()));
    Ok(velocities)
}

/// Advances one group's solver.
fn advance(
    task: &SegmentTask<'_>,
    solver: &mut dyn Solver,
    velocity: &Tensor,
    window: &mut Tensor,
    at_work: &AtWork<'_>,
    frames: Range<usize>,
) -> Result<(), FilmError> {
    let frame_len: usize = window.shape()[1..].iter().product();
    let shift = at_work.answered.start;
    let velocity =
        &velocity.data()[(frames.start - shift) * frame_len..(frames.end - shift) * frame_len];
    let noise = solver.wants_noise().then(|| {
        let mut noise = vec![0.0; frames.len() * frame_len];
        for (frame, out) in frames.clone().zip(noise.chunks_exact_mut(frame_len)) {
            task.noise.renoise(task.seed, task.segment, frame, at_work.shown.index, out);
        }
        noise
    });
    let sample = &mut window.data_mut()[frames.start * frame_len..frames.end * frame_len];
    solver.step(velocity, sample, noise.as_deref())?;
    Ok(())
}
