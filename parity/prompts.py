"""Records what the reference makes of odd prompts: fixtures/networks/tokenizer/clean_cases.json.

One line a case, ASCII: the prompt, what diffusers' `prompt_clean` gives (ftfy 6.3.1, Python 3.11's html), and
for prompts that are no mojibake the ids that `tokenizer.json` of the same folder gives. Run `python parity/prompts.py`. With `--random N SEED`
it prints N random cases in the same form, without ids, for a comparison beyond the recorded ones.
"""

import json
import os
import random
import sys

from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2 import prompt_clean

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "networks", "tokenizer")

SCENES = [
    "Ein Mädchen läuft über die Straße, größer als das Gebüsch",
    "l'été à la plage, déjà vu, naïve façade, cœur brisé",
    "un niño pequeño corre; ¿dónde está? ¡Qué día!",
    "São Paulo à noite, câmera lenta, ação",
    "Żółta łódź płynie przez jezioro, źdźbło trawy",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Красная машина едет по мокрой дороге — закат",
    "Ένα κόκκινο σκάφος στη θάλασσα",
    "Kırmızı balon gökyüzünde, ışık ve gölge",
    "Kaķis sēž uz palodzes, ārā līst",
    "夕日が海に沈む、映画のような光",
    "一只猫坐在窗台上，看着雨",
    "붉은 풍선이 하늘로 올라간다",
    "फूलों के बीच एक तितली",
    "قط أسود يمشي على السطح",
    "ผีเสื้อบนดอกไม้",
    "fireworks 🎆 over the bay, 👩‍👩‍👧 watching 🇯🇵",
    "“Quotes” — dashes – and … ellipses, it’s 5€ or £3",
]
ENCODINGS = ["latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1257", "iso8859-2", "mac_roman", "cp437"]

WRITTEN = [
    # White space and what Python counts as it.
    "", " ", "\t\n\r ", "a\u3000b\u2003c\u00a0d\u2028e\u2029f\u0085g", "a\x1cb\x1db\x1ec\x1fd", "a\u200bb\u2060c\u180ed",
    "line one\r\nline two\rline three", "trailing \n\n", "\ufeffmark first",
    # HTML, with and without semicolons, nested, cut off, odd numbers.
    "Tom &amp; Jerry", "Tom &amp Jerry", "&amp;amp;amp;lt;", "&lt;b&gt;bold&lt;/b&gt;", "<b>5 &lt; 6 &amp; 7</b>",
    "first &hellip;\n<p>second &hellip;\nthird &hellip;", "this&not that", "&notit; &notin; &notinE", "&copy 2024 &copy2024 &COPY;",
    "&eacute;&EACUTE;&Eacute;&eAcute;", "&szlig;&SZLIG; &ntilde;&NTILDE;&nTILDE;", "&#233;&#xe9;&#XE9;&#233 &#xE9z",
    "&#0;&#1;&#8;&#9;&#11;&#13;&#31;x", "&#128;&#129;&#130;&#150;&#159;&#160;", "&#xD800;&#x110000;&#99999999999999999999;&#xFFFE;&#x1FFFF;",
    "&#;&#x;&#xg;&;&&amp;&", "&#59;&#38;amp;", "&#65abc;", "&CounterClockwiseContourIntegral;", "&nosuchentityatallinhtml;", "&quot;quoted&quot; &apos;single&apos;",
    "&NotEqualTilde; &fjlig; &bne;", "P&EACUTE;REZ, BUNDESSTRA&SZLIG;E", "AT&T R&D Q&A &lthree", "&frac12; &FRAC12; &frac12x &sup2;&SUP2;", "&hearts; &Hearts; &HEARTS;",
    "&nbsp;&nbsp;indented&emsp;text&thinsp;", "&lt &gt &quot &amp", "&ltimes; &ltquot;", "&&lt;&;&gt", "a&zwj;b&shy;c&ZeroWidthSpace;d",
    # Mojibake by hand: mixed, partial, doubled, lost bytes, spaces for no-break spaces.
    "a cafÃ© with a â€œsignâ€\x9d", "voilÃ  le travail", "Ã la carte", "Ã\xa0 la carte", "Ã s vezes, Ãquele", "l’humanitÃ©", "This text is sad .âÃ\x82Â¦.",
    "ââ‚¬Å“double mojibakeââ‚¬Â", "âœ” No problems", "ÃƒÂ©tÃƒÂ©", "the â€œlost quoteâ€� here", "RenÃ�e", "caf? Ã?", "\u001a caf\u00c3\u00a9", "ðŸ˜€ ðŸŒŠ waves", "ð\x9f\x98\x80 smile",
    "â\x80\x9cquoted\x93 and \x96 dash\x85", "smart \x93quotes\x94 and \x85", "100% cafÃ© and naïve", "Pr\u00e9sident fran\u00e7ais â€“ visite", "æ—¥æœ¬èªž", "ä¸\xad文 and ä¸­æ–‡",
    "Ð\x9fÑ\x80Ð¸Ð²ÐµÑ‚", "РџСЂРёРІРµС‚", "Î\x93ÎµÎ¹Î±", "â™¥ â˜… â†’", "\u00e2\u20ac\u2122tis", "Ã\u00a1rbol Ã\u00b1", "├⌐t├⌐", "√© √± √†", "‚Äúmac‚Äù", "Â£5, Â©, 20Â°C", "Â  padded Â  ",
    "\u00ed\u00a0\u00bd\u00ed\u00b8\u0080 pair", "\u00c0\u0080 nul \u00c3\u00a9", "ā€œBalticā€¯", "β€œGreekβ€", "вЂњCyrillicвЂќ", "a Ã b Ã c Ã© d",
    # What looks similar but is meant.
    "Ångström, Ålesund, À la carte", "Ça va? Où? Élan", "£5 ¥6 €7 §8 ¶9", "(¬_¬) ¯\\_(ツ)_/¯ ಠ_ಠ", "×²", "°C °F ±5µm ½ ¾ ÷", "Œuvre œuf", "IT’S ‘FINE’ «ici» „so“ ‹x›", "─│┌┐╔═╗ box", "™ ® © •",
    "ÄÖÜ ÀÈÌ ÕÑ Ÿ", "naïve coöperation façade", "½×¾", "BÉBÉ À PARIS", "© 2024 – tous droits réservés", "50¢ ƒ/2.8 ™", "Ð Ñ Ø Þ ß æ ð ø þ",
    # Widths, ligatures, quotes, combining marks.
    "ＦＵＬＬ　ｗｉｄｔｈ！？：；（）～＄￥￦￣", "ﾊﾟﾋﾟﾌﾟ ｶﾞｷﾞ ｱｲｳ ｰ｡｢｣､･", "ￂￃￄￅ ﾡﾢ ￩￪", "ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ ĳ Ĳ ŉ ǆ Ǆ ǅ ǉ ǌ ǳ ſ", "ŉ ʼn", "“a” „b‟ ‘c’ ‚d‛ ʼe ″f‴ «g»",
    "e\u0301 a\u030a o\u0308 n\u0303 \u1112\u1161\u11ab", "\u212b \u2126 \u00b5 \u03bc \u2460 \u33a0", "q\u0323\u0307 q\u0307\u0323", "\u0958 \u095c \ufb1d \u2adc", "か\u3099 ハ\u309a", "Å Å Å",
    # Control characters and escapes.
    "\x1b[31mred\x1b[0m \x1b[1;32;40mgreen\x1b[K", "\x1b[ no \x1b] \x1b[12", "bell\x07 back\x08 del\x7f nul\x00 esc\x1b", "\u206a\u206f\ufff9\ufffa\ufffb\ufffc\ufffd", "rtl \u202eabc\u202c \u200e\u200f", "\ufe0f\u200d❤️",
    "c1 \x80\x81\x8d\x9d\x9f", "\x85", "next\x85line and cafÃ©", "a\x0bb\x0cc", "tag \U000e0067\U000e007f", "\U0010ffff \ue000 \uf8ff",
    # Long and repeated.
    "Ã" * 40, "â€" * 30, "Ã©" * 50, "&amp;" * 40, "&" * 60, "é" * 100, "a" * 300,
    # Special tokens and metaspaces as text.
    "</s></s>", "a</s>b <pad> c<unk>d", "<s>", "▁already▁marked ▁ here", "<0x41> <0xE4>", "  </s>  ",
]


def mojibake():
    """Every scene's UTF-8, read in every encoding that can read it."""
    for scene in SCENES:
        for encoding in ENCODINGS:
            try:
                yield scene.encode("utf-8").decode(encoding)
            except UnicodeDecodeError:
                pass


def sloppy(data):
    """windows-1252 as browsers read it."""
    return "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in data)


def twice():
    for scene in SCENES[:4]:
        yield sloppy(sloppy(scene.encode()).encode())
        yield scene + " " + sloppy(scene.encode())


ODD = (
    [chr(c) for e in ENCODINGS for c in map(ord, bytes(range(128, 256)).decode(e, "ignore"))]
    + list("\x80\x85\x8d\x9d\u00a0\u00ad\u200b\u3000\ufffd\x1a\x1b\r\n\t ") + list("abcxyzABC 0159.,?!'\"&#;<>_[") * 4
    + ["&amp;", "&eacute", "&#x", "&#1", ";", "Ã", "Â", "â€", "é", "\u0301", "ﬁ", "Ｆ", "ｶﾞ", "ﾞ", "漢", "かな", "🎆", "ï¿½", "Ã©", "â€™", "í", "À\u0080"]
)


def random_prompts(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        parts = [rng.choice(ODD) for _ in range(rng.randint(1, 12))]
        if rng.random() < 0.4:
            text = "".join(parts)
            try:
                parts = [text.encode().decode(rng.choice(ENCODINGS)), rng.choice(["", "é", " a "])]
            except UnicodeDecodeError:
                parts = [sloppy(text.encode())]
        yield "".join(parts)


def record():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(FOLDER, "tokenizer.json"))
    cases = []
    for prompt in [*WRITTEN, *SCENES, *mojibake(), *twice()]:
        case = {"prompt": prompt, "cleaned": prompt_clean(prompt)}
        if prompt in WRITTEN or prompt in SCENES:
            case["ids"] = tokenizer.encode(case["cleaned"]).ids
        cases.append(case)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    with open(os.path.join(FOLDER, "clean_cases.json"), "w", encoding="ascii") as file:
        file.write(f"[\n{lines}\n]\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--random"]:
        for prompt in random_prompts(int(sys.argv[2]), int(sys.argv[3])):
            print(json.dumps({"prompt": prompt, "cleaned": prompt_clean(prompt)}))
    else:
        record()
