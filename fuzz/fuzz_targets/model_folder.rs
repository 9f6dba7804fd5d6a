//! The JSON files of a Diffusers folder: the pipeline's index, a network's configuration, the index
//! of a sharded checkpoint. The first byte chooses which of them the data is.
#![no_main]

use libfuzzer_sys::fuzz_target;

const FILES: [(&str, &str); 4] = [
    ("model_index.json", r#"{"_class_name": "SkyReelsV2DiffusionForcingPipeline"}"#),
    ("transformer/config.json", r#"{"_class_name": "SkyReelsV2Transformer3DModel"}"#),
    (
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        r#"{"weight_map": {"a": "b.safetensors"}}"#,
    ),
    ("vae/config.json", "{}"),
];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, content)) = data.split_first() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for (index, (name, usual)) in FILES.iter().enumerate() {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        let chosen = usize::from(choice) % FILES.len() == index;
        std::fs::write(path, if chosen { content } else { usual.as_bytes() }).expect("writable");
    }
    let _ = longreel_weights::ModelFolder::open(folder.path());
    let _ = longreel_weights::inspect(folder.path());
});
