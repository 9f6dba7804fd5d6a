//! Model files of real sizes that take no disk: the headers are written, the data is a hole.

#![allow(dead_code, reason = "every test file uses some of these")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use longreel_kernels::Weight;
use longreel_weights::TensorSource;

/// Name and shape.
pub type Tensor = (String, Vec<usize>);

/// A folder of the recorded files, `parity/fixtures/…`.
pub fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures").join(folder)
}

/// Every tensor of a file, in the format that the file has.
pub fn take_all(mut source: TensorSource) -> HashMap<String, Weight> {
    let names: Vec<String> = source.names().map(str::to_owned).collect();
    names
        .into_iter()
        .map(|name| {
            let shape = source.shape(&name).unwrap().to_vec();
            let weight = source.take(&name, &shape).unwrap();
            assert_eq!(weight.shape(), shape);
            (name, weight)
        })
        .collect()
}

/// One of the JSON files that `parity/layouts.py` wrote.
pub fn layouts_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(fixtures("layouts").join(name)).unwrap()).unwrap()
}

/// A list that `parity/layouts.py` recorded, its braces written out.
pub fn list(name: &str) -> Vec<Tensor> {
    let path = fixtures("layouts").join(format!("{name}.tsv"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut tensors = Vec::new();
    for line in text.lines() {
        let (name, axes) = line.split_once('\t').unwrap();
        let shape: Vec<usize> =
            axes.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect();
        match name.split_once('{').map(|(head, rest)| (head, rest.split_once('}').unwrap())) {
            None => tensors.push((name.to_owned(), shape)),
            Some((head, (count, tail))) => tensors.extend(
                (0..count.parse::<usize>().unwrap())
                    .map(|n| (format!("{head}{n}{tail}"), shape.clone())),
            ),
        }
    }
    tensors
}

/// Sorted by name.
pub fn by_name(tensors: impl IntoIterator<Item = Tensor>) -> BTreeMap<String, Vec<usize>> {
    tensors.into_iter().collect()
}

/// A safetensors file whose data is a hole. `dtype` gives the format of each tensor.
pub fn safetensors(
    path: &Path,
    tensors: &[Tensor],
    dtype: impl Fn(&str, &[usize]) -> &'static str,
) {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, shape) in tensors {
        let dtype = dtype(name, shape);
        let size = match dtype {
            "F32" => 4,
            "BF16" | "F16" => 2,
            "F8_E4M3" | "F8_E5M2" | "U8" => 1,
            other => panic!("{other}"),
        };
        let end = at + size * shape.iter().product::<usize>();
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
        assert!(header.insert(name.clone(), entry).is_none(), "{name} twice");
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
}

/// Shards with the index that Diffusers and transformers write.
pub fn sharded(folder: &Path, stem: &str, tensors: &[Tensor], count: usize, with_index: bool) {
    let mut weight_map = serde_json::Map::new();
    for (index, part) in tensors.chunks(tensors.len().div_ceil(count)).enumerate() {
        let name = format!("{stem}-{:05}-of-{count:05}.safetensors", index + 1);
        safetensors(&folder.join(&name), part, |_, _| "BF16");
        weight_map.extend(part.iter().map(|(t, _)| (t.clone(), name.clone().into())));
    }
    if with_index {
        let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
        fs::write(folder.join(format!("{stem}.safetensors.index.json")), index.to_string())
            .unwrap();
    }
}

/// Number, values and bytes of a block of ggml's formats.
const GGML: [(&str, u32, usize, usize); 9] = [
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("Q4_0", 2, 32, 18),
    ("Q5_0", 6, 32, 22),
    ("Q8_0", 8, 32, 34),
    ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176),
    ("Q6_K", 14, 256, 210),
    ("BF16", 30, 1, 2),
];

/// A GGUF file whose data is a hole. Matrices are in `format`, the rest in F32, as converters do.
pub fn gguf(path: &Path, tensors: &[Tensor], format: &str) {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(1u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "wan");
    let mut at = 0usize;
    for (name, shape) in tensors {
        let format = if shape.len() == 2 && shape[1] >= 256 { format } else { "F32" };
        let (_, kind, values, bytes) = *GGML.iter().find(|(name, ..)| *name == format).unwrap();
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        for n in shape.iter().rev() {
            out.extend((*n as u64).to_le_bytes());
        }
        out.extend(kind.to_le_bytes());
        out.extend((at as u64).to_le_bytes());
        at += (shape.iter().product::<usize>() / values * bytes).next_multiple_of(32);
    }
    let data = out.len().next_multiple_of(32);
    let mut file = File::create(path).unwrap();
    file.write_all(&out).unwrap();
    file.set_len((data + at) as u64).unwrap();
}

/// What `torch.save` writes for an ordered dict of tensors, the storages as holes.
pub fn pth(path: &Path, tensors: &[Tensor], storage: &str) {
    let size = match storage {
        "FloatStorage" => 4,
        "HalfStorage" | "BFloat16Storage" => 2,
        other => panic!("{other}"),
    };
    let mut zip = Zip::create(path);
    zip.entry("archive/data.pkl", &pickle(tensors, storage));
    zip.entry("archive/byteorder", b"little");
    for (index, (_, shape)) in tensors.iter().enumerate() {
        zip.hole(&format!("archive/data/{index}"), shape.iter().product::<usize>() * size);
    }
    zip.entry("archive/version", b"3\n");
    zip.finish();
}

/// The pickle of a state dict, protocol 2.
pub fn pickle(tensors: &[Tensor], storage: &str) -> Vec<u8> {
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let int = |out: &mut Vec<u8>, n: usize| {
        out.extend([0x8a, 8]);
        out.extend((n as u64).to_le_bytes());
    };
    for (index, (name, shape)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}\n").bytes());
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        int(&mut out, shape.iter().product());
        out.extend(b"tQK\x00(");
        for n in shape {
            int(&mut out, *n);
        }
        out.extend(b"t(");
        for axis in 0..shape.len() {
            int(&mut out, shape[axis + 1..].iter().product());
        }
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

/// A zip of stored entries, with ZIP64 records where they are needed.
pub struct Zip {
    file: File,
    at: u64,
    directory: Vec<u8>,
    count: u64,
}

impl Zip {
    pub fn create(path: &Path) -> Self {
        Self { file: File::create(path).unwrap(), at: 0, directory: vec![], count: 0 }
    }

    pub fn entry(&mut self, name: &str, bytes: &[u8]) {
        self.header(name, bytes.len() as u64, 0);
        self.file.write_all(bytes).unwrap();
        self.at += bytes.len() as u64;
    }

    pub fn hole(&mut self, name: &str, len: usize) {
        self.header(name, len as u64, 0);
        self.at += len as u64;
    }

    /// Local header, and the record of the directory. Checksums are not read.
    pub fn header(&mut self, name: &str, size: u64, method: u16) {
        self.file.seek(SeekFrom::Start(self.at)).unwrap();
        let small = u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
        let offset = self.at;
        let mut local = b"PK\x03\x04\x00\x00\x00\x00".to_vec();
        local.extend(method.to_le_bytes());
        local.extend([0; 8]);
        local.extend(small);
        local.extend(small);
        local.extend((name.len() as u16).to_le_bytes());
        local.extend([0; 2]);
        local.extend(name.as_bytes());
        self.file.write_all(&local).unwrap();
        self.at += local.len() as u64;

        let mut extra = Vec::new();
        if size >= u64::from(u32::MAX) {
            extra.extend(size.to_le_bytes());
            extra.extend(size.to_le_bytes());
        }
        if offset >= u64::from(u32::MAX) {
            extra.extend(offset.to_le_bytes());
        }
        if !extra.is_empty() {
            let head = [1u16.to_le_bytes(), (extra.len() as u16).to_le_bytes()].concat();
            extra.splice(0..0, head);
        }
        self.directory.extend(b"PK\x01\x02\x00\x00\x00\x00\x00\x00");
        self.directory.extend(method.to_le_bytes());
        self.directory.extend([0; 8]);
        self.directory.extend(small);
        self.directory.extend(small);
        self.directory.extend((name.len() as u16).to_le_bytes());
        self.directory.extend((extra.len() as u16).to_le_bytes());
        self.directory.extend([0; 10]);
        self.directory.extend(u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.directory.extend(extra);
        self.count += 1;
    }

    pub fn finish(mut self) {
        self.file.seek(SeekFrom::Start(self.at)).unwrap();
        let (start, size) = (self.at, self.directory.len() as u64);
        let mut out = std::mem::take(&mut self.directory);
        if start >= u64::from(u32::MAX) {
            out.extend(b"PK\x06\x06");
            out.extend(44u64.to_le_bytes());
            out.extend([0; 12]);
            out.extend(self.count.to_le_bytes());
            out.extend(self.count.to_le_bytes());
            out.extend(size.to_le_bytes());
            out.extend(start.to_le_bytes());
            out.extend(b"PK\x06\x07\x00\x00\x00\x00");
            out.extend((start + size).to_le_bytes());
            out.extend(1u32.to_le_bytes());
        }
        out.extend(b"PK\x05\x06\x00\x00\x00\x00");
        out.extend((self.count as u16).to_le_bytes());
        out.extend((self.count as u16).to_le_bytes());
        out.extend((size as u32).to_le_bytes());
        out.extend(u32::try_from(start).unwrap_or(u32::MAX).to_le_bytes());
        out.extend([0; 2]);
        self.file.write_all(&out).unwrap();
    }
}
