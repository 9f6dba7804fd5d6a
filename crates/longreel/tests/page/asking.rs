//! From the prompt to the film, and what is told when there is none.

use serde_json::json;

use crate::browser::Browser;
use crate::program::Place;
use crate::server::{Server, asked};

const CONTROL_ENTER: &str = "\u{e009}\u{e007}";

#[test]
fn a_prompt_becomes_a_film_that_plays_in_the_page() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    browser.open(&server.url("/"));
    // An empty service teaches; its first example is a prompt that the demo model knows.
    browser.click(".examples button");
    let prompt = browser.run("return document.getElementById('prompt').value");
    let prompt = prompt.as_str().expect("a text").to_owned();
    assert!(prompt.contains("circle"), "{prompt}");
    browser.write("#seconds", "0.9");
    // More than a number of JavaScript holds.
    browser.write("#seed", "18446744073709551615");
    browser.click("#advanced summary");
    browser.write("#set-steps", "3");
    browser.click("#prompt");
    browser.keys(CONTROL_ENTER);

    let id = browser.wait("location.hash.split('/film/')[1]");
    let id = id.as_str().expect("an id").to_owned();
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    browser.wait("document.querySelector('video').currentTime > 0.05");
    let at = browser.run("return document.querySelector('video').currentTime");
    browser.wait(&format!("document.querySelector('video').currentTime !== {at}"));
    let size = "const v = document.querySelector('video'); return [v.videoWidth, v.videoHeight]";
    assert_eq!(browser.run(size), json!([64, 64]));
    assert_eq!(browser.text("h1"), prompt);
    let video = server.video(&id);
    assert_eq!((&video["prompt"], &video["steps"]), (&json!(prompt), &json!(3)));
    assert_eq!(video["seed"], json!(18446744073709551615_u64));
    assert!(browser.text(".details").contains("18446744073709551615"));
    let href = browser.run("return document.querySelector('a[download]').href");
    assert_eq!(href, server.url(&format!("/download/{id}")));

    // It is found again.
    browser.click(".back");
    browser.write("#search", "no film has this");
    browser.wait("document.querySelector('.nothing')?.checkVisibility()");
    browser.write("#search", "circle");
    browser.wait("document.querySelectorAll('.gallery .card').length === 1");
    browser.click(".gallery .card-link");
    browser.wait("document.querySelector('video')?.videoWidth === 64");
    browser.expect_no_errors();
}

#[test]
fn what_is_refused_is_told_beside_its_field_and_nothing_typed_is_lost() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    browser.open(&server.url("/"));
    browser.write("#prompt", "a red circle");
    browser.click("#advanced summary");
    browser.write("#set-num_frames", "96");
    browser.click("#make");
    browser.wait("document.querySelector('#set-num_frames[aria-invalid=true]')");
    let told = browser.text("[data-field=num_frames] .field-error");
    assert!(told.contains("96") && told.contains("93 or 97"), "{told}");
    assert_eq!(browser.run("return document.activeElement.id"), "set-num_frames");
    assert_eq!(server.get("/v1/videos").expect(200).json()["data"], json!([]), "a film was made");

    // What is typed outlives a reload.
    browser.write("#set-num_frames", "97");
    browser.reload();
    browser.wait("document.getElementById('set-num_frames')?.value === '97'");
    assert_eq!(browser.run("return document.getElementById('prompt').value"), "a red circle");

    // Files are known by what they are, and find their places.
    browser.choose_file("file-image", &place.write("notes.txt", "no picture"));
    browser.wait("document.getElementById('file-error').innerText.includes('notes.txt')");
    let picture = crate::program::fixtures().join("../../web/icon.svg");
    browser.choose_file("file-image", &picture);
    browser.wait("document.querySelector('[data-slot=image].held img')?.naturalWidth > 0");
    assert_eq!(browser.text("#file-error"), "");
    browser.click("[data-slot=image] .icon-button");
    browser.wait("!document.querySelector('.slot.held')");

    // A film that is not there.
    browser.open(&server.url("/#/film/0190b36e-0000-7000-8000-000000000000"));
    browser.wait("document.querySelector('main .empty')?.checkVisibility()");
    browser.expect_no_errors();

    let address = server.url("");
    let port = address.rsplit(':').next().expect("a port").to_owned();
    server.kill();
    browser.wait("document.getElementById('offline').checkVisibility()");
    browser.click("#make");
    browser.wait("document.getElementById('problem').innerText.includes('does not answer')");
    let server = Server::start_at(&place, &format!("127.0.0.1:{port}"), &[]);
    browser.wait("!document.getElementById('offline').checkVisibility()");
    browser.run("document.getElementById('advanced').open = true");
    browser.write("#set-num_frames", "5");
    browser.click("#make");
    browser.wait("location.hash.startsWith('#/film/') && document.querySelector('h1')?.innerText === 'a red circle'");
    assert_eq!(
        server.get("/v1/videos").expect(200).json()["data"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn nothing_is_deleted_before_it_is_confirmed() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(1));
    server.film(&id);
    browser.open(&server.url(&format!("/#/film/{id}")));
    browser.click("[data-act=delete]");
    // The harmless answer has the focus.
    browser.wait("document.querySelector('dialog[open]')");
    browser.keys("\u{e007}");
    browser.wait("!document.querySelector('dialog')");
    assert_eq!(server.video(&id)["state"], "completed");
    assert_eq!(browser.run("return document.activeElement.dataset.act"), "delete");
    browser.click("[data-act=delete]");
    browser.click("dialog button[type=submit]");
    browser.wait("location.hash === '#/'");
    server.get(&format!("/v1/videos/{id}")).problem(404, "not_found");
    browser.wait("document.querySelector('.examples')");
    browser.expect_no_errors();
}

#[test]
fn two_films_are_seen_side_by_side_in_step_with_what_differs() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let mut other = asked(3);
    other["seed"] = json!(8);
    other["guidance_scale"] = json!(2.5);
    for body in [asked(3), other] {
        server.film(&server.ask(&body));
    }
    browser.open(&server.url("/"));
    browser.wait("document.querySelectorAll('.gallery .card').length === 2");
    browser.run("document.querySelectorAll('.pick input').forEach(input => input.click())");
    browser.click("#tray a");
    browser.wait(
        "[...document.querySelectorAll('video')].filter(v => v.videoWidth === 48).length === 2",
    );
    let rows = browser.wait(
        "[...document.querySelectorAll('tbody tr')].map(row => [...row.children].map(cell => cell.innerText))",
    );
    let rows: Vec<&serde_json::Value> = rows.as_array().expect("rows").iter().collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for (name, left, right) in [("Seed", "7", "8"), ("Guidance", "5", "2.5")] {
        let row = rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{rows:?}"));
        let values = [row[1].as_str(), row[2].as_str()];
        assert!(values.contains(&Some(right)), "{row}, not {left} and {right}");
    }
    browser.click(".transport .big");
    browser.wait("[...document.querySelectorAll('video')].every(v => v.currentTime > 0.3)");
    let apart = browser.run(
        "const [a, b] = document.querySelectorAll('video'); return Math.abs(a.currentTime - b.currentTime)",
    );
    assert!(apart.as_f64().expect("a number") < 0.25, "{apart} s apart");
    // A frame is a frame in both.
    browser.run("const p = document.querySelector('[type=range]'); p.value = 0.5; p.dispatchEvent(new Event('input'))");
    browser.wait("[...document.querySelectorAll('video')].every(v => v.paused && Math.abs(v.currentTime - 0.5) < 0.01)");
    browser.expect_no_errors();
}

#[test]
fn what_is_copied_of_a_film_asks_for_the_same_film_again() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(2);
    body["prompt"] = json!("a dog's \"red\" $HOME\nruns `x` \\ on");
    body["prompt_at"] = json!(["0.8s:it's a cat", "1s:-"]);
    body["negative_prompt"] = json!("-bad");
    body["seed"] = json!(u64::MAX);
    body["easycache"] = json!(true);
    let id = server.ask(&body);
    browser.open(&server.url("/"));
    let curl = browser.run(&format!(
        "return (async () => {{
            const {{ get }} = await import(`${{document.baseURI}}web/api.js`);
            const {{ curl }} = await import(`${{document.baseURI}}web/exports.js`);
            return curl(await get('v1/videos/{id}'), (await get('models/info')).defaults, false);
        }})()"
    ));
    let curl = curl.as_str().expect("a text").replacen("curl ", "printf '%s\\n' ", 1);
    // A shell takes it apart as it would for curl.
    let words = std::process::Command::new("sh").args(["-c", &curl]).output().expect("a shell");
    let words = String::from_utf8(words.stdout).expect("text");
    let (address, copied) = words.split_once("\n-d\n").expect("a body");
    assert!(address.starts_with(&server.url("/v1/videos")), "{address}");
    let copied: serde_json::Value = serde_json::from_str(copied).expect("JSON");
    let again = server.ask(&copied);
    assert_eq!(server.video(&again)["command"], server.video(&id)["command"]);
}

#[test]
fn the_plan_follows_what_is_typed_and_a_picture_comes_with_the_request() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    browser.open(&server.url("/"));
    browser.write("#prompt", "a red circle moves right");
    let plan = |frames: &str| {
        format!("document.getElementById('plan').innerText.includes('{frames} frames')")
    };
    browser.write("#seconds", "4");
    browser.wait(&plan("97"));
    browser.write("#seconds", "2");
    browser.wait(&plan("49"));
    // A refusal comes beside its field without anything being sent, and goes with its reason.
    browser.click("#advanced summary");
    browser.write("#set-base_num_frames", "32");
    browser.wait("document.querySelector('[data-field=base_num_frames] .field-error').innerText.includes('32')");
    browser.write("#set-base_num_frames", "33");
    browser.wait("!document.querySelector('[data-field=base_num_frames] .field-error').innerText");
    browser.wait(&plan("49"));
    browser.write("#set-steps", "2");

    let thumbnail = server.ask(&json!({"prompt": "a red circle", "num_frames": 5, "steps": 1}));
    server.film(&thumbnail);
    let picture =
        server.get(&format!("/v1/videos/{thumbnail}/content?variant=thumbnail")).expect(200);
    browser.choose_file("file-image", &place.write("first", &picture.body));
    browser.wait("document.getElementById('file-error').innerText");
    let name = format!("first.{}", picture.content_type.rsplit('/').next().expect("a type"));
    browser.choose_file("file-image", &place.write(&name, &picture.body));
    browser.wait("document.querySelector('[data-slot=image].held')");
    browser.click("#make");
    let id = browser.wait("location.hash.split('/film/')[1]");
    let video = server.video(id.as_str().expect("an id"));
    assert!(video["command"].as_str().expect("a command").contains("--image"), "{video:#}");
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    browser.wait("document.querySelector('video').videoWidth === 64");
    browser.expect_no_errors();
}

#[test]
fn a_service_with_keys_asks_for_one_and_shows_films_with_it() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let made = place.run(&["keys", "create", "page", "--data", "data", "--json"]).expect_code(0);
    let key = made.events()[0]["key"].as_str().expect("a key").to_owned();
    let server = Server::start_with(&place, &["--require-keys"]);
    browser.open(&server.url("/"));
    browser.write("dialog input", "lr_of_nobody");
    browser.click("dialog button[type=submit]");
    browser.wait("document.querySelector('dialog .problem')");
    browser.write("dialog input", &key);
    browser.click("dialog button[type=submit]");
    browser.wait("!document.querySelector('dialog')");
    browser.wait("document.querySelector('.empty')");
    assert_eq!(browser.run("return document.cookie"), "", "scripts can read the session");
    browser.write("#prompt", "a red circle");
    browser.write("#seconds", "0.5");
    browser.click("#make");
    // Pictures, films and events cannot carry a header: the cookie does it.
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    browser.wait("document.querySelector('video').videoWidth > 0");
    // A reload asks for nothing; signing out does.
    browser.reload();
    browser.wait("document.querySelector('video')?.videoWidth > 0");
    browser.open(&server.url("/#/service"));
    browser.click(".service > button");
    browser.wait("document.querySelector('dialog input[type=password]')");
    browser.expect_no_errors();
}

#[test]
fn another_model_is_asked_for_film_by_film_or_made_the_default() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let other = crate::program::fixtures().join("models/t2v").display().to_string();
    let server = Server::start_with(&place, &["--with-model", &other]);
    browser.open(&server.url("/"));
    browser.write("#prompt", "a red circle");
    browser.click("#advanced summary");
    let size = "return document.querySelector('#size option').textContent";
    assert_eq!(browser.run(size), "64 × 64");
    browser.run(
        "const s = document.getElementById('model'); s.value = 't2v';
         for (const of of ['input', 'change']) s.dispatchEvent(new Event(of, { bubbles: true }))",
    );
    assert_ne!(browser.run(size), "64 × 64", "the size is still that of the other model");
    browser.write("#set-steps", "1");
    browser.write("#set-num_frames", "5");
    browser.run(
        "const s = document.getElementById('size'); s.value = 'own';
         for (const of of ['input', 'change']) s.dispatchEvent(new Event(of, { bubbles: true }))",
    );
    browser.write("#size-own", "48x32");
    browser.click("#make");
    let id = browser.wait("location.hash.split('/film/')[1]");
    let id = id.as_str().expect("an id").to_owned();
    browser.wait("document.querySelector('.badge[data-tone=completed]')");
    assert_eq!(server.video(&id)["model"], "t2v");

    browser.open(&server.url("/#/service"));
    browser.wait("[...document.querySelectorAll('.model .badge')].filter(b => ['default', 'served'].includes(b.textContent)).length === 2");
    browser.run("document.querySelector('.model button:not([hidden])').click()");
    browser.wait("document.querySelectorAll('.model')[1].textContent.includes('default')");
    let info = server.get("/models/info").expect(200).json();
    assert_eq!(info["model"], "t2v");
    browser.expect_no_errors();
}
