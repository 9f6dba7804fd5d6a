//! PNG out: one picture, with text in it.

use crate::error::{Result, write_error};
use crate::files::{beside, write_atomic};
use crate::frame::Frame;
use std::io::Write;
use std::path::Path;

/// Writes `frame` as a PNG file, whole or not at all, with `metadata` as its comment.
///
/// # Errors
/// What [`write_atomic`](crate::write_atomic) gives.
pub fn write_png(path: &Path, frame: &Frame, metadata: Option<&str>) -> Result<()> {
    write_atomic(path, &encode_png(frame, metadata))
}

/// The bytes of a PNG file.
#[must_use]
pub fn encode_png(frame: &Frame, metadata: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut make = || -> Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(&mut bytes, frame.width(), frame.height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Balanced);
        encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
        if let Some(text) = metadata {
            // International text, because prompts are in any language.
            encoder.add_itxt_chunk("Comment".to_owned(), text.to_owned())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(frame.rgb())?;
        writer.finish()
    };
    // A frame has a size that PNG can hold and the right number of bytes, and memory does not
    // refuse writes.
    make().expect("a valid frame can be encoded into memory");
    bytes
}

/// Writes a file in one rename, without waiting for the disk.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = beside(path, "tmp");
    let attempt = || -> std::io::Result<()> {
        std::fs::File::create(&beside)?.write_all(bytes)?;
        std::fs::rename(&beside, path)
    };
    attempt().map_err(|cause| {
        let _ = std::fs::remove_file(&beside);
        write_error(path, cause)
    })
}
