//! Several models behind one address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::{Place, copy_folder, film_words, fixtures};
use crate::server::{Server, asked};

const OTHER: &str = "t2v";

fn fixture_model(name: &str) -> String {
    fixtures().join("models").join(name).display().to_string()
}

/// A server with the usual model as the default and another one beside it.
fn start(place: &Place) -> Server {
    Server::start_with(
        place,
        &["--model", &fixture_model("df"), "--with-model", &fixture_model(OTHER)],
    )
}

/// A request for a film of one segment, which both models can make.
fn short(model: &str) -> Value {
    let mut asked = asked(1);
    asked["model"] = json!(model);
    asked
}

/// That film as the command makes it.
fn by_command(model: &str) -> Vec<u8> {
    let place = Place::new();
    let mut words = film_words(1, &[]);
    let at = words.iter().position(|word| word == "--model").expect("a model is named");
    words[at + 1] = fixture_model(model);
    place.run(&words).expect_code(0);
    place.read("film.mp4")
}

fn defaults_of(server: &Server) -> Vec<(String, bool)> {
    let listed = server.get("/v1/models").expect(200).json();
    let data = listed["data"].as_array().expect("a list").clone();
    let named = |m: &Value| (m["id"].as_str().expect("a name").to_owned(), m["is_default"] == true);
    data.iter().map(named).collect()
}

#[test]
fn films_are_made_by_the_models_that_they_name_with_one_worker_for_all() {
    let place = Place::new();
    let server = start(&place);
    let names = ["df", OTHER, "df", OTHER];
    let ids = names.map(|name| server.ask(&short(name)));
    let expected = [by_command("df"), by_command(OTHER)];
    assert!(expected[0] != expected[1], "the models make the same film");
    for (index, (id, name)) in ids.iter().zip(names).enumerate() {
        assert!(server.film(id) == expected[index % 2], "film {index} is not that of {name}");
        assert_eq!(server.video(id)["model"], name);
    }
    let model = server.get(&format!("/v1/models/{OTHER}")).expect(200).json();
    assert_eq!((&model["workers"], &model["is_default"]), (&json!(1), &json!(false)), "{model:#}");
    assert!(model["memory"]["bytes"].as_u64() > Some(0), "{model:#}");
    let unknown = server.post("/v1/videos", &short("sora-2"));
    let detail = unknown.problem(400, "model_not_found");
    assert!(detail.contains("sora-2") && detail.contains("\"df\", \"t2v\""), "{detail}");
}

#[test]
fn another_default_is_chosen_while_films_are_made_and_stays_after_a_restart() {
    let place = Place::new();
    let server = start(&place);
    assert_eq!(defaults_of(&server), [("df".to_owned(), true), (OTHER.to_owned(), false)]);
    // In work and waiting, for the one that was the default.
    let ids = [server.ask(&asked(6)), server.ask(&asked(2))];
    server.wait(&ids[0], "in work", |v| v["segments_done"].as_u64() >= Some(1));
    let chosen = server.post(&format!("/v1/models/{OTHER}/use"), &json!({})).expect(200).json();
    assert_eq!(chosen["is_default"], true);
    let new = server.ask(&{
        let mut asked = asked(1);
        asked.as_object_mut().expect("an object").remove("model");
        asked
    });
    assert_eq!(server.video(&new)["model"], OTHER);
    for id in &ids {
        server.film(id);
        assert_eq!(server.video(id)["model"], "df");
    }
    assert!(server.film(&new) == by_command(OTHER), "another film");
    assert_eq!(server.get("/models/info").expect(200).json()["model"], OTHER);
    server.post("/v1/models/sora-2/use", &json!({})).problem(404, "not_found");
    server.kill();
    let server = start(&place);
    assert_eq!(defaults_of(&server), [("df".to_owned(), false), (OTHER.to_owned(), true)]);
}

#[test]
fn a_model_that_is_stopped_makes_what_it_was_asked_for_and_then_is_gone() {
    let place = Place::new();
    let server = start(&place);
    let address = format!("/v1/models/{OTHER}/serve");
    let stop = |address: &str| server.send("DELETE", address, &[], []);
    // One in work with the default, and two that wait for the other one.
    let long = server.ask(&asked(6));
    let waiting = [server.ask(&short(OTHER)), server.ask(&short(OTHER))];
    server.wait(&long, "in work", |v| v["state"] == "running");
    let stopped = stop(&address).expect(200).json();
    assert_eq!((&stopped["id"], &stopped["state"]), (&json!(OTHER), &json!("leaving")));
    // Twice is no error, and nobody can name it any more.
    assert_eq!(stop(&address).expect(200).json()["state"], "leaving");
    let refused = server.post("/v1/videos", &short(OTHER)).problem(400, "model_not_found");
    assert!(refused.contains("\"df\"") && !refused.contains("\"t2v\","), "{refused}");
    let list = server.get("/v1/models").expect(200).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list:#}");
    assert_eq!(list["installed"][0]["state"], "leaving", "{list:#}");
    for id in &waiting {
        assert!(server.film(id) == by_command(OTHER), "another film");
    }
    server.film(&long);
    let started = std::time::Instant::now();
    while server.get(&format!("/v1/models/{OTHER}")).status != 404 {
        assert!(started.elapsed() < crate::server::PATIENCE, "it is not gone");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // No worker keeps it loaded.
    server.film(&server.ask(&short("df")));
    stop(&address).problem(404, "not_found");
    server
        .post(&format!("/v1/videos/{}/remix", waiting[0]), &json!({"prompt": "A dog."}))
        .problem(400, "model_not_served");
    let refused = stop("/v1/models/df/serve").problem(409, "model_is_default");
    assert!(refused.contains("/use"), "{refused}");
    server.kill();
    // Whoever starts the server with it means it.
    let server = start(&place);
    assert_eq!(defaults_of(&server), [("df".to_owned(), true), (OTHER.to_owned(), false)]);
    // The default may be behind the one that goes.
    server.post(&format!("/v1/models/{OTHER}/use"), &json!({})).expect(200);
    server.send("DELETE", "/v1/models/df/serve", &[], []).expect(200);
    assert_eq!(server.get("/models/info").expect(200).json()["model"], OTHER);
    assert_eq!(defaults_of(&server), [(OTHER.to_owned(), true)]);
}

/// A language model that waits to be told to answer each question.
struct Slow(TcpListener);

impl Slow {
    /// Waits for a question; the answer to it, when it is called, is the prompt that was asked about.
    fn asked(&self) -> impl FnOnce() + use<> {
        let (mut stream, _) = self.0.accept().expect("a question");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).is_ok_and(|_| !line.trim().is_empty()) {
            if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = bytes.trim().parse().expect("a length");
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let message = json!({"content": body["messages"][1]["content"]});
        let answer = json!({"choices": [{"message": message}]}).to_string();
        move || {
            let length = answer.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + &answer).as_bytes()).expect("a socket");
        }
    }
}

#[test]
fn a_request_that_named_a_model_before_it_went_is_made_or_refused_and_never_waits_for_nobody() {
    let place = Place::new();
    let slow = Slow(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let url = format!("http://{}/v1", slow.0.local_addr().expect("bound"));
    let [df, other] = ["df", OTHER].map(fixture_model);
    let words = ["--model", &df, "--with-model", &other];
    let words = [&words[..], &["--enhancer-url", &url, "--enhancer-model", "m"]].concat();
    let server = Server::start_with(&place, &words);
    let ask = || {
        let mut asked = short(OTHER);
        asked["enhance_prompt"] = json!(true);
        server.post("/v1/videos", &asked)
    };
    // This one keeps the model from being gone at once: it waits for one in work, and then to be resumed.
    let long = server.ask(&asked(6));
    let held = server.ask(&short(OTHER));
    server.post(&format!("/v1/videos/{held}/pause"), &json!({})).expect(200);
    server.film(&long);
    std::thread::scope(|scope| {
        // Both have named the model and wait for the prompt that their film is made from.
        let first = scope.spawn(ask);
        let answer_first = slow.asked();
        let second = scope.spawn(ask);
        let answer_second = slow.asked();
        let stopped = server.send("DELETE", &format!("/v1/models/{OTHER}/serve"), &[], []);
        assert_eq!(stopped.expect(200).json()["state"], "leaving");
        answer_first();
        let first = first.join().expect("an answer").expect(201).json();
        server.film(first["id"].as_str().expect("an id"));
        server.post(&format!("/v1/videos/{held}/cancel"), &json!({})).expect(200);
        let started = std::time::Instant::now();
        while server.get(&format!("/v1/models/{OTHER}")).status != 404 {
            assert!(started.elapsed() < crate::server::PATIENCE, "it is not gone");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        answer_second();
        let refused = second.join().expect("an answer").problem(400, "model_not_found");
        assert!(refused.contains(OTHER) && refused.contains("\"df\""), "{refused}");
    });
    let waits = server.get("/v1/videos?state=queued").expect(200).json();
    assert_eq!(waits["data"], json!([]), "{waits:#}");
}

#[test]
fn a_model_that_cannot_be_loaded_fails_its_own_films_only() {
    let place = Place::new();
    let copy = place.path("broken");
    copy_folder(Path::new(&fixture_model("df")), &copy);
    let server = Server::start_with(
        &place,
        &["--model", &fixture_model("df"), "--with-model", copy.to_str().expect("a path")],
    );
    std::fs::remove_dir_all(copy.join("transformer")).expect("it was there");
    let [broken, whole] = ["broken", "df"].map(|name| server.ask(&short(name)));
    let failed = server.wait(&broken, "failed", |v| v["status"] == "failed");
    assert_eq!(failed["error"]["code"], "model_unusable", "{failed:#}");
    assert!(server.film(&whole) == by_command("df"), "another film");
}

#[test]
fn a_fetched_model_is_served_under_its_repository_and_revision() {
    let place = Place::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = place.path("cache/models--org--model");
    copy_folder(Path::new(&fixture_model(OTHER)), &repository.join("snapshots").join(commit));
    std::fs::create_dir_all(repository.join("refs")).expect("writable");
    std::fs::write(repository.join("refs/main"), commit).expect("writable");
    let cache = place.path("cache").display().to_string();
    let server = Server::start_among(
        &place,
        &[("HF_HUB_CACHE", cache.clone()), ("LONGREEL_WITH_MODEL", "org/model".to_owned())],
    );
    let name = format!("org/model@{}", &commit[..12]);
    assert!(defaults_of(&server).contains(&(name.clone(), false)), "{:?}", defaults_of(&server));
    let encoded = name.replace('/', "%2F").replace('@', "%40");
    server.get(&format!("/v1/models/{encoded}")).expect(200);
    let id = server.ask(&short(&name));
    // As the command makes it: the film's record names the model.
    let mut words = film_words(1, &[]);
    let at = words.iter().position(|word| word == "--model").expect("a model is named");
    words[at + 1] = "org/model".to_owned();
    let made = place.command(&words).env("HF_HUB_CACHE", cache).output().expect("it starts");
    assert!(made.status.success(), "{made:?}");
    assert!(server.film(&id) == place.read("film.mp4"), "not the film of that model");
    assert_eq!(server.video(&id)["model"], name.as_str());
}
