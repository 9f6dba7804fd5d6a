//! A folder as a published model's, with random weights.

use std::fs;
use std::path::{Path, PathBuf};

use longreel_weights::{ExpectedTensor, PublishedModel, VaeConfig, published_text_encoder};

use crate::program::copy_folder;
use crate::random;

/// What a film is unless a request says otherwise: one step over a small picture uses every weight once.
/// What is to be seen is how long the weights take to come, not how long a film takes.
const SMALLEST: &str = r#"{
    "width": 64, "height": 64, "num_frames": 9, "steps": 1, "guidance_scale": 1.0
}"#;

/// Writes it in Diffusers' layout; where it lies. The tokenizer is the demo model's, whose tokens every
/// vocabulary has.
pub fn write(model: &PublishedModel, place: &Path) -> PathBuf {
    let folder = place.join(model.name);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo");
    for part in ["scheduler", "tokenizer"] {
        copy_folder(&demo.join(part), &folder.join(part));
    }
    fs::copy(demo.join("model_index.json"), folder.join("model_index.json")).expect("writable");
    fs::write(folder.join("longreel.json"), SMALLEST).expect("writable");
    let vae = VaeConfig::from_json("{}").expect("the defaults");
    let text = published_text_encoder();
    let diffusion = "diffusion_pytorch_model.safetensors";
    let json = |config: serde_json::Result<String>| config.expect("plain data");
    network(
        &folder.join("transformer"),
        &json(serde_json::to_string(&model.transformer)),
        diffusion,
        &model.transformer.expected_tensors(),
    );
    let config = json(serde_json::to_string(&vae));
    network(&folder.join("vae"), &config, diffusion, &vae.expected_tensors());
    network(
        &folder.join("text_encoder"),
        &json(serde_json::to_string(&text)),
        "model.safetensors",
        &text.expected_tensors(),
    );
    folder
}

fn network(folder: &Path, config: &str, file: &str, tensors: &[ExpectedTensor]) {
    fs::create_dir_all(folder).expect("writable");
    fs::write(folder.join("config.json"), config).expect("writable");
    random::write(tensors, &folder.join(file)).expect("room on the disk; TMPDIR chooses another");
}
