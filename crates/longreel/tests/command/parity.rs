//! Whole films beside those of the reference pipelines; `parity/films.py` records them.

use std::fs;

use crate::program::{Place, fixtures, tensor};

/// How far final latents may be from the reference's, as `|ours - theirs| / |theirs|`. Rounding in
/// another order moves them by a few 1e-6; the smallest slip in the arithmetic by 2e-4.
const RELATIVE_L2_MAX: f64 = 5e-5;

#[test]
fn every_recorded_film_ends_in_the_references_latents() {
    let films = fixtures().join("films");
    let mut far = Vec::new();
    let mut count = 0;
    let mut folders: Vec<_> =
        fs::read_dir(&films).expect("fixtures").map(|e| e.expect("readable").path()).collect();
    folders.sort();
    for folder in folders.iter().filter(|f| f.join("case.json").exists()) {
        count += 1;
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let case: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("case.json")).expect("readable"))
                .expect("JSON");
        let place = Place::new();
        let words: Vec<String> = case["arguments"]
            .as_array()
            .expect("arguments")
            .iter()
            .map(|word| {
                word.as_str()
                    .expect("a word")
                    .replace("{fixtures}", &fixtures().display().to_string())
                    .replace("{out}", ".")
            })
            .collect();
        let ran = place.run(&words);
        if ran.code != Some(0) {
            far.push(format!("{name}: ended with {:?}\n{}", ran.code, ran.stderr));
            continue;
        }
        let expected = fs::read(folder.join("expected.safetensors")).expect("readable");
        for what in case["compares"].as_array().expect("what is compared") {
            let what = what.as_str().expect("a name");
            let file = match what {
                "final_latents" => "latents.safetensors",
                "frames" => "frames.safetensors",
                other => panic!("{name} compares {other}"),
            };
            let (ours, theirs) = (tensor(&place.read(file), what), tensor(&expected, what));
            match distance(&ours, &theirs) {
                Ok(distance) => println!("{name} {what}: {distance:.1e}"),
                Err(message) => far.push(format!("{name} {what}: {message}")),
            }
        }
    }
    assert!(count >= 10, "only {count} films in {}", films.display());
    assert!(far.is_empty(), "{}", far.join("\n"));
}

type Values = (Vec<usize>, Vec<f32>);

/// The relative distance, or what is too far.
fn distance((shape, ours): &Values, (expected, theirs): &Values) -> Result<f64, String> {
    if shape != expected {
        return Err(format!("shape {shape:?}, expected {expected:?}"));
    }
    let square = |v: f64| v * v;
    let (mut difference, mut norm, mut worst) = (0.0, 0.0, (0.0, 0));
    for (i, (&a, &b)) in ours.iter().zip(theirs).enumerate() {
        let apart = (f64::from(a) - f64::from(b)).abs();
        if apart > worst.0 || apart.is_nan() {
            worst = (apart, i);
        }
        difference += square(apart);
        norm += square(f64::from(b));
    }
    let distance = (difference / norm).sqrt();
    if distance <= RELATIVE_L2_MAX {
        return Ok(distance);
    }
    let (_, i) = worst;
    Err(format!("{distance:.2e} apart; worst at {i}: {} instead of {}", ours[i], theirs[i]))
}
