//! The examples of the documents, run as they stand there.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate, encode_png};
use serde_json::{Value, json};

use crate::program::Place;
use crate::server::{PATIENCE, Server};
use crate::tools::{has, python, read, repository, run};

const PROMPT: &str = "a red circle moves right on a blue background";

/// A server with the demo model that wants a key, and the key.
fn server(place: &Place) -> (Server, String) {
    let words = ["--require-keys", "--first-key", "--allow-private-webhooks"];
    let server = Server::start_with(place, &words);
    let key = server.said[0]["key"].as_str().expect("a key").to_owned();
    (server, key)
}

/// Runs an example for a film of two seconds; what it prints.
fn example(program: &str, file: &str) {
    let place = Place::new();
    let (server, key) = server(&place);
    let film = place.path("example.mp4");
    let output = run(Command::new(program)
        .arg(repository().join("docs/examples").join(file))
        .args([PROMPT, "2"])
        .arg(&film)
        .env("LONGREEL_URL", server.url(""))
        .env("LONGREEL_KEY", key)
        .env("NO_PROXY", "127.0.0.1"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("asked: ") && said.contains("saved: "), "{said}");
    assert_eq!(&std::fs::read(film).expect("a film")[4..8], b"ftyp", "{said}");
}

#[test]
fn the_example_in_curl_makes_a_film() {
    if has("sh", &["-c", "command -v curl"], "install curl") {
        example("sh", "film.sh");
    }
}

/// A prompt is what was typed, and what is refused ends the example instead of being asked for again and again.
#[test]
fn the_example_in_curl_takes_any_prompt_and_ends_where_it_is_refused() {
    if !has("sh", &["-c", "command -v curl"], "install curl") {
        return;
    }
    let place = Place::new();
    let (server, key) = server(&place);
    let film = |seconds: &str| {
        let mut sh = Command::new("sh");
        sh.arg(repository().join("docs/examples/film.sh"))
            .args(["a \"red\" circle; \\ and $1", seconds])
            .arg(place.path("example.mp4"))
            .env("LONGREEL_URL", server.url(""))
            .env("LONGREEL_KEY", &key)
            .env("NO_PROXY", "127.0.0.1");
        sh
    };
    let said = String::from_utf8_lossy(&run(&mut film("1")).stdout).into_owned();
    assert!(said.contains("saved: "), "{said}");
    let refused = film("never").output().expect("a shell");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("a time is written"), "{said}");
}

#[test]
fn the_example_in_python_watches_and_makes_a_film() {
    if has("python3", &["--version"], "install python3") {
        example("python3", "film.py");
    }
}

#[test]
fn the_example_with_openais_client_makes_a_film() {
    if has(&python(), &["-c", "import openai"], "pip install openai, or set LONGREEL_TEST_PYTHON") {
        example(&python(), "openai_film.py");
    }
}

/// The lines of curl that stand in the page itself.
#[test]
fn the_lines_in_curl_that_bring_a_picture_and_a_video_are_taken_as_they_stand() {
    if !has("sh", &["-c", "command -v curl"], "install curl") {
        return;
    }
    let place = Place::new();
    let server = Server::start(&place);
    place.write("first.png", encode_png(&Frame::filled(64, 64, [20, 40, 200]), None));
    let options = FilmOptions::new(64, 64, FrameRate::whole(24));
    let mut clip = FilmWriter::create(&place.path("clip.mp4"), &options).expect("a film");
    for _ in 0..33 {
        clip.push(&Frame::filled(64, 64, [20, 40, 200])).expect("a frame");
    }
    clip.finish().expect("a film");
    let page = read("docs/en/src/api.md");
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(lines.len() >= 2, "{lines:?}");
    for line in lines {
        let line = line.replace("http://127.0.0.1:8000", &server.url(""));
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{line} --silent --show-error --noproxy '*'")]);
        let said = run(shell.current_dir(place.path(""))).stdout;
        let video: Value = serde_json::from_slice(&said).expect("JSON");
        let id = video["id"].as_str().unwrap_or_else(|| panic!("{line}: {video}"));
        server.send("POST", &format!("/v1/videos/{id}/cancel"), &[], []).expect(200);
    }
}

#[test]
fn the_example_in_javascript_steers_and_makes_a_film() {
    if has("node", &["-e", "fetch"], "install node 18 or newer") {
        example("node", "film.mjs");
    }
}

#[test]
fn examples_end_with_the_problem_that_the_server_tells() {
    let place = Place::new();
    let (server, key) = server(&place);
    for (program, words, file) in
        [("python3", &["--version"][..], "film.py"), ("node", &["-e", "fetch"], "film.mjs")]
    {
        if !has(program, words, "install it") {
            continue;
        }
        let mut command = Command::new(program);
        command.arg(repository().join("docs/examples").join(file)).args([PROMPT, "-1", "film.mp4"]);
        command
            .env("LONGREEL_URL", server.url(""))
            .env("LONGREEL_KEY", &key)
            .env("NO_PROXY", "127.0.0.1");
        let output = command.output().expect("it was run before");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("is no length of time"), "{said}");
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_of_a_receiver_checks_who_reports() {
    if !has("python3", &["--version"], "install python3") {
        return;
    }
    let place = Place::new();
    let (server, key) = server(&place);
    let secret = place.run(&["keys", "webhook-secret", "--data", "data"]).expect_code(0).stdout;
    let child = Command::new("python3")
        .arg(repository().join("docs/examples/webhook.py"))
        .arg("0")
        .env("LONGREEL_WEBHOOK_SECRET", secret.trim())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut receiver = Killed(child.expect("it was run before"));
    let mut lines = BufReader::new(receiver.0.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    let port = line().trim_start_matches("listening: ").to_owned();
    let url = format!("http://127.0.0.1:{port}/");
    // Somebody else is turned away.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let forged = agent
        .post(&url)
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", "1700000000")
        .header("webhook-signature", "v1,AAAA")
        .send("{}");
    assert_eq!(forged.expect("an answer").status(), 401);
    let asked = json!({"prompt": PROMPT, "num_frames": 9, "steps": 2, "webhook_url": url});
    let headers =
        [("authorization", &*format!("Bearer {key}")), ("content-type", "application/json")];
    server.send("POST", "/v1/videos", &headers, asked.to_string()).expect(201);
    let line = line();
    let told: Value = serde_json::from_str(line.trim_start_matches("reported: ")).expect("JSON");
    assert_eq!(told["data"]["status"], "completed", "{told}");
}
