//! The single-byte encodings that ftfy tries (`ftfy/chardata.py`, CHARMAP_ENCODINGS), in its order.
//!
//! Tables: unicode.org's mappings of each code page. The windows ones are read as ftfy's "sloppy"
//! codecs do (`ftfy/bad_codecs/sloppy.py`): a byte without a character is the C1 control of the same
//! number, and byte 1A stands for U+FFFD, a character that was lost before.

/// A way to read bytes as characters, one by one.
pub(super) struct Charset {
    /// The characters of bytes 0x80 to 0xFF.
    upper: Upper,
    /// Whether byte 1A stands for U+FFFD instead of itself.
    pub sloppy: bool,
    /// Whether an à whose second byte became a space may be restored: in Mac Roman, that looks like
    /// an en dash with a space after it.
    pub restores_spaces: bool,
}

enum Upper {
    /// The characters with the same numbers.
    Same,
    /// 32 C1 controls, then 96 characters.
    After32(&'static str),
    /// 128 characters.
    Table(&'static str),
}

/// The byte that stands for a lost character in a sloppy charset.
pub(super) const LOST: u8 = 0x1A;

impl Charset {
    const fn sloppy(table: &'static str) -> Self {
        Self { upper: Upper::Table(table), sloppy: true, restores_spaces: true }
    }

    /// The byte that is read as `c`.
    pub fn byte(&self, c: char) -> Option<u8> {
        let code = c as u32;
        if self.sloppy && c == '\u{fffd}' {
            return Some(LOST);
        }
        if code < 0x80 {
            return (!self.sloppy || code != u32::from(LOST)).then_some(code as u8);
        }
        let at = |table: &str| table.chars().position(|t| t == c);
        match self.upper {
            Upper::Same => (code < 0x100).then_some(code as u8),
            Upper::After32(_) if code < 0xA0 => Some(code as u8),
            Upper::After32(table) => at(table).map(|i| 0xA0 + i as u8),
            Upper::Table(table) => at(table).map(|i| 0x80 + i as u8),
        }
    }

    /// The bytes that are read as `text`, if this charset has all its characters.
    pub fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.byte(c)).collect()
    }
}

/// What windows-1252 shows for a C1 control, which is what browsers do with it; the five unassigned
/// ones stay.
pub(super) fn c1_as_windows_1252(c: char) -> char {
    match (c, &WINDOWS_1252.upper) {
        ('\u{80}'..='\u{9f}', Upper::Table(table)) => {
            table.chars().nth(c as usize - 0x80).unwrap_or(c)
        }
        _ => c,
    }
}

/// Every encoding, in the order in which they are tried; [`LATIN_LIKE`] of them are similar enough
/// that UTF-8 read in them looks alike.
pub(super) static CHARSETS: [&Charset; 10] = [
    &LATIN_1,
    &WINDOWS_1252,
    &WINDOWS_1251,
    &WINDOWS_1250,
    &WINDOWS_1253,
    &WINDOWS_1254,
    &WINDOWS_1257,
    &ISO_8859_2,
    &MAC_ROMAN,
    &CP437,
];

/// How many of [`CHARSETS`] tell which characters come from UTF-8 (`UTF8_CLUES`).
pub(super) const LATIN_LIKE: usize = 7;

pub(super) static LATIN_1: Charset =
    Charset { upper: Upper::Same, sloppy: false, restores_spaces: true };

static WINDOWS_1252: Charset = Charset::sloppy(
    "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°\
        ±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
);

static WINDOWS_1251: Charset = Charset::sloppy(
    "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{98}™љ›њќћџ\u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕїАБВГД\
        ЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя",
);

static WINDOWS_1250: Charset = Charset::sloppy(
    "€\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\u{90}‘’“”•–—\u{98}™š›śťžź\u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°\
        ±˛ł´µ¶·¸ąş»Ľ˝ľżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
);

static WINDOWS_1253: Charset = Charset::sloppy(
    "€\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\
        \u{9d}\u{9e}\u{9f}\u{a0}΅Ά£¤¥¦§¨©ª«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡÒΣΤΥΦΧ\
        ΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώÿ",
);

static WINDOWS_1254: Charset = Charset::sloppy(
    "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\u{a0}¡¢£¤¥¦§¨©ª«\
        ¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞßàáâãäåæçèéêëìíîïğñòóôõö÷øùú\
        ûüışÿ",
);

static WINDOWS_1257: Charset = Charset::sloppy(
    "€\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\
        \u{a0}¡¢£¤¥¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāćäåęēčé\
        źėģķīļšńņóōõö÷ųłśūüżž˙",
);

static ISO_8859_2: Charset = Charset {
    upper: Upper::After32(
        "\u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸šşťź˝žżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčé\
        ęëěíîďđńňóôőö÷řůúűüýţ˙",
    ),
    sloppy: false,
    restores_spaces: true,
};

static MAC_ROMAN: Charset = Charset {
    upper: Upper::Table(
        "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒ\
        œ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ",
    ),
    sloppy: false,
    restores_spaces: false,
};

static CP437: Charset = Charset {
    upper: Upper::Table(
        "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙\
        ╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}",
    ),
    sloppy: false,
    restores_spaces: true,
};
