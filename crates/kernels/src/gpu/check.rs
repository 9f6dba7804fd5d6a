//! Whether a device computes what the processor does. A driver and a compiler that were never seen
//! together with these kernels are caught here, in a fraction of a second, instead of in a film.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Gpu, GpuError};
use crate::Products;
use crate::ops::{self, Attention, Bias, KEY_BLOCK, Mask, QUERY_BLOCK, RopeTable, Sample};
use crate::{
    Activation, Conv3d, DType, Device, Linear, PairCounter, Pairs, PerFrame, Sparse, Tensor,
    TokenBlocks, Vector, Weight, quantize,
};

/// Relative L2 distance that is allowed: bf16 gives some thousandths.
const TOLERANCE: f64 = 2e-2;
/// The same where what is computed becomes codes on the way: of values that bf16 rounded before a twentieth become
/// the next code, a tenth of their size away.
const TOLERANCE_OF_CODES: f64 = 6e-2;

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

/// On a device, as its operations keep what they compute.
fn brought(tensor: &Tensor, device: &Device) -> Result<Tensor, GpuError> {
    Ok(ops::narrowed(tensor.on(device)?.into_owned()))
}

/// A device that computes something else.
fn wrong(what: &str) -> GpuError {
    GpuError::Call {
        call: "checking its arithmetic",
        reason: format!(
            "{what}: its driver and the kernels do not fit each other; a newer driver or NVRTC may"
        ),
    }
}

impl Gpu {
    /// As [`check_arithmetic`](Self::check_arithmetic), of products in 8 bits.
    ///
    /// # Errors
    /// As there.
    pub fn check_8_bit_products(self: &Arc<Self>) -> Result<(), GpuError> {
        // What bf16 holds becomes the same codes on both sides; rows and columns differ in size.
        let sized = |seed, [rows, columns]: [usize; 2]| {
            let mut values = numbers(seed, &[rows, columns]).into_vec();
            for (n, row) in values.chunks_mut(columns).enumerate() {
                row.iter_mut().for_each(|v| *v *= (1 + n % 4) as f32);
            }
            Weight::narrowed(&[rows, columns], &values, DType::BF16).to_f32()
        };
        let x = Tensor::from_vec(&[150, 128], sized(11, [150, 128]));
        let weight = Weight::e4m3(&[192, 128], &sized(12, [192, 128]));
        let layer = Linear::new(weight, Some(numbers(13, &[192]).into_vec()));
        let layer = layer.with_products(Products::Fp8);
        let gate = Vector::from(numbers(14, &[192]).into_vec());
        self.compare("a product in 8 bits", &|device| {
            Ok(ops::linear(&brought(&x, device)?, &layer, Activation::GeluTanh))
        })?;
        self.compare("a residual in 8 bits", &|device| {
            let mut into = Tensor::zeros_on(device, &[150, 192]);
            let gate = Tensor::from_vec(&[1, 192], gate.to_vec()).on(device)?.into_owned();
            let gate = PerFrame { values: &gate, tokens_per_frame: 150 };
            ops::linear_residual(&mut into, &brought(&x, device)?, &layer, Some(gate));
            Ok(into)
        })?;
        let down = Weight::e4m3(&[128, 192], &sized(15, [128, 192]));
        let down = Linear::new(down, None).with_products(Products::Fp8);
        let gamma = Vector::from(numbers(16, &[128]).into_vec());
        self.compare_within(TOLERANCE_OF_CODES, "a norm and a feed-forward in 8 bits", &|device| {
            let x = x.on(device)?;
            let affine = Some((&gamma, &gamma));
            let normed = ops::layer_norm_input(&x, affine, 1e-6, None, Products::Fp8);
            let mut into = Tensor::zeros_on(device, &[150, 128]);
            let gelu = Activation::GeluTanh;
            ops::feed_forward_residual(&mut into, &normed, &layer, &down, gelu, None);
            Ok(into)
        })
    }

    /// Compares what `body` computes on this device with what it does on the processor.
    fn compare(
        self: &Arc<Self>,
        what: &str,
        body: &dyn Fn(&Device) -> Result<Tensor, GpuError>,
    ) -> Result<(), GpuError> {
        self.compare_within(TOLERANCE, what, body)
    }

    fn compare_within(
        self: &Arc<Self>,
        tolerance: f64,
        what: &str,
        body: &dyn Fn(&Device) -> Result<Tensor, GpuError>,
    ) -> Result<(), GpuError> {
        let expected = body(&Device::Cpu)?;
        let found = body(&Device::Gpu(self.clone()))?.into_host()?;
        let square = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
        };
        let pairs = found.data().iter().zip(expected.data());
        let off =
            square(&mut pairs.map(|(a, b)| a - b)) / square(&mut expected.data().iter().copied());
        // A NaN is not within it.
        if off <= tolerance {
            return Ok(());
        }
        Err(wrong(&format!("{what} is off by {off:.1e} of its size, and {tolerance:e} is allowed")))
    }

    /// Compares attention that leaves out what weighs little, of heads of `size` values: the result, and what is
    /// kept. Tokens of a block are alike, and those of a block of queries are like one block of keys, far from
    /// any other choice.
    fn compare_sparse(self: &Arc<Self>, size: usize) -> Result<(), GpuError> {
        // Sixteen blocks of keys.
        let (frames, sides) = (4, [16, 16]);
        let order = TokenBlocks::new(frames, sides, frames, &Device::Cpu)?.order().to_vec();
        let width = 2 * size;
        let themes = numbers(20, &[order.len() / KEY_BLOCK, width]);
        let like = |seed, theme: &dyn Fn(usize) -> usize, strength: f32| {
            let mut values = numbers(seed, &[order.len(), width]).into_vec();
            for (place, &token) in order.iter().enumerate() {
                let theme = &themes.data()[theme(place) * width..][..width];
                let values = &mut values[token as usize * width..][..width];
                let pairs = values.iter_mut().zip(theme);
                pairs.for_each(|(value, theme)| *value = 0.2 * *value + strength * theme);
            }
            Tensor::from_vec(&[order.len(), width], values)
        };
        let q = like(21, &|place| place / QUERY_BLOCK * 5 % themes.dim(0), 1.0);
        let k = like(22, &|place| place / KEY_BLOCK, 2.0);
        let v = numbers(23, &[order.len(), width]);
        let how = Attention {
            heads: 2,
            scale: 1.0 / (size as f32).sqrt(),
            mask: Mask::None,
            bias: Bias::None,
            products: Products::F32,
        };
        let counted = RefCell::new(Vec::new());
        let what = format!("sparse attention of heads of {size}");
        self.compare(&what, &|device| {
            let [q, k, v] = [&q, &k, &v].map(|t| brought(t, device));
            let (q, k, v) = (q?, k?, v?);
            let blocks = TokenBlocks::new(frames, sides, frames, device)?;
            let counter = PairCounter::new(device)?;
            let sparse = Sparse { blocks: &blocks, mass: 0.8, whole: &[], counter: Some(&counter) };
            let seen = ops::sparse_attention_of_samples(&q, &[Sample::of(&k, &v, how)], &sparse);
            counted.borrow_mut().push(counter.pairs()?);
            Ok(seen)
        })?;
        match counted.into_inner()[..] {
            [expected, found] if expected == found => Ok(()),
            ref counts => {
                let counts = counts.iter().copied().map(Pairs::share);
                Err(wrong(&format!(
                    "{what} keeps the shares {:?} on the processor and there",
                    counts.collect::<Vec<_>>()
                )))
            }
        }
    }

    /// Compares the operations that films are made of with those of the processor, on small values.
    ///
    /// # Errors
    /// What went wrong, or which operation is off by how much.
    pub fn check_arithmetic(self: &Arc<Self>) -> Result<(), GpuError> {
        let compare = |what: &str, body: &dyn Fn(&Device) -> Result<Tensor, GpuError>| {
            self.compare(what, body)
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
            let how =
                Attention { heads: 2, scale, mask, bias: Bias::None, products: Products::F32 };
            compare(&format!("attention of heads of {size}"), &|device| {
                let [q, k, v] = [&q, &k, &v].map(|t| brought(t, device));
                Ok(ops::attention(&q?, &k?, &v?, &how))
            })?;
        }
        for size in [64, 128] {
            self.compare_sparse(size)?;
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
            let (cos, sin) = (of(f32::cos)?, of(f32::sin)?);
            let table = RopeTable { cos: &cos, sin: &sin };
            let x = x.on(device)?;
            let mut normed = ops::layer_norm(&x, Some((&gamma, &gamma)), 1e-6, None);
            ops::rms_norm_rope(&mut normed, Some(&gamma), 1e-6, Some((table, 2)));
            ops::channel_norm(&mut normed, &gamma, None, true);
            Ok(normed)
        })
    }
}
