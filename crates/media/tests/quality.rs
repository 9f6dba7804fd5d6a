//! How good a film looks after the built-in encoder, measured on drawn films.
//!
//! Run with `--nocapture` to see the numbers.

mod common;

use common::drawn;
use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate, VideoOptions, VideoReader};
use std::time::Instant;

/// PSNR in dB of luma (BT.709 weights), which chroma subsampling leaves alone.
fn luma_psnr(a: &Frame, b: &Frame) -> f64 {
    let luma =
        |p: &[u8]| 0.2126 * f64::from(p[0]) + 0.7152 * f64::from(p[1]) + 0.0722 * f64::from(p[2]);
    let pixels = || a.rgb().chunks_exact(3).zip(b.rgb().chunks_exact(3));
    let sum: f64 = pixels().map(|(p, q)| (luma(p) - luma(q)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * pixels().count() as f64 / sum).log10()
}

struct Measured {
    rgb: f64,
    luma: f64,
    bytes: u64,
}

/// Encodes and decodes `count` frames; the worst frame's numbers.
fn measure(width: u32, height: u32, count: u32, crf: Option<u8>) -> Measured {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let options = FilmOptions { crf, ..FilmOptions::new(width, height, FrameRate::whole(24)) };
    let frames: Vec<_> = (0..count).map(|i| drawn(width, height, i)).collect();
    let start = Instant::now();
    let mut film = FilmWriter::create(&path, &options).unwrap();
    frames.iter().for_each(|f| film.push(f).unwrap());
    let bytes = film.finish().unwrap().bytes;
    let encoding = start.elapsed();
    let start = Instant::now();
    let options = VideoOptions { allow_ffmpeg: false, ..VideoOptions::default() };
    let video = VideoReader::open(&path, &options).unwrap();
    let back: Vec<_> = video.map(Result::unwrap).collect();
    let decoding = start.elapsed();
    assert_eq!(back.len(), frames.len());
    let worst = |measure: &dyn Fn(&Frame, &Frame) -> f64| {
        back.iter().zip(&frames).map(|(a, b)| measure(a, b)).fold(f64::INFINITY, f64::min)
    };
    let measured =
        Measured { rgb: worst(&|a, b| a.psnr(b).unwrap()), luma: worst(&luma_psnr), bytes };
    println!(
        "{width}x{height} crf {crf:?}: worst frame {:.2} dB RGB, {:.2} dB luma, {} bytes a frame, \
         encoding {:.2} ms and decoding {:.2} ms a frame",
        measured.rgb,
        measured.luma,
        bytes / u64::from(count),
        encoding.as_secs_f64() * 1e3 / f64::from(count),
        decoding.as_secs_f64() * 1e3 / f64::from(count),
    );
    measured
}

#[test]
fn small_films_stay_clean() {
    // Subsampled colour alone costs a picture of 96x96 with these saturated edges all but 29.6 dB
    // (quantiser 0 does not exceed it); the encoder may take half a dB of it. Luma, which shows
    // what the encoder itself does, stays where no difference is seen.
    let lossless = measure(96, 96, 48, Some(0));
    let usual = measure(96, 96, 48, None);
    assert!(usual.rgb > lossless.rgb - 0.5, "{:.2} against {:.2}", usual.rgb, lossless.rgb);
    assert!(usual.luma > 43.0, "{:.2}", usual.luma);
    assert!(usual.bytes < 48 * 1000, "{} bytes", usual.bytes);
}

#[test]
fn large_films_stay_clean() {
    let usual = measure(544, 960, 12, None);
    assert!(usual.rgb > 36.0, "{:.2}", usual.rgb);
    assert!(usual.luma > 46.0, "{:.2}", usual.luma);
}

#[test]
fn a_higher_quantiser_makes_a_smaller_film() {
    let (fine, coarse) = (measure(96, 96, 24, Some(12)), measure(96, 96, 24, Some(32)));
    assert!(coarse.bytes < fine.bytes && coarse.luma < fine.luma);
}
