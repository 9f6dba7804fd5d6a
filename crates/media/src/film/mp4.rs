//! MP4: a head, then one fragment for each part, appended to one file.
//!
//! A part's bytes depend on its frames, its number and its start time alone: each begins with an
//! encoder made anew. So a film that was cut off and resumed from a saved length is equal, byte for
//! byte, to one that was not.

use super::ffmpeg::FfmpegEncoder;
use super::file::{begin, open_locked};
use super::options::{Codec, FilmOptions};
use super::{FilmState, Sink};
use crate::error::{MediaError, Result, read_error, write_error};
use crate::files::{beside, sync_folder};
use crate::frame::Frame;
use crate::h264::encoder::{Encoder, EncoderSettings, ParameterSets};
use crate::mp4::fragment::{DECODE_TIME_AT, Samples, fragment, random_access_index};
use crate::mp4::init::{InitSegment, TrackSpec, avc1_entry, init_segment};
use crate::yuv::Yuv420;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Encodes the frames of one part after another.
pub(super) trait PartEncoder: Send {
    fn push(&mut self, frame: &Frame, part: u32) -> Result<()>;
    fn pending(&self) -> u64;
    fn take_part(&mut self) -> Result<Samples>;
}

pub(super) struct Mp4Sink {
    path: PathBuf,
    file: File,
    init: InitSegment,
    track: TrackSpec,
    /// The text that the finished film carries; the track has the one that its head holds now.
    metadata: Option<String>,
    length: u64,
    parts: u32,
    frames: u64,
    encoder: Box<dyn PartEncoder>,
}

impl Mp4Sink {
    pub(super) fn create(path: &Path, options: &FilmOptions, codec: Codec) -> Result<Self> {
        let (encoder, track) = start(path, options, codec, options.metadata.clone())?;
        let init = init_segment(&track);
        // Only now, when nothing else can refuse, is an older film at this path given up.
        let file = begin(path, &init.bytes)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            length: init.bytes.len() as u64,
            init,
            metadata: track.metadata.clone(),
            track,
            parts: 0,
            frames: 0,
            encoder,
        })
    }

    pub(super) fn resume(
        path: &Path,
        options: &FilmOptions,
        codec: Codec,
        state: &FilmState,
    ) -> Result<Self> {
        let refuse = |reason: String| MediaError::CannotResume { path: path.to_path_buf(), reason };
        let mut file = open_locked(path, false)?;
        let found = file.metadata().map_err(|e| read_error(path, e))?.len();
        let metadata = crate::metadata::read_metadata(path)?;
        let (encoder, track) = start(path, options, codec, metadata)?;
        let init = init_segment(&track);
        let head_bytes = init.bytes.len() as u64;
        // A head that was replaced since has moved all that follows it.
        let length = match state.head_bytes {
            0 => state.bytes,
            before => state.bytes.saturating_sub(before).saturating_add(head_bytes),
        };
        if found < length {
            return Err(refuse(format!("it has {found} bytes, the saved state says {length}")));
        }
        let mut head = vec![0; init.bytes.len()];
        file.read_exact(&mut head).map_err(|e| read_error(path, e))?;
        if !init.equals_but_duration(&head) {
            return Err(refuse(
                "its head was written with another size, rate, quality or encoder version"
                    .to_owned(),
            ));
        }
        let parts = fragments(&mut file, head_bytes, length).map_err(|e| read_error(path, e))?;
        if parts.as_ref().map(Vec::len) != Some(state.parts as usize) {
            return Err(refuse(format!("{} parts do not end at byte {length} of it", state.parts)));
        }
        file.set_len(length).map_err(|e| write_error(path, e))?;
        file.seek(SeekFrom::End(0)).map_err(|e| write_error(path, e))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            init: InitSegment { bytes: head, ..init },
            track,
            metadata: options.metadata.clone(),
            length,
            parts: state.parts,
            frames: state.frames,
            encoder,
        })
    }

    /// Writes the film anew, with `track`'s head, and takes its place, so that at any instant there
    /// is one whole file.
    fn replace_head(&mut self, track: TrackSpec) -> Result<()> {
        let mut init = init_segment(&track);
        let (at, before) = (init.duration_at, self.init.duration_at);
        init.bytes[at..at + 8].copy_from_slice(&self.init.bytes[before..before + 8]);
        let old_head = self.init.bytes.len() as u64;
        let parts = self.length - old_head;
        let copy_path = beside(&self.path, "head");
        let mut copy = open_locked(&copy_path, true)?;
        let mut write = || -> std::io::Result<()> {
            copy.set_len(0)?;
            copy.write_all(&init.bytes)?;
            self.file.seek(SeekFrom::Start(old_head))?;
            let copied = std::io::copy(&mut (&mut self.file).take(parts), &mut copy)?;
            if copied != parts {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            copy.sync_all()?;
            std::fs::rename(&copy_path, &self.path)?;
            sync_folder(&self.path)
        };
        if let Err(cause) = write() {
            let _ = std::fs::remove_file(&copy_path);
            return Err(write_error(&self.path, cause));
        }
        self.length = init.bytes.len() as u64 + parts;
        (self.file, self.init, self.track) = (copy, init, track);
        Ok(())
    }

    /// Writes `pieces` at the end, one behind the other, and the film's new duration into the head, and flushes both. A
    /// kill in between leaves a film with one part more or less than its duration says, which
    /// every player takes.
    fn append(&mut self, pieces: &[&[u8]]) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(self.length))?;
        let mut length = self.length;
        for bytes in pieces {
            self.file.write_all(bytes)?;
            length += bytes.len() as u64;
        }
        self.length = length;
        let duration = (self.frames * u64::from(self.track.frame_ticks())).to_be_bytes();
        let at = self.init.duration_at;
        self.init.bytes[at..at + 8].copy_from_slice(&duration);
        self.file.seek(SeekFrom::Start(at as u64))?;
        self.file.write_all(&duration)?;
        self.file.sync_data()
    }
}

impl Sink for Mp4Sink {
    fn push(&mut self, frame: &Frame) -> Result<()> {
        self.encoder.push(frame, self.parts)
    }

    fn pending(&self) -> u64 {
        self.encoder.pending()
    }

    fn end_part(&mut self) -> Result<()> {
        let samples = self.encoder.take_part()?;
        let ticks = self.track.frame_ticks();
        let start = self.frames * u64::from(ticks);
        let head = fragment(self.parts + 1, start, ticks, &samples)?;
        self.frames += samples.entries.len() as u64;
        self.append(&[&head, &samples.data]).map_err(|e| write_error(&self.path, e))?;
        self.parts += 1;
        Ok(())
    }

    fn position(&self) -> (u64, u32) {
        (self.length, self.parts)
    }

    fn set_metadata(&mut self, text: Option<String>) {
        self.metadata = text;
    }

    fn write_metadata(&mut self) -> Result<()> {
        if self.metadata == self.track.metadata {
            return Ok(());
        }
        self.replace_head(TrackSpec { metadata: self.metadata.clone(), ..self.track.clone() })
    }

    fn finish(&mut self) -> Result<u64> {
        self.write_metadata()?;
        let starts = fragments(&mut self.file, self.init.bytes.len() as u64, self.length)
            .map_err(|e| read_error(&self.path, e))?
            .unwrap_or_default();
        let index = random_access_index(&starts);
        self.append(&[&index]).map_err(|e| write_error(&self.path, e))?;
        Ok(self.length)
    }

    fn discard(&mut self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    fn init_segment(&self) -> Option<&[u8]> {
        Some(&self.init.bytes)
    }
}

/// Decode time and offset of each fragment between `from` and `to`; `None` when the boxes do not
/// end exactly there.
fn fragments(file: &mut File, from: u64, to: u64) -> std::io::Result<Option<Vec<(u64, u64)>>> {
    let mut found = Vec::new();
    let mut at = from;
    while at < to {
        let mut head = [0u8; 8];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut head)?;
        let size = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        if size < 8 {
            return Ok(None);
        }
        if &head[4..] == b"moof" {
            let mut time = [0u8; 8];
            file.seek(SeekFrom::Start(at + DECODE_TIME_AT))?;
            file.read_exact(&mut time)?;
            found.push((u64::from_be_bytes(time), at));
        }
        at += size;
    }
    Ok((at == to).then_some(found))
}

fn start(
    path: &Path,
    options: &FilmOptions,
    codec: Codec,
    metadata: Option<String>,
) -> Result<(Box<dyn PartEncoder>, TrackSpec)> {
    let (encoder, sample_entry, delay_frames): (Box<dyn PartEncoder>, _, _) = match codec {
        Codec::BuiltIn => {
            let (encoder, entry) = BuiltInEncoder::new(options)?;
            (Box::new(encoder), entry, 0)
        }
        _ => {
            let (encoder, entry, delay) = FfmpegEncoder::new(path, options, codec)?;
            (Box::new(encoder), entry, delay)
        }
    };
    let track = TrackSpec {
        width: options.width,
        height: options.height,
        rate: options.rate,
        sample_entry,
        delay_frames,
        metadata,
    };
    Ok((encoder, track))
}

/// The encoder that needs nothing installed.
struct BuiltInEncoder {
    settings: EncoderSettings,
    sets: ParameterSets,
    encoder: Option<Encoder>,
    picture: Yuv420,
    samples: Samples,
}

impl BuiltInEncoder {
    fn new(options: &FilmOptions) -> Result<(Self, Vec<u8>)> {
        let settings = EncoderSettings {
            width: options.width,
            height: options.height,
            rate: options.rate,
            quantiser: options.crf_for(Codec::BuiltIn),
        };
        let sets = Encoder::new(&settings)?.parameter_sets()?;
        let entry = avc1_entry(options.width, options.height, &sets);
        let picture = Yuv420::new(options.width as usize, options.height as usize);
        let samples = Samples::default();
        Ok((Self { settings, sets, encoder: None, picture, samples }, entry))
    }
}

impl PartEncoder for BuiltInEncoder {
    fn push(&mut self, frame: &Frame, part: u32) -> Result<()> {
        self.picture.fill(frame);
        if self.encoder.is_none() {
            let mut fresh = Encoder::new(&self.settings)?;
            if fresh.parameter_sets()? != self.sets {
                return Err(MediaError::Codec { what: "parameter sets (they changed)", code: -4 });
            }
            if part % 2 == 1 {
                // Two IDR pictures in a row must differ in idr_pic_id (H.264, 7.4.3), which a
                // fresh encoder starts at zero: odd parts drop one picture to start at one.
                fresh.encode(&self.picture)?;
                fresh.force_idr()?;
            }
            self.encoder = Some(fresh);
        }
        if let Some(encoder) = &mut self.encoder {
            let encoded = encoder.encode(&self.picture)?;
            self.samples.push(&encoded.sample, 0, encoded.is_idr);
        }
        Ok(())
    }

    fn pending(&self) -> u64 {
        self.samples.entries.len() as u64
    }

    fn take_part(&mut self) -> Result<Samples> {
        self.encoder = None;
        Ok(std::mem::take(&mut self.samples))
    }
}
