//! Frames in and out: images and videos decoded, films encoded.

mod error;
mod ffmpeg;
mod files;
mod film;
mod frame;
mod h264;
mod metadata;
mod mp4;
mod png_file;
mod yuv;

pub use error::{MediaError, Result};
pub use ffmpeg::ffmpeg_path;
pub use files::write_atomic;
pub use film::{Codec, FilmKind, FilmOptions, FilmReport, FilmState, FilmWriter, PartReport};
pub use frame::{Frame, FrameRate};
pub use metadata::read_metadata;
pub use png_file::{encode_png, write_png};
