//! Which latent frame is at which timestep in which row.
//!
//! One *row* is one call of the transformer (two with guidance). With diffusion forcing each latent
//! frame has a timestep of its own, so frames may be denoised together (*synchronous*, `ar_step` 0)
//! or as a wave in which each causal block lags `ar_step` steps behind the one before
//! (*asynchronous*). This is `generate_timestep_matrix` of diffusers 0.42.1
//! (`pipeline_skyreels_v2_diffusion_forcing.py`) as a pure function, together with what the loops of
//! the three pipelines do to its result.
//!
//! Deliberate differences, each where the reference loses or corrupts frames:
//! - Frames after the last whole block are never denoised there (diffusers#13609); refused here.
//! - A prefix shorter than a block (a first image with blocks of 5) is denoised as if it were noise
//!   there. Here its frames stay frozen inside the block and the rest of the block goes on.
//! - The end image is one more frame *after* the blocks. There it becomes part of the last block or
//!   of none, which freezes a frame of the film or hides the image from the model. With a block size
//!   of 1 both agree in every row that updates a frame; rows that update nothing are left out here.
//! - A window shorter than `base` has an interval that ends with the window, not after it.

use std::ops::Range;

use longreel_kernels::ops::mix_noise;
use longreel_kernels::{Frames, FramesMut};
use thiserror::Error;

use crate::segments::Segment;

/// Timestep that the reference shows the model for blocks that have not begun.
const NOT_BEGUN: f32 = 999.0;

/// Rows times frames a timetable may have: far beyond any film window, and small enough (a few
/// hundred MB) that a mistyped `ar_step` cannot exhaust memory.
const MAX_CELLS: usize = 1 << 24;

/// The window a timetable is for, in latent frames: `[prefix | new | end]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TimetableShape {
    /// Frozen frames at the head: the image, the history.
    pub prefix_latents: usize,
    /// Frames to denoise.
    pub new_latents: usize,
    /// Frozen frames at the tail: the image to end on (timestep 0, never noised).
    pub end_latents: usize,
    /// Most frames (prefix and new) that one row may show the model; a longer window is worked
    /// through with a sliding interval. At least one causal block.
    pub base_latents: usize,
    /// Frames that are denoised together, at least 1.
    pub causal_block: usize,
    /// Steps that a block lags behind its predecessor; 0 is synchronous.
    pub ar_step: usize,
    /// Noise level mixed into the prefix in every row, in timesteps (0 is off, 20 is usual).
    pub addnoise_condition: f32,
}

impl TimetableShape {
    /// The timetable of a whole segment, shown to the model in one piece as the pipelines do.
    pub fn of(
        segment: &Segment,
        causal_block: usize,
        ar_step: usize,
        addnoise_condition: f32,
    ) -> Self {
        Self {
            prefix_latents: segment.prefix_latents,
            new_latents: segment.new_latents,
            end_latents: segment.end_latents,
            base_latents: segment.film_latents(),
            causal_block,
            ar_step,
            addnoise_condition,
        }
    }

    fn film_latents(&self) -> usize {
        self.prefix_latents.saturating_add(self.new_latents)
    }
}

/// One call of the transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What the model is told for each frame of the window, in train timesteps [0, 1000]: already 0
    /// for the end image, and the condition's level for prefix frames that are mixed with noise.
    pub timesteps: Vec<f32>,
    /// Position of each frame in its schedule: 0 not begun, s = step s of N (from 1), N + 1 done.
    pub step_index: Vec<u32>,
    /// Whether the solver advances the frame in this row.
    pub update: Vec<bool>,
    /// Window frames that the model is shown, as one contiguous range.
    pub interval: Range<usize>,
    /// Prefix frames to mix with fresh noise before they are shown ([`mix_condition_noise`]); the
    /// frames themselves stay as they are. Empty when that is off.
    pub noisy_condition: Range<usize>,
    /// The groups (indices into [`Timetable::groups`]) whose solver advances in this row.
    pub updated_groups: Vec<usize>,
}

/// The rows of one window.
#[derive(Clone, Debug, PartialEq)]
pub struct Timetable {
    groups: Vec<Range<usize>>,
    rows: Vec<Row>,
}

impl Timetable {
    /// Builds the timetable of a window for the schedule `timesteps` (N values, first step first).
    ///
    /// # Errors
    /// A window that the block does not divide, one with nothing to denoise, an `ar_step` too small
    /// for a window longer than `base_latents`, a condition noise outside [0, 1000].
    pub fn new(shape: &TimetableShape, timesteps: &[f32]) -> Result<Self, TimetableError> {
        let steps = timesteps.len();
        check(shape, steps)?;
        let block = shape.causal_block;
        let blocks = shape.film_latents() / block;
        let base_blocks = shape.base_latents / block;
        let counters = block_counters(blocks, shape.prefix_latents / block, steps, shape.ar_step);

        // Frozen frames belong to no group, so a group may be a block without its head.
        let groups: Vec<Range<usize>> = (shape.prefix_latents / block..blocks)
            .map(|i| (i * block).max(shape.prefix_latents)..(i + 1) * block)
            .collect();
        let first_group_block = shape.prefix_latents / block;

        let mut rows = Vec::with_capacity(counters.len());
        let mut terminal = base_blocks.min(blocks);
        for BlockRow { counter, update } in &counters {
            // The interval slides by one block when the first block beyond it begins.
            if terminal < blocks && update[terminal] {
                terminal += 1;
            }
            let start = terminal.saturating_sub(base_blocks) * block;
            rows.push(frame_row(
                shape,
                timesteps,
                counter,
                update,
                start,
                terminal,
                first_group_block,
            ));
        }
        Ok(Self { groups, rows })
    }

    /// The rows in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Window frames that share one solver: the frames of a causal block, without frozen ones.
    pub fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }
}

/// The counters of all blocks in one row, and which of them the row advances.
struct BlockRow {
    counter: Vec<usize>,
    update: Vec<bool>,
}

/// The counters row by row: a block whose predecessor is done advances by one, any other follows
/// its predecessor at a distance of `ar_step`, within [0, N + 1]; given blocks start at N + 1.
fn block_counters(blocks: usize, ready: usize, steps: usize, ar_step: usize) -> Vec<BlockRow> {
    let done = steps + 1;
    let mut previous = vec![0; blocks];
    previous[..ready].fill(done);
    let mut rows = Vec::new();
    // A block counts as finished at N: its last update has happened, the row after only says so.
    while previous.iter().any(|&counter| counter < steps) {
        let mut counter: Vec<usize> = Vec::with_capacity(blocks);
        for i in 0..blocks {
            let next = match i.checked_sub(1) {
                Some(before) if previous[before] < steps => counter[before].saturating_sub(ar_step),
                _ => previous[i] + 1,
            };
            counter.push(next.min(done));
        }
        let update = (0..blocks).map(|i| counter[i] != previous[i] && counter[i] != done).collect();
        previous.clone_from(&counter);
        rows.push(BlockRow { counter, update });
    }
    rows
}

/// Expands the counters of one row from blocks to the frames of the window.
fn frame_row(
    shape: &TimetableShape,
    schedule: &[f32],
    counter: &[usize],
    update: &[bool],
    start: usize,
    terminal: usize,
    first_group_block: usize,
) -> Row {
    let film = shape.film_latents();
    let window = film + shape.end_latents;
    let done = schedule.len() + 1;
    let mut row = Row {
        timesteps: vec![0.0; window],
        step_index: vec![done as u32; window],
        update: vec![false; window],
        // The end image follows the window's last frame and is only shown beside it.
        interval: start..terminal * shape.causal_block,
        noisy_condition: 0..0,
        updated_groups: (first_group_block..counter.len())
            .filter(|&block| update[block])
            .map(|block| block - first_group_block)
            .collect(),
    };
    if row.interval.end == film {
        row.interval.end = window;
    }
    for frame in shape.prefix_latents..film {
        let block = frame / shape.causal_block;
        row.step_index[frame] = counter[block] as u32;
        row.update[frame] = update[block];
        row.timesteps[frame] = match counter[block] {
            0 => NOT_BEGUN,
            step if step < done => schedule[step - 1],
            _ => 0.0,
        };
    }
    if shape.addnoise_condition > 0.0 && row.interval.start < shape.prefix_latents {
        row.noisy_condition = row.interval.start..shape.prefix_latents.min(row.interval.end);
        // The reference writes the level into a tensor of integers, which drops its fraction; the
        // strength of the noise keeps it.
        row.timesteps[row.noisy_condition.clone()].fill(shape.addnoise_condition.trunc());
    }
    row
}

/// Mixes noise into frozen frames before the model sees them:
/// `shown = shown * (1 - 0.001 a) + noise * 0.001 a`, as the diffusion-forcing pipelines do with
/// `addnoise_condition`, in a copy of the latents.
///
/// # Errors
/// When the lengths differ.
pub fn mix_condition_noise(
    shown: &mut FramesMut<'_>,
    noise: &Frames<'_>,
    addnoise_condition: f32,
) -> Result<(), TimetableError> {
    if shown.read().len() != noise.len() {
        return Err(TimetableError::NoiseLength { latent: shown.read().len(), noise: noise.len() });
    }
    // Python computes both factors in f64; torch rounds each to f32 before it multiplies.
    let noise_factor = 0.001 * f64::from(addnoise_condition);
    mix_noise(shown, noise, [(1.0 - noise_factor) as f32, noise_factor as f32]);
    Ok(())
}

fn check(shape: &TimetableShape, steps: usize) -> Result<(), TimetableError> {
    let block = shape.causal_block;
    if block == 0 {
        return Err(TimetableError::NoBlock);
    }
    if steps == 0 {
        return Err(TimetableError::NoSteps);
    }
    if shape.new_latents == 0 {
        return Err(TimetableError::NothingNew { prefix: shape.prefix_latents });
    }
    let film = shape.film_latents();
    if !film.is_multiple_of(block) {
        let below = film / block * block;
        return Err(TimetableError::NotWholeBlocks {
            latents: film,
            block,
            below,
            above: below.saturating_add(block),
        });
    }
    let (blocks, base_blocks) = (film / block, shape.base_latents / block);
    if base_blocks == 0 {
        return Err(TimetableError::BaseTooSmall { base: shape.base_latents, block });
    }
    if base_blocks < blocks && shape.ar_step < steps.div_ceil(base_blocks) {
        return Err(TimetableError::ArStepTooSmall {
            ar_step: shape.ar_step,
            least: steps.div_ceil(base_blocks),
            steps,
            latents: film,
            base: shape.base_latents,
        });
    }
    if !(0.0..=1000.0).contains(&shape.addnoise_condition) {
        return Err(TimetableError::ConditionNoise {
            addnoise_condition: shape.addnoise_condition,
        });
    }
    let rows = (blocks - 1).checked_mul(shape.ar_step).and_then(|lag| lag.checked_add(steps));
    let window = film.checked_add(shape.end_latents);
    let cells = rows.zip(window).and_then(|(rows, window)| rows.checked_mul(window));
    if cells.is_none_or(|cells| cells > MAX_CELLS) {
        return Err(TimetableError::TooLarge { latents: film, steps, ar_step: shape.ar_step });
    }
    Ok(())
}

/// Why a window has no timetable.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TimetableError {
    /// A causal block of no frames.
    #[error("causal_block_size is 0; use 1 for attention that is not causal, or 5")]
    NoBlock,
    /// A schedule of no steps.
    #[error("0 steps: at least one is needed")]
    NoSteps,
    /// Only frozen frames.
    #[error(
        "the window's {prefix} latent frames are all given, nothing is left to denoise; ask for more frames"
    )]
    NothingNew {
        /// Frozen frames.
        prefix: usize,
    },
    /// A window that the block does not divide.
    #[error(
        "{latents} latent frames are not whole causal blocks of {block}, and the rest would stay \
         noise; use {below} or {above} latent frames"
    )]
    NotWholeBlocks {
        /// Prefix and new frames.
        latents: usize,
        /// Frames in a block.
        block: usize,
        /// The multiple below.
        below: usize,
        /// The multiple above.
        above: usize,
    },
    /// A model window that holds no block.
    #[error(
        "a base of {base} latent frames holds no causal block of {block}; use a base of {block} or more"
    )]
    BaseTooSmall {
        /// Most frames the model is shown.
        base: usize,
        /// Frames in a block.
        block: usize,
    },
    /// Blocks would begin before the sliding interval reaches them.
    #[error(
        "ar_step {ar_step} is too small: {latents} latent frames are more than the {base} of one \
         window, so with {steps} steps use an ar_step of {least} or more, or a base of {latents}"
    )]
    ArStepTooSmall {
        /// The lag asked for.
        ar_step: usize,
        /// The smallest that works.
        least: usize,
        /// Steps of the schedule.
        steps: usize,
        /// Prefix and new frames.
        latents: usize,
        /// Most frames the model is shown.
        base: usize,
    },
    /// A noise level that is none.
    #[error(
        "addnoise_condition is {addnoise_condition}; it must be in 0..=1000 (0 is off, 20 is usual, above 60 the film may jump)"
    )]
    ConditionNoise {
        /// The level asked for.
        addnoise_condition: f32,
    },
    /// A table beyond the memory limit.
    #[error(
        "{latents} latent frames, {steps} steps and ar_step {ar_step} make a timetable beyond {MAX_CELLS} cells; use fewer steps or a smaller ar_step"
    )]
    TooLarge {
        /// Prefix and new frames.
        latents: usize,
        /// Steps of the schedule.
        steps: usize,
        /// The lag.
        ar_step: usize,
    },
    /// Slices of different lengths.
    #[error("condition noise: {latent} latent values and {noise} noise values; the two must agree")]
    NoiseLength {
        /// Values in the latent.
        latent: usize,
        /// Values in the noise.
        noise: usize,
    },
}
