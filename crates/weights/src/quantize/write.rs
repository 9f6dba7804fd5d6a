//! The bytes of one file, tensor after tensor.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use longreel_kernels::{DType, Weight, dequantize, quantize};

use super::choose::Chosen;
use super::{Quantized, QuantizedTensor};
use crate::WeightsError;
use crate::source::TensorSource;

/// Largest finite value of `float8_e4m3fn`.
const FP8_MAX: f32 = 448.0;

/// What a container's header says and where its tensors lie.
pub(super) struct Head {
    /// Up to the first tensor.
    pub bytes: Vec<u8>,
    /// What each tensor begins at a multiple of.
    pub alignment: usize,
    /// What comes behind the last tensor.
    pub tail: Vec<u8>,
}

/// What is counted and told on the way.
pub(super) struct Tally<'a> {
    pub summary: Quantized,
    pub errors: Errors,
    pub told: &'a mut dyn FnMut(&QuantizedTensor),
}

/// Sums over all quantised values.
#[derive(Default)]
pub(super) struct Errors {
    off: f64,
    all: f64,
}

impl Errors {
    pub fn relative_l2(&self) -> f64 {
        if self.all > 0.0 { (self.off / self.all).sqrt() } else { 0.0 }
    }
}

/// Writes header and tensors; with fp8, the scale of each matrix behind it. Appears whole or not at all.
pub(super) fn write_file(
    path: &Path,
    head: &Head,
    chosen: &[Chosen],
    mut source: TensorSource,
    part: &'static str,
    tally: &mut Tally<'_>,
) -> Result<(), WeightsError> {
    let io = |action| WeightsError::io(action, path);
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let mut write = || {
        let mut file = Output::create(beside, head.alignment)?;
        file.put(&head.bytes)?;
        for tensor in chosen {
            let (bytes, scale, relative_l2) = convert(tensor, &mut source, &mut tally.errors)?;
            file.put(&bytes)?;
            if let Some(scale) = scale {
                file.put(&scale.to_le_bytes())?;
            }
            let summary = &mut tally.summary;
            summary.source_bytes += tensor.source_bytes;
            match tensor.is_quantized {
                true => summary.quantized += 1,
                false => summary.kept += 1,
            }
            (tally.told)(&QuantizedTensor {
                part,
                name: tensor.name.clone(),
                from: tensor.from,
                to: tensor.format.name(),
                values: tensor.values() as u64,
                relative_l2,
            });
        }
        file.put(&head.tail)?;
        tally.summary.bytes += file.finish()?;
        Ok(())
    };
    let written = write().and_then(|()| std::fs::rename(beside, path).map_err(io("name")));
    if written.is_err() {
        let _ = std::fs::remove_file(beside);
    }
    written
}

/// The bytes of a tensor, its scale where the format has one, and its error.
fn convert(
    tensor: &Chosen,
    source: &mut TensorSource,
    errors: &mut Errors,
) -> Result<(Vec<u8>, Option<f32>, f64), WeightsError> {
    if !tensor.is_quantized {
        let weight = source.take(&tensor.name, &tensor.shape)?;
        let as_it_is = weight.dtype() == tensor.format && weight.is_unscaled();
        let bytes = match as_it_is {
            true => weight.bytes().to_vec(),
            false => {
                Weight::narrowed(&tensor.shape, &weight.to_f32(), tensor.format).bytes().to_vec()
            }
        };
        return Ok((bytes, None, 0.0));
    }
    let mut values = source.take_f32(&tensor.name, &tensor.shape)?;
    let scale = (tensor.format == DType::F8E4M3).then(|| {
        let largest = values.iter().fold(0f32, |a, v| a.max(v.abs()));
        if largest > 0.0 { largest / FP8_MAX } else { 1.0 }
    });
    let factor = scale.unwrap_or(1.0);
    let bytes = match scale {
        Some(scale) => {
            let scaled: Vec<f32> = values.iter().map(|v| v / scale).collect();
            quantize(tensor.format, &scaled)
        }
        None => quantize(tensor.format, &values),
    };
    // A run of rows at a time, so that the error takes no second copy of the matrix.
    let (mut off, mut all) = (0.0, 0.0);
    let run = tensor.format.block_len() * 256;
    let mut back = vec![0.0; run];
    let run_bytes = tensor.format.byte_len(run).unwrap_or(run);
    for (values, bytes) in values.chunks_mut(run).zip(bytes.chunks(run_bytes)) {
        let back = &mut back[..values.len()];
        dequantize(tensor.format, bytes, back);
        for (v, b) in values.iter().zip(back.iter()) {
            let difference = f64::from(b * factor) - f64::from(*v);
            off += difference * difference;
            all += f64::from(*v) * f64::from(*v);
        }
    }
    if !off.is_finite() {
        return Err(WeightsError::Unsupported {
            path: tensor.name.clone().into(),
            what: format!("a matrix with values too large for {}", tensor.format.name()),
            way_out: "quantise to fp8, whose scale is a single, or use another checkpoint".into(),
        });
    }
    errors.off += off;
    errors.all += all;
    Ok((bytes, scale, Errors { off, all }.relative_l2()))
}

/// A file that knows how far it is.
struct Output<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    length: u64,
    alignment: u64,
}

impl<'a> Output<'a> {
    fn create(path: &'a Path, alignment: usize) -> Result<Self, WeightsError> {
        let file = File::create(path).map_err(WeightsError::io("create", path))?;
        Ok(Self { path, file: BufWriter::new(file), length: 0, alignment: alignment as u64 })
    }

    /// Bytes, and zeros up to where the next may begin.
    fn put(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        let end = self.length + bytes.len() as u64;
        let pad = end.next_multiple_of(self.alignment) - end;
        let zeros = vec![0; usize::try_from(pad).unwrap_or(0)];
        let written = self.file.write_all(bytes).and_then(|()| self.file.write_all(&zeros));
        self.length = end + pad;
        written.map_err(WeightsError::io("write", self.path))
    }

    fn finish(mut self) -> Result<u64, WeightsError> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(WeightsError::io("write", self.path))?;
        Ok(self.length)
    }
}
