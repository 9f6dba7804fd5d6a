//! What a checkpoint file says: every container and published layout, read as data, under one set of names; and
//! written again in fewer bits.
//!
//! The nouns:
//! - [`TransformerConfig`], [`VaeConfig`], [`TextConfig`], [`ClipVisionConfig`]: a network's sizes, from
//!   `config.json`, with every number bounded.
//! - [`TensorSource`]: the tensors of one network under their canonical names, those of the Diffusers
//!   and transformers folders, whatever the file calls them. A network takes each one with the shape it
//!   expects, and asks at the end whether any is left over.
//!
//! - [`ModelFolder`]: a model, opened: its kind, its networks as configuration and source, its tokenizer.
//!   [`inspect`] says the same for people, with what is missing.
//! - [`quantize_model`]: a model written again in fewer bits.
//! - [`Lora`]: a change to a transformer's weights, merged when they are taken.
//!
//! ```no_run
//! let model = longreel_weights::ModelFolder::open("SkyReels-V2-DF-1.3B-540P")?;
//! println!("{} with {} parameters", model.kind(), model.parameters());
//! let (config, mut tensors) = model.transformer()?;
//! let table = tensors.take_f32("scale_shift_table", &[1, 2, config.dim()])?;
//! # Ok::<(), longreel_weights::WeightsError>(())
//! ```
//!
//! Nothing in a file is trusted: no header can cause a panic, an unbounded allocation, code to run, or
//! a path outside the model's folder to be opened.

mod config;
mod container;
mod dtype;
mod error;
mod folder;
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod kind;
mod lora;
mod names;
mod network;
mod published;
mod quantize;
mod revision;
mod source;

pub use config::{ClipVisionConfig, TextConfig, TransformerConfig, VaeConfig};
pub use dtype::WeightDtype;
pub use error::WeightsError;
pub use folder::{Layout, ModelFolder};
pub use inspect::{ComponentReport, Report, inspect};
pub use kind::{Family, ModelKind};
pub use lora::Lora;
pub use network::ExpectedTensor;
pub use published::{
    PublishedBytes, PublishedModel, published_image_encoder, published_models,
    published_text_encoder,
};
pub use quantize::{
    Quantized, QuantizedPart, QuantizedTensor, Target, quantize_model, quantized_bytes,
};
pub use revision::file_revision;
pub use source::TensorSource;
