//! No room on the disk: whoever asks is told so, nothing is lost, and all goes on when there is room.

use longreel_media::{Frame, encode_png};
use serde_json::{Value, json};

use crate::program::{Place, fixtures, model};
use crate::room::Disk;
use crate::server::{Answer, Server, asked, made_by_command};
use crate::uploads::send;

const DISK_BYTES: u64 = 64 << 20;
/// Of the film in work.
const SEGMENTS: u64 = 150;
/// A picture of noise, which takes most of a MiB.
fn picture() -> Vec<u8> {
    let mut state = 7_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let rgb = (0..512 * 512 * 3).map(|_| noise()).collect();
    encode_png(&Frame::new(512, 512, rgb).expect("a frame"), None)
}

/// Done, or refused for want of room; true when it was done.
#[track_caller]
fn done(answer: &Answer) -> bool {
    if answer.status < 300 {
        return true;
    }
    answer.problem(507, "disk_full");
    false
}

#[test]
fn on_a_full_disk_requests_are_refused_as_such_and_nothing_is_lost() {
    let place = Place::new();
    let data = place.path("data");
    let disk = match Disk::mount(&data, DISK_BYTES) {
        Ok(disk) => disk,
        Err(error) => return println!("skipped: no disk can be mounted here ({error})"),
    };
    let other = fixtures().join("models/t2v").display().to_string();
    let logs = data.join("logs").display().to_string();
    let words = ["--model", &model(), "--with-model", &other, "--log-folder", &logs];
    let server = Server::start_with(&place, &words);
    let post =
        |id: &str, what: &str, body: Value| server.post(&format!("/v1/videos/{id}/{what}"), &body);
    let finished = server.ask(&asked(4));
    server.film(&finished);
    let running = server.ask(&asked(SEGMENTS));
    server.wait(&running, "in work", |v| v["segments_done"].as_u64() > Some(2));
    let waiting = server.ask(&asked(2));
    disk.fill(0);

    // The database has some room of its own, in which much is written before it has to grow.
    let mut long = asked(2);
    long["prompt"] = json!("a red circle ".repeat(3_000));
    let mut taken = Vec::new();
    let refused = loop {
        let answer = server.post("/v1/videos", &long);
        if !done(&answer) {
            break answer;
        }
        taken.push(answer.json()["id"].as_str().expect("an id").to_owned());
    };
    assert!(refused.problem(507, "disk_full").contains("nothing is lost"));
    let picture = picture();
    let upload = || send(&server, "/v1/videos", &asked(1), &[("image", &picture)]);
    upload().problem(507, "disk_full");
    let steered = done(&post(&waiting, "steer", json!({"prompt": "A blue square. ".repeat(900)})));
    let cancelled = done(&post(&waiting, "cancel", json!({})));
    let branched = post(&finished, "branch", json!({"segment": 2, "prompt": "A blue square."}));
    if done(&branched) {
        taken.push(branched.json()["id"].as_str().expect("an id").to_owned());
    }
    let chosen = done(&server.post("/v1/models/t2v/use", &json!({})));
    let paused = done(&post(&running, "pause", json!({})));
    let resumed = done(&post(&running, "resume", json!({})));
    // What needs no room is answered.
    for path in ["/health", "/v1/videos", "/v1/models", "/metrics", "/"] {
        server.get(path).expect(200);
    }
    assert!(server.film(&finished) == made_by_command(4), "a film is lost");
    server.wait(&running, "without room", |_| server.log().contains("no room"));
    assert_ne!(server.video(&running)["status"], "failed");
    // Who looks at the service hears why nothing goes on.
    let workers = || server.get("/health").expect(200).json()["workers"].clone();
    server.wait(&running, "known to wait for room", |_| workers() == json!(["waiting"]));
    // In service, so that films can be deleted, and not well.
    server.get("/health/ready").expect(200);
    assert_eq!(server.get("/health").expect(200).json()["status"], "disk_full");
    let health = place.run(&["health", "--listen", server.url("").trim_start_matches("http://")]);
    assert!(health.expect_code(1).stderr.contains("free some"));

    disk.make_room();
    // What was said to be done is, what was refused is not.
    let video = server.video(&waiting);
    assert_eq!(video["state"] == "cancelled", cancelled, "{video:#}");
    let segments = server.get(&format!("/v1/videos/{waiting}/segments")).expect(200).json();
    let is_steered = segments["data"][0]["prompt"].as_str().expect("one").contains("blue");
    assert!(is_steered == steered || cancelled, "{segments:#}");
    let model = server.get("/models/info").expect(200).json()["model"].clone();
    assert_eq!(model == "t2v", chosen);
    let listed = server.get("/v1/videos?limit=100").expect(200).json();
    let ids: Vec<&str> = listed["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|v| v["id"].as_str())
        .collect();
    assert_eq!(ids.len(), taken.len() + 3, "jobs are lost, or made of what was refused");
    for id in &taken {
        assert!(ids.contains(&id.as_str()), "{id} is lost");
        post(id, "cancel", json!({})).expect(200);
    }
    if !cancelled {
        post(&waiting, "cancel", json!({})).expect(200);
    }
    // It is let go when its worker has room, and not said to be paused before.
    if paused && !resumed {
        post(&running, "resume", json!({})).expect(200);
    }
    assert!(server.film(&running) == made_by_command(SEGMENTS), "another film");
    // With all that belongs to it.
    let segments =
        server.get(&format!("/v1/videos/{running}/segments?limit=500")).expect(200).json();
    for segment in segments["data"].as_array().expect("a list") {
        assert_eq!(segment["can_branch"], true, "{segment:#}");
        server.get(segment["thumbnail"].as_str().expect("a picture")).expect(200);
    }
    for variant in ["thumbnail", "spritesheet"] {
        server.get(&format!("/v1/videos/{running}/content?variant={variant}")).expect(200);
    }
    // Lines that there was no room for are not there, and none is torn.
    for name in ["access.log", "error.log"] {
        let text = std::fs::read_to_string(data.join("logs").join(name)).expect("a log");
        for line in text.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{name} has {line:?}");
        }
    }
    upload().expect(201);
}
