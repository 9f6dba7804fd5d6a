//! The GPU's kernels and the code that starts them, on the shim, against plain f64 references.

mod attention;
mod check;
#[path = "../common/mod.rs"]
mod common;
mod conv;
mod conv_vendor;
mod convert;
mod dequantize;
mod fp8;
mod graphs;
mod large;
mod layout;
mod linear;
mod norm;
mod pointwise;
mod screen;
mod spans;
mod sparse;
mod vendor;

use std::path::Path;
use std::sync::Arc;

pub(crate) use common::{FORMATS, Numbers, on_card, wide};
use longreel_kernels::gpu::{Array, Element, Gpu};
use longreel_shim::Shim;

/// One that computes in bf16.
pub(crate) fn device() -> Option<Arc<Gpu>> {
    common::gpu(Element::Bf16)
}

/// The same with a library for matrix products; on a card it is the card's.
pub(crate) fn device_with_products() -> Option<Arc<Gpu>> {
    if on_card() {
        return device();
    }
    let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    Some(Gpu::new(Box::new(shim.with_arrays_apart().with_products()), Element::Bf16))
}

pub(crate) const ELEMENTS: [Element; 2] = [Element::F32, Element::Bf16];

/// The values as an element holds them.
pub(crate) fn rounded(values: &[f32], element: Element) -> Vec<f32> {
    match element {
        Element::F32 => values.to_vec(),
        Element::Bf16 => values.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect(),
    }
}

/// Values on the device, where no memory is free that was written before.
pub(crate) fn array(gpu: &Arc<Gpu>, values: &[f32], element: Element) -> Array {
    gpu.shrink();
    let there = convert(Array::from_host(gpu, values), element);
    gpu.shrink();
    there
}

fn convert(values: Array, element: Element) -> Array {
    longreel_kernels::gpu::ops::convert(&values, element)
}

/// Compares with a reference. `tolerance` is for a result of f32 as a part of `1 + |expected|`; bf16
/// may be off by half of its last place more. What nobody wrote is NaN and compares with nothing.
/// The array is given back, so that whatever comes next has memory that nobody has written.
pub(crate) fn assert_close(what: &str, found: Array, expected: &[f64], tolerance: f64) {
    let element = found.element();
    let found = values(what, found);
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let mut allowed = tolerance * (1.0 + expected.abs());
        if element == Element::Bf16 {
            allowed += expected.abs() / 256.0 + 1e-38;
        }
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= allowed,
            "{what} {element:?}: value {i} is {found} instead of {expected} (allowed {allowed:e})"
        );
    }
}

/// An array's values, once it is seen that nothing behind them was written, up to where its memory
/// ends; it is given back.
pub(crate) fn values(what: &str, array: Array) -> Vec<f32> {
    let values = array.to_host().unwrap_or_else(|error| panic!("{what}: {error}"));
    if on_card() {
        // What lies behind was never filled there.
        return values;
    }
    let mut rest = vec![0; array.bytes().next_multiple_of(256) - array.bytes()];
    let gpu = array.gpu().clone();
    let behind = array.address().plus(array.bytes());
    gpu.driver().download(behind, &mut rest).expect("it is there");
    assert!(rest.iter().all(|&b| b == 0xff), "{what}: written behind the last value");
    drop(array);
    gpu.shrink();
    values
}
