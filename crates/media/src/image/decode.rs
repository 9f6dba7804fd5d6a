//! PNG, JPEG and WebP, told apart by their content.
//!
//! The three decoders are used directly; the `image` crate over them would add its colour
//! management, which takes longer to compile than all of them together.

use super::{exif, oriented};
use crate::error::{MediaError, Result, read_error};
use crate::files::open_regular;
use crate::frame::Frame;
use std::fmt;
use std::io::{Cursor, Read};
use std::path::Path;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The largest images that are decoded. They are checked against the header, before anything of
/// the picture is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Longest side in pixels.
    pub max_side: u32,
    /// Most pixels.
    pub max_pixels: u64,
    /// Longest file in bytes.
    pub max_bytes: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_side: 30_000, max_pixels: 120_000_000, max_bytes: 512 << 20 }
    }
}

impl ImageLimits {
    fn check(&self, path: &Path, width: u64, height: u64) -> Result<()> {
        let side = u64::from(self.max_side);
        if width <= side && height <= side && width * height <= self.max_pixels {
            return Ok(());
        }
        Err(MediaError::TooLarge {
            path: path.to_path_buf(),
            width,
            height,
            limit: format!("{side} pixels a side and {} pixels in all", self.max_pixels),
        })
    }
}

/// What an image file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// PNG of any colour type and depth.
    Png,
    /// Baseline or progressive JPEG.
    Jpeg,
    /// Lossy or lossless WebP; of an animation the first frame.
    WebP,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
        })
    }
}

/// A decoded image, upright.
#[derive(Debug, Clone)]
pub struct LoadedImage {
    /// The picture. Transparent parts are laid over white, as a viewer shows them.
    pub frame: Frame,
    /// What the file is.
    pub format: ImageFormat,
    /// The EXIF orientation that was applied, 1 when there was none.
    pub orientation: u8,
}

/// Reads the image file at `path`.
///
/// # Errors
/// [`MediaError::TooLarge`], [`MediaError::UnknownFormat`], [`MediaError::Truncated`],
/// [`MediaError::Damaged`], or what the disk says.
pub fn load_image(path: &Path, limits: &ImageLimits) -> Result<LoadedImage> {
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a longer file from one that just fits.
    file.take(limits.max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| read_error(path, e))?;
    decode_image(&bytes, path, limits)
}

/// Decodes the image file that `bytes` are; `path` is what errors call it.
///
/// # Errors
/// As [`load_image`].
pub fn decode_image(bytes: &[u8], path: &Path, limits: &ImageLimits) -> Result<LoadedImage> {
    if bytes.len() as u64 > limits.max_bytes {
        return Err(MediaError::Damaged {
            path: path.to_path_buf(),
            detail: format!("it is longer than {} bytes, the limit for an image", limits.max_bytes),
        });
    }
    let source = Source { bytes, path, limits };
    let (frame, format, orientation) = match bytes {
        [0x89, b'P', b'N', b'G', ..] => source.png()?,
        [0xff, 0xd8, 0xff, ..] => source.jpeg()?,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => source.webp()?,
        _ => return Err(unknown(bytes, path)),
    };
    Ok(LoadedImage { frame: oriented(frame, orientation), format, orientation })
}

fn unknown(bytes: &[u8], path: &Path) -> MediaError {
    MediaError::UnknownFormat {
        path: path.to_path_buf(),
        found: kind_in_words(bytes),
        cure: "images are read as PNG, JPEG or WebP".to_owned(),
    }
}

/// What a file is that is no picture of a kind that is read, by its first bytes: `it is a GIF`.
pub fn kind_in_words(first: &[u8]) -> String {
    match first {
        [] => "it is empty".to_owned(),
        [b'G', b'I', b'F', ..] => "it is a GIF".to_owned(),
        [b'B', b'M', ..] => "it is a BMP".to_owned(),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "it is a TIFF".to_owned(),
        [_, _, _, _, b'f', b't', b'y', b'p', kind @ ..] => match kind.get(..4) {
            Some(b"avif" | b"avis" | b"heic" | b"heix" | b"mif1" | b"msf1") => {
                "it is AVIF or HEIC".to_owned()
            }
            _ => "it is a video".to_owned(),
        },
        _ => format!("it begins with {:02x?}", &first[..first.len().min(8)]),
    }
}

/// Whether a baseline JPEG's first scan holds fewer colours than the picture. The decoder gives such
/// pictures without their colours and says nothing; hardly anything writes them.
fn has_scan_for_each_colour(bytes: &[u8]) -> bool {
    let (mut at, mut components) = (2, None);
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        match marker {
            // Sequential, by Huffman; the number of components is behind precision, height and width.
            0xc0 | 0xc1 => components = bytes.get(at + 9),
            0xda => return components.is_some_and(|all| bytes.get(at + 4) < Some(all)),
            _ => {}
        }
        at += 2 + length;
    }
    false
}

struct Source<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    limits: &'a ImageLimits,
}

impl Source<'_> {
    fn damaged(&self, detail: impl fmt::Display) -> MediaError {
        MediaError::Damaged {
            path: self.path.to_path_buf(),
            detail: detail.to_string().trim().to_owned(),
        }
    }

    fn truncated(&self, format: ImageFormat) -> MediaError {
        MediaError::Truncated {
            path: self.path.to_path_buf(),
            detail: format!("the {format} picture ends early, after {} bytes", self.bytes.len()),
        }
    }

    fn png(&self) -> Result<(Frame, ImageFormat, u8)> {
        let failed = |error: png::DecodingError| match error {
            png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.truncated(ImageFormat::Png)
            }
            other => self.damaged(other),
        };
        let mut decoder = png::Decoder::new(Cursor::new(self.bytes));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let header = decoder.read_header_info().map_err(failed)?;
        self.limits.check(self.path, header.width.into(), header.height.into())?;
        let mut reader = decoder.read_info().map_err(failed)?;
        let size = reader.output_buffer_size().ok_or_else(|| self.damaged("it is too large"))?;
        let mut pixels = vec![0; size];
        let output = reader.next_frame(&mut pixels).map_err(failed)?;
        pixels.truncate(output.buffer_size());
        let orientation = reader.info().exif_metadata.as_deref().map_or(1, exif::orientation);
        let rgb = match output.color_type {
            png::ColorType::Rgb => pixels,
            png::ColorType::Rgba => over_white(&pixels, |p| ([p[0], p[1], p[2]], p[3]), 4),
            png::ColorType::Grayscale => over_white(&pixels, |p| ([p[0]; 3], 255), 1),
            png::ColorType::GrayscaleAlpha => over_white(&pixels, |p| ([p[0]; 3], p[1]), 2),
            png::ColorType::Indexed => return Err(self.damaged("its palette was not applied")),
        };
        Ok((Frame::new(output.width, output.height, rgb)?, ImageFormat::Png, orientation))
    }

    fn jpeg(&self) -> Result<(Frame, ImageFormat, u8)> {
        // The decoder fills a missing end with grey. The end marker of the picture itself comes
        // behind its last scan; that of a thumbnail comes before.
        let last = |marker: u8| self.bytes.windows(2).rposition(|w| w == [0xff, marker]);
        if last(0xd9) < last(0xda) {
            return Err(self.truncated(ImageFormat::Jpeg));
        }
        let side = self.limits.max_side as usize;
        let options = DecoderOptions::default()
            // Larger headers reach the check below, which names the size.
            .set_max_width(65535.max(side))
            .set_max_height(65535.max(side))
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        if has_scan_for_each_colour(self.bytes) {
            return Err(self.damaged(
                "it is a baseline JPEG with a scan for each colour, which is not read; save it again \
                 as a progressive JPEG or a PNG",
            ));
        }
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(self.bytes), options);
        decoder.decode_headers().map_err(|e| self.damaged(e))?;
        let info = decoder.info().ok_or_else(|| self.damaged("it has no header"))?;
        self.limits.check(self.path, info.width.into(), info.height.into())?;
        let orientation = decoder.exif().map_or(1, |block| exif::orientation(block));
        let pixels = decoder.decode().map_err(|e| self.damaged(e))?;
        let frame = Frame::new(info.width.into(), info.height.into(), pixels)?;
        Ok((frame, ImageFormat::Jpeg, orientation))
    }

    fn webp(&self) -> Result<(Frame, ImageFormat, u8)> {
        use image_webp::DecodingError;
        let failed = |error: DecodingError| match error {
            DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.truncated(ImageFormat::WebP)
            }
            other => self.damaged(other),
        };
        // Whole chunks may be missing at the end without any harm to the picture; the length in the
        // header still tells that the file is not what it was.
        let riff =
            self.bytes.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        if u64::from(riff) + 8 > self.bytes.len() as u64 {
            return Err(self.truncated(ImageFormat::WebP));
        }
        let mut decoder = image_webp::WebPDecoder::new(Cursor::new(self.bytes)).map_err(failed)?;
        let (width, height) = decoder.dimensions();
        self.limits.check(self.path, width.into(), height.into())?;
        decoder.set_memory_limit(self.limits.max_bytes as usize);
        let size = decoder.output_buffer_size().ok_or_else(|| self.damaged("it is too large"))?;
        let mut pixels = vec![0; size];
        if decoder.is_animated() {
            decoder.read_frame(&mut pixels).map_err(failed)?;
        } else {
            decoder.read_image(&mut pixels).map_err(failed)?;
        }
        let rgb = match decoder.has_alpha() {
            true => over_white(&pixels, |p| ([p[0], p[1], p[2]], p[3]), 4),
            false => pixels,
        };
        let block = decoder.exif_metadata().ok().flatten();
        let orientation = block.map_or(1, |b| exif::orientation(&b));
        Ok((Frame::new(width, height, rgb)?, ImageFormat::WebP, orientation))
    }
}

/// Pixels of `channels` bytes each, read by `split` as colour and opacity, laid over white.
fn over_white(pixels: &[u8], split: impl Fn(&[u8]) -> ([u8; 3], u8), channels: usize) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(pixels.len() / channels * 3);
    for pixel in pixels.chunks_exact(channels) {
        let (colour, opacity) = split(pixel);
        let a = u32::from(opacity);
        rgb.extend(colour.map(|c| ((u32::from(c) * a + 255 * (255 - a) + 127) / 255) as u8));
    }
    rgb
}
