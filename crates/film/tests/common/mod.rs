//! The tiny models, opened.

use std::path::{Path, PathBuf};

use longreel_film::{DeviceChoice, Engine, EngineOptions};

/// A file or folder of the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures").join(name)
}

/// A tiny model on so many processors.
pub fn engine(model: &str, processors: usize) -> Engine {
    let options = EngineOptions {
        device: DeviceChoice::Cpu(processors),
        ..EngineOptions::new(fixture("models").join(model))
    };
    Engine::open(&options).expect("a model")
}
