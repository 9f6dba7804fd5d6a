//! The head of a fragmented film: everything a player needs before the first fragment.

use super::boxes::BoxWriter;
use crate::frame::FrameRate;
use crate::h264::encoder::ParameterSets;

/// What the head says about the only track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrackSpec {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) rate: FrameRate,
    /// The sample entry (`avc1`, `hvc1`, `av01`) as a whole box.
    pub(crate) sample_entry: Vec<u8>,
    /// Frames by which presentation lags behind decoding: the reordering depth of B-frames.
    pub(crate) delay_frames: u32,
    /// Stored as the file's comment.
    pub(crate) metadata: Option<String>,
}

/// Ticks that one frame lasts for each second of the rate's denominator. Frames of 24 per second
/// last 512 ticks of 1/12288 s, as most tools write it.
const TICKS: u32 = 512;

impl TrackSpec {
    /// Ticks in a second.
    pub(crate) fn timescale(&self) -> u32 {
        // The rate's fields are at most a million (`FrameRate::check`).
        self.rate.num * TICKS
    }

    /// Ticks that a frame lasts.
    pub(crate) fn frame_ticks(&self) -> u32 {
        self.rate.den * TICKS
    }
}

/// The head's bytes and where the film's duration is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InitSegment {
    pub(crate) bytes: Vec<u8>,
    /// Offset of the 64-bit duration in `mehd`, in ticks; zero until the first part is closed.
    pub(crate) duration_at: usize,
}

impl InitSegment {
    /// True when `other` is this head, whatever its duration says.
    pub(crate) fn equals_but_duration(&self, other: &[u8]) -> bool {
        let at = self.duration_at;
        other.len() == self.bytes.len()
            && other[..at] == self.bytes[..at]
            && other[at + 8..] == self.bytes[at + 8..]
    }
}

/// Builds `ftyp` and `moov`. Times of creation are left at zero, so that equal films are equal
/// files.
pub(crate) fn init_segment(track: &TrackSpec) -> InitSegment {
    let mut w = BoxWriter::default();
    w.boxed(b"ftyp", |w| {
        w.raw(b"iso5").u32(512).raw(b"iso5iso6mp41");
    });
    let mut duration_at = 0;
    w.boxed(b"moov", |w| {
        w.full(b"mvhd", 0, 0, |w| {
            w.u32(0).u32(0).u32(track.timescale()).u32(0);
            w.u32(0x0001_0000).u16(0x0100).zeros(10);
            matrix(w);
            w.zeros(24).u32(2);
        });
        w.boxed(b"trak", |w| trak(w, track));
        w.boxed(b"mvex", |w| {
            w.full(b"mehd", 1, 0, |w| {
                duration_at = w.bytes.len();
                w.u64(0);
            });
            w.full(b"trex", 0, 0, |w| {
                w.u32(1).u32(1).u32(track.frame_ticks()).u32(0).u32(0);
            });
        });
        if let Some(text) = &track.metadata {
            w.boxed(b"udta", |w| comment(w, text));
        }
    });
    InitSegment { bytes: w.bytes, duration_at }
}

fn trak(w: &mut BoxWriter, track: &TrackSpec) {
    // Flags 3: enabled and part of the presentation.
    w.full(b"tkhd", 0, 3, |w| {
        w.u32(0).u32(0).u32(1).u32(0).u32(0);
        w.zeros(8).u16(0).u16(0).u16(0).u16(0);
        matrix(w);
        w.u32(track.width << 16).u32(track.height << 16);
    });
    if track.delay_frames > 0 {
        w.boxed(b"edts", |w| {
            w.full(b"elst", 0, 0, |w| {
                // A duration of zero means "to the end" in a film of fragments.
                w.u32(1).u32(0).u32(track.delay_frames * track.frame_ticks());
                w.u32(0x0001_0000);
            });
        });
    }
    w.boxed(b"mdia", |w| {
        w.full(b"mdhd", 0, 0, |w| {
            w.u32(0).u32(0).u32(track.timescale()).u32(0);
            w.u16(0x55c4).u16(0); // language "und"
        });
        w.full(b"hdlr", 0, 0, |w| {
            w.u32(0).raw(b"vide").zeros(12).raw(b"VideoHandler\0");
        });
        w.boxed(b"minf", |w| {
            w.full(b"vmhd", 0, 1, |w| {
                w.zeros(8);
            });
            w.boxed(b"dinf", |w| {
                w.full(b"dref", 0, 0, |w| {
                    w.u32(1).full(b"url ", 0, 1, |_| {});
                });
            });
            w.boxed(b"stbl", |w| {
                w.full(b"stsd", 0, 0, |w| {
                    w.u32(1).raw(&track.sample_entry);
                });
                for table in [b"stts", b"stsc", b"stco"] {
                    w.full(table, 0, 0, |w| {
                        w.u32(0);
                    });
                }
                w.full(b"stsz", 0, 0, |w| {
                    w.u32(0).u32(0);
                });
            });
        });
    });
}

fn matrix(w: &mut BoxWriter) {
    for value in [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000] {
        w.u32(value);
    }
}

/// The comment in the form that iTunes introduced and every tool shows.
fn comment(w: &mut BoxWriter, text: &str) {
    w.full(b"meta", 0, 0, |w| {
        w.full(b"hdlr", 0, 0, |w| {
            w.u32(0).raw(b"mdirappl").zeros(9);
        });
        w.boxed(b"ilst", |w| {
            w.boxed(b"\xa9cmt", |w| {
                w.boxed(b"data", |w| {
                    // Type 1 is UTF-8; the second word is a locale.
                    w.u32(1).u32(0).raw(text.as_bytes());
                });
            });
        });
    });
}

/// The `avc1` sample entry with its decoder configuration and BT.709 colour tags.
pub(crate) fn avc1_entry(width: u32, height: u32, sets: &ParameterSets) -> Vec<u8> {
    let mut w = BoxWriter::default();
    w.boxed(b"avc1", |w| {
        w.zeros(6).u16(1); // data reference 1
        w.zeros(16);
        // The encoder's sizes are at most 3840.
        w.u16(width as u16).u16(height as u16);
        w.u32(0x0048_0000).u32(0x0048_0000).u32(0).u16(1);
        w.zeros(32); // compressor name
        w.u16(24).u16(0xffff);
        w.boxed(b"avcC", |w| {
            let sps = &sets.sps;
            w.u8(1).u8(sps[1]).u8(sps[2]).u8(sps[3]);
            w.u8(0xff); // lengths of four bytes
            w.u8(0xe1).u16(sps.len() as u16).raw(sps);
            w.u8(1).u16(sets.pps.len() as u16).raw(&sets.pps);
        });
        w.boxed(b"colr", |w| {
            w.raw(b"nclx").u16(1).u16(1).u16(1).u8(0);
        });
        w.boxed(b"pasp", |w| {
            w.u32(1).u32(1);
        });
    });
    w.bytes
}
