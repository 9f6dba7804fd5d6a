//! Prompts made longer by a language model, of which a stand-in answers here.

use serde_json::json;

use crate::language_model::{choice, language_model};
use crate::program::{Place, film_words};

#[test]
fn a_film_is_made_from_the_longer_prompts_and_made_again_without_asking() {
    let (url, asked) =
        language_model("200 OK", |prompt| choice(&format!("\"Long: {}\"", prompt.trim())));
    let place = Place::new();
    let more = ["--enhance-prompt", "--enhancer-url", &url, "--enhancer-model", "m"];
    let words = film_words(2, &[&more[..], &["--prompt-at", "17f:A blue square."]].concat());
    let mut command = place.command(&words);
    command.env("LONGREEL_ENHANCER_KEY", "k1");
    crate::program::Ran::of(command.output().expect("it runs")).expect_code(0);
    let asked = asked.lock().expect("no panic");
    assert_eq!(asked.len(), 2);
    assert_eq!((&asked[0]["model"], &asked[0]["key"]), (&json!("m"), &json!("Bearer k1")));
    assert_eq!(asked[0]["messages"][0]["role"], "system");
    let told = place.run(&["inspect", "film.mp4"]).expect_code(0).stdout;
    assert!(told.contains("--prompt 'Long: A red circle moves.'"), "{told}");
    assert!(told.contains("17f:Long: A blue square.") && !told.contains("enhance"), "{told}");

    let other = Place::new();
    let mut words = film_words(2, &["--prompt-at", "17f:Long: A blue square."]);
    words[1] = "Long: A red circle moves.".into();
    other.run(&words).expect_code(0);
    assert!(latents_free(&place) == latents_free(&other), "another film");
}

/// The film without its head, which says how it was made.
fn latents_free(place: &Place) -> Vec<u8> {
    let film = place.read("film.mp4");
    let at = film.windows(4).position(|four| four == b"moof").expect("a fragment");
    film[at..].to_vec()
}

#[test]
fn no_answer_and_a_bad_one_are_told_and_leave_no_film() {
    let place = Place::new();
    let ran = place.run(&film_words(1, &["--enhance-prompt"])).expect_code(2);
    assert!(ran.stderr.contains("--enhancer-url"), "{}", ran.stderr);
    let model = |url: &str| {
        let more = ["--enhance-prompt", "--enhancer-url", url, "--enhancer-model", "m"];
        film_words(1, &more)
    };
    let ran = place.run(&model("ftp://x")).expect_code(2);
    assert!(ran.stderr.contains("ftp://x"), "{}", ran.stderr);
    let (busy, _) = language_model("429 Too Many Requests", |_| json!({"error": "slow down"}));
    let ran = place.run(&model(&busy)).expect_code(1);
    assert!(ran.stderr.contains("429") && ran.stderr.contains("slow down"), "{}", ran.stderr);
    let (mute, _) = language_model("200 OK", |_| choice(" "));
    let ran = place.run(&model(&mute)).expect_code(1);
    assert!(ran.stderr.contains("empty"), "{}", ran.stderr);
    assert!(place.names().is_empty(), "{:?}", place.names());
}
