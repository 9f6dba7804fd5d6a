//! What the service refuses, in the language of whoever reads it.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::program::Place;
use crate::server::Server;

/// Codes of films that failed, among others.
const FAILURES: [&str; 8] = [
    "deadline_exceeded",
    "file_gone",
    "invalid_value",
    "model_changed",
    "model_not_served",
    "model_unusable",
    "out_of_memory",
    "worker_died",
];

#[test]
fn every_code_of_a_refusal_has_a_sentence_in_chinese() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let document = server.get("/openapi.json").expect(200).json();
    let codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].clone();
    assert!(codes.as_array().is_some_and(|codes| codes.len() > 40), "{codes}");
    browser.open(&server.url("/"));
    browser.choose("#language", "zh");
    let told = browser.run(&format!(
        "return (async () => {{
            const {{ codes, sentence }} = await import(`${{document.baseURI}}web/refusals.js`);
            const about = {{ field: 'steps', value: '7', limit: 3, allowed: ['1', '2'], retry_after: 5 }};
            return {{ known: codes(), said: {codes}.map(code => [code, sentence({{ ...about, code }})?.text, sentence({{ code }})?.text]) }};
        }})()"
    ));
    let is_chinese = |text: &str| {
        text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)) && text.ends_with(['。', '？'])
    };
    for said in told["said"].as_array().expect("a list") {
        let [_, full, bare] = [0, 1, 2].map(|at| said[at].as_str().unwrap_or_default());
        assert!(is_chinese(full) && is_chinese(bare), "no sentence: {said}");
        assert!(!full.contains("undefined") && !full.contains("NaN"), "{said}");
        // What a film failed for comes without data.
        let is_of_film = FAILURES.contains(&said[0].as_str().expect("a code"));
        assert!(!is_of_film || !bare.contains("undefined"), "{said}");
    }
    let sorted = |list: &Value| {
        let mut names: Vec<String> =
            list.as_array().expect("a list").iter().map(Value::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&told["known"]), sorted(&codes), "sentences for what nothing is refused by");
    browser.expect_no_errors();
}

#[test]
fn a_refusal_is_told_in_chinese_with_its_values_and_the_rest_of_it_below() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &["--max-frames", "50"]);
    // What the sentence is made from comes with the answer.
    let refused = server.post("/v1/videos", &json!({"prompt": "a", "num_frames": 96}));
    let detail = refused.problem(400, "invalid_value");
    let problem = refused.json();
    assert_eq!((&problem["field"], &problem["value"]), (&json!("num_frames"), &json!("96")));
    assert_eq!(problem["allowed"], json!(["93", "97"]));

    browser.open(&server.url("/"));
    browser.choose("#language", "zh");
    browser.write("#prompt", "a red circle");
    browser.click("#advanced summary");
    browser.write("#set-num_frames", "96");
    browser.click("#make");
    browser.wait("document.querySelector('#set-num_frames[aria-invalid=true]')");
    let told = browser.text("[data-field=num_frames] .field-error");
    assert!(told.starts_with("“帧数（4n+1）”不能为 96，可用：93、97。"), "{told}");
    assert_eq!(browser.text("[data-field=num_frames] .field-error [lang=en]"), detail);

    // A sentence that says all stands alone.
    browser.write("#set-num_frames", "97");
    browser.click("#make");
    browser.wait(
        "document.querySelector('[data-field=num_frames] .field-error').innerText.includes('50')",
    );
    let told = browser.text("[data-field=num_frames] .field-error");
    assert_eq!(told, "影片最多 50 帧。请缩短影片。");
    browser.choose("#language", "en");
    browser.click("#make");
    browser.wait("document.querySelector('[data-field=num_frames] .field-error').innerText.includes('limit of frames')");
    browser.expect_no_errors();
}
