//! No room on the disk in the middle of a film.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::program::Place;
use crate::room::Disk;
use crate::server::Server;

/// The disk in bytes: room for the database and a few segments.
const DISK_BYTES: u64 = 24 << 20;
/// What is left when it is filled up.
const LEFT_BYTES: u64 = 48 << 10;

pub fn run() {
    let asked = json!({"prompt": "a red circle moves right on a blue background",
        "num_frames": 1201, "steps": 6, "seed": 5});
    let undisturbed = {
        let place = Place::new();
        let server = Server::start_with(&place, &[]);
        server.film(&server.ask(&asked))
    };
    let place = Place::new();
    let data = place.path("data");
    let disk = match Disk::mount(&data, DISK_BYTES) {
        Ok(disk) => disk,
        Err(error) => return println!("   skipped: no disk can be mounted here ({error})"),
    };
    let server = Server::start_with(&place, &[]);
    let id = server.ask(&asked);
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(2));
    disk.fill(LEFT_BYTES);
    let full = Instant::now();
    server.wait(&id, "without room", |_| server.log().contains("no room on the disk"));
    let video = server.video(&id);
    println!(
        "   noticed after {:.1} s at segment {}: {} ({} bytes left)",
        full.elapsed().as_secs_f64(),
        video["segments_done"],
        video["state"],
        disk.free_bytes()
    );
    assert_ne!(video["status"], "failed", "{video:#}");
    let health = server.get("/health").expect(200).json();
    let refused = server.post("/v1/videos", &asked);
    println!("   health {}, another film: status {}", health["status"], refused.status);
    std::thread::sleep(Duration::from_secs(3));
    disk.make_room();
    let room = Instant::now();
    let film = server.film(&id);
    println!("   with room again it is whole after {:.1} s", room.elapsed().as_secs_f64());
    assert!(film == undisturbed, "another film");
    println!("   the film is that of an undisturbed run");
    drop(server);
}
