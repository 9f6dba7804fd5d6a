//! Where values are.

use std::sync::Arc;

use crate::gpu::Gpu;

/// Where a tensor's values are and its operations run.
#[derive(Debug, Clone, Default)]
pub enum Device {
    /// Host memory and the processor.
    #[default]
    Cpu,
    /// A GPU.
    Gpu(Arc<Gpu>),
}

impl Device {
    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match self {
            Self::Cpu => None,
            Self::Gpu(gpu) => Some(gpu),
        }
    }

    /// What went wrong on the device since the last look: operations do not fail, devices do.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn check(&self) -> Result<(), crate::gpu::GpuError> {
        self.gpu().map_or(Ok(()), |gpu| gpu.check())
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu, Self::Cpu) => true,
            (Self::Gpu(a), Self::Gpu(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
