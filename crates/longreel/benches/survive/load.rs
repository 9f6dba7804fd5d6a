//! 500 requests a second on status while a film is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::program::Place;
use crate::server::Server;

const A_SECOND: u32 = 500;
const ROUNDS: usize = 4;

pub fn run() {
    let place = Place::new();
    // One thread for the film, so that the others have a processor of their own where there are two.
    let server = Server::start_with(&place, &["--threads", "1"]);
    let film = |seed: usize| {
        let asked = json!({"prompt": "a red circle moves right on a blue background",
            "num_frames": 385, "seed": seed});
        let id = server.ask(&asked);
        server.film(&id);
        let video = server.video(&id);
        let at = |name: &str| video["timings"][name].as_i64().expect("a time");
        Duration::from_millis((at("finished_ms") - at("started_ms")) as u64)
    };
    film(0);
    let (mut quiet, mut loaded) = (Duration::ZERO, Duration::ZERO);
    let mut answered = 0;
    let mut rate = f64::INFINITY;
    for round in 0..ROUNDS {
        quiet += film(round);
        let newest = server.get("/v1/videos?limit=1").json();
        let id = newest["data"][0]["id"].as_str().expect("an id").to_owned();
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = {
            let (stop, count) = (stop.clone(), count.clone());
            let url = server.url(&format!("/status/{id}"));
            std::thread::spawn(move || {
                let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
                let mut due = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    due += Duration::from_secs(1) / A_SECOND;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let mut answer = agent.get(&url).call().expect("an answer");
                    answer.body_mut().read_to_vec().expect("a body");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let started = Instant::now();
        loaded += film(round);
        let seconds = started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        client.join().expect("no request failed");
        let here = count.load(Ordering::Relaxed);
        answered += here;
        rate = rate.min(here as f64 / seconds);
    }
    println!(
        "   a film takes {:.2} s alone and {:.2} s with {answered} requests answered meanwhile (at least \
         {rate:.0} a second): {:+.1}%",
        quiet.as_secs_f64() / ROUNDS as f64,
        loaded.as_secs_f64() / ROUNDS as f64,
        100.0 * (loaded.as_secs_f64() / quiet.as_secs_f64() - 1.0),
    );
}
