//! The finished segments of a film.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A segment that is finished and whose checkpoint is safe, as its worker reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SegmentDone {
    /// From 0.
    pub segment: u32,
    /// Pixel frames of the film so far.
    pub frames: u64,
    /// The prompt it was made from. Cut at 64 KiB.
    pub prompt: String,
    /// The seed it was made from.
    pub seed: u64,
    /// Where it lies in the film's file, when it lies in one.
    pub bytes: Option<PartBytes>,
}

impl SegmentDone {
    /// A segment of which nothing else is known.
    pub fn new(segment: u32, frames: u64) -> Self {
        Self { segment, frames, ..Self::default() }
    }
}

/// A range of bytes in a film's file, counted from the end of the file's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartBytes {
    /// The first byte.
    pub start: u64,
    /// The byte behind the last one. Not before `start`.
    pub end: u64,
}

/// A finished segment, as it is kept. It stays as it was first reported.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// What its worker reported.
    pub done: SegmentDone,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// How its look differs from the first one's, when that was reported too.
    pub drift: Option<Value>,
}
