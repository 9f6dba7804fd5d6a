//! Whatever is killed, and whenever: each job ends once, with the film of an undisturbed run.

use std::time::Duration;

use crate::program::Place;
use crate::server::{Server, asked, made_by_command, signal_process};

const SEGMENTS: u64 = 40;

#[test]
fn a_film_whose_worker_is_killed_again_and_again_is_the_same_film() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(SEGMENTS));
    let mut killed = Vec::new();
    for parts in [1, 5, 9] {
        server.wait(&id, "so far", |v| v["segments_done"].as_u64() >= Some(parts));
        let [worker] = server.workers()[..] else { panic!("{:?}", server.workers()) };
        signal_process(worker, "-KILL");
        killed.push(worker);
        // The next one goes on only when another worker has begun.
        let attempts = killed.len() as u64 + 1;
        server.wait(&id, "in other hands", |v| v["attempts"].as_u64() >= Some(attempts));
    }
    assert!(server.film(&id) == made_by_command(SEGMENTS), "another film");
    assert_eq!(server.video(&id)["attempts"], 4, "it ended before it was killed");
    assert!(server.log().contains("signal 9"), "{}", server.log());
}

#[test]
fn a_job_that_kills_its_worker_three_times_fails_and_does_not_poison_the_next() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(2);
    // Its first segment takes longer than the test.
    body["steps"] = serde_json::json!(900);
    body["size"] = serde_json::json!("384x256");
    let id = server.ask(&body);
    let next = server.ask(&asked(2));
    for attempt in 1..=3 {
        server.wait(&id, "begun", |v| {
            v["attempts"].as_u64() == Some(attempt) && v["state"] == "running"
        });
        let [worker] = server.workers()[..] else { panic!("{:?}", server.workers()) };
        signal_process(worker, "-KILL");
    }
    let failed = server.wait(&id, "failed", |v| v["status"] == "failed");
    assert_eq!(failed["error"]["code"], "worker_died");
    assert!(failed["error"]["message"].as_str().expect("why").contains("signal 9"), "{failed:#}");
    assert!(server.film(&next) == made_by_command(2));
}

#[test]
fn jobs_of_a_killed_server_go_on_with_the_next_one() {
    let place = Place::new();
    let mut server = Server::start(&place);
    let id = server.ask(&asked(SEGMENTS));
    let waiting = server.ask(&asked(2));
    for parts in [1, 6, 12, 18] {
        server.wait(&id, "so far", |v| v["segments_done"].as_u64() >= Some(parts));
        server.kill();
        // At once: the worker of the killed server may still be at its last segment.
        server = Server::start(&place);
    }
    assert!(server.film(&id) == made_by_command(SEGMENTS), "another film");
    assert!(server.film(&waiting) == made_by_command(2));
    let video = server.video(&id);
    assert_eq!(video["attempts"], 5, "it ended before the server was killed: {video:#}");
    assert_eq!(server.workers().len(), 1);
}

#[test]
fn workers_of_a_killed_server_end_by_themselves() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(100_000));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(0));
    let workers = server.workers();
    assert!(!workers.is_empty());
    server.kill();
    let started = std::time::Instant::now();
    while workers.iter().any(|id| std::path::Path::new(&format!("/proc/{id}")).exists()) {
        assert!(started.elapsed() < crate::server::PATIENCE, "a worker is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_told_to_end_finishes_its_segment_and_the_next_start_goes_on() {
    let place = Place::new();
    for signals in [&["-TERM"][..], &["-INT", "-INT"]] {
        let server = Server::start(&place);
        let id = server.ask(&asked(SEGMENTS));
        server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(1));
        for signal in signals {
            server.signal(signal);
            // Two signals at one instant are one to the system.
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(server.ended(), Some(0));
        let server = Server::start(&place);
        let before = server.video(&id);
        assert!(["queued", "running"].contains(&before["state"].as_str().expect("a state")));
        assert!(server.film(&id) == made_by_command(SEGMENTS), "another film");
        assert_eq!(server.video(&id)["attempts"], 2, "{before:#}");
    }
}
