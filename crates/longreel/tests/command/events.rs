//! `--json` for programs, plain lines for logs.

use crate::program::{Place, Ran, film_words};

#[test]
fn events_come_in_the_order_of_the_work() {
    let place = Place::new();
    let ran = place.run(&film_words(3, &["--json", "--previews"])).expect_code(0);
    let events = ran.events();
    let kind = |i: usize| events[i]["event"].as_str().expect("a kind").to_string();
    assert_eq!((kind(0), kind(1)), ("film".into(), "plan".into()));
    assert_eq!(events[1]["segments"], 3);
    assert_eq!(kind(events.len() - 1), "done");
    let (mut segment, mut step, mut frames) = (None, 0, 0);
    for event in &events[2..events.len() - 1] {
        match event["event"].as_str().expect("a kind") {
            "stage" | "warning" => {}
            "segment" => {
                let next = segment.map_or(0, |s: u64| s + 1);
                assert_eq!(event["segment"], next);
                assert_eq!(event["segments"], 3);
                (segment, step) = (Some(next), 0);
            }
            "step" => {
                step += 1;
                assert_eq!((&event["segment"], &event["step"]), (&segment.into(), &step.into()));
                assert!(event["step"].as_u64() <= event["steps"].as_u64());
                assert!(event["left_seconds"].as_f64().is_some_and(|left| left >= 0.0));
            }
            "part" => {
                assert_eq!(event["segment"], segment.expect("a segment began"));
                let now = event["frames"].as_u64().expect("frames");
                assert!(now > frames, "{now} frames after {frames}");
                frames = now;
                assert!(event["preview"].as_str().is_some_and(|p| p.ends_with(".jpg")));
            }
            "drift" => assert_eq!(event["segment"], segment.expect("a segment began")),
            other => panic!("an event {other}"),
        }
    }
    let done = events.last().expect("events");
    assert_eq!(done["frames"], frames);
    assert_eq!((frames, &done["stopped"]), (41, &false.into()));
    assert!(ran.stderr.contains("film.mp4: 41 frames"), "text for people: {}", ran.stderr);
}

/// As NCCL does with `NCCL_DEBUG`, from threads of its own.
const CHATTY: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *chat(void *unused) {
    for (;;) {
        printf("NCCL INFO chats");
        fflush(stdout);
        usleep(500);
    }
    return unused;
}
__attribute__((constructor)) static void begin(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, chat, NULL);
}
"#;

#[cfg(target_os = "linux")]
#[test]
fn what_libraries_print_does_not_come_between_events() {
    let place = Place::new();
    let (source, library) = (place.write("chatty.c", CHATTY), place.path("chatty.so"));
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-pthread", "-o"])
        .args([&library, &source])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return println!("skipped: there is no C compiler (cc)");
    }
    let ran = place
        .command(&film_words(2, &["--json"]))
        .env("LD_PRELOAD", &library)
        .output()
        .expect("the program starts");
    let ran = Ran::of(ran).expect_code(0);
    // What came before the program itself began.
    let begun = ran.stdout.find('{').expect("events");
    let events = ran.stdout[begun..].lines().map(serde_json::from_str::<serde_json::Value>);
    let events = events.collect::<Result<Vec<_>, _>>().expect("a line for each event");
    assert_eq!(events.last().expect("events")["event"], "done");
    assert!(ran.stderr.contains("NCCL INFO chats"), "{}", ran.stderr);
}

#[test]
fn a_log_gets_few_plain_lines_and_no_escape_codes() {
    let place = Place::new();
    let mut words = film_words(2, &[]);
    let steps = words.iter().position(|w| w == "--steps").expect("steps") + 1;
    words[steps] = "40".into();
    let ran = place.run(&words).expect_code(0);
    assert!(!ran.stderr.contains('\x1b') && !ran.stderr.contains('\r'), "{:?}", ran.stderr);
    let lines = |part: &str| ran.stderr.lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines(": step "), 20, "ten for each segment: {}", ran.stderr);
    assert_eq!(lines(": done, "), 2, "{}", ran.stderr);
    assert_eq!(lines("segment 2/2: A red circle moves."), 1, "{}", ran.stderr);
}

#[test]
fn quiet_says_nothing_when_nothing_is_wrong() {
    let ran = Place::new().run(&film_words(1, &["-q"])).expect_code(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
}
