//! What the tests of both bodies of the operations share.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod sparse;

use std::path::Path;
use std::sync::Arc;

use longreel_kernels::gpu::{Element, Gpu};
use longreel_kernels::{DType, Tensor, cuda};
use longreel_shim::Shim;

/// Whether a real card is tested instead of the shim, by the variable LONGREEL_TEST_DEVICE.
pub(crate) fn on_card() -> bool {
    std::env::var("LONGREEL_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

/// A device that computes in `element`, whose arrays lie apart, each between guards, or a real card when that is
/// asked for; `None`, said aloud, without a compiler.
pub(crate) fn gpu(element: Element) -> Option<Arc<Gpu>> {
    if on_card() {
        return Some(Gpu::new(cuda::open(0).expect("a card"), element));
    }
    let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    Some(Gpu::new(Box::new(shim.with_arrays_apart()), element))
}

/// Every stored format.
pub(crate) const FORMATS: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::Q8_0,
    DType::Q5_0,
    DType::Q4_0,
    DType::Q6K,
    DType::Q5K,
    DType::Q4K,
];

/// Numbers in [-1, 1) from a counter (splitmix64).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    pub(crate) fn tensor(&mut self, shape: &[usize]) -> Tensor {
        Tensor::from_vec(shape, self.vec(shape.iter().product()))
    }
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}
