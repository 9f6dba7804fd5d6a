//! PyTorch's `.pth`, `.pt` and `.bin`: a zip with one pickle and one entry for each storage.

use std::collections::HashSet;
use std::path::Path;

use longreel_kernels::DType;

use super::pickle::{self, Node, Pickle, Tensor, Value};
use super::zip::{self, Entries};
use super::{Format, MappedFile, StoredTensor, check_entry, value_count};
use crate::WeightsError;

const FORMAT: &str = "PyTorch (zip)";
/// Keys under which training programs keep the weights inside a larger dict; where there are several,
/// the first of these counts.
const WRAPPERS: [&str; 8] = [
    // Of a distillation, as its own code prefers them: the average over the training, then the last.
    "generator_ema",
    "generator",
    "state_dict",
    "model",
    "module",
    "model_state",
    "params_ema",
    "params",
];

/// True for what `torch.save` wrote before version 1.6: a bare pickle, or a tar.
pub(crate) fn is_legacy(bytes: &[u8]) -> bool {
    let pickle = matches!(bytes, [0x80, 1..=5, ..]);
    // A safetensors file may begin with the same two bytes, but has a brace after the length.
    (pickle && bytes.get(8) != Some(&b'{')) || bytes.get(257..262) == Some(b"ustar")
}

pub(crate) fn legacy(path: &Path) -> WeightsError {
    WeightsError::Unsupported {
        path: path.to_owned(),
        what: "the PyTorch format from before version 1.6 (no zip)".into(),
        way_out:
            "if you trust it, save it again: torch.save(torch.load(old, weights_only=True), new)"
                .into(),
    }
}

/// The tensors, and the key of the larger dict that they lie under.
pub(crate) fn read(file: &MappedFile) -> Result<(Vec<StoredTensor>, Wrapper), WeightsError> {
    let damaged = |problem: String| WeightsError::damaged(file.path(), FORMAT, problem);
    let entries = zip::entries(file)?;
    let (name, range) = entries
        .iter()
        .find(|(name, _)| *name == "data.pkl" || name.ends_with("/data.pkl"))
        .ok_or_else(|| WeightsError::Unsupported {
            path: file.path().to_owned(),
            what: "a zip without data.pkl (not written by torch.save)".into(),
            way_out: "pass the model file itself".into(),
        })?;
    let folder = &name[..name.len() - "data.pkl".len()];
    let bytes = file.as_slice();
    let order = entries.get(&format!("{folder}byteorder")).map(|range| &bytes[range.clone()]);
    if order.is_some_and(|order| order != b"little") {
        return Err(WeightsError::Unsupported {
            path: file.path().to_owned(),
            what: "big-endian data".into(),
            way_out: "save it again on a little-endian machine".into(),
        });
    }
    let pickle = pickle::read(&bytes[range.clone()]).map_err(damaged)?;
    let (dict, wrapper) =
        state_dict(&pickle).ok_or_else(|| damaged("its pickle is no dict of tensors".into()))?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for (key, value) in dict {
        let (Value::Text(name), Some(Node::Tensor(tensor))) = (key, pickle.node(*value)) else {
            // Counters and settings beside the tensors.
            continue;
        };
        check_entry(name, &tensor.shape).map_err(damaged)?;
        if !names.insert(*name) {
            return Err(damaged(format!("the tensor {name:?} is there twice")));
        }
        tensors.push(stored(file, &entries, folder, name, tensor)?);
    }
    Ok((tensors, wrapper))
}

/// A usual key of a dict around the weights.
pub(crate) type Wrapper = Option<&'static str>;
/// A dict's keys and values.
type Entry<'a> = (Value<'a>, Value<'a>);

/// The dict that holds the tensors: the root, or one under a usual key of it.
fn state_dict<'p, 'a>(pickle: &'p Pickle<'a>) -> Option<(&'p [Entry<'a>], Wrapper)> {
    let Some(Node::Dict(root)) = pickle.node(pickle.root) else { return None };
    let has_tensor = |entries: &[Entry<'a>]| {
        entries.iter().any(|(_, value)| matches!(pickle.node(*value), Some(Node::Tensor(_))))
    };
    if has_tensor(root) {
        return Some((root, None));
    }
    // One look at each key: a hostile dict may name one long dict many times.
    WRAPPERS.iter().find_map(|wrapper| {
        let (_, value) = root.iter().find(|(key, _)| *key == Value::Text(wrapper))?;
        match pickle.node(*value) {
            Some(Node::Dict(inner)) if has_tensor(inner) => {
                Some((inner.as_slice(), Some(*wrapper)))
            }
            _ => None,
        }
    })
}

fn stored(
    file: &MappedFile,
    entries: &Entries,
    folder: &str,
    name: &str,
    tensor: &Tensor<'_>,
) -> Result<StoredTensor, WeightsError> {
    let problem = |what: String| {
        WeightsError::damaged(file.path(), FORMAT, format!("the tensor {name:?} {what}"))
    };
    let key = tensor.storage.key;
    let range = entries
        .get(&format!("{folder}data/{key}"))
        .ok_or_else(|| problem(format!("lies in the storage {key:?}, which is not there")))?;
    let (format, size) = format_of(tensor.format);
    let held = range.len() / size;
    // One past the last value that the view reaches.
    let count = value_count(&tensor.shape);
    let reach = match count {
        Some(0) => Some(0),
        _ => tensor
            .shape
            .iter()
            .zip(&tensor.strides)
            .try_fold(tensor.offset, |at, (&n, &stride)| {
                at.checked_add((n - 1).checked_mul(stride)?)
            })
            .and_then(|last| last.checked_add(1)),
    };
    let (Some(count), Some(reach)) = (count, reach.filter(|&n| n <= held)) else {
        return Err(problem(format!(
            "of shape {:?}, strides {:?} and offset {} reaches past its storage of {held} values",
            tensor.shape, tensor.strides, tensor.offset
        )));
    };
    if count > held {
        return Err(problem(format!(
            "of shape {:?} repeats the values of a storage of {held}",
            tensor.shape
        )));
    }
    let (first, last, strides) = if count == 0 {
        (0, 0, None)
    } else if is_contiguous(&tensor.shape, &tensor.strides) {
        (tensor.offset, tensor.offset + count, None)
    } else {
        (tensor.offset, reach, Some(tensor.strides.clone()))
    };
    let bytes = file
        .view(range.start + first * size..range.start + last * size)
        .ok_or_else(|| problem("lies outside the file".into()))?;
    Ok(StoredTensor { name: name.to_owned(), shape: tensor.shape.clone(), format, strides, bytes })
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == expected;
        expected *= n;
        fits
    })
}

fn format_of(name: &'static str) -> (Format, usize) {
    match name {
        "f32" => (Format::Known(DType::F32), 4),
        "f16" => (Format::Known(DType::F16), 2),
        "bf16" => (Format::Known(DType::BF16), 2),
        "f8_e4m3" => (Format::Known(DType::F8E4M3), 1),
        "f8_e5m2" => (Format::Known(DType::F8E5M2), 1),
        "f64" | "i64" => (Format::Other(name.to_owned()), 8),
        "i32" => (Format::Other(name.to_owned()), 4),
        "i16" => (Format::Other(name.to_owned()), 2),
        _ => (Format::Other(name.to_owned()), 1),
    }
}
