//! Parameters in the file's own dtype.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{DType, dequantize};

/// Bytes with a shared owner: a view into a mapped file, or a vector.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// A view of `range` of `owner`; `None` when the range lies outside.
    pub fn view(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        let len = (*owner).as_ref().len();
        (range.start <= range.end && range.end <= len).then_some(Self { owner, range })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Arc::new(bytes), range }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.range.len())
    }
}

/// Why bytes are not a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// The byte count does not fit the shape.
    #[error("a {dtype} tensor of shape {shape:?} takes {expected} bytes, but {found} are there")]
    Size {
        /// Format.
        dtype: &'static str,
        /// Shape.
        shape: Vec<usize>,
        /// What the shape asks for.
        expected: String,
        /// What is there.
        found: usize,
    },
    /// There is neither one factor nor one for each row.
    #[error(
        "{found} factors scale a tensor of shape {shape:?}; one, or one for each row, would do"
    )]
    Scales {
        /// Shape.
        shape: Vec<usize>,
        /// How many factors are there.
        found: usize,
    },
}

/// A parameter tensor in its storage format. Rows (the last axis) hold whole blocks.
#[derive(Debug, Clone)]
pub struct Weight {
    shape: Vec<usize>,
    dtype: DType,
    bytes: Bytes,
    /// What the stored values are multiplied by, in equal parts: one factor for all, or one for each
    /// row of the first axis.
    scales: Option<Arc<[f32]>>,
}

impl Weight {
    /// Checks that `bytes` is exactly as long as `shape` in `dtype` needs.
    pub fn new(shape: &[usize], dtype: DType, bytes: Bytes) -> Result<Self, WeightError> {
        let values = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let row = shape.last().copied().unwrap_or(1);
        let expected = values
            .filter(|_| row.is_multiple_of(dtype.block_len()))
            .and_then(|n| dtype.byte_len(n));
        let found = bytes.as_slice().len();
        if expected != Some(found) {
            return Err(WeightError::Size {
                dtype: dtype.name(),
                shape: shape.to_vec(),
                expected: expected.map_or("an impossible number of".into(), |n| n.to_string()),
                found,
            });
        }
        Ok(Self { shape: shape.to_vec(), dtype, bytes, scales: None })
    }

    /// The same values multiplied by one factor, or by one for each row of the first axis, when they
    /// are read: how 8-bit floats are given their range.
    ///
    /// # Errors
    /// When there is another number of factors.
    pub fn scaled(self, scales: &[f32]) -> Result<Self, WeightError> {
        let rows = self.shape.first().copied().unwrap_or(1);
        if scales.is_empty() || (scales.len() != 1 && scales.len() != rows) {
            return Err(WeightError::Scales { shape: self.shape, found: scales.len() });
        }
        Ok(Self { scales: Some(scales.into()), ..self })
    }

    /// A weight of `f32` values made in memory.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "Weight::from_f32: {shape:?}");
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { shape: shape.to_vec(), dtype: DType::F32, bytes: bytes.into(), scales: None }
    }

    /// The shape, outermost axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The same values under another shape of the same size, whose rows still hold whole blocks.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, WeightError> {
        let scales = self.scales.clone();
        Ok(Self { scales, ..Self::new(shape, self.dtype, self.bytes.clone())? })
    }

    /// The storage format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What the stored values are multiplied by, in equal parts.
    pub fn scales(&self) -> Option<&[f32]> {
        self.scales.as_deref()
    }

    /// Whether the values are the stored ones, without factors.
    pub fn is_unscaled(&self) -> bool {
        self.scales.is_none()
    }

    /// The bytes as stored.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values as `f32`.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.values_to_f32(0, &mut out);
        out
    }

    /// Values `start ..` in storage order, as `f32`; both ends lie between whole blocks.
    pub fn values_to_f32(&self, start: usize, out: &mut [f32]) {
        let byte = |values: usize| self.dtype.byte_len(values).expect("ends lie between blocks");
        dequantize(self.dtype, &self.bytes()[byte(start)..byte(start + out.len())], out);
        let Some(scales) = &self.scales else { return };
        let part = (self.len() / scales.len()).max(1);
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let (here, behind) = rest.split_at_mut(rest.len().min(part - at % part));
            let factor = scales[at / part];
            here.iter_mut().for_each(|v| *v *= factor);
            at += here.len();
            rest = behind;
        }
    }

    /// The rows `rows` of the weight seen as a matrix `[rows, last axis]`, as `f32`.
    pub fn rows_to_f32(&self, rows: Range<usize>, out: &mut [f32]) {
        let row = self.shape.last().copied().unwrap_or(1);
        assert_eq!(out.len(), rows.len() * row, "rows_to_f32: output size");
        self.values_to_f32(rows.start * row, out);
    }
}
