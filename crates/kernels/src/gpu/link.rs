//! Ways from one device's memory to another's that do not go through the host's.

use std::fmt;

use super::{Address, GpuError};

/// Who brings the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// NVIDIA's library for that, NCCL.
    Nccl,
    /// The driver, by copies from one card to another.
    Peer,
}

impl LinkKind {
    /// As it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nccl => "nccl",
            Self::Peer => "peer",
        }
    }

    /// What it needs.
    pub fn library(self) -> &'static str {
        match self {
            Self::Nccl => "NCCL",
            Self::Peer => "a driver that copies from device to device",
        }
    }
}

/// Bytes on their way from one device of a group to another one of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The rank that has them.
    pub from: usize,
    /// The rank that gets them, another one.
    pub to: usize,
    /// Where they are, in the memory of `from`.
    pub source: Address,
    /// Where they go, in the memory of `to`.
    pub target: Address,
    /// How many, at least one.
    pub bytes: usize,
}

/// Devices of a group that reach each other.
pub trait Link: fmt::Debug + Send + Sync {
    /// What brings the bytes, with its version.
    fn name(&self) -> String;

    /// Asks for transfers, all of those that the devices do together, and returns before they are done. On the
    /// compute stream of either end a transfer comes behind what was asked for before, and before what is asked
    /// for from now on. One thread asks for all of them, so that no device is ever at work on a transfer whose other
    /// end nobody asked for.
    ///
    /// # Errors
    /// When they cannot be asked for, with what to do.
    fn exchange(&self, transfers: &[Transfer]) -> Result<(), GpuError>;

    /// What has gone wrong with transfers that are under way, if that can be told before they are waited for.
    ///
    /// # Errors
    /// What has, with what to do.
    fn check(&self) -> Result<(), GpuError> {
        Ok(())
    }

    /// Ends the transfers that are under way, whatever has come of them, so that nobody waits for them. Nothing more
    /// can be asked for. `false` where there is no way to do so.
    fn abort(&self) -> bool {
        false
    }
}
