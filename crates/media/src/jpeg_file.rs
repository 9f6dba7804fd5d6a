//! JPEG out, for pictures that are looked at and thrown away: a fifth of a PNG's size.

use crate::error::{MediaError, Result};
use crate::files::write_atomic;
use crate::frame::Frame;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use std::path::Path;

/// Above this the eye sees little more, below it edges of drawn shapes begin to ring.
const QUALITY: u8 = 85;

/// Writes `frame` as a JPEG file, whole or not at all.
///
/// # Errors
/// What [`encode_jpeg`] and [`write_atomic`](crate::write_atomic) give.
pub fn write_jpeg(path: &Path, frame: &Frame) -> Result<()> {
    write_atomic(path, &encode_jpeg(frame)?)
}

/// The bytes of a JPEG file: baseline, so that every browser shows it, quality 85, colour at half the
/// resolution.
///
/// # Errors
/// [`MediaError::Setting`] for a side of more than 65,535 pixels.
pub fn encode_jpeg(frame: &Frame) -> Result<Vec<u8>> {
    let refuse = |rule: String| MediaError::Setting {
        what: "JPEG picture",
        value: format!("{}x{}", frame.width(), frame.height()),
        rule,
        cure: "make it smaller, or write a PNG".to_owned(),
    };
    let side = |length: u32| {
        u16::try_from(length).map_err(|_| refuse("a side has at most 65535 pixels".to_owned()))
    };
    let (width, height) = (side(frame.width())?, side(frame.height())?);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    // Not with tables of its own: those come with a scan for each colour, which some decoders, ours among
    // them, cannot put together.
    encoder
        .encode(frame.rgb(), width, height, ColorType::Rgb)
        .map_err(|error| refuse(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ImageLimits, decode_image};

    /// Soft colours with one hard edge, as films of drawn shapes have them.
    fn picture(width: u32, height: u32) -> Frame {
        let mut frame = Frame::filled(width, height, [0; 3]);
        for (at, pixel) in frame.rgb_mut().chunks_exact_mut(3).enumerate() {
            let (x, y) = (at as u32 % width, at as u32 / width);
            let inside = (x > width / 3) && (y > height / 3);
            let soft = |n: u32, of: u32| (40 + n * 150 / of) as u8;
            let colour = if inside { [200, 60, 50] } else { [soft(x, width), 90, soft(y, height)] };
            pixel.copy_from_slice(&colour);
        }
        frame
    }

    #[test]
    fn a_picture_comes_back_much_alike_and_much_smaller_than_a_png() {
        for (width, height) in [(96, 64), (17, 33), (1, 1)] {
            let frame = picture(width, height);
            let bytes = encode_jpeg(&frame).unwrap();
            let limits = ImageLimits::default();
            let back = decode_image(&bytes, Path::new("a.jpg"), &limits).unwrap().frame;
            assert_eq!((back.width(), back.height()), (width, height));
            let psnr = frame.psnr(&back).expect("one size");
            assert!(psnr > 29.0, "{width}x{height}: {psnr} dB");
        }
        let large = picture(960, 544);
        let (jpeg, png) = (encode_jpeg(&large).unwrap(), crate::encode_png(&large, None));
        println!("960x544: JPEG {} bytes, PNG {} bytes", jpeg.len(), png.len());
        assert!(jpeg.len() < 60_000, "{}", jpeg.len());
    }

    #[test]
    fn a_jpeg_that_would_come_back_without_its_colours_is_refused() {
        let frame = picture(96, 64);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, QUALITY);
        encoder.set_optimized_huffman_tables(true);
        encoder.encode(frame.rgb(), 96, 64, ColorType::Rgb).unwrap();
        let limits = ImageLimits::default();
        let error = decode_image(&bytes, Path::new("a.jpg"), &limits).unwrap_err().to_string();
        assert!(error.contains("scan for each colour") && error.contains("PNG"), "{error}");
    }

    #[test]
    fn a_picture_that_is_too_wide_is_refused() {
        let error = encode_jpeg(&Frame::filled(65_536, 1, [0; 3])).unwrap_err().to_string();
        assert!(error.contains("65536x1") && error.contains("65535"), "{error}");
    }
}
