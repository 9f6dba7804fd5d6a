//! Whether a film's disk has room for it, found out before a weight is loaded.

use std::path::Path;

use crate::checkpoint::KEPT;
use crate::error::FilmError;
use crate::events::{Event, Observer};
use crate::outputs::Outputs;
use crate::plan::{FilmPlan, ModelFacts, human_bytes};
use crate::request::{Carry, Length};

/// Films of one colour take about so much less than the most that is expected of a film.
const LEAST: u64 = 50;

/// Refuses a film for which there is no room whatever it shows, and warns of one that may find none.
///
/// # Errors
/// [`FilmError::NoRoom`].
pub(crate) fn check_room(
    plan: &FilmPlan,
    outputs: &Outputs,
    model: &ModelFacts,
    observer: &mut dyn Observer,
) -> Result<(), FilmError> {
    let sizes = Sizes::of(plan, model);
    let latents = outputs.dump_latents.as_deref().map(|path| (path, sizes.latents));
    let frames = outputs.dump_frames.as_deref().map(|path| (path, sizes.frames));
    // Dumps grow beside the film and are written out at its end.
    let growing = latents.iter().chain(&frames).map(|(_, bytes)| bytes).sum::<u64>();
    let beside = growing + (KEPT as u64 + 1) * sizes.checkpoint;
    let most = plan.summary().disk_bytes;
    let film = (outputs.film.as_path(), beside + most / LEAST);
    for (path, needed) in [Some(film), latents, frames].into_iter().flatten() {
        if let Some(free) = free_bytes(path).filter(|&free| free < needed) {
            let (needed, free) = (human_bytes(needed), human_bytes(free));
            return Err(FilmError::NoRoom { path: path.to_owned(), needed, free });
        }
    }
    if let Some(free) = free_bytes(&outputs.film).filter(|&free| free < beside + most) {
        observer.event(Event::Warning {
            message: format!(
                "the disk of {} has {} free, and the film may take up to {}; should it run full after the first \
                 segment, `longreel resume` goes on when there is room again",
                outputs.film.display(),
                human_bytes(free),
                human_bytes(beside + most)
            ),
        });
    }
    Ok(())
}

/// What the files beside a film take, in bytes.
struct Sizes {
    latents: u64,
    frames: u64,
    checkpoint: u64,
}

impl Sizes {
    fn of(plan: &FilmPlan, model: &ModelFacts) -> Self {
        let request = plan.request();
        let count = match request.length {
            Length::Frames(frames) => frames,
            // Of its first segment.
            Length::Endless => request.base_num_frames as u64,
        };
        let pixels = request.width as u64 * request.height as u64;
        let latent = 4 * model.vae.z_dim as u64 * (pixels / 64);
        let history = plan.history_latents() as u64;
        let history = match request.carry {
            Carry::Latents => history * latent,
            Carry::Pixels => history * (latent + 4 * 12 * pixels),
        };
        Self {
            latents: (count.saturating_sub(1) / 4 + 1).saturating_mul(latent),
            frames: count.saturating_mul(12 * pixels),
            checkpoint: history + 3 * pixels,
        }
    }
}

/// Bytes that this user may write where `path` is, or will be, what lies there already given up; `None`
/// where the system does not tell.
fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let replaced =
            path.metadata().map_or(0, |file| if file.is_file() { file.len() } else { 0 });
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let disk = rustix::fs::statvfs(folder.unwrap_or(Path::new("."))).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(replaced))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
