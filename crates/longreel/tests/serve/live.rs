//! Watching a film while it is made: the stream for players, its segments, pictures of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::Place;
use crate::server::{Server, asked, made_by_command};

/// A film whose making takes long enough to be watched.
fn slow(segments: u64) -> Value {
    let mut asked = asked(segments);
    asked["steps"] = json!(60);
    asked
}

/// The addresses that a playlist names, with the seconds of each, and whether it is at its end.
fn playlist(text: &str) -> (Vec<(String, f64)>, bool) {
    assert!(text.starts_with("#EXTM3U\n#EXT-X-VERSION:7\n"), "{text}");
    for part in ["#EXT-X-PLAYLIST-TYPE:EVENT\n", "#EXT-X-MAP:URI=\"stream/init.mp4\"\n"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let (mut parts, mut seconds) = (Vec::new(), None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("#EXTINF:") {
            seconds = rest.trim_end_matches(',').parse().ok();
        } else if !line.starts_with('#') {
            parts.push((line.to_owned(), seconds.take().expect("a duration before it")));
        }
    }
    (parts, text.contains("#EXT-X-ENDLIST\n"))
}

/// What a player has fetched of a film.
#[derive(Default)]
struct Player {
    fetched: BTreeMap<String, Vec<u8>>,
    listed: usize,
}

impl Player {
    /// Reads the list and fetches what is new; true at the end of the film.
    fn look(&mut self, server: &Server, id: &str) -> bool {
        let answer = server.get(&format!("/v1/videos/{id}/stream.m3u8"));
        if answer.status == 404 {
            return false;
        }
        let answer = answer.expect(200);
        assert_eq!(answer.content_type, "application/vnd.apple.mpegurl");
        assert_eq!(answer.cache_control, "private, no-cache");
        let (parts, is_over) = playlist(&String::from_utf8(answer.body).expect("text"));
        assert!(parts.len() >= self.listed, "the list has become shorter");
        self.listed = parts.len();
        for name in ["stream/init.mp4"].into_iter().chain(parts.iter().map(|p| p.0.as_str())) {
            if !self.fetched.contains_key(name) {
                self.fetch(server, id, name);
            }
        }
        is_over
    }

    /// Fetches something, for the first time or again.
    fn fetch(&mut self, server: &Server, id: &str, name: &str) {
        let answer = server.get(&format!("/v1/videos/{id}/{name}")).expect(200);
        let kind = if name.ends_with(".m4s") { "video/iso.segment" } else { "video/mp4" };
        assert_eq!(answer.content_type, kind);
        assert!(answer.cache_control.ends_with("immutable"), "{}", answer.cache_control);
        if let Some(before) = self.fetched.insert(name.to_owned(), answer.body) {
            assert!(before == self.fetched[name], "{name} has changed");
        }
    }

    /// All parts one after another.
    fn parts(&self) -> Vec<u8> {
        let part = |n: usize| &self.fetched[&format!("stream/{n}.m4s")];
        (0..self.listed).flat_map(part).copied().collect()
    }
}

/// Where the first fragment of a film begins.
fn head_bytes(film: &[u8]) -> usize {
    film.windows(4).position(|four| four == b"moof").expect("a fragment") - 4
}

/// Frames that a player of streams decodes. `None`, with a reason printed, without ffprobe.
fn played(url: &str) -> Option<u64> {
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-live_start_index", "0", "-count_frames", "-of", "json"])
        .args(["-show_entries", "stream=nb_read_frames", url])
        .output();
    let output = match probe {
        Ok(output) => output,
        Err(e) => {
            println!("skipped: ffprobe cannot be run ({e}), so {url} is not played");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{url}: {said}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    json["streams"][0]["nb_read_frames"].as_str().and_then(|frames| frames.parse().ok())
}

#[test]
fn a_film_plays_as_a_stream_from_its_first_segment_on_and_stays_the_same_when_it_is_whole() {
    const SEGMENTS: u64 = 12;
    let place = Place::new();
    let server = Server::start(&place);
    server.wait_ready();
    let started = Instant::now();
    let id = server.ask(&slow(SEGMENTS));
    let list = format!("/v1/videos/{id}/stream.m3u8");
    server.get(&list).problem(404, "no_part_yet");
    server.get(&format!("/v1/videos/{id}/stream/0.m4s")).problem(404, "not_found");
    let mut player = Player::default();
    while player.listed == 0 {
        player.look(&server, &id);
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("first part fetched {:.3} s after the request", started.elapsed().as_secs_f64());
    let url = server.url(&list);
    let live = std::thread::spawn(move || played(&url));
    let mut looks = 1;
    while !player.look(&server, &id) {
        looks += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("film of {SEGMENTS} segments whole after {:.3} s", started.elapsed().as_secs_f64());
    assert!(looks > SEGMENTS, "the film was made too fast to be watched");
    let film = server.film(&id);
    let frames = 17 + (SEGMENTS - 1) * 12;
    if let Some(live) = live.join().expect("a player") {
        assert_eq!(live, frames, "played while it was made");
        assert_eq!(played(&server.url(&list)), Some(frames), "played afterwards");
    }

    // The same in every byte before and after, and the film's own.
    let names: Vec<String> = player.fetched.keys().cloned().collect();
    assert_eq!(names.len() as u64, SEGMENTS + 1);
    names.iter().for_each(|name| player.fetch(&server, &id, name));
    let (head, parts) = (head_bytes(&film), player.parts());
    assert!(parts == film[head..head + parts.len()], "the parts are not the film's");
    assert_eq!(&film[head + parts.len() + 4..][..4], b"mfra", "something is missing at the end");
    let init = &player.fetched["stream/init.mp4"];
    let differ = (0..head).filter(|&at| init[at] != film[at]).count();
    assert!(init.len() == head && (1..=12).contains(&differ), "{differ} bytes differ");
    let text = String::from_utf8(server.get(&list).body).expect("text");
    let seconds: f64 = playlist(&text).0.iter().map(|part| part.1).sum();
    assert!((seconds - frames as f64 / 24.0).abs() < 1e-4, "{seconds}");
    assert!(text.contains("#EXT-X-TARGETDURATION:1\n"), "{text}");

    let part = format!("/v1/videos/{id}/stream/3.m4s");
    let some = server.send("GET", &part, &[("range", "bytes=8-15")], []).expect(206);
    assert_eq!(some.body, player.fetched["stream/3.m4s"][8..16]);
    for name in ["99.m4s", "03.m4s", "..%2ffilm.mp4", "film.mp4", "-1.m4s"] {
        server.get(&format!("/v1/videos/{id}/stream/{name}")).problem(404, "not_found");
    }
    // What is in the film is not kept twice.
    let kept = std::fs::read_dir(place.path(&format!("data/films/jobs/{id}"))).expect("a folder");
    let names: Vec<String> =
        kept.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|name| name.starts_with("part-")), "{names:?}");
    assert!(names.iter().any(|name| name == "init.mp4"), "{names:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn no_kill_loses_a_part_or_gives_one_twice() {
    const SEGMENTS: u64 = 40;
    let place = Place::new();
    let mut server = Server::start(&place);
    let id = server.ask(&asked(SEGMENTS));
    let mut player = Player::default();
    for (kill, parts) in [1, 4, 9, 13, 18, 23, 27, 31].into_iter().enumerate() {
        server.wait(&id, "so far", |v| v["segments_done"].as_u64() >= Some(parts));
        player.look(&server, &id);
        if kill % 2 == 0 {
            server.kill();
            server = Server::start(&place);
        } else if let [worker] = server.workers()[..] {
            crate::server::signal_process(worker, "-KILL");
        }
    }
    while !player.look(&server, &id) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let film = server.film(&id);
    assert!(film == made_by_command(SEGMENTS), "another film");
    let (head, parts) = (head_bytes(&film), player.parts());
    assert!(parts == film[head..head + parts.len()], "the parts are not the film's");
    assert_eq!(&film[head + parts.len() + 4..][..4], b"mfra", "something is missing at the end");

    let events: Vec<_> = server.events(&id, 0).collect();
    for (kind, what) in
        [("segment", "told once"), ("preview", "with a picture"), ("drift", "measured")]
    {
        let numbers: Vec<u64> = events
            .iter()
            .filter(|event| event.kind == kind)
            .filter_map(|event| event.data["segment"].as_u64())
            .collect();
        assert_eq!(numbers, (0..SEGMENTS).collect::<Vec<_>>(), "each {what}");
    }
    let segments = server.get(&format!("/v1/videos/{id}/segments")).expect(200).json();
    assert_eq!(segments["has_more"], false);
    let mut frame = 0;
    for (number, segment) in segments["data"].as_array().expect("a list").iter().enumerate() {
        let frames = if number == 0 { 17 } else { 12 };
        assert_eq!(segment["segment"], number, "{segment}");
        assert_eq!((&segment["first_frame"], &segment["frames"]), (&json!(frame), &json!(frames)));
        assert_eq!((&segment["state"], &segment["seed"]), (&json!("done"), &json!(7)));
        assert_eq!(segment["prompt"], "A red circle moves.");
        assert_eq!(segment["drift"]["segment"], number, "{segment}");
        frame += frames;
    }
    assert_eq!(frame, 17 + (SEGMENTS - 1) * 12);
}

#[test]
fn a_film_that_changes_on_its_way_or_begins_with_another_one_streams_whole() {
    let place = Place::new();
    let server = Server::start(&place);
    let parent = server.ask(&asked(20));
    server.wait(&parent, "in work", |v| v["segments_done"].as_u64() > Some(1));
    let steer = json!({"prompt": "A blue square that moves to the left, slowly."});
    server.post(&format!("/v1/videos/{parent}/steer"), &steer).expect(200);
    server.film(&parent);
    let branch = json!({"segment": 4, "prompt": "A green square."});
    let branch = server.post(&format!("/v1/videos/{parent}/branch"), &branch).expect(201).json();
    let branch = branch["id"].as_str().expect("an id").to_owned();
    for id in [&parent, &branch] {
        let mut player = Player::default();
        while !player.look(&server, id) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // The head was written anew when the film was closed, and the parts have moved in the file.
        let film = server.film(id);
        let (head, parts) = (head_bytes(&film), player.parts());
        assert_eq!(player.listed, 20);
        assert!(parts == film[head..head + parts.len()], "the parts are not the film's");
        assert_eq!(
            &film[head + parts.len() + 4..][..4],
            b"mfra",
            "something is missing at the end"
        );
        let names: Vec<String> = player.fetched.keys().cloned().collect();
        names.iter().for_each(|name| player.fetch(&server, id, name));
        if let Some(frames) = played(&server.url(&format!("/v1/videos/{id}/stream.m3u8"))) {
            assert_eq!(frames, 17 + 19 * 12);
        }
        let segments = server.get(&format!("/v1/videos/{id}/segments")).expect(200).json();
        let prompts: Vec<_> = segments["data"].as_array().expect("a list").iter().collect();
        assert_eq!(prompts[0]["prompt"], "A red circle moves.");
        let last =
            if id == &branch { "A green square." } else { steer["prompt"].as_str().unwrap() };
        assert_eq!(prompts[19]["prompt"], last);
        assert!(prompts.iter().all(|segment| segment["thumbnail"].is_string()), "{segments:#}");
        assert!(prompts.iter().all(|segment| segment["can_branch"] == true), "{segments:#}");
    }
}

#[test]
fn a_film_that_is_called_off_plays_as_far_as_it_is_made() {
    let place = Place::new();
    let server = Server::start(&place);
    let id = server.ask(&slow(5_000));
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(1));
    let list = format!("/v1/videos/{id}/stream.m3u8");
    let text = String::from_utf8(server.get(&list).expect(200).body).expect("text");
    assert!(!playlist(&text).1, "at its end while it is made: {text}");
    let content = format!("/v1/videos/{id}/content");
    server.get(&content).problem(409, "not_completed");
    server.post(&format!("/v1/videos/{id}/cancel"), &json!({})).expect(200);
    let video = server.wait(&id, "cancelled", |v| v["state"] == "cancelled");
    let text = String::from_utf8(server.get(&list).expect(200).body).expect("text");
    let (parts, is_over) = playlist(&text);
    assert!(is_over, "{text}");
    assert_eq!(Some(parts.len() as u64), video["segments_done"].as_u64());
    if let Some(frames) = played(&server.url(&list)) {
        assert_eq!(Some(frames), video["frames_done"].as_u64());
    }
    // The same as a file, whole and in ranges that go over its parts.
    let film = server.get(&content).expect(200);
    assert_eq!(film.content_type, "video/mp4");
    let stream =
        |name: &str| server.get(&format!("/v1/videos/{id}/stream/{name}")).expect(200).body;
    let names: Vec<_> = (0..parts.len()).map(|n| format!("{n}.m4s")).collect();
    let all: Vec<_> = std::iter::once("init.mp4").chain(names.iter().map(String::as_str)).collect();
    assert!(film.body == all.into_iter().flat_map(stream).collect::<Vec<_>>(), "another film");
    let half = film.body.len() / 2;
    let range = [("range", format!("bytes={half}-"))];
    let range: Vec<_> = range.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let rest = server.send("GET", &content, &range, []).expect(206);
    assert!(rest.body == film.body[half..], "another half");
    if let Some(frames) = played(&server.url(&content)) {
        assert_eq!(Some(frames), video["frames_done"].as_u64());
    }
    server.get(&format!("{content}?variant=thumbnail")).problem(409, "not_completed");
    let segments = server.get(&format!("/v1/videos/{id}/segments")).expect(200).json();
    assert_eq!(segments["data"].as_array().map(Vec::len), Some(parts.len()), "{segments}");
    server.send("DELETE", &format!("/v1/videos/{id}"), &[], []).expect(200);
    server.get(&list).problem(404, "not_found");
    assert!(!place.path(&format!("data/films/jobs/{id}")).exists(), "its files are left");

    let waiting = server.ask(&slow(5_000));
    server.wait(&waiting, "in work", |v| v["state"] == "running");
    let never = server.ask(&slow(2));
    server.post(&format!("/v1/videos/{never}/cancel"), &json!({})).expect(200);
    server.get(&format!("/v1/videos/{never}/stream.m3u8")).problem(404, "not_found");
    server.get(&format!("/v1/videos/{never}/content")).problem(409, "not_completed");
}

#[test]
fn segments_are_shown_from_the_plan_until_they_are_made() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = slow(300);
    body["prompt_at"] = json!(["89f: A cat sleeps."]);
    body["num_frames"] = json!(17 + 299 * 12 - 4);
    let id = server.ask(&body);
    let segments =
        |query: &str| server.get(&format!("/v1/videos/{id}/segments{query}")).expect(200).json();
    server.wait(&id, "in work", |v| v["segments_done"].as_u64() > Some(0));
    server.post(&format!("/v1/videos/{id}/pause"), &json!({})).expect(200);
    let video = server.wait(&id, "paused", |v| v["paused"] == true);
    let done = video["segments_done"].as_u64().expect("a number");
    assert!(done < 100, "it was not stopped in time: {video:#}");

    let page = segments("");
    let shown = page["data"].as_array().expect("a list");
    assert_eq!((&page["has_more"], shown.len()), (&json!(true), 100));
    for (number, segment) in (0u64..).zip(shown) {
        let first = if number == 0 { 0 } else { 5 + 12 * number };
        assert_eq!((&segment["segment"], &segment["first_frame"]), (&json!(number), &json!(first)));
        let state = if number < done { "done" } else { "waiting" };
        assert_eq!(segment["state"], state, "{segment}");
        let prompt = if first < 89 { "A red circle moves." } else { "A cat sleeps." };
        assert_eq!(segment["prompt"], prompt, "{segment}");
        assert_eq!(segment["drift"].is_object(), number < done, "{segment}");
        assert_eq!(segment["thumbnail"].is_string(), number < done, "{segment}");
        if let Some(thumbnail) = segment["thumbnail"].as_str() {
            let picture = server.get(thumbnail).expect(200);
            assert!(picture.content_type == "image/jpeg" && picture.body.starts_with(b"\xff\xd8"));
        }
    }
    let rest = segments("?after=199&limit=500");
    let shown = rest["data"].as_array().expect("a list");
    assert_eq!((&rest["has_more"], shown.len()), (&json!(false), 100));
    assert_eq!(shown[0]["first_frame"], 5 + 12 * 200, "{}", shown[0]);
    assert_eq!((&shown[99]["frames"], &shown[99]["segment"]), (&json!(8), &json!(299)));
    assert_eq!(segments("?after=4000000000")["data"], json!([]));
    server.get(&format!("/v1/videos/{id}/segments?limit=0")).problem(400, "invalid_value");
    server.get(&format!("/v1/videos/{id}/segments?after=4294967295")).problem(400, "invalid_value");
    server.get(&format!("/v1/videos/{id}/segments?after=x")).problem(400, "invalid_value");
}

#[test]
fn pictures_of_a_film_come_before_and_after_its_segments() {
    let place = Place::new();
    let server = Server::start(&place);
    let mut body = asked(2);
    // Steps of a tenth of a second, so that the first segment takes a minute.
    body["steps"] = json!(900);
    body["size"] = json!("384x256");
    let id = server.ask(&body);
    let started = Instant::now();
    let preview = server.events(&id, 0).find(|event| event.kind == "preview").expect("a picture");
    println!("first picture of the work after {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(preview.data, json!({"segment": 0, "artifact": "preview-00000000.jpg"}));
    assert_eq!(server.video(&id)["segments_done"], 0, "it is of a finished segment");
    let picture = format!("/v1/videos/{id}/files/preview-00000000.jpg");
    let answer = server.get(&picture).expect(200);
    assert!(answer.body.starts_with(b"\xff\xd8") && answer.content_type == "image/jpeg");
    assert_eq!(answer.cache_control, "private, no-cache", "another one takes its place");
    server.post(&format!("/v1/videos/{id}/cancel"), &json!({})).expect(200);

    let id = server.ask(&asked(3));
    server.film(&id);
    for variant in ["thumbnail", "spritesheet"] {
        let answer = server.get(&format!("/v1/videos/{id}/content?variant={variant}")).expect(200);
        assert_eq!(answer.content_type, "image/jpeg", "{variant}");
        let path = place.write(&format!("{variant}.jpg"), &answer.body);
        let Some((width, height, _)) = crate::program::probe(&path) else { continue };
        // 41 frames in rows of 8, four pixels around each.
        let size = if variant == "thumbnail" { (48, 32) } else { (4 + 8 * 52, 4 + 6 * 36) };
        assert_eq!((width, height), size, "{variant}");
    }
    server.get(&format!("/v1/videos/{id}/content?variant=x")).problem(400, "invalid_value");
}

#[test]
fn a_list_is_filtered_by_state_and_text() {
    let place = Place::new();
    let server = Server::start(&place);
    let running = server.ask(&slow(5_000));
    server.wait(&running, "in work", |v| v["state"] == "running");
    let ask = |prompt: &str| {
        let mut body = asked(1);
        body["prompt"] = json!(prompt);
        server.ask(&body)
    };
    let (cat, dog, percent) = (ask("A 猫 sleeps"), ask("A dog runs"), ask("100% of a dog"));
    server.post(&format!("/v1/videos/{dog}/cancel"), &json!({})).expect(200);
    let ids = |query: &str| -> Vec<String> {
        let page = server.get(&format!("/v1/videos?order=asc&{query}")).expect(200).json();
        let videos = page["data"].as_array().expect("a list");
        videos.iter().map(|v| v["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids("state=queued"), [cat.as_str(), &percent]);
    assert_eq!(ids("state=cancelled,running"), [running.as_str(), &dog]);
    assert_eq!(ids("text=DOG"), [dog.as_str(), &percent]);
    assert_eq!(ids("text=DOG&state=queued"), [percent.as_str()]);
    assert_eq!(ids("text=%25"), [percent.as_str()], "a percent sign is a percent sign");
    assert_eq!(ids("text=%E7%8C%AB"), [cat.as_str()]);
    assert_eq!(ids("state=&text="), [running.as_str(), &cat, &dog, &percent]);
    let detail = server.get("/v1/videos?state=done").problem(400, "invalid_value");
    assert!(detail.contains("\"done\"") && detail.contains("completed"), "{detail}");
}
