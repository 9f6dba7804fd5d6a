//! How a device's work goes: what has failed, and whether it is being written down instead of done.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::{Address, Captured, Driver, GpuError};

/// Whose turn it is with a device, and what went wrong so far.
///
/// While a thread has the device [alone](Self::alone), everything that it is asked for is part of one thing, and
/// other threads wait: until work was captured, which takes no longer than starting it, or until what was captured
/// was started again, for which weights may have to come.
#[derive(Debug, Default)]
pub(super) struct Course {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    failed: Option<GpuError>,
    alone: Option<ThreadId>,
    capturing: Option<Capturing>,
}

/// A capture under way, by the thread that is alone.
#[derive(Debug, Default)]
struct Capturing {
    /// Why it will be of no use. That is no failure of the device: the work is done in the plain way then.
    refused: Option<GpuError>,
    /// Whether the device writes down what it is asked for.
    writes: bool,
    /// What was written down before.
    parts: Vec<Part>,
    /// Of what is written down now.
    weights: Vec<u64>,
    /// The weight that was used last, and where it lies.
    last: Option<(u64, Address)>,
    /// Whether the device was asked for anything since the last weight.
    has_work: bool,
}

/// Work that is started at once.
#[derive(Debug)]
pub(super) struct Part {
    /// The weights that have to be brought before, in this order.
    pub weights: Vec<u64>,
    pub captured: Captured,
}

/// Work with the device as long as it is there.
pub(super) struct Turn<'a>(MutexGuard<'a, State>);

/// No other thread has a turn as long as it is there.
pub(super) struct Alone<'a>(&'a Course);

impl Course {
    /// Waits for threads that are alone with the device.
    pub fn turn(&self) -> Turn<'_> {
        let own = thread::current().id();
        let others = |state: &mut State| state.alone.is_some_and(|by| by != own);
        // A panic elsewhere cannot leave it half-changed.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.ended.wait_while(state, others);
        Turn(state.unwrap_or_else(PoisonError::into_inner))
    }

    /// The device for this thread alone; `None` when something has failed before, or the thread has it already.
    pub fn alone(&self) -> Option<Alone<'_>> {
        let mut turn = self.turn();
        if turn.has_failed() || turn.0.alone.is_some() {
            return None;
        }
        turn.0.alone = Some(thread::current().id());
        Some(Alone(self))
    }
}

impl Alone<'_> {
    /// From here on what fails is the affair of a capture, for which all is done as ever until it [writes](Self::write).
    pub fn begin_capture(&self) {
        self.0.turn().0.capturing = Some(Capturing::default());
    }

    /// From here on what the device is asked for is written down.
    pub fn write(&self, driver: &dyn Driver) {
        self.0.turn().write(driver);
    }

    /// What was captured, and why it is of no use if it is of none.
    pub fn end_capture(&self, driver: &dyn Driver) -> (Vec<Part>, Option<GpuError>) {
        let mut turn = self.0.turn();
        turn.end_part(driver);
        let Capturing { refused, parts, .. } = turn.0.capturing.take().unwrap_or_default();
        (parts, refused)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.turn().0.alone = None;
        self.0.ended.notify_all();
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

    /// The device is asked for something, which is written down if work is.
    pub fn is_asked(&mut self) {
        if let Some(capturing) = &mut self.0.capturing {
            capturing.has_work = true;
        }
    }

    /// What is written down from here on needs a weight that is brought each time, to this place: a part of its own,
    /// before which the weight can be waited for.
    pub fn needs(&mut self, driver: &dyn Driver, weight: u64, place: Address) {
        let Some(capturing) = &mut self.0.capturing else { return };
        let used = (weight, place);
        let last = capturing.last.replace(used);
        if last == Some(used) {
            return;
        }
        if last.is_some_and(|(_, last)| last == place) {
            // The one before may be computed with still.
            let reason = "two weights that are used together have one place".into();
            return self.fail(GpuError::Call { call: "capturing work", reason });
        }
        if capturing.has_work {
            self.end_part(driver);
            self.write(driver);
        }
        if let Some(capturing) = &mut self.0.capturing {
            capturing.weights.push(weight);
        }
    }

    /// Has the device write down what it is asked for.
    fn write(&mut self, driver: &dyn Driver) {
        if self.has_failed() {
            return;
        }
        match (driver.begin_capture(), &mut self.0.capturing) {
            (Ok(()), Some(capturing)) => (capturing.writes, capturing.has_work) = (true, false),
            (Ok(()), None) => {}
            (Err(error), _) => self.fail(error),
        }
    }

    /// Ends what the device writes down, which is a part then.
    fn end_part(&mut self, driver: &dyn Driver) {
        let Some(capturing) = &mut self.0.capturing else { return };
        if !std::mem::take(&mut capturing.writes) {
            return;
        }
        let weights = std::mem::take(&mut capturing.weights);
        match driver.end_capture() {
            Ok(captured) => capturing.parts.push(Part { weights, captured }),
            // What was refused before is the cause of this.
            Err(error) => self.fail(error),
        }
    }
}
