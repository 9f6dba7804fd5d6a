//! GGUF, versions 2 and 3: metadata, tensor list, then aligned data.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Shapes are stored innermost axis
//! first; ComfyUI-GGUF keeps the original shape of tensors with more than four axes in
//! `comfy.gguf.orig_shape.<name>`.

use std::collections::{BTreeMap, HashSet};

use longreel_kernels::DType;

use super::{AXES_MAX, Format, MappedFile, NAME_MAX, StoredTensor, value_count};
use crate::WeightsError;

const FORMAT: &str = "GGUF";
/// Most list entries in all metadata together; a vocabulary of the family has 256,384 tokens, each with
/// a text, a score and a type.
const LIST_ENTRIES_MAX: usize = 1 << 23;
/// The longest list that is kept; longer ones are vocabularies, which are only read over.
const LIST_KEPT_MAX: usize = 64;
/// The longest text that is kept.
const TEXT_KEPT_MAX: usize = 1 << 16;

/// A metadata value. Short lists keep their scalars; what is deeper or longer is not kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Meta {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Meta>),
}

/// Metadata by key.
pub(crate) type Metadata = BTreeMap<String, Meta>;

struct Info {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

pub(crate) fn read(file: &MappedFile) -> Result<(Vec<StoredTensor>, Metadata), WeightsError> {
    let damaged = |problem: String| WeightsError::damaged(file.path(), FORMAT, problem);
    let mut reader = Reader { bytes: file.as_slice(), at: 4, list_entries: 0 };
    let version = reader.u32().map_err(damaged)?;
    if !matches!(version, 2 | 3) {
        let what = match version.swap_bytes() {
            2 | 3 => "a big-endian GGUF file".to_owned(),
            _ => format!("GGUF version {version}"),
        };
        return Err(WeightsError::Unsupported {
            path: file.path().to_owned(),
            what,
            way_out: "use a little-endian file of version 2 or 3".into(),
        });
    }
    let (infos, metadata) = header(&mut reader).map_err(damaged)?;
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Meta::Int(n @ 1..=65_536)) if n.count_ones() == 1 => *n as usize,
        Some(other) => return Err(damaged(format!("general.alignment is {other:?}"))),
    };
    let data = reader.at.next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(infos.len());
    let mut extents = Vec::with_capacity(infos.len());
    let mut names = HashSet::new();
    for info in infos {
        if !names.insert(info.name.clone()) {
            return Err(damaged(format!("the tensor {:?} is there twice", info.name)));
        }
        let (dtype, format) = format_of(info.kind);
        let Some(dtype) = dtype else {
            return Err(WeightsError::Unsupported {
                path: file.path().to_owned(),
                what: format!("the format {} of the tensor {:?}", format.name(), info.name),
                way_out: "use a file in F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_0, Q4_K or Q4_0"
                    .into(),
            });
        };
        // Blocks lie in rows, the innermost axis.
        let whole = info.shape.last().is_none_or(|row| row.is_multiple_of(dtype.block_len()));
        let values = value_count(&info.shape).filter(|_| whole);
        let range = values.and_then(|n| dtype.byte_len(n)).and_then(|len| {
            let start = data.checked_add(usize::try_from(info.offset).ok()?)?;
            Some(start..start.checked_add(len)?)
        });
        let bytes = range.clone().and_then(|range| file.view(range));
        let (Some(range), Some(bytes)) = (range, bytes) else {
            return Err(damaged(format!(
                "the tensor {:?} of shape {:?} in {} does not fit at offset {} of the file's {} bytes \
                 (is it cut off?)",
                info.name,
                info.shape,
                dtype.name(),
                info.offset,
                file.as_slice().len()
            )));
        };
        extents.push((range.start, range.end));
        let shape = original_shape(&metadata, &info).map_err(damaged)?;
        tensors.push(StoredTensor { name: info.name, shape, format, strides: None, bytes });
    }
    extents.sort_unstable();
    if let Some(pair) = extents.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        return Err(damaged(format!("tensors overlap at byte {}", pair[1].0)));
    }
    Ok((tensors, metadata))
}

fn original_shape(metadata: &Metadata, info: &Info) -> Result<Vec<usize>, String> {
    let Some(meta) = metadata.get(&format!("comfy.gguf.orig_shape.{}", info.name)) else {
        return Ok(info.shape.clone());
    };
    let shape: Option<Vec<usize>> = match meta {
        Meta::List(list) if list.len() <= AXES_MAX => list
            .iter()
            .map(|v| match v {
                Meta::Int(n) => usize::try_from(*n).ok(),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    shape.filter(|shape| value_count(shape) == value_count(&info.shape)).ok_or_else(|| {
        format!("the original shape of {:?} does not fit {:?}", info.name, info.shape)
    })
}

fn header(reader: &mut Reader<'_>) -> Result<(Vec<Info>, Metadata), String> {
    let tensors = reader.u64()?;
    let pairs = reader.u64()?;
    // The least that one of each takes; so the counts cannot ask for more memory than the file has.
    reader.check_count(pairs, 8 + 4 + 1, "metadata entries")?;
    let mut metadata = Metadata::new();
    for _ in 0..pairs {
        let key = reader.text(NAME_MAX)?.to_owned();
        let kind = reader.u32()?;
        let value = reader.value(kind, 0)?;
        metadata.insert(key, value);
    }
    let tensors = reader.check_count(tensors, 8 + 4 + 4 + 8, "tensors")?;
    let mut infos = Vec::with_capacity(tensors);
    for _ in 0..tensors {
        let name = reader.text(NAME_MAX)?.to_owned();
        let axes = reader.u32()? as usize;
        if axes > AXES_MAX {
            return Err(format!("the tensor {name:?} has {axes} axes"));
        }
        let mut shape = Vec::with_capacity(axes);
        for _ in 0..axes {
            let n = reader.u64()?;
            shape.push(usize::try_from(n).map_err(|_| format!("{name:?} has an axis of {n}"))?);
        }
        shape.reverse();
        infos.push(Info { name, shape, kind: reader.u32()?, offset: reader.u64()? });
    }
    Ok((infos, metadata))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Read so far.
    list_entries: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len);
        let slice = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| {
            format!(
                "it is cut off: {len} bytes are expected at byte {} of {}",
                self.at,
                self.bytes.len()
            )
        })?;
        self.at += len;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it is cut off".to_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, max: usize) -> Result<&'a str, String> {
        let len = self.u64()?;
        let len = usize::try_from(len)
            .ok()
            .filter(|&n| n <= max)
            .ok_or_else(|| format!("it has a text of {len} bytes at byte {}", self.at))?;
        str::from_utf8(self.take(len)?).map_err(|_| "a text is no UTF-8".into())
    }

    /// Compares a claimed count with the bytes that are left, at `least` bytes each.
    fn check_count(&self, count: u64, least: usize, what: &str) -> Result<usize, String> {
        let left = self.bytes.len() - self.at;
        usize::try_from(count)
            .ok()
            .filter(|&n| n <= left / least)
            .ok_or_else(|| format!("it claims {count} {what} in {left} bytes"))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Meta, String> {
        Ok(match kind {
            0 => Meta::Int(self.array::<1>()?[0].into()),
            1 => Meta::Int(i8::from_le_bytes(self.array()?).into()),
            2 => Meta::Int(u16::from_le_bytes(self.array()?).into()),
            3 => Meta::Int(i16::from_le_bytes(self.array()?).into()),
            4 => Meta::Int(self.u32()?.into()),
            5 => Meta::Int(i32::from_le_bytes(self.array()?).into()),
            6 => Meta::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Meta::Bool(self.array::<1>()?[0] != 0),
            8 => {
                let text = self.text(self.bytes.len())?;
                Meta::Text(if text.len() > TEXT_KEPT_MAX { "" } else { text }.to_owned())
            }
            9 => {
                let kind = self.u32()?;
                let count = self.u64()?;
                if kind == 9 || depth > 0 {
                    return Err("it has a list of lists".into());
                }
                let least = if kind == 8 { 8 } else { 1 };
                let count = self.check_count(count, least, "list entries")?;
                self.list_entries = self.list_entries.saturating_add(count);
                if self.list_entries > LIST_ENTRIES_MAX {
                    return Err(format!("its lists have more than {LIST_ENTRIES_MAX} entries"));
                }
                let mut list = Vec::with_capacity(count.min(LIST_KEPT_MAX));
                for _ in 0..count {
                    let value = self.value(kind, depth + 1)?;
                    if count <= LIST_KEPT_MAX {
                        list.push(value);
                    }
                }
                Meta::List(list)
            }
            10 => Meta::Int(self.u64()? as i64),
            11 => Meta::Int(i64::from_le_bytes(self.array()?)),
            12 => Meta::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("it has metadata of the unknown type {kind}")),
        })
    }
}

/// ggml's type numbers (`enum ggml_type` in ggml.h).
fn format_of(kind: u32) -> (Option<DType>, Format) {
    let dtype = match kind {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        6 => DType::Q5_0,
        8 => DType::Q8_0,
        12 => DType::Q4K,
        13 => DType::Q5K,
        14 => DType::Q6K,
        30 => DType::BF16,
        _ => {
            let name = match kind {
                3 => "Q4_1",
                7 => "Q5_1",
                10 => "Q2_K",
                11 => "Q3_K",
                16..=23 | 29 => "IQ (importance quantisation)",
                24..=28 => "integer or f64",
                _ => return (None, Format::Other(format!("number {kind}"))),
            };
            return (None, Format::Other(name.to_owned()));
        }
    };
    (Some(dtype), Format::Known(dtype))
}
