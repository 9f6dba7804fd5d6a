//! The zip that `torch.save` writes: stored entries, with ZIP64 records above 4 GiB.
//!
//! Only the central directory is read, and only entries without compression are given out, so an
//! archive cannot unfold to more than its own size.
//!
//! Format: PKWARE APPNOTE.TXT 6.3.9, sections 4.3.7 to 4.3.16.

use std::collections::BTreeMap;
use std::ops::Range;

use super::MappedFile;
use crate::WeightsError;

const FORMAT: &str = "PyTorch (zip)";
const END_LEN: usize = 22;
const COMMENT_MAX: usize = 65_535;

/// Name to the range of its bytes in the file.
pub(crate) type Entries = BTreeMap<String, Range<usize>>;

pub(crate) fn entries(file: &MappedFile) -> Result<Entries, WeightsError> {
    let bytes = file.as_slice();
    let damaged = |problem: String| WeightsError::damaged(file.path(), FORMAT, problem);
    let directory = directory(bytes).ok_or_else(|| {
        damaged("it has no zip directory at its end (the file is cut off)".into())
    })?;
    let mut entries = Entries::new();
    let mut at = directory;
    while !at.is_empty() {
        let (name, entry, rest) =
            central_entry(at).ok_or_else(|| damaged("its zip directory is cut off".into()))?;
        at = rest;
        if name.ends_with('/') {
            continue;
        }
        if entry.method != 0 || entry.flags & 1 != 0 {
            let kind = if entry.method != 0 { "compressed" } else { "encrypted" };
            return Err(WeightsError::Unsupported {
                path: file.path().to_owned(),
                what: format!("the {kind} entry {name:?}"),
                way_out: "torch.save writes plain entries; unpack and save it with PyTorch again"
                    .into(),
            });
        }
        let range = data_range(bytes, &entry).ok_or_else(|| {
            damaged(format!("the entry {name:?} of {} bytes lies outside the file", entry.size))
        })?;
        if entries.insert(name.clone(), range).is_some() {
            return Err(damaged(format!("the entry {name:?} is there twice")));
        }
    }
    let mut ranges: Vec<&Range<usize>> = entries.values().filter(|r| !r.is_empty()).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    if let Some(pair) = ranges.windows(2).find(|pair| pair[1].start < pair[0].end) {
        return Err(damaged(format!("its entries overlap at byte {}", pair[1].start)));
    }
    Ok(entries)
}

struct Entry {
    flags: u16,
    method: u16,
    size: u64,
    local_header: u64,
}

/// The bytes of the central directory.
fn directory(bytes: &[u8]) -> Option<&[u8]> {
    let last = bytes.len().checked_sub(END_LEN)?;
    let first = last.saturating_sub(COMMENT_MAX);
    let end = (first..=last).rev().find(|&at| {
        bytes[at..].starts_with(b"PK\x05\x06")
            && u16_at(bytes, at + 20).is_some_and(|n| at + END_LEN + usize::from(n) == bytes.len())
    })?;
    let (mut size, mut offset) =
        (u64::from(u32_at(bytes, end + 12)?), u64::from(u32_at(bytes, end + 16)?));
    let locator = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(b"PK\x06\x07"));
    if let Some(locator) = locator {
        let record = usize::try_from(u64_at(bytes, locator + 8)?).ok()?;
        if !bytes.get(record..)?.starts_with(b"PK\x06\x06") {
            return None;
        }
        size = u64_at(bytes, record.checked_add(40)?)?;
        offset = u64_at(bytes, record.checked_add(48)?)?;
    }
    let start = usize::try_from(offset).ok()?;
    let stop = start.checked_add(usize::try_from(size).ok()?)?;
    bytes.get(start..stop)
}

/// Reads one record of the central directory and gives what follows it.
fn central_entry(bytes: &[u8]) -> Option<(String, Entry, &[u8])> {
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let (flags, method) = (u16_at(bytes, 8)?, u16_at(bytes, 10)?);
    let mut compressed = u64::from(u32_at(bytes, 20)?);
    let mut size = u64::from(u32_at(bytes, 24)?);
    let mut local_header = u64::from(u32_at(bytes, 42)?);
    let name_len = usize::from(u16_at(bytes, 28)?);
    let extra_len = usize::from(u16_at(bytes, 30)?);
    let comment_len = usize::from(u16_at(bytes, 32)?);
    let name = bytes.get(46..46 + name_len)?;
    let mut extra = bytes.get(46 + name_len..46 + name_len + extra_len)?;
    let rest = bytes.get(46 + name_len + extra_len + comment_len..)?;
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..4 + len)?;
        if id == 1 {
            // Only the values that did not fit 32 bits are there, in this order.
            let mut at = 0;
            for value in [&mut size, &mut compressed, &mut local_header] {
                if *value == u64::from(u32::MAX) {
                    *value = u64_at(field, at)?;
                    at += 8;
                }
            }
        }
        extra = &extra[4 + len..];
    }
    if method == 0 && size != compressed {
        return None;
    }
    let name = String::from_utf8_lossy(name).into_owned();
    Some((name, Entry { flags, method, size, local_header }, rest))
}

/// The data of an entry, behind its local header, whose name and padding have lengths of their own.
fn data_range(bytes: &[u8], entry: &Entry) -> Option<Range<usize>> {
    let at = usize::try_from(entry.local_header).ok()?;
    if !bytes.get(at..)?.starts_with(b"PK\x03\x04") {
        return None;
    }
    let name_len = usize::from(u16_at(bytes, at.checked_add(26)?)?);
    let extra_len = usize::from(u16_at(bytes, at.checked_add(28)?)?);
    let start = at.checked_add(30 + name_len + extra_len)?;
    let end = start.checked_add(usize::try_from(entry.size).ok()?)?;
    (end <= bytes.len()).then_some(start..end)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}
