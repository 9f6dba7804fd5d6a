//! One fragment of a film: `moof` with the sizes and times, `mdat` with the samples.

use super::boxes::BoxWriter;
use crate::error::{MediaError, Result};

/// One encoded frame of a fragment, in decoding order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FragmentSample {
    pub(crate) size: u32,
    /// Presentation time minus decoding time, in frames.
    pub(crate) shift_frames: u32,
    /// Decoding can start here.
    pub(crate) sync: bool,
}

/// The samples of a part that is being built.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) entries: Vec<FragmentSample>,
    pub(crate) data: Vec<u8>,
}

impl Samples {
    pub(crate) fn push(&mut self, bytes: &[u8], shift_frames: u32, sync: bool) {
        let size = bytes.len() as u32;
        self.entries.push(FragmentSample { size, shift_frames, sync });
        self.data.extend_from_slice(bytes);
    }
}

/// Bytes from the start of a `moof` written here to its 64-bit decode time.
pub(crate) const DECODE_TIME_AT: u64 = 64;

/// Builds the head of a fragment that starts at `decode_time` ticks; the samples' data follow it.
///
/// # Errors
/// [`MediaError::Setting`] when the part is too large for the 32-bit sizes of its boxes.
pub(crate) fn fragment(
    sequence: u32,
    decode_time: u64,
    frame_ticks: u32,
    samples: &Samples,
) -> Result<Vec<u8>> {
    if samples.data.len() >= (u32::MAX - 8) as usize || samples.entries.len() > 1 << 20 {
        return Err(MediaError::Setting {
            what: "part of a film",
            value: format!("{} bytes", samples.data.len()),
            rule: "a part holds less than 4 GiB".to_owned(),
            cure: "close parts more often or raise the quantiser (--crf)".to_owned(),
        });
    }
    let reordered = samples.entries.iter().any(|s| s.shift_frames != 0);
    let mut w = BoxWriter::default();
    let mut data_offset_at = 0;
    w.boxed(b"moof", |w| {
        w.full(b"mfhd", 0, 0, |w| {
            w.u32(sequence);
        });
        w.boxed(b"traf", |w| {
            // Offsets count from this moof; a default duration is present.
            w.full(b"tfhd", 0, 0x02_0008, |w| {
                w.u32(1).u32(frame_ticks);
            });
            w.full(b"tfdt", 1, 0, |w| {
                w.u64(decode_time);
            });
            // Data offset, then size and flags (and time shift) for each sample.
            let fields = 0x601 | if reordered { 0x800 } else { 0 };
            w.full(b"trun", 0, fields, |w| {
                w.u32(samples.entries.len() as u32);
                data_offset_at = w.bytes.len();
                w.u32(0);
                for s in &samples.entries {
                    // "Depends on nothing" for a sync sample, else "depends on others, not sync".
                    w.u32(s.size).u32(if s.sync { 0x0200_0000 } else { 0x0101_0000 });
                    if reordered {
                        w.u32(s.shift_frames * frame_ticks);
                    }
                }
            });
        });
    });
    let offset = (w.bytes.len() + 8) as u32;
    w.bytes[data_offset_at..data_offset_at + 4].copy_from_slice(&offset.to_be_bytes());
    // The samples of a part are the larger half of what a film takes while it is written.
    w.u32((samples.data.len() + 8) as u32).raw(b"mdat");
    Ok(w.bytes)
}

/// The random-access index at the end of a finished film: (decode time, offset of the `moof`).
pub(crate) fn random_access_index(entries: &[(u64, u64)]) -> Vec<u8> {
    let mut w = BoxWriter::default();
    w.boxed(b"mfra", |w| {
        w.full(b"tfra", 1, 0, |w| {
            w.u32(1).u32(0).u32(entries.len() as u32);
            for &(time, offset) in entries {
                // Track fragment, run and sample numbers start at 1 and take a byte each.
                w.u64(time).u64(offset).u8(1).u8(1).u8(1);
            }
        });
        w.full(b"mfro", 0, 0, |w| {
            let size = w.bytes.len() as u32 + 4;
            w.u32(size);
        });
    });
    w.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decode_time_sits_where_the_index_reads_it() {
        let mut samples = Samples::default();
        samples.push(b"abc", 0, true);
        let bytes = fragment(7, 0x0102_0304_0506, 512, &samples).unwrap();
        let at = DECODE_TIME_AT as usize;
        assert_eq!(&bytes[at - 8..at - 4], b"tfdt");
        assert_eq!(bytes[at..at + 8], 0x0102_0304_0506u64.to_be_bytes());
    }
}
