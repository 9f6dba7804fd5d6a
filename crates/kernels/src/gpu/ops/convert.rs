//! Between elements.

use super::{each, long, pointer};
use crate::gpu::{Array, Element};

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
