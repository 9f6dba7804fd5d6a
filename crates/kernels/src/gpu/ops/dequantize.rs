//! Weights as files store them.

use std::sync::Arc;

use super::{each, kernel, long, pointer, pointer_or_none};
use crate::DType;
use crate::gpu::{Address, Arg, Array, Element, Gpu};

/// [`crate::dequantize`]: `len` values in `dtype` at `bytes`, a multiple of 16, as element `out`. Equal
/// parts of them are multiplied by a factor each of `scales`, `f32`, if there are any: one for all, or
/// one for each row of the first axis.
pub fn dequantize(
    gpu: &Arc<Gpu>,
    bytes: Address,
    dtype: DType,
    len: usize,
    scales: Option<&Array>,
    out: Element,
) -> Array {
    let parts = scales.map_or(1, Array::len);
    assert!(
        dtype.byte_len(len).is_some() && parts > 0 && len.is_multiple_of(parts),
        "dequantize: {len} values of {} with {parts} factors",
        dtype.name()
    );
    let result = Array::unset(gpu, out, len);
    let args = [
        pointer(&result),
        Arg::Pointer(bytes),
        long(len),
        pointer_or_none(scales),
        long((len / parts).max(1)),
    ];
    gpu.launch(each("dequantize", name(dtype, out), len), &args);
    result
}

fn name(dtype: DType, out: Element) -> &'static str {
    match dtype {
        DType::F32 => kernel!("dequantize_F32", out),
        DType::F16 => kernel!("dequantize_F16", out),
        DType::BF16 => kernel!("dequantize_BF16", out),
        DType::F8E4M3 => kernel!("dequantize_F8E4M3", out),
        DType::F8E5M2 => kernel!("dequantize_F8E5M2", out),
        DType::Q8_0 => kernel!("dequantize_Q8_0", out),
        DType::Q5_0 => kernel!("dequantize_Q5_0", out),
        DType::Q4_0 => kernel!("dequantize_Q4_0", out),
        DType::Q6K => kernel!("dequantize_Q6_K", out),
        DType::Q5K => kernel!("dequantize_Q5_K", out),
        DType::Q4K => kernel!("dequantize_Q4_K", out),
    }
}
