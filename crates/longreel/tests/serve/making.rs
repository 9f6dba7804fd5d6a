//! A film from the request to the file.

use serde_json::json;

use crate::program::{Place, probe};
use crate::server::{Server, asked, made_by_command};

#[test]
fn a_film_asked_for_over_http_is_in_every_byte_the_one_that_the_command_makes() {
    let place = Place::new();
    let server = Server::start(&place);
    let answer = server.post("/v1/videos", &asked(4)).expect(201);
    let video = answer.json();
    assert!(["queued", "in_progress"].contains(&video["status"].as_str().expect("a status")));
    assert_eq!((&video["object"], &video["seed"]), (&json!("video"), &json!(7)));
    assert_eq!((&video["size"], &video["num_frames"]), (&json!("48x32"), &json!(53)));
    let id = video["id"].as_str().expect("an id");

    let events: Vec<_> = server.events(id, 0).collect();
    assert!(events.windows(2).all(|pair| pair[0].number < pair[1].number), "{events:#?}");
    let of = |kind: &str| events.iter().filter(|e| e.kind == kind).collect::<Vec<_>>();
    let segments: Vec<_> = of("segment").iter().map(|e| e.data["segment"].as_u64()).collect();
    assert_eq!(segments, [Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!((of("preview").len(), of("drift").len()), (4, 4));
    let done = events.last().expect("events");
    assert_eq!((done.kind.as_str(), &done.data["state"]), ("done", &json!("completed")));

    // A reader that was cut off goes on behind what it has; one that has all is told not to come back.
    let half = events.len() / 2;
    let rest = server.events(id, events[half - 1].number);
    // Of steps that are told of in a row only the last stay.
    let rest: Vec<_> = rest.filter(|e| e.kind != "progress").collect();
    let expected: Vec<_> = events[half..].iter().filter(|e| e.kind != "progress").collect();
    assert_eq!(rest.iter().collect::<Vec<_>>(), expected);
    let headers = [("last-event-id", &*done.number.to_string())];
    server.send("GET", &format!("/v1/videos/{id}/events"), &headers, []).expect(204);

    let film = server.film(id);
    assert!(film == made_by_command(4), "another film than the command's");
    let content = format!("/v1/videos/{id}/content");
    let part = server.send("GET", &content, &[("range", "bytes=100-199")], []).expect(206);
    assert_eq!(part.body, film[100..200]);
    assert_eq!(part.content_range, format!("bytes 100-199/{}", film.len()));
    // Whoever has it already is not sent it again.
    let tag = part.header("etag").to_owned();
    for held in [&tag, &format!("\"other\", W/{tag}"), "*"] {
        server.send("GET", &content, &[("if-none-match", held)], []).expect(304);
    }
    server.send("GET", &content, &[("if-none-match", "\"other\"")], []).expect(200);
    let beyond = format!("bytes={}-", film.len());
    let none = server.send("GET", &content, &[("range", &beyond)], []);
    assert_eq!(none.content_range, format!("bytes */{}", film.len()));
    none.problem(416, "range_not_satisfiable");
    let picture = server.get(&format!("{content}?variant=thumbnail")).expect(200);
    assert!(picture.body.starts_with(b"\xff\xd8") && picture.content_type == "image/jpeg");
    let preview = format!("/v1/videos/{id}/files/preview-00000003.jpg");
    assert!(server.get(&preview).expect(200).body.starts_with(b"\xff\xd8"));
    assert!(!place.path(&format!("data/work/{id}")).exists(), "its folder is left");

    let deleted = server.send("DELETE", &format!("/v1/videos/{id}"), &[], []).expect(200).json();
    assert_eq!(deleted, json!({"id": id, "object": "video.deleted", "deleted": true}));
    server.get(&format!("/v1/videos/{id}")).problem(404, "not_found");
    server.get(&preview).problem(404, "not_found");
    assert!(!place.path(&format!("data/films/jobs/{id}")).exists(), "its files are left");
}

#[test]
fn clients_of_the_first_api_get_a_film_of_the_demo_model() {
    let place = Place::new();
    let server = Server::start_with(&place, &[]);
    assert_eq!(server.get("/models/info").expect(200).json()["model"], "demo");
    let models = server.get("/v1/models").expect(200).json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("demo")));
    assert_eq!(server.get("/v1/models/demo").expect(200).json(), models["data"][0]);
    server.get("/v1/models/sora-2").problem(404, "not_found");
    let asked = json!({
        "prompt": "a red circle moves right on a blue background", "resolution": "720p",
        "duration": 0.5, "guidance_scale": 4.0, "num_inference_steps": 2, "fps": 24, "seed": 3,
    });
    let task = server.post("/generate", &asked).expect(200).json();
    let warning = task["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("720p") && warning.contains("64x64"), "{warning}");
    let id = task["task_id"].as_str().expect("an id").to_owned();
    assert_eq!(server.events(&id, 0).last().expect("events").kind, "done");
    let status = server.get(&format!("/status/{id}")).expect(200).json();
    assert_eq!((&status["status"], &status["progress"]), (&json!("completed"), &json!(1.0)));
    let film = server.get(&format!("/download/{id}")).expect(200);
    assert_eq!(film.content_type, "video/mp4");
    let path = place.write("downloaded.mp4", &film.body);
    if let Some(film) = probe(&path) {
        assert_eq!(film, (64, 64, 13));
    }
    assert_eq!(server.get("/health").expect(200).json()["status"], "healthy");
    assert_eq!(server.get("/health/ready").expect(200).body, b"ready\n");
    assert_eq!(server.get("/health/live").expect(200).body, b"alive\n");
}
