//! Chromium, told what to do by WebDriver (W3C). The protocol is JSON over HTTP, and these tests want ten
//! of its calls: less than a client library would drag in.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::PATIENCE;

/// One browser at a time: a film, a server and a browser fill a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// A running Chromium with one window. It ends when this is dropped.
pub struct Browser {
    driver: Child,
    session: String,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts it; `None`, with a reason printed, where there is no chromedriver.
    pub fn start() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn();
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(e) => {
                println!("skipped: chromedriver cannot be run ({e}), so the page is not looked at");
                return None;
            }
        };
        let lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("chromedriver says its port");
        let mut browser =
            Self { driver, session: format!("http://127.0.0.1:{port}/session"), _turn: turn };
        let options = json!({"args": [
            // Containers and root have no sandbox, and often a small /dev/shm.
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
            "--window-size=1280,900", "--lang=en",
        ]});
        let wanted = json!({
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let wanted = json!({"capabilities": {"alwaysMatch": wanted}});
        let session = browser.call("POST", "", &wanted);
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {session}"));
        browser.session = format!("{}/{id}", browser.session);
        Some(browser)
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let url = format!("{}{path}", self.session);
        let request = ureq::http::Request::builder().method(method).uri(url);
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let request = request.header("content-type", "application/json").body(body);
        let mut response = agent
            .run(request.expect("a request"))
            .map_err(|e| json!({"message": e.to_string()}))?;
        let is_well = response.status().is_success();
        let text = response.body_mut().with_config().limit(1 << 28).read_to_string();
        let mut answer: Value = serde_json::from_str(&text.unwrap_or_default())
            .map_err(|e| json!({"message": e.to_string()}))?;
        let value = answer["value"].take();
        if is_well { Ok(value) } else { Err(value) }
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {}", e["message"]))
    }

    #[track_caller]
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({"url": url}));
    }

    /// Another window, which is the one that is told what to do from now on.
    #[track_caller]
    pub fn open_window(&self) {
        let window = self.call("POST", "/window/new", &json!({"type": "window"}));
        self.call("POST", "/window", &json!({"handle": window["handle"]}));
    }

    #[track_caller]
    pub fn reload(&self) {
        self.call("POST", "/refresh", &json!({}));
    }

    /// What a function body gives that runs in the page. A promise is waited for.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression is truthy; its value.
    #[track_caller]
    pub fn wait(&self, expression: &str) -> Value {
        let started = Instant::now();
        loop {
            let value = self.run(&format!("return ({expression})"));
            let is_so = !matches!(&value, Value::Null | Value::Bool(false))
                && value != json!(0)
                && value != json!("");
            if is_so {
                return value;
            }
            assert!(
                started.elapsed() < PATIENCE / 2,
                "never {expression}; the page says {}",
                self.run("return document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The element that a CSS selector finds, when it is there and can be seen.
    #[track_caller]
    fn element(&self, selector: &str) -> String {
        self.wait(&format!(
            "[...document.querySelectorAll({})].some(e => e.checkVisibility())",
            json!(selector)
        ));
        let script =
            "return [...document.querySelectorAll(arguments[0])].find(e => e.checkVisibility())";
        let found =
            self.call("POST", "/execute/sync", &json!({"script": script, "args": [selector]}));
        let id = found.as_object().and_then(|found| found.values().next());
        id.and_then(Value::as_str).unwrap_or_else(|| panic!("no {selector}")).to_owned()
    }

    /// Clicks as the mouse does: where the element is, and only when nothing lies over it.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let id = self.element(selector);
        // As far as somebody would scroll: out from under what stays in place.
        self.run(&format!(
            "[...document.querySelectorAll({})].find(e => e.checkVisibility()).scrollIntoView({{ block: 'nearest' }})",
            json!(selector)
        ));
        self.call("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Types into an element, in place of what is there.
    #[track_caller]
    pub fn write(&self, selector: &str, text: &str) {
        let id = self.element(selector);
        self.call("POST", &format!("/element/{id}/clear"), &json!({}));
        self.call("POST", &format!("/element/{id}/value"), &json!({"text": text}));
    }

    /// Puts the path of a file into an input for files.
    #[track_caller]
    pub fn choose_file(&self, id: &str, path: &std::path::Path) {
        let script = "return document.getElementById(arguments[0])";
        let found = self.call("POST", "/execute/sync", &json!({"script": script, "args": [id]}));
        let element = found.as_object().and_then(|found| found.values().next());
        let element = element.and_then(Value::as_str).expect("an input");
        // Chromium wants it without dots.
        let path = path.canonicalize().expect("a file").display().to_string();
        self.call("POST", &format!("/element/{element}/value"), &json!({"text": path}));
    }

    /// Presses keys where the focus is; `\u{e009}` is Ctrl as WebDriver has it.
    #[track_caller]
    pub fn keys(&self, keys: &str) {
        let down = keys.chars().map(|key| json!({"type": "keyDown", "value": key.to_string()}));
        let up = keys.chars().rev().map(|key| json!({"type": "keyUp", "value": key.to_string()}));
        let actions: Vec<Value> = down.chain(up).collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.call("POST", "/actions", &json!({"actions": [keyboard]}));
    }

    /// Chooses in a select.
    #[track_caller]
    pub fn choose(&self, selector: &str, value: &str) {
        self.element(selector);
        self.run(&format!(
            "const e = document.querySelector({}); e.value = {};
             for (const name of ['input', 'change']) e.dispatchEvent(new Event(name, {{ bubbles: true }}));",
            json!(selector),
            json!(value)
        ));
    }

    pub fn text(&self, selector: &str) -> String {
        let found = self
            .run(&format!("return document.querySelector({})?.innerText ?? ''", json!(selector)));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// The window as a phone's or a desk's.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.call("POST", "/goog/cdp/execute", &body)
    }

    /// Nothing in the page failed, and nothing broke its policy. What the service refused is another matter.
    #[track_caller]
    pub fn expect_no_errors(&self) {
        let log = self.call("POST", "/se/log", &json!({"type": "browser"}));
        let of_page: Vec<&Value> = log
            .as_array()
            .expect("a list")
            .iter()
            .filter(|line| line["level"] == "SEVERE" && line["source"] != "network")
            .collect();
        assert!(of_page.is_empty(), "{of_page:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium goes with its session; without one there is none.
        let _ = self.try_call("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
