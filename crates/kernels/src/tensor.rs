//! Dense activations.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::Device;
use crate::gemm::Shared;
use crate::gpu::ops::convert;
use crate::gpu::{Address, Array, Element, Gpu, GpuError};
use crate::host::Host;

/// Dense, row-major activations with a shape, on one device: `f32` on the host, `f32` or `bf16` on a
/// GPU.
///
/// Conventions: token matrices are `[tokens, dim]`, latents `[T, C, H, W]` (one latent frame is one
/// contiguous run), pictures inside the VAE `[T, H, W, C]` (channels last).
///
/// Host values are read with [`data`](Self::data); those of a GPU are brought with
/// [`on`](Self::on) first.
#[derive(Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Host(Host),
    Device(Array),
    Parked(Parked),
}

/// Values of a GPU that the host keeps for it, as they were there.
#[derive(Debug, Clone)]
struct Parked {
    gpu: Arc<Gpu>,
    element: Element,
    bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor of zeros on the host.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::host(shape, vec![0.0; shape.iter().product()])
    }

    /// A tensor of `f32` zeros on a device.
    pub fn zeros_on(device: &Device, shape: &[usize]) -> Self {
        match device {
            Device::Cpu => Self::zeros(shape),
            Device::Gpu(gpu) => {
                Self::from_array(shape, Array::zeros(gpu, Element::F32, shape.iter().product()))
            }
        }
    }

    /// Memory on a device for activations that are kept from one forward to the next, in what a GPU keeps activations
    /// in: what comes and goes finds the same places free each time. Nothing is said of the values.
    pub fn room_on(device: &Device, shape: &[usize]) -> Self {
        match device {
            Device::Cpu => Self::zeros(shape),
            Device::Gpu(gpu) => Self::from_array(shape, Array::room(gpu, shape.iter().product())),
        }
    }

    fn host(shape: &[usize], values: impl Into<Host>) -> Self {
        Self { shape: shape.to_vec(), values: Values::Host(values.into()) }
    }

    /// A tensor whose values `write` writes, without setting them to zero before.
    ///
    /// # Safety
    /// `write` writes every value.
    pub(crate) unsafe fn fill(shape: &[usize], write: impl FnOnce(Shared)) -> Self {
        let len = shape.iter().product();
        let mut data = Host::with_room(len);
        write(Shared::new(data.as_mut_ptr()));
        // SAFETY: the capacity is `len`, and the caller vouches that every value is written.
        unsafe { data.set_len(len) };
        Self::host(shape, data)
    }

    /// Takes ownership of `data`, whose length must be the product of `shape`.
    pub fn from_vec(shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "Tensor::from_vec: shape {shape:?} against {} values",
            data.len()
        );
        Self::host(shape, data)
    }

    /// Values of a GPU, whose number must be the product of `shape`.
    pub(crate) fn from_array(shape: &[usize], array: Array) -> Self {
        let values = shape.iter().product::<usize>();
        assert_eq!(values, array.len(), "Tensor::from_array: shape {shape:?}");
        Self { shape: shape.to_vec(), values: Values::Device(array) }
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
        self.shape.iter().product()
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the values lie on a GPU.
    pub fn address(&self) -> Option<Address> {
        self.array().map(Array::address)
    }

    /// Bytes that the values take.
    pub fn bytes(&self) -> usize {
        match &self.values {
            Values::Host(data) => size_of_val(data.as_slice()),
            Values::Device(array) => array.bytes(),
            Values::Parked(parked) => parked.bytes.len(),
        }
    }

    /// Where the values are.
    pub fn device(&self) -> Device {
        match &self.values {
            Values::Host(_) => Device::Cpu,
            Values::Device(array) => Device::Gpu(array.gpu().clone()),
            Values::Parked(parked) => Device::Gpu(parked.gpu.clone()),
        }
    }

    /// The values on a GPU, if they are on one.
    pub(crate) fn array(&self) -> Option<&Array> {
        match &self.values {
            Values::Device(array) => Some(array),
            _ => None,
        }
    }

    /// The values on a GPU, for writing, if they are on one.
    pub(crate) fn array_mut(&mut self) -> Option<&mut Array> {
        match &mut self.values {
            Values::Device(array) => Some(array),
            _ => None,
        }
    }

    /// The values on `gpu`, wherever they are now.
    pub(crate) fn array_on(&self, gpu: &Arc<Gpu>) -> Held<'_> {
        match &self.values {
            Values::Device(array) => Held::There(array),
            Values::Host(data) => Held::Brought(Array::from_host(gpu, data)),
            Values::Parked(parked) => Held::Brought(parked.array()),
        }
    }

    /// The values on `gpu` as an element.
    pub(crate) fn array_as(&self, gpu: &Arc<Gpu>, element: Element) -> Held<'_> {
        match self.array_on(gpu) {
            held if held.element() == element => held,
            held => Held::Brought(convert(&held, element)),
        }
    }

    /// The same values on `device`; on a GPU `f32` when they come from the host, and as they were when
    /// they come from another one.
    ///
    /// # Errors
    /// What went wrong on the GPU that they come from, in this or anything before.
    pub fn on(&self, device: &Device) -> Result<Cow<'_, Self>, GpuError> {
        Ok(match (&self.values, device) {
            (Values::Device(array), Device::Cpu) => {
                Cow::Owned(Self::host(&self.shape, array.to_host()?))
            }
            (Values::Host(data), Device::Gpu(gpu)) => {
                Cow::Owned(Self::from_array(&self.shape, Array::from_host(gpu, data)))
            }
            (Values::Parked(parked), Device::Cpu) => {
                Cow::Owned(Self::host(&self.shape, parked.element.singles(&parked.bytes)))
            }
            (Values::Parked(parked), Device::Gpu(gpu)) => Cow::Owned(Self::from_array(
                &self.shape,
                Array::from_bytes(gpu, parked.element, &parked.bytes),
            )),
            (Values::Device(array), Device::Gpu(gpu)) if !Arc::ptr_eq(array.gpu(), gpu) => {
                let there = Array::from_bytes(gpu, array.element(), &array.to_bytes()?);
                Cow::Owned(Self::from_array(&self.shape, there))
            }
            _ => Cow::Borrowed(self),
        })
    }

    /// The same values on `device`, themselves where they are there.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn into_device(self, device: &Device) -> Result<Self, GpuError> {
        if let Cow::Owned(there) = self.on(device)? {
            return Ok(there);
        }
        Ok(self)
    }

    /// The same values on the host.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn into_host(self) -> Result<Self, GpuError> {
        match &self.values {
            Values::Host(_) => Ok(self),
            _ => Ok(self.on(&Device::Cpu)?.into_owned()),
        }
    }

    /// The same values, which the host keeps for their GPU until they are [brought back](Self::on).
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn parked(self) -> Result<Self, GpuError> {
        let Values::Device(array) = &self.values else { return Ok(self) };
        let (gpu, element, bytes) = (array.gpu().clone(), array.element(), array.to_bytes()?);
        Ok(Self { shape: self.shape, values: Values::Parked(Parked { gpu, element, bytes }) })
    }

    /// The same values for something that is kept from one forward to the next. On a GPU activations come and go
    /// beside it, and find the same places free each time.
    pub fn into_kept(self) -> Self {
        match self.values {
            Values::Device(array) => Self::from_array(&self.shape, array.into_kept()),
            values => Self { shape: self.shape, values },
        }
    }

    /// The values; the tensor is on the host.
    pub fn data(&self) -> &[f32] {
        match &self.values {
            Values::Host(data) => data,
            _ => panic!("Tensor::data: the values are on a GPU; see `on`"),
        }
    }

    /// The values, for writing; the tensor is on the host.
    pub fn data_mut(&mut self) -> &mut [f32] {
        match &mut self.values {
            Values::Host(data) => data,
            _ => panic!("Tensor::data_mut: the values are on a GPU; see `on`"),
        }
    }

    /// Gives the values back; the tensor is on the host.
    pub fn into_vec(self) -> Vec<f32> {
        match self.values {
            Values::Host(data) => data.into_vec(),
            _ => panic!("Tensor::into_vec: the values are on a GPU; see `on`"),
        }
    }

    /// The same values under another shape of the same size.
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            self.len(),
            "reshape: {:?} to {shape:?}",
            self.shape
        );
        self.shape = shape.to_vec();
        self
    }

    /// Copies `range` of the outermost axis.
    pub fn slice0(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.shape[0],
            "slice0: {range:?} of {:?}",
            self.shape
        );
        let inner: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = range.end - range.start;
        let range = range.start * inner..range.end * inner;
        let values = match &self.values {
            Values::Host(data) => Values::Host(Host::from(&data[range])),
            Values::Device(array) => {
                let mut part = Array::unset(array.gpu(), array.element(), range.len());
                part.copy_from(0, array, range);
                Values::Device(part)
            }
            Values::Parked(parked) => {
                let size = parked.element.bytes();
                let bytes = parked.bytes[range.start * size..range.end * size].to_vec();
                Values::Parked(Parked { bytes, ..parked.clone() })
            }
        };
        Self { shape, values }
    }

    /// Writes `rows` of another tensor of its device over its own, from row `at` on.
    pub fn write0(&mut self, at: usize, other: &Self, rows: Range<usize>) {
        assert!(
            self.shape[1..] == other.shape[1..]
                && rows.start <= rows.end
                && rows.end <= other.shape[0]
                && at + rows.len() <= self.shape[0],
            "write0: {rows:?} of {:?} to row {at} of {:?}",
            other.shape,
            self.shape
        );
        let inner: usize = self.shape[1..].iter().product();
        let (to, from) = (at * inner, rows.start * inner..rows.end * inner);
        match (&mut self.values, &other.values) {
            (Values::Host(own), Values::Host(other)) => {
                own[to..to + from.len()].copy_from_slice(&other[from]);
            }
            (Values::Device(own), Values::Device(other)) => own.copy_from(to, other, from),
            _ => panic!("write0: values in two places"),
        }
    }

    /// Joins tensors of one device along the outermost axis.
    pub fn concat0(parts: &[&Tensor]) -> Self {
        let whole: Vec<_> = parts.iter().map(|&part| (part, 0..part.dim(0))).collect();
        Self::concat_rows(&whole)
    }

    /// Joins rows of tensors of one device along the outermost axis.
    pub fn concat_rows(parts: &[(&Tensor, Range<usize>)]) -> Self {
        let (first, _) = parts.first().expect("concat_rows: no parts");
        let mut shape = first.shape.clone();
        for (part, rows) in parts {
            assert_eq!(part.shape[1..], first.shape[1..], "concat_rows: inner shapes differ");
            let inside = rows.start <= rows.end && rows.end <= part.shape[0];
            assert!(inside, "concat_rows: {rows:?} of {:?}", part.shape);
        }
        shape[0] = parts.iter().map(|(_, rows)| rows.len()).sum();
        let (len, inner) = (shape.iter().product(), shape[1..].iter().product::<usize>());
        let of = |rows: &Range<usize>| rows.start * inner..rows.end * inner;
        let values = match &first.values {
            Values::Parked(_) => panic!("concat_rows: values that the host keeps for a GPU"),
            Values::Host(_) => {
                let mut data = Host::with_room(len);
                let all = parts.iter();
                all.for_each(|(part, rows)| data.extend_from_slice(&part.data()[of(rows)]));
                Values::Host(data)
            }
            Values::Device(array) => {
                let mut whole = Array::unset(array.gpu(), array.element(), len);
                let mut at = 0;
                for (part, rows) in parts {
                    let part = part.array().expect("concat_rows: parts on different devices");
                    whole.copy_from(at, part, of(rows));
                    at += of(rows).len();
                }
                Values::Device(whole)
            }
        };
        Self { shape, values }
    }
}

impl Parked {
    fn array(&self) -> Array {
        Array::from_bytes(&self.gpu, self.element, &self.bytes)
    }
}

impl Clone for Tensor {
    fn clone(&self) -> Self {
        let values = match &self.values {
            Values::Host(data) => Values::Host(Host::from(&data[..])),
            Values::Device(array) => Values::Device(array.clone()),
            Values::Parked(parked) => Values::Parked(parked.clone()),
        };
        Self { shape: self.shape.clone(), values }
    }
}

/// By value, and with tensors of the same place alone.
impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape
            && match (&self.values, &other.values) {
                (Values::Host(a), Values::Host(b)) => a[..] == b[..],
                _ => false,
            }
    }
}

/// An array that was there, or one that had to be brought.
#[derive(Debug)]
pub(crate) enum Held<'a> {
    There(&'a Array),
    Brought(Array),
}

impl std::ops::Deref for Held<'_> {
    type Target = Array;

    fn deref(&self) -> &Array {
        match self {
            Self::There(array) => array,
            Self::Brought(array) => array,
        }
    }
}
