//! Videos in: our own films, films of other encoders, and films that nobody should accept.

mod common;

use common::drawn;
use longreel_media::{
    FilmOptions, FilmWriter, Frame, FrameRate, MediaError, VideoOptions, VideoReader, ffmpeg_path,
    last_frames,
};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn alone() -> VideoOptions {
    VideoOptions { allow_ffmpeg: false, ..VideoOptions::default() }
}

fn write(path: &Path, width: u32, height: u32, frames: u32, part: u32) {
    let options = FilmOptions::new(width, height, FrameRate::whole(24));
    let mut film = FilmWriter::create(path, &options).unwrap();
    for index in 0..frames {
        film.push(&drawn(width, height, index)).unwrap();
        if (index + 1) % part == 0 {
            film.end_part().unwrap();
        }
    }
    film.finish().unwrap();
}

/// The frame numbers that the fixtures' greys say (see `parity/media.py`).
fn numbers(frames: &[Frame]) -> Vec<i32> {
    // A corner that the moving bar leaves free.
    let grey = |f: &Frame| {
        let (left, right) = (f.pixel(1, 60).unwrap(), f.pixel(94, 60).unwrap());
        i32::from(if right[0].abs_diff(right[2]) < 12 { right[1] } else { left[1] })
    };
    frames.iter().map(|f| (grey(f) - 20 + 2).div_euclid(4)).collect()
}

#[test]
fn our_films_come_back_with_every_frame_close_to_what_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    write(&path, 96, 96, 30, 12);
    let video = VideoReader::open(&path, &alone()).unwrap();
    let info = video.info().clone();
    assert_eq!((info.width, info.height, info.frames), (96, 96, Some(30)));
    assert!((info.fps.unwrap() - 24.0).abs() < 1e-9, "{info:?}");
    let frames: Vec<_> = video.map(Result::unwrap).collect();
    assert_eq!(frames.len(), 30);
    let (worst, index) = frames
        .iter()
        .enumerate()
        .map(|(i, f)| (f.psnr(&drawn(96, 96, i as u32)).unwrap(), i))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap();
    // Subsampled colour alone leaves 29.6 dB on these saturated edges at this size (`quality.rs`); a
    // frame that is off by one position has less than 25 dB.
    assert!(worst > 28.5, "frame {index} has {worst:.2} dB");
}

#[test]
fn films_of_another_encoder_come_in_order_of_presentation() {
    for name in ["main_b_frames.mp4", "high_fragmented.mp4", "fast_start.mp4", "open_groups.mp4"] {
        let video = VideoReader::open(&fixture(name), &alone()).unwrap();
        let info = video.info().clone();
        assert_eq!((info.width, info.height, info.frames), (96, 64, Some(40)), "{name}");
        assert!((info.fps.unwrap() - 25.0).abs() < 0.7, "{name}: {info:?}");
        let frames: Vec<_> = video.map(|f| f.unwrap_or_else(|e| panic!("{name}: {e}"))).collect();
        assert_eq!(numbers(&frames), (0..40).collect::<Vec<_>>(), "{name}");
        // The bar keeps its colour: the matrix in the file is the one that is used.
        let bar = frames[10].pixel(24, 30).unwrap();
        for (got, want) in bar.iter().zip([200u8, 60, 40]) {
            assert!(got.abs_diff(want) <= 8, "{name}: the bar is {bar:?}");
        }
    }
}

#[test]
fn the_last_frames_are_those_of_the_whole_film() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("film.mp4");
    write(&ours, 64, 48, 50, 8);
    for path in [
        ours,
        fixture("main_b_frames.mp4"),
        fixture("high_fragmented.mp4"),
        fixture("open_groups.mp4"),
        fixture("fast_start.mp4"),
    ] {
        let all: Vec<_> = VideoReader::open(&path, &alone()).unwrap().map(Result::unwrap).collect();
        for count in [0, 1, 5, 17, 33, 1000] {
            let (_, tail) = last_frames(&path, count, &alone()).unwrap();
            let want = &all[all.len().saturating_sub(count)..];
            assert!(tail == want, "{} last of {}: {} frames", count, path.display(), tail.len());
        }
    }
}

/// By the built-in decoder and by ffmpeg alike.
#[test]
fn a_video_brought_to_another_rate_keeps_its_pace() {
    let files = ["main_b_frames.mp4", "vp9.webm", "ten_bit.mp4"];
    let files = &files[..if ffmpeg_path(None).is_some() { 3 } else { 1 }];
    for rate in [
        FrameRate::whole(24),
        FrameRate::whole(12),
        FrameRate::whole(60),
        FrameRate { num: 30000, den: 1001 },
    ] {
        // Of 40 frames of 25 a second, the last one that has come by each instant.
        let instant = |n: i32| (f64::from(n) * rate.as_f64() / 25.0).round() as i32;
        let expected: Vec<_> = (0..instant(40))
            .map(|k| (0..40).rfind(|&n| instant(n) <= k).expect("the first"))
            .collect();
        for name in files {
            let options = VideoOptions::at(rate);
            let video = VideoReader::open(&fixture(name), &options).unwrap();
            let info = video.info().clone();
            assert_eq!((info.brought_to, info.fps), (Some(rate), Some(25.0)), "{name}");
            assert_eq!(info.through_ffmpeg, !name.starts_with("main"));
            let frames: Vec<_> = video.map(Result::unwrap).collect();
            assert_eq!(numbers(&frames), expected, "{name} at {rate:?}");
            assert!(info.most_frames().is_none_or(|most| frames.len() as u64 <= most), "{info:?}");
            let (_, tail) = last_frames(&fixture(name), 7, &options).unwrap();
            assert_eq!(numbers(&tail), expected[expected.len() - 7..], "{name} at {rate:?}");
        }
    }
    // As good as the same: frame by frame.
    let near = VideoOptions::at(FrameRate { num: 25_000, den: 1001 });
    let video = VideoReader::open(&fixture("main_b_frames.mp4"), &near).unwrap();
    assert_eq!(video.info().brought_to, None);
    assert_eq!(video.count(), 40);
}

#[test]
fn what_the_built_in_decoder_cannot_do_says_so() {
    for (name, says) in [
        ("ten_bit.mp4", "10 bits"),
        ("vp9.webm", "WebM"),
        ("oblong.mp4", "its pixels are not square"),
    ] {
        let error = VideoReader::open(&fixture(name), &alone()).unwrap_err();
        assert!(matches!(error, MediaError::NeedsFfmpeg { .. }), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("install ffmpeg"), "{text}");
    }
}

#[test]
fn ffmpeg_reads_the_rest() {
    if ffmpeg_path(None).is_none() {
        return eprintln!("skipped: no ffmpeg on PATH");
    }
    for name in ["ten_bit.mp4", "vp9.webm", "oblong.mp4"] {
        let video = VideoReader::open(&fixture(name), &VideoOptions::default()).unwrap();
        assert!(video.info().through_ffmpeg);
        assert_eq!(video.info().fps, Some(25.0), "{name}");
        // Half as wide in the file, where pixels are oblong.
        assert_eq!((video.info().width, video.info().height), (96, 64), "{name}");
        let frames: Vec<_> = video.map(Result::unwrap).collect();
        assert_eq!(numbers(&frames), (0..40).collect::<Vec<_>>(), "{name}");
        let (_, tail) = last_frames(&fixture(name), 7, &VideoOptions::default()).unwrap();
        assert_eq!(numbers(&tail), (33..40).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_film_cut_off_in_its_last_part_gives_the_parts_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let options = FilmOptions::new(64, 48, FrameRate::whole(24));
    let mut film = FilmWriter::create(&path, &options).unwrap();
    let mut ends = Vec::new();
    for part in 0..3 {
        (0..8).for_each(|i| film.push(&drawn(64, 48, part * 8 + i)).unwrap());
        ends.push(film.end_part().unwrap().state.bytes);
    }
    drop(film);
    let bytes = std::fs::read(&path).unwrap();
    for cut in [ends[1] + 1, ends[1] + 20, ends[1] + 300, ends[2] - 1] {
        std::fs::write(&path, &bytes[..cut as usize]).unwrap();
        let video = VideoReader::open(&path, &alone()).unwrap();
        assert!(video.info().cut_off, "cut at {cut}");
        assert_eq!(video.info().frames, Some(16), "cut at {cut}");
        assert_eq!(video.map(Result::unwrap).count(), 16, "cut at {cut}");
    }
}

#[test]
fn truncated_and_foreign_files_are_named_as_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        VideoReader::open(&path, &alone()).unwrap_err()
    };
    let good = std::fs::read(fixture("main_b_frames.mp4")).unwrap();
    let error = open(&good[..good.len() / 2]);
    assert!(matches!(error, MediaError::Truncated { .. }), "{error}");
    let good = std::fs::read(fixture("fast_start.mp4")).unwrap();
    let error = open(&good[..good.len() - 10]);
    assert!(matches!(error, MediaError::Truncated { .. }), "{error}");
    assert!(matches!(open(b""), MediaError::Truncated { .. }));
    assert!(open(b"this is a text, not a video").to_string().contains("not MP4"));
    let error = VideoReader::open(Path::new("no-such.mp4"), &alone()).unwrap_err();
    assert!(matches!(error, MediaError::FileMissing { .. }), "{error}");
}

#[test]
fn frames_over_the_limit_are_refused_before_decoding() {
    let options = VideoOptions { max_pixels: 64 * 64, ..alone() };
    let error = VideoReader::open(&fixture("main_b_frames.mp4"), &options).unwrap_err();
    assert!(matches!(error, MediaError::TooLarge { width: 96, height: 64, .. }), "{error}");
}

#[test]
fn every_damaged_byte_of_a_head_is_taken_without_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    for name in ["fast_start.mp4", "high_fragmented.mp4"] {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        let mut accepted = 0;
        for at in 0..bytes.len().min(900) {
            for value in [0x00, 0xff] {
                let kept = std::mem::replace(&mut bytes[at], value);
                std::fs::write(&path, &bytes).unwrap();
                accepted += usize::from(VideoReader::open(&path, &alone()).is_ok());
                bytes[at] = kept;
            }
        }
        assert!(accepted > 0, "unimportant bytes exist");
    }
}

#[test]
fn damaged_frames_are_errors_or_pictures_but_never_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mp4");
    let good = std::fs::read(fixture("main_b_frames.mp4")).unwrap();
    let mut state = 7u32;
    for _ in 0..60 {
        let mut bytes = good.clone();
        for _ in 0..8 {
            // A small generator of its own keeps the damage the same on every run.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = state as usize % bytes.len();
            bytes[at] = (state >> 11) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(video) = VideoReader::open(&path, &alone()) {
            for frame in video {
                if frame.is_err() {
                    break;
                }
            }
        }
    }
}
