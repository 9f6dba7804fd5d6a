//! Whatever instant a run is killed at, the film that resume makes is the same in every byte.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use safetensors::tensor::{Dtype, TensorView};

use crate::program::{Place, copy_folder, film_words, fixtures, model};

const RESULTS: [&str; 4] = ["film.mp4", "latents.st", "frames.st", "film.drift.json"];
const SEGMENTS: u64 = 6;

fn words() -> Vec<String> {
    film_words(SEGMENTS, &["--dump-latents", "latents.st", "--dump-frames", "frames.st"])
}

fn results(place: &Place) -> Vec<Vec<u8>> {
    RESULTS.iter().map(|name| place.read(name)).collect()
}

/// Kills the program `wait` after it has told of `parts` finished segments, whose checkpoints are then
/// on disk; true when it had not ended by itself.
fn killed_after(place: &Place, words: &[String], parts: usize, wait: Duration) -> bool {
    let words: Vec<String> = words.iter().cloned().chain(["--json".into()]).collect();
    let mut child =
        place.command(&words).stdout(Stdio::piped()).spawn().expect("the program starts");
    let said = BufReader::new(child.stdout.take().expect("piped"));
    let mut told = said.lines().map(|line| line.expect("text"));
    told.by_ref().filter(|line| line.contains("\"event\":\"part\"")).take(parts).count();
    // What it says from here on has to be read, or it would wait for us.
    let reader = std::thread::spawn(move || told.count());
    std::thread::sleep(wait);
    let running = child.try_wait().expect("a child").is_none();
    // On Unix this is SIGKILL: nothing of the program runs after it.
    child.kill().expect("a child");
    child.wait().expect("a child");
    reader.join().expect("a reader");
    running
}

#[test]
fn a_film_killed_anywhere_and_resumed_equals_an_uninterrupted_one() {
    let whole = Place::new();
    let started = Instant::now();
    whole.run(&words()).expect_code(0);
    let time = started.elapsed();
    let expected = results(&whole);
    let resume_words: Vec<String> = ["resume", "film.mp4"].map(String::from).into();
    let (mut kills, mut resumed) = (0, 0);
    // Instants all over the run, by a generator with a fixed start: some segments, and a while more.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    for round in 0..6 {
        let place = Place::new();
        let mut first = true;
        // Kill each film up to three times, then let it be.
        for _ in 0..3 {
            let words = if first { words() } else { resume_words.clone() };
            let parts = (random() * 3.0) as usize;
            let wait = time.mul_f64(random() / SEGMENTS as f64);
            if !killed_after(&place, &words, parts, wait) {
                break;
            }
            kills += 1;
            // Killed before the run's folder was there, it never began.
            first = !place.path("film.mp4.longreel/run.json").exists();
        }
        if first && !place.path("film.mp4").exists() {
            place.run(&words()).expect_code(0);
        } else if place.path("film.mp4.longreel/run.json").exists() {
            resumed += 1;
            place.run(&resume_words).expect_code(0);
        }
        for (name, (ours, theirs)) in RESULTS.iter().zip(results(&place).iter().zip(&expected)) {
            assert!(ours == theirs, "round {round}: {name} differs from an uninterrupted run's");
        }
    }
    assert!(kills >= 4 && resumed >= 3, "only {kills} kills and {resumed} resumes");
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_it_is_used() {
    let whole = Place::new();
    whole.run(&words()).expect_code(0);
    let expected = results(&whole);
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("one bit", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 3)),
        ("empty", Vec::clear),
    ];
    for (what, damage) in damages {
        let place = Place::new();
        assert!(killed_after(&place, &words(), 3, Duration::ZERO), "{what}: it had ended");
        let mut found: Vec<_> = std::fs::read_dir(place.path("film.mp4.longreel"))
            .expect("an unfinished run")
            .map(|entry| entry.expect("readable").path())
            .filter(|path| path.extension().is_some_and(|e| e == "checkpoint"))
            .collect();
        found.sort();
        assert!(found.len() >= 2, "{what}: only {found:?}");
        let last = found.last().expect("two");
        let mut bytes = std::fs::read(last).expect("readable");
        damage(&mut bytes);
        std::fs::write(last, bytes).expect("writable");
        let ran = place.run(&["resume", "film.mp4"]).expect_code(0);
        assert!(ran.stderr.contains("warning"), "{what}: {}", ran.stderr);
        assert!(results(&place) == expected, "{what}: another film");
    }
}

#[test]
fn a_film_is_resumed_from_any_folder() {
    let furnished = || {
        let place = Place::new();
        copy_folder(Path::new(&model()), &place.path("model"));
        let image = std::fs::read(fixtures().join("films/df_image/first.png"));
        place.write("first.png", image.expect("the fixture"));
        place
    };
    let words = |place: &Place| -> Vec<String> {
        // An absolute path in the film's own folder is told without it.
        let image = place.path("first.png").display().to_string();
        let words = words().into_iter().map(|w| if w == model() { "model".into() } else { w });
        words.chain(["--image".into(), image]).collect()
    };
    let whole = furnished();
    whole.run(&words(&whole)).expect_code(0);
    let place = furnished();
    assert!(killed_after(&place, &words(&place), 2, Duration::ZERO), "it had ended");
    let film = place.path("film.mp4").display().to_string();
    let elsewhere = Place::new();
    elsewhere.run(&["resume", &film]).expect_code(0);
    assert!(elsewhere.names().is_empty(), "{:?}", elsewhere.names());
    for (name, (ours, theirs)) in
        RESULTS.iter().zip(results(&place).iter().zip(&results(&whole))).skip(1)
    {
        assert!(ours == theirs, "another {name}");
    }
    // The films tell of two folders; all else in them is the same.
    let told = |place: &Place| {
        let about = place.run(&["inspect", "film.mp4", "--json"]).expect_code(0).events();
        let folder = place.path("").display().to_string();
        about[0].to_string().replace(folder.trim_end_matches('/'), "")
    };
    assert_eq!(told(&place), told(&whole));
}

#[test]
fn an_unfinished_film_is_not_begun_anew_without_being_asked_to() {
    let whole = Place::new();
    whole.run(&words()).expect_code(0);
    let place = Place::new();
    assert!(killed_after(&place, &words(), 1, Duration::ZERO), "it had ended");
    let ran = place.run(&words()).expect_code(2);
    for part in ["longreel resume film.mp4", "--overwrite"] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    // Also as the second of two, of which the first is not begun then.
    std::fs::rename(place.path("film.mp4.longreel"), place.path("film-2.mp4.longreel"))
        .expect("there");
    let two = words().into_iter().filter(|word| word != "--seed" && word != "7");
    let two: Vec<String> = two.chain(["--seeds".into(), "7..8".into()]).collect();
    place.run(&two).expect_code(2);
    assert!(!place.path("film-1.mp4").exists(), "{:?}", place.names());
    std::fs::rename(place.path("film-2.mp4.longreel"), place.path("film.mp4.longreel"))
        .expect("there");
    let mut anew = words();
    anew.push("--overwrite".into());
    let refused = [&anew[..], &["--noise".into(), "no.safetensors".into()]].concat();
    place.run(&refused).expect_code(2);
    assert!(place.path("film.mp4.longreel/run.json").exists(), "a refused start lost the run");
    place.run(&anew).expect_code(0);
    assert!(results(&place) == results(&whole), "another film");
}

#[test]
fn a_film_that_another_process_makes_is_left_alone() {
    let place = Place::new();
    let words: Vec<String> = film_words(200, &["--json"]);
    let mut child = place.command(&words).stdout(Stdio::piped()).spawn().expect("it starts");
    let said = BufReader::new(child.stdout.take().expect("piped"));
    let mut told = said.lines().map(|line| line.expect("text"));
    assert!(told.any(|line| line.contains("\"event\":\"part\"")), "nothing was made");
    let reader = std::thread::spawn(move || told.count());
    let resume: Vec<String> = ["resume", "film.mp4"].map(String::from).into();
    for others in [film_words(2, &["--overwrite"]), resume.clone()] {
        let ran = place.run(&others).expect_code(2);
        assert!(ran.stderr.contains("being made by another process"), "{}", ran.stderr);
    }
    assert!(child.try_wait().expect("a child").is_none(), "it was not running any more");
    child.kill().expect("a child");
    child.wait().expect("a child");
    reader.join().expect("a reader");
    // A lock whose holder was killed is none.
    place.run(&film_words(2, &["--overwrite"])).expect_code(0);
    assert!(!place.path("film.mp4.longreel").exists(), "{:?}", place.names());
}

/// A place with a picture and a video to begin from.
fn furnished() -> Place {
    let place = Place::new();
    for (name, from) in [
        ("first.png", "films/df_image/first.png"),
        ("last.png", "films/df_first_and_last/last.png"),
        ("history.mp4", "films/df_video/history.mp4"),
        ("25.mp4", "../../crates/media/tests/fixtures/main_b_frames.mp4"),
    ] {
        place.write(name, std::fs::read(fixtures().join(from)).expect("the fixture"));
    }
    place
}

/// Flags that begin a film from something, and what is begun from.
const SOURCES: [(&[&str], &[&str]); 4] = [
    (&["--image", "first.png"], &["first.png"]),
    (&["--image", "first.png", "--end-image", "last.png"], &["first.png", "last.png"]),
    (&["--video", "history.mp4", "--carry", "pixels"], &["history.mp4"]),
    // Brought to the film's 24 frames a second.
    (&["--video", "25.mp4"], &["25.mp4"]),
];

#[test]
fn a_film_that_was_begun_goes_on_without_what_it_was_begun_from() {
    for (flags, sources) in SOURCES {
        let words: Vec<String> =
            words().into_iter().chain(flags.iter().map(|word| (*word).to_owned())).collect();
        let whole = furnished();
        whole.run(&words).expect_code(0);
        let place = furnished();
        assert!(killed_after(&place, &words, 1, Duration::ZERO), "it had ended");
        for source in sources {
            std::fs::remove_file(place.path(source)).expect("there");
        }
        place.run(&["resume", "film.mp4"]).expect_code(0);
        assert!(results(&place) == results(&whole), "{flags:?}: another film");
    }
}

/// A place with a film that was killed, as it were, while the model was loaded.
fn begun(words: &[String]) -> Place {
    let place = furnished();
    assert!(killed_after(&place, words, 1, Duration::ZERO), "it had ended");
    for entry in std::fs::read_dir(place.path("film.mp4.longreel")).expect("an unfinished run") {
        let path = entry.expect("readable").path();
        if path.file_name().is_some_and(|name| name != "run.json") {
            std::fs::remove_file(path).expect("writable");
        }
    }
    place
}

#[test]
fn a_film_of_which_nothing_was_kept_says_what_is_missing_or_replaced_and_keeps_its_run() {
    for (flags, sources) in SOURCES {
        let words: Vec<String> =
            words().into_iter().chain(flags.iter().map(|word| (*word).to_owned())).collect();
        let place = begun(&words);
        let last = sources.last().expect("one");
        let bytes = place.read(last);
        // Another file under the same name is none, whatever its length.
        let mut longer = bytes.clone();
        longer.push(0);
        let mut other = bytes.clone();
        other[bytes.len() - 1] ^= 1;
        for (changed, difference) in [(longer, "bytes where that one had"), (other, "SHA-256")] {
            place.write(last, changed);
            let ran = place.run(&["resume", "film.mp4"]).expect_code(2);
            let parts = [last, "not the file that it was begun with", difference];
            for part in parts.into_iter().chain(["put that one back", "--overwrite"]) {
                assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
            }
        }
        std::fs::remove_file(place.path(last)).expect("there");
        let ran = place.run(&["resume", "film.mp4"]).expect_code(2);
        for part in [last, "put the file back", "--overwrite"] {
            assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
        }
        place.write(last, bytes);
        place.run(&["resume", "film.mp4"]).expect_code(0);
        let whole = furnished();
        whole.run(&words).expect_code(0);
        assert!(results(&place) == results(&whole), "{flags:?}: another film");
    }
}

/// A LoRA of rank 1 for one layer of the tiny model, all values the same.
fn lora(value: f32) -> Vec<u8> {
    let name = "diffusion_model.blocks.0.self_attn.q";
    let header = serde_json::json!({
        format!("{name}.lora_down.weight"): {"dtype": "F32", "shape": [1, 60], "data_offsets": [0, 240]},
        format!("{name}.lora_up.weight"): {"dtype": "F32", "shape": [60, 1], "data_offsets": [240, 480]},
    })
    .to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &value.to_le_bytes().repeat(120)].concat()
}

#[test]
fn a_lora_that_changed_since_is_refused_and_its_old_file_goes_on() {
    let place = Place::new();
    place.write("style.safetensors", lora(0.2));
    let words = words().into_iter().chain(["--lora".into(), "style.safetensors:0.5".into()]);
    let words: Vec<String> = words.collect();
    assert!(killed_after(&place, &words, 1, Duration::ZERO), "it had ended");
    place.write("style.safetensors", lora(0.3));
    let ran = place.run(&["resume", "film.mp4"]).expect_code(2);
    for part in ["style.safetensors", "began with revision", "put the old files back", "anew"] {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    // Written anew, with the same content: only that counts.
    place.write("style.safetensors", lora(0.2));
    place.run(&["resume", "film.mp4"]).expect_code(0);
    let whole = Place::new();
    whole.write("style.safetensors", lora(0.2));
    whole.run(&words).expect_code(0);
    assert!(results(&place) == results(&whole), "another film");
}

#[test]
fn noise_that_changed_since_is_refused_and_the_old_file_goes_on() {
    // The noise of `words()`: 5 latent frames each, the first two of later ones under the history.
    let noise = |changed: usize| {
        let segments: Vec<(String, Vec<u8>)> = (0..SEGMENTS as usize)
            .map(|index| {
                let value = |n: usize| ((n * 7919 + index * 31) % 2003) as f32 / 500.0 - 2.0;
                let shift = if index == changed { 0.5 } else { 0.0 };
                let values = (0..16 * 5 * 4 * 6).flat_map(|n| (value(n) + shift).to_le_bytes());
                (format!("segment_{index}"), values.collect())
            })
            .collect();
        let views = segments.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![1, 16, 5, 4, 6], bytes);
            (name.clone(), view.expect("as many bytes"))
        });
        safetensors::serialize(views, None).expect("a file")
    };
    let words: Vec<String> =
        words().into_iter().chain(["--noise", "noise.safetensors"].map(String::from)).collect();
    let whole = Place::new();
    whole.write("noise.safetensors", noise(usize::MAX));
    whole.run(&words).expect_code(0);
    let place = Place::new();
    place.write("noise.safetensors", noise(usize::MAX));
    assert!(killed_after(&place, &words, 2, Duration::ZERO), "it had ended");
    place.write("noise.safetensors", noise(5));
    let ran = place.run(&["resume", "film.mp4"]).expect_code(2);
    for part in ["noise.safetensors", "not the file that it was begun with", "SHA-256"] {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    place.write("noise.safetensors", noise(usize::MAX));
    place.run(&["resume", "film.mp4"]).expect_code(0);
    assert!(results(&place) == results(&whole), "another film");
}

#[test]
fn what_a_kill_left_of_a_finished_run_is_taken_away_and_the_film_is_complete() {
    let place = Place::new();
    place.run(&words()).expect_code(0);
    let film = place.read("film.mp4");
    // As if it had been killed between the film's last byte and the folder's end.
    std::fs::create_dir(place.path("film.mp4.longreel")).expect("writable");
    for left in ["finished.json", "00000005.checkpoint", "latents.raw", "lock"] {
        place.write(&format!("film.mp4.longreel/{left}"), "left over");
    }
    std::fs::create_dir(place.path(".film.mp4.parts")).expect("writable");
    let ran = place.run(&["resume", "film.mp4"]).expect_code(2);
    assert!(ran.stderr.contains("no unfinished run"), "{}", ran.stderr);
    let names: Vec<String> = place.names().into_iter().collect();
    assert_eq!(names, ["film.drift.json", "film.mp4", "frames.st", "latents.st"]);
    assert!(place.read("film.mp4") == film, "another film");
    // Without that word of it nobody knows what the folder is, and it stays.
    std::fs::create_dir(place.path("film.mp4.longreel")).expect("writable");
    place.write("film.mp4.longreel/00000005.checkpoint", "somebody's");
    place.run(&["resume", "film.mp4"]).expect_code(2);
    assert!(place.path("film.mp4.longreel/00000005.checkpoint").exists());
}
