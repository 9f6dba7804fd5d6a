//! The ISO base media file format: what is needed to write one video track in fragments and to
//! read one back.
//!
//! The boxes are written and read here instead of through a crate because a film that is resumed by
//! a later version must continue byte for byte, because the duration is patched in place, and
//! because a hostile file must not make a table of four billion entries: all three need the exact
//! bytes under our control, and the boxes concerned are few.

pub(crate) mod boxes;
pub(crate) mod demux;
pub(crate) mod fragment;
pub(crate) mod init;
pub(crate) mod read;
pub(crate) mod stream;
pub(crate) mod tables;
