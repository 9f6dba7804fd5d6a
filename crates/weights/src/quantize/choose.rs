//! Which tensors are quantised, and what they are called in the file.

use longreel_kernels::DType;

use super::Target;
use crate::container::Format;
use crate::names::{Component, Named, original_name};

/// One tensor of the file to be written.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// Canonical.
    pub name: String,
    /// In the file.
    pub written: String,
    pub shape: Vec<usize>,
    /// The source's format.
    pub from: &'static str,
    pub format: DType,
    pub is_quantized: bool,
    /// Bytes in the source.
    pub source_bytes: u64,
}

impl Chosen {
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the file. Blocks fit: that is asked before a format is chosen.
    pub fn bytes(&self) -> u64 {
        self.format.byte_len(self.values()).unwrap_or(0) as u64
    }
}

/// The tensors of one network as they are to be written.
pub(super) fn choose(component: Component, target: Target, tensors: &[Named]) -> Vec<Chosen> {
    tensors.iter().map(|named| one(component, target, named)).collect()
}

fn one(component: Component, target: Target, named: &Named) -> Chosen {
    let stored = &named.stored;
    let quantized = is_matrix(component, &named.name)
        .then(|| target.format(stored.shape.last().copied().unwrap_or(0)))
        .flatten();
    let known = match &stored.format {
        Format::Known(dtype) => Some(*dtype),
        Format::Other(_) => None,
    };
    let kept = match known {
        Some(plain @ (DType::F32 | DType::F16 | DType::BF16)) => plain,
        // What a container of the target has no name for, and what a scale belongs to.
        _ => DType::BF16,
    };
    Chosen {
        name: named.name.clone(),
        written: written_name(component, target, &named.name),
        shape: stored.shape.clone(),
        from: known.map_or("unknown", DType::name),
        format: quantized.unwrap_or(kept),
        is_quantized: quantized.is_some(),
        source_bytes: stored.bytes.len() as u64,
    }
}

/// Whether a tensor is one of the matrices in the blocks, which hold nearly all of the values.
pub(crate) fn is_matrix(component: Component, name: &str) -> bool {
    let ends =
        |layers: &[&str]| layers.iter().any(|layer| name.ends_with(&format!(".{layer}.weight")));
    match component {
        Component::Transformer => {
            name.starts_with("blocks.")
                && ends(&[
                    "to_q",
                    "to_k",
                    "to_v",
                    "to_out.0",
                    "add_k_proj",
                    "add_v_proj",
                    "ffn.net.0.proj",
                    "ffn.net.2",
                ])
        }
        Component::TextEncoder => {
            name.starts_with("encoder.block.")
                && ends(&[
                    "SelfAttention.q",
                    "SelfAttention.k",
                    "SelfAttention.v",
                    "SelfAttention.o",
                    "DenseReluDense.wi_0",
                    "DenseReluDense.wi_1",
                    "DenseReluDense.wo",
                ])
        }
        Component::Vae | Component::ImageEncoder => false,
    }
}

/// What readers of the container expect: the official names in transformers, llama.cpp's in GGUF files of
/// text encoders.
fn written_name(component: Component, target: Target, name: &str) -> String {
    match (component, target.ending()) {
        (Component::TextEncoder, "safetensors") => name.to_owned(),
        _ => original_name(component, name),
    }
}
