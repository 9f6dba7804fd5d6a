//! Films that go on from another one.

use longreel_media::{Frame, ImageLimits, load_image};
use serde_json::{Value, json};

use crate::program::{Place, film_words};
use crate::server::{Answer, Server, asked, made_by_command};

fn post(server: &Server, id: &str, what: &str, body: &Value) -> Answer {
    server.post(&format!("/v1/videos/{id}/{what}"), body)
}

fn id_of(answer: &Value) -> String {
    answer["id"].as_str().expect("an id").to_owned()
}

/// What the command makes of the film with more words.
fn made_with(segments: u64, more: &[&str]) -> Vec<u8> {
    let place = Place::new();
    place.run(&film_words(segments, more)).expect_code(0);
    place.read("film.mp4")
}

#[test]
fn a_branch_and_an_extension_are_the_films_made_in_one_go() {
    let place = Place::new();
    let server = Server::start(&place);
    let parent = server.ask(&asked(4));
    let original = server.film(&parent);

    // The same prompt and seed: the same film.
    let again = post(&server, &parent, "branch", &json!({"segment": 2})).expect(201).json();
    assert_eq!(
        again["parent"],
        json!({"job": parent, "relation": "branch", "segment": 2}),
        "{again:#}"
    );
    assert!(server.film(&id_of(&again)) == original, "the same again");
    // Only what is new was made.
    let made: Vec<_> = server
        .events(&id_of(&again), 0)
        .filter(|event| event.kind == "progress")
        .map(|event| event.data["segment"].as_u64().expect("a segment"))
        .collect();
    assert!(made.iter().all(|segment| *segment >= 2), "{made:?}");
    let segments: Vec<_> = server
        .events(&id_of(&again), 0)
        .filter(|event| event.kind == "segment")
        .map(|event| (event.data["segment"].as_u64(), event.data["frames"].as_u64()))
        .collect();
    assert_eq!(segments, [(0, 17), (1, 29), (2, 41), (3, 53)].map(|(s, f)| (Some(s), Some(f))));
    let preview = format!("/v1/videos/{}/files/preview-00000000.jpg", id_of(&again));
    server.get(&preview).expect(200);

    let body = json!({"segment": 2, "prompt": "A blue square.", "seed": 9});
    let other = id_of(&post(&server, &parent, "branch", &body).expect(201).json());
    let expected = made_with(4, &["--prompt-at", "29f@9:A blue square."]);
    assert!(server.film(&other) == expected, "another prompt and seed");

    // Branched once more, from a segment that it shares with its parent, and longer.
    let body = json!({"segment": 1, "num_frames": 77});
    let third = id_of(&post(&server, &other, "branch", &body).expect(201).json());
    let expected = made_with(6, &["--prompt-at", "29f@9:A blue square."]);
    assert!(server.film(&third) == expected, "a branch of a branch");

    let body = json!({"num_frames": 24});
    let longer = post(&server, &parent, "extend", &body).expect(201).json();
    assert_eq!((&longer["num_frames"], &longer["warnings"]), (&json!(77), &json!([])));
    let longer = id_of(&longer);
    assert!(server.film(&longer) == made_by_command(6), "extended");
    let body = json!({"seconds": 1, "prompt": "A blue square."});
    let longest = id_of(&post(&server, &longer, "extend", &body).expect(201).json());
    let prompt_at = ["--prompt-at", "77f:A blue square.", "--num-frames", "101"];
    let mut words = film_words(6, &prompt_at);
    let at = words.iter().position(|word| word == "--num-frames").expect("a length");
    words.drain(at..at + 2);
    let made = Place::new();
    made.run(&words).expect_code(0);
    assert!(server.film(&longest) == made.read("film.mp4"), "extended with another prompt");

    // Its last segment is cut short, and made anew.
    let last = post(&server, &longest, "extend", &json!({"num_frames": 4})).expect(201).json();
    let warning = last["warnings"][0].as_str();
    assert_eq!(last["num_frames"], 105);
    assert!(warning.is_none(), "97 + 4 is a whole segment: {warning:?}");
    let uneven = post(&server, &parent, "branch", &json!({"segment": 3, "num_frames": 45}));
    let uneven = id_of(&uneven.expect(201).json());
    server.film(&uneven);
    let last = post(&server, &uneven, "extend", &json!({"num_frames": 20})).expect(201).json();
    let warning = last["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("last 4 frames"), "{warning}");
    assert!(server.film(&id_of(&last)) == made_by_command(5), "extended from an uneven length");
}

/// Its contact sheet and its thumbnail, decoded.
fn pictures(place: &Place, server: &Server, id: &str) -> [Frame; 2] {
    server.film(id);
    ["spritesheet", "thumbnail"].map(|variant| {
        let answer = server.get(&format!("/v1/videos/{id}/content?variant={variant}")).expect(200);
        let path = place.write(&format!("{variant}-{id}.jpg"), &answer.body);
        load_image(&path, &ImageLimits::default()).expect("a picture").frame
    })
}

/// The frames on a sheet of frames of 48 x 32, four pixels around each.
fn tiles(sheet: &Frame) -> Vec<Vec<u8>> {
    let [columns, rows] = [(sheet.width() - 4) / 52, (sheet.height() - 4) / 36];
    let tile = |index: u32| {
        let (left, top) = (4 + index % columns * 52, 4 + index / columns * 36);
        let pixels = (0..48 * 32).map(|at| sheet.pixel(left + at % 48, top + at / 48));
        pixels.flat_map(|pixel| pixel.expect("on the sheet")).collect()
    };
    (0..columns * rows).map(tile).collect()
}

/// Each frame of `made` is most like the one in the same place of `whole`. What was taken over comes from
/// the film, which is not without loss.
#[track_caller]
fn expect_alike(made: &Frame, whole: &Frame) {
    assert_eq!((made.width(), made.height()), (whole.width(), whole.height()));
    let (made, whole) = (tiles(made), tiles(whole));
    let apart = |left: &[u8], right: &[u8]| -> u64 {
        left.iter().zip(right).map(|(l, r)| u64::from(l.abs_diff(*r))).sum()
    };
    for (index, tile) in made.iter().enumerate() {
        let nearest = (0..whole.len()).min_by_key(|&other| apart(tile, &whole[other]));
        assert!(
            nearest == Some(index) || whole[index] == whole[nearest.expect("a frame")],
            "frame {index} is most like frame {nearest:?}"
        );
    }
}

#[test]
fn the_pictures_of_a_film_that_goes_on_from_another_are_of_the_whole_of_it() {
    let place = Place::new();
    let server = Server::start(&place);
    let one_go = |segments: u64, finish: &Value| {
        let mut body = asked(segments);
        body.as_object_mut().expect("one").extend(finish.as_object().expect("one").clone());
        server.ask(&body)
    };
    // Of the longer film every second frame is shown, of the shorter one each; with frames between those
    // of the model and in another size, the sheet is of the model's.
    for finish in [json!({}), json!({"interpolate": 2, "upscale": "96x64"})] {
        let whole = pictures(&place, &server, &one_go(6, &finish));
        let parent = one_go(4, &finish);
        server.film(&parent);
        let longer =
            post(&server, &parent, "extend", &json!({"num_frames": 24})).expect(201).json();
        let branch = json!({"segment": 2, "num_frames": 77});
        let branch = post(&server, &parent, "branch", &branch).expect(201).json();
        for id in [longer, branch].map(|answer| id_of(&answer)) {
            let made = pictures(&place, &server, &id);
            expect_alike(&made[0], &whole[0]);
            assert!(made[1] == whole[1], "another thumbnail");
        }
    }
    // Of a film in work there is no sheet yet.
    let mut body = asked(60);
    body["num_frames"] = json!(17 + 99_999 * 12);
    let parent = server.ask(&body);
    server.wait(&parent, "in work", |v| v["segments_done"].as_u64() >= Some(3));
    let body = json!({"segment": 2, "num_frames": 53});
    let branch = id_of(&post(&server, &parent, "branch", &body).expect(201).json());
    post(&server, &parent, "cancel", &json!({})).expect(200);
    let made = pictures(&place, &server, &branch);
    let whole = pictures(&place, &server, &server.ask(&asked(4)));
    expect_alike(&made[0], &whole[0]);
    assert!(made[1] == whole[1], "another thumbnail");
}

#[test]
fn a_film_in_work_is_branched_and_may_go_then() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(60);
    body["num_frames"] = json!(17 + 99_999 * 12);
    let parent = server.ask(&body);
    server.wait(&parent, "in work", |v| v["segments_done"].as_u64() >= Some(3));
    let too_far = post(&server, &parent, "branch", &json!({"segment": 99_000}));
    too_far.problem(409, "segment_not_made");
    // The checkpoint is stored a moment after the segment is told.
    let body = json!({"segment": 2, "num_frames": 65, "prompt": "A blue square."});
    let branch = id_of(&post(&server, &parent, "branch", &body).expect(201).json());
    post(&server, &parent, "extend", &json!({})).problem(409, "not_completed");
    // It is needed until the branch is made.
    post(&server, &parent, "cancel", &json!({})).expect(200);
    let expected = made_with(5, &["--prompt-at", "29f:A blue square."]);
    assert!(server.film(&branch) == expected, "another film");
    server.wait(&parent, "cancelled", |v| v["state"] == "cancelled");
    let gone = post(&server, &parent, "branch", &json!({"segment": 2}));
    gone.problem(409, "film_gone");
    server.send("DELETE", &format!("/v1/videos/{parent}"), &[], []).expect(200);
}

#[test]
fn a_parent_stays_while_it_is_needed_and_what_cannot_be_is_refused() {
    let place = Place::new();
    let server = Server::start(&place);
    let parent = server.ask(&asked(3));
    server.film(&parent);
    let mut long = asked(100_000);
    long["steps"] = json!(50);
    let busy = server.ask(&long);
    server.wait(&busy, "in work", |v| v["state"] == "running");
    let branch =
        id_of(&post(&server, &parent, "branch", &json!({"segment": 1})).expect(201).json());
    let delete = || server.send("DELETE", &format!("/v1/videos/{parent}"), &[], []);
    delete().problem(409, "needed_by_another");
    // What is taken over cannot be steered.
    let steer = post(&server, &branch, "steer", &json!({"prompt": "x", "from_segment": 0}));
    steer.problem(409, "segment_begun");
    let steered = post(&server, &branch, "steer", &json!({"prompt": "A blue square."}));
    assert_eq!(steered.expect(200).json()["prompts"][0]["from_segment"], 1);
    for (what, body, code) in [
        ("branch", json!({}), "invalid_value"),
        ("branch", json!({"segment": 3}), "invalid_value"),
        ("branch", json!({"segment": -1}), "invalid_value"),
        ("branch", json!({"segment": 1, "steps": 9}), "unknown_key"),
        ("branch", json!({"segment": 1, "num_frames": 30}), "invalid_value"),
        ("branch", json!({"segment": 1, "prompt": " "}), "invalid_value"),
        ("extend", json!({"num_frames": 3}), "invalid_value"),
        ("extend", json!({"seconds": 1, "num_frames": 4}), "invalid_value"),
        ("remix", json!({}), "invalid_value"),
        ("remix", json!({"prompt": "a", "steeps": 3}), "unknown_key"),
    ] {
        post(&server, &parent, what, &body).problem(400, code);
    }
    post(&server, "no-such-video", "branch", &json!({"segment": 1})).problem(404, "not_found");
    let mut body = asked(1);
    body["num_frames"] = json!(9);
    let short = server.ask(&body);
    post(&server, &busy, "cancel", &json!({})).expect(200);
    server.film(&short);
    let nothing = post(&server, &short, "extend", &json!({"num_frames": 20}));
    nothing.problem(409, "nothing_to_keep");
    let expected = made_with(3, &["--prompt-at", "17f:A blue square."]);
    assert!(server.film(&branch) == expected, "a branch that was steered");
    delete().expect(200);
}

#[test]
fn a_remix_keeps_everything_but_the_prompt() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(2);
    body["prompt_at"] = json!(["20f: A green star."]);
    let parent = server.ask(&body);
    let body = json!({"prompt": "A blue square."});
    let remix = post(&server, &parent, "remix", &body).expect(201).json();
    assert_eq!(remix["remixed_from_video_id"], json!(parent));
    assert_eq!((&remix["seed"], &remix["num_frames"]), (&json!(7), &json!(29)));
    let mut asked = asked(2);
    asked["prompt"] = json!("A blue square.");
    let asked = server.ask(&asked);
    assert!(server.film(&id_of(&remix)) == server.film(&asked), "another film");
    let body = json!({"prompt": "A blue square.", "seconds": 2, "seed": 3, "steps": 2});
    let other = post(&server, &parent, "remix", &body).expect(201).json();
    assert_eq!((&other["seed"], &other["steps"]), (&json!(3), &json!(2)));
    assert_eq!(other["num_frames"], json!(49));
}

#[test]
fn a_plan_says_what_a_film_takes_and_queues_nothing() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(4);
    body.as_object_mut().expect("an object").remove("prompt");
    let plan = server.post("/v1/plan", &body).expect(200).json();
    assert_eq!((&plan["segments"], &plan["frames"]), (&json!(4), &json!(53)));
    assert_eq!(plan["first_frames"], json!([0, 17, 29, 41]));
    for key in ["tokens", "memory_bytes", "disk_bytes", "expected_seconds"] {
        assert!(plan[key].as_f64() > Some(0.0), "{key}: {plan:#}");
    }
    assert!(plan["savings"][0]["key"].is_string(), "{plan:#}");
    // What the server was started with is not for requests to change.
    let savings = plan["savings"].as_array().expect("a list");
    assert!(savings.iter().all(|saving| saving["key"] != "dtype"), "{plan:#}");
    body["num_frames"] = json!(52);
    server.post("/v1/plan", &body).problem(400, "invalid_value");
    assert_eq!(server.get("/v1/videos").expect(200).json()["data"], json!([]), "a job was made");
}
