//! The arithmetic: a plain tensor and a closed set of operations.
//!
//! The nouns:
//! - [`Tensor`]: dense `f32` activations on a device, row-major, with a shape.
//! - [`Weight`]: a parameter in the file's own dtype ([`DType`]), usually a view into a mapped file.
//! - [`Linear`], [`Conv3d`]: weights made ready for one operation.
//! - [`ops`]: the operations. Models call these and nothing else; a device differs only here.
//! - [`ranks`]: several devices that share a computation and exchange tensors.
//!
//! Shapes are checked when a checkpoint is loaded, so a shape mismatch in an operation is a bug of
//! ours and panics with the operation's name and both shapes.

pub mod cuda;
mod dequantize;
mod device;
mod dtype;
mod fp8;
mod frames;
mod gemm;
pub mod gpu;
mod host;
mod narrow;
pub mod ops;
mod quantize;
pub mod ranks;
mod simd;
pub mod spans;
mod tensor;
mod vector;
mod weight;

pub use dequantize::dequantize;
pub use device::Device;
pub use dtype::DType;
pub use frames::{Frames, FramesMut};
pub use gemm::Products;
pub use gpu::GpuError;
pub use ops::{
    Activation, Attention, Bias, Conv3d, Linear, LinearInput, Mask, Modulation, PairCounter, Pairs,
    PerFrame, RopeTable, Sample, Sparse, TokenBlocks, UpsampledConv,
};
pub use quantize::quantize;
pub use simd::Isa;
pub use tensor::Tensor;
pub use vector::Vector;
pub use weight::{Bytes, Weight, WeightError};

/// Runs `body` on a thread of the pool that the operations use. From any other thread each operation
/// has to wake the pool and wait, and its operands move from core to core: for small models that is
/// most of the time. Inside the pool already, it is a plain call.
pub fn in_pool<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| body())
}
