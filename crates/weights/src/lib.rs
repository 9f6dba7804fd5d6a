//! What a checkpoint file says: every container and published layout, read as data, under one set of names.
//!
//! The nouns:
//! - [`TransformerConfig`], [`VaeConfig`], [`TextConfig`], [`ClipVisionConfig`]: a network's sizes, from
//!   `config.json`, with every number bounded.
//! - [`TensorSource`]: the tensors of one network under their canonical names, those of the Diffusers
//!   and transformers folders, whatever the file calls them. A network takes each one with the shape it
//!   expects, and asks at the end whether any is left over.
//!
//! Nothing in a file is trusted: no header can cause a panic, an unbounded allocation, code to run, or
//! a path outside the model's folder to be opened.

mod config;
mod error;
mod kind;
mod source;

pub use config::{ClipVisionConfig, TextConfig, TransformerConfig, VaeConfig};
pub use error::WeightsError;
pub use kind::ModelKind;
pub use source::TensorSource;
