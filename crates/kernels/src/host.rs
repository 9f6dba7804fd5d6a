//! Host memory of tensors, kept for the next one of about its size.
//!
//! Fresh pages come from the system one by one, each set to zero first: for the pictures of a small model
//! that takes as long as what is computed for them. So a few tens of megabytes stay with the process; what
//! is larger is worked on long enough to be fetched anew. Only what was taken from here comes back: buffers of
//! sizes that nobody asks for would pile up with the length of a film.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values kept at most, in all: 64 MiB.
const KEPT: usize = 16 << 20;
/// Values of a buffer worth keeping: smaller ones the allocator keeps itself.
const LEAST: usize = 1 << 15;

/// The oldest come first.
static BUFFERS: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

fn buffers() -> MutexGuard<'static, Vec<Vec<f32>>> {
    BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values of a tensor, whose memory is kept when they are dropped, unless they came from elsewhere.
#[derive(Debug)]
pub(crate) struct Host {
    values: Vec<f32>,
    ours: bool,
}

impl Host {
    /// No values, and room for `len`.
    pub fn with_room(len: usize) -> Self {
        Self { values: kept(len).unwrap_or_else(|| Vec::with_capacity(len)), ours: true }
    }

    /// Gives the values away.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(&mut self.values)
    }
}

/// The kept buffer that fits best, if one has room for `len` values and for few more: a tensor may live
/// long.
fn kept(len: usize) -> Option<Vec<f32>> {
    if len < LEAST {
        return None;
    }
    let mut buffers = buffers();
    let fitting = buffers.iter().enumerate().map(|(index, buffer)| (buffer.capacity(), index));
    let (_, index) = fitting.filter(|(room, _)| (len..=len + len / 4).contains(room)).min()?;
    Some(buffers.remove(index))
}

impl From<Vec<f32>> for Host {
    fn from(values: Vec<f32>) -> Self {
        Self { values, ours: false }
    }
}

impl From<&[f32]> for Host {
    fn from(values: &[f32]) -> Self {
        let mut host = Self::with_room(values.len());
        host.extend_from_slice(values);
        host
    }
}

impl Deref for Host {
    type Target = Vec<f32>;

    fn deref(&self) -> &Vec<f32> {
        &self.values
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Vec<f32> {
        &mut self.values
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut values = std::mem::take(&mut self.values);
        if !self.ours || !(LEAST..=KEPT).contains(&values.capacity()) {
            return;
        }
        values.clear();
        let mut buffers = buffers();
        buffers.push(values);
        let mut excess = buffers.iter().map(Vec::capacity).sum::<usize>().saturating_sub(KEPT);
        let mut oldest = 0;
        while excess > 0 {
            excess = excess.saturating_sub(buffers[oldest].capacity());
            oldest += 1;
        }
        buffers.drain(..oldest);
    }
}
