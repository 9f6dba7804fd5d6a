//! Contact sheets: many frames on one picture.

use crate::error::{MediaError, Result};
use crate::frame::Frame;
use crate::image::{Filter, resize};

/// Pixels between two pictures of a sheet.
const GAP: u32 = 4;

/// Longest side of a sheet in pixels, so that it stays a picture that programs open.
const MAX_SIDE: u64 = 30_000;

/// Lays `frames`, all of one size, out in rows of `columns` on a dark ground.
///
/// # Errors
/// [`MediaError::Setting`] without frames or columns, for frames of different sizes, or for a sheet
/// that would be too large.
pub fn contact_sheet(frames: &[Frame], columns: usize) -> Result<Frame> {
    let refuse = |value: String, rule: &str, cure: &str| MediaError::Setting {
        what: "contact sheet",
        value,
        rule: rule.to_owned(),
        cure: cure.to_owned(),
    };
    let (Some(first), true) = (frames.first(), columns > 0) else {
        return Err(refuse(
            format!("{} frames in {columns} columns", frames.len()),
            "a sheet has at least one of each",
            "give it frames",
        ));
    };
    let (w, h) = (first.width(), first.height());
    if let Some(other) = frames.iter().find(|f| (f.width(), f.height()) != (w, h)) {
        return Err(refuse(
            format!("{w}x{h} and {}x{}", other.width(), other.height()),
            "all frames have one size",
            "resize them first",
        ));
    }
    let columns = columns.min(frames.len());
    let rows = frames.len().div_ceil(columns);
    let side = |count: usize, length: u32| count as u64 * u64::from(length + GAP) + u64::from(GAP);
    let (width, height) = (side(columns, w), side(rows, h));
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(refuse(
            format!("{width}x{height}"),
            "a sheet has at most 30000 pixels a side",
            "take fewer or smaller frames",
        ));
    }
    let mut sheet = Frame::filled(width as u32, height as u32, [24; 3]);
    let stride = width as usize * 3;
    for (index, frame) in frames.iter().enumerate() {
        let left = GAP as usize + (index % columns) * (w + GAP) as usize;
        let top = GAP as usize + (index / columns) * (h + GAP) as usize;
        for (line, row) in frame.rgb().chunks_exact(w as usize * 3).enumerate() {
            let at = (top + line) * stride + left * 3;
            sheet.rgb_mut()[at..at + row.len()].copy_from_slice(row);
        }
    }
    Ok(sheet)
}

/// `frame` scaled down so that its longer side is at most `side` pixels; smaller ones are left.
///
/// # Errors
/// [`MediaError::Setting`] for a side of zero.
pub fn thumbnail(frame: &Frame, side: u32) -> Result<Frame> {
    let (w, h) = (frame.width(), frame.height());
    let long = w.max(h);
    if long <= side {
        return Ok(frame.clone());
    }
    let scaled = |n: u32| {
        let rounded = (u64::from(n) * u64::from(side) + u64::from(long) / 2) / u64::from(long);
        // A very long strip keeps a width of one pixel.
        if side == 0 { 0 } else { (rounded as u32).max(1) }
    };
    resize(frame, scaled(w), scaled(h), Filter::Lanczos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_shows_each_frame_in_its_place() {
        let frames: Vec<_> = (0..5u8).map(|i| Frame::filled(10, 6, [i * 40 + 40, 0, 0])).collect();
        let sheet = contact_sheet(&frames, 3).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (4 + 3 * 14, 4 + 2 * 10));
        for (i, (x, y)) in [(4, 4), (18, 4), (32, 4), (4, 14), (18, 14)].into_iter().enumerate() {
            assert_eq!(sheet.pixel(x, y), frames[i].pixel(0, 0));
            assert_eq!(sheet.pixel(x + 9, y + 5), frames[i].pixel(0, 0));
        }
        assert_eq!(sheet.pixel(40, 20), Some([24; 3]), "an empty place is ground");
        assert!(contact_sheet(&[], 3).is_err());
        assert!(contact_sheet(&frames, 0).is_err());
    }

    #[test]
    fn a_thumbnail_keeps_the_shape() {
        let thumb = thumbnail(&Frame::filled(960, 544, [9, 8, 7]), 120).unwrap();
        assert_eq!((thumb.width(), thumb.height()), (120, 68));
        assert_eq!(thumb.pixel(60, 30), Some([9, 8, 7]));
    }
}
