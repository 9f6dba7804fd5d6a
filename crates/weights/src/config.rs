//! The sizes of each network, as `config.json` states them.
//!
//! A configuration comes from outside like any other file: every number is bounded here, so that the
//! shapes computed from it cannot overflow or ask for absurd memory, and a key that is not known is
//! refused by name, because it stands for a feature that the result would silently lack.

mod clip;
mod fields;
mod text;
mod transformer;
mod vae;

pub use clip::ClipVisionConfig;
pub(crate) use fields::{Fields, LAYERS_MAX, WIDTH_MAX};
pub use text::TextConfig;
pub use transformer::TransformerConfig;
pub(crate) use transformer::{SKYREELS, WAN};
pub use vae::VaeConfig;

#[cfg(test)]
mod tests;
