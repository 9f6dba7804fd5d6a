//! NVIDIA cards: what is there ([`probe`]), and a [`Driver`] for one of them ([`open`]).
//!
//! Nothing is linked. The driver, NVRTC, cuBLASLt, cuDNN and NCCL are loaded when they are asked for, from wherever
//! [`Places`] finds them, and each function is looked up before anything is called: what is missing is an
//! error with a way out. Signatures and constants are `cudarc`'s, which the compiler compares with ours;
//! its loader is not used, since it panics where a library or a function is missing, knows no folders
//! and not the names of CUDA 13.

mod api;
mod cache;
mod compiler;
mod cudnn;
mod device;
mod error;
mod graphs;
mod libraries;
mod management;
mod matmul;
mod modules;
mod nccl;
mod peers;
mod places;
mod probe;
mod staging;

pub use self::cache::Cache;
pub use self::compiler::{Compiled, Compiler, Target, source_of};
pub use self::cudnn::Deviceless;
pub use self::libraries::{Absent, Kind, Refusal};
pub use self::nccl::{Nccl, NcclMember};
pub use self::places::Places;
pub use self::probe::{
    Card, Connection, DriverVersion, Found, NoDriver, Pcie, Probe, cards, connection, libraries_in,
    probe, probe_in,
};

use crate::gpu::{Driver, GpuError};

/// The card with this number, as `CUDA_VISIBLE_DEVICES` orders them, from 0.
///
/// # Errors
/// [`GpuError::Absent`] or [`GpuError::Library`] when the driver or NVRTC is not there or of no use, [`GpuError::Call`] when there
/// is no such card or it refuses.
pub fn open(ordinal: u32) -> Result<Box<dyn Driver>, GpuError> {
    let places = Places::of_this_machine();
    Ok(Box::new(device::Device::open(ordinal, &places, Cache::of_this_user())?))
}
