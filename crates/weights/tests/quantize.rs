//! Models written again in fewer bits, and read again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longreel_weights::{
    ModelFolder, QuantizedPart, QuantizedTensor, Target, TensorSource, inspect, quantize_model,
};

const TRANSFORMER: [QuantizedPart; 1] = [QuantizedPart::Transformer];

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo")
}

/// Quantises the demo model and gives back what was told of each tensor.
fn quantized(target: Target, parts: &[QuantizedPart], out: &Path) -> Vec<QuantizedTensor> {
    let mut told = Vec::new();
    let done = quantize_model(&model(), target, parts, out, &mut |t| told.push(t.clone()));
    let done = done.expect("a whole model");
    assert_eq!(told.len(), done.quantized + done.kept);
    assert!(done.bytes < done.source_bytes, "{done:?}");
    told
}

/// All values of a network, by canonical name.
fn values(mut source: TensorSource) -> BTreeMap<String, Vec<f32>> {
    let names: Vec<(String, Vec<usize>)> = source
        .names()
        .map(|name| (name.to_owned(), source.shape(name).expect("it is there").to_vec()))
        .collect();
    names
        .into_iter()
        .map(|(name, shape)| {
            let taken = source.take_f32(&name, &shape).expect("finite");
            (name, taken)
        })
        .collect()
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let off: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (off / expected.iter().map(|v| square(*v)).sum::<f64>()).sqrt()
}

#[test]
fn the_error_that_is_told_is_the_one_that_is_read_and_the_sensitive_layers_are_kept() {
    let source = values(ModelFolder::open(model()).expect("whole").transformer().expect("read").1);
    for (target, most) in [(Target::Q8_0, 0.007), (Target::Q4K, 0.08), (Target::Fp8, 0.03)] {
        let place = tempfile::tempdir().expect("a folder");
        let out = place.path().join("small");
        let told = quantized(target, &TRANSFORMER, &out);
        let report = inspect(&out).expect("a model");
        assert_eq!(report.problems, Vec::<String>::new());
        let read = values(ModelFolder::open(&out).expect("whole").transformer().expect("read").1);
        assert_eq!(read.len(), source.len());
        for tensor in &told {
            let found = relative(&read[&tensor.name], &source[&tensor.name]);
            assert!((found - tensor.relative_l2).abs() < 1e-6, "{}: {found}", tensor.name);
            assert!(found <= most, "{}: {found}", tensor.name);
            let inner = tensor.name.starts_with("blocks.")
                && (tensor.name.contains("attn") || tensor.name.contains("ffn"))
                && tensor.name.ends_with(".weight")
                && !tensor.name.contains("norm");
            assert_eq!(found > 0.0, inner, "{} is {}", tensor.name, tensor.to);
        }
    }
}

#[test]
fn a_quantised_folder_is_the_same_model_with_the_other_parts_untouched() {
    let place = tempfile::tempdir().expect("a folder");
    let out = place.path().join("deep/small");
    quantized(Target::Q8_0, &[QuantizedPart::Transformer, QuantizedPart::TextEncoder], &out);
    let (small, whole) = (ModelFolder::open(&out), ModelFolder::open(model()));
    let (small, whole) = (small.expect("whole"), whole.expect("whole"));
    assert_eq!((small.kind(), small.family()), (whole.kind(), whole.family()));
    assert_eq!(small.transformer_config(), whole.transformer_config());
    assert_eq!(small.text_config(), whole.text_config());
    assert!(small.text_encoder_bytes() < whole.text_encoder_bytes());
    let vae = |model: &ModelFolder| values(model.vae().expect("read").1);
    assert!(vae(&small) == vae(&whole));
    let tokenizer = |model: &ModelFolder| {
        std::fs::read(model.tokenizer().expect("one").join("tokenizer.json")).expect("readable")
    };
    assert!(tokenizer(&small) == tokenizer(&whole));
    assert_ne!(small.revision(), whole.revision());
}

#[test]
fn a_file_alone_is_a_transformer_that_finds_its_companions() {
    let place = tempfile::tempdir().expect("a folder");
    let out = place.path().join("small-df.gguf");
    quantized(Target::Q4K, &TRANSFORMER, &out);
    for (part, from) in [
        ("vae.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ("vae.json", "vae/config.json"),
        ("text.safetensors", "text_encoder/model.safetensors"),
        ("text.json", "text_encoder/config.json"),
        ("tokenizer.json", "tokenizer/tokenizer.json"),
    ] {
        std::fs::copy(model().join(from), place.path().join(part)).expect("writable");
    }
    let opened = ModelFolder::open(&out).expect("whole");
    let whole = ModelFolder::open(model()).expect("whole");
    assert_eq!(
        opened.transformer_config().num_attention_heads,
        whole.transformer_config().num_attention_heads
    );
    assert_eq!(opened.kind(), whole.kind());
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is() {
    let place = tempfile::tempdir().expect("a folder");
    let there = place.path().join("there");
    std::fs::create_dir(&there).expect("writable");
    let both = [QuantizedPart::Transformer, QuantizedPart::TextEncoder];
    let refuse = |source: &Path, target, parts: &[QuantizedPart], out: &str| {
        let out = place.path().join(out);
        quantize_model(source, target, parts, &out, &mut |_| {}).expect_err("refused").to_string()
    };
    assert!(refuse(&model(), Target::Q8_0, &TRANSFORMER, "there").contains("is there already"));
    assert!(refuse(&model(), Target::Fp8, &TRANSFORMER, "x.gguf").contains(".safetensors"));
    assert!(refuse(&model(), Target::Q8_0, &both, "x.gguf").contains("name a folder"));
    let vae = model().join("vae");
    assert!(refuse(&vae, Target::Q8_0, &TRANSFORMER, "y").contains("holds no transformer"));
    // Its rows have 24 values and more, and none a multiple of 32.
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models/df");
    for target in [Target::Q8_0, Target::Q4K] {
        let said = refuse(&tiny, target, &TRANSFORMER, "z");
        assert!(said.contains("multiples of 32") && said.contains("fp8"), "{target}: {said}");
    }
    assert_eq!(std::fs::read_dir(place.path()).expect("readable").count(), 1);
}
