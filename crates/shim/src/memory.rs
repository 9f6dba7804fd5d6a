//! The device's memory: allocations between guards.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::collections::BTreeMap;

use longreel_kernels::gpu::{Address, GpuError};

/// What memory holds that nobody has written: NaN in any float format.
const POISON: u8 = 0xff;
/// Bytes on either side of an allocation that nobody may write.
const GUARD: usize = 4096;
const ALIGN: usize = 256;

/// What the system gives at any size without touching it.
const SYSTEM_ALIGN: usize = 16;

#[derive(Debug)]
pub(crate) struct Memory {
    total: usize,
    /// Memory is zeros that nobody has touched, of which the host needs none until somebody does.
    untouched: bool,
    /// By address.
    taken: BTreeMap<u64, Piece>,
}

#[derive(Debug)]
struct Piece {
    bytes: usize,
    /// Where it begins on the host, before its guard.
    start: *mut u8,
}

// SAFETY: whoever has the piece has the memory.
unsafe impl Send for Piece {}

impl Memory {
    pub(crate) fn new(total: usize) -> Self {
        Self { total, untouched: false, taken: BTreeMap::new() }
    }

    pub(crate) fn untouched(total: usize) -> Self {
        Self { total, untouched: true, taken: BTreeMap::new() }
    }

    pub(crate) fn free_and_total(&self) -> (usize, usize) {
        let taken: usize = self.taken.values().map(|piece| piece.bytes).sum();
        (self.total - taken, self.total)
    }

    fn layout(bytes: usize) -> Layout {
        let with_guards = bytes + 2 * GUARD + ALIGN;
        Layout::from_size_align(with_guards, SYSTEM_ALIGN).expect("a size that memory has")
    }

    /// `None` where the host has no more.
    pub(crate) fn alloc(&mut self, bytes: usize) -> Option<Address> {
        let layout = Self::layout(bytes);
        // SAFETY: the layout is not empty.
        let start = unsafe { if self.untouched { alloc_zeroed(layout) } else { alloc(layout) } };
        if start.is_null() {
            return None;
        }
        let address = (start.expose_provenance() + GUARD).next_multiple_of(ALIGN) as u64;
        // SAFETY: the layout has room for the piece and its guards behind the gap of alignment.
        unsafe {
            if self.untouched {
                pointer(address - GUARD as u64).write_bytes(POISON, GUARD);
                pointer(address + bytes as u64).write_bytes(POISON, GUARD);
            } else {
                start.write_bytes(POISON, layout.size());
            }
        }
        self.taken.insert(address, Piece { bytes, start });
        Some(Address(address))
    }

    pub(crate) fn free(&mut self, address: Address) {
        let piece = self.taken.remove(&address.0).expect("only what was reserved is given back");
        // SAFETY: `alloc` made it with this layout.
        unsafe { dealloc(piece.start, Self::layout(piece.bytes)) };
    }

    /// Where `bytes` bytes at `address` lie on the host, when all of them are in one allocation.
    pub(crate) fn range(
        &self,
        call: &'static str,
        address: Address,
        bytes: usize,
    ) -> Result<*mut u8, GpuError> {
        let before = self.taken.range(..=address.0).next_back();
        let inside = before.is_some_and(|(&start, piece)| {
            (address.0 - start) as usize + bytes <= piece.bytes || bytes == 0
        });
        if inside {
            return Ok(pointer(address.0));
        }
        let reason = format!("{bytes} bytes at {:#x} are not in the device's memory", address.0);
        Err(GpuError::Call { call, reason })
    }

    /// A guard that has been written to, in words.
    pub(crate) fn damage(&self) -> Option<String> {
        self.taken.iter().find_map(|(&start, &Piece { bytes, .. })| {
            let guard = |at: u64| {
                // SAFETY: both guards belong to the allocation.
                unsafe { std::slice::from_raw_parts(pointer(at), GUARD) }
            };
            let before = guard(start - GUARD as u64).iter().rposition(|&b| b != POISON);
            let behind = guard(start + bytes as u64).iter().position(|&b| b != POISON);
            match (before, behind) {
                (Some(at), _) => Some(format!("wrote {} bytes before", GUARD - at)),
                (None, Some(at)) => Some(format!("wrote {at} bytes behind")),
                (None, None) => None,
            }
            .map(|what| format!("{what} an allocation of {bytes} bytes"))
        })
    }
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

impl Drop for Memory {
    fn drop(&mut self) {
        for piece in self.taken.values() {
            // SAFETY: `alloc` made it with this layout.
            unsafe { dealloc(piece.start, Self::layout(piece.bytes)) };
        }
    }
}
