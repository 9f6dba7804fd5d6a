//! The operations. Models call these and nothing else, so another device is another body behind the
//! same functions. See each function for shapes.

mod activation;
mod attention;
mod conv;
mod layout;
mod linear;
mod mask;
mod norm;
mod per_frame;
mod pointwise;
mod solver;

pub use activation::{Activation, activate_inplace, prelu_inplace};
pub use attention::{
    Attention, Bias, KEY_BLOCK, LEAST_LIKENESS, PairCounter, Pairs, QUERY_BLOCK, Sample, Sparse,
    TokenBlocks, attention, attention_of_samples, sparse_attention_of_samples,
};
pub(crate) use conv::folded_quarter;
pub use conv::{CONV_SQUARE, Conv3d, UpsampledConv, conv3d, conv3d_add, upsampled_conv};
pub use layout::{
    columns, embedding, interleave0, join_columns, patchify, split_modulation, unpatchify,
};
pub use linear::{
    Linear, LinearInput, feed_forward_residual, linear, linear_each, linear_full, linear_residual,
};
pub use mask::Mask;
pub use norm::{
    RopeTable, channel_norm, channel_normed, layer_norm, layer_norm_full, layer_norm_input,
    rms_norm_rope,
};
pub use per_frame::{Modulation, PerFrame};
pub use pointwise::{
    add_row, all_finite, change, clamp_inplace, difference, gate_residual, mul_inplace, narrowed,
    relative_change, widened,
};
pub use solver::{UniPcStep, UniPcUpdate, euler_step, guide, mix_noise, unipc_step};
