//! Published models: fetched from a hub on this machine, kept, named, pinned, removed.

use std::path::{Path, PathBuf};

use crate::program::{Place, Ran, fixtures};
use crate::stand_in::{COMMIT, Fault, StandIn};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

/// A hub that publishes the tiny model.
fn hub() -> StandIn {
    fn add(hub: &StandIn, root: &Path, folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                add(hub, root, &path);
                continue;
            }
            let name = path.strip_prefix(root).expect("inside").display().to_string();
            let content = std::fs::read(&path).expect("readable");
            if name.ends_with(".safetensors") {
                hub.large_file(&name, content);
            } else {
                hub.file(&name, content);
            }
        }
    }
    let hub = StandIn::new();
    let root = fixtures().join("models/df");
    add(&hub, &root, &root);
    hub.file("README.md", "not needed");
    hub
}

/// The program with caches of its own, asking only `hub`.
fn run(place: &Place, hub: &StandIn, words: &[&str]) -> Ran {
    let mut command = place.command(words);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("hf_") || lower.starts_with("modelscope_") || lower.ends_with("_proxy")
        {
            command.env_remove(name);
        }
    }
    let output = command
        .env("HF_HUB_CACHE", place.path("cache"))
        .env("HF_HOME", place.path("home"))
        .env("HF_ENDPOINT", hub.base())
        .env("MODELSCOPE_CACHE", place.path("modelscope"))
        .env("MODELSCOPE_ENDPOINT", hub.base())
        .output();
    Ran::of(output.expect("the program starts"))
}

fn snapshot(place: &Place) -> PathBuf {
    place.path("cache/models--org--model/snapshots").join(COMMIT)
}

const FILM: [&str; 12] = [
    "--size",
    "48x32",
    "--num-frames",
    "5",
    "--base-num-frames",
    "5",
    "--overlap-history",
    "5",
    "--steps",
    "1",
    "--seed",
    "7",
];

#[test]
fn a_pulled_model_makes_films_by_its_name_and_they_say_which_revision() {
    let (place, hub) = (Place::new(), hub());
    let pulled = run(&place, &hub, &["models", "pull", "org/model"]).expect_code(0);
    assert_eq!(pulled.stdout.trim(), snapshot(&place).display().to_string());
    for part in ["from Hugging Face", "fetching: ", "(100 %)", "of memory", "--model org/model"] {
        assert!(pulled.stderr.contains(part), "no {part} in {}", pulled.stderr);
    }
    let mut words =
        vec!["generate", "A red circle moves.", "--model", "org/model", "-o", "film.mp4"];
    words.extend(FILM);
    run(&place, &hub, &words).expect_code(0);
    let about = run(&place, &hub, &["inspect", "film.mp4"]).expect_code(0).stdout;
    assert!(about.contains(&format!("model               org/model@{}", &COMMIT[..12])), "{about}");
    assert!(about.contains(&format!("--model org/model@{COMMIT}")), "{about}");
    let short = format!("org/model@{}", &COMMIT[..8]);
    let of_model = run(&place, &hub, &["inspect", &short]).expect_code(0).stdout;
    assert!(of_model.contains(&snapshot(&place).display().to_string()), "{of_model}");
}

#[test]
fn a_pulled_revision_is_told_by_the_name_that_means_it() {
    let (place, hub) = (Place::new(), hub());
    let pulled = run(&place, &hub, &["models", "pull", "org/model"]).expect_code(0);
    assert!(pulled.stderr.contains("--model org/model makes"), "{}", pulled.stderr);
    // The branch is at another one that is here.
    let other = "f".repeat(40);
    let cache = place.path("cache/models--org--model");
    std::fs::write(cache.join("refs/main"), &other).expect("writable");
    std::fs::create_dir_all(cache.join("snapshots").join(other)).expect("writable");
    let pulled = run(&place, &hub, &["models", "pull", "org/model@v2"]).expect_code(0);
    let name = format!("org/model@{}", &COMMIT[..12]);
    assert!(pulled.stderr.contains(&format!("--model {name} makes")), "{}", pulled.stderr);
    run(&place, &hub, &["plan", "--model", &name]).expect_code(0);
}

#[test]
fn programs_hear_of_a_pull_as_events() {
    let (place, hub) = (Place::new(), hub());
    hub.fault(WEIGHTS, &[Fault::Cut(1000)]);
    let ran = run(&place, &hub, &["models", "pull", "org/model", "--json"]).expect_code(0);
    let events = ran.events();
    let of = |name: &str| events.iter().filter(|e| e["event"] == name).collect::<Vec<_>>();
    let (pull, pulled) = (of("pull"), of("pulled"));
    assert_eq!(pull[0]["revision"], COMMIT);
    assert_eq!(pulled[0]["path"], snapshot(&place).display().to_string());
    assert_eq!(of("waiting")[0]["name"], WEIGHTS);
    assert_eq!(of("file").len() as u64, pull[0]["files"].as_u64().expect("a number"));
    let progress = of("progress");
    let last = progress.last().expect("progress");
    assert_eq!(
        (&last["bytes"], &last["total_bytes"]),
        (&pull[0]["total_bytes"], &pull[0]["total_bytes"])
    );
}

#[test]
fn a_model_that_is_not_here_is_named_with_the_command_that_fetches_it() {
    let (place, hub) = (Place::new(), hub());
    for (model, command) in [
        (
            "skyreels-v2-df-1.3b-540p",
            "longreel models pull Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers`",
        ),
        ("org/model@v2", "longreel models pull org/model@v2`"),
        ("org/model/a.gguf", "longreel models pull org/model --file a.gguf`"),
        ("skyreels-v2-df-1.3b-540", "did you mean skyreels-v2-df-1.3b-540p?"),
        ("nothing", "longreel models search"),
    ] {
        for words in [
            vec!["generate", "a dog", "--model", model],
            vec!["inspect", model],
            vec!["serve", "--model", model],
        ] {
            let ran = run(&place, &hub, &words).expect_code(2);
            assert!(ran.stderr.contains(command), "{words:?}: no {command} in {}", ran.stderr);
        }
    }
    assert!(hub.calls().is_empty(), "naming a model asks nobody");
}

/// What a card and a download are chosen by, before either is paid for.
#[test]
fn a_published_model_is_planned_without_its_files_and_on_cards_that_are_not_here() {
    let (place, hub) = (Place::new(), hub());
    let plan = |words: &[&str]| {
        let words = [&["plan", "--json"], words].concat();
        run(&place, &hub, &words).expect_code(0).events().remove(0)
    };
    // What the published sizes are meant for: 24, 12 and 6 GB.
    for (model, card, frames, size) in [
        ("SkyReels-V2-DF-14B-720P", "RTX 4090", 121, [1280, 720]),
        ("skyreels-v2-df-14b-540p", "3060", 97, [960, 544]),
        ("Skywork/SkyReels-V2-DF-1.3B-540P", "RTX A2000", 97, [960, 544]),
    ] {
        let plan = plan(&["--model", model, "--card", card]);
        assert_eq!((&plan["frames"], &plan["width"]), (&frames.into(), &size[0].into()), "{plan}");
        let of = |key: &str| plan["gpu"][key].as_u64().expect(key);
        assert!(of("least_bytes") < of("free_bytes"), "{plan}");
        assert!(plan["gpu"]["name"].as_str().is_some_and(|name| name.contains(card)), "{plan}");
        assert_eq!(plan["available_bytes"], serde_json::Value::Null, "of no host that is not here");
    }
    let both = plan(&["--model", "Wan2.1-I2V-14B-480P", "--card", "H100 SXM,H100 SXM"]);
    assert_eq!(both["sharing"]["groups"], 2, "{both}");
    let here = run(&place, &hub, &["plan", "--model", "wan2.1-t2v-1.3b"]).expect_code(0).stdout;
    assert!(here.contains("`longreel models pull wan2.1-t2v-1.3b` fetches the model"), "{here}");
    let words = ["plan", "--model", "skyreels-v2-df-14b-720p", "--card", "all"];
    let all = run(&place, &hub, &words).expect_code(0).stdout;
    let line = |card: &str| all.lines().position(|line| line.starts_with(card)).expect(card);
    assert!(line("H100 SXM") < line("GeForce RTX 4090") && all.contains("all 29.1 GB"), "{all}");
    let refused = all.lines().nth(line("RTX A2000")).expect("a line");
    assert!(refused.contains("no: this film needs at least"), "{all}");
    assert!(hub.calls().is_empty(), "a plan asks nobody");
    for (words, error) in [
        (vec!["--card", "A100"], "A100 40GB or A100 80GB"),
        (vec!["--card", "RTX 4090", "--device", "cpu"], "--device and --card contradict"),
        (vec!["--card", "all", "--num-frames", "96"], "must be 4n+1"),
    ] {
        let ran = run(&place, &hub, &[vec!["plan"], words].concat()).expect_code(2);
        assert!(ran.stderr.contains(error), "{}", ran.stderr);
    }
}

#[test]
fn half_a_model_is_refused_with_the_command_that_completes_it() {
    let (place, hub) = (Place::new(), hub());
    run(&place, &hub, &["models", "pull", "org/model", "--file", "transformer/*"]).expect_code(0);
    let ran = run(&place, &hub, &["plan", "--model", "org/model"]).expect_code(2);
    assert!(ran.stderr.contains("longreel models pull org/model"), "{}", ran.stderr);
    let list = run(&place, &hub, &["models", "list"]).expect_code(0).stdout;
    assert!(list.contains("incomplete: "), "{list}");
}

#[test]
fn the_list_tells_what_is_here_and_what_it_takes() {
    let (place, hub) = (Place::new(), hub());
    run(&place, &hub, &["models", "pull", "org/model"]).expect_code(0);
    let rows = run(&place, &hub, &["models", "list", "--json"]).expect_code(0).events();
    let row = rows.iter().find(|row| row["from"] == "huggingface").expect("a row");
    assert_eq!(row["complete"], true);
    assert!(row["memory_bytes"].as_u64() > Some(0) && row["bytes"].as_u64() > Some(0), "{row}");
    let text = run(&place, &hub, &["models", "list"]).expect_code(0);
    for part in ["org/model@0123456789ab", "complete", "diffusion forcing", "demo"] {
        assert!(text.stdout.contains(part), "no {part} in {}", text.stdout);
    }
}

#[test]
fn damage_is_found_and_mended() {
    let (place, hub) = (Place::new(), hub());
    run(&place, &hub, &["models", "pull", "org/model"]).expect_code(0);
    run(&place, &hub, &["models", "verify"]).expect_code(0);
    let blob = std::fs::canonicalize(snapshot(&place).join(WEIGHTS)).expect("a blob");
    let mut bytes = std::fs::read(&blob).expect("readable");
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    std::fs::write(&blob, bytes).expect("writable");
    let ran = run(&place, &hub, &["models", "verify", "org/model"]).expect_code(1);
    assert!(ran.stderr.contains(&format!("{WEIGHTS} is damaged")), "{}", ran.stderr);
    assert!(ran.stderr.contains("verify --fix"), "{}", ran.stderr);
    run(&place, &hub, &["models", "verify", "--fix"]).expect_code(0);
    let said = run(&place, &hub, &["models", "verify"]).expect_code(0).stdout;
    assert!(said.contains("as published"), "{said}");
}

#[test]
fn a_pinned_revision_is_the_one_that_is_meant() {
    let (place, hub) = (Place::new(), hub());
    run(&place, &hub, &["models", "pull", "org/model"]).expect_code(0);
    run(&place, &hub, &["models", "pin", "org/model"]).expect_code(0);
    let lock = String::from_utf8(place.read("longreel.lock")).expect("text");
    assert!(lock.contains(COMMIT) && lock.contains("sha256 = "), "{lock}");
    // The branch moves on to a revision that is here and not pinned.
    let refs = place.path("cache/models--org--model/refs/main");
    std::fs::write(&refs, "f".repeat(40)).expect("writable");
    let other = place.path("cache/models--org--model/snapshots").join("f".repeat(40));
    std::fs::create_dir_all(other).expect("writable");
    let plan = run(&place, &hub, &["plan", "--model", "org/model"]).expect_code(0).stdout;
    assert!(plan.contains(&COMMIT[..12]), "{plan}");
    // Elsewhere the file alone brings the very same model.
    let elsewhere = Place::new();
    elsewhere.write("longreel.lock", &lock);
    let pulled = run(&elsewhere, &hub, &["models", "pull"]).expect_code(0);
    assert!(pulled.stderr.contains("as longreel.lock has it"), "{}", pulled.stderr);
    assert!(pulled.stderr.contains("--model org/model makes"), "{}", pulled.stderr);
    // And says so when the hub gives something else under the same name.
    let other = Place::new();
    let last = lock.rfind("sha256 = \"").expect("a hash") + 10;
    let wrong = format!("{}{}{}", &lock[..last], "0".repeat(8), &lock[last + 8..]);
    other.write("longreel.lock", wrong);
    let ran = run(&other, &hub, &["models", "pull"]).expect_code(2);
    assert!(ran.stderr.contains("not as longreel.lock has them"), "{}", ran.stderr);
    run(&place, &hub, &["models", "pin", "org/model", "--remove"]).expect_code(0);
    run(&place, &hub, &["plan", "--model", "org/model"]).expect_code(2);
}

#[test]
fn a_chosen_model_is_taken_where_none_is_named() {
    let (place, hub) = (Place::new(), hub());
    run(&place, &hub, &["models", "use", "org/model"]).expect_code(2);
    run(&place, &hub, &["models", "pull", "org/model"]).expect_code(0);
    place.write("longreel.toml", "# mine\nsteps = 3\n");
    run(&place, &hub, &["models", "use", "org/model"]).expect_code(0);
    let settings = String::from_utf8(place.read("longreel.toml")).expect("text");
    assert_eq!(settings, "model = \"org/model\"\n# mine\nsteps = 3\n");
    let plan = run(&place, &hub, &["plan"]).expect_code(0).stdout;
    assert!(plan.contains("org/model@"), "{plan}");
    let list = run(&place, &hub, &["models", "list"]).expect_code(0).stdout;
    assert!(list.contains("[default]"), "{list}");
    run(&place, &hub, &["models", "use", "demo"]).expect_code(0);
    assert!(run(&place, &hub, &["plan"]).expect_code(0).stdout.contains("demo"));
}

#[test]
fn a_removed_model_is_gone() {
    let (place, hub) = (Place::new(), hub());
    run(&place, &hub, &["models", "pull", "org/model"]).expect_code(0);
    let ran = run(&place, &hub, &["models", "remove", "org/model"]).expect_code(0);
    assert!(ran.stderr.contains("are free again"), "{}", ran.stderr);
    assert!(!place.path("cache/models--org--model").exists());
    run(&place, &hub, &["models", "remove", "org/model"]).expect_code(2);
}

#[test]
fn modelscope_is_one_setting_away() {
    let (place, hub) = (Place::new(), hub());
    run(&place, &hub, &["models", "pull", "org/model", "--from", "modelscope"]).expect_code(0);
    assert!(place.path("modelscope/models/org--model/snapshots/master/model_index.json").exists());
    let mut words =
        vec!["generate", "A red circle moves.", "--model", "org/model", "-o", "film.mp4"];
    words.extend(FILM);
    run(&place, &hub, &words).expect_code(0);
    run(&place, &hub, &["models", "verify"]).expect_code(0);
    run(&place, &hub, &["models", "remove", "org/model@master"]).expect_code(0);
}

#[test]
fn a_search_shows_what_can_be_run() {
    let (place, hub) = (Place::new(), hub());
    let ran = run(&place, &hub, &["models", "search"]).expect_code(0);
    assert!(ran.stdout.contains("skyreels-v2-df-1.3b-540p"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("cats") && ran.stderr.contains("--all"), "{}", ran.stderr);
    let all =
        run(&place, &hub, &["models", "search", "sky", "--all", "--json"]).expect_code(0).events();
    assert_eq!(all.len(), 2);
    assert_eq!(all[1]["runs"], false);
}

#[test]
fn what_cannot_be_fetched_is_bad_input_with_a_way_out() {
    let (place, hub) = (Place::new(), hub());
    hub.with(|state| state.refuse = Some((401, "x-error-code: GatedRepo\r\n".into())));
    let ran = run(&place, &hub, &["models", "pull", "org/model"]).expect_code(2);
    assert!(ran.stderr.contains("gated") && ran.stderr.contains("HF_TOKEN"), "{}", ran.stderr);
    for (words, part) in [
        (vec!["models", "pull"], "longreel.lock"),
        (vec!["models", "pull", "x"], "OWNER/NAME"),
        (vec!["models", "pull", "../x"], "OWNER/NAME"),
        (vec!["models", "pull", "org/model", "--endpoint", "ftp://x"], "--endpoint"),
        (vec!["models", "verify", "org/model"], "models pull org/model"),
        (vec!["models", "pin", "org/model"], "models pull org/model"),
    ] {
        let ran = run(&place, &hub, &words).expect_code(2);
        assert!(ran.stderr.contains(part), "{words:?}: no {part} in {}", ran.stderr);
    }
}

#[test]
fn a_quantised_model_makes_films_and_says_what_each_layer_lost() {
    let (place, hub) = (Place::new(), hub());
    let model = fixtures().join("models/df").display().to_string();
    let events =
        run(&place, &hub, &["models", "quantize", &model, "--to", "fp8", "-o", "small", "--json"])
            .expect_code(0)
            .events();
    let of = |name: &str| events.iter().filter(|e| e["event"] == name).collect::<Vec<_>>();
    let done = of("quantized");
    let (quantized, kept) = (done[0]["quantized"].as_u64(), done[0]["kept"].as_u64());
    assert!(quantized > Some(0), "{:?}", done[0]);
    assert_eq!(of("tensor").len() as u64, quantized.expect("a number") + kept.expect("a number"));
    let lossy = of("tensor").into_iter().filter(|t| t["relative_l2"].as_f64() > Some(0.0));
    assert_eq!(lossy.count() as u64, quantized.expect("a number"));
    assert!(done[0]["relative_l2"].as_f64() < Some(0.03), "{:?}", done[0]);
    let mut words = vec!["generate", "A red circle moves.", "--model", "small", "-o", "film.mp4"];
    words.extend(FILM);
    run(&place, &hub, &words).expect_code(0);
    for (words, part) in [
        (vec!["models", "quantize", &model, "--to", "fp8", "-o", "x.gguf"], ".safetensors"),
        (vec!["models", "quantize", &model, "--to", "fp8", "-o", "small"], "there already"),
        (vec!["models", "quantize", &model, "--to", "q8_0", "-o", "y"], "multiples of 32"),
        (
            vec!["models", "quantize", "org/model", "--to", "q8_0", "-o", "y"],
            "models pull org/model",
        ),
    ] {
        let ran = run(&place, &hub, &words).expect_code(2);
        assert!(ran.stderr.contains(part), "{words:?}: no {part} in {}", ran.stderr);
    }
}
