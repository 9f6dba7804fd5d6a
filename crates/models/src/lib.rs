//! The networks: transformer, VAE, UMT5, CLIP and their tokenizers.
//!
//! Each network is built from a config and a [`TensorSource`](longreel_weights::TensorSource), which
//! check every shape, so that a network that loads also runs:
//! - [`Transformer`]: latents, timesteps and a [`Context`] to a velocity.
//! - [`SplitTransformer`]: the same on several devices, each with a strip of the picture.
//! - [`VaeDecoder`], [`VaeEncoder`]: latents to pictures and back, as streams.
//! - [`Tokenizer`], [`TextEncoder`]: a prompt to tokens and to embeddings.
//! - [`ClipPreprocess`], [`ClipVision`]: a conditioning image to embeddings.

mod clip;
mod error;
mod layers;
mod text;
mod transformer;
mod upscaler;
mod vae;

pub use clip::{ClipPreprocess, ClipVision};
pub use error::ModelError;
pub use text::{Prompt, TextEncoder, Tokenizer, clean_prompt};
pub use transformer::{
    AttentionWindow, Context, ContextOptions, ForwardOptions, KeyValueCache, Pass, SparseAttention,
    SplitCache, SplitContext, SplitPass, SplitResidual, SplitTransformer, Transformer,
};
pub use upscaler::{Upscaler, UpscalerShape};
pub use vae::{Vae, VaeDecoder, VaeDecoderState, VaeEncoder, VaeEncoderState, VaeTile, VaeTiles};
