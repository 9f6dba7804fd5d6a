//! HTML character references, as Python's `html.unescape` and as ftfy's more careful fixer read them.

use super::charset::c1_as_windows_1252;

/// The names that HTML also accepts without a semicolon (WHATWG HTML, named character references).
const WITHOUT_SEMICOLON: &str = "AElig AMP Aacute Acirc Agrave Aring Atilde Auml COPY Ccedil ETH \
    Eacute Ecirc Egrave Euml GT Iacute Icirc Igrave Iuml LT Ntilde Oacute Ocirc Ograve Oslash Otilde \
    Ouml QUOT REG THORN Uacute Ucirc Ugrave Uuml Yacute aacute acirc acute aelig agrave amp aring \
    atilde auml brvbar ccedil cedil cent copy curren deg divide eacute ecirc egrave eth euml frac12 \
    frac14 frac34 gt iacute icirc iexcl igrave iquest iuml laquo lt macr micro middot nbsp not ntilde \
    oacute ocirc ograve ordf ordm oslash otilde ouml para plusmn pound quot raquo reg sect shy sup1 \
    sup2 sup3 szlig thorn times uacute ucirc ugrave uml uuml yacute yen yuml";

/// The longest name that is looked at, in characters.
const LONGEST_NAME: usize = 32;

/// What `&name;` stands for.
fn with_semicolon(name: &str) -> Option<&'static str> {
    let table = &html_escape::NAMED_ENTITIES;
    let at = table.binary_search_by(|(known, _)| (*known).cmp(name.as_bytes())).ok()?;
    Some(table[at].1)
}

/// What `&name` stands for when no semicolon follows.
fn without_semicolon(name: &str) -> Option<&'static str> {
    WITHOUT_SEMICOLON.split(' ').find(|known| *known == name).and_then(with_semicolon)
}

/// Replaces every reference as HTML5 demands, also those without a semicolon ("&copy 2024"), and also
/// where only a beginning is a name ("&notit" is "¬it").
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let used = match after.strip_prefix('#') {
            Some(number) => numeric(number, &mut out).map(|used| used + 1),
            None => named(after, &mut out),
        };
        if used.is_none() {
            out.push('&');
        }
        rest = &after[used.unwrap_or(0)..];
    }
    out.push_str(rest);
    out
}

/// Reads what follows "&#"; returns how many bytes it used.
fn numeric(text: &str, out: &mut String) -> Option<usize> {
    let (radix, prefix) = if text.starts_with(['x', 'X']) { (16, 1) } else { (10, 0) };
    let digits = text[prefix..].bytes().take_while(|b| (*b as char).is_digit(radix)).count();
    if digits == 0 {
        return None;
    }
    let end = prefix + digits;
    // Any number that overflows lies beyond Unicode, as does this one.
    let code = u32::from_str_radix(&text[prefix..end], radix).unwrap_or(u32::MAX);
    match code {
        0 => out.push('\u{fffd}'),
        0x80..=0x9F => out.extend(char::from_u32(code).map(c1_as_windows_1252)),
        // Controls and code points that are no characters say nothing.
        0x1..=0x8 | 0xB | 0xE..=0x1F | 0x7F | 0xFDD0..=0xFDEF => {}
        _ if code <= 0x10_FFFF && code & 0xFFFE == 0xFFFE => {}
        _ => out.push(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
    Some(end + usize::from(text[end..].starts_with(';')))
}

/// Reads what follows "&"; returns how many bytes it used.
fn named(text: &str, out: &mut String) -> Option<usize> {
    let ends_name = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let end = text
        .char_indices()
        .enumerate()
        .find(|(count, (_, c))| *count == LONGEST_NAME || ends_name(*c))
        .map_or(text.len(), |(_, (at, _))| at);
    let name = &text[..end];
    if text[end..].starts_with(';')
        && let Some(value) = with_semicolon(name)
    {
        out.push_str(value);
        return Some(end + 1);
    }
    // The longest beginning that is a name; all of them are ASCII.
    let longest = name.bytes().take_while(u8::is_ascii_alphanumeric).count();
    let found = (2..=longest).rev().find_map(|n| Some((n, without_semicolon(&name[..n])?)));
    let (used, value) = found?;
    out.push_str(value);
    Some(used)
}

/// Replaces the references that end in a semicolon, also where a name was put into capitals
/// ("&EACUTE;"), and no others: in a text that is not HTML, "this&not that" means what it says
/// (`ftfy/fixes.py`, unescape_html).
pub(super) fn unescape_unambiguous(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let hash = usize::from(rest[1..].starts_with('#'));
        let body = rest[1 + hash..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let end = 1 + hash + body;
        if (1..=24).contains(&body) && rest[end..].starts_with(';') {
            let reference = &rest[..=end];
            match unambiguous(reference) {
                Some(value) => out.push_str(&value),
                None => out.push_str(reference),
            }
            rest = &rest[end + 1..];
        } else {
            out.push('&');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// What one reference, "&" to ";", stands for.
fn unambiguous(reference: &str) -> Option<String> {
    if reference.starts_with("&#") {
        let value = unescape(reference);
        // Otherwise only a part of it was a number.
        return (!value.contains(';')).then_some(value);
    }
    let name = &reference[1..reference.len() - 1];
    if let Some(value) = with_semicolon(name) {
        return Some(value.to_owned());
    }
    // Capitals stand for the small name only where they mean nothing themselves.
    let small = name.to_ascii_lowercase();
    if name != small.to_ascii_uppercase() || unescape(reference) != reference {
        return None;
    }
    with_semicolon(&small).map(str::to_uppercase)
}
