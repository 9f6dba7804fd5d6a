//! Calling off, pausing, going on.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::program::Place;
use crate::server::{Server, asked, made_by_command, signal_process};

/// Nobody waits for this film's end.
fn long() -> serde_json::Value {
    let mut asked = asked(100_000);
    asked["steps"] = json!(50);
    asked
}

#[test]
fn a_running_film_is_cancelled_within_seconds_and_its_worker_makes_the_next_one() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&long());
    let waiting = server.ask(&long());
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(0));
    let workers = server.workers();

    let cancelled = server.post(&format!("/v1/videos/{waiting}/cancel"), &json!({})).expect(200);
    assert_eq!(cancelled.json()["state"], "cancelled", "a waiting one is cancelled at once");
    let started = Instant::now();
    server.post(&format!("/v1/videos/{id}/cancel"), &json!({})).expect(200);
    let video = server.wait(&id, "cancelled", |v| v["state"] == "cancelled");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(
        (&video["status"], &video["error"]["code"]),
        (&json!("failed"), &json!("cancelled"))
    );
    server.get(&format!("/v1/videos/{waiting}/content")).problem(409, "not_completed");
    let last = server.events(&id, 0).last().expect("events");
    assert_eq!((last.kind.as_str(), &last.data["state"]), ("done", &json!("cancelled")));
    server.post(&format!("/v1/videos/{id}/pause"), &json!({})).problem(409, "not_allowed_in_state");

    let next = server.ask(&asked(2));
    assert!(server.film(&next) == made_by_command(2));
    assert_eq!(server.workers(), workers, "the worker was replaced for nothing");
    assert!(!place.path(&format!("data/work/{id}")).exists(), "the folder is left");
}

#[test]
fn a_film_that_is_paused_waits_and_goes_on_as_if_nothing_had_been() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(40));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(1));
    server.post(&format!("/v1/videos/{id}/pause"), &json!({})).expect(200);
    let paused = server.wait(&id, "paused", |v| v["paused"] == true);
    assert_eq!(paused["state"], "queued", "it ended before it could be paused");
    let running = server.send("DELETE", &format!("/v1/videos/{id}"), &[], []);
    running.expect(200);
    let id = server.ask(&asked(40));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(1));
    server.post(&format!("/v1/videos/{id}/pause"), &json!({})).expect(200);
    server.wait(&id, "paused", |v| v["paused"] == true);
    server.post(&format!("/v1/videos/{id}/resume"), &json!({})).expect(200);
    assert!(server.film(&id) == made_by_command(40), "another film");
    assert_eq!(server.video(&id)["attempts"], 2);
}

#[test]
fn a_worker_that_gives_no_sign_of_life_is_replaced() {
    let place = Place::new();
    let server =
        Server::start_with(&place, &["--model", &crate::program::model(), "--worker-timeout", "5"]);
    let id = server.ask(&asked(40));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(1));
    let [worker] = server.workers()[..] else { panic!("{:?}", server.workers()) };
    signal_process(worker, "-STOP");
    assert!(server.film(&id) == made_by_command(40), "another film");
    assert_eq!(server.video(&id)["attempts"], 2);
    assert!(server.log().contains("said nothing"), "{}", server.log());
}
