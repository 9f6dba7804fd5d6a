//! Prompts to embeddings, each once.

use std::collections::HashMap;

use longreel_kernels::{Device, Tensor};
use longreel_models::{TextEncoder, Tokenizer};
use longreel_weights::ModelFolder;

use crate::device::share_with_text;
use crate::error::FilmError;
use crate::events::{Event, Observer};

/// Longest prompt in tokens; the rest is cut with the end token kept, as the reference does.
pub const MAX_TOKENS: usize = 512;

/// A text encoder of more bytes than this leaves memory as soon as its prompts are encoded.
pub(crate) const KEEP_BYTES: u64 = 512 << 20;

/// Embeddings by prompt, and the encoder while it is worth keeping.
#[derive(Default)]
pub struct Texts {
    encoder: Option<(Tokenizer, TextEncoder)>,
    embeddings: HashMap<String, Tensor>,
}

impl Texts {
    /// Embeds those of `prompts` that are new. Each result is `[tokens, text_dim]`, real tokens only.
    ///
    /// # Errors
    /// When tokenizer or encoder cannot be loaded or run.
    pub fn embed(
        &mut self,
        folder: &ModelFolder,
        device: &Device,
        prompts: &[&str],
        observer: &mut dyn Observer,
    ) -> Result<(), FilmError> {
        let mut new: Vec<&str> =
            prompts.iter().copied().filter(|p| !self.embeddings.contains_key(*p)).collect();
        new.dedup();
        if new.is_empty() {
            return Ok(());
        }
        observer.event(Event::Stage { what: "encoding the prompt".into() });
        let (tokenizer, encoder) = match &self.encoder {
            Some(loaded) => loaded,
            None => {
                let tokenizer = tokenizer(folder)?;
                let (config, source) = folder.text_encoder()?;
                let largest = config.d_model * config.d_ff.max(config.num_heads * config.d_kv);
                share_with_text(device, folder.text_encoder_bytes(), 4 * largest as u64)?;
                self.encoder.insert((tokenizer, TextEncoder::load(&config, source)?.on(device)))
            }
        };
        for prompt in new {
            let tokens = tokenizer.encode(prompt, MAX_TOKENS)?;
            if tokens.dropped_tokens > 0 {
                observer.event(Event::Warning {
                    message: format!(
                        "the prompt has {} tokens more than the {MAX_TOKENS} that the model reads; \
                         its end is not seen",
                        tokens.dropped_tokens
                    ),
                });
            }
            let embedding = encoder.encode(&tokens.ids)?;
            if !embedding.data().iter().all(|v| v.is_finite()) {
                return Err(FilmError::NotFinite { what: "the text encoder's answer".into() });
            }
            self.embeddings.insert(prompt.to_owned(), embedding);
        }
        if folder.text_encoder_bytes() > KEEP_BYTES {
            self.encoder = None;
        }
        Ok(())
    }

    /// Lets the encoder go.
    pub fn forget_encoder(&mut self) {
        self.encoder = None;
    }

    /// The embedding of a prompt that [`Texts::embed`] has seen.
    pub fn get(&self, prompt: &str) -> &Tensor {
        &self.embeddings[prompt]
    }
}

/// The tokenizer beside the text encoder, or else inside its file, as ComfyUI keeps it.
fn tokenizer(folder: &ModelFolder) -> Result<Tokenizer, FilmError> {
    match (folder.tokenizer(), folder.embedded_spiece()) {
        (Err(_), Some(spiece)) => Ok(Tokenizer::from_spiece(spiece)?),
        (place, _) => Ok(Tokenizer::from_dir(place?)?),
    }
}
