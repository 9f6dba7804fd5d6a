//! `inspect` gives the command that makes a film again.

use crate::program::{Place, film_words, model};

#[test]
fn inspect_prints_how_the_film_was_made() {
    let place = Place::new();
    place.run(&film_words(1, &["--negative-prompt", "it's ugly"])).expect_code(0);
    let said = place.run(&["inspect", "film.mp4"]).expect_code(0).stdout;
    for part in ["seed       7", "A red circle moves.", "it's ugly", "revision", "width: 48"] {
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
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_longreel"));
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
    let about = place.run(&["inspect", &model(), "--json"]).expect_code(0).events();
    assert_eq!(about[0]["kind"], "diffusion_forcing");
}
