//! Tokens that are written out in a prompt, such as `</s>`: the `added_tokens` of a `tokenizer.json`.

use serde::Deserialize;

use super::split::{Part, is_word};

/// One such token.
#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    /// Given when the file is read; what it says itself does not count.
    #[serde(skip)]
    pub id: u32,
    pub content: String,
    /// Only where no letter stands beside it.
    #[serde(default)]
    single_word: bool,
    /// Swallows the white space before it.
    #[serde(default)]
    lstrip: bool,
    /// Swallows the white space after it.
    #[serde(default)]
    rstrip: bool,
    /// Looked for in the normalised text.
    #[serde(default)]
    pub normalized: bool,
}

/// Something between added tokens, or one of them.
pub(super) enum Piece {
    Text(Part),
    Token(u32),
}

/// Tokens to look for, the longest first, so that "<a>b" wins over "<a>".
#[derive(Debug, Default)]
pub(super) struct AddedTokens(Vec<AddedToken>);

impl AddedTokens {
    pub fn new(mut tokens: Vec<AddedToken>) -> Self {
        tokens.retain(|token| !token.content.is_empty());
        tokens.sort_by_key(|token| std::cmp::Reverse(token.content.len()));
        Self(tokens)
    }

    /// The leftmost token in `text` from byte `from` on, the longest of those that begin there.
    fn find(&self, text: &str, from: usize) -> Option<(usize, &AddedToken)> {
        text[from..].char_indices().find_map(|(at, _)| {
            let here = &text[from + at..];
            let token = self.0.iter().find(|token| here.starts_with(&token.content))?;
            Some((from + at, token))
        })
    }

    /// Cuts `part` where a token is written out.
    pub fn split(&self, part: Part) -> Vec<Piece> {
        let text = part.text.as_str();
        let mut pieces = Vec::new();
        let between = |start: usize, end: usize| {
            Piece::Text(Part { text: text[start..end].into(), begins: part.begins && start == 0 })
        };
        let (mut done, mut from) = (0, 0);
        while let Some((at, token)) = self.find(text, from) {
            let (before, after) = (&text[..at], &text[at + token.content.len()..]);
            from = at + token.content.len();
            if token.single_word
                && (before.chars().next_back().is_some_and(is_word)
                    || after.chars().next().is_some_and(is_word))
            {
                continue;
            }
            let start = if token.lstrip { before.trim_end().len().max(done) } else { at };
            if start > done {
                pieces.push(between(done, start));
            }
            pieces.push(Piece::Token(token.id));
            let swallowed = if token.rstrip { after.len() - after.trim_start().len() } else { 0 };
            done = from + swallowed;
            from = done;
        }
        if done < text.len() {
            pieces.push(between(done, text.len()));
        }
        pieces
    }
}
