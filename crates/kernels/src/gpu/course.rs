//! How a device's work goes: what has failed, and whether it is being written down instead of done.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::GpuError;

/// Whose turn it is with a device, and what went wrong so far.
///
/// While a thread captures work, everything that the device is asked for becomes part of it; other threads
/// wait until that is over. It takes no longer than starting the work.
#[derive(Debug, Default)]
pub(super) struct Course {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    failed: Option<GpuError>,
    capturing: Option<Capturing>,
}

/// A capture under way.
#[derive(Debug)]
struct Capturing {
    by: ThreadId,
    /// Why it will be of no use. That is no failure of the device: the work is done in the plain way then.
    refused: Option<GpuError>,
}

/// Work with the device as long as it is there.
pub(super) struct Turn<'a>(MutexGuard<'a, State>);

impl Course {
    /// Waits for captures of other threads.
    pub fn turn(&self) -> Turn<'_> {
        let own = thread::current().id();
        let others = |state: &mut State| state.capturing.as_ref().is_some_and(|c| c.by != own);
        // A panic elsewhere cannot leave it half-changed.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.ended.wait_while(state, others);
        Turn(state.unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on this thread captures: what fails is the capture's affair. `false` when something has
    /// failed before, or a capture is under way.
    pub fn begin_capture(&self) -> bool {
        let mut turn = self.turn();
        if turn.has_failed() || turn.is_capturing() {
            return false;
        }
        turn.0.capturing = Some(Capturing { by: thread::current().id(), refused: None });
        true
    }

    /// Ends what [`begin_capture`](Self::begin_capture) began; an error is why it is of no use.
    pub fn end_capture(&self) -> Result<(), GpuError> {
        let capturing = self.turn().0.capturing.take();
        self.ended.notify_all();
        capturing.and_then(|capturing| capturing.refused).map_or(Ok(()), Err)
    }
}

impl Turn<'_> {
    /// Whether nothing is to be started any more.
    pub fn has_failed(&self) -> bool {
        match &self.0.capturing {
            Some(capturing) => capturing.refused.is_some(),
            None => self.0.failed.is_some(),
        }
    }

    /// Whether work is written down.
    pub fn is_capturing(&self) -> bool {
        self.0.capturing.is_some()
    }

    /// Keeps what went wrong first.
    pub fn fail(&mut self, error: GpuError) {
        match &mut self.0.capturing {
            Some(capturing) => capturing.refused.get_or_insert(error),
            None => self.0.failed.get_or_insert(error),
        };
    }

    /// What went wrong first, after which the device is usable again; a capture that is of no use stays so.
    pub fn take_failure(&mut self) -> Option<GpuError> {
        match &self.0.capturing {
            Some(capturing) => capturing.refused.clone(),
            None => self.0.failed.take(),
        }
    }
}
