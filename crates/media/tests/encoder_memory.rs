//! What the built-in encoder takes is what plans count on. Alone in its file, because the peak is that of
//! the process.
#![cfg(target_os = "linux")]

use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate, encoder_bytes};

/// A figure of `/proc/self/status` in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_encoder_takes_what_a_plan_counts_on() {
    let folder = tempfile::tempdir().unwrap();
    // In this order: what one has taken and given back counts for no later one.
    for (width, height) in [(640, 384), (1920, 1080), (3840, 2160)] {
        let options = FilmOptions::new(width, height, FrameRate::whole(24));
        let frame = Frame::filled(width, height, [40, 10, 200]);
        let before = status("VmRSS:");
        let mut film = FilmWriter::create(&folder.path().join("film.mp4"), &options).unwrap();
        film.push(&frame).unwrap();
        film.push(&frame).unwrap();
        film.finish().unwrap();
        let (taken, counted) =
            (status("VmHWM:") - before, encoder_bytes(width as usize, height as usize));
        assert!(
            taken.abs_diff(counted) < counted / 8 + (1 << 20),
            "{width}x{height}: {taken} bytes, and {counted} are counted on"
        );
    }
}
