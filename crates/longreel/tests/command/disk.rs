//! Disks that have no room for a film, or take none.

use std::collections::BTreeSet;

use crate::program::{Place, film_words};
use crate::room::Disk;

/// A small disk at `disk`.
fn disk(place: &Place, size_bytes: u64) -> Option<Disk> {
    Disk::mount(&place.path("disk"), size_bytes)
        .map_err(|error| println!("skipped: no disk can be mounted here ({error})"))
        .ok()
}

fn words(output: &str, more: &[&str]) -> Vec<String> {
    let words = film_words(2, more).into_iter();
    words.map(|word| if word == "film.mp4" { output.to_owned() } else { word }).collect()
}

fn names(place: &Place) -> BTreeSet<String> {
    let entries = std::fs::read_dir(place.path("disk")).expect("readable");
    entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

const OUTPUTS: [&str; 3] = ["disk/film.mp4", "disk/film.gif", "disk/frames"];

#[test]
fn a_disk_that_is_full_or_read_only_is_told_before_a_weight_is_loaded() {
    let place = Place::new();
    let Some(disk) = disk(&place, 1 << 20) else { return };
    disk.fill(0);
    let refused = |output: &str, part: &str| {
        let ran = place.run(&words(output, &["--json"])).expect_code(2);
        for part in [output, part] {
            assert!(ran.stderr.contains(part), "{output}: no {part:?} in {}", ran.stderr);
        }
        assert!(!ran.stdout.contains("\"stage\""), "{output}: {}", ran.stdout);
        assert_eq!(names(&place).into_iter().collect::<Vec<_>>(), ["filler"], "{output}");
    };
    OUTPUTS.iter().for_each(|output| refused(output, "free some space"));
    disk.make_room();
    disk.fill(1 << 19);
    let mut long = words("film.mp4", &["--dump-frames", "disk/frames.st"]);
    let length = long.iter().position(|word| word == "--num-frames").expect("a length") + 1;
    long[length] = "20001".into();
    let ran = place.run(&long).expect_code(2);
    assert!(
        ran.stderr.contains("disk/frames.st") && ran.stderr.contains("needs"),
        "{}",
        ran.stderr
    );
    disk.make_read_only();
    OUTPUTS.iter().for_each(|output| refused(output, "folder that you may write"));
}

#[test]
fn a_disk_that_runs_full_leaves_a_film_that_goes_on_or_none() {
    let whole = Place::new();
    std::fs::create_dir(whole.path("disk")).expect("writable");
    whole.run(&words(OUTPUTS[0], &[])).expect_code(0);
    let mut ends = [0; 3];
    for output in OUTPUTS {
        for left in (0..14).map(|step| step * 3 * 4096) {
            let place = Place::new();
            let Some(disk) = disk(&place, 1 << 20) else { return };
            disk.fill(left);
            let ran = place.run(&words(output, &[]));
            let run = place.path(&format!("{output}.longreel/run.json"));
            let end = match (ran.code, run.exists()) {
                (Some(0), false) => 0,
                (Some(1), true) => {
                    let goes_on =
                        format!("free some space, then `longreel resume {output}` goes on");
                    assert!(ran.stderr.contains(&goes_on), "{}", ran.stderr);
                    disk.make_room();
                    place.run(&["resume", output]).expect_code(0);
                    if output == OUTPUTS[0] {
                        assert!(place.read(output) == whole.read(output), "another film");
                    }
                    1
                }
                (Some(code @ (1 | 2)), false) => {
                    let nothing = "none of its segments was finished";
                    assert_eq!(ran.stderr.contains(nothing), code == 1, "{}", ran.stderr);
                    let error = ran.stderr.lines().find(|line| line.starts_with("error: "));
                    assert!(error.is_some_and(|e| !e.contains("resume")), "{}", ran.stderr);
                    let left_over: Vec<String> = names(&place).into_iter().collect();
                    assert_eq!(left_over, ["filler"], "{output} with {left} bytes: {}", ran.stderr);
                    2
                }
                _ => panic!("{output} with {left} bytes: {:?} {}", ran.code, ran.stderr),
            };
            ends[end] += 1;
        }
    }
    assert!(ends.iter().all(|&count| count > 0), "whole, unfinished, none: {ends:?}");
}
