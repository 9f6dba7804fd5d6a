//! How much sparse attention keeps, counted where it chooses.

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::gpu::{Address, Array};
use crate::{Device, GpuError};

/// Pairs of a query and a key among which sparse attention chose, in all heads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Those that were computed.
    pub kept: u64,
    /// Those that the mask lets queries see: of queries that see all, none.
    pub seen: u64,
}

impl Pairs {
    /// The share that was computed; `None` where nothing was chosen.
    pub fn share(self) -> Option<f64> {
        (self.seen > 0).then(|| self.kept as f64 / self.seen as f64)
    }
}

impl Add for Pairs {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { kept: self.kept + other.kept, seen: self.seen + other.seen }
    }
}

/// What came since an earlier count.
impl Sub for Pairs {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { kept: self.kept - earlier.kept, seen: self.seen - earlier.seen }
    }
}

/// Counts [`Pairs`] where attention is computed, from its making on. It stays in its place, so that work that
/// is replayed counts too.
#[derive(Debug)]
pub struct PairCounter(Place);

#[derive(Debug)]
enum Place {
    Host([AtomicU64; 2]),
    /// Two integers of eight bytes.
    Gpu(Array),
}

impl PairCounter {
    /// For attention on `device`.
    ///
    /// # Errors
    /// What went wrong there, in this or before.
    pub fn new(device: &Device) -> Result<Self, GpuError> {
        let Some(gpu) = device.gpu() else { return Ok(Self(Place::Host(Default::default()))) };
        let array = Array::kept(gpu, &[0.0; 4]);
        device.check()?;
        Ok(Self(Place::Gpu(array)))
    }

    /// What was counted so far, once the device has done what it was asked for.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pairs(&self) -> Result<Pairs, GpuError> {
        let [kept, seen] = match &self.0 {
            Place::Host(counts) => counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            Place::Gpu(array) => {
                let bytes = array.to_bytes()?;
                let (counts, _) = bytes.as_chunks::<8>();
                [0, 1].map(|i| counts.get(i).map_or(0, |eight| u64::from_le_bytes(*eight)))
            }
        };
        Ok(Pairs { kept, seen })
    }

    /// On the host.
    pub(super) fn add(&self, pairs: Pairs) {
        let Place::Host(counts) = &self.0 else {
            panic!("PairCounter: one of a GPU for attention on the processor")
        };
        let added = [pairs.kept, pairs.seen];
        counts.iter().zip(added).for_each(|(count, added)| {
            count.fetch_add(added, Ordering::Relaxed);
        });
    }

    /// On a GPU.
    pub(super) fn address(&self) -> Address {
        let Place::Gpu(array) = &self.0 else {
            panic!("PairCounter: one of the processor for attention on a GPU")
        };
        array.address()
    }
}
