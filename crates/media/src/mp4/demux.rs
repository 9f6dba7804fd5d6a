//! Opening an MP4 file and finding the coded frames of its video track.

use super::read::{Bytes, Child, child, children, descend, letters};
use super::tables::{FragmentDefaults, MAX_SAMPLES, SampleRef, fragment_samples, progressive};
use crate::error::{MediaError, Result, read_error};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest `moov` or `moof` that is read into memory: tables for the most frames that are read.
const MAX_HEADER_BYTES: u64 = 512 << 20;

/// Most bytes of one coded frame.
const MAX_SAMPLE_BYTES: u32 = 64 << 20;

/// The video track's description.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) id: u32,
    /// Ticks in a second.
    pub(crate) timescale: u32,
    /// Coded size from the sample entry.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Four letters of the codec.
    pub(crate) codec: [u8; 4],
    /// The sample entry as a whole box.
    pub(crate) entry: Vec<u8>,
    /// Clockwise quarter turns to apply for display.
    pub(crate) quarter_turns: u8,
    /// Presentation time at which the movie starts, from the edit list.
    pub(crate) edit_start: i64,
}

/// A fragment: where its `moof` is and what it holds.
#[derive(Debug, Clone, Copy)]
struct FragmentRef {
    offset: u64,
    size: u64,
    start: i64,
    samples: u32,
}

enum Index {
    Progressive(Vec<SampleRef>),
    /// 32 bytes for each fragment: the samples are read again when their turn comes.
    Fragments(Vec<FragmentRef>, FragmentDefaults),
}

/// An open movie.
pub(crate) struct Movie {
    path: PathBuf,
    file: File,
    length: u64,
    pub(crate) track: Track,
    index: Index,
    /// The file ends inside a fragment, as one does whose writer was killed.
    pub(crate) cut_off: bool,
}

impl Movie {
    /// Reads the tables of the file's first video track.
    ///
    /// # Errors
    /// Files that are truncated, damaged, or hold no video.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| read_error(path, e))?;
        let length = file.metadata().map_err(|e| read_error(path, e))?.len();
        let scan = scan(path, &mut file, length)?;
        let moov = Bytes(&scan.moov);
        let damaged = |detail: String| MediaError::Damaged { path: path.to_path_buf(), detail };
        let trak =
            children(moov).filter(|c| &c.kind == b"trak").find(is_video).ok_or_else(|| {
                MediaError::UnknownFormat {
                    path: path.to_path_buf(),
                    found: "it holds no video, only other tracks".to_owned(),
                    cure: "name a file with a picture in it".to_owned(),
                }
            })?;
        let track = read_track(trak.body)
            .ok_or_else(|| damaged("the description of its video track is wrong".to_owned()))?;
        let mut movie = Self {
            path: path.to_path_buf(),
            file,
            length,
            track,
            index: Index::Progressive(Vec::new()),
            cut_off: scan.cut_off,
        };
        movie.index = match child(moov, b"mvex") {
            Some(mvex) => {
                let defaults = defaults(mvex, movie.track.id).ok_or_else(|| {
                    damaged("its fragment defaults (trex) are missing".to_owned())
                })?;
                movie.index_fragments(&scan.fragments, defaults)?
            }
            None => {
                let stbl = descend(trak.body, &[b"mdia", b"minf", b"stbl"])
                    .ok_or_else(|| damaged("it has no sample table".to_owned()))?;
                let samples = progressive(stbl, length).map_err(|why| damaged(why.to_owned()))?;
                if let Some(past) =
                    samples.iter().position(|s| s.offset + u64::from(s.size) > length)
                {
                    return Err(MediaError::Truncated {
                        path: path.to_path_buf(),
                        detail: format!(
                            "it has {length} bytes, which is where frame {past} of {} should still be",
                            samples.len()
                        ),
                    });
                }
                Index::Progressive(samples)
            }
        };
        if movie.frame_count() == 0 {
            return Err(match movie.cut_off {
                true => MediaError::Truncated {
                    path: path.to_path_buf(),
                    detail: "it ends before its first frame".to_owned(),
                },
                false => damaged("its video track has no frames".to_owned()),
            });
        }
        Ok(movie)
    }

    fn index_fragments(
        &mut self,
        found: &[(u64, u64)],
        defaults: FragmentDefaults,
    ) -> Result<Index> {
        let mut fragments = Vec::new();
        let (mut start, mut total) = (0i64, 0usize);
        for &(offset, size) in found {
            let here = FragmentRef { offset, size, start, samples: 0 };
            let (samples, after) = match self.read_fragment(&here, defaults) {
                Ok(read) => read,
                // The last fragment of a film whose writer was killed points past the end.
                Err(_) if self.cut_off && Some(&(offset, size)) == found.last() => break,
                Err(error) => return Err(error),
            };
            start = after;
            total += samples.len();
            if total > MAX_SAMPLES {
                return Err(self.damaged(format!("it claims more than {MAX_SAMPLES} frames")));
            }
            if let Some(first) = samples.first() {
                fragments.push(FragmentRef {
                    start: first.dts,
                    samples: samples.len() as u32,
                    ..here
                });
            }
        }
        Ok(Index::Fragments(fragments, defaults))
    }

    fn read_fragment(
        &mut self,
        fragment: &FragmentRef,
        defaults: FragmentDefaults,
    ) -> Result<(Vec<SampleRef>, i64)> {
        let bytes = read_at(&self.path, &mut self.file, fragment.offset, fragment.size)?;
        let moof = children(Bytes(&bytes)).next().map(|c| c.body);
        moof.and_then(|moof| {
            fragment_samples(
                moof,
                fragment.offset,
                self.track.id,
                defaults,
                fragment.start,
                self.length,
            )
        })
        .ok_or_else(|| self.damaged(format!("its fragment at byte {} is wrong", fragment.offset)))
    }

    fn damaged(&self, detail: String) -> MediaError {
        MediaError::Damaged { path: self.path.clone(), detail }
    }

    /// Frames in the track.
    pub(crate) fn frame_count(&self) -> u64 {
        match &self.index {
            Index::Progressive(samples) => samples.len() as u64,
            Index::Fragments(list, _) => list.iter().map(|f| u64::from(f.samples)).sum(),
        }
    }

    /// Number of chunks that [`samples_of`](Self::samples_of) can be asked for.
    pub(crate) fn chunk_count(&self) -> usize {
        match &self.index {
            Index::Progressive(samples) => samples.len().div_ceil(CHUNK),
            Index::Fragments(list, _) => list.len(),
        }
    }

    /// The coded frames of chunk `index`, in decoding order.
    pub(crate) fn samples_of(&mut self, index: usize) -> Result<Vec<SampleRef>> {
        match &self.index {
            Index::Progressive(samples) => {
                Ok(samples.chunks(CHUNK).nth(index).unwrap_or_default().to_vec())
            }
            Index::Fragments(list, defaults) => match list.get(index).copied() {
                Some(fragment) => {
                    let defaults = *defaults;
                    Ok(self.read_fragment(&fragment, defaults)?.0)
                }
                None => Ok(Vec::new()),
            },
        }
    }

    /// The bytes of a coded frame.
    pub(crate) fn read_sample(&mut self, sample: &SampleRef) -> Result<Vec<u8>> {
        if sample.size > MAX_SAMPLE_BYTES {
            return Err(self.damaged(format!(
                "a frame claims {} bytes; the limit is {MAX_SAMPLE_BYTES}",
                sample.size
            )));
        }
        read_at(&self.path, &mut self.file, sample.offset, u64::from(sample.size))
    }

    /// Frames per second over the whole track, when it can be told.
    pub(crate) fn frame_rate(&mut self) -> Result<Option<f64>> {
        let (chunks, count) = (self.chunk_count(), self.frame_count());
        let first = self.samples_of(0)?;
        let last = self.samples_of(chunks.saturating_sub(1))?;
        let span = match (first.first(), last.last()) {
            (Some(a), Some(b)) => b.dts - a.dts,
            _ => 0,
        };
        Ok((span > 0 && count > 1)
            .then(|| (count - 1) as f64 * f64::from(self.track.timescale) / span as f64))
    }
}

/// Frames of a progressive movie that are handled together.
const CHUNK: usize = 256;

struct Scan {
    moov: Vec<u8>,
    fragments: Vec<(u64, u64)>,
    cut_off: bool,
}

/// Walks over the boxes of the file without reading their content, but for `moov`.
fn scan(path: &Path, file: &mut File, length: u64) -> Result<Scan> {
    let mut moov = None;
    let mut fragments = Vec::new();
    let mut at = 0u64;
    let mut cut_off = None;
    while at < length {
        let head = read_at(path, file, at, 16.min(length - at))?;
        let mut bytes = Bytes(&head);
        let (Some(short), Some(kind)) = (bytes.u32(), bytes.take(4)) else {
            cut_off = Some(format!("{} bytes are left where a box should begin", head.len()));
            break;
        };
        let kind: [u8; 4] = [kind[0], kind[1], kind[2], kind[3]];
        let size = match short {
            0 => length - at,
            1 => bytes.u64().unwrap_or(0),
            n => u64::from(n),
        };
        if size < 8 || (at == 0 && !FIRST_BOXES.contains(&&kind)) {
            return Err(MediaError::Damaged {
                path: path.to_path_buf(),
                detail: format!("no box can be read at byte {at}"),
            });
        }
        if size > length - at {
            cut_off = Some(format!(
                "box {} at byte {at} has {size} bytes, {} are left",
                letters(kind),
                length - at
            ));
            break;
        }
        match &kind {
            b"moov" if size > MAX_HEADER_BYTES => {
                return Err(MediaError::Damaged {
                    path: path.to_path_buf(),
                    detail: format!(
                        "its moov box has {size} bytes; the limit is {MAX_HEADER_BYTES}"
                    ),
                });
            }
            b"moov" if moov.is_none() => moov = Some(read_at(path, file, at, size)?),
            b"moof" if size <= MAX_HEADER_BYTES => fragments.push((at, size)),
            _ => {}
        }
        at += size;
    }
    // The boxes of the movie follow the header of `moov` itself.
    let body = moov.as_deref().and_then(|m| children(Bytes(m)).next()).map(|c| c.body.0.to_vec());
    match (body, cut_off) {
        (Some(moov), cut) => Ok(Scan { moov, fragments, cut_off: cut.is_some() }),
        (None, Some(detail)) => Err(MediaError::Truncated { path: path.to_path_buf(), detail }),
        (None, None) => Err(MediaError::Truncated {
            path: path.to_path_buf(),
            detail: "it has no moov box, which is written last: the recording did not finish"
                .to_owned(),
        }),
    }
}

/// Boxes that an MP4 or QuickTime file begins with.
const FIRST_BOXES: &[&[u8; 4]] =
    &[b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"];

fn read_at(path: &Path, file: &mut File, offset: u64, size: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset)).map_err(|e| read_error(path, e))?;
    // `take` and `read_to_end` allocate by what is really there, not by what was claimed.
    let got = file.take(size).read_to_end(&mut bytes).map_err(|e| read_error(path, e))?;
    if got as u64 != size {
        return Err(MediaError::Truncated {
            path: path.to_path_buf(),
            detail: format!("{size} bytes at {offset} were expected, {got} are there"),
        });
    }
    Ok(bytes)
}

fn is_video(trak: &Child<'_>) -> bool {
    let handler = || -> Option<bool> {
        let mut hdlr = descend(trak.body, &[b"mdia", b"hdlr"])?;
        hdlr.full()?;
        hdlr.u32()?;
        Some(hdlr.take(4)? == b"vide")
    };
    handler().unwrap_or(false)
}

fn read_track(trak: Bytes<'_>) -> Option<Track> {
    let mut tkhd = child(trak, b"tkhd")?;
    let (version, _) = tkhd.full()?;
    tkhd.take(if version == 1 { 16 } else { 8 })?;
    let id = tkhd.u32()?;
    tkhd.take(if version == 1 { 12 } else { 8 } + 16)?;
    let quarter_turns = quarter_turns(&mut tkhd)?;

    let timescale = timescale(child(child(trak, b"mdia")?, b"mdhd")?)?;
    let mut stsd = descend(trak, &[b"mdia", b"minf", b"stbl", b"stsd"])?;
    stsd.full()?;
    stsd.u32()?;
    let entry = children(stsd).next()?;
    let mut fields = entry.body;
    fields.take(24)?;
    let (width, height) = (u32::from(fields.u16()?), u32::from(fields.u16()?));
    (timescale > 0 && width > 0 && height > 0).then(|| Track {
        id,
        timescale,
        width,
        height,
        codec: entry.kind,
        entry: entry.whole.to_vec(),
        quarter_turns,
        edit_start: edit_start(trak).unwrap_or(0),
    })
}

/// Ticks in a second, from `mdhd`.
fn timescale(mut header: Bytes<'_>) -> Option<u32> {
    let (version, _) = header.full()?;
    header.take(if version == 1 { 16 } else { 8 })?;
    header.u32()
}

/// The rotation of a `tkhd` matrix, as phones write it.
fn quarter_turns(matrix: &mut Bytes<'_>) -> Option<u8> {
    let mut m = [0i32; 9];
    for value in &mut m {
        *value = matrix.u32()? as i32;
    }
    Some(match (m[0].signum(), m[1].signum(), m[3].signum(), m[4].signum()) {
        (0, 1, -1, 0) => 1,
        (-1, 0, 0, -1) => 2,
        (0, -1, 1, 0) => 3,
        _ => 0,
    })
}

/// Where the first edit that shows media begins. An empty edit before it only delays the start, so
/// it drops no frame.
fn edit_start(trak: Bytes<'_>) -> Option<i64> {
    let mut elst = descend(trak, &[b"edts", b"elst"])?;
    let (version, _) = elst.full()?;
    let entry = if version == 1 { 20 } else { 12 };
    for _ in 0..elst.count(entry)? {
        let start = if version == 1 {
            elst.u64()?;
            elst.u64()? as i64
        } else {
            elst.u32()?;
            i64::from(elst.u32()? as i32)
        };
        elst.u32()?;
        if start >= 0 {
            return Some(start);
        }
    }
    None
}

fn defaults(mvex: Bytes<'_>, track: u32) -> Option<FragmentDefaults> {
    children(mvex).filter(|c| &c.kind == b"trex").find_map(|c| {
        let mut trex = c.body;
        trex.full()?;
        if trex.u32()? != track {
            return None;
        }
        trex.u32()?;
        Some(FragmentDefaults { duration: trex.u32()?, size: trex.u32()?, flags: trex.u32()? })
    })
}
