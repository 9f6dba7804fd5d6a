//! A database that somebody else holds, and one that is damaged.

use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::program::Place;
use crate::server::Server;

const HELD: Duration = Duration::from_secs(15);

pub fn run() {
    let asked = json!({"prompt": "a red circle moves right on a blue background",
        "num_frames": 1201, "steps": 8, "seed": 6});
    let undisturbed = {
        let place = Place::new();
        let server = Server::start_with(&place, &[]);
        server.film(&server.ask(&asked))
    };
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    let id = server.ask(&asked);
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(1));
    hold(&place, &server, &id);
    assert!(server.film(&id) == undisturbed, "another film");
    println!("   the film is that of an undisturbed run");
    damage(place, server);
}

/// Nobody else can write for a while.
fn hold(place: &Place, server: &Server, id: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let path = place.path("data/jobs.db");
    runtime.expect("threads").block_on(async {
        let options = SqliteConnectOptions::new().filename(path);
        let mut connection = options.connect().await.expect("the database");
        let begun = "BEGIN IMMEDIATE";
        sqlx::query(begun).execute(&mut connection).await.expect("the lock");
        let before = server.video(id)["segments_done"].clone();
        let started = Instant::now();
        let (mut reads, mut slowest) = (0, Duration::ZERO);
        while started.elapsed() < HELD {
            let asked = Instant::now();
            server.video(id);
            slowest = slowest.max(asked.elapsed());
            reads += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        let refused = server.post("/v1/videos", &json!({"prompt": "a dog"}));
        println!(
            "   held for {:.0} s at segment {before}: {reads} status reads, the slowest {slowest:.1?}; \
             another film: status {}",
            started.elapsed().as_secs_f64(),
            refused.status
        );
        sqlx::query("ROLLBACK").execute(&mut connection).await.expect("the lock is let go");
        connection.close().await.expect("closed");
    });
}

/// A server does not work on with what it cannot read, and says so.
fn damage(place: Place, server: Server) {
    server.kill();
    for name in ["data/jobs.db-wal", "data/jobs.db-shm"] {
        let _ = std::fs::remove_file(place.path(name));
    }
    let path = place.path("data/jobs.db");
    let mut file = std::fs::File::options().write(true).open(&path).expect("the database");
    file.seek(SeekFrom::Start(0)).expect("a place");
    file.write_all(&[0x5a; 8192]).expect("room");
    drop(file);
    let ran = place.run(&["serve", "--listen", "127.0.0.1:0", "--data", "data"]);
    let words = ran.stderr.lines().last().unwrap_or_default().to_owned();
    println!("   damaged: exit code {:?}, it says: {words}", ran.code);
    assert!(matches!(ran.code, Some(1 | 2)), "{ran:?}");
    assert!(words.contains("jobs.db"), "the file is not named: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
}
