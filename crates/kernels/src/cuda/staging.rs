//! Uploads through pinned memory: the host's copy is done when the call returns, the card's is done in the
//! order of its stream.

use std::ptr::NonNull;

use cudarc::driver::sys::{CUevent, CUevent_flags_enum as EventFlag, CUstream};

use super::api::StartedDriver;
use super::error::check;
use crate::gpu::{Address, GpuError, Write};

/// Buffers of a ring: the host fills one while others are on their way.
pub const SLOTS: usize = 8;
/// What is written to a buffer is shared by threads when each gets this many bytes at least: they read a mapped
/// file side by side.
const SHARE_BYTES: usize = 4 << 20;
/// Threads that share it at most.
const SHARES: usize = 4;

/// A pinned buffer and the event of its last use.
#[derive(Debug)]
struct Slot {
    memory: NonNull<u8>,
    event: CUevent,
}

/// Pinned buffers of one stream, used in turn.
#[derive(Debug)]
pub struct Ring {
    stream: CUstream,
    slot_bytes: usize,
    /// Made at first use, at most [`SLOTS`].
    slots: Vec<Slot>,
    next: usize,
    /// No pinned memory is to be had; the driver's own way is used from then on.
    refused: bool,
}

// SAFETY: buffers and events belong to the ring alone; the driver takes calls from any thread that has
// made the context current.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring with buffers of so many bytes, none of them made yet.
    pub fn new(stream: CUstream, slot_bytes: usize) -> Self {
        Self { stream, slot_bytes, slots: Vec::new(), next: 0, refused: false }
    }

    /// Copies so many bytes to the card, which `write` writes. The context has to be current.
    pub fn upload(
        &mut self,
        driver: &StartedDriver,
        to: Address,
        bytes: usize,
        write: &Write<'_>,
    ) -> Result<(), GpuError> {
        let api = &driver.api;
        for first in (0..bytes).step_by(self.slot_bytes) {
            let (to, count) = (to.plus(first).0, self.slot_bytes.min(bytes - first));
            let Some(at) = self.slot(driver)? else {
                let mut part = vec![0; count];
                fill(&mut part, first, write);
                // SAFETY: the part lives until the stream has been waited for: some systems let the card read
                // the program's own memory after the call has returned.
                unsafe {
                    let from = part.as_ptr().cast();
                    let status = (api.cuMemcpyHtoDAsync_v2)(to, from, count, self.stream);
                    check(driver, "copying to the card", status)?;
                    check(driver, "copying to the card", (api.cuStreamSynchronize)(self.stream))?;
                }
                continue;
            };
            let slot = &self.slots[at];
            // SAFETY: the buffer has `slot_bytes`, and its last copy is done, as `slot` has seen to.
            unsafe {
                let pinned = std::slice::from_raw_parts_mut(slot.memory.as_ptr(), count);
                fill(pinned, first, write);
                let from = slot.memory.as_ptr().cast();
                let status = (api.cuMemcpyHtoDAsync_v2)(to, from, count, self.stream);
                check(driver, "copying to the card", status)?;
                let status = (api.cuEventRecord)(slot.event, self.stream);
                check(driver, "marking the end of a copy", status)?;
            }
        }
        Ok(())
    }

    /// The next buffer, free to be filled; none where there is no pinned memory.
    fn slot(&mut self, driver: &StartedDriver) -> Result<Option<usize>, GpuError> {
        let api = &driver.api;
        if self.slots.len() < SLOTS && !self.refused {
            match self.another(driver) {
                Some(slot) => {
                    self.slots.push(slot);
                    return Ok(Some(self.slots.len() - 1));
                }
                None => self.refused = true,
            }
        }
        if self.slots.is_empty() {
            return Ok(None);
        }
        let at = self.next % self.slots.len();
        self.next = at + 1;
        // SAFETY: the event is ours.
        let status = unsafe { (api.cuEventSynchronize)(self.slots[at].event) };
        check(driver, "waiting for an earlier copy", status)?;
        Ok(Some(at))
    }

    fn another(&self, driver: &StartedDriver) -> Option<Slot> {
        let (api, mut memory, mut event) =
            (&driver.api, std::ptr::null_mut(), std::ptr::null_mut());
        let flags =
            EventFlag::CU_EVENT_DISABLE_TIMING as u32 | EventFlag::CU_EVENT_BLOCKING_SYNC as u32;
        // SAFETY: the driver writes a pointer and a handle.
        unsafe {
            if (api.cuMemHostAlloc)(&raw mut memory, self.slot_bytes, 0) != 0 {
                return None;
            }
            if (api.cuEventCreate)(&raw mut event, flags) != 0 {
                (api.cuMemFreeHost)(memory);
                return None;
            }
        }
        Some(Slot { memory: NonNull::new(memory.cast())?, event })
    }

    /// Gives everything back; the stream has to be done.
    pub fn close(&mut self, driver: &StartedDriver) {
        for slot in self.slots.drain(..) {
            // SAFETY: both are ours, and nothing uses them any more.
            unsafe {
                (driver.api.cuEventDestroy_v2)(slot.event);
                (driver.api.cuMemFreeHost)(slot.memory.as_ptr().cast());
            }
        }
    }
}

/// Has the part that begins at `first` written, by several threads where that pays. They are plain threads: one of the
/// operations' pool could take up other work meanwhile, which may want this very ring.
fn fill(to: &mut [u8], first: usize, write: &Write<'_>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shares = (to.len() / SHARE_BYTES).clamp(1, SHARES.min(cores));
    let bytes = to.len().div_ceil(shares).next_multiple_of(64).max(64);
    std::thread::scope(|scope| {
        let mut parts = to.chunks_mut(bytes).enumerate();
        let own = parts.next();
        for (n, part) in parts {
            scope.spawn(move || write(first + n * bytes, part));
        }
        if let Some((_, part)) = own {
            write(first, part);
        }
    });
}
