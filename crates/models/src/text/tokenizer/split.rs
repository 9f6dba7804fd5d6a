//! How a prompt is split into the pieces that the model sees one by one: the `pre_tokenizer` of a
//! `tokenizer.json`.

use serde::Deserialize;
use unicode_normalization::char::is_combining_mark;

/// One way to split, or several. One that is not here is refused by name when the file is read.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum Splitter {
    /// Steps, each splitting what the one before left.
    Sequence { pretokenizers: Vec<Splitter> },
    /// Spaces become a visible character, and words begin with it.
    Metaspace(Metaspace),
    /// Words and runs of punctuation.
    Whitespace,
    /// Whatever stands between white space.
    WhitespaceSplit,
}

/// A part of the prompt, and whether the prompt begins with it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub text: String,
    pub begins: bool,
}

impl Splitter {
    pub fn apply(&self, part: Part) -> Vec<Part> {
        match self {
            Self::Sequence { pretokenizers } => {
                pretokenizers.iter().fold(vec![part], |parts, step| {
                    parts.into_iter().flat_map(|p| step.apply(p)).collect()
                })
            }
            Self::Metaspace(metaspace) => metaspace.apply(part),
            Self::Whitespace => runs(&part, |c| match c {
                _ if is_word(c) => Some(true),
                _ if c.is_whitespace() => None,
                _ => Some(false),
            }),
            Self::WhitespaceSplit => runs(&part, |c| (!c.is_whitespace()).then_some(true)),
        }
    }
}

/// The longest runs of characters of one kind; those without a kind separate and are dropped.
fn runs(part: &Part, kind: impl Fn(char) -> Option<bool>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut last = None;
    for (at, c) in part.text.char_indices() {
        let this = kind(c);
        match parts.last_mut() {
            Some(open) if this.is_some() && this == last => open.text.push(c),
            _ if this.is_some() => {
                parts.push(Part { text: c.into(), begins: part.begins && at == 0 });
            }
            _ => {}
        }
        last = this;
    }
    parts
}

/// sentencepiece's treatment of spaces.
#[derive(Debug, Deserialize)]
#[serde(try_from = "MetaspaceJson")]
pub(super) struct Metaspace {
    replacement: char,
    prepend: Prepend,
    split: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Prepend {
    /// Only to the part that begins the prompt.
    First,
    Never,
    #[default]
    Always,
}

#[derive(Deserialize)]
struct MetaspaceJson {
    replacement: char,
    #[serde(default)]
    prepend_scheme: Option<Prepend>,
    /// How files of before `prepend_scheme` say it.
    add_prefix_space: Option<bool>,
    split: Option<bool>,
}

impl TryFrom<MetaspaceJson> for Metaspace {
    type Error = String;

    fn try_from(json: MetaspaceJson) -> Result<Self, String> {
        let prepend = match (json.add_prefix_space, json.prepend_scheme) {
            (Some(false), Some(scheme)) if scheme != Prepend::Never => {
                return Err(
                    "its Metaspace has add_prefix_space = false, but prepend_scheme is not \
                            \"never\""
                        .into(),
                );
            }
            (Some(false), _) => Prepend::Never,
            (_, scheme) => scheme.unwrap_or_default(),
        };
        Ok(Self { replacement: json.replacement, prepend, split: json.split.unwrap_or(true) })
    }
}

impl Metaspace {
    fn apply(&self, part: Part) -> Vec<Part> {
        let mark = self.replacement;
        let mut text = part.text.replace(' ', mark.encode_utf8(&mut [0; 4]));
        let wanted = match self.prepend {
            Prepend::Always => true,
            Prepend::First => part.begins,
            Prepend::Never => false,
        };
        if wanted && !text.is_empty() && !text.starts_with(mark) {
            text.insert(0, mark);
        }
        if !self.split {
            return vec![Part { text, begins: part.begins }];
        }
        let mut parts = Vec::new();
        let mut start = 0;
        for (at, _) in text.match_indices(mark).filter(|(at, _)| *at > 0) {
            parts.push(Part { text: text[start..at].into(), begins: part.begins && start == 0 });
            start = at;
        }
        parts.push(Part { text: text[start..].into(), begins: part.begins && start == 0 });
        parts
    }
}

/// Whether a regular expression's `\w` matches `c`: letters, marks, decimal digits, connecting
/// punctuation and joiners (Unicode TR 18, annex C).
pub(super) fn is_word(c: char) -> bool {
    c.is_alphabetic()
        || is_combining_mark(c)
        || is_decimal_digit(c)
        || matches!(
            c,
            '_' | '\u{203f}' | '\u{2040}' | '\u{2054}' | '\u{fe33}' | '\u{fe34}' | '\u{fe4d}'
                ..='\u{fe4f}' | '\u{ff3f}' | '\u{200c}' | '\u{200d}'
        )
}

/// Decimal digits come in rows of ten; these begin them (general category Nd, Unicode 14).
const ZEROS: &[u32] = &[
    0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66,
    0xDE6, 0xE50, 0xED0, 0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90,
    0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
    0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650,
    0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0, 0x16B50,
    0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
];

fn is_decimal_digit(c: char) -> bool {
    let code = c as u32;
    let row = ZEROS.partition_point(|zero| *zero <= code);
    row > 0 && code < ZEROS[row - 1] + 10
}
