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
fn a_film_in_the_making_is_found_again_after_a_reload_and_cancelled() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    let id = server.ask(&long());
    browser.open(&server.url(&format!("/#/film/{id}")));
    let segment = "document.querySelector('.film-state').innerText.includes('segment')";
    browser.wait(segment);
    browser.reload();
    browser.wait(segment);
    assert_eq!(server.video(&id)["state"], "running");

    // It is asked for a second time before anything is lost.
    browser.click("[data-act=cancel]");
    browser.wait("document.activeElement.closest('dialog')");
    assert_eq!(server.video(&id)["stopping"], json!(null));
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
