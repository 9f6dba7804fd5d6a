//! What a plan depends on.

use std::fmt;

use crate::gpu::ops::Windows;
use crate::gpu::{FrameConvolution, GpuError, SoftmaxAttention, VendorWork};

/// The shape of what is computed, and no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    Attention {
        heads: usize,
        size: usize,
        queries: usize,
        keys: usize,
    },
    Convolution {
        windows: Windows,
        height: usize,
        width: usize,
        inputs: usize,
        outputs: usize,
        with_bias: bool,
        added: bool,
    },
}

impl Key {
    pub fn of_attention(what: &SoftmaxAttention) -> Self {
        let &SoftmaxAttention { queries, keys, heads, size, .. } = what;
        Self::Attention { heads, size, queries, keys }
    }

    pub fn of_convolution(what: &FrameConvolution) -> Self {
        let &FrameConvolution { mut windows, height, width, inputs, outputs, .. } = what;
        // Of one frame.
        windows.stride[0] = 1;
        let (with_bias, added) = (what.bias.is_some(), what.added.is_some());
        Self::Convolution { windows, height, width, inputs, outputs, with_bias, added }
    }

    pub fn work(&self) -> VendorWork {
        match self {
            Self::Attention { .. } => VendorWork::Attention,
            Self::Convolution { .. } => VendorWork::Convolution,
        }
    }

    /// What of it cannot be part of a graph.
    pub fn in_a_graph(&self, reason: String) -> GpuError {
        let call = match self.work() {
            VendorWork::Attention => "attention in a CUDA graph",
            VendorWork::Convolution => "convolution in a CUDA graph",
        };
        GpuError::Call { call, reason }
    }
}

/// For people.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attention { heads, size, queries, keys } => write!(
                f,
                "attention of {queries} queries and {keys} keys in {heads} heads of {size}"
            ),
            Self::Convolution { windows, height, width, inputs, outputs, added, .. } => {
                let [t, h, w] = windows.kernel;
                write!(
                    f,
                    "convolution of {t} x {h} x {w} from {inputs} to {outputs} channels of {width} x {height}"
                )?;
                match windows.stride {
                    [_, 1, 1] => {}
                    [_, down, across] => write!(f, " in steps of {down} x {across}")?,
                }
                if *added { write!(f, " with a sum") } else { Ok(()) }
            }
        }
    }
}
