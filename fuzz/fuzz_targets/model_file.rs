//! Safetensors, GGUF and `.pth` (zip and pickle), and LoRA files. The first byte chooses the name,
//! since some formats are told by it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, content)) = data.split_first() else { return };
    let name = ["model.safetensors", "model.gguf", "model.pth", "lora.safetensors"];
    let name = name[usize::from(choice) % name.len()];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("writable");
    let _ = longreel_weights::inspect(&path);
    let _ = longreel_weights::Lora::open(&path);
});
