//! Prompts cleaned and made into tokens as the reference does.
//!
//! Recorded by `parity/networks.py` (cases.json) and `parity/prompts.py` (clean_cases.json) with
//! diffusers 0.42.1, ftfy 6.3.1, tokenizers 0.23.3 and sentencepiece 0.2.3. Everything is exact.

use std::path::PathBuf;

use longreel_models::{ModelError, Prompt, Tokenizer, clean_prompt};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    cleaned: String,
    /// Left out where only the cleaning is of interest.
    ids: Option<Vec<u32>>,
    ids_of_spiece_model: Option<Vec<u32>>,
}

fn folder(name: &str) -> PathBuf {
    let crate_folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crate_folder.join("../../parity/fixtures/networks").join(name)
}

fn read(name: &str, file: &str) -> Vec<u8> {
    std::fs::read(folder(name).join(file)).unwrap()
}

fn cases(name: &str, file: &str) -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_slice(&read(name, file)).unwrap();
    assert!(cases.len() >= 16, "{name}/{file} holds {} cases", cases.len());
    cases
}

#[test]
fn prompts_are_cleaned_as_ftfy_and_html_unescape_do() {
    let recorded = [cases("tokenizer", "cases.json"), cases("tokenizer", "clean_cases.json")];
    let wrong: Vec<String> = recorded
        .iter()
        .flatten()
        .filter(|case| clean_prompt(&case.prompt) != case.cleaned)
        .map(|case| {
            let ours = clean_prompt(&case.prompt);
            format!("{:?}\n  gives {ours:?}\n  not   {:?}", case.prompt, case.cleaned)
        })
        .collect();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Further cases in the form that `parity/prompts.py --random` prints; their file is named by
/// `LONGREEL_PROMPTS`.
#[test]
#[ignore = "needs a file of random cases"]
fn random_prompts_are_cleaned_as_the_reference_does() {
    let path = std::env::var("LONGREEL_PROMPTS").expect("LONGREEL_PROMPTS names a file");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut wrong, mut all) = (Vec::new(), 0);
    for line in text.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let ours = clean_prompt(&case.prompt);
        all += 1;
        if ours != case.cleaned {
            wrong.push(format!("{:?}\n  gives {ours:?}\n  not   {:?}", case.prompt, case.cleaned));
        }
    }
    let shown = &wrong[..wrong.len().min(20)];
    assert!(wrong.is_empty(), "{} of {all} differ:\n{}", wrong.len(), shown.join("\n"));
}

#[test]
fn ids_are_those_of_the_reference_with_and_without_character_rules() {
    for name in ["tokenizer", "tokenizer_identity"] {
        let json = Tokenizer::from_json(&read(name, "tokenizer.json")).unwrap();
        let spiece = Tokenizer::from_spiece(&read(name, "spiece.model")).unwrap();
        for case in cases(name, "cases.json") {
            let prompt = json.encode(&case.prompt, 512).unwrap();
            assert_eq!(prompt.cleaned, case.cleaned);
            let recorded = case.ids.expect("recorded for every case");
            assert_eq!(prompt.ids, recorded, "{name}/tokenizer.json: {:?}", case.prompt);
            let ids = spiece.encode(&case.prompt, 512).unwrap().ids;
            let want = case.ids_of_spiece_model.unwrap_or(recorded);
            assert_eq!(ids, want, "{name}/spiece.model: {:?}", case.prompt);
        }
    }
}

#[test]
fn ids_of_odd_prompts_are_those_of_the_reference() {
    let tokenizer = Tokenizer::from_json(&read("tokenizer", "tokenizer.json")).unwrap();
    let mut compared = 0;
    for case in cases("tokenizer", "clean_cases.json") {
        let Some(ids) = case.ids else { continue };
        let prompt = tokenizer.encode(&case.prompt, usize::MAX).unwrap();
        assert_eq!(prompt.ids, ids, "{:?}", case.prompt);
        assert_eq!(prompt.dropped_tokens, 0);
        compared += 1;
    }
    assert!(compared > 100, "{compared} cases have ids");
}

#[test]
fn a_long_prompt_keeps_its_beginning_and_the_end_token_and_says_what_was_dropped() {
    let tokenizer = Tokenizer::from_json(&read("tokenizer", "tokenizer.json")).unwrap();
    let whole = tokenizer.encode("a red circle moves to the right", 512).unwrap();
    let cut = tokenizer.encode("a red circle moves to the right", 6).unwrap();
    assert_eq!(cut.ids[..5], whole.ids[..5]);
    assert_eq!(cut.ids[5..], [1]);
    assert_eq!(cut.dropped_tokens, whole.ids.len() - 6);
    assert_eq!(tokenizer.encode("a", 1).unwrap().ids, [1]);
    let error = tokenizer.encode("a", 0).unwrap_err();
    assert!(matches!(error, ModelError::Input { what: "max_tokens", .. }), "{error}");
}

#[test]
fn a_folder_gives_its_json_file_before_its_sentencepiece_model() {
    let tokenizer = Tokenizer::from_dir(&folder("tokenizer")).unwrap();
    // Only the JSON file knows "</s>" as a token.
    assert_eq!(tokenizer.encode("</s>", 9).unwrap().ids, [1, 1]);

    let only_spiece = tempfile::tempdir().unwrap();
    std::fs::write(only_spiece.path().join("spiece.model"), read("tokenizer", "spiece.model"))
        .unwrap();
    let tokenizer = Tokenizer::from_dir(only_spiece.path()).unwrap();
    assert!(tokenizer.encode("</s>", 9).unwrap().ids.len() > 2);

    let empty = tempfile::tempdir().unwrap();
    let message = Tokenizer::from_dir(empty.path()).unwrap_err().to_string();
    assert!(message.contains("spiece.model"), "{message}");
    std::fs::create_dir(empty.path().join("tokenizer.json")).unwrap();
    let message = Tokenizer::from_dir(empty.path()).unwrap_err().to_string();
    assert!(message.contains("not a file"), "{message}");
}

/// A list of words, as small models have one.
fn words() -> serde_json::Value {
    json!({
        "added_tokens": [
            {"id": 1, "content": "</s>", "special": true},
            {"id": 30, "content": "<mark>", "lstrip": true, "rstrip": true},
            {"id": 20, "content": "CUT", "single_word": true},
            {"id": 10, "content": "Big Cat", "normalized": true}
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKC"}]},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}
        },
        "model": {"type": "WordLevel", "unk_token": "<unk>",
            "vocab": {"<unk>": 2, "a": 3, "red": 4, ",": 5, "cut2": 6, "...": 10}}
    })
}

fn load(json: &serde_json::Value) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_json(json.to_string().as_bytes())
}

#[test]
fn words_and_added_tokens_are_found_as_the_file_says() {
    let tokenizer = load(&words()).unwrap();
    let ids = |text: &str| tokenizer.encode(text, 99).unwrap().ids;
    // These are what tokenizers 0.23.3 gives for the same file, which numbers tokens that are not in
    // the vocabulary itself.
    assert_eq!(ids("A RED, blue..."), [3, 4, 5, 2, 10, 1]);
    assert_eq!(ids("a <mark> red"), [3, 7, 4, 1]);
    assert_eq!(ids("CUT a"), [8, 3, 1]);
    assert_eq!(ids("CUT2 a"), [6, 3, 1]);
    assert_eq!(ids("red BIG CAT a"), [4, 9, 3, 1]);
    assert_eq!(ids(""), [1]);
}

#[test]
fn without_bytes_neighbouring_unknown_characters_are_one_unknown_token() {
    let tokenizer = load(&json!({
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
        "model": {"type": "Unigram", "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["▁", -2.0], ["a", -1.0], ["ab", -1.5], ["b", -1.0], ["▁a", -1.0]]}
    }))
    .unwrap();
    // "▁a" and "b" together cost 2.0, "▁" and "ab" 3.5.
    assert_eq!(tokenizer.encode("ab xyzab", 99).unwrap().ids, [5, 4, 1, 0, 3]);
    assert_eq!(tokenizer.encode("a", 99).unwrap().ids, [5]);
}

/// Asserts that `result` is a typed error, not a panic, that says `reason`.
fn refused(result: Result<Tokenizer, ModelError>, reason: &str) {
    let error = result.expect_err(reason);
    assert!(matches!(error, ModelError::Tokenizer { .. }), "{error}");
    assert!(error.to_string().contains(reason), "{error} does not say {reason:?}");
}

#[test]
fn parts_that_are_not_known_are_refused_by_name() {
    let with = |path: &str, value: serde_json::Value| {
        let mut file = words();
        *file.pointer_mut(path).unwrap() = value;
        load(&file)
    };
    refused(with("/model/type", json!("BPE")), "BPE");
    refused(with("/normalizer", json!({"type": "BertNormalizer"})), "BertNormalizer");
    refused(with("/pre_tokenizer", json!({"type": "ByteLevel"})), "ByteLevel");
    refused(with("/post_processor/type", json!("RobertaProcessing")), "RobertaProcessing");
    refused(with("/post_processor/special_tokens", json!({})), "</s>");
    refused(with("/post_processor/single", json!([])), "0 times");
    let replace = |pattern| json!({"type": "Replace", "pattern": pattern, "content": ""});
    refused(with("/normalizer", replace(json!({"Regex": "(a|b)*"}))), "(a|b)*");
    refused(with("/normalizer", replace(json!({"String": ""}))), "empty pattern");
    let precompiled = |map: &str| json!({"type": "Precompiled", "precompiled_charsmap": map});
    refused(with("/normalizer", precompiled("?")), "base64");
    refused(with("/normalizer", precompiled("AAA=")), "cut off");
    // A trie of 4 GB, of which nothing is there.
    refused(with("/normalizer", precompiled("/P///w==")), "cut off");
    let unigram = |unk_id: u64| json!({"type": "Unigram", "unk_id": unk_id, "vocab": [["a", 0.0]]});
    refused(with("/model", unigram(1)), "unk_id is 1");
    refused(with("/model", unigram(1 << 40)), "1099511627776");
    let deep = "{\"type\":\"Sequence\",\"normalizers\":[".repeat(100_000);
    refused(Tokenizer::from_json(format!("{{\"normalizer\":{deep}").as_bytes()), "recursion");
}

#[test]
fn a_charsmap_that_leads_astray_has_no_rules_there() {
    // Every unit has every flag and leads far out of the array, or back to its beginning.
    for unit in [u32::MAX, 0, 1 << 8, 1 << 9 | 1 << 10, 0x0000_0361, 0x8000_0161] {
        let mut blob = 1024u32.to_le_bytes().to_vec();
        blob.extend(std::iter::repeat_n(unit.to_le_bytes(), 256).flatten());
        blob.extend("é\0".as_bytes());
        let mut message = vec![0x12, 0x80 | (blob.len() & 0x7F) as u8, (blob.len() >> 7) as u8];
        message.extend(&blob);
        let mut model = read("tokenizer_identity", "spiece.model");
        model.extend([0x1A, 0x80 | (message.len() & 0x7F) as u8, (message.len() >> 7) as u8]);
        model.extend(&message);
        let tokenizer = Tokenizer::from_spiece(&model).unwrap();
        let prompt: Prompt = tokenizer.encode("abc aaaa é 漢字", 99).unwrap();
        assert_eq!(prompt.ids.last(), Some(&1));
    }
}

#[test]
fn a_damaged_sentencepiece_model_is_refused_or_read_but_never_panics() {
    let whole = read("tokenizer", "spiece.model");
    let mut refusals = 0;
    for end in 0..whole.len() {
        refusals += usize::from(Tokenizer::from_spiece(&whole[..end]).is_err());
    }
    // Where a cut falls between two fields, the pieces before it are a model, but its end token is not.
    assert!(refusals > whole.len() * 9 / 10, "{refusals} of {} cuts refused", whole.len());
    let mut state = 1u32;
    for _ in 0..3000 {
        let mut model = whole.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % model.len();
            model[at] = (state >> 3) as u8;
        }
        if let Ok(tokenizer) = Tokenizer::from_spiece(&model) {
            // What a damaged vocabulary cannot express is an error too.
            let _ = tokenizer.encode("ＦＵＬＬ ﬁne, 漢字 and a red circle", 64);
        }
    }
    // A piece that claims to have 2^62 bytes, a number without an end, a wire type that is none.
    refused(Tokenizer::from_spiece(b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x40"), "cut off");
    refused(Tokenizer::from_spiece(&[0xFF; 40]), "64 bits");
    refused(Tokenizer::from_spiece(b"\x0c"), "wire type 4");
    refused(Tokenizer::from_spiece(b""), "eos_id");
}

#[test]
fn a_damaged_json_file_is_refused_or_read_but_never_panics() {
    let whole = read("tokenizer", "tokenizer.json");
    for end in (0..whole.len()).step_by(97) {
        refused(Tokenizer::from_json(&whole[..end]), "tokenizer.json");
    }
    let mut state = 7u32;
    for _ in 0..300 {
        let mut file = whole.clone();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let at = (state >> 8) as usize % file.len();
        file[at] = (state >> 3) as u8;
        if let Ok(tokenizer) = Tokenizer::from_json(&file) {
            let _ = tokenizer.encode("ＦＵＬＬ ﬁne, 漢字 and a red circle", 64);
        }
    }
}
