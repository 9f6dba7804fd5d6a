//! Prompts to embeddings: cleaning, tokens and the UMT5 encoder.

mod clean;
mod encoder;
mod spiece;
mod tokenizer;

pub use clean::clean_prompt;
pub use encoder::TextEncoder;
pub use tokenizer::{Prompt, Tokenizer};
