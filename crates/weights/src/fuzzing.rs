//! Entry points of the fuzz targets: each reader on bytes in memory. Not part of the interface.
//!
//! Every function must return whatever the bytes are, in time and memory in proportion to their number.

use std::path::Path;

use longreel_kernels::Weight;
use serde_json::{Map, Value};

use crate::config::{ClipVisionConfig, TextConfig, TransformerConfig, VaeConfig};
use crate::container::{self, Container};
use crate::folder::files::{is_plain_name, parse_index};
use crate::lora::Lora;
use crate::names::{canonical, strangers};
use crate::network::{Network, Shapes, compare};
use crate::source::TensorSource;

const PATH: &str = "memory";
/// Values of a tensor that is made for the sake of a merge.
const VALUES_MAX: usize = 1 << 16;

/// A tensor file of any format (safetensors, GGUF, PyTorch), down to its values. True when it was read.
pub fn container(bytes: &[u8]) -> bool {
    let Some(container) = open(bytes) else { return false };
    let mut source = TensorSource::from_container(container);
    let all: Vec<(String, Vec<usize>)> = source
        .names()
        .map(|n| (n.to_owned(), source.shape(n).unwrap_or_default().to_vec()))
        .collect();
    for (name, shape) in all {
        if let Ok(weight) = source.take(&name, &shape) {
            assert_eq!(weight.shape(), shape, "{name}");
            std::hint::black_box(weight.to_f32());
        }
    }
    true
}

/// A bare pickle. True when it was read.
pub fn pickle(bytes: &[u8]) -> bool {
    container::read_pickle(bytes).is_ok()
}

/// The parts of a model in one tensor file: names, sizes, comparison. True when a part was found.
pub fn model(bytes: &[u8]) -> bool {
    let Some(container) = open(bytes) else { return false };
    let containers = [container];
    std::hint::black_box(strangers(&containers));
    let found = [
        part::<TransformerConfig>(&containers),
        part::<VaeConfig>(&containers),
        part::<TextConfig>(&containers),
        part::<ClipVisionConfig>(&containers),
    ];
    found.contains(&true)
}

/// A LoRA, merged into tensors of the sizes that it is for, where they are small. True when it was read.
pub fn lora(bytes: &[u8]) -> bool {
    let read = open(bytes).and_then(|container| Lora::read(Path::new(PATH), &container).ok());
    let Some(lora) = read else { return false };
    let sizes: Vec<(String, Vec<usize>)> = lora.sizes().collect();
    let values = |shape: &[usize]| container::value_count(shape).unwrap_or(usize::MAX);
    if sizes.iter().all(|(_, shape)| values(shape) <= VALUES_MAX) {
        let zeros = sizes.iter().map(|(name, shape)| {
            (name.clone(), Weight::from_f32(shape, &vec![0.0; values(shape)]))
        });
        let mut source = TensorSource::from_tensors(zeros.collect());
        if lora.apply(&mut source, 0.5).is_ok() {
            for (name, shape) in &sizes {
                std::hint::black_box(source.take(name, shape).is_ok());
            }
        }
    }
    true
}

/// All JSON files: configurations of the networks, official configurations, indices. True when one was
/// read.
pub fn json(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let index = parse_index(Path::new(PATH), text);
    if let Ok(map) = &index {
        for name in map.values().filter(|name| is_plain_name(name)) {
            assert_eq!(Path::new("folder").join(name).parent(), Some(Path::new("folder")));
        }
    }
    let official = serde_json::from_str::<Map<String, Value>>(text).is_ok_and(|map| {
        let shapes = Shapes::of(TransformerConfig::COMPONENT, &[]);
        crate::folder::official::parse(&map, &shapes).is_ok()
    });
    let configs = [
        config::<TransformerConfig>(text),
        config::<VaeConfig>(text),
        config::<TextConfig>(text),
        config::<ClipVisionConfig>(text),
    ];
    index.is_ok() || official || configs.contains(&true)
}

fn open(bytes: &[u8]) -> Option<Container> {
    container::from_bytes(Path::new(PATH), bytes.to_vec()).ok()
}

/// Reads a configuration; one that is believed must give shapes that fit memory.
fn config<C: Network>(text: &str) -> bool {
    let Ok(config) = C::parse(text) else { return false };
    for (name, shape) in config.expected() {
        assert!(container::value_count(&shape).is_some(), "{name}: {shape:?}");
    }
    true
}

fn part<C: Network>(containers: &[Container]) -> bool {
    let Ok(Some(found)) = canonical(C::COMPONENT, containers) else { return false };
    if let Ok(config) = C::infer(&Shapes::of(C::COMPONENT, &found.tensors)) {
        std::hint::black_box(compare(&config.expected(), &found.tensors, PATH));
    }
    true
}
