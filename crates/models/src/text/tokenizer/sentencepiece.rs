//! A tokenizer from a sentencepiece model.

use super::charsmap::CharsMap;
use super::model::{Model, ScoredPiece, Unigram};
use super::{Text, Tokenizer};
use crate::text::spiece::{SpieceModel, SpiecePiece, kind};

/// What sentencepiece writes for a space.
const SPACE: char = '▁';

/// How a sentencepiece model prepares a text.
#[derive(Debug)]
pub(super) struct Rules {
    charsmap: Option<CharsMap>,
    /// A space goes before the text.
    dummy_prefix: bool,
    /// Spaces at the ends go, others are joined.
    joins_spaces: bool,
    /// Spaces become [`SPACE`].
    escapes_spaces: bool,
}

impl Rules {
    /// `text` as the pieces are to be found in it (`Normalizer::Normalize` in `src/normalizer.cc`).
    pub fn apply(&self, text: &str) -> String {
        let space = if self.escapes_spaces { SPACE } else { ' ' };
        let replaced: String = match &self.charsmap {
            Some(charsmap) => charsmap.sentencepiece(text).collect(),
            None => text.to_owned(),
        };
        let body = if self.joins_spaces { replaced.trim_matches(' ') } else { &replaced };
        let mut out = String::with_capacity(body.len() + 3);
        if self.dummy_prefix && !body.is_empty() {
            out.push(space);
        }
        let mut last = None;
        for c in body.chars() {
            if c != ' ' {
                out.push(c);
            } else if !(self.joins_spaces && last == Some(' ')) {
                out.push(space);
            }
            last = Some(c);
        }
        out
    }
}

/// Reads the bytes of a `spiece.model`. The end token follows every prompt, as T5 wants it.
pub(super) fn read(bytes: &[u8]) -> Result<Tokenizer, String> {
    let model = SpieceModel::read(bytes)?;
    if model.model_type != 1 {
        let kind = model.model_type;
        return Err(format!("its model_type is {kind}; only 1 is read, Unigram, which UMT5 has"));
    }
    let count = model.pieces.len();
    let end = u32::try_from(model.end).ok().filter(|end| (*end as usize) < count);
    let end = end.ok_or_else(|| format!("its eos_id is {}, of {count} pieces", model.end))?;
    let charsmap = match model.charsmap {
        [] => None,
        blob => Some(CharsMap::new(blob)?),
    };
    let rules = Rules {
        charsmap,
        dummy_prefix: model.dummy_prefix,
        joins_spaces: model.joins_spaces,
        escapes_spaces: model.escapes_spaces,
    };
    Ok(Tokenizer {
        file: "spiece.model",
        text: Text::Spiece(rules),
        model: Model::Unigram(unigram(model.pieces, model.byte_fallback)?),
        before: Vec::new(),
        after: vec![end],
    })
}

fn unigram(pieces: Vec<SpiecePiece>, byte_fallback: bool) -> Result<Unigram, String> {
    let id_of = |kind| pieces.iter().position(|piece| piece.kind == kind).map(|id| id as u32);
    let unknown = id_of(kind::UNKNOWN);
    let normal = || pieces.iter().filter(|piece| piece.kind == kind::NORMAL).map(|p| p.score);
    let worst = normal().fold(f64::INFINITY, f64::min);
    let best = normal().fold(f64::NEG_INFINITY, f64::max);
    if worst > best {
        return Err("it has no normal piece".into());
    }
    let of_bytes = (0u32..).zip(&pieces).filter(|(_, piece)| piece.kind == kind::BYTE);
    let bytes = byte_fallback
        .then(|| Unigram::byte_tokens(of_bytes.map(|(id, piece)| (piece.text.as_str(), id))));
    let scored = (0..)
        .zip(pieces)
        .filter_map(|(id, SpiecePiece { text, score, kind })| {
            let score = match kind {
                kind::NORMAL => score,
                // Better than any cut through it.
                kind::USER_DEFINED => text.len() as f64 * best - 0.1,
                _ => return None,
            };
            Some(ScoredPiece { text, id, score })
        })
        .collect();
    Ok(Unigram::new(scored, worst, unknown, bytes))
}
