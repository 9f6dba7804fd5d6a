//! Between elements.

use super::{each, kernel, long, pointer};
use crate::gpu::{Array, Element, GpuError};

/// The same values as `element`, to the nearest, ties to even.
pub fn convert(x: &Array, element: Element) -> Array {
    if x.element() == element {
        return x.clone();
    }
    let out = Array::unset(x.gpu(), element, x.len());
    let kernel = match element {
        Element::F32 => "convert_bf16_f32",
        Element::Bf16 => "convert_f32_bf16",
    };
    let args = [pointer(&out), pointer(x), long(x.len())];
    x.gpu().launch(each("convert", kernel, x.len()), &args);
    out
}

/// Whether a value is infinite or no number. Waits for the device.
///
/// # Errors
/// What went wrong on the device, in this or before.
pub fn has_not_finite(x: &Array) -> Result<bool, GpuError> {
    let flag = Array::zeros(x.gpu(), Element::F32, 1);
    let kernel = kernel!("not_finite", x.element());
    let args = [pointer(&flag), pointer(x), long(x.len())];
    x.gpu().launch(each("convert", kernel, x.len()), &args);
    Ok(flag.to_host()?[0] != 0.0)
}
