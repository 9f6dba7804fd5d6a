//! Reading a `tokenizer.json`, the format of Hugging Face's tokenizers.
//!
//! What published UMT5 folders hold is read, and plain lists of words for small models; any other part
//! is refused by its name. Written here rather than taken from the `tokenizers` crate, which takes 140
//! seconds of one core to compile, and panics on a charsmap that leads out of its array.

use std::collections::HashMap;

use serde::Deserialize;

use super::added::{AddedToken, AddedTokens};
use super::model::{Model, ScoredPiece, Unigram, Words};
use super::normalizer::Normalizer;
use super::split::Splitter;
use super::{Pipeline, Text, Tokenizer};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Normalizer>,
    pre_tokenizer: Option<Splitter>,
    post_processor: Option<PostProcessor>,
    model: ModelJson,
}

#[derive(Deserialize)]
struct ModelJson {
    /// Old files leave it out.
    r#type: Option<String>,
    vocab: Vocabulary,
    unk_id: Option<u32>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Scores(Vec<(String, f64)>),
    Ids(HashMap<String, u32>),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PostProcessor {
    TemplateProcessing { single: Vec<TemplatePart>, special_tokens: HashMap<String, SpecialToken> },
}

#[derive(Deserialize)]
enum TemplatePart {
    Sequence {},
    SpecialToken { id: String },
}

#[derive(Deserialize)]
struct SpecialToken {
    ids: Vec<u32>,
}

/// Reads the bytes of a `tokenizer.json`.
pub(super) fn read(bytes: &[u8]) -> Result<Tokenizer, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let (before, after) = template(file.post_processor)?;
    let entries = match &file.model.vocab {
        Vocabulary::Scores(scores) => scores.len(),
        Vocabulary::Ids(ids) => ids.len(),
    };
    let model = model(file.model)?;
    let mut added = file.added_tokens;
    number(&mut added, &model, entries)?;
    let (mut normalized, verbatim): (Vec<_>, Vec<_>) =
        added.into_iter().partition(|token| token.normalized);
    if let Some(normalizer) = &file.normalizer {
        for token in &mut normalized {
            token.content = normalizer.apply(&token.content);
        }
    }
    let pipeline = Pipeline {
        verbatim: AddedTokens::new(verbatim),
        normalizer: file.normalizer,
        normalized: AddedTokens::new(normalized),
        splitter: file.pre_tokenizer,
    };
    Ok(Tokenizer { file: "tokenizer.json", text: Text::Json(pipeline), model, before, after })
}

/// Gives added tokens the ids that the reference gives them: those of the vocabulary, which has so
/// many `entries`, and then the next ones in the order of the file. It warns where the file says
/// otherwise, but does not heed it (`TokenizerVisitor` in `tokenizer/serialization.rs`).
fn number(added: &mut [AddedToken], model: &Model, entries: usize) -> Result<(), String> {
    let mut next =
        u32::try_from(entries).map_err(|_| format!("its vocabulary has {entries} entries"))?;
    let mut seen: HashMap<String, u32> = HashMap::new();
    for token in added.iter_mut().filter(|token| !token.content.is_empty()) {
        let known = model.id(&token.content).or_else(|| seen.get(&token.content).copied());
        token.id = known.unwrap_or(next);
        if known.is_none() {
            seen.insert(token.content.clone(), next);
            next = next.saturating_add(1);
        }
    }
    Ok(())
}

/// The ids before and after the prompt's own.
fn template(processor: Option<PostProcessor>) -> Result<(Vec<u32>, Vec<u32>), String> {
    let Some(PostProcessor::TemplateProcessing { single, special_tokens }) = processor else {
        return Ok((Vec::new(), Vec::new()));
    };
    let prompts = single.iter().filter(|part| matches!(part, TemplatePart::Sequence {})).count();
    if prompts != 1 {
        return Err(format!("its template holds the prompt {prompts} times, instead of once"));
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut ids = &mut before;
    for part in single {
        match part {
            TemplatePart::Sequence {} => ids = &mut after,
            TemplatePart::SpecialToken { id } => {
                let token = special_tokens.get(&id).ok_or_else(|| {
                    format!("its template names {id:?}, which is not among its special tokens")
                })?;
                ids.extend_from_slice(&token.ids);
            }
        }
    }
    Ok((before, after))
}

fn model(json: ModelJson) -> Result<Model, String> {
    match (json.r#type.as_deref(), json.vocab) {
        (Some("Unigram") | None, Vocabulary::Scores(scores)) => {
            unigram(scores, json.unk_id, json.byte_fallback).map(Model::Unigram)
        }
        (Some("WordLevel"), Vocabulary::Ids(ids)) => {
            Ok(Model::Words(Words::new(ids, json.unk_token.as_deref())))
        }
        (kind, _) => Err(format!(
            "its model is of type {kind:?}; Unigram, which UMT5 has, and WordLevel are read"
        )),
    }
}

fn unigram(
    scores: Vec<(String, f64)>,
    unknown: Option<u32>,
    byte_fallback: bool,
) -> Result<Unigram, String> {
    let count = scores.len();
    if let Some(id) = unknown.filter(|id| *id as usize >= count) {
        return Err(format!("its unk_id is {id}, but its vocabulary has {count} pieces"));
    }
    let pieces: Vec<_> =
        (0..).zip(scores).map(|(id, (text, score))| ScoredPiece { text, id, score }).collect();
    let worst = pieces.iter().map(|piece| piece.score).fold(f64::INFINITY, f64::min);
    let named = || pieces.iter().map(|piece| (piece.text.as_str(), piece.id));
    let bytes = byte_fallback.then(|| Unigram::byte_tokens(named()));
    Ok(Unigram::new(pieces, worst, unknown, bytes))
}
