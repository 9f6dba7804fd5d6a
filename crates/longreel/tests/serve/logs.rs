//! Log files of a running server: they make room for themselves, and nothing is lost before it is its turn.

use std::path::Path;

use serde_json::Value;

use crate::program::{Place, model};
use crate::server::Server;

/// The request ids of a log, from the oldest file to the newest, and the sizes of the files.
fn logged(folder: &Path) -> (Vec<String>, Vec<u64>) {
    let number = |name: &str| match name.strip_prefix("access.log")? {
        "" => Some(0),
        ending => ending.strip_prefix('.')?.parse::<u32>().ok(),
    };
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder")
        .filter_map(|entry| {
            let path = entry.expect("readable").path();
            Some((number(path.file_name()?.to_str()?)?, path))
        })
        .collect();
    files.sort();
    let numbers: Vec<u32> = files.iter().map(|file| file.0).collect();
    assert_eq!(numbers, (0..files.len() as u32).collect::<Vec<_>>(), "a file is missing");
    let (mut ids, mut sizes) = (Vec::new(), Vec::new());
    for (_, path) in files.iter().rev() {
        let text = std::fs::read_to_string(path).expect("text");
        sizes.push(text.len() as u64);
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("a line is torn");
            ids.push(line["request_id"].as_str().expect("an id").to_owned());
        }
    }
    (ids, sizes)
}

/// Requests number `from` to `to`, told apart by their ids.
fn ask(server: &Server, from: u32, to: u32) {
    for n in from..to {
        server.send("GET", "/health", &[("x-request-id", &format!("n{n:05}"))], []).expect(200);
    }
}

fn ids(from: u32, to: u32) -> Vec<String> {
    (from..to).map(|n| format!("n{n:05}")).collect()
}

#[test]
fn full_log_files_give_way_without_a_line_lost_also_after_a_restart() {
    let place = Place::new();
    let start = |keep: &str| {
        let model = model();
        let words =
            ["--model", &model, "--log-folder", "logs", "--log-size", "4KiB", "--log-keep", keep];
        Server::start_with(&place, &words)
    };
    let folder = place.path("logs");
    let server = start("1000");
    ask(&server, 0, 120);
    // It is killed: what was answered is written.
    server.kill();
    let (first, sizes) = logged(&folder);
    assert_eq!(first, ids(0, 120));
    assert!(sizes.len() > 3 && sizes.iter().all(|&bytes| bytes <= 4096), "{sizes:?}");

    // The next one goes on in the file that is not full yet.
    let server = start("1000");
    ask(&server, 120, 240);
    server.kill();
    let (both, more) = logged(&folder);
    assert_eq!(both, ids(0, 240));
    assert!(more[..sizes.len() - 1] == sizes[..sizes.len() - 1], "{sizes:?} {more:?}");

    // With room for three full ones the oldest go, and what is left is the end without a gap.
    let place = Place::new();
    let folder = place.path("logs");
    let model = model();
    let words =
        ["--model", &model, "--log-folder", "logs", "--log-size", "4KiB", "--log-keep", "3"];
    let server = Server::start_with(&place, &words);
    ask(&server, 0, 200);
    server.kill();
    let (left, sizes) = logged(&folder);
    assert_eq!(sizes.len(), 4, "{sizes:?}");
    let kept = left.len() as u32;
    assert!(kept < 200, "nothing was removed");
    assert_eq!(left, ids(200 - kept, 200));
}

#[test]
fn a_log_without_room_for_a_line_is_refused_before_anything_is_begun() {
    let place = Place::new();
    let words = ["serve", "--listen", "127.0.0.1:0", "--data", "data", "--log-folder", "logs"];
    let ran = place.run(&[&words[..], &["--log-size", "100"]].concat()).expect_code(2);
    assert!(ran.stderr.contains("4KiB"), "{}", ran.stderr);
    assert!(!place.path("data").exists() && !place.path("logs").exists());
}
