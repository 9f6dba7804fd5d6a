//! No room on the disk in the middle of a film.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::program::Place;
use crate::server::Server;

/// The disk in bytes: room for the database and a few segments.
const DISK_BYTES: u64 = 24 << 20;
/// What is left when it is filled up.
const LEFT_BYTES: u64 = 48 << 10;

/// A disk of its own, gone when this is dropped.
struct Disk<'a>(&'a std::path::Path);

impl<'a> Disk<'a> {
    fn mount(at: &'a std::path::Path) -> Result<Self, String> {
        std::fs::create_dir(at).map_err(|e| e.to_string())?;
        let size = format!("size={DISK_BYTES}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match mount {
            Ok(done) if done.status.success() => Ok(Self(at)),
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn free_bytes(&self) -> u64 {
        let df = Command::new("df").args(["--output=avail", "-B1"]).arg(self.0).output();
        let said = String::from_utf8(df.expect("df").stdout).expect("text");
        said.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

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
    let disk = match Disk::mount(&data) {
        Ok(disk) => disk,
        Err(error) => return println!("   skipped: no disk can be mounted here ({error})"),
    };
    let server = Server::start_with(&place, &[]);
    let id = server.ask(&asked);
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(2));
    let filler = data.join("filler");
    let zeros = vec![0; (disk.free_bytes() - LEFT_BYTES) as usize];
    std::fs::write(&filler, zeros).expect("room");
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
    std::fs::remove_file(&filler).expect("the filler");
    let room = Instant::now();
    let film = server.film(&id);
    println!("   with room again it is whole after {:.1} s", room.elapsed().as_secs_f64());
    assert!(film == undisturbed, "another film");
    println!("   the film is that of an undisturbed run");
    drop(server);
}
