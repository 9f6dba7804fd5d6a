//! sentencepiece's compiled character rules: which strings become which others before anything else.
//!
//! The format (`src/normalizer.cc` in sentencepiece, and `src/double_array` of Darts-clone): the
//! length of a trie in bytes, u32 little-endian; the trie, an array of u32; and the replacements, each
//! ended by a zero byte, to whose offsets the trie leads.

use unicode_segmentation::UnicodeSegmentation;

/// A compiled set of rules.
#[derive(Debug)]
pub(super) struct CharsMap {
    trie: Vec<u32>,
    replacements: String,
}

impl CharsMap {
    /// Reads a `precompiled_charsmap`.
    pub fn new(blob: &[u8]) -> Result<Self, String> {
        let too_short = || "its precompiled_charsmap is cut off".to_owned();
        let (length, rest) = blob.split_first_chunk::<4>().ok_or_else(too_short)?;
        let length = u32::from_le_bytes(*length) as usize;
        if !length.is_multiple_of(4) {
            return Err(format!(
                "its precompiled_charsmap has a trie of {length} bytes, not of whole u32"
            ));
        }
        let (trie, replacements) = rest.split_at_checked(length).ok_or_else(too_short)?;
        let (units, _) = trie.as_chunks::<4>();
        let replacements = std::str::from_utf8(replacements)
            .map_err(|error| format!("its precompiled_charsmap is not UTF-8: {error}"))?;
        Ok(Self {
            trie: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(),
            replacements: replacements.to_owned(),
        })
    }

    /// Calls `found` with the length of every beginning of `key` that a rule replaces, shortest first,
    /// and with what replaces it. A trie that leads out of its array has no more rules there.
    fn prefixes<'a>(&'a self, key: &[u8], mut found: impl FnMut(usize, &'a str)) {
        let unit = |at: usize| self.trie.get(at).copied();
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let Some(root) = unit(0) else { return };
        let mut at = offset(root);
        for (index, &byte) in key.iter().enumerate() {
            if byte == 0 {
                return;
            }
            at ^= usize::from(byte);
            let Some(here) = unit(at) else { return };
            if here & (1 << 31 | 0xFF) != u32::from(byte) {
                return;
            }
            at ^= offset(here);
            if here >> 8 & 1 == 1 {
                let value = unit(at).map(|leaf| (leaf & !(1 << 31)) as usize);
                let text = value.and_then(|value| self.replacements.get(value..));
                if let Some(text) = text {
                    found(index + 1, text.split('\0').next().unwrap_or_default());
                }
            }
        }
    }

    /// What replaces the longest beginning of `text` that a rule replaces, and that beginning's length.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let mut longest = None;
        self.prefixes(text.as_bytes(), |length, to| {
            if text.is_char_boundary(length) {
                longest = Some((length, to));
            }
        });
        longest
    }

    /// `text` as sentencepiece normalises it: the longest rule at each place, in parts.
    pub fn sentencepiece<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?;
            let (length, part) = match self.longest(rest) {
                Some(found) => found,
                None => (first.len_utf8(), &rest[..first.len_utf8()]),
            };
            rest = &rest[length..];
            Some(part)
        })
    }

    /// `text` as the `Precompiled` normaliser of a `tokenizer.json` makes it: short graphemes as a
    /// whole, by the first rule that begins them, others by characters. This differs from
    /// sentencepiece for a few graphemes of several characters; the reference reads this file, so
    /// this is what it does (`spm_precompiled`, normalize_string).
    pub fn tokenizers(&self, text: &str) -> String {
        let replaced = |part: &str| {
            let mut first = None;
            self.prefixes(part.as_bytes(), |_, to| {
                first.get_or_insert(to);
            });
            first
        };
        let mut out = String::with_capacity(text.len());
        for grapheme in text.graphemes(true) {
            if grapheme.len() < 6
                && let Some(to) = replaced(grapheme)
            {
                out.push_str(to);
                continue;
            }
            for c in grapheme.chars() {
                match replaced(c.encode_utf8(&mut [0; 4])) {
                    Some(to) => out.push_str(to),
                    None => out.push(c),
                }
            }
        }
        out
    }
}
