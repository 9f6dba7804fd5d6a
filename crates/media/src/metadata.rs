//! The text that a film, a GIF or a picture carries about how it was made.

use crate::error::{MediaError, Result, read_error};
use crate::files::open_regular;
use crate::mp4::read::{Bytes, descend};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest head of a file that is searched, in bytes. What this crate writes is at the front.
const MAX_HEAD: u64 = 64 << 20;

/// Reads the comment of an MP4, WebM, GIF or PNG file, or of a folder of PNG frames; `None` when
/// there is none. Comments of other programs are given as they are.
///
/// # Errors
/// A file that is missing, unreadable, or of another kind.
pub fn read_metadata(path: &Path) -> Result<Option<String>> {
    if path.is_dir() {
        return read_metadata(&path.join("000000.png"));
    }
    let mut file = open_regular(path)?;
    let mut first = Vec::new();
    (&mut file).take(12).read_to_end(&mut first).map_err(|e| read_error(path, e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| read_error(path, e))?;
    let io = |e| read_error(path, e);
    match first.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => Ok(png_comment(file)),
        [b'G', b'I', b'F', ..] => gif_comment(file).map_err(io),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => webm_comment(file).map_err(io),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => mp4_comment(file).map_err(io),
        _ => Err(MediaError::UnknownFormat {
            path: PathBuf::from(path),
            found: format!("it begins with {first:02x?}"),
            cure: "metadata is read from .mp4, .webm, .gif and .png files".to_owned(),
        }),
    }
}

fn head_of(file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_HEAD).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn mp4_comment(mut file: File) -> std::io::Result<Option<String>> {
    let mut at = 0u64;
    loop {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0u8; 8];
        match file.read_exact(&mut head) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let size = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        if &head[4..] == b"moov" {
            let mut moov = Vec::new();
            (&mut file).take(size.saturating_sub(8).min(MAX_HEAD)).read_to_end(&mut moov)?;
            return Ok(moov_comment(Bytes(&moov)));
        }
        let size = if size == 1 {
            let mut wide = [0u8; 8];
            file.read_exact(&mut wide)?;
            u64::from_be_bytes(wide)
        } else {
            size
        };
        match at.checked_add(size) {
            Some(next) if size >= 8 => at = next,
            _ => return Ok(None),
        }
    }
}

fn moov_comment(moov: Bytes<'_>) -> Option<String> {
    let mut meta = descend(moov, &[b"udta", b"meta"])?;
    meta.full()?;
    let mut data = descend(meta, &[b"ilst", b"\xa9cmt", b"data"])?;
    data.take(8)?;
    String::from_utf8(data.0.to_vec()).ok()
}

fn png_comment(file: File) -> Option<String> {
    let reader = png::Decoder::new(BufReader::new(file)).read_info().ok()?;
    let info = reader.info();
    let international =
        info.utf8_text.iter().find(|t| t.keyword == "Comment").and_then(|t| t.get_text().ok());
    international.or_else(|| {
        let plain = info.uncompressed_latin1_text.iter().find(|t| t.keyword == "Comment")?;
        Some(plain.text.clone())
    })
}

/// Comments stand before the first frame in the GIFs of this crate and of most programs.
fn gif_comment(file: File) -> std::io::Result<Option<String>> {
    Ok(find_gif_comment(Bytes(&head_of(file)?)))
}

fn find_gif_comment(mut bytes: Bytes<'_>) -> Option<String> {
    bytes.take(10)?;
    let flags = bytes.u8()?;
    bytes.take(2)?;
    if flags & 0x80 != 0 {
        bytes.take(3 << ((flags & 7) + 1))?;
    }
    while bytes.u8()? == 0x21 {
        let label = bytes.u8()?;
        let mut content = Vec::new();
        loop {
            match bytes.u8()? {
                0 => break,
                length => content.extend_from_slice(bytes.take(usize::from(length))?),
            }
        }
        if label == 0xfe {
            return String::from_utf8(content).ok();
        }
    }
    None
}

// The Matroska elements on the way to a comment, and the cluster where frames begin.
const SEGMENT: u32 = 0x1853_8067;
const TAGS: u32 = 0x1254_c367;
const TAG: u32 = 0x7373;
const SIMPLE_TAG: u32 = 0x67c8;
const TAG_NAME: u32 = 0x45a3;
const TAG_STRING: u32 = 0x4487;

/// Tags may stand before the frames or at the very end, so whole elements are stepped over in the
/// file.
fn webm_comment(mut file: File) -> std::io::Result<Option<String>> {
    let length = file.metadata()?.len();
    let mut at = 0u64;
    while at < length {
        let mut head = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        (&mut file).take(12).read_to_end(&mut head)?;
        let mut bytes = Bytes(&head);
        let Some((id, size)) = element(&mut bytes) else { return Ok(None) };
        let body = at + (head.len() - bytes.0.len()) as u64;
        match id {
            SEGMENT => at = body,
            TAGS => {
                let mut tags = Vec::new();
                file.seek(SeekFrom::Start(body))?;
                (&mut file).take(size.min(MAX_HEAD)).read_to_end(&mut tags)?;
                if let Some(text) = tag_comment(Bytes(&tags)) {
                    return Ok(Some(text));
                }
                at = body.saturating_add(size);
            }
            _ => at = body.saturating_add(size),
        }
    }
    Ok(None)
}

fn tag_comment(tags: Bytes<'_>) -> Option<String> {
    elements(tags)
        .filter(|e| e.0 == TAG)
        .flat_map(|tag| elements(tag.1))
        .filter(|e| e.0 == SIMPLE_TAG)
        .find_map(|simple| {
            let field = |id| elements(simple.1).find(|e| e.0 == id).map(|e| e.1.0);
            let name = field(TAG_NAME)?;
            if !name.eq_ignore_ascii_case(b"COMMENT") {
                return None;
            }
            String::from_utf8(field(TAG_STRING)?.to_vec()).ok()
        })
}

fn elements(mut data: Bytes<'_>) -> impl Iterator<Item = (u32, Bytes<'_>)> {
    std::iter::from_fn(move || {
        let (id, size) = element(&mut data)?;
        Some((id, Bytes(data.take(usize::try_from(size).ok()?)?)))
    })
}

/// Identifier and size of a Matroska element.
fn element(bytes: &mut Bytes<'_>) -> Option<(u32, u64)> {
    let first = *bytes.0.first()?;
    let id_length = first.leading_zeros() as usize + 1;
    if id_length > 4 {
        return None;
    }
    let id = bytes.take(id_length)?.iter().fold(0u32, |n, &b| n << 8 | u32::from(b));
    let first = *bytes.0.first()?;
    let size_length = first.leading_zeros() as usize + 1;
    if size_length > 8 {
        return None;
    }
    let raw = bytes.take(size_length)?.iter().fold(0u64, |n, &b| n << 8 | u64::from(b));
    Some((id, raw & !(1 << (7 * size_length))))
}
