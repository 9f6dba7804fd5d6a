//! Dense `f32` activations.

use crate::gemm::Shared;

/// Dense, row-major `f32` activations with a shape, on one device.
///
/// Conventions: token matrices are `[tokens, dim]`, latents `[T, C, H, W]` (one latent frame is one
/// contiguous run), pictures inside the VAE `[T, H, W, C]` (channels last).
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
    }

    /// A tensor whose values `write` writes, without setting them to zero before.
    ///
    /// # Safety
    /// `write` writes every value.
    pub(crate) unsafe fn fill(shape: &[usize], write: impl FnOnce(Shared)) -> Self {
        let len = shape.iter().product();
        let mut data = Vec::with_capacity(len);
        write(Shared::new(data.as_mut_ptr()));
        // SAFETY: the capacity is `len`, and the caller vouches that every value is written.
        unsafe { data.set_len(len) };
        Self { shape: shape.to_vec(), data }
    }

    /// Takes ownership of `data`, whose length must be the product of `shape`.
    pub fn from_vec(shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "Tensor::from_vec: shape {shape:?} against {} values",
            data.len()
        );
        Self { shape: shape.to_vec(), data }
    }

    /// The shape, outermost axis first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The length of one axis.
    pub fn dim(&self, axis: usize) -> usize {
        self.shape[axis]
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The values on the host.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values on the host, for writing.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Gives the values back.
    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }

    /// The same values under another shape of the same size.
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            self.data.len(),
            "reshape: {:?} to {shape:?}",
            self.shape
        );
        self.shape = shape.to_vec();
        self
    }

    /// Copies `range` of the outermost axis.
    pub fn slice0(&self, range: std::ops::Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.shape[0],
            "slice0: {range:?} of {:?}",
            self.shape
        );
        let inner: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = range.end - range.start;
        Self { shape, data: self.data[range.start * inner..range.end * inner].to_vec() }
    }

    /// Adds the rows of `other` behind its own, and makes room for no more than those.
    pub fn append0(&mut self, other: &Self) {
        assert_eq!(self.shape[1..], other.shape[1..], "append0: inner shapes differ");
        self.shape[0] += other.shape[0];
        self.data.reserve_exact(other.data.len());
        self.data.extend_from_slice(&other.data);
    }

    /// Takes the rows of `range` out; those behind it move up.
    pub fn remove0(&mut self, range: std::ops::Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.shape[0],
            "remove0: {range:?} of {:?}",
            self.shape
        );
        let inner: usize = self.shape[1..].iter().product();
        self.shape[0] -= range.len();
        self.data.drain(range.start * inner..range.end * inner);
    }

    /// Joins tensors along the outermost axis.
    pub fn concat0(parts: &[&Tensor]) -> Self {
        let first = parts.first().expect("concat0: no parts");
        let mut shape = first.shape.clone();
        shape[0] = 0;
        let mut data = Vec::with_capacity(parts.iter().map(|p| p.len()).sum());
        for part in parts {
            assert_eq!(part.shape[1..], first.shape[1..], "concat0: inner shapes differ");
            shape[0] += part.shape[0];
            data.extend_from_slice(&part.data);
        }
        Self { shape, data }
    }
}
