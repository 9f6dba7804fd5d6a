//! What of a weight comes to a GPU: its bytes as they are stored, or rounded on the way.

use super::{Address, Driver, Element, GpuError, Stream};
use crate::narrow::to_bf16_bytes;
use crate::{DType, Weight};

/// Values that are rounded at a time.
const VALUES: usize = 4096;

/// A weight in the form in which it comes to a GPU, whether it stays there or is brought for each pass.
#[derive(Debug, Clone)]
pub(super) struct Incoming {
    weight: Weight,
    /// Singles and halves become bf16 where that is computed with: a half of the bus and of the memory.
    narrow: bool,
}

impl Incoming {
    /// Of a weight that is to be computed with as `element`.
    pub fn of(weight: &Weight, element: Element) -> Self {
        let narrow = element == Element::Bf16
            && weight.is_unscaled()
            && matches!(weight.dtype(), DType::F32 | DType::F16);
        Self { weight: weight.clone(), narrow }
    }

    /// Bytes that it takes there.
    pub fn bytes(&self) -> usize {
        if self.narrow { 2 * self.weight.len() } else { self.weight.bytes().len() }
    }

    /// What they are.
    pub fn dtype(&self) -> DType {
        if self.narrow { DType::BF16 } else { self.weight.dtype() }
    }

    /// Copies it there.
    pub fn upload(&self, driver: &dyn Driver, stream: Stream, to: Address) -> Result<(), GpuError> {
        match self.narrow {
            true => driver.upload_made(stream, to, self.bytes(), &|at, to| self.write(at, to)),
            false => driver.upload(stream, to, self.weight.bytes()),
        }
    }

    /// Bytes of it as bf16, from byte `at` on.
    fn write(&self, at: usize, to: &mut [u8]) {
        let mut values = [0.0; VALUES];
        for (n, to) in to.chunks_mut(2 * VALUES).enumerate() {
            let here = &mut values[..to.len() / 2];
            self.weight.values_to_f32(at / 2 + n * VALUES, here);
            to_bf16_bytes(here, to);
        }
    }
}
