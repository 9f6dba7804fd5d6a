//! Prompts to token ids, as the reference's tokenizer makes them.
//!
//! A [`Tokenizer`] is read from a `tokenizer.json` or from a `spiece.model`. Both prepare the text,
//! cut it into pieces and give each its id; the file says how. Either gives the same ids, except
//! where a prompt writes out a special token such as `</s>`: only the JSON file takes that for one.

mod added;
mod charsmap;
mod json;
mod model;
mod normalizer;
mod sentencepiece;
mod split;

use std::path::Path;

use self::added::{AddedTokens, Piece};
use self::model::Model;
use self::normalizer::Normalizer;
use self::split::{Part, Splitter};
use super::clean::clean_prompt;
use crate::error::{ModelError, input};

/// The largest tokenizer file that is read. UMT5's, of 256,000 pieces, has 17 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A prompt's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens, at most as many as asked for; the last is the end token.
    pub ids: Vec<u32>,
    /// The prompt as [`clean_prompt`] left it, which is what the tokens spell.
    pub cleaned: String,
    /// How many tokens of the prompt did not fit; 0 when the model sees all of it.
    pub dropped_tokens: usize,
}

/// Makes tokens of prompts.
#[derive(Debug)]
pub struct Tokenizer {
    /// The name of the file it was read from, for messages.
    file: &'static str,
    text: Text,
    model: Model,
    /// Ids before the prompt's own.
    before: Vec<u32>,
    /// Ids after the prompt's own, the end token last.
    after: Vec<u32>,
}

/// How a text is prepared.
#[derive(Debug)]
enum Text {
    Json(Pipeline),
    Spiece(sentencepiece::Rules),
}

/// The steps of a `tokenizer.json`, in this order.
#[derive(Debug)]
struct Pipeline {
    /// Tokens written out in the prompt.
    verbatim: AddedTokens,
    normalizer: Option<Normalizer>,
    /// Tokens to be found in the normalised prompt.
    normalized: AddedTokens,
    splitter: Option<Splitter>,
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it is no such file, or has a part that is not known here.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        json::read(bytes).map_err(|reason| failed("tokenizer.json", reason))
    }

    /// Reads the bytes of a `spiece.model`, a sentencepiece model of type Unigram.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if it is no such file.
    pub fn from_spiece(bytes: &[u8]) -> Result<Self, ModelError> {
        sentencepiece::read(bytes).map_err(|reason| failed("spiece.model", reason))
    }

    /// Reads the tokenizer of a model's folder: its `tokenizer.json` or, without one, its
    /// `spiece.model`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if neither is there, or the one that is cannot be read.
    pub fn from_dir(folder: &Path) -> Result<Self, ModelError> {
        if let Some(bytes) = read(folder, "tokenizer.json")? {
            return Self::from_json(&bytes);
        }
        match read(folder, "spiece.model")? {
            Some(bytes) => Self::from_spiece(&bytes),
            None => Err(failed("tokenizer.json", "neither it nor a spiece.model is there")),
        }
    }

    /// Cleans `text` and makes tokens of it, at most `max_tokens` with the end token; the reference
    /// allows 512. What does not fit is dropped from the end of the prompt.
    ///
    /// # Errors
    /// [`ModelError::Input`] if `max_tokens` leaves no room for the end token;
    /// [`ModelError::Tokenizer`] if the text has what the vocabulary cannot express.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Prompt, ModelError> {
        let around = self.before.len() + self.after.len();
        if max_tokens < around {
            return Err(input(
                "max_tokens",
                max_tokens,
                format!("this tokenizer adds {around} to every prompt; allow at least that many"),
            ));
        }
        let cleaned = clean_prompt(text);
        let tokens = self.tokens(&cleaned).map_err(|reason| failed(self.file, reason))?;
        let kept = tokens.len().min(max_tokens - around);
        let ids = [&self.before[..], &tokens[..kept], &self.after[..]].concat();
        Ok(Prompt { ids, cleaned, dropped_tokens: tokens.len() - kept })
    }

    /// The tokens of a cleaned prompt, without those around it.
    fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        let pipeline = match &self.text {
            Text::Json(pipeline) => pipeline,
            Text::Spiece(rules) => {
                self.model.encode(&rules.apply(text), &mut ids)?;
                return Ok(ids);
            }
        };
        for piece in pipeline.pieces(text) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(part) => {
                    let parts = match &pipeline.splitter {
                        Some(splitter) => splitter.apply(part),
                        None => vec![part],
                    };
                    for part in parts.iter().filter(|part| !part.text.is_empty()) {
                        self.model.encode(&part.text, &mut ids)?;
                    }
                }
            }
        }
        Ok(ids)
    }
}

impl Pipeline {
    /// `text` cut at added tokens, the parts between them normalised.
    fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for piece in self.verbatim.split(Part { text: text.into(), begins: true }) {
            match piece {
                Piece::Text(part) => {
                    let text = match &self.normalizer {
                        Some(normalizer) => normalizer.apply(&part.text),
                        None => part.text,
                    };
                    pieces.extend(self.normalized.split(Part { text, begins: part.begins }));
                }
                token => pieces.push(token),
            }
        }
        pieces
    }
}

fn failed(file: &str, reason: impl Into<String>) -> ModelError {
    ModelError::Tokenizer { file: file.into(), reason: reason.into() }
}

/// The bytes of `folder`/`name`, or `None` if there is no such file.
fn read(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    let path = folder.join(name);
    let unreadable = |error: std::io::Error| failed(name, format!("it cannot be read: {error}"));
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() {
        return Err(failed(name, "it is not a file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        let reason = format!("it has {} bytes; at most {MAX_FILE_BYTES} are read", metadata.len());
        return Err(failed(name, reason));
    }
    std::fs::read(&path).map(Some).map_err(unreadable)
}
