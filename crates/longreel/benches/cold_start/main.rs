//! How long it takes from the start of a process to a film: `cargo bench --bench cold_start`.
//!
//! The real service, over real HTTP: until it listens, until `/ping` says that a film that is asked for now
//! would be made, and until the first part of a film can be played. Once with the model's files in the page
//! cache and once without (those files and the program alone are put out of it, which takes no rights and
//! disturbs nobody else).
//!
//! ```text
//! cargo bench --bench cold_start -- [--rounds N] [MODEL...]
//! ```
//!
//! MODEL is a folder, or the name of a published model: of its shapes a folder is then written, with random
//! weights in bf16, that goes again. Without any, the demo model and the 1.3B are measured (15 GB below
//! TMPDIR). Figures are medians.

mod folder;
#[allow(dead_code, reason = "the tests of the command use the rest")]
#[path = "../../tests/command/program.rs"]
mod program;
#[allow(dead_code, reason = "the benchmark of networks uses the rest")]
#[path = "../../src/bench/random.rs"]
mod random;
#[allow(dead_code, reason = "the tests of the service use the rest")]
#[path = "../../tests/serve/server.rs"]
mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longreel_weights::published_models;
use program::Place;
use serde_json::json;
use server::Server;

const PROMPT: &str = "a red circle moves right on a blue background";

/// One start.
struct Start {
    listens: Duration,
    ready: Duration,
    first_part: Duration,
    /// Bytes that server and worker were given by calls of `read`, when they were ready and at the first
    /// part. What is mapped does not count.
    read_calls: [u64; 2],
    /// Bytes that came from the disk for them, at the same times.
    from_disk: [u64; 2],
}

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let (mut rounds, mut models) = (3, Vec::new());
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => {
                rounds = words.next().and_then(|n| n.parse().ok()).expect("--rounds N, from 1 on");
            }
            _ => models.push(word),
        }
    }
    if models.is_empty() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo");
        models = vec![demo.display().to_string(), "SkyReels-V2-DF-1.3B-540P".into()];
    }
    machine();
    println!(
        "{:<36} {:<12} {:>9} {:>9} {:>11}   read by calls, from disk: ready; first part",
        "model", "page cache", "listens", "ready", "first part"
    );
    for name in models {
        let published =
            published_models().into_iter().find(|model| model.name.eq_ignore_ascii_case(&name));
        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = match &published {
            Some(model) => folder::write(model, place.path()),
            None => PathBuf::from(&name),
        };
        let bytes: u64 = files(&folder).iter().map(|file| length(file)).sum();
        let shown = published.map_or_else(
            || {
                folder
                    .canonicalize()
                    .expect("a folder")
                    .file_name()
                    .map(|n| n.display().to_string())
            },
            |model| Some(model.name.to_owned()),
        );
        let shown = format!("{} {:.2} GB", shown.unwrap_or_default(), bytes as f64 / 1e9);
        for is_cold in [true, false] {
            let starts: Vec<Start> = (0..rounds).map(|_| start(&folder, is_cold)).collect();
            let median = |of: &dyn Fn(&Start) -> f64| {
                let mut all: Vec<f64> = starts.iter().map(of).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            let seconds = |of: &dyn Fn(&Start) -> Duration| median(&|s| of(s).as_secs_f64());
            let megabytes = |of: &dyn Fn(&Start) -> u64| median(&|s| of(s) as f64 / 1e6);
            println!(
                "{shown:<36} {:<12} {:>7.3} s {:>7.3} s {:>9.3} s   {:.1}, {:.1}; {:.1}, {:.1} MB",
                if is_cold { "empty" } else { "has it" },
                seconds(&|s| s.listens),
                seconds(&|s| s.ready),
                seconds(&|s| s.first_part),
                megabytes(&|s| s.read_calls[0]),
                megabytes(&|s| s.from_disk[0]),
                megabytes(&|s| s.read_calls[1]),
                megabytes(&|s| s.from_disk[1]),
            );
        }
    }
}

fn start(model: &Path, is_cold: bool) -> Start {
    if is_cold {
        let program = Path::new(env!("CARGO_BIN_EXE_longreel")).to_path_buf();
        for file in files(model).iter().chain([&program]) {
            forget(file);
        }
    }
    let place = Place::new();
    let model = model.display().to_string();
    let started = Instant::now();
    let server = Server::start_with(&place, &["--model", &model, "--device", "cpu"]);
    let listens = started.elapsed();
    while server.get("/ping").status != 200 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let ready = started.elapsed();
    let at_ready = read(&server);
    let id = server.ask(&json!({"prompt": PROMPT, "seed": 1}));
    loop {
        let video = server.video(&id);
        assert_ne!(video["status"], "failed", "{video:#}\n{}", server.log());
        if video["segments_done"].as_u64() > Some(0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let first_part = started.elapsed();
    let at_part = read(&server);
    Start {
        listens,
        ready,
        first_part,
        read_calls: [at_ready.0, at_part.0],
        from_disk: [at_ready.1, at_part.1],
    }
}

/// Bytes that server and worker were given by calls of `read`, and bytes that came from the disk for them.
fn read(server: &Server) -> (u64, u64) {
    let of = |process: u32| -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{process}/io")).expect("Linux");
        let number = |key: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("it is there");
            line.trim().parse().expect("a number")
        };
        (number("rchar:"), number("read_bytes:"))
    };
    let all = server.workers().into_iter().chain([server.id()]).map(of);
    all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn length(file: &Path) -> u64 {
    file.metadata().expect("readable").len()
}

/// Puts a file out of the page cache.
fn forget(file: &Path) {
    use rustix::fs::{Advice, fadvise};
    let file = std::fs::File::open(file).expect("readable");
    // What is not written yet stays in the cache.
    file.sync_all().expect("a disk");
    fadvise(&file, 0, None, Advice::DontNeed).expect("Linux");
}

/// Says what it is measured on.
fn machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| -> String {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    println!(
        "{}, {} cores, {} of memory, Linux {}, load {}",
        after(&read("/proc/cpuinfo"), "model name"),
        std::thread::available_parallelism().map_or(0, usize::from),
        after(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").trim(),
    );
}
