//! How much is taken in, for how long it is kept, and what goes first.

use serde_json::json;

use crate::program::{Place, model};
use crate::server::{Server, asked};

fn start(place: &Place, more: &[&str]) -> Server {
    let model = model();
    let words: Vec<&str> = ["--model", &model].iter().chain(more).copied().collect();
    Server::start_with(place, &words)
}

#[test]
fn a_full_queue_and_a_film_that_is_too_long_are_told_apart() {
    let place = Place::new();
    let more = ["--owner-queued", "2", "--max-frames", "1000", "--max-body", "2KiB"];
    let server = start(&place, &more);
    let long = server.post("/v1/videos", &asked(100));
    assert!(long.problem(400, "limit_reached").contains("1000"));
    let mut wordy = asked(1);
    wordy["prompt"] = "a".repeat(3_000).into();
    server.post("/v1/videos", &wordy).problem(413, "body_too_large");
    let mut body = asked(80);
    body["steps"] = json!(900);
    let first = server.ask(&body);
    server.wait(&first, "begun", |v| v["state"] == "running");
    server.ask(&asked(1));
    server.ask(&asked(1));
    let refused = server.post("/v1/videos", &asked(1));
    refused.problem(429, "limit_reached");
    assert!(refused.header("retry-after").parse::<u64>().expect("seconds") > 0);
    drop(server);
    let server = start(&place, &["--queue-length", "2"]);
    // The film that was in work waits again, until it is given out.
    let refused = server.post("/v1/videos", &asked(1));
    refused.problem(503, "queue_full");
    assert!(refused.header("retry-after").parse::<u64>().expect("seconds") > 0);
    for flag in ["--queue-length", "--owner-queued", "--owner-running", "--max-frames"] {
        let ran = place.run(&["serve", flag, "0", "--data", "other"]).expect_code(2);
        assert!(ran.stderr.contains(flag), "{}", ran.stderr);
    }
}

#[test]
fn what_is_urgent_goes_first_and_what_comes_too_late_is_not_made() {
    let place = Place::new();
    let server = start(&place, &[]);
    let with = |key: &str, value: serde_json::Value, segments| {
        let mut body = asked(segments);
        body[key] = value;
        body
    };
    for (key, value) in [
        ("priority", json!(101)),
        ("priority", json!("high")),
        ("deadline_seconds", json!(0)),
        ("deadline_seconds", json!("soon")),
        ("webhook_url", json!(7)),
        ("webhook_url", json!("file:///etc/passwd")),
    ] {
        for path in ["/v1/videos", "/v1/plan"] {
            let detail = server.post(path, &with(key, value.clone(), 1));
            assert!(detail.problem(400, "invalid_value").contains(key) || key == "webhook_url");
        }
    }
    server.post("/v1/plan", &with("deadline_seconds", json!(60), 1)).expect(200);
    let first = server.ask(&asked(100_000));
    server.wait(&first, "begun", |v| v["state"] == "running");
    let waiting = [0, -5, 7].map(|priority| server.ask(&with("priority", json!(priority), 1)));
    let positions = waiting.each_ref().map(|id| server.video(id)["queue_position"].as_u64());
    assert_eq!(positions, [Some(1), Some(2), Some(0)]);
    let late = server.ask(&with("deadline_seconds", json!(1), 1));
    let ended = server.wait(&late, "over", |v| v["status"] == "failed");
    assert_eq!(ended["error"]["code"], "deadline_exceeded");
    assert!(ended["deadline_at"].as_u64() > ended["created_at"].as_u64(), "{ended:#}");
    server.post(&format!("/v1/videos/{first}/cancel"), &json!({})).expect(200);
    let begun = waiting.map(|id| {
        server.film(&id);
        server.video(&id)["timings"]["started_ms"].as_u64().expect("begun")
    });
    assert!(begun[2] < begun[0] && begun[0] < begun[1], "{begun:?}");
}

#[test]
fn films_that_take_more_room_than_there_is_go_and_their_files_with_them() {
    let place = Place::new();
    let server = start(&place, &[]);
    let film = server.ask(&asked(1));
    server.film(&film);
    let failed = server.ask(&asked(100_000));
    server.post(&format!("/v1/videos/{failed}/pause"), &json!({})).expect(200);
    drop(server);
    let server = start(&place, &["--keep-bytes", "10"]);
    let started = std::time::Instant::now();
    while server.get(&format!("/v1/videos/{film}")).status != 404 {
        assert!(started.elapsed() < crate::server::PATIENCE, "it is kept: {}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    while place.path(&format!("data/films/jobs/{film}")).exists() {
        assert!(started.elapsed() < crate::server::PATIENCE, "its files are left");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(server.get(&format!("/v1/videos/{failed}")).status, 200, "it is not finished");
}

#[test]
fn films_are_deleted_with_all_their_files_when_their_time_is_over_and_never_before_their_end() {
    let place = Place::new();
    // Three seconds, by the server's own clock.
    let server = start(&place, &["--keep-days", "0.000035"]);
    let film = server.ask(&asked(2));
    server.film(&film);
    let video = server.video(&film);
    let is_over_after = video["expires_at"].as_i64().zip(video["completed_at"].as_i64());
    assert!(is_over_after.is_some_and(|(at, from)| (3..=4).contains(&(at - from))), "{video:#}");
    let folder = place.path(&format!("data/films/jobs/{film}"));
    let running = server.ask(&asked(100_000));
    server.wait(&running, "begun", |v| v["state"] == "running");
    // Not before: a worker that is free would take it at once.
    let waits = server.ask(&asked(1));
    server.post(&format!("/v1/videos/{waits}/pause"), &json!({})).expect(200);
    let started = std::time::Instant::now();
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(started.elapsed() < crate::server::PATIENCE, "never {what}: {}", server.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let is_gone = |id: &str| server.get(&format!("/v1/videos/{id}")).status == 404;
    until("over", &|| is_gone(&film));
    until("without files", &|| !folder.exists());
    server.get(&format!("/v1/videos/{film}/content?variant=thumbnail")).problem(404, "not_found");
    server.get(&format!("/v1/videos/{film}/files/preview-00000000.jpg")).problem(404, "not_found");
    // These are as old by now, and not at their end.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let next = server.ask(&asked(1));
    server.post(&format!("/v1/videos/{next}/cancel"), &json!({})).expect(200);
    until("over", &|| is_gone(&next));
    let still = server.get(&format!("/v1/videos/{running}"));
    assert_eq!(still.status, 200, "it was deleted: {}", server.log());
    assert_eq!(still.json()["state"], "running", "{}", server.log());
    assert_eq!(server.video(&waits)["state"], "queued");
    server.post(&format!("/v1/videos/{running}/cancel"), &json!({})).expect(200);
    until("over", &|| is_gone(&running));
    until("without files", &|| !place.path(&format!("data/work/{running}")).exists());
    assert_eq!(server.video(&waits)["state"], "queued");
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_whose_memory_has_grown_makes_room_for_another_one_between_films() {
    let place = Place::new();
    let server = start(&place, &["--worker-max-growth", "0"]);
    let mut large = asked(2);
    large["size"] = json!("384x256");
    large["steps"] = json!(2);
    let film = server.ask(&large);
    server.film(&film);
    let started = std::time::Instant::now();
    while !server.log().contains("memory has grown") {
        assert!(started.elapsed() < crate::server::PATIENCE, "{}", server.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let next = server.ask(&asked(2));
    assert!(server.film(&next) == crate::server::made_by_command(2), "another film");
    assert_eq!(server.video(&next)["attempts"], 1, "a film was interrupted");
}
