//! What cannot work is refused with exit code 2, a message that names value and way out, and nothing
//! written.

use crate::program::{Place, copy_folder, fixtures, model};

/// Words after `generate`, `{model}` standing for the tiny model; and what the message must name.
const REFUSED: &[(&str, &[&str])] = &[
    ("dog --num-frames 96", &["--num-frames 96", "4n+1", "97"]),
    ("dog --base-num-frames 20", &["--base-num-frames 20", "21"]),
    ("dog --overlap-history 16", &["--overlap-history 16", "17"]),
    ("dog --num-frames 33 --overlap-history 97 --base-num-frames 17", &["overlap"]),
    ("dog --size 850x480", &["850x480", "width", "multiple of 16", "848", "864"]),
    ("dog --size 848x479", &["848x479", "height", "multiple of 16", "464", "480"]),
    ("dog --size 999984x16", &["--size", "at most"]),
    ("dog --size big", &["big", "--size", "960x544"]),
    ("dog --resolution 4K", &["4K", "--resolution", "540P"]),
    ("dog --steps 0", &["--steps 0", "1"]),
    ("dog --steps many", &["many", "--steps"]),
    ("dog --fps 0", &["--fps 0"]),
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
    (
        "dog --ar-step 5 --causal-block-size 4 --num-frames 97",
        &["--num-frames", "--causal-block-size 4", "93", "109"],
    ),
    ("--seed 3", &["PROMPT", "red circle"]),
    ("_", &["PROMPT is empty"]),
    ("two_words two_more", &["PROMPT", "--prompts FILE"]),
    ("dog --image no.png", &["no.png"]),
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

/// A copy of the tiny model, with its transformer's file changed.
fn changed_model(place: &Place, change: impl FnOnce(&mut Vec<u8>)) -> String {
    copy_folder(std::path::Path::new(&model()), &place.path("model"));
    let folder = place.path("model/transformer");
    let file = std::fs::read_dir(&folder)
        .expect("a transformer")
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
    let damages: [(&str, Change); 4] = [
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
        ("a header of 2^63 bytes", |bytes| bytes[..8].copy_from_slice(&[255; 8])),
        ("not a number", |bytes| {
            let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
            for value in bytes[8 + header..].chunks_exact_mut(4) {
                value.copy_from_slice(&f32::NAN.to_le_bytes());
            }
        }),
    ];
    for (what, change) in damages {
        let place = Place::new();
        let model = changed_model(&place, change);
        let before = place.names();
        let words = ["generate", "dog", "--model", &model, "--size", "48x32", "--num-frames", "9"];
        let ran = place.run(&words);
        assert_eq!(ran.code, Some(2), "{what}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
        assert_eq!(place.names(), before, "{what}");
    }
}

#[test]
fn resume_and_inspect_say_what_is_wrong() {
    let place = furnished();
    for (words, parts) in [
        (&["resume", "no.mp4"][..], &["no.mp4"][..]),
        (&["resume", "text.txt"], &["text.txt", "complete"]),
        (&["resume"], &["FILM"]),
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
