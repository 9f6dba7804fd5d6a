//! Prompts cleaned as the reference does before it makes tokens of them.
//!
//! Source: `prompt_clean` in diffusers' `pipelines/skyreels_v2/pipeline_skyreels_v2.py`, which is
//! `ftfy.fix_text` (ftfy 6.3.1, its default settings), `html.unescape` twice, and white space joined.
//! Written here rather than taken from a crate: the port of ftfy brings all of ICU, two encoding
//! libraries and two regular expression engines.

mod badness;
mod characters;
mod charset;
mod entities;
mod mojibake;

use unicode_normalization::UnicodeNormalization;

/// How often one line is fixed before it is taken as it is. Two rounds are usual, because one repair
/// may reveal another; this bound is for text made to go on.
const MAX_ROUNDS: usize = 64;

/// The prompt that the text encoder is to see: wrong encodings, HTML references, odd widths, curly
/// quotes, ligatures and control characters repaired, white space joined to single spaces, NFC.
pub fn clean_prompt(text: &str) -> String {
    let fixed = fix_text(text);
    let unescaped = entities::unescape(&entities::unescape(&fixed));
    unescaped.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// White space as Python understands it: Unicode's, and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// ftfy's `fix_text`: each line for itself.
fn fix_text(text: &str) -> String {
    // "<" says that this is HTML, whose references are meant literally, from that line on.
    let mut is_html = false;
    text.split_inclusive('\n')
        .map(|line| {
            is_html |= line.contains('<');
            fix_line(line, is_html)
        })
        .collect()
}

fn fix_line(line: &str, is_html: bool) -> String {
    let mut text = line.to_owned();
    for _ in 0..MAX_ROUNDS {
        let before = text.clone();
        if !is_html {
            text = entities::unescape_unambiguous(&text);
        }
        text = mojibake::fix_encoding(text);
        text = mojibake::fix_c1_controls(&text);
        text = characters::plain_characters(&text);
        text = characters::unix_line_breaks(&text);
        text = characters::without_terminal_escapes(&text);
        text = characters::without_controls(&text);
        text = text.nfc().collect();
        if text == before {
            break;
        }
    }
    text
}
