//! Some latent frames of a tensor, where they lie.

use std::ops::Range;
use std::sync::Arc;

use crate::gpu::ops::Run;
use crate::gpu::{Array, Gpu};
use crate::tensor::Held;
use crate::{Device, Tensor};

/// Latent frames of a tensor: a range of its outermost axis, to be read.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    tensor: &'a Tensor,
    frames: Range<usize>,
}

/// As [`Frames`], to be written too.
#[derive(Debug)]
pub struct FramesMut<'a> {
    tensor: &'a mut Tensor,
    frames: Range<usize>,
}

impl Tensor {
    /// `range` of the outermost axis, where it lies.
    pub fn frames(&self, range: Range<usize>) -> Frames<'_> {
        self.check_frames(&range);
        Frames { tensor: self, frames: range }
    }

    /// As [`frames`](Self::frames), to be written too.
    pub fn frames_mut(&mut self, range: Range<usize>) -> FramesMut<'_> {
        self.check_frames(&range);
        FramesMut { tensor: self, frames: range }
    }

    /// All of it.
    pub fn all_frames(&self) -> Frames<'_> {
        self.frames(0..self.dim(0))
    }

    /// As [`all_frames`](Self::all_frames), to be written too.
    pub fn all_frames_mut(&mut self) -> FramesMut<'_> {
        self.frames_mut(0..self.dim(0))
    }

    fn check_frames(&self, range: &Range<usize>) {
        let is_inside = range.start <= range.end && range.end <= self.dim(0);
        assert!(is_inside, "frames: {range:?} of {:?}", self.shape());
    }
}

/// The values of `frames` among those of a tensor.
fn values(tensor: &Tensor, frames: &Range<usize>) -> Range<usize> {
    let frame: usize = tensor.shape()[1..].iter().product();
    frames.start * frame..frames.end * frame
}

impl<'a> Frames<'a> {
    /// The number of values.
    pub fn len(&self) -> usize {
        values(self.tensor, &self.frames).len()
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape, outermost axis first.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape().to_vec();
        shape[0] = self.frames.len();
        shape
    }

    /// Where the values are.
    pub fn device(&self) -> Device {
        self.tensor.device()
    }

    /// The values; the tensor is on the host.
    pub fn data(&self) -> &'a [f32] {
        &self.tensor.data()[values(self.tensor, &self.frames)]
    }

    /// Bytes that the values take.
    pub(crate) fn bytes(&self) -> usize {
        self.tensor.bytes() / self.tensor.dim(0).max(1) * self.frames.len()
    }

    /// The values on `gpu`, wherever they are now.
    pub(crate) fn on(&self, gpu: &Arc<Gpu>) -> OnGpu<'a> {
        let Range { start: at, .. } = values(self.tensor, &self.frames);
        let is_there = self.tensor.array().is_some_and(|array| Arc::ptr_eq(array.gpu(), gpu));
        let (values, at) = match self.tensor.device() {
            Device::Cpu => (Held::Brought(Array::from_host(gpu, self.data())), 0),
            Device::Gpu(_) if is_there => (self.tensor.array_on(gpu), at),
            Device::Gpu(_) => panic!("Frames::on: the values are on another GPU; see `Tensor::on`"),
        };
        OnGpu { values, at, len: self.len() }
    }
}

impl FramesMut<'_> {
    /// The same, to be read.
    pub fn read(&self) -> Frames<'_> {
        Frames { tensor: self.tensor, frames: self.frames.clone() }
    }

    /// The values, for writing; the tensor is on the host.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let values = values(self.tensor, &self.frames);
        &mut self.tensor.data_mut()[values]
    }

    /// The values on a GPU, if they are on one.
    pub(crate) fn run(&self) -> Option<Run<'_>> {
        let array = self.tensor.array()?;
        let Range { start: at, end } = values(self.tensor, &self.frames);
        Some(Run { array, at, len: end - at })
    }
}

/// Frames on a GPU, which were there or have been brought.
#[derive(Debug)]
pub(crate) struct OnGpu<'a> {
    values: Held<'a>,
    at: usize,
    len: usize,
}

impl OnGpu<'_> {
    /// The values.
    pub fn run(&self) -> Run<'_> {
        Run { array: &self.values, at: self.at, len: self.len }
    }
}
