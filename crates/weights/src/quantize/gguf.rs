//! The header of a GGUF file, version 3 (`docs/gguf.md` of ggml).

use longreel_kernels::DType;

use super::Target;
use super::choose::Chosen;
use super::write::Head;
use crate::names::Component;

const ALIGNMENT: usize = 32;

/// Metadata that readers look for, and where each tensor lies.
pub(super) fn head(component: Component, target: Target, chosen: &[Chosen]) -> Head {
    let mut bytes = Vec::new();
    bytes.extend(b"GGUF");
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((chosen.len() as u64).to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    let architecture = match component {
        Component::TextEncoder => "t5encoder",
        _ => "wan",
    };
    text(&mut bytes, "general.architecture");
    bytes.extend(TEXT.to_le_bytes());
    text(&mut bytes, architecture);
    number(&mut bytes, "general.quantization_version", 2);
    // `enum llama_ftype`.
    number(&mut bytes, "general.file_type", if target == Target::Q8_0 { 7 } else { 14 });
    let mut offset = 0u64;
    for tensor in chosen {
        text(&mut bytes, &tensor.written);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for axis in tensor.shape.iter().rev() {
            bytes.extend((*axis as u64).to_le_bytes());
        }
        bytes.extend(kind(tensor.format).to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT as u64);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    Head { bytes, alignment: ALIGNMENT, tail: Vec::new() }
}

/// Types of metadata.
const U32: u32 = 4;
const TEXT: u32 = 8;

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn number(bytes: &mut Vec<u8>, key: &str, value: u32) {
    text(bytes, key);
    bytes.extend(U32.to_le_bytes());
    bytes.extend(value.to_le_bytes());
}

/// `enum ggml_type`. The formats without a number there are never chosen for GGUF.
fn kind(format: DType) -> u32 {
    match format {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q5_0 => 6,
        DType::Q8_0 => 8,
        DType::Q4K => 12,
        DType::Q5K => 13,
        DType::Q6K => 14,
        DType::BF16 => 30,
        DType::F8E4M3 | DType::F8E5M2 => unreachable!("{} in GGUF", format.name()),
    }
}
