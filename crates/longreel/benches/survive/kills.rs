//! Server and workers killed at random moments across a running mix of jobs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Numbers;
use crate::program::Place;
use crate::server::{Server, signal_process};

/// Jobs that wait or run at any moment.
const AT_ONCE: usize = 5;
/// Films of the mix, by length and seed.
const MIX: [(u64, u64); 4] = [(33, 1), (97, 2), (193, 3), (385, 4)];
/// Pause between two kills, in milliseconds: from, and so much more at most.
const PAUSE_MS: (u64, u64) = (300, 1700);

fn asked(kind: usize) -> Value {
    let (frames, seed) = MIX[kind];
    json!({
        "prompt": "a red circle moves right on a blue background",
        "num_frames": frames, "steps": 6, "seed": seed, "addnoise_condition": 20,
    })
}

/// What a client knows: the key under which it asked, of which kind, and the id once it has it.
struct Asked {
    key: String,
    kind: usize,
    id: Option<String>,
}

impl Asked {
    /// Asks, or asks again, as a client does that got no answer.
    fn ask(&mut self, server: &Server) {
        let headers = [("content-type", "application/json"), ("idempotency-key", &*self.key)];
        let answer = server.send("POST", "/v1/videos", &headers, asked(self.kind).to_string());
        assert!(matches!(answer.status, 200 | 201), "{}", String::from_utf8_lossy(&answer.body));
        self.id = Some(answer.json()["id"].as_str().expect("an id").to_owned());
    }

    /// Asks in the moment in which the server is killed: the answer may never come.
    fn ask_in_vain(&self, server: &Server) {
        let (url, key, body) = (server.url("/v1/videos"), self.key.clone(), asked(self.kind));
        std::thread::spawn(move || {
            let post = ureq::post(url).header("content-type", "application/json");
            let _ = post.header("idempotency-key", key).send(body.to_string());
        });
    }
}

pub fn run(kills: u64, seed: u64) {
    let undisturbed: Vec<Vec<u8>> = {
        let place = Place::new();
        let server = Server::start_with(&place, &[]);
        let ids: Vec<String> = (0..MIX.len()).map(|kind| server.ask(&asked(kind))).collect();
        ids.iter().map(|id| server.film(id)).collect()
    };
    let started = Instant::now();
    let place = Place::new();
    let mut numbers = Numbers(seed);
    let mut server = Server::start_with(&place, &[]);
    let mut all: Vec<Asked> = Vec::new();
    let (mut servers, mut workers) = (0, 0);
    let mut to_listening = Vec::new();
    let mut tried = Tried::default();
    while servers + workers < kills {
        while open(&server, &all).len() < AT_ONCE {
            let kind = numbers.below(MIX.len() as u64) as usize;
            let mut new = Asked { key: format!("key-{}", all.len()), kind, id: None };
            new.ask(&server);
            all.push(new);
        }
        std::thread::sleep(Duration::from_millis(PAUSE_MS.0 + numbers.below(PAUSE_MS.1)));
        if numbers.below(2) == 0 {
            // While it starts there is a moment without one.
            let Some(&worker) = server.workers().first() else { continue };
            if tried.any_is_worn(&server, &all) {
                continue;
            }
            signal_process(worker, "-KILL");
            workers += 1;
        } else {
            let kind = numbers.below(MIX.len() as u64) as usize;
            let mut new = Asked { key: format!("key-{}", all.len()), kind, id: None };
            if numbers.below(3) == 0 {
                new.ask_in_vain(&server);
                std::thread::sleep(Duration::from_millis(numbers.below(12)));
                server.kill();
                let again = Instant::now();
                server = Server::start_with(&place, &[]);
                to_listening.push(again.elapsed());
                new.ask(&server);
                all.push(new);
            } else {
                server.kill();
                let again = Instant::now();
                server = Server::start_with(&place, &[]);
                to_listening.push(again.elapsed());
            }
            servers += 1;
        }
    }
    let disturbed = started.elapsed();
    let mut wrong = BTreeMap::<&str, Vec<&str>>::new();
    for asked in &all {
        let id = asked.id.as_deref().expect("it was asked for until it had one");
        let video = server.wait(id, "at its end", |v| {
            ["completed", "failed"].contains(&v["status"].as_str().expect("a status"))
        });
        if video["status"] != "completed" {
            println!("   failed: {}", video["error"]);
            wrong.entry("failed").or_default().push(id);
            continue;
        }
        let film = server.get(&format!("/v1/videos/{id}/content")).expect(200).body;
        if film != undisturbed[asked.kind] {
            wrong.entry("another film").or_default().push(id);
        }
        let ends = server.events(id, 0).filter(|event| event.kind == "done").count();
        if ends != 1 {
            wrong.entry("ended more than once").or_default().push(id);
        }
    }
    let known = listed(&server);
    to_listening.sort_unstable();
    println!(
        "   {} kills ({servers} of the server, {workers} of a worker) in {:.0} s, {} jobs asked for, \
         {known} known, all ended after {:.0} s",
        servers + workers,
        disturbed.as_secs_f64(),
        all.len(),
        started.elapsed().as_secs_f64(),
    );
    if let Some(slowest) = to_listening.last() {
        let median = to_listening[to_listening.len() / 2];
        println!(
            "   from a kill until it listens again: median {median:.2?}, at most {slowest:.2?}"
        );
    }
    let left = std::fs::read_dir(place.path("data/work")).expect("a folder");
    let left: Vec<_> = left
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with("warm-up"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(known, all.len(), "jobs were lost or made twice");
    assert!(left.is_empty(), "folders of films that are done: {left:?}");
    println!("   none lost, none made twice, every film that of an undisturbed run");
}

/// Jobs that have not ended, as the server shows them.
fn open(server: &Server, all: &[Asked]) -> Vec<Value> {
    // The newest are the last to end; older ones need not be asked about each time.
    let newest = all.len().saturating_sub(4 * AT_ONCE);
    let shown = all[newest..].iter().map(|asked| server.video(asked.id.as_deref().expect("an id")));
    shown.filter(|video| video["status"] != "completed" && video["status"] != "failed").collect()
}

/// How often jobs were begun since their last finished segment. One whose worker dies three times in a
/// row without a segment fails, as it should; here that would say how fast this machine is.
#[derive(Default)]
struct Tried(BTreeMap<String, (u64, u64)>);

impl Tried {
    /// Whether another death could be the third of some job, also of one that is only being begun.
    fn any_is_worn(&mut self, server: &Server, all: &[Asked]) -> bool {
        open(server, all).iter().fold(false, |worn, video| {
            let number = |key: &str| video[key].as_u64().expect("a number");
            let (segments, attempts) = (number("segments_done"), number("attempts"));
            let id = video["id"].as_str().expect("an id").to_owned();
            let since = self.0.entry(id).or_insert((segments, attempts));
            if since.0 != segments {
                // The attempt that made it is under way.
                *since = (segments, attempts - 1);
            }
            let under_way = u64::from(video["status"] == "in_progress");
            worn || attempts.saturating_sub(since.1 + under_way) >= 2
        })
    }
}

/// Jobs that the server knows.
fn listed(server: &Server) -> usize {
    let (mut count, mut after) = (0, String::new());
    loop {
        let page = server.get(&format!("/v1/videos?limit=100{after}")).expect(200).json();
        count += page["data"].as_array().expect("a list").len();
        if page["has_more"] != true {
            return count;
        }
        after = format!("&after={}", page["last_id"].as_str().expect("an id"));
    }
}
