//! Frames in and out: images and videos decoded, films encoded.
