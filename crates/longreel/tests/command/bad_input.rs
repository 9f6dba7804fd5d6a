//! What cannot work is refused with exit code 2, a message that names value and way out, and nothing
//! written.

use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate};

use crate::program::{Place, copy_folder, film_words, fixtures, model};

/// Words after `generate`, `{model}` standing for the tiny model; and what the message must name.
const REFUSED: &[(&str, &[&str])] = &[
    ("dog --num-frames 96", &["--num-frames 96", "4n+1", "97"]),
    ("dog --base-num-frames 20", &["--base-num-frames 20", "21"]),
    ("dog --overlap-history 16", &["--overlap-history 16", "17"]),
    ("dog --num-frames 33 --overlap-history 97 --base-num-frames 17", &["overlap"]),
    ("dog --size 850x480", &["850x480", "width", "multiple of 16", "848", "864"]),
    ("dog --size 848x479", &["848x479", "height", "multiple of 16", "464", "480"]),
    ("dog --size 999984x16", &["--size", "at most 8192; use 8192"]),
    ("dog --size 1040x32", &["--size 1040x32", "widths of at most 1024"]),
    ("dog --num-frames 257 --base-num-frames 257", &["--base-num-frames 257", "65 latent", "253"]),
    ("dog --size big", &["big", "--size", "960x544"]),
    ("dog --resolution 4K", &["4K", "--resolution", "540P"]),
    ("dog --steps 0", &["--steps 0", "1"]),
    ("dog --steps many", &["many", "--steps"]),
    ("dog --fps 0", &["--fps 0"]),
    ("dog --fps 241", &["--fps 241", "use 240"]),
    ("dog --fps 200 --interpolate 2", &["--interpolate 2", "400 frames a second", "use 1"]),
    ("dog --easycache=0", &["--easycache 0", "0.05"]),
    ("dog --shift 0", &["--shift 0"]),
    ("dog --guidance-scale nan", &["--guidance-scale NaN"]),
    ("dog --seed=-1", &["-1", "--seed"]),
    ("dog --seeds 4..1", &["4..1", "1..4"]),
    ("dog --seconds soon", &["soon", "--seconds", "1m30s"]),
    ("dog --prompt-at later:cat", &["later:cat", "--prompt-at", "4s"]),
    ("dog --solver few-step", &["--timesteps 1000,750"]),
    ("dog --solver few-step --timesteps 250,500", &["250,500", "fall"]),
    ("dog --endless --seconds 4", &["--endless", "--seconds"]),
    ("dog --size 48x32 --resolution 540P", &["--size", "--resolution"]),
    ("dog --teacache --easycache", &["--teacache", "--easycache"]),
    ("dog --portrait on", &["--portrait=on"]),
    ("dog --easycache 0.1", &["--easycache=0.1"]),
    (
        "dog --ar-step 5 --causal-block-size 4 --num-frames 97",
        &["--num-frames", "--causal-block-size 4", "93", "109"],
    ),
    ("--seed 3", &["PROMPT", "red circle"]),
    ("_", &["PROMPT is empty"]),
    ("two_words two_more", &["PROMPT", "--prompts FILE"]),
    ("dog --image no.png", &["no.png"]),
    ("dog --image .", &["it is a folder", "name a file"]),
    ("dog --image text.txt", &["text.txt"]),
    ("dog --image huge.png", &["huge.png", "50000"]),
    ("dog --end-image first.png", &["--end-image", "--image"]),
    ("dog --video no.mp4", &["no.mp4"]),
    ("dog --video text.txt", &["text.txt"]),
    ("dog --image first.png --video text.txt", &["--image", "--video"]),
    ("dog --lora no.safetensors", &["no.safetensors"]),
    ("dog --lora text.txt", &["text.txt"]),
    ("dog --noise no.safetensors", &["no.safetensors"]),
    ("dog --noise text.txt", &["text.txt"]),
    ("dog --noise .", &["noise file .", "it is a folder"]),
    ("dog --noise noise.safetensors --endless", &["noise.safetensors", "endless", "--num-frames"]),
    ("dog --seed -1", &["'-1'", "--seed", "leave it out"]),
    ("dog --num-frames -5", &["'-5'", "--num-frames", "whole number"]),
    ("dog -o film.mp4/", &["film.mp4/", "ends in /"]),
    ("dog -o -", &["standard output", "name a file"]),
    ("--story no.toml", &["no.toml"]),
    ("dog --story no.toml", &["PROMPT", "--story", "keep one"]),
    ("dog --prompts no.txt", &["PROMPT", "--prompts", "keep one"]),
    ("dog --seed 1 --seeds 1..4", &["--seed", "--seeds", "keep one"]),
    ("dog --num-frames 97 --seconds 4", &["--num-frames", "--seconds", "keep one"]),
    ("dog --dtype int4", &["int4", "--dtype", "bf16"]),
    ("--prompts no.txt", &["no.txt"]),
    ("--prompts empty.txt", &["empty.txt", "no prompt"]),
    ("--story text.txt", &["text.txt"]),
    ("dog --config no.toml", &["no.toml"]),
    ("dog --config text.txt", &["text.txt"]),
    ("dog --threads 0", &["--threads", "0"]),
    ("dog --device cuda", &["--device cuda", "--device cpu"]),
    ("dog --codec mpeg2", &["mpeg2", "--codec", "h264"]),
    ("dog --codec vp9", &["VP9", "webm"]),
    ("dog --crf 99", &["99", "51"]),
    ("dog -o film.avi", &[".avi", ".mp4"]),
    ("dog -o no/film.mp4", &["no", "does not exist"]),
    ("dog -o first.png --image first.png", &["first.png", "an input"]),
    ("dog --dump-latents film.mp4 -o film.mp4", &["film.mp4", "another name"]),
    ("dog --dump-frames no/frames.safetensors", &["no", "does not exist"]),
    ("dog --no-such-flag", &["--no-such-flag"]),
    ("dog --offload", &["--offload", "leave it out"]),
    ("dog --model no-such-model", &["no-such-model"]),
    ("dog --model text.txt", &["text.txt"]),
    ("dog --model .", &["."]),
];

/// A PNG whose header says 50,000 x 50,000.
fn huge_png() -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        png.extend((data.len() as u32).to_be_bytes());
        let body = [kind, data].concat();
        png.extend(&body);
        png.extend(crc(&body).to_be_bytes());
    };
    let side = 50_000u32.to_be_bytes();
    chunk(b"IHDR", &[&side[..], &side[..], &[8, 2, 0, 0, 0]].concat());
    chunk(b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]);
    chunk(b"IEND", &[]);
    png
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ (0xedb8_8320 * (c & 1)))
    })
}

fn furnished() -> Place {
    let place = Place::new();
    place.write("text.txt", "key without value");
    place.write("empty.txt", "# nothing\n\n");
    place.write("huge.png", huge_png());
    place.write("noise.safetensors", one_tensor("segment_0", &[1], &[0.5]));
    let image = fixtures().join("films/df_image/first.png");
    place.write("first.png", std::fs::read(image).expect("the fixture"));
    place
}

#[test]
fn each_bad_input_is_named_with_a_way_out_and_leaves_no_file() {
    let place = furnished();
    let before = place.names();
    let mut wrong = Vec::new();
    for (line, parts) in REFUSED {
        let mut words: Vec<String> = line.split(' ').map(|word| word.replace('_', " ")).collect();
        words.insert(0, "generate".into());
        if !line.contains("--model") {
            words.extend(["--model".into(), model()]);
        }
        if !line.contains("--size") && !line.contains("--resolution") {
            words.extend(["--size".into(), "48x32".into()]);
        }
        let ran = place.run(&words);
        if ran.code != Some(2) {
            wrong.push(format!("{line}: ended with {:?}\n{}", ran.code, ran.stderr));
        }
        for part in *parts {
            if !ran.stderr.contains(part) {
                wrong.push(format!("{line}: no {part:?} in\n{}", ran.stderr));
            }
        }
        if ran.stderr.contains("panicked") || !ran.stdout.is_empty() {
            wrong.push(format!("{line}: {}{}", ran.stdout, ran.stderr));
        }
        if place.names() != before {
            wrong.push(format!("{line}: left {:?}", place.names().difference(&before)));
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_input_is_an_event_too() {
    let place = Place::new();
    for words in [
        &["generate", "dog", "--json", "--num-frames", "96", "--model", &model()][..],
        &["generate", "dog", "--json", "--steps", "many"],
    ] {
        let ran = place.run(words).expect_code(2);
        let events = ran.events();
        assert_eq!(events.len(), 1, "{}", ran.stdout);
        assert_eq!(events[0]["event"], "error");
        assert_eq!(events[0]["exit_code"], 2);
    }
}

/// A copy of the tiny model, with the file of a part changed.
fn changed_model(place: &Place, part: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    copy_folder(std::path::Path::new(&model()), &place.path("model"));
    let folder = place.path("model").join(part);
    let file = std::fs::read_dir(&folder)
        .expect("a part")
        .map(|entry| entry.expect("readable").path())
        .find(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .expect("weights");
    let mut bytes = std::fs::read(&file).expect("readable");
    change(&mut bytes);
    std::fs::write(&file, bytes).expect("writable");
    "model".into()
}

#[test]
fn damaged_weights_are_refused_before_anything_is_written() {
    type Change = fn(&mut Vec<u8>);
    let damages: [(&str, Change); 3] = [
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
        ("a header of 2^63 bytes", |bytes| bytes[..8].copy_from_slice(&[255; 8])),
    ];
    for (what, change) in damages {
        let place = Place::new();
        let model = changed_model(&place, "transformer", change);
        let before = place.names();
        let words = ["generate", "dog", "--model", &model, "--size", "48x32", "--num-frames", "9"];
        let ran = place.run(&words);
        assert_eq!(ran.code, Some(2), "{what}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        assert_eq!(place.names(), before, "{what}");
    }
}

#[test]
fn a_weight_that_is_no_number_is_named_before_the_second_step() {
    for (part, tensor) in [
        ("transformer", "blocks.1.attn1.to_q.weight"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.k.weight"),
        ("vae", "decoder.mid_block.resnets.0.conv1.weight"),
    ] {
        let place = Place::new();
        let model = changed_model(&place, part, |bytes| {
            let start = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
            let header: serde_json::Value =
                serde_json::from_slice(&bytes[8..start]).expect("a header");
            let offset = header[tensor]["data_offsets"][0].as_u64();
            let at = start + offset.unwrap_or_else(|| panic!("no {tensor} in {header}")) as usize;
            bytes[at + 16..at + 20].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        let before = place.names();
        let words = ["generate", "A red circle moves.", "--model", &model, "--size", "48x32"];
        let words = [&words[..], &["--num-frames", "9", "--json"]].concat();
        let ran = place.run(&words).expect_code(2);
        // The text encoder's names are those of the family, whatever the file calls them.
        for told in [part, "NaN at index 4"] {
            assert!(ran.stderr.contains(told), "{part}: no {told:?} in {}", ran.stderr);
        }
        assert!(!ran.stdout.contains("\"event\":\"step\""), "{part}: {}", ran.stdout);
        assert_eq!(place.names(), before, "{part}");
    }
}

#[test]
fn escapes_in_prompts_and_names_do_not_reach_the_terminal() {
    let place = Place::new();
    let words: Vec<String> = film_words(1, &["--image", "\u{1b}[31mno.png"]);
    let ran = place.run(&words).expect_code(2);
    assert!(ran.stderr.contains("\\u{1b}[31mno.png") && !ran.stderr.contains('\u{1b}'));
    let mut words = film_words(1, &[]);
    words[1] = "a \u{1b}]0;pwned\u{7} dog".into();
    let ran = place.run(&words).expect_code(0);
    assert!(ran.stderr.contains("a \\u{1b}]0;pwned\\u{7} dog"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
}

/// A safetensors file of one tensor of f32.
fn one_tensor(name: &str, shape: &[usize], values: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let header = serde_json::json!({
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, bytes.len()]},
    })
    .to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &bytes].concat()
}

#[test]
fn noise_that_is_no_number_is_refused_by_name_before_anything_is_begun() {
    let place = Place::new();
    let shape = [1, 16, 5, 4, 6];
    let mut values = vec![0.25; shape.iter().product()];
    values[7] = f32::NAN;
    place.write("noise.safetensors", one_tensor("segment_0", &shape, &values));
    let before = place.names();
    let words = film_words(1, &["--noise", "noise.safetensors", "--json"]);
    let ran = place.run(&words).expect_code(2);
    for part in ["noise.safetensors", "segment_0", "NaN at index 7", "finite"] {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    assert!(!ran.stdout.contains("encoding the prompt"), "{}", ran.stdout);
    assert_eq!(place.names(), before);
}

#[test]
fn a_lora_of_another_model_is_refused_before_the_prompt_is_encoded() {
    let place = Place::new();
    let name = "transformer.blocks.0.attn1.to_q.lora_A.weight";
    let other = name.replace("lora_A", "lora_B");
    let header = serde_json::json!({
        name: {"dtype": "F32", "shape": [1, 7], "data_offsets": [0, 28]},
        other: {"dtype": "F32", "shape": [7, 1], "data_offsets": [28, 56]},
    })
    .to_string();
    let length = (header.len() as u64).to_le_bytes();
    place.write("lora.safetensors", [&length[..], header.as_bytes(), &[0; 56]].concat());
    let ran = place.run(&film_words(1, &["--lora", "lora.safetensors", "--json"])).expect_code(2);
    for part in ["lora.safetensors", "another size"] {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    assert_eq!(ran.events().len(), 1, "{}", ran.stdout);
}

#[test]
fn a_video_that_is_damaged_in_its_middle_is_refused_before_a_weight_is_loaded() {
    let place = Place::new();
    place.run(&film_words(3, &[])).expect_code(0);
    let mut bytes = place.read("film.mp4");
    let middle = bytes.len() / 2;
    bytes[middle - 200..middle + 200].fill(0xff);
    place.write("clip.mp4", bytes);
    let before = place.names();
    let words: Vec<String> = film_words(2, &["--video", "clip.mp4", "--json"]);
    let words: Vec<String> =
        words.into_iter().map(|w| if w == "film.mp4" { "longer.mp4".into() } else { w }).collect();
    let ran = place.run(&words).expect_code(2);
    assert!(ran.stderr.contains("clip.mp4"), "{}", ran.stderr);
    assert!(!ran.stdout.contains("encoding the prompt"), "{}", ran.stdout);
    assert_eq!(place.names(), before);
}

#[test]
fn resume_and_inspect_say_what_is_wrong() {
    let place = furnished();
    std::fs::create_dir(place.path("cut.mp4.longreel")).expect("writable");
    place.write("cut.mp4.longreel/run.json", "{\"program_version\":");
    #[cfg(unix)]
    {
        // Nobody writes into it: opened as a file it would be waited for without end.
        let made = std::process::Command::new("mkfifo").arg(place.path("pipe.mp4")).status();
        assert!(made.expect("mkfifo").success());
        let ran = place.run(&["inspect", "pipe.mp4"]).expect_code(2);
        assert!(ran.stderr.contains("a pipe or a device"), "{}", ran.stderr);
    }
    for (words, parts) in [
        (&["resume", "no.mp4"][..], &["no.mp4"][..]),
        (&["resume", "text.txt"], &["text.txt", "complete"]),
        (&["resume"], &["FILM"]),
        (&["resume", "cut.mp4"], &["cut.mp4.longreel/run.json", "--overwrite"]),
        (&["inspect", "no.mp4"], &["no.mp4", "no such file"]),
        (&["inspect", "text.txt"], &["text.txt"]),
        (&["inspect", "first.png"], &["first.png"]),
        (&["inspect", "."], &["."]),
    ] {
        let ran = place.run(words).expect_code(2);
        for part in parts {
            assert!(ran.stderr.contains(part), "{words:?}: no {part:?} in {}", ran.stderr);
        }
    }
}

#[test]
fn a_codec_that_cannot_be_had_is_refused_before_a_weight_is_loaded() {
    let place = Place::new();
    // One that is there and can nothing.
    let broken = place.path("broken");
    std::fs::create_dir(&broken).expect("writable");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let program = broken.join("ffmpeg");
        std::fs::write(&program, "#!/bin/sh\necho Unknown encoder >&2\nexit 1\n")
            .expect("writable");
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, all).expect("permitted");
    }
    let before = place.names();
    let nowhere = place.path("nowhere");
    let searched = [(&nowhere, "install ffmpeg"), (&broken, "Unknown encoder")];
    for (path, part) in searched.into_iter().take(if cfg!(unix) { 2 } else { 1 }) {
        for more in [&["--codec", "h264"][..], &["--codec", "av1"], &[]] {
            let output = if more.is_empty() { "other.webm" } else { "film.mp4" };
            let words = film_words(1, &[more, &["--json"]].concat()).into_iter();
            let words: Vec<String> =
                words.map(|w| if w == "film.mp4" { output.into() } else { w }).collect();
            let ran = place.command(&words).env("PATH", path).output();
            let ran = crate::program::Ran::of(ran.expect("the program starts")).expect_code(2);
            assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
            assert!(!ran.stdout.contains("encoding the prompt"), "{}", ran.stdout);
            assert_eq!(place.names(), before);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_film_that_does_not_fit_the_memory_of_the_process_is_refused_by_its_plan() {
    let place = Place::new();
    let before = place.names();
    let words = film_words(1, &[]).into_iter();
    let words: Vec<String> =
        words.map(|w| if w == "48x32" { "1008x1008".into() } else { w }).collect();
    // Threads keep addresses that they may never use.
    let script = "ulimit -v 500000; exec \"$0\" \"$@\" --threads 1";
    let program = env!("CARGO_BIN_EXE_longreel");
    let ran = std::process::Command::new("/bin/sh")
        .args(["-c", script, program])
        .args(&words)
        .current_dir(place.path(""))
        .output();
    let ran = crate::program::Ran::of(ran.expect("a shell")).expect_code(2);
    for part in ["--size 1008x1008", "of memory", "are available", "--no-memory-check"] {
        assert!(ran.stderr.contains(part), "no {part:?} in {}", ran.stderr);
    }
    assert_eq!(place.names(), before);
}

#[test]
fn a_command_that_a_film_tells_is_shown_only_where_a_shell_would_run_this_program_alone() {
    let place = Place::new();
    let shown = |command: &str| {
        let mut options = FilmOptions::new(32, 32, FrameRate::whole(8));
        let told = serde_json::json!({"program": "longreel", "command": command, "seed": 1});
        options.metadata = Some(told.to_string());
        let mut film = FilmWriter::create(&place.path("film.mp4"), &options).expect("writable");
        film.push(&Frame::filled(32, 32, [9; 3])).expect("a frame");
        film.finish().expect("a film");
        let told = place.run(&["inspect", "film.mp4", "--json"]).expect_code(0).events();
        let said = place.run(&["inspect", "film.mp4"]).expect_code(0).stdout;
        assert_eq!(told[0]["command"].is_string(), said.contains("To make it again:"), "{said}");
        assert_eq!(said.contains(command), told[0]["command"] == command, "{said}");
        said.contains(command)
    };
    assert!(shown("longreel generate --prompt 'it'\\''s; a $dog' --seed 1 -o film.mp4"));
    for hostile in [
        "longreel generate dog; touch pwned",
        "longreel generate $(touch pwned)",
        "longreel generate dog\ntouch pwned",
        "longreel generate 'dog' > film.drift.json",
        "sh -c 'touch pwned'",
        "longreel serve --listen 0.0.0.0:80",
    ] {
        assert!(!shown(hostile), "{hostile}");
    }
}
