//! Work that is written down instead of done, as a CUDA graph is, and done again.

use std::collections::HashMap;
use std::sync::Arc;

use longreel_kernels::gpu::{Address, Arg, Captured, GpuError, Launch, MatMul};

use crate::refused;

/// What a device can be asked for again, with the same arguments.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Copy { to: Address, from: Address, bytes: usize },
    Zero { to: Address, bytes: usize },
    Launch(Launch, Vec<Arg>),
    MatMul(MatMul),
}

/// All that was written down.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    under_way: Option<Vec<Step>>,
    made: HashMap<u64, Arc<[Step]>>,
    next: u64,
}

impl Captures {
    pub(crate) fn begin(&mut self) -> Result<(), GpuError> {
        if self.under_way.replace(Vec::new()).is_some() {
            return Err(refused("begin_capture", "another one is under way"));
        }
        Ok(())
    }

    /// Whether a step is written down, and not to be done.
    pub(crate) fn write(&mut self, step: impl FnOnce() -> Step) -> bool {
        if let Some(steps) = &mut self.under_way {
            steps.push(step());
        }
        self.under_way.is_some()
    }

    /// An error while a capture is under way.
    pub(crate) fn refuse(&self, call: &'static str) -> Result<(), GpuError> {
        match &self.under_way {
            Some(_) => Err(refused(call, "it cannot be written down")),
            None => Ok(()),
        }
    }

    pub(crate) fn end(&mut self) -> Result<Captured, GpuError> {
        let steps = self.under_way.take();
        let steps = steps.ok_or_else(|| refused("end_capture", "none was begun"))?;
        self.next += 1;
        self.made.insert(self.next, steps.into());
        Ok(Captured(self.next))
    }

    pub(crate) fn steps(&self, Captured(number): Captured) -> Result<Arc<[Step]>, GpuError> {
        self.refuse("replay")?;
        self.made.get(&number).cloned().ok_or_else(|| refused("replay", "it was discarded"))
    }

    pub(crate) fn discard(&mut self, Captured(number): Captured) {
        assert!(self.made.remove(&number).is_some(), "only what was made is discarded");
    }
}
