//! Languages, light and dark, narrow windows, the keyboard.

use serde_json::json;

use crate::browser::Browser;
use crate::program::Place;
use crate::server::{Server, asked};

#[test]
fn both_languages_have_every_text_and_the_choice_is_kept() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    browser.open(&server.url("/"));
    let names = browser.run(
        "return Promise.all(['en', 'zh'].map(async name => {
            const texts = (await import(`${document.baseURI}web/${name}.js`)).default;
            return Object.entries(texts).map(([key, text]) => [key, typeof text === 'function' ? text.length : typeof text]);
        }))",
    );
    let sorted = |of: &serde_json::Value| {
        let mut names: Vec<String> =
            of.as_array().expect("a list").iter().map(|name| name.to_string()).collect();
        names.sort();
        names
    };
    let english = sorted(&names[0]);
    assert!(english.len() > 100, "{english:?}");
    assert_eq!(english, sorted(&names[1]));

    assert_eq!(browser.run("return document.documentElement.lang"), "en");
    browser.choose("#language", "zh");
    assert_eq!(browser.text("#make"), "生成影片");
    browser.reload();
    browser.wait("document.documentElement.lang === 'zh-CN'");
    browser.wait("document.querySelector('.empty h2')?.innerText === '您的第一部影片'");
    // Every label, hint and name that the page shows has a text.
    let bare = browser.run(
        "return [...document.querySelectorAll('[data-text], [data-label], [data-hint]')].filter(e =>
            (e.dataset.text && !e.textContent) || (e.dataset.label && !e.getAttribute('aria-label')) ||
            (e.dataset.hint && !e.placeholder)).length",
    );
    assert_eq!(bare, 0);
    browser.choose("#language", "en");
    assert_eq!(browser.text("#make"), "Make the film");
    browser.expect_no_errors();
}

#[test]
fn nothing_runs_over_the_edge_of_a_phone_or_a_desk_in_either_language() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(6);
    body["prompt"] = json!("A-very-long-word-without-a-blank ".repeat(2) + &"w".repeat(90));
    let id = server.ask(&body);
    server.film(&id);
    for (width, height) in [(320, 640), (390, 844), (820, 1100), (1024, 730), (1440, 900)] {
        browser.resize(width, height);
        for language in ["en", "zh"] {
            for hash in
                ["#/", &format!("#/film/{id}"), &format!("#/compare/{id}/{id}"), "#/service"]
            {
                browser.open(&server.url(&format!("/{hash}")));
                browser.choose("#language", language);
                browser.wait("document.querySelector('main').innerText.length > 20");
                let over = browser.run(
                    "const edge = document.documentElement.clientWidth;
                     return document.documentElement.scrollWidth > edge
                        ? [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > edge + 1
                            && !e.closest('.segments')).map(e => `${e.tagName}.${e.className}`).join(' ') || 'something' : ''",
                );
                assert_eq!(over, "", "{width} wide, {language}, {hash}");
                let covered = browser.run(
                    "const badge = document.querySelector('.film-head .badge');
                     if (!badge?.checkVisibility()) return null;
                     badge.scrollIntoView({ block: 'center' });
                     const { left, right, top, bottom } = badge.getBoundingClientRect();
                     const seen = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
                     return badge.contains(seen) ? null : seen?.outerHTML ?? 'nothing'",
                );
                assert!(
                    covered.is_null(),
                    "{width} wide, {language}: the state lies under {covered}"
                );
            }
        }
    }
    browser.expect_no_errors();
}

#[test]
fn long_prompts_are_folded_and_each_is_read_in_its_own_direction() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let mut long = asked(1);
    long["prompt"] = json!("a very long prompt ".repeat(300).trim());
    let mut arabic = asked(1);
    arabic["prompt"] = json!("دائرة حمراء <b>\u{202e}تتحرك</b> (left) 12.");
    let [long, arabic] = [long, arabic].map(|body| server.ask(&body));
    server.film(&arabic);
    browser.open(&server.url(&format!("/#/film/{long}")));
    let height = "document.querySelector('h1').offsetHeight";
    browser.wait(&format!("document.querySelector('h1')?.innerText && {height} < 150"));
    browser.click(".whole");
    browser.wait(&format!("{height} > 400"));
    assert_eq!(browser.run("return document.querySelector('.whole').ariaExpanded"), "true");
    browser.open(&server.url(&format!("/#/film/{arabic}")));
    browser.wait("document.querySelector('h1')?.matches(':dir(rtl)') && document.querySelector('.segments .words')?.matches(':dir(rtl)')");
    assert_eq!(browser.run("return document.querySelectorAll('h1 *').length"), 0, "markup");
    // What comes after a prompt in one line is not turned around by it.
    browser.open(&server.url(&format!("/#/compare/{arabic}/{long}")));
    let option =
        browser.wait(&format!("document.querySelector('option[value=\"{arabic}\"]')?.textContent"));
    let option = option.as_str().expect("a text");
    assert!(option.starts_with('\u{2068}') && option.contains("\u{2069} · Seed"), "{option:?}");
    browser.expect_no_errors();
}

#[test]
fn text_stands_out_from_its_ground_in_light_and_dark() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(3));
    server.film(&id);
    // Colours on their way from one theme to the other are neither's.
    let still = json!({"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]});
    browser.devtools("Emulation.setEmulatedMedia", &still);
    for theme in ["light", "dark"] {
        for hash in ["#/", &format!("#/film/{id}"), "#/service"] {
            browser.open(&server.url(&format!("/{hash}")));
            browser.choose("#theme", theme);
            browser.wait("document.querySelector('main').innerText.length > 20");
            // Contrast as WCAG 2 has it, of every text with the first opaque ground behind it.
            let weak = browser.run(include_str!("contrast.js"));
            assert_eq!(weak, json!([]), "{theme}, {hash}");
        }
    }
}

#[test]
fn the_page_is_usable_by_keyboard_alone() {
    const TAB: &str = "\u{e004}";
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    browser.open(&server.url("/"));
    browser.wait("document.querySelector('.examples')");
    browser.run("document.activeElement.blur()");
    let mut seen = Vec::new();
    for _ in 0..60 {
        browser.keys(TAB);
        let focused = browser.run(
            "const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
             const rung = e.closest('.slot, .card') ?? e;
             const outline = [e, rung].some(of => parseFloat(getComputedStyle(of).outlineWidth) > 0
                 && getComputedStyle(of).outlineStyle !== 'none');
             return e === document.body ? null : [e.id || e.className || e.textContent.slice(0, 20), outline]",
        );
        if focused.is_null() {
            break;
        }
        assert_eq!(focused[1], true, "{focused} does not show that it has the focus");
        seen.push(focused[0].as_str().unwrap_or_default().to_owned());
    }
    let at = |name: &str| {
        seen.iter()
            .position(|of| of == name)
            .unwrap_or_else(|| panic!("{name} is not reached: {seen:?}"))
    };
    let order =
        ["skip", "service", "language", "prompt", "file-image", "size", "seconds", "seed", "make"];
    let places: Vec<usize> = order.into_iter().map(at).collect();
    assert!(places.is_sorted(), "{seen:?}");
}
