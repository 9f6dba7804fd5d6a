//! Ctrl-C: once ends after the segment, twice at once; resume works after either.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command};

use crate::program::{Place, film_words, probe};

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Reads events until `wanted` of `kind` have come.
fn wait_for(lines: &mut impl Iterator<Item = String>, kind: &str, wanted: usize) {
    let tag = format!("\"event\":\"{kind}\"");
    let seen = lines.by_ref().filter(|line| line.contains(&tag)).take(wanted).count();
    assert_eq!(seen, wanted, "the program ended before");
}

/// Starts a film, sends Ctrl-C `times` once two parts are there, and gives exit code, the events
/// after that, and stderr.
fn stopped(place: &Place, words: &[String], times: usize) -> (Option<i32>, Vec<String>, String) {
    let mut child = place.start(words);
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut stderr = child.stderr.take().expect("a pipe");
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("text");
        text
    });
    let mut lines = stdout.lines().map(|line| line.expect("text"));
    wait_for(&mut lines, "part", 2);
    for _ in 0..times {
        interrupt(&child);
        // Two signals at one instant are one to the system.
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
    let rest: Vec<String> = lines.collect();
    let code = child.wait().expect("a child").code();
    (code, rest, errors.join().expect("text"))
}

#[test]
fn an_endless_film_is_complete_after_ctrl_c() {
    let place = Place::new();
    let mut words: Vec<String> = film_words(1, &["--endless", "--json"]);
    let frames = words.iter().position(|w| w == "--num-frames").expect("a length");
    words.drain(frames..frames + 2);
    let (code, rest, stderr) = stopped(&place, &words, 1);
    assert_eq!(code, Some(0), "{stderr}");
    let done: serde_json::Value =
        serde_json::from_str(rest.last().expect("an event")).expect("JSON");
    assert_eq!((&done["event"], &done["stopped"]), (&"done".into(), &false.into()), "{stderr}");
    let frames = done["frames"].as_u64().expect("frames");
    assert!(frames >= 29, "{frames}");
    assert!(!place.path("film.mp4.longreel").exists(), "the run's folder is left");
    if let Some((_, _, played)) = probe(&place.path("film.mp4")) {
        assert_eq!(played, frames);
    }
    let said = place.run(&["inspect", "film.mp4"]).expect_code(0).stdout;
    assert!(said.trim_end().ends_with(&format!("--num-frames {frames}")), "{said}");
}

#[test]
fn an_endless_film_of_more_frames_than_the_model_made_is_made_again_as_long() {
    let place = Place::new();
    place.run(&film_words(2, &[])).expect_code(0);
    // 29 frames of the video, 5 of which are history; one more frame between every two.
    for output in ["longer.mp4", "longer.gif", "longer"] {
        let mut words =
            film_words(1, &["--endless", "--json", "--interpolate", "2", "--video", "film.mp4"]);
        let frames = words.iter().position(|w| w == "--num-frames").expect("a length");
        words.drain(frames..frames + 2);
        let film = words.iter().position(|w| w == "-o").expect("an output") + 1;
        words[film] = output.to_string();
        let (code, rest, stderr) = stopped(&place, &words, 1);
        assert_eq!(code, Some(0), "{stderr}");
        let done: serde_json::Value =
            serde_json::from_str(rest.last().expect("an event")).expect("JSON");
        let written = done["frames"].as_u64().expect("frames");
        let made = written.div_ceil(2) - 29 + 5;
        let said = place.run(&["inspect", output]).expect_code(0).stdout;
        let said = said.trim_end();
        assert!(said.ends_with(&format!("--num-frames {made}")), "{written} frames: {said}");
        assert_eq!(made % 4, 1, "{said}");
    }
}

/// Enough segments that the signal comes before the last.
const SEGMENTS: u64 = 40;

fn whole() -> Vec<u8> {
    let place = Place::new();
    place.run(&film_words(SEGMENTS, &["--json"])).expect_code(0);
    place.read("film.mp4")
}

#[test]
fn ctrl_c_once_closes_the_film_at_a_segments_end_and_resume_completes_it() {
    let place = Place::new();
    let (code, rest, stderr) = stopped(&place, &film_words(SEGMENTS, &["--json"]), 1);
    assert_eq!(code, Some(0), "{stderr}");
    let done: serde_json::Value =
        serde_json::from_str(rest.last().expect("an event")).expect("JSON");
    assert_eq!((&done["event"], &done["stopped"]), (&"done".into(), &true.into()), "{stderr}");
    for part in ["after this segment", "longreel resume film.mp4"] {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    if let Some((_, _, played)) = probe(&place.path("film.mp4")) {
        assert_eq!(Some(played), done["frames"].as_u64());
    }
    place.run(&["resume", "film.mp4"]).expect_code(0);
    assert!(place.read("film.mp4") == whole(), "another film");
}

#[test]
fn ctrl_c_twice_ends_at_once_with_130_and_resume_completes_the_film() {
    let place = Place::new();
    let (code, _, stderr) = stopped(&place, &film_words(SEGMENTS, &["--json"]), 2);
    // The first may have ended the run before the second came.
    assert!(code == Some(130) || code == Some(0), "{code:?} {stderr}");
    assert!(stderr.contains("longreel resume film.mp4"), "{stderr}");
    place.run(&["resume", "film.mp4"]).expect_code(0);
    assert!(place.read("film.mp4") == whole(), "another film");
}

#[test]
fn a_webm_that_is_stopped_plays_unless_that_was_at_once_and_resume_completes_it() {
    if longreel_media::ffmpeg_path(None).is_none() {
        println!("skipped: there is no ffmpeg");
        return;
    }
    // Each is a run of ffmpeg.
    const PARTS: u64 = 12;
    let words = |segments: u64| -> Vec<String> {
        let words = film_words(segments, &["--json"]).into_iter();
        words.map(|word| if word == "film.mp4" { "film.webm".into() } else { word }).collect()
    };
    for times in [1, 2] {
        let place = Place::new();
        // One of before is no part of this film.
        place.write("film.webm", "an older film");
        let (_, rest, stderr) = stopped(&place, &words(PARTS), times);
        let done: serde_json::Value =
            serde_json::from_str(rest.last().expect("an event")).expect("JSON");
        assert_eq!(done["stopped"], true, "{stderr}");
        if stderr.contains("playable as it is") {
            let played = probe(&place.path("film.webm")).map(|(_, _, frames)| frames);
            assert!(played.is_none() || played == done["frames"].as_u64(), "{played:?} {done}");
        } else {
            assert!(times == 2 && stderr.contains("not joined yet"), "{stderr}");
        }
        place.run(&["resume", "film.webm"]).expect_code(0);
        if let Some((_, _, played)) = probe(&place.path("film.webm")) {
            assert_eq!(played, 17 + (PARTS - 1) * 12);
        }
        assert_eq!(place.names().into_iter().collect::<Vec<_>>(), ["film.drift.json", "film.webm"]);
    }
}
