//! How noise becomes latents: the mathematics around the model.
//!
//! The nouns, in the order in which a film meets them:
//!
//! - A **latent frame** is what the VAE makes of four pixel frames (of one, for the first). Frame
//!   counts are [`PixelFrames`] (always 4n+1) and [`LatentFrames`], which do not mix.
//! - A **segment** is one window of a film: a frozen **prefix** (the history or the first image), new
//!   frames, and perhaps a frozen image to end on. A [`SegmentPlan`] cuts a film of any length,
//!   endless included, into segments.
//! - **Noise** is counter-based: a [`NoiseKey`] (seed, segment, latent frame, purpose, row) names it,
//!   [`fill_normal`] draws it, in any order and on any machine with the same bits.
//! - A **schedule** is the falling noise levels (**sigma**) of a run and the **timesteps** that the
//!   model is told for them. [`SchedulerConfig`] reads a checkpoint's, [`Schedule`] computes it.
//! - A **timetable** says for each **row** (one call of the model) which latent frame is at which
//!   timestep and which are advanced. The frames of a causal block advance together and form a
//!   **group**.
//! - **Guidance** combines the velocities of the model with and without the prompt.
//! - A **solver** advances one group by one step, given the model's **velocity**. Diffusion-forcing
//!   models are sampled [`SolverKind::in_place`], plain models are not.
//! - A **step cache** decides in which rows the model need not run. With block-causal attention
//!   [`kept_rows`] says which frames of a row need not.
//!
//! Latents are `f32` tensors whose outermost axis is the latent frame, such as [T, C, H, W], so that a
//! group is one contiguous run; nothing here depends on the order of the other axes. They are moved where they lie, on
//! the host or a GPU. Noise is drawn on the host. No function allocates without a bound, panics on input, keeps global
//! state or draws random numbers by itself.
//!
//! # A film of three segments
//! ```
//! use std::sync::Arc;
//! use longreel_kernels::Tensor;
//! use longreel_sampling::*;
//!
//! let shape = FilmShape {
//!     total: Some(PixelFrames::new(41)?),
//!     base: PixelFrames::new(25)?,
//!     overlap: Some(PixelFrames::new(9)?),
//!     causal_block: 1,
//!     start: Start::Noise,
//!     end_image: false,
//! };
//! let frame_values = 16 * 4 * 4;
//! let config = SchedulerConfig::default();
//! let schedule = Arc::new(Schedule::new(&config, 8)?);
//! let guidance = Guidance::new(6.0, GuidanceInterval::ALL)?;
//! let model = |latents: &Tensor, _timesteps: &[f32]| latents.clone();
//!
//! let mut film: Vec<f32> = Vec::new();
//! for segment in SegmentPlan::new(&shape)?.iter() {
//!     let mut latents = film[segment.first_latent * frame_values..].to_vec();
//!     for frame in segment.prefix_latents..segment.film_latents() {
//!         let key = NoiseKey::initial(42, segment.index as u32, frame as u32);
//!         let start = latents.len();
//!         latents.resize(start + frame_values, 0.0);
//!         fill_normal(&key, 0, &mut latents[start..]);
//!     }
//!     let mut latents = Tensor::from_vec(&[latents.len() / frame_values, 16, 4, 4], latents);
//!     let timetable = Timetable::new(&TimetableShape::of(&segment, 1, 0, 0.0), &schedule.timesteps)?;
//!     let mut solvers = Vec::new();
//!     for _ in timetable.groups() {
//!         solvers.push(config.solver().in_place().build(&schedule)?);
//!     }
//!     for row in timetable.rows() {
//!         let shown = latents.slice0(row.interval.clone());
//!         let timesteps = &row.timesteps[row.interval.clone()];
//!         let mut velocity = model(&shown, timesteps);
//!         if guidance.guides(row) {
//!             guidance.combine(&mut velocity, &model(&shown, timesteps), timesteps)?;
//!         }
//!         for &group in &row.updated_groups {
//!             let frames = timetable.groups()[group].clone();
//!             let answered = frames.start - row.interval.start..frames.end - row.interval.start;
//!             let velocity = velocity.frames(answered);
//!             solvers[group].step(&velocity, &mut latents.frames_mut(frames), None)?;
//!         }
//!     }
//!     film.extend_from_slice(&latents.data()[segment.prefix_latents * frame_values..]);
//! }
//! assert_eq!(film.len(), 11 * frame_values);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod cache;
pub mod config;
pub mod guidance;
pub mod kept;
pub mod noise;
pub mod schedule;
pub mod segments;
pub mod solver;
pub mod timetable;

pub use cache::{Branch, CacheError, Decision, EasyCache, Observed, TeaCache, TeaCacheFamily};
pub use config::{SchedulerConfig, SchedulerKind};
pub use guidance::{Guidance, GuidanceError, GuidanceInterval};
pub use kept::{BlockWindow, Keeping, KeptRow, kept_rows};
pub use noise::{NoiseKey, Purpose, fill_normal};
pub use schedule::{FewStep, Schedule, ScheduleError};
pub use segments::{
    FilmShape, LatentFrames, PixelFrames, Segment, SegmentError, SegmentPlan, Start,
};
pub use solver::{Solver, SolverError, SolverKind, UniPcConfig, UniPcVariant};
pub use timetable::{Row, Timetable, TimetableError, TimetableShape, mix_condition_noise};
