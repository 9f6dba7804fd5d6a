use super::keys::KEYS;
use super::*;
use longreel_film::{GpuFacts, HostLink};
use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate};
use serde_json::json;

fn films() -> TypedFilms {
    films_of("df")
}

fn films_of(model: &str) -> TypedFilms {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/fixtures/models");
    let model = models.join(model);
    let engine = EngineOptions::new(model);
    let args = ModelArgs {
        model: None,
        lora: Vec::new(),
        dtype: None,
        upscaler: None,
        no_memory_check: None,
    };
    TypedFilms::open(&args, &engine, None, &EnhancerArgs::default()).expect("a model")
}

#[test]
fn what_films_take_is_known_of_models_that_need_pictures_too() {
    for model in ["df", "t2v", "i2v", "wan_flf2v"] {
        assert!(films_of(model).memory().needed > Some(0), "{model}");
    }
}

#[test]
fn memory_is_that_of_the_device_that_makes_the_films() {
    let mut films = films();
    films.facts.gpu = None;
    films.memory_bytes = Some(1 << 60);
    let host = films.memory();
    assert!(!host.on_gpu && host.fits() == Some(true), "{host:?}");
    let card = |free_bytes| GpuFacts {
        name: "a card".into(),
        free_bytes,
        peak_flops: 1e14,
        peak_8_bit_flops: 2e14,
        link: None,
        host: HostLink::Unknown,
    };
    films.facts.gpu = Some(card(80 << 30));
    let gpu = films.memory();
    assert!(gpu.on_gpu && gpu.fits() == Some(true), "{gpu:?}");
    assert_eq!(gpu.available, Some(80 << 30));
    films.facts.gpu = Some(card(1 << 20));
    assert_eq!(films.memory().fits(), Some(false), "a small card in a large machine");
    // What the host has to hold beside a card is too much for this one.
    (films.facts.gpu, films.memory_bytes) = (Some(card(80 << 30)), Some(1 << 20));
    let host = films.memory();
    assert!(!host.on_gpu && host.fits() == Some(false), "{host:?}");
}

fn film(asked: Value) -> Result<Film, Refusal> {
    let Value::Object(asked) = asked else { panic!("an object") };
    films().film(&asked, &Inputs::default())
}

/// Whoever mistypes a key is told all that there are, those that the server takes for itself included.
#[test]
fn the_keys_that_are_told_are_those_of_the_document() {
    let document = include_str!("../../../../docs/openapi.json");
    let document: Value = serde_json::from_str(document).expect("JSON");
    let request = &document["components"]["schemas"]["VideoRequest"]["properties"];
    let documented: Vec<&String> = request.as_object().expect("keys").keys().collect();
    let told = film(json!({"prompt": "a", "xyzzy": 1})).expect_err("no such key").about.allowed;
    assert_eq!(told.iter().collect::<Vec<_>>(), documented);
}

/// Files of a request lie in a folder of the server's under names of its own, which mean nothing to a client.
#[test]
fn what_is_said_of_files_names_the_keys_that_brought_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let (name, of) = (|name: &str| Some(PathBuf::from(name)), &films());
    let asked = |extra: Value| {
        let mut asked = json!({"prompt": "a", "size": "48x32", "num_frames": 29,
            "base_num_frames": 17, "overlap_history": 5, "fps": 24, "steps": 2});
        asked.as_object_mut().expect("keys").extend(extra.as_object().expect("keys").clone());
        asked.as_object().expect("keys").clone()
    };
    let video = |name: &str, frames: u8| {
        let options = FilmOptions::new(64, 32, FrameRate::whole(30));
        let mut film = FilmWriter::create(&folder.path().join(name), &options).expect("a film");
        (0..frames).for_each(|shade| {
            film.push(&Frame::filled(64, 32, [shade, 90, 160])).expect("a frame");
        });
        film.finish().expect("a film");
    };
    video("input-00000000.mp4", 9);
    video("input-00000001.mp4", 3);
    let inputs = |video: &str| Inputs {
        folder: Some(folder.path().to_owned()),
        video: name(video),
        ..Inputs::default()
    };
    let film = of.film(&asked(json!({})), &inputs("input-00000000.mp4")).expect("a film");
    let said = film.warnings.join("\n");
    assert!(
        said.contains("video has 30 frames a second") && said.contains("; fps 30 takes each"),
        "{said}"
    );
    assert!(said.contains("video: 64x32 cropped to its central 48x32"), "{said}");
    let short = of.film(&asked(json!({})), &inputs("input-00000001.mp4")).expect_err("too short");
    assert!(
        short.detail.starts_with("video: has 2 frames at 24 a second, and overlap_history 5"),
        "{short:?}"
    );
    assert_eq!(short.about.field.as_deref(), Some("video"), "{short:?}");
    let last = Inputs { end_image: name("input-00000000.png"), ..Inputs::default() };
    let alone = of.film(&asked(json!({})), &last).expect_err("no first image");
    assert!(alone.detail.starts_with("end_image: needs a first image"), "{alone:?}");
    assert!(!alone.detail.contains("--"), "{alone:?}");
}

#[test]
fn every_key_is_a_flag_of_generate_and_none_names_a_file() {
    let command = settings::command();
    let generate = command.find_subcommand("generate").expect("a command");
    for key in KEYS {
        let flag = generate.get_arguments().find(|arg| arg.get_id() == key);
        let flag = flag.unwrap_or_else(|| panic!("{key} is no flag"));
        let names_file = flag.get_value_parser().type_id() == std::any::TypeId::of::<PathBuf>();
        assert!(!names_file, "{key} names a file");
    }
}

#[test]
fn values_of_every_type_become_a_request() {
    let asked = json!({
        "prompt": "--a dog\nruns", "negative_prompt": "", "prompt_at": ["1s: a cat"],
        "seed": 18446744073709551615_u64, "size": "48x32", "num_frames": 29,
        "base_num_frames": 17, "overlap_history": 5, "fps": 8, "steps": 4,
        "guidance_scale": 1.5, "portrait": true, "easycache": true, "teacache": false,
        "solver": null,
    });
    let film = film(asked).unwrap_or_else(|e| panic!("{e:?}"));
    let request = film.plan.request();
    assert_eq!(request.prompts[0].prompt, "--a dog\nruns");
    assert_eq!((request.prompts[1].from_frame, request.prompts.len()), (8, 2));
    assert_eq!((request.width, request.height), (32, 48));
    assert_eq!((request.seed, request.steps), (u64::MAX, 4));
}

#[test]
fn a_refusal_says_as_data_what_it_is_about() {
    for (asked, field, value, allowed) in [
        (json!({"prompt": "a", "num_frames": 96}), "num_frames", Some("96"), &["93", "97"][..]),
        (json!({"prompt": "a", "steps": 0}), "steps", Some("0"), &["1"]),
        (json!({"prompt": "a", "guidance_scale": 101}), "guidance_scale", Some("101"), &["100"]),
        (json!({"prompt": "a", "steps": "many"}), "steps", Some("many"), &[]),
        (json!({"prompt": " "}), "prompt", Some(" "), &[]),
        (json!({"prompt": "a", "promt_at": "1s:b"}), "promt_at", None, &["prompt_at"]),
    ] {
        let about = film(asked.clone()).expect_err("it cannot be").about;
        assert_eq!(about.field.as_deref(), Some(field), "{asked}: {about:?}");
        assert_eq!(about.value.as_deref(), value, "{asked}: {about:?}");
        assert_eq!(about.allowed, allowed, "{asked}: {about:?}");
    }
}

#[test]
fn what_cannot_be_is_told_in_the_clients_own_words() {
    for (asked, parts) in [
        (json!({"prompt": "a", "num_frames": 96}), &["num_frames 96", "93 or 97"][..]),
        (json!({"prompt": "a", "steps": "many"}), &["many", "steps", "a whole number from 0"]),
        (json!({"prompt": "a", "seed": -1}), &["-1", "seed", "from 0 to 18446744073709551615"]),
        (json!({"prompt": "a", "webhook": "x"}), &["webhook_url"]),
        (json!({"prompt": "a", "promt_at": "1s:b"}), &["promt_at", "prompt_at"]),
        (json!({"prompt": "a", "xyzzy": 1}), &["xyzzy", "guidance_scale"]),
        (json!({"prompt": "a", "image": "/etc/passwd"}), &["no key \"image\""]),
        (json!({"prompt": "a", "output": "x.mp4"}), &["no key \"output\""]),
        (json!({"prompt": ["a"]}), &["prompt must be one value"]),
        (json!({"prompt": "a", "seconds": 2, "num_frames": 9}), &["seconds", "keep one"]),
        (json!({"prompt": " "}), &["prompt is empty"]),
        (json!({}), &["prompt is missing"]),
    ] {
        let refusal = film(asked.clone()).expect_err("it cannot be");
        assert!(refusal.is_clients, "{asked}: {refusal:?}");
        for part in parts {
            assert!(refusal.detail.contains(part), "{asked}: no {part:?} in {refusal:?}");
        }
        assert!(!refusal.detail.contains("--"), "{refusal:?}");
    }
}
