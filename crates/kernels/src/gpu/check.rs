//! Whether a device computes what the processor does. A driver and a compiler that were never seen
//! together with these kernels are caught here, in a fraction of a second, instead of in a film.

use std::sync::Arc;

use super::{Gpu, GpuError};
use crate::ops::{self, Attention, Bias, Mask, RopeTable};
use crate::{Activation, Conv3d, DType, Device, Linear, Tensor, Vector, Weight, quantize};

/// Relative L2 distance that is allowed: bf16 gives some thousandths.
const TOLERANCE: f64 = 2e-2;

/// Numbers in [-1, 1) from a counter (splitmix64).
fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let value = |i: usize| {
        let mut z = (seed << 32 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::from_vec(shape, (0..shape.iter().product()).map(value).collect())
}

impl Gpu {
    /// Compares the operations that films are made of with those of the processor, on small values.
    ///
    /// # Errors
    /// What went wrong, or which operation is off by how much.
    pub fn check_arithmetic(self: &Arc<Self>) -> Result<(), GpuError> {
        let device = Device::Gpu(self.clone());
        let compare = |what: &str, body: &dyn Fn(&Device) -> Result<Tensor, GpuError>| {
            let expected = body(&Device::Cpu)?;
            let found = body(&device)?.into_host()?;
            let square = |values: &mut dyn Iterator<Item = f32>| {
                values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
            };
            let pairs = found.data().iter().zip(expected.data());
            let off = square(&mut pairs.map(|(a, b)| a - b))
                / square(&mut expected.data().iter().copied());
            // A NaN is not within it.
            if off <= TOLERANCE {
                return Ok(());
            }
            Err(GpuError::Call {
                call: "checking its arithmetic",
                reason: format!(
                    "{what} is off by {off:.1e} of its size, and {TOLERANCE:e} is allowed: its driver \
                     and the kernels do not fit each other; a newer driver or NVRTC may"
                ),
            })
        };
        let brought = |tensor: &Tensor, device: &Device| {
            Ok::<_, GpuError>(ops::narrowed(tensor.on(device)?.into_owned()))
        };
        let x = numbers(1, &[150, 128]);
        let weight = numbers(2, &[192, 128]);
        for dtype in [DType::BF16, DType::F32, DType::Q8_0] {
            let weight = match dtype {
                DType::Q8_0 => {
                    let bytes = quantize(dtype, weight.data());
                    Weight::new(&[192, 128], dtype, bytes.into()).expect("whole blocks")
                }
                _ => Weight::narrowed(&[192, 128], weight.data(), dtype),
            };
            let layer = Linear::new(weight, Some(numbers(3, &[192]).into_vec()));
            compare(&format!("a product with weights in {}", dtype.name()), &|device| {
                Ok(ops::linear(&brought(&x, device)?, &layer, Activation::GeluTanh))
            })?;
        }
        for size in [64, 128] {
            let [q, k, v] = [4, 5, 6].map(|seed| numbers(seed, &[300, 2 * size]));
            let scale = 1.0 / (size as f32).sqrt();
            let mask = Mask::BlockCausal { tokens_per_block: 75 };
            let how = Attention { heads: 2, scale, mask, bias: Bias::None };
            compare(&format!("attention of heads of {size}"), &|device| {
                let [q, k, v] = [&q, &k, &v].map(|t| brought(t, device));
                Ok(ops::attention(&q?, &k?, &v?, &how))
            })?;
        }
        let kernel = numbers(7, &[32, 16, 3, 3, 3]);
        let kernel = Weight::from_f32(&[32, 16, 3, 3, 3], kernel.data());
        let conv = Conv3d::new(&kernel, None, [1; 3], [1; 4]);
        let frames = numbers(8, &[3, 12, 20, 16]);
        compare("a convolution", &|device| {
            Ok(ops::conv3d(&brought(&frames, device)?, None, &conv))
        })?;
        let angles = numbers(9, &[150, 32]);
        let gamma = Vector::from(numbers(10, &[128]).into_vec());
        compare("norms", &|device| {
            let of = |f: fn(f32) -> f32| {
                let values = angles.data().iter().map(|&angle| f(angle)).collect();
                Ok::<_, GpuError>(Tensor::from_vec(&[150, 32], values).on(device)?.into_owned())
            };
            let table = RopeTable { cos: of(f32::cos)?, sin: of(f32::sin)? };
            let x = x.on(device)?;
            let mut normed = ops::layer_norm(&x, Some((&gamma, &gamma)), 1e-6, None);
            ops::rms_norm_rope(&mut normed, Some(&gamma), 1e-6, Some((&table, 2)));
            ops::channel_norm(&mut normed, &gamma, None, true);
            Ok(normed)
        })
    }
}
