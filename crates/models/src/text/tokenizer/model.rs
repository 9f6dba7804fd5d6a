//! Pieces to token ids: sentencepiece's Unigram model and a plain list of words.

use std::collections::HashMap;

/// How much worse than the worst piece an unknown character is (`kUnkPenalty` in sentencepiece).
const UNKNOWN_PENALTY: f64 = 10.0;

/// How a piece becomes tokens.
#[derive(Debug)]
pub(super) enum Model {
    Unigram(Unigram),
    Words(Words),
}

impl Model {
    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        match self {
            Self::Unigram(unigram) => unigram.encode(text, ids),
            Self::Words(words) => {
                let id = words.ids.get(text).copied().or(words.unknown);
                ids.push(id.ok_or_else(|| {
                    format!("it does not have the word {text:?}, nor a token for unknown words")
                })?);
                Ok(())
            }
        }
    }

    /// The id of exactly this token.
    pub fn id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Unigram(unigram) => unigram.pieces.id(token),
            Self::Words(words) => words.ids.get(token).copied(),
        }
    }
}

/// One id for each word.
#[derive(Debug)]
pub(super) struct Words {
    ids: HashMap<String, u32>,
    unknown: Option<u32>,
}

impl Words {
    /// `unknown` is the word that stands for those that are missing.
    pub fn new(ids: HashMap<String, u32>, unknown: Option<&str>) -> Self {
        let unknown = unknown.and_then(|word| ids.get(word).copied());
        Self { ids, unknown }
    }
}

/// A piece of a vocabulary.
#[derive(Debug)]
pub(super) struct ScoredPiece {
    pub text: String,
    pub id: u32,
    /// Logarithm of its probability.
    pub score: f64,
}

/// The pieces in the order of their bytes, so that the ones that begin a text lie side by side.
#[derive(Debug)]
struct Pieces(Vec<ScoredPiece>);

impl Pieces {
    fn new(mut pieces: Vec<ScoredPiece>) -> Self {
        pieces.retain(|piece| !piece.text.is_empty());
        pieces.sort_by(|a, b| a.text.cmp(&b.text).then(b.id.cmp(&a.id)));
        // Of pieces that are listed twice, the last counts.
        pieces.dedup_by(|b, a| a.text == b.text);
        Self(pieces)
    }

    fn id(&self, text: &str) -> Option<u32> {
        let at = self.0.binary_search_by(|piece| piece.text.as_str().cmp(text)).ok()?;
        Some(self.0[at].id)
    }

    /// The pieces that `text` begins with, the shortest first.
    fn beginning<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a ScoredPiece> {
        let mut range = &self.0[..];
        text.bytes()
            .enumerate()
            .map_while(move |(depth, byte)| {
                let at = |piece: &ScoredPiece| piece.text.as_bytes().get(depth).copied();
                let start = range.partition_point(|piece| at(piece) < Some(byte));
                let end = range.partition_point(|piece| at(piece) <= Some(byte));
                range = &range[start..end];
                range.first().map(|first| (first.text.len() == depth + 1).then_some(first))
            })
            .flatten()
    }
}

/// sentencepiece's Unigram model: of all ways to cut a text into pieces, the most probable.
///
/// Kudo, "Subword Regularization" (2018), section 3.2; cut by the Viterbi algorithm as in
/// `EncodeOptimized` of sentencepiece's `src/unigram_model.cc`.
#[derive(Debug)]
pub(super) struct Unigram {
    pieces: Pieces,
    unknown: Option<u32>,
    unknown_score: f64,
    /// The tokens of single bytes, which spell what no piece holds.
    bytes: Option<Vec<Option<u32>>>,
}

/// The best way to reach a place in the text.
#[derive(Clone, Copy)]
struct Reached {
    score: f64,
    from: usize,
    /// `None`: by a character that is in no piece.
    id: Option<u32>,
}

impl Unigram {
    /// `worst` is the lowest score of all pieces, those included that are never cut out of a text.
    pub fn new(
        pieces: Vec<ScoredPiece>,
        worst: f64,
        unknown: Option<u32>,
        bytes: Option<Vec<Option<u32>>>,
    ) -> Self {
        Self { pieces: Pieces::new(pieces), unknown, unknown_score: worst - UNKNOWN_PENALTY, bytes }
    }

    /// The ids of the 256 tokens "<0x00>" to "<0xFF>" among `pieces`; of one listed twice, the last.
    pub fn byte_tokens<'a>(pieces: impl Iterator<Item = (&'a str, u32)>) -> Vec<Option<u32>> {
        let mut ids = vec![None; 256];
        for (text, id) in pieces {
            let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            // Other spellings of a number are words like any other.
            if let Some(byte) = byte.filter(|byte| text == format!("<0x{byte:02X}>")) {
                ids[usize::from(byte)] = Some(id);
            }
        }
        ids
    }

    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let mut best: Vec<Option<Reached>> = vec![None; text.len() + 1];
        let improve = |place: &mut Option<Reached>, reached: Reached| {
            if place.is_none_or(|old| reached.score > old.score) {
                *place = Some(reached);
            }
        };
        for (from, c) in text.char_indices() {
            // Every character is reached, because the one before it can be cut off for itself.
            let here = best[from].map_or(0.0, |reached| reached.score);
            let mut alone = false;
            for piece in self.pieces.beginning(&text[from..]) {
                alone |= piece.text.len() == c.len_utf8();
                let reached = Reached { score: here + piece.score, from, id: Some(piece.id) };
                improve(&mut best[from + piece.text.len()], reached);
            }
            if !alone {
                let reached = Reached { score: here + self.unknown_score, from, id: None };
                improve(&mut best[from + c.len_utf8()], reached);
            }
        }
        let mut cuts = Vec::new();
        let mut end = text.len();
        while let Some(Reached { from, id, .. }) = best[end].filter(|_| end > 0) {
            cuts.push((from, end, id));
            end = from;
        }
        cuts.reverse();
        let known = |id: Option<u32>| id.filter(|id| Some(*id) != self.unknown);
        // Neighbouring unknown characters are one unknown token, if no bytes spell them.
        for run in cuts.chunk_by(|a, b| known(a.2).is_none() && known(b.2).is_none()) {
            match known(run[0].2) {
                Some(id) => ids.push(id),
                None => self.spell(&text[run[0].0..run[run.len() - 1].1], ids)?,
            }
        }
        Ok(())
    }

    /// Appends what stands for `text`, which no pieces cover.
    fn spell(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        if let Some(id) = self.pieces.id(text) {
            ids.push(id);
            return Ok(());
        }
        let byte = |b: u8| self.bytes.as_ref().and_then(|bytes| bytes[usize::from(b)]);
        if let Some(spelled) = text.bytes().map(byte).collect::<Option<Vec<_>>>() {
            ids.extend(spelled);
            return Ok(());
        }
        ids.push(self.unknown.ok_or_else(|| {
            format!("it has no pieces for {text:?}, nor a token for unknown characters")
        })?);
        Ok(())
    }
}
