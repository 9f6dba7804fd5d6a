//! What is asked for beside a film as the model makes it: longer prompts, larger and smoother films.

use serde_json::json;

use crate::browser::Browser;
use crate::language_model::{choice, language_model};
use crate::program::{Place, fixtures};
use crate::server::Server;

#[test]
fn a_film_is_made_larger_and_smoother_and_the_plan_says_so_before() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    browser.resize(390, 844);
    browser.open(&server.url("/"));
    browser.write("#prompt", "a red circle");
    browser.write("#seconds", "0.5");
    browser.wait("document.getElementById('plan').innerText.includes('13 frames')");
    assert!(!browser.text("#plan").contains("fps"), "{}", browser.text("#plan"));
    // By the keyboard alone: the summary opens, and letters choose.
    browser.wait("document.querySelector('#finishing summary').checkVisibility()");
    browser.run("document.querySelector('#finishing summary').focus()");
    browser.keys("\u{e007}");
    browser.wait("document.getElementById('set-upscale').checkVisibility()");
    browser.run("document.getElementById('set-upscale').focus()");
    browser.keys("2");
    browser.wait("document.getElementById('plan').innerText.includes('128 × 128')");
    browser.choose("#set-interpolate", "2");
    browser.wait("document.getElementById('plan').innerText.includes('48 fps')");
    let shown = browser.text("#finish");
    assert!(shown.contains("2 times, 48 fps") && shown.contains("by Lanczos"), "{shown}");
    let over = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(browser.run(over), false, "it runs over the edge of a phone");
    // Nobody is asked to write prompts out here.
    assert_eq!(browser.run("return document.getElementById('enhance').checkVisibility()"), false);
    // What cannot be is told at its field, opened again where it was closed.
    browser.choose("#language", "zh");
    browser.wait("document.getElementById('finish').innerText.includes('2 倍，每秒 48 帧')");
    browser.choose("#language", "en");
    browser.click("#advanced summary");
    browser.write("#set-steps", "2");
    browser.write("#set-fps", "200");
    browser.click("#finishing summary");
    browser.wait(
        "document.querySelector('[data-field=interpolate] .field-error').innerText.includes('240')",
    );
    browser.wait("document.getElementById('set-interpolate').checkVisibility()");
    browser.write("#set-fps", "24");
    browser.wait("document.getElementById('plan').innerText.includes('48 fps')");

    browser.click("#make");
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    browser.wait("document.querySelector('video').videoWidth === 128");
    let id = browser.wait("location.hash.split('/film/')[1]");
    let id = id.as_str().expect("an id").to_owned();
    let video = server.video(&id);
    assert_eq!((&video["size"], &video["fps"]), (&json!("128x128"), &json!(48)), "{video:#}");
    // Taken over with the other settings.
    browser.click("[data-act=again]");
    assert_eq!(browser.run("return document.getElementById('set-interpolate').value"), "2");
    assert_eq!(browser.run("return document.getElementById('set-upscale').value"), "128x128");
    browser.expect_no_errors();
}

#[test]
fn prompts_are_written_out_where_the_server_has_a_language_model_to_ask() {
    let Some(browser) = Browser::start() else { return };
    let (url, asked) = language_model("200 OK", |_| choice("a red circle glides over a calm sea"));
    let place = Place::new();
    let more = ["--enhancer-url", &url, "--enhancer-model", "m"];
    let server = Server::start_with(&place, &more);
    browser.open(&server.url("/"));
    browser.write("#prompt", "a red circle");
    browser.write("#seconds", "0.3");
    browser.click("#enhance");
    browser.wait("document.getElementById('plan').innerText.includes('frames')");
    assert!(asked.lock().expect("no panic").is_empty(), "a plan asks nobody");
    browser.click("#make");
    browser
        .wait("document.querySelector('h1')?.innerText === 'a red circle glides over a calm sea'");
    let id = browser.wait("location.hash.split('/film/')[1]");
    let video = server.video(id.as_str().expect("an id"));
    assert_eq!(video["prompt"], "a red circle glides over a calm sea");
    // The next film is not asked for in that way unless it is said again.
    let answer = server.get("/v1/models").expect(200).json();
    assert_eq!(answer["data"][0]["enhance_prompt"], true, "{answer:#}");
    browser.expect_no_errors();
}

#[test]
fn a_network_that_enlarges_is_named_where_there_is_one() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let network = fixtures().join("upscaler/x4.safetensors").display().to_string();
    let server = Server::start_with(&place, &["--upscaler", &network]);
    browser.open(&server.url("/"));
    browser.click("#finishing summary");
    browser.wait("document.getElementById('finish').innerText.includes('by x4')");
    browser.expect_no_errors();
}
