//! The OpenAPI document: the one in `docs/` is the one that is served, and real answers are what it says.

use std::path::Path;

use serde_json::Value;

use crate::program::Place;
use crate::server::{Server, asked};

/// `LONGREEL_WRITE_DOCS=1 cargo test openapi` writes it anew.
const WRITE: &str = "LONGREEL_WRITE_DOCS";

#[test]
fn the_document_in_the_repository_is_the_one_that_is_served() {
    let place = Place::new();
    let server = Server::start(&place);
    let served = server.get("/openapi.json").expect(200).json();
    let text = serde_json::to_string_pretty(&served).expect("JSON") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        std::fs::write(&path, &text).expect("writable");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "docs/openapi.json is not what is served; {WRITE}=1 writes it anew");
}

#[test]
fn answers_have_what_the_document_requires_of_them() {
    let place = Place::new();
    let server = Server::start(&place);
    let document = server.get("/openapi.json").expect(200).json();
    let id = server.ask(&asked(2));
    server.film(&id);
    for (path, route) in [
        ("/health".to_owned(), "/health"),
        ("/models/info".to_owned(), "/models/info"),
        ("/v1/models".to_owned(), "/v1/models"),
        ("/v1/videos".to_owned(), "/v1/videos"),
        (format!("/v1/videos/{id}"), "/v1/videos/{id}"),
        (format!("/v1/videos/{id}/segments"), "/v1/videos/{id}/segments"),
        (format!("/status/{id}"), "/status/{id}"),
    ] {
        let answer = server.get(&path).expect(200).json();
        let content = &document["paths"][route]["get"]["responses"]["200"]["content"];
        let schema = &content["application/json"]["schema"];
        assert!(schema.is_object(), "{route} is not in the document");
        check(&document, schema, &answer, &path);
    }
    let plan = server.post("/v1/plan", &asked(2)).expect(200).json();
    check(&document, &serde_json::json!({"$ref": "#/components/schemas/Plan"}), &plan, "plan");
}

/// What is required is there, and what is there is of the type that is said.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).expect("a schema");
        return check(document, schema, value, place);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{place}: the document has the type {other}"),
    };
    assert!(types.is_empty() || types.iter().any(is), "{place} is no {types:?}: {value}");
    for allowed in [&schema["enum"], &Value::Array(vec![schema["const"].clone()])] {
        if allowed.as_array().is_some_and(|all| all.iter().all(|one| !one.is_null())) {
            let all = allowed.as_array().expect("a list");
            assert!(all.contains(value), "{place} is none of {all:?}: {value}");
        }
    }
    let required = schema["required"].as_array().filter(|_| value.is_object());
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(name).is_some(), "{place} has no {name}: {value}");
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            check(document, inner, value, &format!("{place}.{name}"));
        }
    }
    if let (Some(values), Some(items)) = (value.as_array(), schema.get("items")) {
        values.iter().for_each(|value| check(document, items, value, place));
    }
}

#[test]
fn metrics_count_films_requests_and_workers() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(2));
    server.film(&id);
    let text = String::from_utf8(server.get("/metrics").expect(200).body).expect("text");
    let number = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    assert_eq!(number("longreel_jobs{state=\"completed\"}"), 1.0);
    assert_eq!(number("longreel_jobs_ended_total{state=\"completed\"}"), 1.0);
    assert_eq!(number("longreel_segments_total"), 2.0);
    // Four steps for each of two segments, at least.
    assert!(number("longreel_step_seconds_count") >= 8.0, "{text}");
    assert_eq!(number("longreel_work_per_film_second_count"), 1.0);
    let created = "{method=\"POST\",path=\"/v1/videos\",status=\"201\"}";
    assert_eq!(number(&format!("longreel_http_requests_total{created}")), 1.0);
    if cfg!(target_os = "linux") {
        assert!(number("longreel_memory_bytes{process=\"worker-0\"}") > 1e6);
    }
    assert!(text.ends_with("# EOF\n"), "a reader would take it for cut short");
}

/// A film that shows something else from some time on is asked to look different.
#[test]
fn drift_is_of_segments_with_the_same_prompt() {
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    let drift = |asked: Value| -> f64 {
        let id = server.ask(&asked);
        server.film(&id);
        let text = String::from_utf8(server.get("/metrics").expect(200).body).expect("text");
        let line = text.lines().find(|line| line.starts_with("longreel_drift_colour "));
        line.expect("a line")[22..].parse().expect("a number")
    };
    let prompt = "a red circle moves right on a blue background";
    let mut asked = serde_json::json!({"prompt": prompt, "num_frames": 81, "steps": 6, "seed": 7});
    assert!(drift(asked.clone()) < 20.0);
    asked["prompt_at"] = "1s:a blue square grows on a yellow background".into();
    let of_both = drift(asked);
    assert!(of_both < 20.0, "what was asked for is counted as drift: {of_both}");
}

#[test]
fn requests_and_failures_have_files_of_their_own() {
    let place = Place::new();
    let model = crate::program::model();
    let server = Server::start_with(&place, &["--model", &model, "--log-folder", "logs"]);
    server.get("/v1/videos/nothing").expect(404);
    let lines = String::from_utf8(place.read("logs/access.log")).expect("text");
    let line = lines.lines().find(|line| line.contains("/v1/videos/nothing")).expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["status"], &line["method"]), (&404.into(), &"GET".into()), "{line}");
    assert!(line["seconds"].as_f64().is_some() && line["request_id"].is_string(), "{line}");
    assert!(place.path("logs/error.log").exists());
    assert!(!server.log().contains("/v1/videos/nothing"), "requests are on stderr too");
}
