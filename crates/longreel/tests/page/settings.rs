//! The settings beside the first ones: which there are, and that none is lost on the way.

use serde_json::json;

use crate::browser::Browser;
use crate::program::Place;
use crate::server::{Server, asked};

#[test]
fn each_field_is_one_that_a_request_takes_and_so_are_its_choices() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let document = server.get("/openapi.json").expect(200).json();
    let known = &document["components"]["schemas"]["VideoRequest"]["properties"];
    browser.open(&server.url("/"));
    let fields = browser.wait(
        "document.getElementById('set-kv_cache') && [...document.querySelectorAll('[id^=set-]')].map(e =>
            [e.id.slice(4), [...e.options ?? []].map(option => option.value).filter(Boolean), e.type])",
    );
    let fields = fields.as_array().expect("a list");
    assert!(fields.len() > 15, "{fields:?}");
    for field in fields {
        let [name, choices, kind] = [&field[0], &field[1], &field[2]];
        let schema = &known[name.as_str().expect("a name")];
        assert!(schema.is_object(), "no request takes {name}");
        if let Some(values) = schema["enum"].as_array() {
            let choices = choices.as_array().expect("a list");
            assert!(!choices.is_empty(), "{name} is a choice");
            for choice in choices {
                assert!(values.contains(choice), "{name} cannot be {choice}");
            }
        }
        let is_switch = schema["type"].to_string().contains("boolean");
        assert_eq!(kind == "checkbox", is_switch, "{name}");
    }
    browser.expect_no_errors();
}

#[test]
fn a_film_made_with_the_settings_of_another_is_the_same_film() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(2);
    for (name, value) in [
        ("causal_block_size", json!(1)),
        ("causal_attention", json!(true)),
        ("attention_window", json!(4)),
        ("attention_sink", json!(1)),
        ("sparse_attention", json!(0.9)),
        ("sparse_after", json!(0.5)),
        ("kv_cache", json!("off")),
        ("easycache", json!(0.1)),
        // These have no fields.
        ("carry", json!("pixels")),
        ("solver", json!("few-step")),
        ("timesteps", json!([1000, 750, 500, 250])),
    ] {
        body[name] = value;
    }
    let first = server.ask(&body);
    server.film(&first);
    browser.open(&server.url(&format!("/#/film/{first}")));
    browser.click("[data-act=again]");
    let further = browser.wait("document.getElementById('further').textContent");
    let further = further.as_str().expect("a text").to_owned();
    assert!(further.contains("History carried as pixels"), "{further}");
    // What is taken over outlives a reload, as all that is typed.
    browser.reload();
    browser.wait(&format!("document.getElementById('further').textContent === {}", json!(further)));
    browser.click("#make");
    browser
        .wait(&format!("location.hash.split('/film/')[1] && !location.hash.endsWith('{first}')"));
    let second = browser.run("return location.hash.split('/film/')[1]");
    let second = second.as_str().expect("an id");
    assert_eq!(server.video(second)["command"], server.video(&first)["command"]);

    // One of those is left out again by a press.
    browser.open(&server.url("/"));
    browser.wait("document.getElementById('plan').innerText");
    browser.run("document.getElementById('advanced').open = true");
    browser.click("#further [data-field=carry] button");
    browser.wait("!document.getElementById('further').textContent.includes('carried')");
    // And what counts only beside another one goes with it.
    browser.wait("document.getElementById('set-sparse_after').checkVisibility()");
    browser.write("#set-sparse_attention", "");
    browser.keys(" ");
    browser.wait("!document.getElementById('set-sparse_after').checkVisibility()");
    browser.click("#make");
    browser
        .wait(&format!("location.hash.split('/film/')[1] && !location.hash.endsWith('{second}')"));
    let third = browser.run("return location.hash.split('/film/')[1]");
    let command = server.video(third.as_str().expect("an id"))["command"].to_string();
    assert!(command.contains("--attention-window 4"), "{command}");
    assert!(!command.contains("--carry") && !command.contains("--sparse"), "{command}");
    browser.expect_no_errors();
}

#[test]
fn what_would_make_a_long_film_cheaper_is_taken_by_a_press() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    browser.open(&server.url("/"));
    browser.write("#prompt", "a red circle");
    browser.write("#seconds", "10h");
    browser.choose("#language", "zh");
    let take = "#plan-notes [aria-label*='注意力保留比例']";
    browser.wait(&format!("document.querySelector(\"{take}\")"));
    let named = browser.run(
        "return [...document.querySelectorAll('#plan-notes li')].every(li => /[\\u4e00-\\u9fff]/.test(li.textContent.split('：')[0]))",
    );
    assert_eq!(named, true, "{}", browser.text("#plan-notes"));
    browser.click(take);
    browser.wait("document.getElementById('set-sparse_attention').value === '0.9'");
    assert_eq!(browser.run("return document.activeElement.id"), "set-sparse_attention");
    browser.wait(&format!(
        "!document.querySelector(\"{take}\") && document.querySelector('#plan-notes button')"
    ));
    browser.expect_no_errors();
}
