//! The operations' bodies for a GPU. They take arrays and sizes; [`crate::ops`] calls them for tensors
//! that are on a device and says what they mean.
//!
//! Activations are of either [`Element`](super::Element), small parameters `f32`. Arrays that do not
//! fit an operation are a bug of ours and panic, as in [`crate::ops`].

mod attention;
mod conv;
mod convert;
mod dequantize;
mod fp8;
mod layout;
mod linear;
mod norm;
mod per_frame;
mod pointwise;
mod solver;
mod vendor;

pub use attention::{
    Attend, AttentionRows, Scores, Seen, SparseRows, attention, attention_rows,
    sparse_attention_rows,
};
pub use conv::{
    Frames, Windows, conv3d, conv3d_add, quarter_weight, upsampled_conv, window_weight,
};
pub use convert::convert;
pub use dequantize::dequantize;
pub use fp8::{
    Codes, DenseCodes, feed_forward_residual_codes, linear_codes, linear_residual_codes,
};
pub use layout::{
    add_row, columns, interleave, join_columns, patchify, split_modulation, unpatchify,
};
pub use linear::{Dense, feed_forward_residual, linear, linear_residual};
pub use norm::{channel_norm, channel_normed, layer_norm, layer_norm_codes, rms_norm_rope};
pub use per_frame::PerFrame;
pub use pointwise::{
    activate_inplace, change, clamp_inplace, combine, gate_residual, mul_inplace, prelu_inplace,
};
pub use solver::{Run, go, guide, mix, unipc_step};

use super::{Address, Arg, Array, Launch};

/// Threads of a block that goes over values one by one.
const THREADS: u32 = 256;

/// The name of a kernel for an element, or for two: `name_f32`, `name_bf16_f32`.
macro_rules! kernel {
    ($name:literal, $element:expr) => {
        match $element {
            Element::F32 => concat!($name, "_f32"),
            Element::Bf16 => concat!($name, "_bf16"),
        }
    };
    ($name:literal, $from:expr, $to:expr) => {
        match ($from, $to) {
            (Element::F32, Element::F32) => concat!($name, "_f32_f32"),
            (Element::F32, Element::Bf16) => concat!($name, "_f32_bf16"),
            (Element::Bf16, Element::F32) => concat!($name, "_bf16_f32"),
            (Element::Bf16, Element::Bf16) => concat!($name, "_bf16_bf16"),
        }
    };
}
use kernel;

/// A launch in blocks along one axis, without shared memory but the kernel's own.
fn blocks(module: &'static str, kernel: &'static str, blocks: usize, threads: u32) -> Launch {
    let blocks = u32::try_from(blocks).expect("fewer blocks than a grid can have");
    Launch { module, kernel, grid: [blocks, 1, 1], threads, shared_bytes: 0 }
}

/// A launch over values one by one, eight of them a thread, or several times eight where there are
/// more than fill a card.
fn each(module: &'static str, kernel: &'static str, values: usize) -> Launch {
    let wanted = values.div_ceil(8 * THREADS as usize);
    blocks(module, kernel, wanted.min(4096), THREADS)
}

/// Threads of a block that has a row of `dim` values, eight a thread where they come so: as few times
/// round as with 256 threads, and no more threads than that takes.
fn row_threads(dim: usize) -> u32 {
    let packs = if dim.is_multiple_of(8) { dim / 8 } else { dim }.max(1);
    let rounds = packs.div_ceil(THREADS as usize);
    packs.div_ceil(rounds).next_multiple_of(32) as u32
}

/// An array as an argument.
fn pointer(array: &Array) -> Arg {
    Arg::Pointer(array.address())
}

/// An array that may be missing as an argument.
fn pointer_or_none(array: Option<&Array>) -> Arg {
    Arg::Pointer(array.map_or(Address(0), Array::address))
}

/// A number of values as an argument.
fn long(value: usize) -> Arg {
    Arg::Long(i64::try_from(value).expect("fewer values than memory holds"))
}

/// A length of an axis as an argument.
fn int(value: usize) -> Arg {
    Arg::Int(i32::try_from(value).expect("an axis shorter than 2^31"))
}
