//! The head of a film for players that read it part by part.

use super::read::Bytes;

/// The head of a film, `ftyp` and `moov`, as a player of a stream needs it: as it will be at every
/// moment of the film's making and after it, which is without its duration. That box, the only thing
/// that changes in a head, becomes an empty one of the same length.
///
/// `None` when `head` is not the whole head of a film of fragments.
#[must_use]
pub fn stream_head(head: &[u8]) -> Option<Vec<u8>> {
    let (at, length) = duration_box(head)?;
    let mut stream = head.to_vec();
    stream[at + 4..at + 8].copy_from_slice(b"free");
    stream[at + 8..at + length].fill(0);
    Some(stream)
}

/// Bytes of a film's beginning that [`head_length`] looks at.
pub const HEAD_START_BYTES: usize = 64;

/// How long the head of a film is, `ftyp` and `moov`, read off its first [`HEAD_START_BYTES`]. The
/// parts follow it.
///
/// `None` when it does not begin as a film of fragments does.
#[must_use]
pub fn head_length(start: &[u8]) -> Option<u64> {
    let mut boxes = 0;
    for kind in [b"ftyp", b"moov"] {
        let mut header = Bytes(start.get(usize::try_from(boxes).ok()?..)?);
        let length = u64::from(header.u32()?);
        if length < 8 || header.take(4)? != kind {
            return None;
        }
        boxes += length;
    }
    Some(boxes)
}

/// Where the `mehd` box is.
fn duration_box(head: &[u8]) -> Option<(usize, usize)> {
    let (moov, moov_length) = find(head, 0, head.len(), b"moov")?;
    let (mvex, mvex_length) = find(head, moov + 8, moov + moov_length, b"mvex")?;
    find(head, mvex + 8, mvex + mvex_length, b"mehd")
}

/// The first box of `kind` among those that fill `from..to`, whole.
fn find(head: &[u8], from: usize, to: usize, kind: &[u8; 4]) -> Option<(usize, usize)> {
    let mut at = from;
    while at < to {
        let mut header = Bytes(head.get(at..to)?);
        let length = header.u32()? as usize;
        let found = header.take(4)?;
        if length < 8 || length > to - at {
            return None;
        }
        if found == kind {
            return Some((at, length));
        }
        at += length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameRate;
    use crate::mp4::init::{TrackSpec, init_segment};

    #[test]
    fn the_head_of_a_stream_is_the_same_whatever_the_duration_says() {
        let track = TrackSpec {
            width: 64,
            height: 48,
            rate: FrameRate::whole(24),
            sample_entry: b"\0\0\0\x08avc1".to_vec(),
            delay_frames: 2,
            metadata: Some("红色的圆 moves".to_owned()),
        };
        let mut init = init_segment(&track);
        let first = stream_head(&init.bytes).expect("a head");
        let at = init.duration_at;
        init.bytes[at..at + 8].copy_from_slice(&987_654_321u64.to_be_bytes());
        assert_eq!(stream_head(&init.bytes), Some(first.clone()));
        assert_eq!(first.len(), init.bytes.len());
        let changed: Vec<usize> =
            (0..first.len()).filter(|&at| first[at] != init.bytes[at]).collect();
        assert!(changed.iter().all(|&n| (at - 8..at + 8).contains(&n)), "{changed:?}");
        assert_eq!(first[at - 8..at - 4], *b"free");
        for end in [0, 7, 8, 24, 40, first.len() - 1] {
            assert_eq!(stream_head(&init.bytes[..end]), None, "{end} bytes are no head");
        }
        assert_eq!(stream_head(&first), None, "there is no duration any more");
        let start = |length: usize| head_length(&init.bytes[..length]);
        assert_eq!(start(HEAD_START_BYTES), Some(init.bytes.len() as u64));
        assert_eq!((start(0), start(8), start(31)), (None, None, None));
        assert_eq!(head_length(&init.bytes[28..]), None, "it begins with its second box");
    }
}
