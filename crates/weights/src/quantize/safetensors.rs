//! The header of a safetensors file with 8-bit floats, scaled as ComfyUI scales them: beside `x.weight` lies
//! `x.scale_weight`, and `scaled_fp8` says so.

use longreel_kernels::DType;
use serde_json::{Map, Value, json};

use super::choose::Chosen;
use super::write::Head;

/// The name of a matrix's scale; it lies behind the matrix.
fn scale_name(written: &str) -> String {
    let base = written.strip_suffix(".weight").unwrap_or(written);
    format!("{base}.scale_weight")
}

/// What lies where. Matrices come before plain tensors of the same file in no particular order: offsets are
/// those of writing one after the other.
pub(super) fn head(chosen: &[Chosen]) -> Head {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0u64;
    let mut add = |name: String, dtype: &str, shape: &[usize], bytes: u64| {
        let entry: Value =
            json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + bytes]});
        map.insert(name, entry);
        offset += bytes;
    };
    for tensor in chosen {
        let dtype = match tensor.format {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::F8E4M3 => "F8_E4M3",
            other => unreachable!("{} in safetensors", other.name()),
        };
        add(tensor.written.clone(), dtype, &tensor.shape, tensor.bytes());
        if tensor.is_quantized {
            add(scale_name(&tensor.written), "F32", &[1], 4);
        }
    }
    // With two values in it ComfyUI computes in 16 bits: nothing here scales activations for 8.
    add("scaled_fp8".into(), "F8_E4M3", &[2], 2);
    let mut header = Value::Object(map).to_string().into_bytes();
    // The format wants the first tensor at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    Head { bytes, alignment: 1, tail: vec![0; 2] }
}
