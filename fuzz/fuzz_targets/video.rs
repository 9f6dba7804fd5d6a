//! MP4, whole and fragmented, and the H.264 inside, by the built-in reader alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longreel_media::{VideoOptions, VideoReader};

fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("video.mp4");
    std::fs::write(&path, data).expect("writable");
    let options = VideoOptions { allow_ffmpeg: false, ..VideoOptions::default() };
    if let Ok(reader) = VideoReader::open(&path, &options) {
        for frame in reader.take(32) {
            if frame.is_err() {
                break;
            }
        }
    }
    let _ = longreel_media::read_metadata(&path);
});
