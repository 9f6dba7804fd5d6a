//! A server in a folder of its own, and a client.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Place, film_words, model};

/// No test waits longer for anything; on a busy machine nothing here takes a tenth of it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running `longreel serve`. It is killed when this is dropped.
pub struct Server {
    child: Child,
    address: String,
    /// What it said before it listened.
    pub said: Vec<Value>,
    log: std::path::PathBuf,
}

impl Server {
    /// Starts it with the tiny model of [`film_words`].
    pub fn start(place: &Place) -> Self {
        Self::start_with(place, &["--model", &model()])
    }

    pub fn start_with(place: &Place, more: &[&str]) -> Self {
        Self::start_at(place, "127.0.0.1:0", more)
    }

    pub fn start_at(place: &Place, listen: &str, more: &[&str]) -> Self {
        Self::spawn(place, place.command(&words(listen, more)))
    }

    /// Starts it with variables in its environment.
    pub fn start_among(place: &Place, variables: &[(&str, String)]) -> Self {
        let mut command = place.command(&words("127.0.0.1:0", &["--model", &model()]));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Self::spawn(place, command)
    }

    /// Starts it in a shell that has done something before.
    #[cfg(target_os = "linux")]
    pub fn start_after(place: &Place, before: &str, more: &[&str]) -> Self {
        let program = place.command(&words("127.0.0.1:0", more));
        let line = format!("{before} && exec \"$0\" \"$@\"");
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(line).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.current_dir(program.get_current_dir().expect("a folder")).stdin(Stdio::null());
        Self::spawn(place, shell)
    }

    fn spawn(place: &Place, mut command: Command) -> Self {
        let log = place.path("log");
        let file = File::options().append(true).create(true).open(&log).expect("writable");
        let mut child =
            command.stdout(Stdio::piped()).stderr(file).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut said = Vec::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("it did not listen: {}", std::fs::read_to_string(log).unwrap_or_default())
            };
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if event["event"] == "listening" {
                break event["address"].as_str().expect("an address").to_owned();
            }
            said.push(event);
        };
        Self { child, address, said, log }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.as_ref()).expect("a request");
        let mut response = agent.run(request).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let header = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Answer {
            status: response.status().as_u16(),
            content_type: header("content-type"),
            content_range: header("content-range"),
            cache_control: header("cache-control"),
            request_id: header("x-request-id"),
            headers: response.headers().clone(),
            body: response.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a body"),
        }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], [])
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string())
    }

    /// Waits until a film that is asked for now would be made at once.
    pub fn wait_ready(&self) {
        let started = Instant::now();
        while self.get("/health/ready").status != 200 {
            assert!(started.elapsed() < PATIENCE, "never ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks for a film; its id.
    pub fn ask(&self, body: &Value) -> String {
        let video = self.post("/v1/videos", body).expect(201).json();
        video["id"].as_str().expect("an id").to_owned()
    }

    pub fn video(&self, id: &str) -> Value {
        self.get(&format!("/v1/videos/{id}")).expect(200).json()
    }

    /// Waits until a video is as wanted.
    pub fn wait(&self, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let video = self.video(id);
            if is_so(&video) {
                return video;
            }
            assert!(started.elapsed() < PATIENCE, "never {what}: {video:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end of a video that should end well, and gives the film.
    pub fn film(&self, id: &str) -> Vec<u8> {
        let video = self.wait(id, "at its end", |v| {
            ["completed", "failed"].contains(&v["status"].as_str().expect("a status"))
        });
        assert_eq!(video["status"], "completed", "{video:#}\n{}", self.log());
        self.get(&format!("/v1/videos/{id}/content")).expect(200).body
    }

    /// The events of a video after number `after`, as they come.
    pub fn events(&self, id: &str, after: u64) -> impl Iterator<Item = Told> + use<> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
        let url = self.url(&format!("/v1/videos/{id}/events"));
        let response = agent.get(url).header("last-event-id", after.to_string()).call();
        let body = response.expect("events").into_body();
        let mut lines = BufReader::new(body.into_reader()).lines();
        std::iter::from_fn(move || {
            let mut told = Told { number: 0, kind: String::new(), data: Value::Null };
            for line in lines.by_ref() {
                let line = line.ok()?;
                match line.split_once(": ") {
                    Some(("id", number)) => told.number = number.parse().expect("a number"),
                    Some(("event", kind)) => told.kind = kind.to_owned(),
                    Some(("data", data)) => {
                        told.data =
                            serde_json::from_str::<Value>(data).expect("JSON")["data"].take();
                    }
                    _ if line.is_empty() && !told.kind.is_empty() => return Some(told),
                    _ => {}
                }
            }
            None
        })
    }

    #[cfg(target_os = "linux")]
    pub fn signal(&self, signal: &str) {
        signal_process(self.id(), signal);
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn ended(mut self) -> Option<i32> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not end: {}", self.log());
    }

    /// SIGKILL: nothing of it runs after this.
    pub fn kill(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }

    /// The process ids of its workers.
    #[cfg(target_os = "linux")]
    pub fn workers(&self) -> Vec<u32> {
        let parent = |id: u32| -> Option<u32> {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            // The name before it may hold blanks and brackets.
            let (_, rest) = stat.rsplit_once(") ")?;
            let mut fields = rest.split(' ');
            let is_dead = fields.next()? == "Z";
            fields.next()?.parse().ok().filter(|_| !is_dead)
        };
        let ids = std::fs::read_dir("/proc")
            .expect("Linux")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        ids.filter(|&id| parent(id) == Some(self.id())).collect()
    }
}

/// The words of a server in a folder of its own.
fn words<'a>(listen: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["serve", "--listen", listen, "--data", "data", "--json"];
    fixed.into_iter().chain(more.iter().copied()).collect()
}

#[cfg(target_os = "linux")]
pub fn signal_process(id: u32, signal: &str) {
    let status = std::process::Command::new("kill").args([signal, &id.to_string()]).status();
    assert!(status.expect("kill").success());
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub number: u64,
    pub kind: String,
    pub data: Value,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub content_range: String,
    pub cache_control: String,
    pub request_id: String,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// A problem with this status and code; its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        let answer = self;
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.content_type, "application/problem+json");
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["request_id"], answer.request_id, "{problem}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// The request of the film that [`film_words`] make.
pub fn asked(segments: u64) -> Value {
    json!({
        "prompt": "A red circle moves.",
        "size": "48x32",
        "num_frames": 17 + (segments - 1) * 12,
        "base_num_frames": 17,
        "overlap_history": 5,
        "steps": 4,
        "addnoise_condition": 20,
        "seed": 7,
    })
}

/// The film that the command makes of the same request.
pub fn made_by_command(segments: u64) -> Vec<u8> {
    let place = Place::new();
    place.run(&film_words(segments, &[])).expect_code(0);
    place.read("film.mp4")
}
