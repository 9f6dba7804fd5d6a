//! Coming back: to another window, to where one was in the gallery, to a film's settings, by the keyboard.

use serde_json::json;

use crate::browser::Browser;
use crate::program::{Place, fixtures};
use crate::server::{Server, asked};

#[test]
fn several_windows_with_films_in_work_leave_each_other_connections() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    for seed in 0..4 {
        server.ask(&json!({"prompt": "a red circle", "seconds": 120, "seed": seed}));
    }
    // More than the six connections that a browser keeps to a server, had each the streams of its films.
    for window in 0..4 {
        if window > 0 {
            browser.open_window();
        }
        browser.open(&server.url("/"));
        browser.wait("document.querySelectorAll('.rows .card').length === 4");
    }
    // The film that this window looks at is followed by events or, where there is no place for them, by lists.
    let id = browser.run("return document.querySelector('.rows .card').dataset.id");
    browser.open(&server.url(&format!("/#/film/{}", id.as_str().expect("an id"))));
    browser.wait("document.querySelectorAll('.segments [data-state=done]').length > 2");
    let streams = browser.run(
        "return navigator.locks.query().then(({ held }) => held.filter(({ name }) => name.startsWith('longreel.events')).length)",
    );
    assert!((1..=3).contains(&streams.as_u64().expect("a number")), "{streams} streams");
    browser.expect_no_errors();
}

#[test]
fn the_gallery_is_found_again_where_it_was_left() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    for seed in 0..4 {
        let mut body = asked(1);
        body["seed"] = json!(seed);
        server.film(&server.ask(&body));
    }
    browser.resize(390, 500);
    browser.open(&server.url("/"));
    // The plan stands above the films, and moves them when it comes.
    browser.wait("document.querySelectorAll('.gallery .card').length === 4 && !document.getElementById('plan').hidden");
    // On a phone the films are below the form, and a link leads past it.
    browser.click(".to-films");
    browser.wait(
        "scrollY > 300 && document.querySelector('.tools h2').getBoundingClientRect().top < 250",
    );
    browser
        .run("document.querySelectorAll('.gallery .card')[3].scrollIntoView({ block: 'center' })");
    let was = browser.wait("scrollY > 500 && history.state?.top === scrollY && scrollY");
    browser.run("document.querySelectorAll('.gallery .card-link')[3].click()");
    browser.wait("document.querySelector('article.film h1')?.innerText && scrollY === 0");
    browser.run("history.back()");
    browser.wait(&format!("document.querySelector('.gallery') && Math.abs(scrollY - {was}) < 3"));
    // The film's own way back leads to the same place.
    browser.run("document.querySelectorAll('.gallery .card-link')[3].click()");
    browser.click(".back");
    browser.wait(&format!("document.querySelector('.gallery') && Math.abs(scrollY - {was}) < 3"));
    browser.expect_no_errors();
}

#[test]
fn a_films_settings_are_taken_over_with_its_model() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let other = fixtures().join("models/t2v").display().to_string();
    let server = Server::start_with(&place, &["--with-model", &other]);
    let body = json!({"prompt": "a", "model": "t2v", "num_frames": 5, "steps": 2, "size": "48x32"});
    let id = server.ask(&body);
    server.film(&id);
    browser.open(&server.url(&format!("/#/film/{id}")));
    browser.click("[data-act=again]");
    let model = "return document.getElementById('model').value";
    assert_eq!(browser.run(model), "t2v");
    // Also after a reload, when it is not known at first which models there are.
    browser.reload();
    browser.wait("document.getElementById('model').value === 't2v'");
    browser.wait("document.getElementById('plan').innerText.includes('5 frames')");
    let curl = browser.run(&format!(
        "return (async () => {{
            const {{ copyAs }} = await import('/web/acts.js');
            const {{ films }} = await import('/web/films.js');
            let copied; navigator.clipboard.writeText = async text => {{ copied = text; }};
            await copyAs.curl(films.get('{id}'));
            return copied;
        }})()"
    ));
    let curl = curl.as_str().expect("a text");
    let (_, asked) = curl.split_once("-d '").expect("a body");
    let asked: serde_json::Value =
        serde_json::from_str(asked.trim_end_matches('\'')).expect("JSON");
    assert_eq!(asked["model"], "t2v", "{curl}");
    let again = server.ask(&asked);
    assert_eq!(server.video(&again)["command"], server.video(&id)["command"]);
    browser.expect_no_errors();
}

#[test]
fn the_focus_stays_where_the_keyboard_can_go_on() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &["--queue-length", "1"]);
    let id = server.ask(&json!({"prompt": "a red circle", "seconds": 120}));
    server.wait(&id, "in work", |video| video["state"] == "running");
    server.ask(&json!({"prompt": "a red circle", "seconds": 120}));
    browser.open(&server.url(&format!("/#/film/{id}")));
    // The menu closes over what was chosen in it.
    browser.run("navigator.clipboard.writeText = async () => {}");
    browser.wait("document.querySelector('.menu summary')");
    browser.run("document.querySelector('.menu summary').focus()");
    browser.keys("\u{e007}");
    browser.keys("\u{e004}");
    browser.keys("\u{e007}");
    browser.wait("document.querySelector('.toast')");
    assert_eq!(browser.run("return document.activeElement.localName"), "summary");
    // A film that is not taken leaves the focus on the button, and why stands beside it, in sight.
    browser.write("#prompt", "a red circle");
    browser.run("document.getElementById('make').focus()");
    browser.keys("\u{e007}");
    browser.wait("document.getElementById('problem').innerText.includes('2')");
    assert_eq!(browser.run("return document.activeElement.id"), "make");
    let seen = browser.run(
        "const said = document.querySelector('#problem p'), { left, top, bottom, right } = said.getBoundingClientRect();
         return [top + 2, bottom - 2].every(y => said.contains(document.elementFromPoint((left + right) / 2, y)))",
    );
    assert_eq!(seen, true, "the reason is hidden");
    browser.expect_no_errors();
}
