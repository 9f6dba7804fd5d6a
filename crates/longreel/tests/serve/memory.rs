//! Workers that are not given the memory that a film takes.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::program::{Place, model};
use crate::server::{Server, signal_process};

/// What a starved worker may have beside what it has when it is ready. A film takes tens of MiB more.
const SPARE: u64 = 4 << 20;
/// Memory for each thread is part of what a worker takes.
const THREADS: [&str; 2] = ["--threads", "2"];

fn film() -> Value {
    json!({
        "prompt": "A red circle moves.", "size": "192x128", "num_frames": 161, "base_num_frames": 161,
        "overlap_history": 5, "steps": 1, "seed": 7,
    })
}

/// The same film in windows of so many frames, by the command.
fn made_by_command(base: &str) -> Vec<u8> {
    let place = Place::new();
    let model = model();
    let words = [
        "generate",
        "A red circle moves.",
        "--model",
        &model,
        "--size",
        "192x128",
        "--num-frames",
        "161",
        "--base-num-frames",
        base,
        "--overlap-history",
        "5",
        "--steps",
        "1",
        "--seed",
        "7",
        "-o",
        "film.mp4",
    ];
    place.run(&words).expect_code(0);
    place.read("film.mp4")
}

/// Lets the first workers of a server have no more memory for data than they have, but for [`SPARE`].
struct Limited<'a> {
    server: &'a Server,
    starved: usize,
    workers: RefCell<Vec<u32>>,
}

impl<'a> Limited<'a> {
    /// Its first `starved` workers, for a server that is ready; `None`, which is said, without prlimit.
    fn of(server: &'a Server, starved: usize) -> Option<Self> {
        if let Err(error) = Command::new("prlimit").arg("--version").output() {
            println!("skipped: prlimit (util-linux) cannot be run ({error})");
            return None;
        }
        let limited = Self { server, starved, workers: RefCell::default() };
        limited.look();
        Some(limited)
    }

    fn look(&self) {
        let mut known = self.workers.borrow_mut();
        for worker in self.server.workers() {
            if known.contains(&worker) {
                continue;
            }
            // Of one that has ended meanwhile there is nothing to read.
            let Some(has) = data_bytes(worker) else { continue };
            known.push(worker);
            if known.len() <= self.starved {
                let limit = format!("--data={}", has + SPARE);
                let words = [format!("--pid={worker}"), limit];
                let limited = Command::new("prlimit").args(words).status().expect("prlimit");
                assert!(limited.success());
            }
        }
    }

    fn wait_for_end(&self, id: &str) -> Value {
        self.server.wait(id, "at its end", |video| {
            // A worker that has the film is ready.
            if video["status"] == "in_progress" {
                self.look();
            }
            video["status"] == "completed" || video["status"] == "failed"
        })
    }
}

/// What a process has for data, of which [`Limited`] sets the limit.
fn data_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmData:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// That a film of [`film`] was made with smaller base frames and says so everywhere; those base frames.
fn assert_smaller(server: &Server, video: &Value) -> String {
    assert_eq!(video["status"], "completed", "{video:#}\n{}", server.log());
    let id = video["id"].as_str().expect("an id");
    let warnings = video["warnings"].as_array().expect("warnings").iter();
    let warnings: Vec<&str> = warnings.map(|warning| warning.as_str().expect("text")).collect();
    // The newest first; each base is about three fifths of the one before.
    let mut base = "161".to_owned();
    for warning in warnings.iter().rev() {
        let rest = warning.strip_prefix("made with base_num_frames ").expect("a warning");
        let (smaller, rest) = rest.split_once(' ').expect("a warning");
        assert_eq!(rest, format!("instead of {base}: the machine ran out of memory"));
        smaller.clone_into(&mut base);
    }
    assert!(["97", "57"].contains(&&*base), "{video:#}");
    // With segments finished, it may go on as it is after another death.
    let deaths = video["attempts"].as_u64().expect("a number") - 1;
    assert!(deaths >= warnings.len() as u64, "{video:#}");
    let command = video["command"].as_str().expect("a command");
    assert!(command.contains(&format!("--base-num-frames {base}")), "{command}");
    let told: Vec<Value> = server.events(id, 0).map(|told| told.data["warning"].clone()).collect();
    assert!(warnings.iter().all(|warning| told.contains(&json!(warning))), "{told:?}");
    assert!(server.film(id) == made_by_command(&base), "another film than with {base}");
    let metrics = String::from_utf8(server.get("/metrics").expect(200).body).expect("text");
    let line = format!("longreel_worker_deaths_total{{cause=\"memory\"}} {deaths}");
    assert!(metrics.lines().any(|l| l == line), "no {line:?} in {metrics}");
    base
}

#[test]
fn a_film_whose_worker_is_refused_memory_is_made_with_smaller_base_frames() {
    let place = Place::new();
    let server = Server::start_with(&place, &[&["--model", &model()], &THREADS[..]].concat());
    server.wait_ready();
    let Some(limited) = Limited::of(&server, 1) else { return };
    let id = server.ask(&film());
    let video = limited.wait_for_end(&id);
    assert!(server.log().contains("memory allocation of"), "{}", server.log());
    let base = assert_smaller(&server, &video);
    // And so is one that asks for the same once more.
    let again = server.post(&format!("/v1/videos/{id}/remix"), &json!({"prompt": "A dog."}));
    let (again, flag) = (again.expect(201).json(), format!("--base-num-frames {base}"));
    assert!(again["command"].as_str().expect("a command").contains(&flag));
}

#[test]
fn a_film_that_is_to_stay_as_it_is_fails_when_memory_is_not_enough() {
    let place = Place::new();
    let words = ["--model", &model(), "--on-out-of-memory", "fail"];
    let server = Server::start_with(&place, &[&words, &THREADS[..]].concat());
    server.wait_ready();
    let Some(limited) = Limited::of(&server, usize::MAX) else { return };
    let id = server.ask(&film());
    let video = limited.wait_for_end(&id);
    assert_eq!((&video["status"], &video["attempts"]), (&json!("failed"), &json!(3)), "{video:#}");
    assert_eq!(video["error"]["code"], "out_of_memory");
    let message = video["error"]["message"].as_str().expect("why");
    for said in ["3 times in a row", "memory allocation of", "size", "base_num_frames", "quantised"]
    {
        assert!(message.contains(said), "no {said:?} in {message}");
    }
    assert_eq!(video["warnings"], json!([]), "{video:#}");
}

/// A control group of this test's own, whose memory can be limited. It goes with this.
struct Group {
    folder: PathBuf,
    limit: &'static str,
}

impl Group {
    /// `None`, which is said, where none may be made.
    fn new() -> Option<Self> {
        let name = format!("longreel-test-{}", std::process::id());
        for (root, limit) in
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]
        {
            let folder = Path::new(root).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self { folder, limit };
            if group.folder.join(limit).exists() {
                return Some(group);
            }
        }
        println!("skipped: no control group with a limit of memory may be made here");
        None
    }
}

impl Group {
    /// Bytes that its processes have for themselves; what is kept of files can be let go.
    fn used(&self) -> u64 {
        let told = fs::read_to_string(self.folder.join("memory.stat")).expect("readable");
        let line = told.lines().find_map(|line| {
            line.strip_prefix("anon ").or_else(|| line.strip_prefix("total_rss "))
        });
        line.and_then(|bytes| bytes.parse().ok()).expect("a number")
    }

    /// Sets its limit.
    fn allow(&self, bytes: u64) {
        fs::write(self.folder.join(self.limit), bytes.to_string()).expect("writable");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for id in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines() {
            signal_process(id.parse().expect("an id"), "-KILL");
        }
        // What was killed is in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[test]
fn a_film_whose_worker_the_kernel_kills_for_memory_is_made_with_smaller_base_frames() {
    let Some(group) = Group::new() else { return };
    let place = Place::new();
    let join = format!("echo $$ > {}/cgroup.procs", group.folder.display());
    let model = model();
    let words = [&["--model", &model], &THREADS[..]].concat();
    let server = Server::start_after(&place, &join, &words);
    server.wait_ready();
    let killed = || server.log().contains("killed by the kernel, because memory ran out");
    group.allow(group.used() + SPARE);
    let id = server.ask(&film());
    let video = server.wait(&id, "at its end", |video| {
        // The next worker has what it wants.
        if killed() {
            group.allow(1 << 40);
        }
        video["status"] == "completed" || video["status"] == "failed"
    });
    assert!(killed());
    assert_smaller(&server, &video);
    drop(server);
    drop(group);
}
