//! A worker of RunPod's queue, beside a stand-in that speaks its protocol, badly at times.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base64::prelude::*;
use serde_json::{Value, json};

use crate::program::{Place, copy_folder, fixtures};
use crate::server::{PATIENCE, Server, asked, made_by_command, signal_process};

const KEY: &str = "rpa_secret";
/// How long a question is held open.
const HOLD: Duration = Duration::from_millis(200);

/// What the stand-in knows.
#[derive(Default)]
struct Known {
    jobs: VecDeque<Value>,
    /// Answers to the next questions for a job, before any job.
    faults: VecDeque<&'static str>,
    /// How many results are refused before one is taken.
    refuse_results: u32,
    stops: Vec<String>,
    /// What came, by job: progress, parts, results.
    progress: Vec<Value>,
    parts: Vec<Value>,
    done: BTreeMap<String, Vec<Value>>,
    /// Where results came, by job.
    done_at: BTreeMap<String, String>,
    pings: Vec<String>,
    takes: Vec<String>,
    bucket: BTreeMap<String, Vec<u8>>,
    wrong_keys: u32,
}

struct RunPod {
    address: String,
    known: Arc<(Mutex<Known>, Condvar)>,
}

impl RunPod {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let known = Arc::<(Mutex<Known>, Condvar)>::default();
        let held = known.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let known = held.clone();
                std::thread::spawn(move || while answer(&stream, &known).is_some() {});
            }
        });
        Self { address, known }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.0.lock().expect("no panic")
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let of = |path: &str| format!("http://{}/v2/e/{path}?gpu=none", self.address);
        vec![
            ("RUNPOD_WEBHOOK_GET_JOB", of("job-take/$ID")),
            ("RUNPOD_WEBHOOK_POST_OUTPUT", of("job-done/$RUNPOD_POD_ID/$ID")),
            ("RUNPOD_WEBHOOK_POST_STREAM", of("job-stream/$RUNPOD_POD_ID/$ID")),
            ("RUNPOD_WEBHOOK_PING", of("ping/$RUNPOD_POD_ID")),
            ("RUNPOD_PING_INTERVAL", "150".into()),
            ("RUNPOD_AI_API_KEY", KEY.into()),
            ("RUNPOD_POD_ID", "pod1".into()),
        ]
    }

    fn ask(&self, id: &str, input: Value) {
        self.known().jobs.push_back(json!({"id": id, "input": input}));
    }

    /// Waits until it knows something.
    fn wait<T>(&self, what: &str, look: impl Fn(&Known) -> Option<T>) -> T {
        let started = Instant::now();
        let mut known = self.known();
        loop {
            if let Some(found) = look(&known) {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "never {what}; results: {:?}", known.done);
            known = self.known.1.wait_timeout(known, HOLD).expect("no panic").0;
        }
    }

    /// The one result of a job.
    fn result(&self, id: &str) -> Value {
        self.wait("a result", |known| Some(known.done.get(id)?[0].clone()))
    }
}

/// Answers one request; `None` when the connection ends.
fn answer(stream: &TcpStream, known: &Arc<(Mutex<Known>, Condvar)>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&length| length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut key) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => key = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = target.split('?').next()?.to_owned();
    let (status, text) = {
        let (lock, changed) = &**known;
        let mut known = lock.lock().ok()?;
        if key != KEY && !path.starts_with("/films/") {
            known.wrong_keys += 1;
        }
        let id = || path.rsplit('/').next().unwrap_or_default().to_owned();
        let json = || serde_json::from_slice::<Value>(&body).expect("JSON");
        let answer = match (method.as_str(), path.split('/').nth(3).unwrap_or_default()) {
            ("GET", "job-take") => {
                known.takes.push(target.clone());
                match (known.faults.pop_front(), known.jobs.pop_front()) {
                    (Some("drop"), job) => {
                        known.jobs.extend(job);
                        return None;
                    }
                    (Some(status), job) => {
                        known.jobs.extend(job);
                        (status.to_owned(), String::new())
                    }
                    (None, Some(job)) => ("200 OK".to_owned(), job.to_string()),
                    (None, None) => {
                        drop(changed.wait_timeout(known, HOLD).expect("no panic"));
                        ("204 No Content".to_owned(), String::new())
                    }
                }
            }
            ("GET", "job-stop") => match known.stops.is_empty() {
                true => {
                    drop(changed.wait_timeout(known, HOLD).expect("no panic"));
                    ("204 No Content".to_owned(), String::new())
                }
                false => {
                    let stops = std::mem::take(&mut known.stops);
                    ("200 OK".to_owned(), json!({"jobsToStop": stops}).to_string())
                }
            },
            ("GET", "ping") => {
                known.pings.push(target.clone());
                ("200 OK".to_owned(), String::new())
            }
            ("POST", "job-stream") => {
                known.parts.push(json()["output"].clone());
                ("200 OK".to_owned(), String::new())
            }
            ("POST", "job-done") if json()["status"] == "IN_PROGRESS" => {
                known.progress.push(json()["output"].clone());
                ("200 OK".to_owned(), String::new())
            }
            ("POST", "job-done") if known.refuse_results > 0 => {
                known.refuse_results -= 1;
                ("502 Bad Gateway".to_owned(), String::new())
            }
            ("POST", "job-done") => {
                known.done_at.insert(id(), target.clone());
                known.done.entry(id()).or_default().push(json());
                ("200 OK".to_owned(), String::new())
            }
            ("PUT", _) if path.starts_with("/films/") => {
                known.bucket.insert(path.clone(), body);
                ("200 OK".to_owned(), String::new())
            }
            _ => ("404 Not Found".to_owned(), target.clone()),
        };
        changed.notify_all();
        answer
    };
    let no_body = status.starts_with("204");
    let head = if no_body { String::new() } else { format!("content-length: {}\r\n", text.len()) };
    let kind = "content-type: application/json\r\n";
    write!(&mut &*stream, "HTTP/1.1 {status}\r\n{kind}{head}\r\n{text}").ok()
}

fn film_in(result: &Value) -> Vec<u8> {
    let text = result["output"]["video"].as_str().unwrap_or_else(|| panic!("{result:#}"));
    let text = text.strip_prefix("data:video/mp4;base64,").expect("a film");
    BASE64_STANDARD.decode(text).expect("base64")
}

#[test]
fn a_job_of_the_queue_becomes_the_film_of_the_command_with_progress_and_parts_on_the_way() {
    let place = Place::new();
    let runpod = RunPod::start();
    runpod.ask("job-1", asked(6));
    let server = Server::start_among(&place, &runpod.variables());
    let result = runpod.result("job-1");
    assert!(film_in(&result) == made_by_command(6), "another film");
    assert_eq!((&result["output"]["segments"], &result["output"]["seed"]), (&json!(6), &json!(7)));
    let known = runpod.known();
    assert_eq!(known.wrong_keys, 0);
    assert_eq!(known.done["job-1"].len(), 1, "more than one result");
    // As RunPod's own SDK ends a job that it gave parts of.
    assert!(known.done_at["job-1"].ends_with("&isStream=true"), "{:?}", known.done_at);
    let kinds = |kind: &str| known.parts.iter().filter(|part| part["event"] == kind).count();
    assert_eq!((kinds("segment"), kinds("drift")), (6, 6), "{:?}", known.parts);
    assert!(kinds("preview") > 0, "no picture");
    assert!(!known.progress.is_empty(), "no progress");
    assert!(
        known.takes.iter().all(|take| take.contains("/job-take/pod1?gpu=none&job_in_progress="))
    );
    assert!(known.pings.iter().any(|ping| ping.ends_with("&job_id=job-1")), "{:?}", known.pings);
    drop(known);
    // The server's own interface shows it too.
    assert_eq!(server.get("/v1/videos").expect(200).json()["data"][0]["status"], "completed");
    assert_eq!(server.get("/ping").status, 200);
}

#[test]
fn faults_of_the_queue_lose_no_job_and_give_no_result_twice() {
    let place = Place::new();
    let runpod = RunPod::start();
    {
        let mut known = runpod.known();
        known.faults.extend(["500 Oops", "drop", "400 Bad Request", "204 No Content"]);
        known.refuse_results = 2;
    }
    // The same job twice, as after an answer that got lost on the way.
    runpod.ask("job-1", asked(2));
    runpod.ask("job-1", asked(2));
    let _server = Server::start_among(&place, &runpod.variables());
    let result = runpod.result("job-1");
    assert!(film_in(&result) == made_by_command(2), "another film");
    runpod.ask("job-2", asked(1));
    runpod.result("job-2");
    let videos = _server.get("/v1/videos").expect(200).json()["data"].as_array().map(Vec::len);
    assert_eq!(videos, Some(2), "a job was made twice");
}

#[test]
fn what_cannot_be_made_is_told_and_what_is_called_off_stops() {
    let place = Place::new();
    let runpod = RunPod::start();
    let mut wrong = asked(1);
    wrong["num_frames"] = json!(96);
    runpod.ask("wrong", wrong);
    runpod.ask("nothing", Value::Null);
    let mut long = asked(100_000);
    long["steps"] = json!(50);
    runpod.ask("long", long);
    let server = Server::start_among(&place, &runpod.variables());
    let told = runpod.result("wrong")["error"].as_str().expect("an error").to_owned();
    assert!(told.contains("num_frames 96") && told.contains("93 or 97"), "{told}");
    assert!(runpod.result("nothing")["error"].is_string());
    assert!(runpod.known().done_at["wrong"].ends_with("&isStream=false"));
    runpod.wait("in work", |known| (!known.progress.is_empty()).then_some(()));
    runpod.known().stops.push("long".into());
    let told = runpod.result("long")["error"].as_str().expect("an error").to_owned();
    assert!(told.starts_with("cancelled"), "{told}");
    // The worker is free for the next one.
    runpod.ask("next", asked(1));
    assert!(film_in(&runpod.result("next")) == made_by_command(1), "another film");
    drop(server);
}

#[test]
fn a_film_goes_into_the_bucket_and_its_address_into_the_answer() {
    let place = Place::new();
    let runpod = RunPod::start();
    runpod.ask("job-1", asked(1));
    let mut variables = runpod.variables();
    variables.extend([
        ("BUCKET_ENDPOINT_URL", format!("http://{}/films", runpod.address)),
        ("BUCKET_ACCESS_KEY_ID", "id".into()),
        ("BUCKET_SECRET_ACCESS_KEY", "secret".into()),
    ]);
    let _server = Server::start_among(&place, &variables);
    let result = runpod.result("job-1");
    let url = result["output"]["video_url"].as_str().unwrap_or_else(|| panic!("{result:#}"));
    assert!(url.contains("X-Amz-Signature="), "{url}");
    let path = url.split(&runpod.address).nth(1).and_then(|rest| rest.split('?').next());
    assert!(runpod.known().bucket[path.expect("a path")] == made_by_command(1), "another film");
}

#[test]
fn a_server_that_ends_gives_no_result_for_what_it_did_not_finish() {
    let place = Place::new();
    let runpod = RunPod::start();
    runpod.ask("job-1", asked(100_000));
    let server = Server::start_among(&place, &runpod.variables());
    runpod.wait("in work", |known| (!known.parts.is_empty()).then_some(()));
    server.signal("-TERM");
    server.ended();
    assert!(runpod.known().done.is_empty(), "{:?}", runpod.known().done);
    // The same job, given to the next worker of this folder, goes on.
    let done = runpod.known().parts.len();
    runpod.known().parts.clear();
    runpod.ask("job-1", asked(100_000));
    let server = Server::start_among(&place, &runpod.variables());
    runpod.wait("in work again", |known| (known.parts.len() > done).then_some(()));
    let segments = server.get("/v1/videos").expect(200).json()["data"][0]["segments_done"].clone();
    assert!(segments.as_u64() >= Some(2), "{segments}");
}

#[test]
fn variables_that_lack_are_named_before_anything_starts() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("RUNPOD_WEBHOOK_GET_JOB", "http://127.0.0.1:1/job-take/$ID");
    let ran = crate::program::Ran::of(command.output().expect("it runs")).expect_code(2);
    assert!(ran.stderr.contains("RUNPOD_WEBHOOK_POST_OUTPUT"), "{}", ran.stderr);
    assert!(!place.path("longreel-data").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_load_balancer_is_told_204_while_no_worker_has_its_model_and_200_once_one_has() {
    let place = Place::new();
    let (model, aside) = (place.path("df"), place.path("aside"));
    copy_folder(&fixtures().join("models/df"), &model);
    let server = Server::start_with(&place, &["--model", model.to_str().expect("a path")]);
    let wait = |status: u16| {
        let started = Instant::now();
        while server.get("/ping").status != status {
            assert!(started.elapsed() < PATIENCE, "never {status}: {}", server.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait(200);
    // The next worker finds no weights, until they are back.
    std::fs::rename(model.join("transformer"), &aside).expect("ours");
    for worker in server.workers() {
        signal_process(worker, "-KILL");
    }
    wait(204);
    std::fs::rename(&aside, model.join("transformer")).expect("ours");
    wait(200);
}
