use longreel_kernels::gpu::{Address, Array, Element, Gpu, Stream, ops};
use longreel_kernels::{DType, dequantize};

use crate::{FORMATS, Numbers, array, device, rounded, values};
use std::sync::Arc;

fn uploaded(gpu: &Arc<Gpu>, bytes: &[u8]) -> Address {
    let driver = gpu.driver();
    let address = driver.alloc(bytes.len()).expect("there is memory");
    driver.upload(Stream::Compute, address, bytes).expect("it fits");
    address
}

fn assert_same(what: &str, found: Array, expected: &[f32]) {
    let expected = rounded(expected, found.element());
    let found = values(what, found);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "{what}: value {i} is {found:e}, on the host {expected:e}");
    }
}

/// Any bytes stand for something, so random ones show every code and scale.
#[test]
fn every_format_has_the_values_of_the_host_bit_by_bit() {
    let Some(gpu) = device() else { return };
    for dtype in FORMATS {
        for blocks in [1, 3, 2001 / dtype.block_len().min(64)] {
            let len = blocks * dtype.block_len();
            let mut numbers = Numbers::new(blocks as u64);
            let size = dtype.byte_len(len).expect("whole blocks");
            let bytes: Vec<u8> = (0..size).map(|_| (numbers.next() * 128.0) as i8 as u8).collect();
            let mut expected = vec![0.0; len];
            dequantize(dtype, &bytes, &mut expected);
            let address = uploaded(&gpu, &bytes);
            for out in [Element::F32, Element::Bf16] {
                let what = format!("{} to {out:?}, {len} values", dtype.name());
                let found = ops::dequantize(&gpu, address, dtype, len, None, out);
                assert_same(&what, found, &expected);
            }
        }
    }
}

#[test]
fn values_are_multiplied_by_the_factor_of_all_or_of_their_row() {
    let Some(gpu) = device() else { return };
    // Rows that are and that are not whole vectors, and blocks.
    for (dtype, rows, dim) in [
        (DType::F8E4M3, 5, 64),
        (DType::F8E4M3, 7, 33),
        (DType::F8E5M2, 3, 24),
        (DType::Q8_0, 4, 96),
    ] {
        let len = rows * dim;
        let mut numbers = Numbers::new(dim as u64);
        let bytes: Vec<u8> = (0..dtype.byte_len(len).expect("whole blocks"))
            .map(|i| if i % 34 == 1 { 0x2c } else { (numbers.next() * 100.0) as i8 as u8 })
            .collect();
        let address = uploaded(&gpu, &bytes);
        let mut plain = vec![0.0; len];
        dequantize(dtype, &bytes, &mut plain);
        for scales in [numbers.vec(1), numbers.vec(rows)] {
            let part = len / scales.len();
            let expected: Vec<f32> =
                plain.iter().enumerate().map(|(i, v)| v * scales[i / part]).collect();
            let there = array(&gpu, &scales, Element::F32);
            for out in [Element::F32, Element::Bf16] {
                let what = format!("{} {rows}x{dim} by {} factors", dtype.name(), scales.len());
                let found = ops::dequantize(&gpu, address, dtype, len, Some(&there), out);
                assert_same(&what, found, &expected);
            }
        }
    }
}
