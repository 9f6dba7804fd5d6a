//! Repair of text that was read in the wrong encoding (`ftfy/__init__.py`, fix_encoding).

use super::badness::is_bad;
use super::charset::{CHARSETS, Charset, LATIN_LIKE, LOST, c1_as_windows_1252};

/// Undoes wrong readings, one upon the other, until the text looks right.
pub(super) fn fix_encoding(text: String) -> String {
    let mut text = text;
    loop {
        match fix_once(&text) {
            // Every repair shortens the text or removes C1 controls, so there is a last one.
            Some(fixed) if fixed != text => text = fixed,
            _ => return text,
        }
    }
}

fn fix_once(text: &str) -> Option<String> {
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    // Most likely it is UTF-8, read in one encoding from beginning to end.
    if let Some(fixed) = CHARSETS.iter().find_map(|charset| reread(text, charset)) {
        return Some(fixed);
    }
    // Or parts of it are.
    if let Some(fixed) = fix_parts(text) {
        return Some(fixed);
    }
    // Otherwise C1 controls, which nobody writes, were meant as windows-1252.
    text.contains(is_c1).then(|| fix_c1_controls(text))
}

fn is_c1(c: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&c)
}

/// C1 controls as browsers show them.
pub(super) fn fix_c1_controls(text: &str) -> String {
    text.chars().map(c1_as_windows_1252).collect()
}

/// `text` put back into the bytes of `charset` and read as UTF-8.
fn reread(text: &str, charset: &Charset) -> Option<String> {
    let mut bytes = charset.bytes(text)?;
    if charset.restores_spaces {
        bytes = restore_no_break_spaces(bytes);
    }
    if charset.sloppy {
        bytes = replace_lossy(&bytes);
    }
    if bytes.iter().any(|b| matches!(b, 0xED | 0xC0)) {
        read_variants(&bytes)
    } else {
        String::from_utf8(bytes).ok()
    }
}

fn is_continuation(b: u8) -> bool {
    (0x80..=0xBF).contains(&b)
}

/// How many bytes at the start of `b` would be UTF-8 if their space were the no-break space A0.
///
/// Only sequences for likely characters: 85 is an ellipsis before a space, and lead bytes above E3
/// stand for Chinese, which does not begin with a Latin letter (`ftfy/chardata.py`, ALTERED_UTF8_RE).
fn altered(b: &[u8]) -> Option<usize> {
    let likely = |b: u8| is_continuation(b) && b != 0x85 && b != 0xA0;
    match *b {
        [0xC2 | 0xC3 | 0xC5 | 0xCE | 0xD0 | 0xD9, b' ', ..] => Some(2),
        [0xE2 | 0xE3, b' ', x, ..] if likely(x) => Some(3),
        [0xE0..=0xE3, x, b' ', ..] if likely(x) => Some(3),
        [0xF0, b' ', x, y, ..] | [0xF0, x, b' ', y, ..] | [0xF0, x, y, b' ', ..]
            if is_continuation(x) && is_continuation(y) =>
        {
            Some(4)
        }
        _ => None,
    }
}

/// Puts back the A0 where a program made it a plain space.
fn restore_no_break_spaces(bytes: Vec<u8>) -> Vec<u8> {
    if !(0..bytes.len()).any(|at| altered(&bytes[at..]).is_some()) {
        return bytes;
    }
    // "Ã la" was "à la", where the space that follows the letter is lost as well, unless the rest
    // makes it one Portuguese word (às, àquele, àquela, àquilo).
    let joined = [&b" "[..], b"quele", b"quela", b"quilo", b"s "];
    let mut words = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let after = bytes[at..].strip_prefix(b"\xC3 ");
        if after.is_some_and(|after| !joined.iter().any(|word| after.starts_with(word))) {
            words.extend_from_slice(b"\xC3\xA0 ");
            at += 2;
        } else {
            words.push(bytes[at]);
            at += 1;
        }
    }
    let mut at = 0;
    while at < words.len() {
        let length = altered(&words[at..]);
        for byte in &mut words[at..at + length.unwrap_or(0)] {
            if *byte == b' ' {
                *byte = 0xA0;
            }
        }
        at += length.unwrap_or(1);
    }
    words
}

/// How many bytes at the start of `b` are a UTF-8 sequence some of whose bytes were lost, or became
/// one question mark (`ftfy/chardata.py`, LOSSY_UTF8_RE).
fn lossy(b: &[u8]) -> Option<usize> {
    let kept = |b: u8| b == LOST || is_continuation(b);
    let gone = |b: u8| b == LOST || b == b'?';
    let high = |b: u8| (0xA0..=0xAF).contains(&b);
    let low = |b: u8| (0xB0..=0xBF).contains(&b);
    match *b {
        [0xC2..=0xDF, LOST, ..] | [0xC2 | 0xC3, b'?', ..] => Some(2),
        [0xED, h, x, 0xED, l, y, ..]
            if high(h)
                && low(l)
                && (gone(x) && (gone(y) || kept(y)) || (gone(x) || kept(x)) && gone(y)) =>
        {
            Some(6)
        }
        [0xE0..=0xEF, x, y, ..] if gone(x) && kept(y) || kept(x) && gone(y) => Some(3),
        [0xF0..=0xF4, x, y, z, ..]
            if gone(x) && kept(y) && kept(z)
                || kept(x) && gone(y) && kept(z)
                || kept(x) && kept(y) && gone(z) =>
        {
            Some(4)
        }
        [LOST, ..] => Some(1),
        _ => None,
    }
}

/// Sequences with lost bytes become U+FFFD.
fn replace_lossy(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match lossy(&bytes[at..]) {
            Some(length) => {
                out.extend_from_slice("\u{fffd}".as_bytes());
                at += length;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// UTF-8, also where each half of a surrogate pair was encoded for itself (CESU-8) and where NUL was
/// written in two bytes (`ftfy/bad_codecs/utf8_variants.py`).
fn read_variants(bytes: &[u8]) -> Option<String> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, ..] = *rest {
        rest = match *rest {
            [0xC0, 0x80, ..] => {
                plain.push(0);
                &rest[2..]
            }
            [0xED, a @ 0xA0..=0xAF, b, 0xED, c @ 0xB0..=0xBF, d, ..]
                if is_continuation(b) && is_continuation(d) =>
            {
                let bits = |byte: u8, mask: u8| u32::from(byte & mask);
                let high = bits(a, 0x0F) << 16 | bits(b, 0x3F) << 10;
                let c = char::from_u32(0x10000 + (high | bits(c, 0x0F) << 6 | bits(d, 0x3F)))?;
                plain.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                &rest[6..]
            }
            _ => {
                plain.push(first);
                &rest[1..]
            }
        };
    }
    String::from_utf8(plain).ok()
}

/// What a character may be when it stems from UTF-8 that was read in a Latin-like encoding.
#[derive(Clone, Copy, Default)]
struct Clue {
    first_of: [bool; 5],
    continuation: bool,
    /// A continuation that does not stand for itself beside mojibake.
    strict: bool,
}

fn clue(c: char) -> Clue {
    if c.is_ascii() {
        return Clue { continuation: c == ' ', ..Clue::default() };
    }
    let mut clue = Clue::default();
    for byte in CHARSETS[..LATIN_LIKE].iter().filter_map(|charset| charset.byte(c)) {
        match byte {
            0xC2..=0xDF => clue.first_of[2] = true,
            0xE0..=0xEF => clue.first_of[3] = true,
            0xF0 | 0xF3 => clue.first_of[4] = true,
            0x80..=0xBF => clue.continuation = true,
            _ => {}
        }
    }
    clue.strict = clue.continuation && !"–—―‘’‚“”„•…".contains(c);
    clue
}

/// Repairs every run of characters that looks like UTF-8 for itself, as in a text that was put
/// together from several; `None` when there is none (`ftfy/chardata.py`, UTF8_DETECTOR_RE).
fn fix_parts(text: &str) -> Option<String> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let clues: Vec<Clue> = chars.iter().map(|&(_, c)| clue(c)).collect();
    let position = |index: usize| chars.get(index).map_or(text.len(), |&(at, _)| at);
    let sequence = |at: usize| {
        (2..=4).find(|&length| {
            clues[at].first_of[length]
                && at + length <= clues.len()
                && clues[at + 1..at + length].iter().all(|c| c.continuation)
        })
    };
    let (mut out, mut changed, mut at) = (String::with_capacity(text.len()), false, 0);
    while at < chars.len() {
        let mut end = at;
        // In the middle of a garble, a part of it is better left alone.
        if at == 0 || !clues[at - 1].strict {
            while end < chars.len()
                && let Some(length) = sequence(end)
            {
                end += length;
            }
        }
        let run = &text[position(at)..position(end.max(at + 1))];
        // A run that is the whole text has been tried, and trying again would never end.
        if end > at && run.len() < text.len() && is_bad(run) {
            let fixed = fix_encoding(run.to_owned());
            changed |= fixed != run;
            out.push_str(&fixed);
        } else {
            out.push_str(run);
        }
        at = end.max(at + 1);
    }
    changed.then_some(out)
}
