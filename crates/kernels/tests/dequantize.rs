//! Stored formats against the reference dequantisers (fixtures by `parity/kernels_quant.py`).

mod common;

use std::path::Path;

use common::FORMATS;
use longreel_kernels::{Bytes, DType, Weight, dequantize};

/// Exact: every format's value is a product (and difference) of a few singles in a fixed order.
#[test]
fn quantised_blocks_equal_the_reference_bit_by_bit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quant");
    for dtype in FORMATS.into_iter().skip(3) {
        let name = dtype.name();
        let read = |ext| {
            let path = folder.join(format!("{name}.{ext}"));
            std::fs::read(path).expect("parity/kernels_quant.py writes the fixtures")
        };
        let (blocks, expected) = (read("blocks"), read("f32"));
        let mut found = vec![0.0; expected.len() / 4];
        dequantize(dtype, &blocks, &mut found);
        for (i, (found, expected)) in found.iter().zip(expected.chunks_exact(4)).enumerate() {
            let expected = f32::from_le_bytes(expected.try_into().expect("four bytes"));
            let same = found.to_bits() == expected.to_bits()
                || (found.is_nan() && expected.is_nan())
                // A product with zero may carry either sign.
                || (*found == 0.0 && expected == 0.0);
            assert!(same, "{name}[{i}] is {found:e}, the reference {expected:e}");
        }
    }
}

#[test]
fn every_half_widens_as_the_half_crate_does() {
    let codes: Vec<u16> = (0..=u16::MAX).collect();
    let bytes: Vec<u8> = codes.iter().flat_map(|c| c.to_le_bytes()).collect();
    let mut found = vec![0.0; codes.len()];
    dequantize(DType::F16, &bytes, &mut found);
    for (code, found) in codes.iter().zip(&found) {
        let expected = half::f16::from_bits(*code).to_f32();
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "f16 {code:#06x} is {found:e}, not {expected:e}");
    }
    dequantize(DType::BF16, &bytes, &mut found);
    for (code, found) in codes.iter().zip(&found) {
        let expected = half::bf16::from_bits(*code).to_f32();
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        assert!(same, "bf16 {code:#06x} is {found:e}, not {expected:e}");
    }
}

#[test]
fn any_bytes_convert_without_a_panic() {
    for dtype in FORMATS {
        for fill in [0u8, 0x7f, 0x80, 0xaa, 0xff] {
            let values = 3 * dtype.block_len();
            let bytes = vec![fill; dtype.byte_len(values).expect("whole blocks")];
            let weight = Weight::new(&[3, dtype.block_len()], dtype, Bytes::from(bytes));
            let weight = weight.expect("sizes fit");
            assert_eq!(weight.to_f32().len(), values);
        }
    }
}

#[test]
fn a_byte_count_that_does_not_fit_is_an_error() {
    let error = Weight::new(&[2, 33], DType::Q8_0, Bytes::from(vec![0; 68])).expect_err("33");
    assert!(error.to_string().contains("q8_0"), "{error}");
    let huge = Weight::new(&[usize::MAX, 2], DType::F32, Bytes::from(vec![])).expect_err("huge");
    assert!(huge.to_string().contains("impossible"), "{huge}");
}

/// Every single whose upper 19 bits and last places differ: all exponents, every rounding there is.
#[test]
fn singles_narrow_as_the_half_crate_does() {
    let tails = [0u32, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff];
    let values: Vec<f32> = (0..=u32::from(u16::MAX))
        .flat_map(|upper| tails.map(|tail| f32::from_bits(upper << 16 | tail)))
        .collect();
    for dtype in [DType::F16, DType::BF16] {
        let narrowed = Weight::narrowed(&[values.len()], &values, dtype);
        let codes = narrowed.bytes().chunks_exact(2);
        for (value, code) in values.iter().zip(codes) {
            let code = u16::from_le_bytes([code[0], code[1]]);
            let (expected, is_nan) = match dtype {
                DType::F16 => {
                    let half = half::f16::from_f32(*value);
                    (half.to_bits(), half::f16::from_bits(code).is_nan())
                }
                _ => {
                    let half = half::bf16::from_f32(*value);
                    (half.to_bits(), half::bf16::from_bits(code).is_nan())
                }
            };
            let same = code == expected || (value.is_nan() && is_nan);
            assert!(same, "{value:e} became {code:#06x} and not {expected:#06x}");
        }
    }
}
