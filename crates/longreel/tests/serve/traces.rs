//! Spans, as a collector gets them over OTLP/HTTP, and a collector that is none.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::Place;
use crate::server::{PATIENCE, Server, asked, made_by_command};

/// Names the Python that has the protocol's messages, when it is not `python3`.
const PYTHON: &str = "LONGREEL_TEST_PYTHON";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const STATE: &str = "vendor=a b,other=1";

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

/// Asks for a film in a trace; its id.
fn ask(server: &Server, traceparent: &str, body: &Value) -> String {
    let headers =
        [("content-type", "application/json"), ("traceparent", traceparent), ("tracestate", STATE)];
    let made = server.send("POST", "/v1/videos", &headers, body.to_string()).expect(201).json();
    made["id"].as_str().expect("an id").to_owned()
}

/// The value of a header of each request that has come.
fn header(sent: &Sent, name: &str) -> Vec<String> {
    let all = sent.lock().expect("whole");
    let value = |head: &String| {
        let found = head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then(|| value.to_owned())
        });
        found.unwrap_or_default()
    };
    all.iter().map(|(head, _)| value(head)).collect()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The environment of a server whose spans go to `collector`, if anywhere, and that may call this machine.
fn environment(collector: Option<&str>) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("LONGREEL_ALLOW_PRIVATE_WEBHOOKS", "on".to_owned()),
        ("OTEL_SERVICE_NAME", "films".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "20".to_owned()),
    ];
    variables.extend(collector.map(|url| ("OTEL_EXPORTER_OTLP_ENDPOINT", url.to_owned())));
    variables
}

#[test]
fn webhooks_go_on_with_the_trace_of_the_request_and_a_trace_that_is_not_recorded_stays_so() {
    let place = Place::new();
    let (collector, sent) = receiver();
    let (hook, told) = receiver();
    let server = Server::start_among(&place, &environment(Some(&collector)));
    let mut body = asked(1);
    body["webhook_url"] = json!(format!("{hook}/hook"));
    let id = ask(&server, &format!("00-{TRACE}-{PARENT}-01"), &body);
    wait_for("a webhook", || header(&told, "webhook-id").len() == 1);
    let unsampled = format!("00-{}-{PARENT}-00", "1".repeat(32));
    ask(&server, &unsampled, &body);
    wait_for("another one", || header(&told, "webhook-id").len() == 2);
    // What is no traceparent has no part in it.
    let malformed = ask(&server, &format!("00-{TRACE}-{PARENT}-1"), &body);
    wait_for("a third", || header(&told, "webhook-id").len() == 3);
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));

    let all = spans(&sent);
    let of = |trace: &str, name: &str| {
        let found = all.iter().filter(|s| s["traceId"] == trace && s["name"] == name);
        let found: Vec<&Value> = found.collect();
        let [span] = found[..] else { panic!("{name} of {trace}: {found:#?}") };
        span.clone()
    };
    let (film, webhook) = (of(TRACE, "film"), of(TRACE, "webhook"));
    assert_eq!(attribute(&film, "longreel.job"), &json!({"stringValue": id}));
    assert_eq!((&webhook["parentSpanId"], &webhook["kind"]), (&film["spanId"], &json!(3)));
    assert_eq!(attribute(&webhook, "http.response.status_code"), &json!({"intValue": "200"}));
    let own = malformed.replace('-', "");
    assert_eq!(of(&own, "film").get("parentSpanId"), None);
    let parents = [
        format!("00-{TRACE}-{}-01", webhook["spanId"].as_str().expect("an id")),
        // As it came: there is no span of ours in between.
        unsampled,
        format!("00-{own}-{}-01", of(&own, "webhook")["spanId"].as_str().expect("an id")),
    ];
    assert_eq!(header(&told, "traceparent"), parents);
    assert_eq!(header(&told, "tracestate"), [STATE, STATE, ""]);
    let unrecorded = all.iter().find(|span| span["traceId"] == "1".repeat(32));
    assert_eq!(unrecorded, None);
}

#[test]
fn a_film_keeps_its_trace_over_a_restart_and_a_server_without_a_collector_hands_it_on() {
    let place = Place::new();
    let (hook, told) = receiver();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let mut body = asked(1);
    body["webhook_url"] = json!(format!("{hook}/hook"));
    let server = Server::start_among(&place, &environment(None));
    ask(&server, &parent, &body);
    wait_for("a webhook", || header(&told, "webhook-id").len() == 1);
    assert_eq!(header(&told, "traceparent"), [parent.as_str()]);
    assert_eq!(header(&told, "tracestate"), [STATE]);
    let id = ask(&server, &parent, &asked(12));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() >= Some(1));
    server.kill();

    let (collector, sent) = receiver();
    let server = Server::start_among(&place, &environment(Some(&collector)));
    server.film(&id);
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
    let all = spans(&sent);
    let named = |name: &str| {
        let of_it = all.iter().filter(|s| s["traceId"] == TRACE && s["name"] == name);
        of_it.collect::<Vec<_>>()
    };
    let films = named("film");
    let [film] = films[..] else { panic!("{films:#?}") };
    assert_eq!(
        film["parentSpanId"], PARENT,
        "the client's own, since nobody was told of a request"
    );
    // Each time that it waited, and each that it was in a worker's hands.
    assert_eq!((named("queue").len(), named("worker").len()), (2, 2), "{all:#?}");
    let workers = named("worker");
    let ids: Vec<&Value> = workers.iter().map(|worker| &worker["spanId"]).collect();
    let segments = named("segment");
    assert_eq!(segments.len(), 12, "{segments:#?}");
    assert!(segments.iter().all(|segment| ids.contains(&&segment["parentSpanId"])), "{all:#?}");
    assert_eq!(&segments[0]["parentSpanId"], ids[0]);
    assert_eq!(&segments[11]["parentSpanId"], ids[1]);
    assert_eq!(&named("store")[0]["parentSpanId"], ids[1]);
}

#[test]
fn a_film_that_ends_while_it_waits_has_its_spans_and_is_counted_too() {
    let place = Place::new();
    let (collector, sent) = receiver();
    let server = Server::start_among(&place, &environment(Some(&collector)));
    let long = server.ask(&asked(100_000));
    let [called_off, late] = [None, Some(1)].map(|deadline| {
        let mut body = asked(1);
        body["deadline_seconds"] = json!(deadline);
        server.ask(&body)
    });
    for id in [&called_off, &late] {
        server.post(&format!("/v1/videos/{id}/pause"), &json!({})).expect(200);
    }
    // Twice is once.
    for _ in 0..2 {
        server.post(&format!("/v1/videos/{called_off}/cancel"), &json!({})).expect(200);
    }
    server.wait(&late, "too late", |v| v["status"] == "failed");
    server.post(&format!("/v1/videos/{long}/cancel"), &json!({})).expect(200);
    server.wait(&long, "called off", |v| v["state"] == "cancelled");
    let counted = |state: &str| {
        let text = String::from_utf8(server.get("/metrics").expect(200).body).expect("text");
        let name = format!("longreel_jobs_ended_total{{state=\"{state}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u32>().ok());
        line.expect("a count")
    };
    wait_for("counted", || counted("cancelled") == 2 && counted("failed") == 1);
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
    let all = spans(&sent);
    for (id, state) in [(&called_off, "cancelled"), (&late, "failed")] {
        let trace = id.replace('-', "");
        let of = |name: &str| {
            let found = all.iter().filter(|s| s["traceId"] == *trace && s["name"] == name);
            found.collect::<Vec<_>>()
        };
        let (films, queues) = (of("film"), of("queue"));
        assert_eq!((films.len(), queues.len()), (1, 1), "{all:#?}");
        assert_eq!(attribute(films[0], "longreel.state"), &json!({"stringValue": state}));
        assert_eq!(attribute(queues[0], "longreel.paused"), &json!({"boolValue": true}));
    }
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
    let id = ask(&server, &format!("00-{TRACE}-{PARENT}-01"), &asked(3));
    server.film(&id);
    let own = server.ask(&asked(1));
    server.film(&own);
    // Told to end right away: what was not sent yet is sent before it ends.
    server.signal("-TERM");
    assert_eq!(server.ended(), Some(0));
    let all = spans(&sent);
    let named = |name: &str| all.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();

    let posts = named("POST /v1/videos");
    let [post, other_post] = posts[..] else { panic!("{posts:#?}") };
    assert_eq!((&post["traceId"], &post["parentSpanId"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!(post["kind"], 2, "{post:#}");
    assert_eq!(attribute(post, "http.response.status_code"), &json!({"intValue": "201"}));
    assert_eq!(attribute(post, "http.route"), &json!({"stringValue": "/v1/videos"}));
    let other = named("GET /v1/videos/{id}")[0];
    assert!(other["traceId"] != TRACE && other.get("parentSpanId").is_none(), "{other:#}");

    // A film belongs to the request that asked for it; without a trace of the client's to its own.
    let films = named("film");
    let [film, other_film] = films[..] else { panic!("{films:#?}") };
    assert_eq!((&film["traceId"], &film["parentSpanId"]), (&json!(TRACE), &post["spanId"]));
    assert_eq!(film["traceState"], STATE);
    assert_eq!(other_film["traceId"], own.replace('-', "").as_str());
    assert!(other_film.get("parentSpanId").is_none(), "{other_film:#}");
    assert_ne!(other_post["traceId"], other_film["traceId"]);
    let all: Vec<Value> = all.iter().filter(|span| span["traceId"] == TRACE).cloned().collect();
    let named = |name: &str| all.iter().filter(|span| span["name"] == name).collect::<Vec<_>>();
    assert_eq!(attribute(film, "longreel.state"), &json!({"stringValue": "completed"}));
    assert_eq!(attribute(film, "longreel.frames"), &json!({"intValue": "41"}));
    let one = |name: &str| {
        let found = named(name);
        let [span] = found[..] else { panic!("{name}: {found:#?}") };
        span
    };
    let (queue, worker, store) = (one("queue"), one("worker"), one("store"));
    assert_eq!(attribute(queue, "longreel.paused"), &json!({"boolValue": false}));
    assert_eq!(attribute(worker, "longreel.attempt"), &json!({"intValue": "1"}));
    let segments = named("segment");
    assert_eq!(segments.len(), 3, "{segments:#?}");
    assert_eq!(all.len(), 3 + 5, "{all:#?}");
    for (span, parent) in [(queue, film), (worker, film), (store, worker)] {
        assert_eq!(span["parentSpanId"], parent["spanId"], "{span:#}");
    }
    let time = |span: &Value, what: &str| -> u128 {
        span[what].as_str().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
    };
    for (n, segment) in segments.iter().enumerate() {
        assert_eq!(segment["parentSpanId"], worker["spanId"], "{segment:#}");
        assert_eq!(attribute(segment, "longreel.segment"), &json!({"intValue": n.to_string()}));
        assert!(time(segment, "startTimeUnixNano") >= time(worker, "startTimeUnixNano"));
        assert!(time(segment, "endTimeUnixNano") <= time(worker, "endTimeUnixNano"));
    }
    assert_eq!(time(queue, "startTimeUnixNano"), time(film, "startTimeUnixNano"));
    assert_eq!(time(queue, "endTimeUnixNano"), time(worker, "startTimeUnixNano"));
    assert_eq!(time(worker, "endTimeUnixNano"), time(film, "endTimeUnixNano"));
    let all = spans(&sent);
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
