//! Memory does not grow with the film. Alone in its file, because the peak is that of the process.
#![cfg(target_os = "linux")]

mod common;

use common::drawn;
use longreel_media::{FilmOptions, FilmWriter, FrameRate, VideoOptions, VideoReader, last_frames};
use std::path::Path;

/// Peak resident memory of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn write_and_read(folder: &Path, frames: u64) {
    let path = folder.join("film.mp4");
    let few: Vec<_> = (0..16).map(|i| drawn(160, 96, 4 * i)).collect();
    let options = FilmOptions::new(160, 96, FrameRate::whole(24));
    let mut film = FilmWriter::create(&path, &options).unwrap();
    for index in 0..frames {
        film.push(&few[index as usize % few.len()]).unwrap();
        // Every other part is left open for longer than a part may be.
        if index % 500 == 79 {
            film.end_part().unwrap();
        }
    }
    assert_eq!(film.finish().unwrap().frames, frames);
    let options = VideoOptions { allow_ffmpeg: false, ..VideoOptions::default() };
    let read = VideoReader::open(&path, &options).unwrap().map(Result::unwrap).count();
    assert_eq!(read as u64, frames);
    assert_eq!(last_frames(&path, 17, &options).unwrap().1.len(), 17);
}

#[test]
fn a_film_six_times_as_long_peaks_alike() {
    let folder = tempfile::tempdir().unwrap();
    write_and_read(folder.path(), 500);
    let short = peak();
    write_and_read(folder.path(), 3000);
    let long = peak();
    // 5 %, or what the allocator keeps back for itself.
    assert!(long <= short + (short / 20).max(1024), "{short} KiB became {long} KiB");
}
