//! What a vendor's library has computed, beside what our kernel computes of the same.

use crate::gpu::{Address, Element, Gpu};

/// Relative L2 distance from our kernel's result that is allowed: both round to bf16 on their way.
pub(super) const TOLERANCE: f64 = 1e-2;

/// Sums over the values that were compared.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    off: f64,
    all: f64,
}

impl Comparison {
    /// Adds so many values of bf16. `false` after a failure: whoever reads the result gets the error.
    pub fn add(&mut self, gpu: &Gpu, ours: Address, theirs: Address, count: usize) -> bool {
        let mut both = [ours, theirs].map(|place| (place, vec![0; count * Element::Bf16.bytes()]));
        for (place, bytes) in &mut both {
            if gpu.attempt(|driver| driver.download(*place, bytes)).is_none() {
                return false;
            }
        }
        let [ours, theirs] = both.map(|(_, bytes)| Element::Bf16.singles(&bytes));
        for (ours, theirs) in
            ours.into_iter().zip(theirs).map(|(a, b)| (f64::from(a), f64::from(b)))
        {
            self.off += (ours - theirs).powi(2);
            self.all += ours.powi(2);
        }
        true
    }

    /// How far the library is off, where that is more than is allowed. Where our result is no number either, the
    /// input is none.
    pub fn too_far(&self) -> Option<f64> {
        let fine = !self.all.is_finite() || self.off <= TOLERANCE.powi(2) * self.all;
        (!fine).then(|| (self.off / self.all).sqrt())
    }
}
