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
    /// How often slabs were given back to the driver.
    shrunk: u64,
    /// Where pieces were taken and how much of it, while somebody wants to know.
    used: Option<BTreeMap<Address, usize>>,
}

impl Arena {
    /// Takes the smallest free piece that is large enough, or asks for another slab.
    pub fn take(&mut self, driver: &dyn Driver, bytes: usize) -> Result<Address, GpuError> {
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        let found = self.fit(bytes);
        let address = match found {
            Some(address) => address,
            None => {
                let slab = if Self::is_apart(bytes) { bytes } else { SLAB };
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
        if let Some(used) = &mut self.used {
            let most = used.entry(address).or_default();
            *most = bytes.max(*most);
        }
        Ok(address)
    }

    /// Remembers from here on where pieces are taken.
    pub fn watch(&mut self) {
        self.used = Some(BTreeMap::new());
    }

    /// Where pieces were taken since [`watch`](Self::watch), and how large the largest was at each place.
    pub fn watched(&mut self) -> BTreeMap<Address, usize> {
        self.used.take().unwrap_or_default()
    }

    /// How often slabs were given back to the driver: as long as that is the same, all places are there.
    pub fn shrunk(&self) -> u64 {
        self.shrunk
    }

    /// Whether nothing lies in so many bytes from `address` on, in a slab of ours.
    pub fn is_free(&self, address: Address, bytes: usize) -> bool {
        self.around(address, bytes).is_some()
    }

    /// The free piece that holds so many bytes from `address` on.
    fn around(&self, address: Address, bytes: usize) -> Option<(Address, usize)> {
        let (&start, &size) = self.free.range(..=address).next_back()?;
        (address.plus(bytes).0 <= start.plus(size).0).then_some((start, size))
    }

    /// Takes so many bytes at `address`, which are [free](Self::is_free).
    pub fn take_at(&mut self, address: Address, bytes: usize) {
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        let (start, size) = self.around(address, bytes).expect("a free place");
        let before = (address.0 - start.0) as usize;
        self.free.remove(&start);
        if before > 0 {
            self.free.insert(start, before);
        }
        if size > before + bytes {
            self.free.insert(address.plus(bytes), size - before - bytes);
        }
        self.taken.insert(address, bytes);
    }

    /// Whether a piece of so many bytes has a slab of its own: where it lies then depends on no other piece that
    /// comes and goes.
    pub fn is_apart(bytes: usize) -> bool {
        bytes > SMALL
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
                self.shrunk += 1;
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
