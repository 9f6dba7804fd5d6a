//! Films that are made, and what is beside them.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::program::{Place, copy_folder, film_words, fixtures, model, probe, tensor};

#[test]
fn a_film_plays_and_says_what_it_is() {
    let place = Place::new();
    let words = film_words(2, &["--contact-sheet", "sheet.png", "--dump-frames", "frames.st"]);
    let ran = place.run(&words).expect_code(0);
    for part in ["film.mp4: 29 frames", "seed 7", "drift of segment 2", "inspect film.mp4"] {
        assert!(ran.stdout.contains(part), "no {part:?} in {}", ran.stdout);
    }
    if let Some(film) = probe(&place.path("film.mp4")) {
        assert_eq!(film, (48, 32, 29));
    }
    let (shape, frames) = tensor(&place.read("frames.st"), "frames");
    assert_eq!(shape, [29, 32, 48, 3]);
    assert!(frames.iter().all(|v| (0.0..=1.0).contains(v)));
    assert!(place.read("sheet.png").starts_with(b"\x89PNG"));
    let drift: serde_json::Value =
        serde_json::from_slice(&place.read("film.drift.json")).expect("JSON");
    assert_eq!(drift["segments"].as_array().map(Vec::len), Some(2));
    let expected = ["film.drift.json", "film.mp4", "frames.st", "sheet.png"];
    assert_eq!(place.names().into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn the_same_seed_gives_the_same_film_with_one_thread_and_with_two() {
    let made = |threads: &str, seed: &str| {
        let place = Place::new();
        let more = ["--threads", threads, "--dump-latents", "latents.st", "--seed", seed];
        // The seed stands in the words already.
        let words: Vec<String> =
            film_words(2, &[]).into_iter().filter(|w| w != "--seed" && w != "7").collect();
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more).collect();
        place.run(&words).expect_code(0);
        (place.read("film.mp4"), place.read("latents.st"))
    };
    let one = made("1", "7");
    assert!(one == made("1", "7"), "two runs differ");
    assert!(one == made("2", "7"), "the number of threads shows");
    assert!(one.1 != made("2", "8").1, "the seed does not count");
}

#[test]
fn many_seeds_and_prompts_give_numbered_films_equal_to_single_ones() {
    let place = Place::new();
    place.write("prompts.txt", "a dog\na cat\n");
    let common = ["--model", &model(), "--size", "48x32", "--num-frames", "9", "--steps", "2"];
    let with = |more: &[&str]| {
        let words: Vec<&str> =
            ["generate"].into_iter().chain(common).chain(more.to_vec()).collect();
        place.run(&words).expect_code(0)
    };
    with(&[
        "--prompts",
        "prompts.txt",
        "--seeds",
        "5..6",
        "-o",
        "many.mp4",
        "--dump-latents",
        "many.st",
    ]);
    with(&["a cat", "--seed", "5", "-o", "one.mp4", "--dump-latents", "one.st"]);
    for n in 1..=4 {
        assert!(!place.read(&format!("many-{n}.mp4")).is_empty());
    }
    assert!(place.read("many-3.st") == place.read("one.st"), "the third is a cat with seed 5");
    assert!(place.read("many-4.st") != place.read("one.st"));
}

#[test]
fn a_name_that_was_not_typed_replaces_no_film() {
    let place = Place::new();
    let model = model();
    let words = [
        "generate",
        "dog",
        "--model",
        &model,
        "--size",
        "48x32",
        "--num-frames",
        "5",
        "--steps",
        "2",
    ];
    place.write("film.mp4", "an old film");
    let ran = place.run(&words).expect_code(0);
    assert!(ran.stdout.contains("film-2.mp4"), "{}", ran.stdout);
    assert_eq!(place.read("film.mp4"), b"an old film");
}

#[test]
fn a_seed_is_chosen_told_and_kept_when_none_is_given() {
    let seed = |place: &Place| {
        let model = model();
        let words = [
            "generate",
            "dog",
            "--model",
            &model,
            "--size",
            "48x32",
            "--num-frames",
            "5",
            "--steps",
            "2",
            "--json",
            "-o",
            "film.mp4",
        ];
        let events = place.run(&words).expect_code(0).events();
        let seed = events[0]["seed"].as_u64().expect("a seed");
        let about = place.run(&["inspect", "film.mp4", "--json"]).expect_code(0).events();
        assert_eq!(about[0]["seed"], seed);
        seed
    };
    assert_ne!(seed(&Place::new()), seed(&Place::new()));
}

#[test]
fn a_prompt_for_each_part_takes_effect_at_the_next_segment() {
    let prompts = |place: &Place, more: &[&str]| {
        let words = film_words(3, more);
        let events = place.run(&words).expect_code(0).events();
        events
            .iter()
            .filter(|e| e["event"] == "segment")
            .map(|e| e["prompt"].as_str().expect("a prompt").to_string())
            .collect::<Vec<_>>()
    };
    let place = Place::new();
    let first = "A red circle moves.";
    // 29 frames exist when the third segment begins.
    let told = prompts(&place, &["--json", "--prompt-at", "18f:a cat"]);
    assert_eq!(told, [first, first, "a cat"]);
    place.write(
        "story.toml",
        "[[part]]\nprompt = 'a dog'\nduration = '17f'\n[[part]]\nprompt = 'a cat'\nduration = 1\n",
    );
    let model = model();
    let words = [
        "generate",
        "--story",
        "story.toml",
        "--model",
        &model,
        "--size",
        "48x32",
        "--base-num-frames",
        "17",
        "--overlap-history",
        "5",
        "--steps",
        "2",
        "--json",
        "-o",
        "s.mp4",
    ];
    let events = place.run(&words).expect_code(0).events();
    let told: Vec<_> =
        events.iter().filter(|e| e["event"] == "segment").map(|e| e["prompt"].clone()).collect();
    assert_eq!(told, ["a dog", "a cat", "a cat"]);
    assert_eq!(events.last().expect("events")["frames"], 41, "17 frames and a second");
}

#[test]
fn a_prompt_that_no_segment_is_made_from_is_told_of() {
    let place = Place::new();
    let told = |more: &[&str]| -> Vec<String> {
        // Segments begin at the frames 0, 17 and 29.
        let words: Vec<String> = film_words(3, more).into_iter().skip(1).collect();
        let words: Vec<String> =
            ["plan".into(), "--json".into()].into_iter().chain(words).collect();
        let plan = place.run(&words).expect_code(0).events();
        let notes = plan[0]["notes"].as_array().expect("notes").iter();
        notes.map(|note| note.as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(told(&["--prompt-at", "29f:a cat", "--prompt-at", "17f:a dog"]), [""; 0]);
    for (more, parts) in [
        (
            &["--prompt-at", "30f:a cat"][..],
            &["frame 30 on (a cat)", "last one begins at frame 29"],
        ),
        (&["--prompt-at", "0s:a cat"], &["frame 0 on (A red circle moves.)", "at frame 0"]),
        (&["--prompt-at", "18f:a cat", "--prompt-at", "19f:a dog"], &["a cat", "at frame 19"]),
    ] {
        let notes = told(more);
        assert_eq!(notes.len(), 1, "{more:?}: {notes:?}");
        assert!(parts.iter().all(|part| notes[0].contains(part)), "{more:?}: {notes:?}");
    }
    let many: Vec<String> = (100..110).map(|frame| format!("--prompt-at={frame}f:x")).collect();
    let notes = told(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(notes.len(), 4, "{notes:?}");
    assert!(notes[3].starts_with("7 more prompts"), "{notes:?}");
}

#[test]
fn images_and_videos_are_taken_in() {
    let place = Place::new();
    let image = fixtures().join("films/df_first_and_last/first.png").display().to_string();
    place.run(&film_words(2, &["--image", &image, "--end-image", &image])).expect_code(0);
    place
        .run(&["inspect", "film.mp4", "--json"])
        .expect_code(0)
        .events()
        .iter()
        .for_each(|about| assert_eq!(about["request"]["start"]["image"], image.as_str()));
    let model = model();
    let words = [
        "generate",
        "it goes on",
        "--video",
        "film.mp4",
        "--model",
        &model,
        "--size",
        "48x32",
        "--base-num-frames",
        "17",
        "--overlap-history",
        "5",
        "--steps",
        "2",
        "--seconds",
        "0.5",
        "-o",
        "longer.mp4",
        "--json",
    ];
    let events = place.run(&words).expect_code(0).events();
    // All 29 frames of the video, and the 12 new ones.
    assert_eq!(events.last().expect("events")["frames"], 41);
    // A video of 12 frames a second has each of them twice, in a film of 24.
    place.run(&film_words(2, &["--fps", "12", "--overwrite"])).expect_code(0);
    let events = place.run(&[&words[..], &["--overwrite"]].concat()).expect_code(0).events();
    assert_eq!(events.last().expect("events")["frames"], 2 * 29 + 12);
    let told = |event: &serde_json::Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.contains("12 frames a second") && message.contains("repeated")
    };
    assert!(events.iter().any(told), "{events:?}");
}

#[test]
fn a_tokenizer_inside_the_text_encoders_file_serves_as_one_beside_it() {
    let film = |place: &Place, model: &str| {
        let words = ["generate", "A red circle moves. 圆", "--model", model, "--size", "48x32"];
        let more = ["--num-frames", "5", "--steps", "2", "--seed", "7", "--dump-latents", "l.st"];
        place.run(&[&words[..], &more].concat()).expect_code(0);
        place.read("l.st")
    };
    let place = Place::new();
    copy_folder(Path::new(&model()), &place.path("model"));
    std::fs::remove_file(place.path("model/tokenizer/tokenizer.json")).expect("there");
    let beside = film(&place, "model");
    // As ComfyUI's files have it: the bytes of spiece.model as a tensor.
    let spiece = place.read("model/tokenizer/spiece.model");
    std::fs::remove_dir_all(place.path("model/tokenizer")).expect("there");
    let weights = place.path("model/text_encoder/model.safetensors");
    let bytes = std::fs::read(&weights).expect("there");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let mut tensors = file.tensors();
    let view = TensorView::new(Dtype::U8, vec![spiece.len()], &spiece).expect("bytes");
    tensors.push(("spiece_model".into(), view));
    let with = safetensors::serialize(tensors, None).expect("a file");
    std::fs::write(weights, with).expect("writable");
    assert!(film(&place, "model") == beside, "other tokens");
}

#[test]
fn other_kinds_of_output_are_written() {
    let place = Place::new();
    let words = |output: &str| {
        let mut words = film_words(1, &[]);
        let last = words.len() - 1;
        words[last] = output.to_string();
        words
    };
    place.run(&words("film.gif")).expect_code(0);
    assert!(place.read("film.gif").starts_with(b"GIF8"));
    place.run(&words("frames")).expect_code(0);
    assert_eq!(std::fs::read_dir(place.path("frames")).expect("a folder").count(), 17);
    if probe(&place.path("film.gif")).is_some() {
        let mut h265 = words("film.mp4");
        h265.extend(["--codec".into(), "h264".into(), "--crf".into(), "30".into()]);
        place.run(&h265).expect_code(0);
        assert_eq!(probe(&place.path("film.mp4")), Some((48, 32, 17)));
    }
}

#[test]
fn settings_come_from_the_folders_file_and_from_the_environment() {
    let place = Place::new();
    place.write(
        "longreel.toml",
        format!("model = {:?}\nsize = '48x32'\nnum_frames = 17\nsteps = 3\nshift = 2\n", model()),
    );
    let output = place
        .command(&["plan", "dog", "--num-frames", "9", "--json"])
        .env("LONGREEL_STEPS", "2")
        .output()
        .expect("the program starts");
    let plan = crate::program::Ran::of(output).expect_code(0).events();
    assert_eq!(plan[0]["frames"], 9, "what is typed wins");
    assert_eq!(plan[0]["rows"], 2, "the environment wins over the file");
    assert_eq!(plan[0]["width"], 48);
    assert_eq!(place.names().len(), 1, "a plan writes nothing");
}

#[test]
fn the_demo_model_inside_the_program_makes_a_film() {
    if !fixtures().join("../../demo/model_index.json").exists() {
        println!("skipped: this checkout has no demo model");
        return;
    }
    let place = Place::new();
    let prompt = "a red circle moves right on a blue background";
    let words = ["generate", prompt, "--num-frames", "9", "--steps", "2", "-o", "film.mp4"];
    place.run(&words).expect_code(0);
    let about = place.run(&["inspect", "film.mp4", "--json"]).expect_code(0).events();
    assert!(about[0]["command"].as_str().is_some_and(|c| c.contains("--model demo")));
}

/// Frames and latents of these are large enough to be kept for the next ones.
#[cfg(target_os = "linux")]
#[test]
fn a_film_of_fifty_segments_peaks_like_one_of_five() {
    let peak = |segments: u64| {
        let words = film_words(segments, &["--json", "--threads", "2"]).into_iter();
        let words: Vec<String> =
            words.map(|w| if w == "48x32" { "256x256".into() } else { w }).collect();
        let events = Place::new().run(&words).expect_code(0).events();
        let done = events.iter().find(|e| e["event"] == "done").expect("an event");
        done["peak_memory_bytes"].as_u64().expect("bytes") as f64
    };
    let short = peak(5);
    // On a busy machine threads may hold more at the same time, once in a while: growth shows every time.
    let long = (0..3).map(|_| peak(50)).find(|long| *long < 1.05 * short);
    assert!(long.is_some(), "more than {short} bytes and a twentieth, three times in turn");
}

/// Both are peaks of whole processes, and what a plan counts differs between them by finishing alone.
#[cfg(target_os = "linux")]
#[test]
fn a_larger_film_takes_as_much_more_memory_as_its_plan_says() {
    let memory = |more: &[&str]| {
        let words = film_words(1, &[&["--json"], more].concat());
        let events = Place::new().run(&words).expect_code(0).events();
        let of = |event: &str, key: &str| {
            let event = events.iter().find(|e| e["event"] == event).expect("an event");
            event[key].as_u64().expect("bytes")
        };
        (of("plan", "memory_bytes"), of("done", "peak_memory_bytes"))
    };
    let (planned, taken) = memory(&[]);
    let (larger_planned, larger_taken) = memory(&["--upscale", "3840x2160"]);
    let (expected, found) = (larger_planned - planned, larger_taken - taken);
    assert!(found.abs_diff(expected) < expected / 10, "{found} bytes, and {expected} were planned");
}
