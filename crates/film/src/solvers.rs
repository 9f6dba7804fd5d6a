//! The solver and schedule that a request's choice stands for.

use longreel_sampling::{FewStep, Schedule, SchedulerConfig, SolverKind};
use longreel_weights::ModelKind;

use crate::error::PlanError;
use crate::request::SolverChoice;

/// The schedule of a distilled checkpoint's explicit timesteps.
pub fn few_step_schedule(timesteps: &[u32], flow_shift: f32) -> Result<Schedule, PlanError> {
    let few = FewStep { steps: timesteps.to_vec(), ..FewStep::four(f64::from(flow_shift)) };
    Ok(Schedule::few_step(&few)?)
}

/// The solver of a choice under the model's scheduler configuration.
///
/// Diffusion forcing overwrites a frame's latents where its solver remembers them
/// (`latents[:, :, idx] = scheduler.step(.., latents[:, :, idx])`), so there the multistep solver
/// looks back on results instead of starts; the published models are used, and sampled, like that.
pub fn solver_kind(
    choice: &SolverChoice,
    scheduler: &SchedulerConfig,
    kind: ModelKind,
) -> SolverKind {
    match choice {
        SolverChoice::UniPc if kind == ModelKind::DiffusionForcing => scheduler.solver().in_place(),
        SolverChoice::UniPc => scheduler.solver(),
        SolverChoice::FewStep { renoise: true, .. } => SolverKind::Renoise,
        SolverChoice::Euler | SolverChoice::FewStep { .. } => SolverKind::Euler,
    }
}
