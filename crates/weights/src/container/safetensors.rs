//! safetensors: a JSON header, then the bytes of all tensors without gaps.
//!
//! Read here and not by the `safetensors` crate, because that one computes the end of the data without
//! checking for overflow (a debug build panics on a header made for it) and believes headers of
//! 100 MB.
//!
//! Format: <https://github.com/huggingface/safetensors#format>.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use longreel_kernels::DType;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::{Format, MappedFile, Meta, Metadata, StoredTensor, check_entry, value_count};
use crate::WeightsError;

const FORMAT: &str = "safetensors";
/// The longest header that is believed; those of the 14B models have under 200 KB.
const HEADER_MAX: usize = 32 << 20;

/// The JSON header. Read by hand, because a map would silently keep one of two tensors with one name.
#[derive(Default)]
struct Header {
    tensors: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name:?} is there twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        let entry = map.next_value()?;
                        header.tensors.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

pub(crate) fn read(file: &MappedFile) -> Result<(Vec<StoredTensor>, Metadata), WeightsError> {
    let damaged = |problem: String| WeightsError::damaged(file.path(), FORMAT, problem);
    let bytes = file.as_slice();
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(damaged(format!("it has only {} bytes", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length)
        .ok()
        .filter(|&n| n <= HEADER_MAX)
        .and_then(|n| rest.get(..n))
        .ok_or_else(|| {
            damaged(format!(
                "it claims a header of {length} bytes and has {} bytes in all",
                bytes.len()
            ))
        })?;
    let data = 8 + header.len();
    let header: Header = serde_json::from_slice(header)
        .map_err(|e| damaged(format!("its header cannot be read: {e}")))?;

    let mut tensors = Vec::with_capacity(header.tensors.len());
    let mut extents = Vec::with_capacity(header.tensors.len());
    for (name, Entry { dtype, shape, data_offsets: (start, end) }) in header.tensors {
        check_entry(&name, &shape).map_err(damaged)?;
        let (format, bits) = format_of(&dtype).ok_or_else(|| {
            damaged(format!("the tensor {name:?} has the unknown dtype {dtype:?}"))
        })?;
        let expected = value_count(&shape).and_then(|n| n.checked_mul(bits)).map(|n| n.div_ceil(8));
        if end < start || expected != Some(end - start) {
            return Err(damaged(format!(
                "the tensor {name:?} of shape {shape:?} in {dtype} cannot lie at {start}..{end}"
            )));
        }
        let view = data
            .checked_add(start)
            .zip(data.checked_add(end))
            .and_then(|(start, end)| file.view(start..end))
            .ok_or_else(|| {
                damaged(format!(
                    "the tensor {name:?} ends at byte {end} of the data, but there are only {} \
                     (the file is cut off)",
                    bytes.len() - data
                ))
            })?;
        extents.push((start, end));
        tensors.push(StoredTensor { name, shape, format, strides: None, bytes: view });
    }
    extents.sort_unstable();
    let mut reached = 0;
    for (start, end) in extents {
        if start != reached {
            let what = if start < reached { "overlap" } else { "leave a gap" };
            return Err(damaged(format!("tensors {what} at byte {start} of the data")));
        }
        reached = end;
    }
    if data + reached != bytes.len() {
        return Err(damaged(format!(
            "its tensors end at byte {} and the file at {}",
            data + reached,
            bytes.len()
        )));
    }
    let metadata = header.metadata.into_iter().map(|(key, text)| (key, Meta::Text(text)));
    Ok((tensors, metadata.collect()))
}

/// The format and its bits for each value.
fn format_of(dtype: &str) -> Option<(Format, usize)> {
    Some(match dtype {
        "F32" => (Format::Known(DType::F32), 32),
        "F16" => (Format::Known(DType::F16), 16),
        "BF16" => (Format::Known(DType::BF16), 16),
        "F8_E4M3" => (Format::Known(DType::F8E4M3), 8),
        "F8_E5M2" => (Format::Known(DType::F8E5M2), 8),
        "F64" | "I64" | "U64" | "C64" => (Format::Other(dtype.to_lowercase()), 64),
        "I32" | "U32" => (Format::Other(dtype.to_lowercase()), 32),
        "I16" | "U16" => (Format::Other(dtype.to_lowercase()), 16),
        "BOOL" | "I8" | "U8" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => {
            (Format::Other(dtype.to_lowercase()), 8)
        }
        "F6_E2M3" | "F6_E3M2" => (Format::Other(dtype.to_lowercase()), 6),
        "F4" => (Format::Other(dtype.to_lowercase()), 4),
        _ => return None,
    })
}
