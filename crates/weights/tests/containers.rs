//! Files written by the field's own programs, down to their values. Recorded by `parity/containers.py`.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{fixtures, take_all};
use longreel_kernels::{Bytes, DType, Weight};
use longreel_weights::{ModelFolder, TensorSource, WeightDtype};

/// Every tensor of the file as f32.
fn values(path: &Path) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let source = TensorSource::open_file(path).unwrap_or_else(|e| panic!("{e}"));
    let values = |weight: Weight| (weight.shape().to_vec(), weight.to_f32());
    take_all(source).into_iter().map(|(name, weight)| (name, values(weight))).collect()
}

/// Reading formats and dequantising blocks is exact, so values are compared bit by bit.
#[track_caller]
fn assert_same(found: &Path, recorded: &Path) {
    let (found, recorded) = (values(found), values(recorded));
    assert_eq!(found.len(), recorded.len());
    for (name, (shape, expected)) in &recorded {
        let (found_shape, values) = &found[name];
        assert_eq!(found_shape, shape, "{name}");
        let worst = values.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(at) = worst {
            panic!("{name}[{at}] is {} and should be {}", values[at], expected[at]);
        }
    }
}

#[test]
fn a_state_dict_of_pytorch_gives_its_values_whatever_their_format_and_strides() {
    let folder = fixtures("containers");
    assert_same(&folder.join("state.pth"), &folder.join("state.safetensors"));
    assert_eq!(values(&folder.join("state.pth")).len(), 11);
}

#[test]
fn a_state_dict_inside_a_training_checkpoint_is_found() {
    let folder = fixtures("containers");
    assert_same(&folder.join("wrapped.pth"), &folder.join("state.safetensors"));
}

#[test]
fn attributes_and_counters_of_a_state_dict_do_no_harm() {
    let source = TensorSource::open_file(&fixtures("containers").join("module.pth")).unwrap();
    let names: Vec<&str> = source.names().collect();
    assert_eq!(names, ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"]);
}

#[test]
fn integers_are_named_and_not_converted() {
    let mut source = TensorSource::open_file(&fixtures("containers").join("module.pth")).unwrap();
    let message = source.take("num_batches_tracked", &[]).unwrap_err().to_string();
    assert!(message.contains("the format i64 of the tensor num_batches_tracked"), "{message}");
}

#[test]
fn pickles_that_hold_code_or_an_old_format_are_refused_by_name() {
    let open = |name: &str| {
        TensorSource::open_file(&fixtures("containers").join(name)).unwrap_err().to_string()
    };
    let message = open("whole_module.pth");
    assert!(message.contains("asks for torch.nn.modules.linear.Linear"), "{message}");
    let message = open("legacy.pth");
    assert!(message.contains("before version 1.6") && message.contains("torch.save"), "{message}");
}

#[test]
fn every_gguf_format_gives_the_values_of_the_reference_implementation() {
    let folder = fixtures("containers");
    assert_same(&folder.join("formats.gguf"), &folder.join("formats.safetensors"));
    let source = TensorSource::open_file(&folder.join("formats.gguf")).unwrap();
    // Kept in two axes in the file.
    assert_eq!(source.shape("conv").unwrap(), [2, 3, 1, 2, 2]);
    assert_eq!(source.names().count(), 10);
}

#[test]
fn blocks_longer_than_the_rows_of_a_convolution_are_dequantised() {
    let formats = fixtures("containers").join("formats.gguf");
    let flat = TensorSource::open_file(&formats).unwrap().take("q8_0", &[4, 32]).unwrap();
    let weight = Weight::new(&[4, 32], DType::Q8_0, Bytes::from(flat.bytes().to_vec())).unwrap();
    let mut source = TensorSource::from_tensors(HashMap::from([("conv".to_owned(), weight)]));
    let conv = source.take("conv", &[4, 32, 1, 1]).unwrap();
    assert_eq!((conv.shape(), conv.dtype()), ([4, 32, 1, 1].as_slice(), DType::BF16));
    for (at, (a, b)) in conv.to_f32().iter().zip(flat.to_f32()).enumerate() {
        // bf16 keeps 8 bits.
        assert!((a - b).abs() <= b.abs() / 256.0, "conv[{at}] is {a} and should be {b}");
    }
}

#[test]
fn weights_are_converted_from_every_format_to_the_one_asked_for() {
    let open = || TensorSource::open_file(&fixtures("containers").join("formats.gguf")).unwrap();
    let stored = take_all(open());
    for (wanted, dtype, bits_kept) in [
        (WeightDtype::F32, DType::F32, 24),
        (WeightDtype::F16, DType::F16, 11),
        (WeightDtype::Bf16, DType::BF16, 8),
    ] {
        for (name, weight) in take_all(open().in_dtype(wanted)) {
            assert_eq!(weight.dtype(), dtype, "{name}");
            for (found, exact) in weight.to_f32().iter().zip(stored[&name].to_f32()) {
                // Below 2^-14 a half has fewer bits.
                let allowed = exact.abs().max(6.2e-5) * 0.5f32.powi(bits_kept);
                assert!(
                    (found - exact).abs() <= allowed,
                    "{name}: {exact} became {found} in {wanted}"
                );
            }
        }
    }
}

#[test]
fn fp8_is_for_the_matrices_of_blocks_alone_and_takes_the_memory_that_is_told() {
    let model = fixtures("models/df");
    let plain = ModelFolder::open(&model).expect("a model");
    let in_8_bits = ModelFolder::open(&model).expect("a model").in_dtype(WeightDtype::Fp8);
    let taken = |folder: &ModelFolder| take_all(folder.transformer().expect("a source").1);
    let (stored, fp8) = (taken(&plain), taken(&in_8_bits));
    let (mut bytes, mut made) = (0, 0);
    for (name, weight) in &fp8 {
        let matrix =
            name.starts_with("blocks.") && name.ends_with(".weight") && !name.contains("norm");
        let before = &stored[name];
        bytes += weight.bytes().len() as u64;
        if !matrix {
            assert_eq!(
                (weight.dtype(), weight.bytes()),
                (before.dtype(), before.bytes()),
                "{name}"
            );
            continue;
        }
        let rows = weight.shape()[0];
        assert_eq!(weight.dtype(), DType::F8E4M3, "{name}");
        assert_eq!(weight.scales().map(<[f32]>::len), Some(rows), "{name}");
        let row = weight.len() / rows;
        for (found, exact) in weight.to_f32().chunks(row).zip(before.to_f32().chunks(row)) {
            let largest = exact.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (found, exact) in found.iter().zip(exact) {
                // Three bits behind the first, and fewer far below the largest of the row.
                let allowed = (exact.abs() / 15.9).max(largest / 448.0 / 1023.0);
                assert!((found - exact).abs() <= allowed, "{name}: {exact} became {found}");
            }
        }
        let factors = 4 * rows as u64;
        bytes += factors;
        made += weight.bytes().len() as u64 + factors;
    }
    assert!(made > 0 && made < bytes);
    assert_eq!(in_8_bits.transformer_bytes(), bytes);
    assert_eq!(in_8_bits.transformer_bytes_converted(), made);
    assert_eq!(in_8_bits.transformer_bytes_stored(), plain.transformer_bytes());
    // Encoders are as they were.
    assert_eq!(in_8_bits.text_encoder_bytes(), plain.text_encoder_bytes());
    let text = |folder: &ModelFolder| take_all(folder.text_encoder().expect("a source").1);
    for (name, weight) in text(&in_8_bits) {
        assert_eq!(weight.dtype(), text(&plain)[&name].dtype(), "{name}");
    }
}
