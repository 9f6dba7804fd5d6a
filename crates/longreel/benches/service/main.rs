//! How fast the service is beside the command: `cargo bench --bench service`.
//!
//! The real program with the demo model, over real HTTP on this machine, films on one thread each. Films of
//! the command and of the service alternate, and each pair gives a ratio, so that both see the same machine;
//! the figures are medians, of ratios with their quartiles. `--rounds N` says how many pairs.

#[allow(dead_code, reason = "the tests of the command use the rest")]
#[path = "../../tests/command/program.rs"]
mod program;
#[allow(dead_code, reason = "the tests of the service use the rest")]
#[path = "../../tests/serve/server.rs"]
mod server;

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use program::Place;
use serde_json::{Value, json};
use server::Server;

const PROMPT: &str = "a red circle moves right on a blue background";
const FRAMES: u64 = 385;
const ROUNDS: usize = 21;
/// Starts that are timed.
const STARTS: usize = 7;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How much longer the first of each pair took than the second, in percent: median and quartiles.
fn over(pairs: impl Iterator<Item = (Duration, Duration)>) -> String {
    let ratio = |(a, b): (Duration, Duration)| 100.0 * (a.as_secs_f64() / b.as_secs_f64() - 1.0);
    let mut ratios: Vec<f64> = pairs.map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: usize| ratios[(ratios.len() - 1) * share / 4];
    format!("{:+.1}% ({:+.1} to {:+.1})", at(2), at(1), at(3))
}

/// Times of a film: until the first segment could be played, and until it was whole.
struct Film {
    first: Duration,
    whole: Duration,
}

/// By the command: from its start, and from the moment it begins with the film, its model loaded.
fn by_command(place: &Place) -> (Film, Film) {
    let frames = FRAMES.to_string();
    let words = ["generate", PROMPT, "--num-frames", &frames, "--seed", "1", "--json"];
    let words: Vec<&str> = words.into_iter().chain(["--threads", "1", "-o", "film.mp4"]).collect();
    let started = Instant::now();
    let mut child = place.start(&words);
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut begun, mut first) = (None, None);
    for line in lines {
        let event: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        match event["event"].as_str() {
            Some("segment") => drop(begun.get_or_insert_with(|| started.elapsed())),
            Some("part") => drop(first.get_or_insert_with(|| started.elapsed())),
            _ => {}
        }
    }
    assert!(child.wait().expect("a child").success());
    std::fs::remove_file(place.path("film.mp4")).expect("a film");
    let (begun, first) = (begun.expect("a segment"), first.expect("a part"));
    let whole = started.elapsed();
    (Film { first, whole }, Film { first: first - begun, whole: whole - begun })
}

/// By the service, from the request on, with a model that is loaded.
fn by_service(server: &Server) -> Film {
    let started = Instant::now();
    let id = server.ask(&json!({"prompt": PROMPT, "num_frames": FRAMES, "seed": 1}));
    let mut first = None;
    for event in server.events(&id, 0) {
        if event.kind == "segment" {
            first.get_or_insert_with(|| started.elapsed());
        }
    }
    let film = Film { first: first.expect("a segment"), whole: started.elapsed() };
    server.send("DELETE", &format!("/v1/videos/{id}"), &[], []).expect(200);
    film
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let rounds = words.iter().position(|word| word == "--rounds").and_then(|at| words.get(at + 1));
    let rounds =
        rounds.map_or(ROUNDS, |n| n.parse().unwrap_or_else(|e| panic!("--rounds {n}: {e}")));
    let ready = (0..STARTS).map(|_| {
        let place = Place::new();
        let started = Instant::now();
        let server = Server::start_with(&place, &[]);
        while server.get("/health/ready").status != 200 {
            std::thread::sleep(Duration::from_millis(5));
        }
        started.elapsed()
    });
    println!("start to ready           {:8.0?}   (aim: under 2 s)", median(ready.collect()));

    let place = Place::new();
    let server = Server::start_with(&place, &["--threads", "1"]);
    server.film(&server.ask(&json!({"prompt": PROMPT})));
    let (mut whole, mut alone, mut served) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Neither is always the one that comes after the other.
        if round % 2 == 1 {
            served.push(by_service(&server));
        }
        let (from_start, from_begin) = by_command(&place);
        whole.push(from_start);
        alone.push(from_begin);
        if round % 2 == 0 {
            served.push(by_service(&server));
        }
    }
    let time = |films: &[Film], of: fn(&Film) -> Duration| median(films.iter().map(of).collect());
    // A command loads its model, which a service has; from its first segment's begin on it does not even
    // read the prompt.
    for (what, of, aim) in [
        ("first playable segment", (|film| film.first) as fn(&Film) -> Duration, "within 10%"),
        ("film of 385 frames", |film| film.whole, "under 2%"),
    ] {
        let beside = |films: &[Film]| over(served.iter().map(of).zip(films.iter().map(of)));
        println!(
            "{what:<24} {:8.3?}   the command {:.3?}: {} (aim: {aim}); {:.3?} from its first segment's \
             begin: {}",
            time(&served, of),
            time(&whole, of),
            beside(&whole),
            time(&alone, of),
            beside(&alone),
        );
    }

    // One long film keeps the worker busy, as it would be.
    let long = server.ask(&json!({"prompt": PROMPT, "num_frames": 40_001}));
    server.wait(&long, "in work", |v| v["segments_done"].as_u64() > Some(0));
    let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
    let timed = |call: &dyn Fn() -> Vec<u8>| {
        let started = Instant::now();
        call();
        started.elapsed()
    };
    let read = |mut answer: ureq::http::Response<ureq::Body>| {
        answer.body_mut().read_to_vec().expect("a body")
    };
    let posts = (0..100).map(|_| {
        timed(&|| {
            let post = agent.post(server.url("/v1/videos"));
            let body = json!({"prompt": PROMPT, "num_frames": 33}).to_string();
            read(post.header("content-type", "application/json").send(body).expect("an answer"))
        })
    });
    println!("POST until queued        {:8.1?}   (aim: under 20 ms)", median(posts.collect()));
    let url = server.url(&format!("/v1/videos/{long}"));
    let reads = (0..500).map(|_| timed(&|| read(agent.get(&url).call().expect("an answer"))));
    println!("status                   {:8.1?}   (aim: under 5 ms)", median(reads.collect()));
}
