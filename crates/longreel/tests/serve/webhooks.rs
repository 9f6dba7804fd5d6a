//! Reports of films that have ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use longreel_jobs::SigningSecret;
use serde_json::{Value, json};

use crate::program::{Place, Ran, model};
use crate::server::{PATIENCE, Server, asked};

/// A message as a receiver gets it.
struct Message {
    head: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }
}

struct Receiver(TcpListener);

impl Receiver {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        Self(listener)
    }

    fn url(&self) -> String {
        format!("http://{}/hook?for=films", self.0.local_addr().expect("bound"))
    }

    /// Waits for a message and answers it.
    fn take(&self, answer: &str) -> Message {
        let started = Instant::now();
        let mut stream = loop {
            match self.0.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            assert!(started.elapsed() < PATIENCE, "no message came");
        };
        stream.set_nonblocking(false).expect("a socket");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).expect("text");
            line.trim_end().to_owned()
        };
        let head = line();
        let mut headers = Vec::new();
        while let Some((name, value)) = line().split_once(": ") {
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut message = Message { head, headers, body: Vec::new() };
        let length = message.header("content-length").parse().expect("a length");
        message.body = vec![0; length];
        reader.read_exact(&mut message.body).expect("a body");
        write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").expect("a socket");
        message
    }
}

fn start(place: &Place) -> Server {
    Server::start_with(place, &["--allow-private-webhooks", "--model", &model()])
}

fn log(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/videos/{id}/webhooks")).expect(200).json()["data"].take()
}

/// Waits until so many attempts are known; the delivery.
fn wait_for(server: &Server, id: &str, attempts: usize) -> Value {
    let started = Instant::now();
    loop {
        let log = log(server, id);
        if log[0]["attempts"].as_array().is_some_and(|known| known.len() >= attempts) {
            // An attempt may have been noted between the answer's two looks at the database.
            return self::log(server, id)[0].clone();
        }
        assert!(started.elapsed() < PATIENCE, "never {attempts} attempts: {log:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_end_of_a_film_is_reported_signed_and_again_until_it_is_taken() {
    let place = Place::new();
    let server = start(&place);
    let receiver = Receiver::new();
    let mut body = asked(1);
    body["webhook_url"] = receiver.url().into();
    let id = server.ask(&body);
    let first = receiver.take("503 Busy");
    assert_eq!(first.head, "POST /hook?for=films HTTP/1.1");
    assert_eq!(first.header("content-type"), "application/json");
    let owed = wait_for(&server, &id, 1);
    assert_eq!(owed["state"], "pending");
    assert!(owed["next_ms"].as_u64() > owed["created_ms"].as_u64(), "{owed:#}");
    let second = receiver.take("204 Taken");
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert!(first.body == second.body, "another message");

    let secret = place.run(&["keys", "webhook-secret", "--data", "data"]).expect_code(0).stdout;
    let secret = SigningSecret::parse(&secret).expect("a secret");
    for message in [&first, &second] {
        let (id, at) = (message.header("webhook-id"), message.header("webhook-timestamp"));
        let at: i64 = at.parse().expect("seconds");
        let signature = message.header("webhook-signature");
        assert!(secret.verify(signature, id, at, &message.body), "{signature}");
        assert!(!secret.verify(signature, id, at + 1, &message.body));
    }
    let told: Value = serde_json::from_slice(&second.body).expect("JSON");
    assert_eq!((&told["type"], &told["data"]["id"]), (&json!("job.completed"), &json!(id)));
    assert_eq!(told["data"]["status"], "completed");
    assert!(told["timestamp"].as_str().expect("a time").ends_with('Z'), "{told:#}");

    let delivered = wait_for(&server, &id, 2);
    assert_eq!(delivered["state"], "delivered");
    let attempts = delivered["attempts"].as_array().expect("a list").iter();
    let statuses: Vec<_> = attempts.map(|attempt| attempt["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(503), Some(204)]);
    assert_eq!(delivered["id"], first.header("webhook-id"));
}

#[test]
fn films_that_fail_or_are_called_off_are_reported_too() {
    let place = Place::new();
    let server = start(&place);
    let receiver = Receiver::new();
    let ask = |key: &str, value: Value| {
        let mut body = asked(100_000);
        body["webhook_url"] = receiver.url().into();
        body[key] = value;
        server.ask(&body)
    };
    ask("deadline_seconds", json!(1));
    let kind = |message: Message| {
        let told: Value = serde_json::from_slice(&message.body).expect("JSON");
        told["type"].as_str().expect("a type").to_owned()
    };
    assert_eq!(kind(receiver.take("200 OK")), "job.failed");
    let id = ask("seed", json!(8));
    server.post(&format!("/v1/videos/{id}/cancel"), &json!({})).expect(200);
    assert_eq!(kind(receiver.take("410 Gone")), "job.cancelled");
    assert_eq!(wait_for(&server, &id, 1)["state"], "given_up");
}

#[test]
fn an_address_of_the_inside_is_refused_and_nobody_there_is_called() {
    let place = Place::new();
    let server = Server::start(&place);
    let receiver = Receiver::new();
    for url in [receiver.url(), receiver.url().replace("127.0.0.1", "localhost")] {
        let mut body = asked(1);
        body["webhook_url"] = url.into();
        let refused = server.post("/v1/videos", &body).problem(400, "address_not_allowed");
        assert!(refused.contains("--allow-private-webhooks"), "{refused}");
    }
    assert!(receiver.0.accept().is_err(), "somebody was called");
}

#[test]
fn a_secret_of_ones_own_is_used_and_a_wrong_one_refused() {
    let place = Place::new();
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    place.write("secret", own);
    let words = ["keys", "webhook-secret", "--webhook-secret-file", "secret"];
    assert_eq!(place.run(&words).expect_code(0).stdout.trim(), own);
    let shown = |more: &[&str]| {
        let words: Vec<&str> = ["keys", "webhook-secret"].iter().chain(more).copied().collect();
        let ran = place.command(&words).env("LONGREEL_WEBHOOK_SECRET", own).output();
        Ran::of(ran.expect("the program starts"))
    };
    assert_eq!(shown(&[]).expect_code(0).stdout.trim(), own);
    let both = shown(&["--webhook-secret-file", "secret"]).expect_code(2);
    assert!(both.stderr.contains("contradict each other"), "{}", both.stderr);
    place.write("wrong", "hunter2");
    let words = ["serve", "--webhook-secret-file", "wrong", "--model", &model()];
    let ran = place.run(&words).expect_code(2);
    assert!(
        ran.stderr.contains("openssl rand") && !ran.stderr.contains("hunter2"),
        "{}",
        ran.stderr
    );
}

#[test]
fn those_who_run_the_server_are_told_of_what_they_asked_for_in_their_chats_way() {
    let place = Place::new();
    let (plain, feishu) = (Receiver::new(), Receiver::new());
    let chat = format!("feishu+{}#secret", feishu.url());
    let words = ["--notify", &plain.url(), "--notify", &chat, "--notify-on", "completed,failed"];
    let model = model();
    let words: Vec<&str> = words.into_iter().chain(["--model", &model]).collect();
    let server = Server::start_with(&place, &words);
    let id = server.ask(&asked(1));
    // The first try fails, the second gets there.
    let refused = plain.take("503 Service Unavailable");
    assert!(refused.head.starts_with("POST /hook?for=films "), "{}", refused.head);
    let message: Value = serde_json::from_slice(&plain.take("200 OK").body).expect("JSON");
    assert_eq!((&message["topic"], &message["video"]), (&json!("completed"), &json!(id)));
    assert!(message["text"].as_str().expect("a text").contains("17 frames"), "{message}");
    let message: Value = serde_json::from_slice(&feishu.take("200 OK").body).expect("JSON");
    assert_eq!(message["msg_type"], "text");
    assert!(message["content"]["text"].as_str().expect("a text").contains("已完成"), "{message}");
    assert!(message["sign"].is_string() && message["timestamp"].is_string(), "{message}");
    // A chat's address lets whoever has it write there.
    assert!(!server.log().contains(&plain.url()), "{}", server.log());

    let ran = place.run(&["serve", "--notify", "teams+https://example.com"]).expect_code(2);
    assert!(ran.stderr.contains("slack, feishu, dingtalk, wecom"), "{}", ran.stderr);
}
