//! Working memory of a thread, and pointers that cross threads.

use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Values in one cache line, to which every buffer is aligned.
const LINE: usize = 16;

/// Gives `body` buffers of the given lengths, aligned to cache lines, with any values in them. The
/// memory is kept by the thread for the next call. A nested call gets memory of its own.
pub(crate) fn with_scratch<const N: usize, R>(
    lengths: [usize; N],
    body: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    let padded = lengths.map(|n| n.next_multiple_of(LINE));
    let total = padded.iter().sum::<usize>() + LINE;
    let mut memory = SCRATCH.take();
    if memory.len() < total {
        // Not `resize`: there is nothing worth copying.
        memory = vec![0.0; total];
    }
    let start = memory.as_ptr().align_offset(64).min(LINE);
    let mut rest = &mut memory[start..];
    let parts = std::array::from_fn(|i| {
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(padded[i]);
        rest = behind;
        &mut part[..lengths[i]]
    });
    let result = body(parts);
    SCRATCH.set(memory);
    result
}

/// A pointer to memory that several threads write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: whoever dereferences the pointer vouches that no two threads touch the same values.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(data: *mut f32) -> Self {
        Self(data)
    }

    /// The value at `offset`.
    ///
    /// # Safety
    /// The offset lies inside the memory.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller vouches for the offset.
        unsafe { self.0.add(offset) }
    }
}
