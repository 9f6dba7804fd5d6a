//! PNG, JPEG, WebP and their EXIF orientation.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use longreel_media::{ImageLimits, decode_image};

fuzz_target!(|data: &[u8]| {
    let _ = decode_image(data, Path::new("picture"), &ImageLimits::default());
});
