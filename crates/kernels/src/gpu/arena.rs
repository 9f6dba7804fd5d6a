//! Memory for activations: slabs of the card's memory, cut up here, so that no step asks the driver.
//!
//! All work of a device is done in one order, so a piece may be given out again while what was asked
//! of it before is still to be done.

use std::collections::BTreeMap;

use super::{Address, Driver, GpuError};

/// Pieces begin at multiples of this many bytes.
const ALIGN: usize = 256;
/// What is asked of the driver at once for small pieces.
const SLAB: usize = 64 << 20;
/// A piece that is larger has a slab of its own: what it would leave of a larger one might be of no use.
const SMALL: usize = 8 << 20;

/// Slabs and what is free in them.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Sizes of the slabs by where they begin.
    slabs: BTreeMap<Address, usize>,
    /// Sizes of the free pieces by where they begin.
    free: BTreeMap<Address, usize>,
    /// Sizes of the taken pieces by where they begin.
    taken: BTreeMap<Address, usize>,
}

impl Arena {
    /// Takes the smallest free piece that is large enough, or asks for another slab.
    pub fn take(&mut self, driver: &dyn Driver, bytes: usize) -> Result<Address, GpuError> {
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        let found = self.fit(bytes);
        let address = match found {
            Some(address) => address,
            None => {
                let slab = if bytes > SMALL { bytes } else { SLAB };
                self.reserve(driver, slab).or_else(|error| match bytes < slab {
                    true => self.reserve(driver, bytes),
                    false => Err(error),
                })?;
                self.fit(bytes).expect("a slab that large has just come")
            }
        };
        let size = self.free.remove(&address).expect("it was found there");
        if size > bytes {
            self.free.insert(address.plus(bytes), size - bytes);
        }
        self.taken.insert(address, bytes);
        Ok(address)
    }

    /// Asks the driver for a slab of so many bytes.
    pub fn reserve(&mut self, driver: &dyn Driver, bytes: usize) -> Result<(), GpuError> {
        let bytes = bytes.next_multiple_of(ALIGN);
        let address = driver.alloc(bytes)?;
        self.slabs.insert(address, bytes);
        self.free.insert(address, bytes);
        Ok(())
    }

    /// The smallest free piece of at least so many bytes.
    fn fit(&self, bytes: usize) -> Option<Address> {
        let large = self.free.iter().filter(|&(_, &size)| size >= bytes);
        large.min_by_key(|&(_, &size)| size).map(|(&address, _)| address)
    }

    /// Takes a piece back and joins it with its free neighbours in the same slab.
    pub fn give(&mut self, address: Address) {
        let Some(mut size) = self.taken.remove(&address) else { return };
        let mut start = address;
        let behind = address.plus(size);
        if !self.slabs.contains_key(&behind)
            && let Some(more) = self.free.remove(&behind)
        {
            size += more;
        }
        if !self.slabs.contains_key(&start)
            && let Some((&before, &length)) = self.free.range(..start).next_back()
            && before.plus(length) == start
        {
            start = before;
            size += length;
        }
        self.free.insert(start, size);
    }

    /// Gives all slabs back that nothing is in.
    pub fn shrink(&mut self, driver: &dyn Driver) {
        self.slabs.retain(|address, size| {
            let whole = self.free.get(address) == Some(size);
            if whole {
                self.free.remove(address);
                driver.free(*address);
            }
            !whole
        });
    }

    /// Bytes in slabs, and of them taken.
    pub fn bytes(&self) -> (usize, usize) {
        (self.slabs.values().sum(), self.taken.values().sum())
    }
}
