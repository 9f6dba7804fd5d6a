//! `inspect` gives the command that makes a film again.

use std::path::Path;

use crate::program::{Place, copy_folder, film_words, model};

#[test]
fn inspect_prints_how_the_film_was_made() {
    let place = Place::new();
    place.run(&film_words(1, &["--negative-prompt", "it's ugly"])).expect_code(0);
    let said = place.run(&["inspect", "film.mp4"]).expect_code(0).stdout;
    for part in [
        "seed                7",
        "A red circle moves.",
        "it's ugly",
        "revision",
        "width               48",
        "length              frames ",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[cfg(unix)]
#[test]
fn the_printed_command_makes_the_same_file() {
    let place = Place::new();
    let words = film_words(
        2,
        &["--prompt-at", "10f@9:it's a \"cat\" for $5", "--negative-prompt", "-", "--easycache"],
    );
    place.run(&words).expect_code(0);
    let first = place.read("film.mp4");
    let said = place.run(&["inspect", "film.mp4"]).expect_code(0).stdout;
    let command = said.lines().last().expect("a command");
    let program = Path::new(env!("CARGO_BIN_EXE_longreel"));
    let again = Place::new();
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(again.path("."))
        .env("PATH", program.parent().expect("a folder"))
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(again.read("film.mp4") == first, "another film: {command}");
}

#[test]
fn a_model_is_described() {
    let place = Place::new();
    let said = place.run(&["inspect", &model()]).expect_code(0).stdout;
    for part in ["diffusion forcing", "revision", "transformer", "text encoder"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    for part in ["parameters", "f32", "for the weights", "complete", "of memory in all"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let about = place.run(&["inspect", &model(), "--json"]).expect_code(0).events();
    assert_eq!(about[0]["kind"], "diffusion_forcing");
    assert!(about[0]["parameters"].as_u64() > Some(10_000), "{}", about[0]);
    assert!(about[0]["memory_bytes"].as_u64() > Some(0), "{}", about[0]);
}

#[test]
fn all_that_a_model_lacks_is_listed() {
    let place = Place::new();
    copy_folder(Path::new(&model()), &place.path("model"));
    std::fs::remove_file(place.path("model/text_encoder/model.safetensors")).expect("there");
    std::fs::remove_dir_all(place.path("model/tokenizer")).expect("there");
    let weights = place.path("model/vae/diffusion_pytorch_model.safetensors");
    let short = std::fs::read(&weights).expect("there").split_off(100);
    std::fs::write(&weights, short).expect("writable");
    let said = place.run(&["inspect", "model"]).expect_code(2).stdout;
    for part in ["transformer", "parameters", "text encoder", "tokenizer", "VAE", "problems    5"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let about = place.run(&["inspect", "model", "--json"]).expect_code(2).events();
    assert_eq!(about[0]["problems"].as_array().map(Vec::len), Some(5), "{}", about[0]);
}
