//! Clients that do nothing but wait, and clients that do not even read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::program::Place;
use crate::server::Server;

const IDLE: usize = 1000;
const DEAF: usize = 50;

/// Memory of a process in MB, as Linux counts it.
pub fn resident_mb(id: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let kb: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kb / 1024.0
}

fn open(server: &Server, path: &str) -> std::io::Result<TcpStream> {
    let address = server.url("");
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    Ok(stream)
}

pub fn run() {
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    let film = server.ask(&json!({"prompt": "a blue square stands still on a white background"}));
    server.film(&film);
    let long = json!({"prompt": "a red circle moves right on a blue background",
        "num_frames": 20_001, "steps": 20});
    let id = server.ask(&long);
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(0));
    let before = resident_mb(server.id());

    // Those that read nothing, of a stream that goes on and on, and of a film.
    let deaf: Vec<TcpStream> = (0..DEAF)
        .map(|n| match n % 2 {
            0 => open(&server, &format!("/v1/videos/{id}/events")),
            _ => open(&server, &format!("/v1/videos/{film}/content")),
        })
        .collect::<Result<_, _>>()
        .expect("connections");
    let waiting = server.ask(&json!({"prompt": "a green star moves up on a black background"}));
    let mut idle = Vec::with_capacity(IDLE);
    for n in 0..IDLE {
        match open(&server, &format!("/v1/videos/{waiting}/events")) {
            Ok(stream) => idle.push(stream),
            Err(error) => panic!("stream {n}: {error}"),
        }
    }
    std::thread::sleep(Duration::from_secs(5));
    let with = resident_mb(server.id());
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let asked = Instant::now();
            server.video(&id);
            asked.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "   {} idle streams and {DEAF} clients that read nothing: server {before:.0} MB, then {with:.0} \
         MB ({:.0} kB a stream); status: median {:.1?}",
        idle.len(),
        (with - before) * 1024.0 / (IDLE + DEAF) as f64,
        times[times.len() / 2],
    );
    // Each of them hears what it waited for.
    server.post(&format!("/v1/videos/{waiting}/cancel"), &json!({})).expect(200);
    let told = Instant::now();
    let mut heard = 0;
    for stream in &mut idle {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
            if text.windows(11).any(|w| w == b"event: done") {
                heard += 1;
                break;
            }
        }
    }
    println!("   the end of a job reached {heard} of them within {:.1?}", told.elapsed());
    assert_eq!(heard, IDLE);
    drop(deaf);
    server.post(&format!("/v1/videos/{id}/cancel"), &json!({})).expect(200);
    server.wait(&id, "cancelled", |v| v["state"] == "cancelled");
}
