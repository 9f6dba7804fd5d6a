//! Tensor files, memory-mapped and read as data.
//!
//! A [`Container`] lists what one file holds: names, shapes, formats and where the bytes lie. Nothing is
//! copied, nothing is executed, and whatever a header claims is checked against the size of the file
//! before it is believed, so reading costs memory in proportion to the header's own length.

mod gguf;
mod pickle;
mod safetensors;
mod torch;
mod zip;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longreel_kernels::{Bytes, DType};
use memmap2::Mmap;

use crate::WeightsError;
pub(crate) use gguf::{Meta, Metadata};

/// The number format of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// One that networks compute with.
    Known(DType),
    /// One that is only named: integers, and block formats nobody computes with here.
    Other(String),
}

impl Format {
    pub fn name(&self) -> &str {
        match self {
            Self::Known(dtype) => dtype.name(),
            Self::Other(name) => name,
        }
    }
}

/// One tensor of a file. Row-major without gaps unless it has `strides`.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    /// As the file calls it.
    pub name: String,
    pub shape: Vec<usize>,
    pub format: Format,
    /// In values, one for each axis; only PyTorch files have them.
    pub strides: Option<Vec<usize>>,
    pub bytes: Extent,
}

impl StoredTensor {
    /// The number of values. Cannot overflow: every reader has compared it with the file's size.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub path: PathBuf,
    pub tensors: Vec<StoredTensor>,
    /// Of GGUF and safetensors files.
    pub metadata: Metadata,
    /// Of PyTorch files: the key of the larger dict that the tensors lie under.
    pub wrapper: torch::Wrapper,
    pub file: MappedFile,
}

impl Container {
    /// True for the trained network of a distillation, which lies beside its critic.
    pub fn is_generator(&self) -> bool {
        matches!(self.wrapper, Some("generator" | "generator_ema"))
    }
}

/// Opens a file of any known format, told by its first bytes and not by its name.
pub(crate) fn open(path: &Path) -> Result<Container, WeightsError> {
    let file = MappedFile::open(path)?;
    file.read_sparsely(|| read(file.clone()))
}

/// Reads a bare pickle, for the fuzz target.
pub(crate) fn read_pickle(bytes: &[u8]) -> Result<(), String> {
    pickle::read(bytes).map(|_| ())
}

/// Reads a file that is in memory. `path` is for messages.
pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Container, WeightsError> {
    read(MappedFile { path: path.into(), content: Arc::new(Content::Memory(bytes)) })
}

fn read(file: MappedFile) -> Result<Container, WeightsError> {
    let path = file.path();
    let bytes = file.as_slice();
    let mut wrapper = None;
    let (tensors, metadata) = match bytes {
        [b'G', b'G', b'U', b'F', ..] => gguf::read(&file)?,
        [b'P', b'K', 3, 4, ..] => {
            let (tensors, found) = torch::read(&file)?;
            wrapper = found;
            (tensors, Metadata::default())
        }
        _ if torch::is_legacy(bytes) => return Err(torch::legacy(path)),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            return Err(WeightsError::Unsupported {
                path: path.to_owned(),
                what: "a Git LFS pointer (the file itself was not downloaded)".into(),
                way_out: "run `git lfs pull` in its folder".into(),
            });
        }
        _ => safetensors::read(&file)?,
    };
    Ok(Container { path: path.to_owned(), tensors, metadata, wrapper, file })
}

/// A file in the address space, shared by all views of it.
#[derive(Clone)]
pub(crate) struct MappedFile {
    path: Arc<Path>,
    content: Arc<Content>,
}

/// How a mapped file is about to be read.
#[derive(Clone, Copy)]
enum Advice {
    Random,
    Normal,
}

enum Content {
    Mapped(Mmap),
    /// Made by a program, or an empty file, which cannot be mapped.
    Memory(Vec<u8>),
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MappedFile({}, {} bytes)", self.path.display(), self.as_slice().len())
    }
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        // Asked before opening, which would wait for ever on a pipe.
        let metadata = path.metadata().map_err(WeightsError::io("open", path))?;
        if !metadata.is_file() {
            return Err(WeightsError::NotAModel {
                path: path.to_owned(),
                problem: "is not a file".into(),
                way_out: "name a model folder or a model file".into(),
            });
        }
        let file = File::open(path).map_err(WeightsError::io("open", path))?;
        let content = if metadata.len() == 0 {
            Content::Memory(Vec::new())
        } else {
            // SAFETY: the map is read-only and lives as long as any view of it. Writing to a model
            // file while it is in use would change values under our feet; no length or offset is read
            // from the map a second time after it was checked, so it could not reach past the bounds.
            let map = unsafe { Mmap::map(&file) }.map_err(WeightsError::io("map", path))?;
            Content::Mapped(map)
        };
        Ok(Self { path: path.into(), content: Arc::new(content) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn as_slice(&self) -> &[u8] {
        (*self.content).as_ref()
    }

    /// Does something that looks at a few places of the file only. The system would otherwise read up to
    /// megabytes around each of them: an archive of 11 GB with 242 tensors takes 2 GB of reading to list.
    pub fn read_sparsely<T>(&self, look: impl FnOnce() -> T) -> T {
        self.advise(Advice::Random);
        let result = look();
        self.advise(Advice::Normal);
        result
    }

    /// A hint; that a system does not take it makes nothing wrong.
    fn advise(&self, advice: Advice) {
        #[cfg(unix)]
        if let Content::Mapped(map) = &*self.content {
            let advice = match advice {
                Advice::Random => memmap2::Advice::Random,
                Advice::Normal => memmap2::Advice::Normal,
            };
            let _ = map.advise(advice);
        }
        #[cfg(not(unix))]
        let _ = advice;
    }

    /// A part of the file; `None` when the range lies outside.
    pub fn view(&self, range: Range<usize>) -> Option<Extent> {
        let inside = range.start <= range.end && range.end <= self.as_slice().len();
        inside.then(|| Extent { file: self.clone(), range })
    }
}

/// A part of a mapped file. Keeps it mapped; always inside it.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    file: MappedFile,
    range: Range<usize>,
}

impl Extent {
    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.file.as_slice()[self.range.clone()]
    }

    /// A part of the part; `None` when the range lies outside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let inside = range.start <= range.end && range.end <= self.len();
        let start = self.range.start;
        inside.then(|| Self {
            file: self.file.clone(),
            range: start + range.start..start + range.end,
        })
    }

    /// As the kernels take it.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::view(self.file.content.clone(), self.range.clone())
            .expect("an extent lies inside its file")
    }
}

/// Longest name of a tensor that is believed (ggml allows 64; the family's longest have under 100).
const NAME_MAX: usize = 1024;
/// Most axes that are believed; the family's tensors have up to 5.
const AXES_MAX: usize = 16;

/// Refuses names and shapes that no tensor has, before they are repeated in messages and maps.
fn check_entry(name: &str, shape: &[usize]) -> Result<(), String> {
    if name.len() > NAME_MAX {
        return Err(format!("the name of a tensor has {} bytes, more than {NAME_MAX}", name.len()));
    }
    if shape.len() > AXES_MAX {
        return Err(format!("the tensor {name:?} has {} axes, more than {AXES_MAX}", shape.len()));
    }
    Ok(())
}

/// The product of `shape`, or `None` when it overflows.
pub(crate) fn value_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}
