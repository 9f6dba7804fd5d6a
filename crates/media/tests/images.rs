//! Images against Pillow, and images that nobody should accept.

use longreel_media::{
    Filter, Fit, Frame, ImageLimits, MediaError, decode_image, encode_png, fit, load_image, resize,
};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn load(name: &str) -> Frame {
    load_image(&fixture(name), &ImageLimits::default()).unwrap().frame
}

/// Asserts that no channel of any pixel differs by more than `levels`; names the worst.
fn assert_close(name: &str, got: &Frame, want: &Frame, levels: u8) {
    assert_eq!((got.width(), got.height()), (want.width(), want.height()), "{name}");
    let (at, worst) = got
        .rgb()
        .iter()
        .zip(want.rgb())
        .map(|(a, b)| a.abs_diff(*b))
        .enumerate()
        .max_by_key(|p| p.1)
        .unwrap();
    assert!(
        worst <= levels,
        "{name}: byte {at} is {}, Pillow has {}; allowed {levels}",
        got.rgb()[at],
        want.rgb()[at]
    );
}

#[test]
fn resizing_equals_pillow_lanczos() {
    let source = load("resize_source.png");
    for (w, h) in [(32, 32), (96, 128), (17, 80), (61, 20)] {
        let name = format!("resize_{w}x{h}.png");
        // The same fixed-point arithmetic; a level is left for the last bit of the sine.
        assert_close(&name, &resize(&source, w, h, Filter::Lanczos).unwrap(), &load(&name), 1);
    }
}

#[test]
fn bicubic_resizing_equals_pillow() {
    let source = load("resize_source.png");
    for (w, h) in [(17, 80), (61, 20), (40, 10)] {
        let name = format!("bicubic_{w}x{h}.png");
        assert_close(&name, &resize(&source, w, h, Filter::Bicubic).unwrap(), &load(&name), 0);
    }
}

#[test]
fn a_centred_crop_equals_pillow_resizing_a_region() {
    let source = load("resize_source.png");
    let (cropped, report) = fit(&source, 46, 47, Fit::Crop).unwrap();
    assert_close("resize_region.png", &cropped, &load("resize_region.png"), 1);
    assert_eq!(report.to_string(), "61x47 cropped to its central 46x47 and scaled to 46x47");
}

#[test]
fn every_format_is_decoded_upright_as_pillow_does() {
    for (name, levels) in [
        ("palette.png", 0),
        ("turned.png", 0),
        ("deep.png", 0),
        // Rounding of the mixture.
        ("clear.png", 1),
        ("lossless.webp", 0),
        // Inverse transforms and colour conversion round differently from one decoder to another,
        // by up to two levels each.
        ("lossy.webp", 4),
        ("photo.jpg", 6),
        ("progressive.jpg", 4),
        ("grey.jpg", 2),
        ("cmyk.jpg", 4),
    ] {
        assert_close(name, &load(name), &load(&format!("{name}.png")), levels);
    }
    let photo = load_image(&fixture("photo.jpg"), &ImageLimits::default()).unwrap();
    assert_eq!((photo.orientation, photo.frame.width(), photo.frame.height()), (6, 24, 40));
}

#[test]
fn padding_shows_all_of_the_image_between_equal_bars() {
    let (padded, report) = fit(&Frame::filled(40, 20, [200, 10, 10]), 32, 32, Fit::Pad).unwrap();
    assert_eq!(report.target, [0, 8, 32, 16]);
    assert_eq!(padded.pixel(0, 7), Some([0; 3]));
    assert_eq!(padded.pixel(0, 8), Some([200, 10, 10]));
    assert_eq!(padded.pixel(31, 23), Some([200, 10, 10]));
    assert_eq!(padded.pixel(31, 24), Some([0; 3]));
    assert_eq!(report.to_string(), "40x20 scaled to 32x16 and padded with black to 32x32");
    assert!(fit(&padded, 0, 4, Fit::Pad).is_err());
    assert!(fit(&padded, 4, 0, Fit::Crop).is_err());
    assert!(fit(&padded, 0, 4, Fit::Stretch).is_err());
}

#[test]
fn a_png_of_50000_by_50000_is_refused_by_its_header() {
    // A real header for that size over a picture that is not there.
    let mut bytes = encode_png(&Frame::filled(2, 2, [1, 2, 3]), None);
    bytes[16..20].copy_from_slice(&50_000u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&50_000u32.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = decode_image(&bytes, Path::new("big.png"), &ImageLimits::default()).unwrap_err();
    assert!(matches!(error, MediaError::TooLarge { width: 50_000, height: 50_000, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("50000x50000") && text.contains("30000"), "{text}");
}

#[test]
fn a_jpeg_of_50000_by_50000_is_refused_by_its_header() {
    let mut bytes = std::fs::read(fixture("progressive.jpg")).unwrap();
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&50_000u16.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&50_000u16.to_be_bytes());
    let error = decode_image(&bytes, Path::new("big.jpg"), &ImageLimits::default()).unwrap_err();
    assert!(matches!(error, MediaError::TooLarge { width: 50_000, height: 50_000, .. }), "{error}");
}

#[test]
fn every_cut_of_every_format_is_an_error_and_never_a_panic() {
    for name in ["turned.png", "photo.jpg", "progressive.jpg", "lossless.webp", "lossy.webp"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        // The last bytes of a PNG are only its end mark.
        for end in (0..bytes.len() - 16).step_by(7) {
            let result = decode_image(&bytes[..end], Path::new(name), &ImageLimits::default());
            assert!(result.is_err(), "{name} cut at {end} of {} was accepted", bytes.len());
        }
        let half =
            decode_image(&bytes[..bytes.len() / 2], Path::new(name), &ImageLimits::default());
        let text = half.unwrap_err().to_string();
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn every_single_damaged_byte_is_taken_without_a_panic() {
    for name in ["turned.png", "progressive.jpg", "lossless.webp", "lossy.webp"] {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        for at in 0..bytes.len() {
            let kept = bytes[at];
            bytes[at] ^= 0xff;
            let _ = decode_image(&bytes, Path::new(name), &ImageLimits::default());
            bytes[at] = kept;
        }
    }
}

#[test]
fn content_decides_and_not_the_name() {
    let bytes = std::fs::read(fixture("photo.jpg")).unwrap();
    decode_image(&bytes, Path::new("wrong.png"), &ImageLimits::default()).unwrap();
    for (bytes, says) in [
        (&b""[..], "empty"),
        (b"GIF89a....", "GIF"),
        (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"hello, world", "PNG, JPEG or WebP"),
    ] {
        let error = decode_image(bytes, Path::new("x.png"), &ImageLimits::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = load_image(Path::new("no-such.png"), &ImageLimits::default()).unwrap_err();
    assert!(matches!(error, MediaError::FileMissing { .. }), "{error}");
}

/// The checksum of PNG (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 },
        )
    })
}
