//! A film while it is made.

use serde_json::json;

use crate::browser::Browser;
use crate::program::Place;
use crate::server::Server;

/// A film of the demo model that nobody waits for the end of.
fn long() -> serde_json::Value {
    json!({"prompt": "a red circle moves right on a blue background", "seconds": 120, "steps": 6, "seed": 3})
}

#[test]
fn a_film_plays_while_it_is_made_goes_on_after_a_reload_and_is_cancelled() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    let id = server.ask(&long());
    browser.open(&server.url(&format!("/#/film/{id}")));
    let buffered = "(() => { const b = document.querySelector('video')?.buffered; return b?.length ? b.end(b.length - 1) : 0 })()";
    let first = browser.wait(buffered);
    browser.wait("document.querySelector('video').currentTime > 0.2");
    browser.wait(&format!("{buffered} > {first} + 0.9"));
    assert_eq!(browser.run("return document.querySelector('video').videoWidth"), 64);
    assert_eq!(server.video(&id)["state"], "running", "it was finished before it was watched");
    // What was made can be sought.
    browser.run("document.querySelector('video').currentTime = 0.1");
    browser.wait("!document.querySelector('video').seeking && document.querySelector('video').currentTime < 1.2");
    let progress =
        browser.wait("document.querySelector('.film-state').innerText.includes('segment')");
    assert_eq!(progress, true);
    browser.wait(
        "document.querySelectorAll('.segments [data-state=done] img:not([hidden])').length > 1",
    );
    browser.wait("document.querySelectorAll('.segments [data-state=waiting]').length > 10");

    browser.reload();
    browser.wait("document.querySelector('video')?.currentTime > 0.2");
    browser.wait(&format!("{buffered} > {first} + 0.9"));
    assert_eq!(server.video(&id)["state"], "running");

    browser.click("[data-act=cancel]");
    browser.click("dialog button[type=submit]");
    server.wait(&id, "cancelled", |video| video["state"] == "cancelled");
    browser.wait("document.querySelector('.badge[data-tone=cancelled]')");
    browser.wait("document.querySelector('[data-act=delete]')");
    browser.expect_no_errors();
}

#[test]
fn a_film_is_paused_and_goes_on_in_the_page() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    let id = server.ask(&long());
    let waiting = server.ask(&long());
    browser.open(&server.url("/"));
    // The queue says who is next.
    browser.wait("document.querySelectorAll('.rows .card').length === 2");
    browser.wait("document.querySelector('.rows .badge[data-tone=running]')");
    let order =
        browser.wait("[...document.querySelectorAll('.rows .card')].map(card => card.dataset.id)");
    assert_eq!(order, json!([id, waiting]));
    browser.click(".rows .card-link");
    browser.click("[data-act=pause]");
    browser.wait("document.querySelector('[data-act=resume]')");
    server.wait(&id, "paused", |video| video["paused"] == true);
    browser.wait("document.querySelector('.film-state .badge').innerText === 'Paused'");
    browser.click("[data-act=resume]");
    browser.wait("document.querySelector('[data-act=pause]')");
    server.wait(&id, "going on", |video| video["paused"] == false);
    browser.expect_no_errors();
}

#[test]
fn segments_to_come_are_steered_and_finished_ones_branched_from() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    let id = server.ask(&long());
    browser.open(&server.url(&format!("/#/film/{id}")));
    browser.wait("document.querySelector('.segments [data-state=done]')");
    // The last one is far enough from being made.
    browser.run("const all = [...document.querySelectorAll('.segments [data-state=waiting]')]; all[20].scrollIntoView(); all[20].querySelector('.segment-actions button:not([hidden])').click()");
    browser.write("dialog textarea", "a green star on a black background");
    browser.click("dialog button[type=submit]");
    browser.wait("!document.querySelector('dialog')");
    browser.wait("[...document.querySelectorAll('.segments .words')].some(words => words.textContent.includes('green star'))");
    let prompts = server.get(&format!("/v1/videos/{id}/segments?limit=500")).expect(200).json();
    let prompts = prompts["data"].as_array().expect("a list");
    assert_eq!(prompts[0]["prompt"], long()["prompt"]);
    assert_eq!(prompts[prompts.len() - 1]["prompt"], "a green star on a black background");

    browser.run("document.querySelector('.segments').scrollLeft = 0");
    browser.wait("[...document.querySelectorAll('.segments [data-state=done] .segment-actions button:not([hidden])')].length");
    browser.run("document.querySelector('.segments [data-state=done] .segment-actions button:not([hidden])').click()");
    browser.write("dialog textarea", "a blue square");
    browser.click("dialog button[type=submit]");
    browser
        .wait(&format!("location.hash.startsWith('#/film/') && !location.hash.endsWith('{id}')"));
    browser.wait("document.querySelector('.details')?.innerText.includes('Made from')");
    browser.expect_no_errors();
}
