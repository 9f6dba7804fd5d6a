//! Whether a text looks like mojibake: UTF-8 that was read in a single-byte encoding.
//!
//! The heuristic is ftfy's (`ftfy/badness.py`): about 400 characters occur in such text; they fall
//! into categories, and some neighbourhoods of categories hardly occur otherwise.

use super::is_space;

const COMMON: u32 = 1;
const C1: u32 = 1 << 1;
const BAD: u32 = 1 << 2;
const LAW: u32 = 1 << 3;
const CURRENCY: u32 = 1 << 4;
const OPENING: u32 = 1 << 5;
const CLOSING: u32 = 1 << 6;
const NUMERIC: u32 = 1 << 7;
/// Letters that make faces out of characters.
const KAOMOJI: u32 = 1 << 8;
const UPPER_ACCENTED: u32 = 1 << 9;
const LOWER_ACCENTED: u32 = 1 << 10;
const UPPER_COMMON: u32 = 1 << 11;
const LOWER_COMMON: u32 = 1 << 12;
const BOX: u32 = 1 << 13;
const ASCII_LOWER: u32 = 1 << 14;
const ASCII_UPPER: u32 = 1 << 15;
const WORD: u32 = 1 << 16;
const SPACE: u32 = 1 << 17;

const ACCENTED: u32 = LOWER_ACCENTED | UPPER_ACCENTED;
const ASCII: u32 = ASCII_LOWER | ASCII_UPPER;

/// The categories of a character; a few have several.
fn categories(c: char) -> u32 {
    let main = match c {
        'a'..='z' => ASCII_LOWER,
        'A'..='Z' => ASCII_UPPER,
        '\u{80}'..='\u{9f}' => C1,
        '\u{a0}' | '\u{ad}' | '´' | '·' | '–' | '—' | '―' | '’' | '…' => COMMON,
        '¤' | '¦' | '¨' | 'ª' | '¬' | '¯' | '¸' | 'º' | 'ƒ' | 'ˆ' | 'ˇ' | '˘' | '˛' | '˜' | '†'
        | '‡' | '‰' | '⌐' | '◊' | '\u{fffd}' => BAD,
        '§' | '¶' => LAW,
        '¢' | '£' | '¥' | '₧' | '€' => CURRENCY,
        '¡' | '©' | '«' | '¿' | '\u{384}' | '\u{385}' | '‘' | '‚' | '“' | '„' | '•' | '‹'
        | '\u{f8ff}' => OPENING,
        '®' | '»' | '˝' | '”' | '›' | '™' => CLOSING,
        '±' | '²' | '³' | '\u{b5}' | '¹' | '¼' | '½' | '¾' | '×' | '÷' | '⁄' | '№' | '∂'
        | '\u{2206}' | '\u{220f}' | '\u{2211}' | '√' | '∞' | '∩' | '∫' | '≈' | '≠' | '≡' | '≤'
        | '≥' => NUMERIC,
        '°' | 'Ò'..='Ö' | 'Ù'..='Û' | 'ò'..='ö' | 'ø'..='û' | 'Ō' | 'Ő' | 'Ū' | 'Ų' => {
            KAOMOJI
        }
        'Ü' => KAOMOJI | UPPER_ACCENTED,
        'ü' => KAOMOJI | LOWER_ACCENTED,
        'À'..='Ñ' | 'Ø' | 'Ý' => UPPER_ACCENTED,
        'Ā' | 'Ă' | 'Ą' | 'Ć' | 'Č' | 'Ď' | 'Đ' | 'Ē' | 'Ė' | 'Ę' | 'Ě' | 'Ğ' | 'Ģ' | 'Ī' | 'İ'
        | 'Ķ' | 'Ĺ' | 'Ļ' | 'Ľ' | 'Ł' | 'Ń' | 'Ņ' | 'Ň' | 'Œ' | 'Ř' | 'Ś' | 'Ş' | 'Š' | 'Ţ'
        | 'Ť' | 'Ů' | 'Ű' | 'Ÿ' | 'Ź' | 'Ż' | 'Ž' | 'Ґ' => UPPER_ACCENTED,
        'ß'..='ñ' => LOWER_ACCENTED,
        'ā' | 'ă' | 'ą' | 'ć' | 'č' | 'ď' | 'đ' | 'ē' | 'ė' | 'ę' | 'ě' | 'ğ' | 'ģ' | 'ī' | 'į'
        | 'ķ' | 'ĺ' | 'ļ' | 'ľ' | 'ł' | 'œ' | 'ŕ' | 'ś' | 'ş' | 'š' | 'ť' | 'ź' | 'ż' | 'ž'
        | 'ґ' | '\u{fb01}' | '\u{fb02}' => LOWER_ACCENTED,
        'Þ' | 'Ά' | 'Έ'..='Ί' | 'Ό' | 'Ύ' | 'Ώ' | 'Α'..='Ρ' | 'Σ'..='Ϋ' | 'Ё'..='Я' => {
            UPPER_COMMON
        }
        'ά'..='ω' | 'а'..='џ' => LOWER_COMMON,
        '│'
        | '┌'
        | '┐'
        | '┘'
        | '├'
        | '┤'
        | '┬'
        | '┼'
        | '═'..='╬'
        | '▀'
        | '▄'
        | '█'
        | '▌'
        | '▐'..='▓' => BOX,
        _ => 0,
    };
    let word = if c.is_alphanumeric() || c == '_' { WORD } else { 0 };
    let space = if is_space(c) { SPACE } else { 0 };
    main | word | space
}

/// One character of a neighbourhood: of one of the categories, or one of the characters.
struct Of(u32, &'static str);

impl Of {
    fn holds(&self, c: char, categories: u32) -> bool {
        categories & self.0 != 0 || self.1.contains(c)
    }
}

/// Everything that is found beside an accented letter or a box only by mistake.
const MISPLACED: u32 = ACCENTED | BOX | OPENING | CLOSING | CURRENCY | NUMERIC | LAW;

/// Neighbourhoods that hardly occur in text that is read in its own encoding.
static UNLIKELY: &[&[Of]] = &[
    &[Of(C1, "")],
    &[Of(BAD | MISPLACED, ""), Of(BAD, "")],
    &[Of(ASCII, ""), Of(LOWER_COMMON | UPPER_COMMON, ""), Of(BAD, "")],
    &[Of(BAD, ""), Of(MISPLACED, "")],
    &[
        Of(LOWER_ACCENTED | LOWER_COMMON | BOX | CLOSING | CURRENCY | NUMERIC, ""),
        Of(UPPER_ACCENTED, ""),
    ],
    &[Of(BOX | CLOSING | CURRENCY | NUMERIC, ""), Of(LOWER_ACCENTED, "")],
    &[Of(LOWER_ACCENTED | BOX | CLOSING, ""), Of(CURRENCY, "")],
    &[Of(SPACE, ""), Of(UPPER_ACCENTED, ""), Of(CURRENCY, "")],
    &[Of(UPPER_ACCENTED | BOX, ""), Of(NUMERIC | LAW, "")],
    &[Of(ACCENTED | BOX | CURRENCY | CLOSING, ""), Of(OPENING, ""), Of(NUMERIC, "")],
    &[Of(ACCENTED | CURRENCY | NUMERIC | BOX | LAW, ""), Of(CLOSING, ""), Of(OPENING, "")],
    &[Of(CURRENCY | NUMERIC | BOX, ""), Of(OPENING, "")],
    &[Of(ASCII_LOWER, ""), Of(UPPER_ACCENTED, ""), Of(OPENING | CURRENCY, "")],
    &[Of(BOX, ""), Of(KAOMOJI, "")],
    &[Of(ACCENTED | CURRENCY | NUMERIC | OPENING | CLOSING | LAW, ""), Of(BOX, "")],
    &[Of(BOX, ""), Of(CLOSING, "")],
    &[Of(ACCENTED, ""), Of(OPENING | CLOSING, ""), Of(WORD, "")],
    &[Of(UPPER_ACCENTED, ""), Of(0, "°")],
    // Windows-1252, two characters.
    &[Of(0, "ÂÃÎÐ"), Of(OPENING | CLOSING, "€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»–—´")],
    &[Of(0, "×"), Of(0, "²³")],
    // Windows-1252, Arabic: its characters are common, so four of them must come together.
    &[Of(0, "ØÙ"), ARABIC, Of(0, "ØÙ"), ARABIC],
    // Windows-1252, South Asian alphabets.
    &[Of(0, "à"), Of(0, "²\u{b5}¹¼½¾")],
    // Mac Roman.
    &[Of(0, "√"), Of(0, "±∂†≠®™´≤≥¥\u{b5}ø")],
    &[Of(0, "≈"), Of(0, "°¢")],
    &[Of(0, "‚"), Of(0, "Ä"), Of(0, "ìîïòôúùû†°¢π")],
    &[Of(0, "‚"), Of(0, "âó"), Of(0, "àä°ê")],
    // Windows-1251: punctuation, then Latin-1 and Cyrillic.
    &[Of(0, "в"), Of(0, "Ђ")],
    &[Of(0, "ВГРС"), Of(C1 | BAD | OPENING | CLOSING | CURRENCY, "°\u{b5}"), Of(0, "ВГРС")],
    // Windows-1252: à, á and the space that does not break.
    &[Of(0, "Ã"), Of(0, "\u{a0}¡")],
    &[Of(ASCII_LOWER, ""), Of(0, "ÃÂ"), Of(0, " ")],
    &[Of(ASCII_LOWER, ""), Of(SPACE, ""), Of(0, "ÃÂ"), Of(0, " ")],
    &[Of(ASCII_LOWER | CLOSING, ".,?!"), Of(0, "Â"), Of(OPENING | CLOSING, " ")],
    // Windows-1253: punctuation, then Latin-1 and Greek.
    &[Of(0, "β"), Of(0, "€"), Of(0, "™\u{a0}\u{386}\u{ad}®°")],
    &[Of(0, "ΒΓΞΟ"), Of(C1 | BAD | OPENING | CLOSING | CURRENCY, "°"), Of(0, "ΒΓΞΟ")],
    // Windows-1257: punctuation.
    &[Of(0, "ā"), Of(0, "€")],
];

const ARABIC: Of = Of(COMMON | CURRENCY | BAD | NUMERIC | OPENING, "ŸŠ®°\u{b5}»");

/// Whether some of `text` is likely to be mojibake.
pub(super) fn is_bad(text: &str) -> bool {
    let text: Vec<(char, u32)> = text.chars().map(|c| (c, categories(c))).collect();
    if let [(first, _), (' ', _), ..] = text[..]
        && "ÃÂ".contains(first)
    {
        return true;
    }
    (0..text.len()).any(|at| {
        let here = &text[at..];
        UNLIKELY.iter().any(|rule| {
            rule.len() <= here.len() && rule.iter().zip(here).all(|(of, &(c, is))| of.holds(c, is))
        }) || is_bad_beside_a_letter(here)
    })
}

/// The two rules that also ask what does not stand there.
fn is_bad_beside_a_letter(here: &[(char, u32)]) -> bool {
    match here {
        [('Œ' | 'œ', _), (_, next), ..] if next & ASCII == 0 => true,
        // Cyrillic that was misread twice, near a Latin letter.
        [('Г', _), ('ў', _), ('В', _), ('Ђ', _), ('В', _), (any, _), (near, is), ..] => {
            *any != '\n' && (*near == ' ' || is & ASCII != 0)
        }
        _ => false,
    }
}
