//! Whole models as `save_pretrained` wrote them, and ComfyUI's scaled fp8 down to its values.

mod common;

use std::fs;

use common::fixtures;
use longreel_kernels::DType;
use longreel_weights::{Layout, ModelFolder, ModelKind, TensorSource, inspect};
use tempfile::TempDir;

#[test]
fn recorded_models_are_opened_and_every_tensor_is_taken() {
    let mut seen = 0;
    for (name, kind) in [
        ("df", ModelKind::DiffusionForcing),
        ("t2v", ModelKind::TextToVideo),
        ("i2v", ModelKind::ImageToVideo),
        ("wan_t2v", ModelKind::TextToVideo),
        ("wan_flf2v", ModelKind::FirstLastFrame),
    ] {
        let path = fixtures("models").join(name);
        let model = ModelFolder::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((model.kind(), model.layout()), (kind, Layout::Diffusers), "{name}");
        assert_eq!(model.revision().len(), 64);
        let mut take = |expected: Vec<(String, Vec<usize>)>, mut source: TensorSource| {
            for (tensor, shape) in expected {
                let values = source.take_f32(&tensor, &shape).unwrap();
                assert_eq!(values.len(), shape.iter().product::<usize>());
                seen += 1;
            }
            source.finish().unwrap_or_else(|e| panic!("{name}: {e}"));
        };
        let (config, source) = model.transformer().unwrap();
        take(config.expected_tensors(), source);
        let (config, source) = model.vae().unwrap();
        take(config.expected_tensors(), source);
        let (config, source) = model.text_encoder().unwrap();
        take(config.expected_tensors(), source);
        if let Some((config, source)) = model.image_encoder().unwrap() {
            take(config.expected_tensors(), source);
        }
        assert!(model.tokenizer().unwrap().join("tokenizer.json").is_file());
        assert!(model.scheduler_json().unwrap().contains("flow_shift"));
        let report = inspect(&path).unwrap();
        assert!(report.problems.is_empty(), "{name}: {report}");
        let text = report.to_string();
        for word in
            ["kind ", "layout ", "transformer ", "parameters", "f32", "memory ", "complete "]
        {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    }
    assert!(seen > 500, "{seen}");
}

#[test]
fn the_demo_model_is_complete() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    let model = ModelFolder::open(&path).unwrap();
    assert_eq!(model.kind(), ModelKind::DiffusionForcing);
    let report = inspect(&path).unwrap();
    assert!(report.problems.is_empty(), "{report}");
    assert_eq!(report.parameters, model.parameters());
}

#[test]
fn the_revision_follows_the_content_and_not_the_place() {
    let root = TempDir::new().unwrap();
    let copy = |name: &str| {
        let to = root.path().join(name);
        for folder in ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"] {
            fs::create_dir_all(to.join(folder)).unwrap();
            for file in fs::read_dir(fixtures("models/t2v").join(folder)).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), to.join(folder).join(file.file_name())).unwrap();
            }
        }
        fs::copy(fixtures("models/t2v/model_index.json"), to.join("model_index.json")).unwrap();
        to
    };
    let (one, other) = (copy("one"), copy("other"));
    let revision = |path: &std::path::Path| ModelFolder::open(path).unwrap().revision().to_owned();
    assert_eq!(revision(&one), revision(&other));
    let file = other.join("transformer/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_ne!(revision(&one), revision(&other));
}

#[test]
fn scaled_fp8_stays_as_it_is_and_is_multiplied_by_its_scales() {
    let root = TempDir::new().unwrap();
    let folder = root.path();
    // A whole model of files, whose transformer is the recorded one with one matrix in scaled fp8.
    let recorded = fixtures("models/wan_t2v");
    let model = ModelFolder::open(&recorded).unwrap();
    let (config, mut source) = model.transformer().unwrap();
    let scaled = "blocks.0.attn1.to_q.weight";
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    let mut add = |name: &str, dtype: &str, shape: &[usize], bytes: &[u8]| {
        let end = data.len() + bytes.len();
        let entry =
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), end]});
        header.insert(name.to_owned(), entry);
        data.extend_from_slice(bytes);
    };
    let mut codes = Vec::new();
    let dim = config.dim();
    for (name, shape) in config.expected_tensors() {
        if name == scaled {
            // 1.0, 1.125, -1.0 in e4m3.
            codes = [0x38u8, 0x39, 0xb8].into_iter().cycle().take(dim * dim).collect();
            add(&name, "F8_E4M3", &shape, &codes);
            add("blocks.0.attn1.to_q.scale_weight", "F32", &[1], &3f32.to_le_bytes());
            add("scaled_fp8", "F8_E4M3", &[2], &[0, 0]);
        } else {
            add(&name, "F32", &shape, source.take(&name, &shape).unwrap().bytes());
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(folder.join("wan.safetensors"), file).unwrap();
    fs::copy(recorded.join("transformer/config.json"), folder.join("wan.json")).unwrap();
    for (from, to) in [
        ("vae/diffusion_pytorch_model.safetensors", "vae.safetensors"),
        ("vae/config.json", "vae.json"),
        ("text_encoder/model.safetensors", "text.safetensors"),
        ("text_encoder/config.json", "text.json"),
    ] {
        fs::copy(recorded.join(from), folder.join(to)).unwrap();
    }
    fs::copy(recorded.join("tokenizer/spiece.model"), folder.join("spiece.model")).unwrap();

    let model = ModelFolder::open(folder).unwrap();
    assert_eq!(model.layout(), Layout::Files);
    let (config, mut source) = model.transformer().unwrap();
    for (name, shape) in config.expected_tensors() {
        let weight = source.take(&name, &shape).unwrap();
        if name == scaled {
            assert_eq!(weight.dtype(), DType::F8E4M3);
            let values = weight.to_f32();
            for (at, (value, code)) in values.iter().zip(&codes).enumerate() {
                let expected = match code {
                    0x38 => 3.0,
                    0x39 => 3.375,
                    _ => -3.0,
                };
                assert_eq!(*value, expected, "{name}[{at}]");
            }
        } else {
            assert_eq!(weight.dtype(), DType::F32);
        }
    }
    source.finish().unwrap();
}

/// The parts of a model beside its transformer, as files of one folder.
fn companions(folder: &std::path::Path) {
    let recorded = fixtures("models/wan_t2v");
    for (from, to) in [
        ("vae/diffusion_pytorch_model.safetensors", "vae.safetensors"),
        ("vae/config.json", "vae.json"),
        ("text_encoder/model.safetensors", "text.safetensors"),
        ("text_encoder/config.json", "text.json"),
        ("tokenizer/spiece.model", "spiece.model"),
    ] {
        fs::copy(recorded.join(from), folder.join(to)).unwrap();
    }
}

/// As CausVid and Self Forcing save what they distil.
#[test]
fn a_distillations_generator_is_read_as_a_causal_few_step_model() {
    let recorded = fixtures("models/wan_t2v/transformer");
    let file = recorded.join("diffusion_pytorch_model.safetensors");
    let expected = common::take_all(TensorSource::open_file(&file).unwrap());
    for (name, factor) in [("generator.pt", 1.0), ("generator_last.pt", 2.0)] {
        let root = TempDir::new().unwrap();
        companions(root.path());
        fs::copy(recorded.join("config.json"), root.path().join("config.json")).unwrap();
        let path = root.path().join(name);
        fs::copy(fixtures("containers").join(name), &path).unwrap();
        let model = ModelFolder::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(model.is_causal_few_step(), "{name}");
        assert_eq!(model.kind(), ModelKind::DiffusionForcing);
        assert_eq!(model.transformer_config().num_frame_per_block, 3);
        assert!(model.notes()[0].contains("longreel.json"), "{:?}", model.notes());
        let (_, source) = model.transformer().unwrap();
        let found = common::take_all(source);
        assert_eq!(found.len(), expected.len());
        for (name, weight) in &expected {
            let wanted: Vec<f32> = weight.to_f32().iter().map(|v| v * factor).collect();
            assert_eq!(found[name].to_f32(), wanted, "{name}");
        }
        // Its owner knows better.
        fs::write(root.path().join("longreel.json"), r#"{"kind": "text_to_video"}"#).unwrap();
        let model = ModelFolder::open(&path).unwrap();
        assert_eq!((model.kind(), model.is_causal_few_step()), (ModelKind::TextToVideo, false));
        assert_eq!(model.transformer_config().num_frame_per_block, 1);
    }
}

#[test]
fn a_causal_few_step_model_is_known_by_its_name_and_the_one_it_began_with_is_not() {
    let root = TempDir::new().unwrap();
    let cache = "models--owner--Self-Forcing-1.3B/snapshots/0123abcd";
    for (place, causal) in [
        ("wan-self_forcing_dmd", true),
        ("CausVid", true),
        (cache, true),
        ("Self-Forcing/wan_models/Wan2.1-T2V-1.3B", false),
    ] {
        let folder = root.path().join(place);
        fs::create_dir_all(&folder).unwrap();
        companions(&folder);
        let transformer = fixtures("models/wan_t2v/transformer");
        for (from, to) in
            [("diffusion_pytorch_model.safetensors", "m.safetensors"), ("config.json", "m.json")]
        {
            fs::copy(transformer.join(from), folder.join(to)).unwrap();
        }
        let model = ModelFolder::open(&folder).unwrap_or_else(|e| panic!("{place}: {e}"));
        assert_eq!(model.is_causal_few_step(), causal, "{place}");
    }
}

#[test]
fn a_kind_that_no_file_tells_is_taken_from_longreel_json() {
    let root = TempDir::new().unwrap();
    let folder = root.path();
    companions(folder);
    let recorded = fixtures("models/wan_t2v/transformer");
    for (from, to) in [
        ("diffusion_pytorch_model.safetensors", "skyreels.safetensors"),
        ("config.json", "skyreels.json"),
    ] {
        fs::copy(recorded.join(from), folder.join(to)).unwrap();
    }
    let path = folder.join("skyreels.safetensors");
    let model = ModelFolder::open(&path).unwrap();
    assert_eq!(model.kind(), ModelKind::TextToVideo);
    assert!(model.notes()[0].contains("longreel.json"), "{:?}", model.notes());
    fs::write(folder.join("longreel.json"), r#"{"kind": "diffusion_forcing"}"#).unwrap();
    let model = ModelFolder::open(&path).unwrap();
    assert_eq!(model.kind(), ModelKind::DiffusionForcing);
    assert!(model.notes().is_empty());
    fs::write(folder.join("longreel.json"), r#"{"kind": "video"}"#).unwrap();
    let message = ModelFolder::open(&path).unwrap_err().to_string();
    assert!(message.contains("\"video\"") && message.contains("text_to_video"), "{message}");
}
