//! `tokenizer.json` and `spiece.model`, and the cleaning of prompts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longreel_models::{ClipPreprocess, Tokenizer, clean_prompt};

fuzz_target!(|data: &[u8]| {
    for tokenizer in [Tokenizer::from_json(data), Tokenizer::from_spiece(data)].into_iter().flatten() {
        let _ = tokenizer.encode("A red circle, 一个圆 <extra_id_0>\u{fffd}", 512);
    }
    let text = String::from_utf8_lossy(data);
    let _ = clean_prompt(&text);
    let _ = ClipPreprocess::from_json(&text);
});
