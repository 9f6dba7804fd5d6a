//! The device's memory: allocations between guards.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;

use longreel_kernels::gpu::{Address, GpuError};

/// What memory holds that nobody has written: NaN in any float format.
const POISON: u8 = 0xff;
/// Bytes on either side of an allocation that nobody may write.
const GUARD: usize = 4096;
const ALIGN: usize = 256;

#[derive(Debug)]
pub(crate) struct Memory {
    total: usize,
    /// Sizes by address.
    taken: BTreeMap<u64, usize>,
}

impl Memory {
    pub(crate) fn new(total: usize) -> Self {
        Self { total, taken: BTreeMap::new() }
    }

    pub(crate) fn free_and_total(&self) -> (usize, usize) {
        (self.total - self.taken.values().sum::<usize>(), self.total)
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes + 2 * GUARD, ALIGN).expect("a size that memory has")
    }

    pub(crate) fn alloc(&mut self, bytes: usize) -> Address {
        let layout = Self::layout(bytes);
        // SAFETY: the layout is not empty, and all of it is written.
        let start = unsafe {
            let start = alloc(layout);
            assert!(!start.is_null(), "the host has no {bytes} bytes for the shim");
            start.write_bytes(POISON, layout.size());
            start
        };
        let address = (start.expose_provenance() + GUARD) as u64;
        self.taken.insert(address, bytes);
        Address(address)
    }

    pub(crate) fn free(&mut self, address: Address) {
        let bytes = self.taken.remove(&address.0).expect("only what was reserved is given back");
        // SAFETY: `alloc` made it with this layout.
        unsafe { dealloc(pointer(address.0 - GUARD as u64), Self::layout(bytes)) };
    }

    /// Where `bytes` bytes at `address` lie on the host, when all of them are in one allocation.
    pub(crate) fn range(
        &self,
        call: &'static str,
        address: Address,
        bytes: usize,
    ) -> Result<*mut u8, GpuError> {
        let before = self.taken.range(..=address.0).next_back();
        let inside = before.is_some_and(|(&start, &size)| {
            (address.0 - start) as usize + bytes <= size || bytes == 0
        });
        if inside {
            return Ok(pointer(address.0));
        }
        let reason = format!("{bytes} bytes at {:#x} are not in the device's memory", address.0);
        Err(GpuError::Call { call, reason })
    }

    /// A guard that has been written to, in words.
    pub(crate) fn damage(&self) -> Option<String> {
        self.taken.iter().find_map(|(&start, &bytes)| {
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
        for (&address, &bytes) in &self.taken {
            // SAFETY: `alloc` made it with this layout.
            unsafe { dealloc(pointer(address - GUARD as u64), Self::layout(bytes)) };
        }
    }
}
