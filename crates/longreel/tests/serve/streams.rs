//! Streams of events: many of them, cut ones, and clients that read nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Place, model};
use crate::server::{PATIENCE, Server, asked};

/// A connection that has asked for something and waits.
fn request(server: &Server, path: &str, headers: &str) -> TcpStream {
    let address = server.url("").replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let text = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).expect("sent");
    stream
}

/// A value of /proc/PID/status in KiB.
fn memory_kib(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = status.lines().find(|line| line.starts_with(name)).expect(name);
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).expect("Linux").count()
}

/// Nobody waits for this film's end.
fn long() -> Value {
    let mut asked = asked(100_000);
    asked["steps"] = json!(50);
    asked
}

/// Lets this process have more open files, when it has few. False, with a reason printed, when it
/// cannot.
fn many_files(count: u64) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let soft: u64 = line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
    if soft >= count {
        return true;
    }
    let limit = format!("--nofile={count}:");
    let pid = std::process::id().to_string();
    match std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status() {
        Ok(status) if status.success() => true,
        other => {
            println!("skipped: {soft} files may be open and prlimit does not raise it: {other:?}");
            false
        }
    }
}

#[test]
fn a_stream_ends_when_its_film_is_deleted() {
    let place = Place::new();
    let server = Server::start(&place);
    let running = server.ask(&long());
    server.wait(&running, "begun", |v| v["state"] == "running");
    let waits = server.ask(&asked(1));
    let mut events = server.events(&waits, 0);
    assert_eq!(events.next().map(|told| told.kind).as_deref(), Some("state"));
    let started = Instant::now();
    server.send("DELETE", &format!("/v1/videos/{waits}"), &[], []).expect(200);
    assert_eq!(events.next(), None);
    assert!(started.elapsed() < PATIENCE / 4, "it waited for what never comes");
}

#[test]
fn a_thousand_idle_streams_cost_little_and_all_hear_the_end() {
    const STREAMS: usize = 1_000;
    if !many_files(4 * STREAMS as u64) {
        return;
    }
    let place = Place::new();
    // As a system starts programs: without a raised limit of its own it could not hold them.
    let server = Server::start_after(&place, "ulimit -S -n 1024", &["--model", &model()]);
    server.wait_ready();
    let running = server.ask(&long());
    server.wait(&running, "in work", |v| v["state"] == "running");
    let id = server.ask(&asked(2));
    let (memory, files) = (memory_kib(server.id(), "VmRSS"), open_files(server.id()));
    let mut streams: Vec<TcpStream> =
        (0..STREAMS).map(|_| request(&server, &format!("/v1/videos/{id}/events"), "")).collect();
    // Each has been answered when its first event is there.
    for stream in &mut streams {
        let mut first = [0; 64];
        let read = stream.read(&mut first).expect("an answer");
        assert!(first[..read].starts_with(b"HTTP/1.1 200"), "{first:?}");
    }
    let grown = memory_kib(server.id(), "VmRSS").saturating_sub(memory);
    let opened = open_files(server.id()) - files;
    println!("{STREAMS} idle streams: {opened} files, {grown} KiB, {} KiB each", grown / 1_000);
    assert!(opened >= STREAMS, "{opened}");
    assert!(grown < 64 * 1_024, "{grown} KiB");
    let started = Instant::now();
    server.get(&format!("/v1/videos/{id}")).expect(200);
    println!("status with all of them open: {:.1} ms", 1e3 * started.elapsed().as_secs_f64());
    let started = Instant::now();
    server.post(&format!("/v1/videos/{running}/cancel"), &json!({})).expect(200);
    for stream in streams {
        let lines = BufReader::new(stream).lines();
        let done = lines.map_while(Result::ok).any(|line| line == "event: done");
        assert!(done, "a stream ended without the end");
    }
    println!(
        "all heard the end {:.2} s after the film before was called off",
        started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    while open_files(server.id()) > files + 8 {
        assert!(started.elapsed() < PATIENCE, "{} files stay open", open_files(server.id()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_reader_goes_on_where_it_was_when_the_server_is_killed() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let id = server.ask(&asked(40));
    let (mut seen, mut after) = (Vec::new(), 0);
    for part in [0, 5, 14, 23] {
        // Some events of this server, then it is killed while the reader listens.
        let wanted = |told: &crate::server::Told| {
            told.kind == "segment" && told.data["segment"].as_u64() >= Some(part)
        };
        for told in server.events(&id, after) {
            let is_last = wanted(&told);
            after = told.number;
            seen.push(told);
            if is_last {
                break;
            }
        }
        server.kill();
        server = Server::start(&place);
    }
    for told in server.events(&id, after) {
        seen.push(told);
    }
    let numbers: Vec<u64> = seen.iter().map(|told| told.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let segments: Vec<_> =
        seen.iter().filter(|t| t.kind == "segment").map(|t| t.data["segment"].as_u64()).collect();
    assert_eq!(segments, (0..40).map(Some).collect::<Vec<_>>());
    assert_eq!(seen.last().map(|told| told.kind.as_str()), Some("done"));
    // Nothing but thinned-out progress is missing from what was seen.
    let all: Vec<_> = server.events(&id, 0).filter(|told| told.kind != "progress").collect();
    let seen: Vec<_> = seen.into_iter().filter(|told| told.kind != "progress").collect();
    assert_eq!(seen, all);
}

#[test]
fn clients_that_read_nothing_hold_up_nobody_and_fill_no_memory() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(300));
    let film = server.film(&id);
    let content = format!("/v1/videos/{id}/content");
    let events = format!("/v1/videos/{id}/events");
    // Once through, so that what is kept for everybody is there.
    server.get(&content).expect(200);
    let memory = memory_kib(server.id(), "VmRSS");
    let deaf: Vec<TcpStream> = (0..100)
        .map(|n| request(&server, if n % 2 == 0 { &content } else { &events }, ""))
        .collect();
    // The server has sent what it can when another one has been served in full.
    for _ in 0..10 {
        assert!(server.get(&content).expect(200).body == film, "another film");
    }
    let grown = memory_kib(server.id(), "VmRSS").saturating_sub(memory);
    println!("100 clients that read nothing of {} bytes: {grown} KiB", film.len());
    assert!(grown < 100 * 640, "{grown} KiB");
    let next = server.ask(&asked(2));
    server.film(&next);
    drop(deaf);
    // A client that goes in the middle is no error of ours.
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}
