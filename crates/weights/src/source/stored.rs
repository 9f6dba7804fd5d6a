//! One tensor on its way from the file to the network.

use std::sync::Arc;

use longreel_kernels::{DType, Weight, WeightError};

use crate::WeightsError;
use crate::container::{Format, StoredTensor};
use crate::lora::Delta;

#[derive(Debug)]
pub(super) struct Stored {
    content: Content,
    /// What fp8 values are multiplied by: one value, or one for each row.
    scale: Option<StoredTensor>,
    deltas: Vec<Delta>,
    origin: Arc<str>,
}

#[derive(Debug)]
enum Content {
    Memory(Weight),
    File(StoredTensor),
}

impl Stored {
    pub fn in_memory(weight: Weight, origin: Arc<str>) -> Self {
        Self { content: Content::Memory(weight), scale: None, deltas: vec![], origin }
    }

    pub fn in_file(tensor: StoredTensor, scale: Option<StoredTensor>, origin: Arc<str>) -> Self {
        Self { content: Content::File(tensor), scale, deltas: vec![], origin }
    }

    pub fn shape(&self) -> &[usize] {
        match &self.content {
            Content::Memory(weight) => weight.shape(),
            Content::File(tensor) => &tensor.shape,
        }
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn add(&mut self, delta: Delta) {
        self.deltas.push(delta);
    }

    /// The tensor in `wanted` (a plain format or e4m3), or else in the file's format, or in `bf16` when it had to be computed
    /// from a format that cannot take the result. `shape` is the tensor's own but for axes of length 1.
    pub fn weight(
        self,
        name: &str,
        shape: &[usize],
        wanted: Option<DType>,
    ) -> Result<Weight, WeightsError> {
        let bytes = |source| self.bytes_error(name, source);
        let stored = self.dtype(name)?;
        let as_stored = wanted.is_none_or(|wanted| wanted == stored);
        if as_stored && self.deltas.is_empty() {
            let view = self.view(name)?;
            if view.shape() == shape {
                return Ok(view);
            }
            // The rows of a convolution may be shorter than a block.
            let dtype = view.dtype();
            if shape.last().is_none_or(|row| row.is_multiple_of(dtype.block_len())) {
                return view.reshape(shape).map_err(bytes);
            }
        }
        if wanted == Some(DType::F8E4M3) {
            return Ok(Weight::e4m3(shape, &self.values(name)?));
        }
        let dtype = match wanted.unwrap_or(stored) {
            plain @ (DType::F32 | DType::F16 | DType::BF16) => plain,
            _ => DType::BF16,
        };
        let values = self.values(name)?;
        Ok(Weight::narrowed(shape, &values, dtype))
    }

    /// All values, scaled and merged.
    pub fn values(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let mut values = self.view(name)?.to_f32();
        for delta in &self.deltas {
            delta.add_to(&mut values);
        }
        Ok(values)
    }

    fn dtype(&self, name: &str) -> Result<DType, WeightsError> {
        match &self.content {
            Content::Memory(weight) => Ok(weight.dtype()),
            Content::File(StoredTensor { format: Format::Known(dtype), .. }) => Ok(*dtype),
            Content::File(StoredTensor { format: Format::Other(format), .. }) => {
                Err(WeightsError::Unsupported {
                    path: self.origin.as_ref().into(),
                    what: format!("the format {format} of the tensor {name}"),
                    way_out: "use a file in f32, f16, bf16, fp8 or GGUF's Q formats".into(),
                })
            }
        }
    }

    fn bytes_error(&self, name: &str, cause: WeightError) -> WeightsError {
        WeightsError::Bytes { tensor: name.to_owned(), origin: self.origin.to_string(), cause }
    }

    /// The tensor as it is in the file, with its scale.
    fn view(&self, name: &str) -> Result<Weight, WeightsError> {
        let dtype = self.dtype(name)?;
        let tensor = match &self.content {
            Content::Memory(weight) => return Ok(weight.clone()),
            Content::File(tensor) => tensor,
        };
        let bytes = match &tensor.strides {
            None => tensor.bytes.to_bytes(),
            Some(strides) => {
                gather(tensor.bytes.as_slice(), &tensor.shape, strides, dtype.block_bytes()).into()
            }
        };
        let whole = tensor.shape.last().is_none_or(|row| row.is_multiple_of(dtype.block_len()));
        let flat = [tensor.values()];
        let shape = if whole { tensor.shape.as_slice() } else { &flat };
        let weight = Weight::new(shape, dtype, bytes).map_err(|e| self.bytes_error(name, e))?;
        let Some(scale) = &self.scale else { return Ok(weight) };
        let factors =
            Self::in_file(scale.clone(), None, self.origin.clone()).values(&scale.name)?;
        weight.scaled(&factors).map_err(|e| self.bytes_error(&scale.name, e))
    }
}

/// Copies values that lie `strides` apart into row-major order. The reader has checked that all lie inside
/// and that there are no more than the storage holds.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut position = vec![0; shape.len()];
    for _ in 0..count {
        let at: usize = position.iter().zip(strides).map(|(p, s)| p * s).sum();
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            position[axis] += 1;
            if position[axis] < shape[axis] {
                break;
            }
            position[axis] = 0;
        }
    }
    out
}
