//! What is refused, and how it is told.

use serde_json::json;

use crate::program::Place;
use crate::server::{Server, asked};

#[test]
fn what_cannot_be_made_is_refused_with_value_limit_and_way_out() {
    let place = Place::new();
    let server = Server::start(&place);
    for (body, code, parts) in [
        (
            json!({"prompt": "a", "num_frames": 96}),
            "invalid_value",
            &["num_frames 96", "93 or 97"][..],
        ),
        (json!({"prompt": "a", "promt_at": "1s:b"}), "unknown_key", &["promt_at", "prompt_at"]),
        (json!({"prompt": "a", "image": "/etc/passwd"}), "invalid_value", &["image", "data:"]),
        (json!({"num_frames": 17}), "invalid_value", &["prompt is missing"]),
        (json!({"prompt": "a", "model": "sora-2"}), "model_not_found", &["sora-2", "df"]),
        (json!(["a"]), "invalid_value", &["JSON object"]),
    ] {
        let detail = server.post("/v1/videos", &body).problem(400, code);
        for part in parts {
            assert!(detail.contains(part), "{body}: no {part:?} in {detail}");
        }
    }
    let json = ("content-type", "application/json");
    server.send("POST", "/v1/videos", &[json], "{\"prompt").problem(400, "invalid_json");
    server.send("POST", "/v1/videos", &[], "{}").problem(415, "unsupported_media_type");
    let long = format!("{{\"prompt\":\"{}\"}}", "a".repeat(2 << 20));
    server.send("POST", "/v1/videos", &[json], long).problem(413, "body_too_large");
    for path in [
        "/v1/videos/0190b36e-0000-7000-8000-000000000000",
        "/v1/videos/..%2f..%2fjobs.db",
        "/status/no-such-task",
        "/download/no-such-task",
        "/nothing",
        // No text.
        "/v1/videos/%ff",
        "/v1/models/%ff",
    ] {
        server.get(path).problem(404, "not_found");
    }
    for (query, field) in [("limit=x", "limit"), ("limit=-1", "limit"), ("after=1&after=2", "")] {
        let refused = server.get(&format!("/v1/videos?{query}"));
        refused.problem(400, "invalid_value");
        assert_eq!(refused.json()["field"].as_str().unwrap_or_default(), field, "{query}");
    }
    server.get("/v1/videos?after=").expect(200);
    server.send("PUT", "/v1/videos", &[], "").problem(405, "method_not_allowed");
    server.get("/v1/videos?limit=101").problem(400, "invalid_value");
    let host = [("host", "evil.example")];
    server.send("GET", "/v1/videos", &host, []).problem(403, "host_not_allowed");
    let origin = [("origin", "http://evil.example"), json];
    server.send("POST", "/v1/videos", &origin, "{}").problem(403, "origin_not_allowed");
    let id = [("x-request-id", "trace-1")];
    assert_eq!(server.send("GET", "/health", &id, []).expect(200).request_id, "trace-1");
    assert_eq!(server.get("/v1/videos").expect(200).json()["data"], json!([]), "a job was made");
}

#[test]
fn a_form_is_taken_as_json_is_and_a_broken_one_refused() {
    let place = Place::new();
    let server = Server::start(&place);
    let field = |name: &str, text: &str| {
        format!("--x\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
    };
    let send = |fields: &str| {
        let headers = [("content-type", "multipart/form-data; boundary=x")];
        server.send("POST", "/v1/videos", &headers, format!("{fields}--x--\r\n"))
    };
    let fields = [
        field("prompt", "a dog"),
        field("size", "48x32"),
        field("seconds", "1"),
        field("base_num_frames", "17"),
        field("overlap_history", "5"),
        field("prompt_at[]", "0.5s:a cat"),
        field("prompt_at[]", "0.8s:a cow"),
    ]
    .concat();
    let video = send(&fields).expect(201).json();
    assert_eq!((&video["prompt"], &video["num_frames"]), (&json!("a dog"), &json!(25)));
    let command = video["command"].as_str().expect("a command");
    assert!(command.contains("12f:a cat") && command.contains("19f:a cow"), "{command}");
    let cut = [("content-type", "multipart/form-data; boundary=x")];
    server.send("POST", "/v1/videos", &cut, "--x\r\ncontent").problem(400, "invalid_form");
    let bare = [("content-type", "multipart/form-data")];
    server.send("POST", "/v1/videos", &bare, "").problem(400, "invalid_form");
}

#[test]
fn a_request_repeated_with_its_key_makes_one_job() {
    let place = Place::new();
    let server = Server::start(&place);
    let headers = [("content-type", "application/json"), ("idempotency-key", "once")];
    let send =
        |body: &serde_json::Value| server.send("POST", "/v1/videos", &headers, body.to_string());
    // Without a seed each would draw another one.
    let mut body = asked(1);
    body.as_object_mut().expect("an object").remove("seed");
    let first = send(&body).expect(201).json();
    let second = send(&body).expect(200).json();
    assert_eq!((&first["id"], &first["seed"]), (&second["id"], &second["seed"]));
    body["steps"] = json!(5);
    send(&body).problem(409, "idempotency_conflict");
    assert_eq!(
        server.get("/v1/videos").expect(200).json()["data"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn a_list_is_read_page_by_page() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut ids: Vec<String> = (0..5).map(|_| server.ask(&asked(1))).collect();
    ids.reverse();
    let (mut read, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/videos?limit=2{after}")).expect(200).json();
        let videos = page["data"].as_array().expect("a list");
        read.extend(videos.iter().map(|v| v["id"].as_str().expect("an id").to_owned()));
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().expect("an id"));
    }
    assert_eq!(read, ids);
}

#[test]
fn the_page_is_there_and_loads_nothing_from_elsewhere() {
    let place = Place::new();
    let server = Server::start(&place);
    let page = server.get("/").expect(200);
    assert!(page.content_type.starts_with("text/html"));
    let page = String::from_utf8(page.body).expect("text");
    let mut loaded = 0;
    for name in page.split("\"web/").skip(1).filter_map(|rest| rest.split('"').next()) {
        let file = server.get(&format!("/web/{name}")).expect(200);
        let text = String::from_utf8(file.body).expect("text");
        for part in ["src=\"http", "href=\"http", "@import", "url(http"] {
            assert!(!page.contains(part) && !text.contains(part), "{part:?} in {name}");
        }
        loaded += 1;
    }
    assert!(loaded >= 3, "the page loads {loaded} files");
    server.get("/web/..%2fCargo.toml").problem(404, "not_found");
}

#[test]
fn a_place_that_cannot_be_served_from_is_refused_before_anything_is_made() {
    let place = Place::new();
    let ran = place.run(&["serve", "--listen", "0.0.0.0:0"]).expect_code(2);
    for part in ["--listen", "0.0.0.0:0", "API keys", "longreel keys create", "127.0.0.1"] {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    assert!(place.names().is_empty(), "{:?}", place.names());
    let server = Server::start(&place);
    let ran = place.run(&["serve", "--listen", "127.0.0.1:0", "--data", "data"]).expect_code(2);
    assert!(ran.stderr.contains("used by another server"), "{}", ran.stderr);
    let taken = server.url("").replace("http://", "");
    let ran = place.run(&["serve", "--listen", &taken, "--data", "other"]).expect_code(2);
    assert!(ran.stderr.contains(&taken), "{}", ran.stderr);
    let ran = place.run(&["serve", "--model", "no-such-model"]).expect_code(2);
    assert!(ran.stderr.contains("no-such-model"), "{}", ran.stderr);
}
