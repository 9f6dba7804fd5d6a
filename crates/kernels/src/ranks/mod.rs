//! Several devices that work on one thing: each is a rank of a group and holds a part, and they
//! exchange what another one's part needs.

mod local;
mod meeting;
mod route;
#[cfg(test)]
mod tests;

use crate::{GpuError, Tensor};

pub use local::LocalGroup;
pub use route::is_by_host;

/// What a rank has of its group. Every rank makes the same calls in the same order.
///
/// [`LocalGroup`] is the body for devices of one process.
pub trait Communicator: Send + Sync {
    /// Its number, from 0.
    fn rank(&self) -> usize;

    /// Ranks of the group.
    fn count(&self) -> usize;

    /// Part `i` goes to rank `i`; the result, on this rank's device, is what each rank had for this one,
    /// in the order of the ranks.
    ///
    /// # Errors
    /// A part that cannot be handed over, and a rank that has left instead of giving its own.
    fn all_to_all(&self, parts: Vec<Tensor>) -> Result<Vec<Tensor>, RankError>;
}

/// The only rank of a group of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn all_to_all(&self, parts: Vec<Tensor>) -> Result<Vec<Tensor>, RankError> {
        assert_eq!(parts.len(), 1, "all_to_all: parts for one rank");
        Ok(parts)
    }
}

/// What ranks could not do together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RankError {
    /// Another rank ended before it gave what this one waits for. It has the reason.
    #[error("device {rank} of the {count} that share the work has stopped before the others")]
    Left {
        /// Which one, from 0.
        rank: usize,
        /// Ranks of the group.
        count: usize,
    },
    /// The system gives no threads for the ranks.
    #[error("no threads for {count} devices: {reason}; use fewer devices or allow more threads")]
    Threads {
        /// Ranks of the group.
        count: usize,
        /// What the system says.
        reason: String,
    },
    /// The way from one device to another does not work.
    #[error("devices cannot exchange by {way}: {reason}")]
    Route {
        /// Its name.
        way: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A device that could not go on.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}
