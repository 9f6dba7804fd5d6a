//! Other prompts for a film in work.

use serde_json::{Value, json};

use crate::program::{Place, film_words};
use crate::server::{Server, asked, signal_process};

const SEGMENTS: u64 = 30;

/// The film that the command makes with a prompt from a segment on.
fn made_with_prompt_at(segment: u64, prompt: &str) -> Vec<u8> {
    let place = Place::new();
    let at = format!("{}f:{prompt}", 17 + (segment - 1) * 12);
    place.run(&film_words(SEGMENTS, &["--prompt-at", &at])).expect_code(0);
    place.read("film.mp4")
}

fn steer(server: &Server, id: &str, body: &Value) -> crate::server::Answer {
    server.post(&format!("/v1/videos/{id}/steer"), body)
}

#[test]
fn a_film_in_work_goes_on_with_another_prompt_and_is_the_film_asked_for_with_both() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&asked(SEGMENTS));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() >= Some(2));
    let video = steer(&server, &id, &json!({"prompt": "A blue square."})).expect(200).json();
    let from = video["prompts"][0]["from_segment"].as_u64().expect("a segment");
    assert!(from > 2 && from < SEGMENTS, "{video:#}");
    assert_eq!(video["prompts_revision"], 1);
    // Segments that are begun, that are not there, and nothing at all.
    let too_late = steer(&server, &id, &json!({"prompt": "x", "from_segment": 1}));
    assert!(too_late.problem(409, "segment_begun").contains("first one that can still be changed"));
    let none = steer(&server, &id, &json!({"prompt": "x", "from_segment": SEGMENTS}));
    assert!(none.problem(400, "invalid_value").contains("30 segments"));
    steer(&server, &id, &json!({"prompt": " "})).problem(400, "invalid_value");
    steer(&server, &id, &json!({"prompt": "x", "seed": 3})).problem(400, "unknown_key");
    // Killed right after: the next worker knows the prompt.
    let [worker] = server.workers()[..] else { panic!("{:?}", server.workers()) };
    signal_process(worker, "-KILL");
    assert!(server.film(&id) == made_with_prompt_at(from, "A blue square."), "another film");
    assert_eq!(server.video(&id)["attempts"], 2, "it ended before it was killed");
    steer(&server, &id, &json!({"prompt": "x"})).problem(409, "not_allowed_in_state");
}

#[test]
fn a_film_that_waits_or_is_paused_takes_another_prompt_too() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut long = asked(100_000);
    long["steps"] = json!(50);
    let busy = server.ask(&long);
    let id = server.ask(&asked(SEGMENTS));
    steer(&server, &id, &json!({"prompt": "Not this.", "from_segment": 20})).expect(200);
    steer(&server, &id, &json!({"prompt": "A blue square.", "from_segment": 20})).expect(200);
    server.post(&format!("/v1/videos/{busy}/cancel"), &json!({})).expect(200);
    assert!(server.film(&id) == made_with_prompt_at(20, "A blue square."), "another film");

    let id = server.ask(&asked(SEGMENTS));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() >= Some(2));
    server.post(&format!("/v1/videos/{id}/pause"), &json!({})).expect(200);
    let paused = server.wait(&id, "paused", |v| v["paused"] == true);
    let video = steer(&server, &id, &json!({"prompt": "A blue square."})).expect(200).json();
    let from = video["prompts"][0]["from_segment"].as_u64().expect("a segment");
    assert_eq!(Some(from), paused["segments_done"].as_u64());
    server.post(&format!("/v1/videos/{id}/resume"), &json!({})).expect(200);
    assert!(server.film(&id) == made_with_prompt_at(from, "A blue square."), "another film");
}

#[test]
fn a_prompt_changed_for_a_segment_made_while_no_server_ran_holds_from_the_next_one_on() {
    // Whether the change comes before the new server's worker has the film again is a matter of luck.
    let is_moved = (0..5).any(|_| {
        let place = Place::new();
        let server = Server::start(&place);
        let id = server.ask(&asked(SEGMENTS));
        server.wait(&id, "in work", |v| v["segments_done"].as_u64() >= Some(2));
        let worker = server.workers()[0];
        server.kill();
        // It finishes its segment.
        while std::path::Path::new(&format!("/proc/{worker}")).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let server = Server::start(&place);
        let from = |video: &Value| video["prompts"][0]["from_segment"].as_u64().expect("a segment");
        let steered = steer(&server, &id, &json!({"prompt": "A blue square."})).expect(200).json();
        let film = server.film(&id);
        let video = server.video(&id);
        assert!(film == made_with_prompt_at(from(&video), "A blue square."), "{video:#}");
        from(&video) > from(&steered)
    });
    if !is_moved {
        println!("five times the change came too late to be put off");
    }
}
