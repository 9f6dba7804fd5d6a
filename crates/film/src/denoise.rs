//! One segment: from noise to latents, row by row of its timetable.

use std::borrow::Cow;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Instant;

use longreel_kernels::{Tensor, ops};
use longreel_models::{ForwardOptions, ModelError, SplitCache, SplitContext};
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
    /// be without noise, on the host.
    pub clean: &'a dyn Fn() -> Result<Tensor, FilmError>,
}

/// Told after each row; returns false to give the segment up.
pub type OnRow<'a> = dyn FnMut(&RowDone<'_>) -> Result<bool, FilmError> + 'a;

/// Denoises `window`, `[window, C, h, w]`: frozen frames hold their latents, the others noise. Returns none when
/// `on_row` gave it up. Meanwhile the latents are [where the network is](Denoisers::home), and
/// with them all that moves them; of a row nothing but its being done comes to the host.
///
/// The reference is the denoising loop of `SkyReelsV2DiffusionForcingPipeline.__call__`
/// (diffusers 0.42.1) and, for models without diffusion forcing, that of `SkyReelsV2Pipeline`, whose
/// timetable has one block.
///
/// # Errors
/// A network or solver error, noise missing in a noise file, and [`FilmError::NotFinite`].
pub fn denoise(
    task: &SegmentTask<'_>,
    window: Tensor,
    cache: Option<&mut StepCache>,
    on_row: &mut OnRow<'_>,
) -> Result<Option<Tensor>, FilmError> {
    let home = task.denoisers.home();
    let extra_channels = task.extra_channels.map(|extra| extra.on(&home)).transpose();
    let mut latents = Latents {
        window: window.into_device(&home).map_err(ModelError::from)?.into_kept(),
        extra_channels: extra_channels.map_err(ModelError::from)?,
    };
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
        let input = latents.shown(task, index, row, kept.run.clone())?;
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
            velocity = ops::widened(velocity);
            task.guidance.combine(&mut velocity, &other, timesteps)?;
        }
        for &group in &row.updated_groups {
            let frames = task.timetable.groups()[group].clone();
            advance(task, &mut solvers[group], &velocity, &mut latents.window, &at_work, frames)?;
        }
        // The one thing of a row that is waited for, once all of it has been asked for.
        if !ops::all_finite(&velocity).map_err(ModelError::from)? {
            let what = format!("the model's answer in segment {}, step {index}", task.segment);
            return Err(FilmError::NotFinite { what });
        }
        let seconds = started.elapsed().as_secs_f64();
        let clean = || clean_latent(task.timetable, &at_work, &velocity);
        let row_done = RowDone { done: index + 1, rows: rows.len(), seconds, clean: &clean };
        if !on_row(&row_done)? {
            return Ok(None);
        }
    }
    Ok(Some(latents.window.into_host().map_err(ModelError::from)?))
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

/// What a segment's rows move and are shown, where the network is.
struct Latents<'a> {
    /// `[window, C, h, w]`.
    window: Tensor,
    /// `[window, extra, h, w]`, of image-to-video models.
    extra_channels: Option<Cow<'a, Tensor>>,
}

impl Latents<'_> {
    /// What the network is shown of `frames` in a row: the prefix mixed with noise where the row says so,
    /// and the extra channels.
    fn shown(
        &self,
        task: &SegmentTask<'_>,
        index: usize,
        row: &Row,
        frames: Range<usize>,
    ) -> Result<Tensor, FilmError> {
        let &[_, channels, height, width] = self.window.shape() else { unreachable!("latents") };
        let mut shown = self.window.slice0(frames.clone());
        // History that is kept has the noise of the first row in all of them.
        let same = task.keeping.is_some_and(|keeping| keeping.same_condition_noise);
        for frame in row.noisy_condition.clone().filter(|frame| frames.contains(frame)) {
            let at = ConditionNoise {
                seed: task.seed,
                segment: task.segment,
                row: if same { 0 } else { index },
                frame,
                prefix: task.prefix,
            };
            let mut noise = Tensor::zeros(&[1, channels, height, width]);
            task.noise.condition(at, [channels, height, width], noise.data_mut())?;
            let place = frame - frames.start;
            let mut shown = shown.frames_mut(place..place + 1);
            mix_condition_noise(&mut shown, &noise.all_frames(), task.addnoise_condition)
                .map_err(PlanError::from)?;
        }
        // It stays while the network runs, which is to find the same places free each time.
        let Some(extra) = &self.extra_channels else { return Ok(shown.into_kept()) };
        let (count, more) = (frames.len(), extra.dim(1));
        let planes = [(shown, channels), (extra.slice0(frames), more)]
            .map(|(tensor, channels)| tensor.reshape(&[count, channels * height * width]));
        let joined = ops::join_columns(&planes).reshape(&[count, channels + more, height, width]);
        Ok(joined.into_kept())
    }
}

/// See [`RowDone::clean`]: x0 = x - sigma * v, of flow matching (Lipman et al. 2023), with sigma the
/// timestep in thousandths.
fn clean_latent(
    timetable: &Timetable,
    at_work: &AtWork<'_>,
    velocity: &Tensor,
) -> Result<Tensor, FilmError> {
    let AtWork { row, kept, answered, shown } = at_work;
    let moved = row.updated_groups.get(row.updated_groups.len() / 2);
    let frames = moved.map_or(answered.clone(), |&group| timetable.groups()[group].clone());
    let frame = ((frames.start + frames.end) / 2).clamp(answered.start, answered.end - 1);
    let sigma = row.timesteps[frame] / 1000.0;
    let of = |tensor: &Tensor, first: usize| {
        let frame = tensor.slice0(frame - first..frame - first + 1);
        frame.into_host().map_err(ModelError::from)
    };
    let (noised, velocity) = (of(shown.input, kept.run.start)?, of(velocity, answered.start)?);
    // Image-to-video models are shown more channels than they answer; the first ones are the latent.
    let values = noised.data().iter().zip(velocity.data()).map(|(x, v)| x - sigma * v).collect();
    Ok(Tensor::from_vec(velocity.shape(), values))
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
        return at_home(task, model.forward(input, timesteps, &contexts, options)?);
    }
    for cache in &caches {
        assert_eq!(cache.next_frame(), kept.run.start, "row {index} begins elsewhere");
    }
    let velocities =
        model.forward_after(&mut caches, kept.keep, input, timesteps, &contexts, options)?;
    caches.iter_mut().for_each(|cache| cache.forget(kept.forget.clone()));
    at_home(task, velocities)
}

/// Velocities of one branch, where the latents are.
fn at_home(task: &SegmentTask<'_>, velocities: Vec<Tensor>) -> Result<Vec<Tensor>, FilmError> {
    let home = task.denoisers.home();
    let velocities = velocities.into_iter().map(|velocity| velocity.into_device(&home));
    Ok(velocities.collect::<Result<_, _>>().map_err(ModelError::from)?)
}

/// Advances one group's solver.
fn advance(
    task: &SegmentTask<'_>,
    solver: &mut Solver,
    velocity: &Tensor,
    window: &mut Tensor,
    at_work: &AtWork<'_>,
    frames: Range<usize>,
) -> Result<(), FilmError> {
    let shift = at_work.answered.start;
    let noise = solver.wants_noise().then(|| {
        let mut noise = Tensor::zeros(&window.frames(frames.clone()).shape());
        let frame_len = noise.len() / frames.len().max(1);
        let each = frames.clone().zip(noise.data_mut().chunks_exact_mut(frame_len.max(1)));
        for (frame, out) in each {
            task.noise.renoise(task.seed, task.segment, frame, at_work.shown.index, out);
        }
        noise
    });
    let velocity = velocity.frames(frames.start - shift..frames.end - shift);
    let noise = noise.as_ref().map(Tensor::all_frames);
    solver.step(&velocity, &mut window.frames_mut(frames), noise.as_ref())?;
    Ok(())
}
