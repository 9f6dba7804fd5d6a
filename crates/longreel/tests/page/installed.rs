//! Models that lie in a cache, in the page.

use serde_json::json;

use crate::browser::Browser;
use crate::program::{Place, copy_folder, fixtures};
use crate::server::Server;

const NAME: &str = "org/model@0123456789ab";

#[test]
fn choosing_an_installed_model_has_it_served_and_a_film_is_made_with_it() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = place.path("cache/models--org--model/snapshots").join(commit);
    copy_folder(&fixtures().join("models/t2v"), &snapshot);
    let cache = ("HF_HUB_CACHE", place.path("cache").display().to_string());
    let server = Server::start_among(&place, &[cache]);
    // All three kinds are told apart, with what they take.
    browser.open(&server.url("/#/service"));
    browser.wait("document.querySelectorAll('.model').length > 10");
    let badge = |name: &str| {
        let found = browser.run(&format!(
            "return [...document.querySelectorAll('.model')].find(m => m.querySelector('h3').textContent === {}).innerText",
            json!(name)
        ));
        found.as_str().expect("a text").to_owned()
    };
    assert!(badge("df").contains("default"), "{}", badge("df"));
    let installed = badge(NAME);
    assert!(installed.contains("installed") && installed.contains("fits in memory"), "{installed}");
    let published = badge("skyreels-v2-df-14b-720p");
    assert!(published.contains("longreel models pull skyreels-v2-df-14b-720p"), "{published}");

    browser.open(&server.url("/#/"));
    browser.write("#prompt", "a red circle");
    browser.wait(&format!(
        "[...document.querySelectorAll('#model optgroup option')].some(o => o.value === {})",
        json!(NAME)
    ));
    browser.choose("#model", NAME);
    browser.wait(
        "!document.querySelector('#model optgroup') && !document.getElementById('model').disabled",
    );
    assert_eq!(browser.run("return document.getElementById('model').value"), NAME);
    let list = server.get("/v1/models").expect(200).json();
    assert_eq!(list["data"][1]["id"], NAME, "{list:#}");
    browser.click("#advanced summary");
    browser.write("#set-steps", "1");
    browser.write("#set-num_frames", "5");
    browser.choose("#size", "own");
    browser.write("#size-own", "48x32");
    browser.click("#make");
    let id = browser.wait("location.hash.split('/film/')[1]");
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    assert_eq!(server.video(id.as_str().expect("an id"))["model"], NAME);
    assert_eq!(
        server.get("/models/info").expect(200).json()["model"],
        "df",
        "it is the default now"
    );

    // It is served no longer when somebody says so, twice; the default cannot go.
    browser.open(&server.url("/#/service"));
    browser.wait("document.querySelectorAll('.model').length > 10");
    let press = |name: &str, button: &str| {
        browser.run(&format!(
            "const card = [...document.querySelectorAll('.model')].find(m => m.querySelector('h3').textContent === {});
             const found = [...card.querySelectorAll('button')].find(b => !b.hidden && b.textContent === {});
             found?.click(); return Boolean(found);",
            json!(name),
            json!(button)
        ))
    };
    assert_eq!(press("df", "Stop serving it"), false, "the default would go");
    assert_eq!(press(NAME, "Stop serving it"), true);
    assert!(browser.text("dialog").contains("still made with it"), "{}", browser.text("dialog"));
    browser.click("dialog .main");
    browser.wait("!document.querySelector('dialog')");
    browser.wait(&format!(
        "[...document.querySelectorAll('.model')].some(m => m.querySelector('h3').textContent === {} && m.innerText.includes('installed'))",
        json!(NAME)
    ));
    let list = server.get("/v1/models").expect(200).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list:#}");
    // And back again.
    assert_eq!(press(NAME, "Serve it"), true);
    browser.wait(&format!(
        "[...document.querySelectorAll('.model')].some(m => m.querySelector('h3').textContent === {} && m.innerText.includes('served'))",
        json!(NAME)
    ));
    browser.expect_no_errors();
}
