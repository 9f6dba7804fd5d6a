//! Frames in and out: images and videos decoded, films encoded.
//!
//! The nouns: a [`Frame`] is one 8-bit RGB picture. A [`FilmWriter`] takes frames and writes a film
//! in parts, each of which is safe on the disk when it is closed; a [`FilmState`] resumes it after a
//! crash. A [`VideoReader`] gives the frames of a video one after another, [`last_frames`] those at
//! its end. [`load_image`] decodes a picture and [`fit`] brings it to a size. Everything that can go
//! wrong is a [`MediaError`], which names the way out.
//!
//! Nothing needs to be installed for H.264 in MP4, GIF, PNG, JPEG and WebP; other codecs go through
//! ffmpeg when there is one.
//!
//! ```
//! use longreel_media::{FilmOptions, FilmWriter, Frame, FrameRate, VideoOptions, VideoReader};
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("film.mp4");
//! let mut film = FilmWriter::create(&path, &FilmOptions::new(64, 48, FrameRate::whole(16)))?;
//! for level in 0..10 {
//!     film.push(&Frame::filled(64, 48, [20 * level, 90, 160]))?;
//! }
//! film.finish()?;
//!
//! let video = VideoReader::open(&path, &VideoOptions::default())?;
//! assert_eq!(video.info().frames, Some(10));
//! for frame in video {
//!     assert_eq!(frame?.width(), 64);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod count;
mod error;
mod ffmpeg;
mod files;
mod film;
mod frame;
mod h264;
mod image;
mod jpeg_file;
mod metadata;
mod mp4;
mod png_file;
mod sheet;
mod video;
mod yuv;

pub use count::count_frames;
pub use error::{MediaError, Result};
pub use ffmpeg::ffmpeg_path;
pub use files::{lock, write_atomic};
pub use film::{
    Codec, FilmKind, FilmOptions, FilmReport, FilmState, FilmWriter, MAX_PART_FRAMES, PartReport,
};
pub use frame::{Frame, FrameRate};
pub use h264::encoder::encoder_bytes;
pub use image::{
    Filter, Fit, FitReport, ImageFormat, ImageLimits, LoadedImage, Resizer, decode_image, fit,
    kind_in_words, load_image, resize,
};
pub use jpeg_file::{encode_jpeg, write_jpeg};
pub use metadata::read_metadata;
pub use mp4::stream::{HEAD_START_BYTES, head_length, stream_head};
pub use png_file::{encode_png, write_png};
pub use sheet::{contact_sheet, thumbnail};
pub use video::{VideoInfo, VideoOptions, VideoReader, last_frames};
