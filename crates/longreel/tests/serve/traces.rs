//! Spans, as a collector gets them over OTLP/HTTP, and a collector that is none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::program::Place;
use crate::server::{PATIENCE, Server, asked, made_by_command};

/// Names the Python that has the protocol's messages, when it is not `python3`.
const PYTHON: &str = "LONGREEL_TEST_PYTHON";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What was sent: the headers as text, and the body.
type Sent = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A receiver of OTLP over HTTP. It listens for as long as the program runs.
fn receiver() -> (String, Sent) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let sent = Sent::default();
    let all = sent.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let all = all.clone();
            std::thread::spawn(move || while take(&stream, &all).is_some() {});
        }
    });
    (address, sent)
}

fn take(mut stream: &TcpStream, all: &Sent) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    all.lock().expect("whole").push((head, body));
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(answer.as_bytes()).ok()
}

/// All spans that have come.
fn spans(sent: &Sent) -> Vec<Value> {
    let all = sent.lock().expect("whole");
    let bodies = all.iter().map(|(_, body)| serde_json::from_slice::<Value>(body).expect("JSON"));
    bodies
        .flat_map(|body| {
            let of_resource = &body["resourceSpans"][0];
            assert_eq!(of_resource["resource"]["attributes"][0]["value"]["stringValue"], "films");
            of_resource["scopeSpans"][0]["spans"].as_array().expect("spans").clone()
        })
        .collect()
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let all = span["attributes"].as_array().expect("attributes");
    let found = all.iter().find(|attribute| attribute["key"] == name);
    &found.unwrap_or_else(|| panic!("no {name}: {span:#}"))["value"]
}

#[test]
fn a_collector_gets_the_spans_of_requests_films_and_segments_with_their_parents() {
    let place = Place::new();
    let (address, sent) = receiver();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=films%20and more".to_owned()),
        ("OTEL_SERVICE_NAME", "films".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
    ];
    let server = Server::start_among(&place, &variables);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("content-type", "application/json"), ("traceparent", &*parent)];
    let made = server.send("POST", "/v1/videos", &headers, asked(3).to_string()).expect(201).json();
    let id = made["id"].as_str().expect("an id").to_owned();
    server.film(&id);
    // Told to end right away: what was not sent yet is sent before it ends.
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
    let all = spans(&sent);
    let named = |name: &str| all.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();

    let posts = named("POST /v1/videos");
    let [post] = posts[..] else { panic!("{posts:#?}") };
    assert_eq!((&post["traceId"], &post["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!(post["kind"], 2, "{post:#}");
    assert_eq!(attribute(post, "http.response.status_code"), &json!({"intValue": "201"}));
    assert_eq!(attribute(post, "http.route"), &json!({"stringValue": "/v1/videos"}));
    let other = named("GET /v1/videos/{id}")[0];
    assert!(other["traceId"] != TRACE && other.get("parentSpanId").is_none(), "{other:#}");

    let films = named("film");
    let [film] = films[..] else { panic!("{films:#?}") };
    assert_eq!(film["traceId"], id.replace('-', "").as_str());
    assert_eq!(attribute(film, "longreel.state"), &json!({"stringValue": "completed"}));
    assert_eq!(attribute(film, "longreel.frames"), &json!({"intValue": "41"}));
    let segments = named("segment");
    assert_eq!(segments.len(), 3, "{segments:#?}");
    let time = |span: &Value, what: &str| -> u128 {
        span[what].as_str().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
    };
    for (n, segment) in segments.iter().enumerate() {
        assert_eq!(segment["parentSpanId"], film["spanId"], "{segment:#}");
        assert_eq!(segment["traceId"], film["traceId"], "{segment:#}");
        assert_eq!(attribute(segment, "longreel.segment"), &json!({"intValue": n.to_string()}));
        assert!(time(segment, "startTimeUnixNano") >= time(film, "startTimeUnixNano"));
        assert!(time(segment, "endTimeUnixNano") <= time(film, "endTimeUnixNano"));
    }
    let ids: std::collections::HashSet<&str> =
        all.iter().map(|span| span["spanId"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), all.len(), "a span was sent twice, or two have one id");
    let heads: Vec<String> = sent.lock().expect("whole").iter().map(|s| s.0.clone()).collect();
    for head in &heads {
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(head.contains("x-tenant: films and more"), "{head}");
    }
    read_by_the_protocols_own_messages(&place, &sent, all.len());
}

/// The official message types know every name and type of what was sent.
fn read_by_the_protocols_own_messages(place: &Place, sent: &Sent, count: usize) {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import opentelemetry.proto.trace.v1"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: {python} has no package opentelemetry-proto; pip install opentelemetry-proto, or set \
             {PYTHON}"
        );
        return;
    }
    let bodies: Vec<Vec<u8>> = sent.lock().expect("whole").iter().map(|s| s.1.clone()).collect();
    let paths: Vec<_> = bodies
        .iter()
        .enumerate()
        .map(|(n, body)| place.write(&format!("sent-{n}.json"), body))
        .collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/otlp.py");
    let output = Command::new(python).arg(script).args(paths).output().expect("it was run before");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let read: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(read.len(), count, "{said}");
    let post = read.iter().find(|span| span["name"] == "POST /v1/videos").expect("a request");
    assert_eq!((&post["trace"], &post["parent"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!(post["attributes"]["http.response.status_code"], 201);
    assert_eq!((&post["service"], &post["kind"]), (&json!("films"), &json!(2)));
}

#[test]
fn a_collector_that_is_gone_or_never_answers_keeps_nobody_waiting_and_changes_no_film() {
    let expected = made_by_command(2);
    // Nobody listens on the first; whoever listens on the second takes a connection and says nothing.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    for address in [closed, silent.local_addr().expect("bound")] {
        let place = Place::new();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
            ("OTEL_BSP_SCHEDULE_DELAY", "1".to_owned()),
        ];
        let server = Server::start_among(&place, &variables);
        assert!(server.film(&server.ask(&asked(2))) == expected, "another film");
        // More spans than wait to be sent.
        for _ in 0..50 {
            server.get("/health/live").expect(200);
        }
        let told = Instant::now();
        server.signal("-TERM");
        assert_eq!(server.ended(), Some(0));
        assert!(told.elapsed() < PATIENCE / 2, "it waited for a collector");
    }
    drop(silent);
}
