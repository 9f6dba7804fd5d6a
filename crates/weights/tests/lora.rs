//! LoRAs merged into a tiny transformer, against Diffusers and PEFT. Recorded by `parity/containers.py`.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{fixtures, take_all};
use longreel_kernels::{Bytes, DType, Weight};
use longreel_weights::{Lora, TensorSource};
use tempfile::TempDir;

/// The weight of every recorded merge.
const WEIGHT: f32 = 0.7;

fn model() -> TensorSource {
    TensorSource::open_file(&fixtures("lora").join("model.safetensors")).unwrap()
}

/// Both sides multiply and add in f32, in another order: values of about 1 differ by a few 1e-7.
const TOLERANCE: f32 = 2e-6;

#[track_caller]
fn assert_near(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let far = |a: f32, b: f32| (a - b).abs() / (1.0 + b.abs());
    let worst = (0..found.len())
        .max_by(|&a, &b| far(found[a], expected[a]).total_cmp(&far(found[b], expected[b])));
    if let Some(at) = worst.filter(|&at| {
        let far = far(found[at], expected[at]);
        far > tolerance || far.is_nan()
    }) {
        panic!("{name}[{at}] is {} and should be {}", found[at], expected[at]);
    }
}

fn merges_as_the_reference(name: &str) {
    let folder = fixtures("lora");
    // PEFT writes a folder.
    let peft = folder.join(name).join("adapter_model.safetensors");
    let plain = folder.join(format!("{name}.safetensors"));
    let lora = Lora::open(if peft.exists() { peft } else { plain }).unwrap();
    let mut source = model();
    lora.apply(&mut source, WEIGHT).unwrap();
    let merged = take_all(source);
    let before = take_all(model());
    let fused = TensorSource::open_file(&folder.join(format!("{name}.fused.safetensors"))).unwrap();
    let fused = take_all(fused);
    assert_eq!(lora.len(), fused.len(), "{name}");
    for (tensor, weight) in &merged {
        match fused.get(tensor) {
            Some(expected) => {
                assert_near(tensor, &weight.to_f32(), &expected.to_f32(), TOLERANCE);
            }
            None => assert_eq!(weight.bytes(), before[tensor].bytes(), "{name} changed {tensor}"),
        }
    }
}

#[test]
fn a_lora_of_diffusers_is_merged_with_the_alphas_of_its_header() {
    merges_as_the_reference("diffusers");
}

#[test]
fn a_rank_stabilised_lora_with_biases_is_merged() {
    merges_as_the_reference("diffusers_rslora");
}

#[test]
fn a_lora_of_kohya_is_merged() {
    merges_as_the_reference("kohya");
}

#[test]
fn a_lora_of_comfyui_is_merged() {
    merges_as_the_reference("comfyui");
}

#[test]
fn lokr_of_lycoris_is_merged_in_every_form() {
    merges_as_the_reference("lycoris_lokr");
}

#[test]
fn loha_of_lycoris_is_merged_in_every_form() {
    merges_as_the_reference("lycoris_loha");
}

#[test]
fn dora_of_lycoris_brings_rows_or_columns_to_its_lengths() {
    merges_as_the_reference("lycoris_dora");
}

#[test]
fn adapters_of_peft_are_merged_with_the_settings_beside_them() {
    for name in ["peft_lokr", "peft_loha", "peft_dora"] {
        merges_as_the_reference(name);
    }
}

#[test]
fn a_changed_file_or_changed_settings_are_another_revision() {
    let folder = TempDir::new().unwrap();
    let from = fixtures("lora").join("peft_lokr");
    let [weights, settings] =
        ["adapter_model.safetensors", "adapter_config.json"].map(|name| folder.path().join(name));
    let revision = || Lora::open(&weights).unwrap().revision().to_owned();
    std::fs::copy(from.join("adapter_model.safetensors"), &weights).unwrap();
    let alone = revision();
    std::fs::copy(from.join("adapter_config.json"), &settings).unwrap();
    let whole = revision();
    assert_ne!(alone, whole);
    assert_eq!(whole, revision());
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert_ne!(whole, revision());
}

#[test]
fn magnitudes_of_another_size_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("lora.safetensors");
    let q = "diffusion_model.blocks.0.self_attn.q";
    let ones = |name: &str, shape: &[usize]| {
        (format!("{q}.{name}"), shape.to_vec(), 1f32.to_le_bytes().repeat(shape.iter().product()))
    };
    for shape in [&[13, 1][..], &[1, 13], &[1], &[12, 12], &[3, 4]] {
        let pair = [ones("lora_down.weight", &[2, 12]), ones("lora_up.weight", &[12, 2])];
        write(&path, &[&pair[..], &[ones("dora_scale", shape)]].concat());
        let error = Lora::open(&path).unwrap().apply(&mut model(), 1.0).unwrap_err().to_string();
        assert!(error.contains(&format!("{shape:?}")) && error.contains("[12, 12]"), "{error}");
    }
}

#[test]
fn several_loras_add_up_and_a_weight_of_zero_changes_nothing() {
    let folder = fixtures("lora");
    let open = |name: &str| Lora::open(folder.join(format!("{name}.safetensors"))).unwrap();
    let (first, second, dora) = (open("kohya"), open("diffusers"), open("lycoris_dora"));
    let merged = |loras: &[(&Lora, f32)]| {
        let mut source = model();
        for (lora, weight) in loras {
            lora.apply(&mut source, *weight).unwrap();
        }
        take_all(source)
    };
    let before = take_all(model());
    let both = merged(&[(&first, 0.5), (&second, -0.25)]);
    let (one, other) = (merged(&[(&first, 0.5)]), merged(&[(&second, -0.25)]));
    let none = merged(&[(&first, 0.0), (&second, 0.0), (&dora, 0.0)]);
    for (name, weight) in &both {
        let base = before[name].to_f32();
        let (one, other) = (one[name].to_f32(), other[name].to_f32());
        let sum: Vec<f32> = (0..base.len()).map(|i| one[i] + other[i] - base[i]).collect();
        assert_near(name, &weight.to_f32(), &sum, TOLERANCE);
    }
    for (name, weight) in &before {
        assert_near(name, &none[name].to_f32(), &weight.to_f32(), 0.0);
    }
}

/// A LoRA file with one change of rank 1 of `module`, all ones.
fn ones(folder: &TempDir, module: &str, outputs: usize, inputs: usize) -> Lora {
    let path = folder.path().join("ones.safetensors");
    let f32s = |n: usize| 1f32.to_le_bytes().repeat(n);
    write(
        &path,
        &[
            (format!("{module}.lora_A.weight"), vec![1, inputs], f32s(inputs)),
            (format!("{module}.lora_B.weight"), vec![outputs, 1], f32s(outputs)),
        ],
    );
    Lora::open(path).unwrap()
}

fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, bytes) in tensors {
        let end = data.len() + bytes.len();
        let entry =
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [data.len(), end]});
        header.insert(name.clone(), entry);
        data.extend_from_slice(bytes);
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(path, file).unwrap();
}

#[test]
fn plain_formats_are_kept_and_quantised_ones_become_bf16() {
    let folder = TempDir::new().unwrap();
    let lora = ones(&folder, "blocks.0.attn1.to_q", 2, 256);
    let name = "blocks.0.attn1.to_q.weight";
    for (dtype, merged_dtype) in [
        (DType::F32, DType::F32),
        (DType::F16, DType::F16),
        (DType::BF16, DType::BF16),
        (DType::F8E4M3, DType::BF16),
        (DType::F8E5M2, DType::BF16),
        (DType::Q8_0, DType::BF16),
        (DType::Q6K, DType::BF16),
        (DType::Q5K, DType::BF16),
        (DType::Q5_0, DType::BF16),
        (DType::Q4K, DType::BF16),
        (DType::Q4_0, DType::BF16),
    ] {
        // Bytes that are small finite numbers in each format.
        let bytes: Vec<u8> =
            (0..dtype.byte_len(512).unwrap()).map(|i| 0x20 + (i % 5) as u8).collect();
        let weight = Weight::new(&[2, 256], dtype, Bytes::from(bytes)).unwrap();
        let before = weight.to_f32();
        assert!(before.iter().all(|v| v.is_finite()));
        let mut source = TensorSource::from_tensors(HashMap::from([(name.to_owned(), weight)]));
        lora.apply(&mut source, 0.5).unwrap();
        let merged = source.take(name, &[2, 256]).unwrap();
        assert_eq!(merged.dtype(), merged_dtype, "{dtype:?}");
        let expected: Vec<f32> = before.iter().map(|v| v + 0.5).collect();
        // The last bit of what the result is stored in.
        let tolerance = match merged_dtype {
            DType::F32 => 1e-6,
            DType::F16 => 1e-3,
            _ => 8e-3,
        };
        assert_near(dtype.name(), &merged.to_f32(), &expected, tolerance);
    }
}

#[test]
fn a_lora_that_does_not_fit_is_refused_by_name_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let before = take_all(model());
    let refused = |lora: &Lora, weight: f32, words: &[&str]| {
        let mut source = model();
        let message = lora.apply(&mut source, weight).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
        for (name, weight) in take_all(source) {
            assert_eq!(weight.bytes(), before[&name].bytes(), "{name}");
        }
    };
    let elsewhere = ones(&folder, "transformer.blocks.7.attn1.to_q", 12, 12);
    refused(&elsewhere, 1.0, &["blocks.7.attn1.to_q.weight", "does not have"]);
    let larger = ones(&folder, "transformer.blocks.1.attn1.to_q", 12, 24);
    refused(&larger, 1.0, &["blocks.1.attn1.to_q.weight", "[12, 24]", "[12, 12]"]);
    let fits = ones(&folder, "transformer.blocks.1.attn1.to_q", 12, 12);
    refused(&fits, f32::NAN, &["its weight is NaN"]);
}

#[test]
fn keys_that_fit_nowhere_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("lora.safetensors");
    let f32s = |n: usize| 1f32.to_le_bytes().repeat(n);
    let tensor = |name: &str, shape: &[usize]| {
        (name.to_owned(), shape.to_vec(), f32s(shape.iter().product()))
    };
    let q = "diffusion_model.blocks.0.self_attn.q";
    let (down, up) = (format!("{q}.lora_down.weight"), format!("{q}.lora_up.weight"));
    let pair = [tensor(&down, &[2, 12]), tensor(&up, &[12, 2])];
    let cases: [(&[_], &[&str]); 14] = [
        (&[tensor("lora_te_x.lora_down.weight", &[1, 1])], &["lora_te_x.lora_down.weight"]),
        (&[tensor(&format!("{q}.oft_blocks"), &[1, 1])], &["oft_blocks", "OFT", "are not"]),
        (&[tensor(&format!("{q}.hada_w1_a"), &[1, 1])], &["hada_w1_a", "no counterpart"]),
        (&[tensor(&format!("{q}.lokr_w1"), &[3, 3])], &["lokr_w1", "no counterpart"]),
        (&[tensor(&format!("{q}.dora_scale"), &[12, 1])], &["dora_scale", "no counterpart"]),
        (
            &[pair[0].clone(), pair[1].clone(), tensor(&format!("{q}.lokr_w1"), &[3, 3])],
            &["no counterpart"],
        ),
        (
            &[
                pair[0].clone(),
                tensor(&format!("{q}.lokr_w1"), &[3, 3]),
                tensor(&format!("{q}.lokr_w2"), &[4, 4]),
            ],
            &["lora_down.weight", "another kind"],
        ),
        (
            &[
                tensor(&format!("{q}.hada_w1_a"), &[12, 2]),
                tensor(&format!("{q}.hada_w1_b"), &[2, 12]),
                tensor(&format!("{q}.hada_w2_a"), &[12, 2]),
                tensor(&format!("{q}.hada_w2_b"), &[2, 13]),
            ],
            &["[12, 12]", "[12, 13]"],
        ),
        (
            &[
                tensor(&format!("{q}.lokr_w1"), &[3, 3]),
                tensor(&format!("{q}.lokr_w2_a"), &[2, 4]),
                tensor(&format!("{q}.lokr_w2_b"), &[2, 4]),
                tensor(&format!("{q}.lokr_t2"), &[2, 3, 1, 1]),
            ],
            &["ranks", "[2, 3, 1, 1]"],
        ),
        (&pair[..1], &["lora_down.weight", "no counterpart"]),
        (&[tensor(&down, &[2, 12]), tensor(&up, &[12, 3])], &["ranks", "[2, 12]", "[12, 3]"]),
        (
            &[pair[0].clone(), pair[1].clone(), tensor(&format!("{q}.alpha"), &[2])],
            &["alpha", "no single finite number"],
        ),
        (
            &[
                pair[0].clone(),
                pair[1].clone(),
                tensor(&down.replace("diffusion_model.", ""), &[2, 12]),
            ],
            &["a second time"],
        ),
        (&[], &["no tensors"]),
    ];
    for (tensors, words) in cases {
        write(&path, tensors);
        let message = Lora::open(&path).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
    }
}
