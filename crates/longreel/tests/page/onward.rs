//! Films from films, and films out of the page: extended, remixed, dropped in, copied.

use std::process::Command;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::program::Place;
use crate::server::{Server, asked};

/// Names the Python that has OpenAI's client, when it is not `python3`.
const PYTHON: &str = "LONGREEL_TEST_PYTHON";

/// The film that the page has opened after it showed `id`.
fn opened_after(browser: &Browser, id: &str) -> String {
    let other = browser.wait(&format!(
        "location.hash.split('/film/')[1] !== '{id}' && location.hash.split('/film/')[1]"
    ));
    other.as_str().expect("an id").to_owned()
}

#[test]
fn a_finished_film_is_extended_and_remixed_and_each_knows_what_it_comes_from() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(2));
    server.film(&id);
    let film = server.url(&format!("/#/film/{id}"));
    browser.open(&film);
    browser.click("[data-act=extend]");
    browser.write("dialog input[name=seconds]", "nonsense");
    browser.click("dialog button[type=submit]");
    // What is wrong is told in the dialog, and what was typed is still there.
    browser.wait("document.querySelector('dialog .problem')?.innerText.includes('Seconds')");
    browser.write("dialog input[name=seconds]", "1");
    browser.write("dialog textarea", "A blue square.");
    browser.click("dialog button[type=submit]");
    let longer = opened_after(&browser, &id);
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    browser.wait("document.querySelector('.details').innerText.includes('Made from')");
    let video = server.video(&longer);
    assert_eq!(video["parent"]["relation"], "extend");
    // Frames come in fours.
    assert_eq!(video["num_frames"], 29 + 24);

    browser.open(&film);
    browser.click("[data-act=remix]");
    let prompt = browser.run("return document.querySelector('dialog textarea').value");
    assert_eq!(prompt, asked(2)["prompt"]);
    browser.write("dialog textarea", "A green star.");
    browser.click("dialog button[type=submit]");
    let remixed = opened_after(&browser, &id);
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    assert_eq!(browser.text("h1"), "A green star.");
    let video = server.video(&remixed);
    assert_eq!((&video["seed"], &video["num_frames"]), (&json!(7), &json!(29)));
    assert_eq!(video["parent"]["job"], id.as_str());
    browser.expect_no_errors();
}

#[test]
fn pictures_and_videos_are_dropped_where_they_belong() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(1));
    let film = place.write("clip.mp4", server.film(&id));
    let picture = server.get(&format!("/v1/videos/{id}/content?variant=thumbnail")).expect(200);
    let kind = picture.content_type.rsplit('/').next().expect("a type").to_owned();
    let picture = place.write(&format!("first.{kind}"), &picture.body);
    browser.open(&server.url("/"));
    browser.wait("document.querySelectorAll('.slot').length === 3");
    let drop = |file: &std::path::Path, onto: &str| {
        let middle = browser.run(&format!(
            "const e = document.querySelector({}); e.scrollIntoView({{ block: 'center' }});
             const b = e.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]",
            json!(onto)
        ));
        let file = file.canonicalize().expect("a file").display().to_string();
        for kind in ["dragEnter", "dragOver", "drop"] {
            let data = json!({"items": [], "files": [file], "dragOperationsMask": 1});
            let at = json!({"type": kind, "x": middle[0], "y": middle[1], "data": data});
            browser.devtools("Input.dispatchDragEvent", &at);
        }
    };
    let held = |slot: &str| {
        format!("document.querySelector('[data-slot={slot}].held label')?.title.split(',')[0]")
    };
    let name = picture.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    // Onto its place, and anywhere else: the first free one.
    drop(&picture, "[data-slot=end_image]");
    assert_eq!(browser.wait(&held("end_image")), name.as_str());
    drop(&picture, "#prompt");
    assert_eq!(browser.wait(&held("image")), name.as_str());
    // A video goes to its own place, wherever it is dropped.
    drop(&film, "[data-slot=image]");
    assert_eq!(browser.wait(&held("video")), "clip.mp4");
    assert_eq!(browser.run(&format!("return {}", held("image"))), name.as_str());
    // One that misses the form does not take the place of the page.
    drop(&picture, "main");
    assert_eq!(browser.wait("location.pathname"), "/");
    browser.expect_no_errors();
}

#[test]
fn what_is_copied_as_a_command_or_as_python_makes_the_same_film() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(2);
    body["prompt"] = json!("a dog's \"red\" $HOME `x` 狗");
    let id = server.ask(&body);
    let film = server.film(&id);
    let origin = server.url("");
    let grant =
        json!({"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]});
    browser.devtools("Browser.grantPermissions", &grant);
    browser.open(&server.url(&format!("/#/film/{id}")));
    let copied = |which: usize| {
        browser.click(".menu summary");
        browser.run(&format!("document.querySelectorAll('.menu button')[{which}].click()"));
        browser.wait("document.querySelector('.toast')?.innerText === 'Copied.'");
        let text = browser.run("return navigator.clipboard.readText()");
        browser.wait("!document.querySelector('.toast')");
        text.as_str().expect("a text").to_owned()
    };
    let command = copied(0);
    let program = place.command::<&str>(&[]);
    let bin = std::path::Path::new(program.get_program()).parent().expect("a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", &command]).current_dir(place.path("")).env("PATH", path);
    let made = shell.output().expect("a shell");
    assert!(made.status.success(), "{command}\n{}", String::from_utf8_lossy(&made.stderr));
    assert!(place.read("film.mp4") == film, "another film: {command}");
    std::fs::remove_file(place.path("film.mp4")).expect("it is there");

    let script = copied(2);
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import openai"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no package openai; pip install openai, or set {PYTHON}");
        return;
    }
    let mut asked = Command::new(python);
    asked.args(["-c", &script]).current_dir(place.path("")).env("NO_PROXY", "127.0.0.1");
    let made = asked.output().expect("it was run before");
    assert!(made.status.success(), "{script}\n{}", String::from_utf8_lossy(&made.stderr));
    assert!(place.read("film.mp4") == film, "another film: {script}");
    let all: Value = server.get("/v1/videos").expect(200).json();
    assert_eq!(all["data"].as_array().map(Vec::len), Some(2));
    browser.expect_no_errors();
}
