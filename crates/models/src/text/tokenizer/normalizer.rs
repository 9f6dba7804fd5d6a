//! What happens to a prompt before it is split: the `normalizer` of a `tokenizer.json`.

use base64::Engine;
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;

use super::charsmap::CharsMap;

/// One step, or several. A step that is not here is refused by name when the file is read.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Normalizer {
    /// Steps, one after the other.
    Sequence { normalizers: Vec<Normalizer> },
    /// sentencepiece's compiled rules.
    Precompiled(Precompiled),
    /// White space removed at the ends.
    Strip { strip_left: bool, strip_right: bool },
    /// One pattern replaced by one string.
    Replace(Replace),
    /// Characters in small letters.
    Lowercase,
    /// A string put before a text that is not empty.
    Prepend { prepend: String },
    /// Unicode normalisation forms.
    #[serde(rename = "NFC")]
    Nfc,
    #[serde(rename = "NFD")]
    Nfd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFKD")]
    Nfkd,
}

impl Normalizer {
    pub fn apply(&self, text: &str) -> String {
        match self {
            Self::Sequence { normalizers } => {
                normalizers.iter().fold(text.to_owned(), |text, step| step.apply(&text))
            }
            Self::Precompiled(rules) => rules.0.tokenizers(text),
            Self::Strip { strip_left, strip_right } => {
                let text = if *strip_left { text.trim_start() } else { text };
                if *strip_right { text.trim_end() } else { text }.to_owned()
            }
            Self::Replace(replace) => replace.apply(text),
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Self::Prepend { prepend } if !text.is_empty() => format!("{prepend}{text}"),
            Self::Prepend { .. } => String::new(),
            Self::Nfc => text.nfc().collect(),
            Self::Nfd => text.nfd().collect(),
            Self::Nfkc => text.nfkc().collect(),
            Self::Nfkd => text.nfkd().collect(),
        }
    }
}

/// Compiled rules, which JSON holds in base64.
#[derive(Debug, Deserialize)]
#[serde(try_from = "PrecompiledJson")]
pub(super) struct Precompiled(CharsMap);

#[derive(Deserialize)]
struct PrecompiledJson {
    precompiled_charsmap: String,
}

impl TryFrom<PrecompiledJson> for Precompiled {
    type Error = String;

    fn try_from(json: PrecompiledJson) -> Result<Self, String> {
        let blob = base64::engine::general_purpose::STANDARD
            .decode(json.precompiled_charsmap)
            .map_err(|error| format!("precompiled_charsmap is not base64: {error}"))?;
        CharsMap::new(&blob).map(Self)
    }
}

/// A pattern and what replaces it.
#[derive(Debug, Deserialize)]
#[serde(try_from = "ReplaceJson")]
pub(super) struct Replace {
    pattern: Pattern,
    content: String,
}

#[derive(Debug)]
enum Pattern {
    /// A string, never empty.
    Literal(String),
    /// At least so many of a character, or of white space, in a row.
    Run { of: Option<char>, at_least: usize },
}

#[derive(Deserialize)]
struct ReplaceJson {
    pattern: PatternJson,
    content: String,
}

#[derive(Deserialize)]
enum PatternJson {
    String(String),
    Regex(String),
}

impl TryFrom<ReplaceJson> for Replace {
    type Error = String;

    fn try_from(json: ReplaceJson) -> Result<Self, String> {
        let pattern = match json.pattern {
            PatternJson::String(text) if text.is_empty() => {
                return Err("it replaces an empty pattern".into());
            }
            PatternJson::String(text) => Pattern::Literal(text),
            PatternJson::Regex(regex) => Pattern::run(&regex).ok_or_else(|| {
                format!(
                    "it replaces the regular expression {regex:?}; only runs of one character or of \
                     \\s are read, such as \" {{2,}}\", which is all that UMT5's tokenizer has"
                )
            })?,
        };
        Ok(Self { pattern, content: json.content })
    }
}

impl Pattern {
    /// Reads "x+", "x{n,}" or "x", where x is a character without a special meaning, or "\s".
    fn run(regex: &str) -> Option<Self> {
        let (of, rest) = match regex.strip_prefix("\\s") {
            Some(rest) => (None, rest),
            None => {
                let first = regex.chars().next().filter(|c| !r"\.+*?()|[]{}^$#&-~".contains(*c))?;
                (Some(first), &regex[first.len_utf8()..])
            }
        };
        let at_least = match rest {
            "" | "+" => 1,
            _ => rest.strip_prefix('{')?.strip_suffix(",}")?.parse().ok().filter(|n| *n > 0)?,
        };
        match (of, rest) {
            (Some(c), "") => Some(Self::Literal(c.into())),
            (None, "") => None,
            _ => Some(Self::Run { of, at_least }),
        }
    }
}

impl Replace {
    fn apply(&self, text: &str) -> String {
        let (of, at_least) = match &self.pattern {
            Pattern::Literal(literal) => return text.replace(literal, &self.content),
            Pattern::Run { of, at_least } => (*of, *at_least),
        };
        let is_of = |c: char| of.map_or_else(|| c.is_whitespace(), |of| of == c);
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let run = rest.find(|c| !is_of(c)).unwrap_or(rest.len());
            let used = if run == 0 { first.len_utf8() } else { run };
            if run > 0 && rest[..run].chars().count() >= at_least {
                out.push_str(&self.content);
            } else {
                out.push_str(&rest[..used]);
            }
            rest = &rest[used..];
        }
        out
    }
}
