//! H.264 in MP4, decoded without anything installed.

use super::pace::Pace;
use super::{VideoInfo, VideoOptions, is_oblong};
use crate::error::{MediaError, Result};
use crate::frame::Frame;
use crate::h264::decoder::{Decoder, Picture};
use crate::h264::nal::{self, sample_units};
use crate::h264::sps::Sps;
use crate::mp4::demux::Movie;
use crate::mp4::read::{Bytes, child};
use crate::mp4::tables::SampleRef;
use crate::yuv::{ColourSpace, to_rgb};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// Coded frames whose times are looked at before a picture is given out. H.264 reorders over at
/// most 16.
const LOOK_AHEAD: usize = 32;

/// What `avcC` says.
struct Configuration {
    length_size: usize,
    /// Parameter sets in Annex B form.
    parameter_sets: Vec<u8>,
    sps: Sps,
}

pub(super) struct BuiltInReader {
    path: PathBuf,
    options: VideoOptions,
    movie: Movie,
    configuration: Configuration,
    /// Made for the first frame, so that a look at the file stays cheap.
    decoder: Option<Decoder>,
    next_chunk: usize,
    /// Coded frames not yet decoded.
    waiting: VecDeque<SampleRef>,
    /// Presentation times of coded frames whose picture has not come out, by tag.
    in_decoder: BTreeMap<u64, i64>,
    /// Decoded pictures by (presentation time, tag).
    ready: BTreeMap<(i64, u64), Frame>,
    fed: u64,
    flushed: bool,
    /// Pictures before this time are decoded but not given out.
    from_pts: i64,
    /// Brings them to another rate.
    pace: Option<Pace>,
}

impl BuiltInReader {
    pub(super) fn open(path: &Path, options: &VideoOptions) -> Result<(Self, VideoInfo)> {
        let mut movie = Movie::open(path)?;
        let needs = |reason: String| MediaError::NeedsFfmpeg { path: path.to_path_buf(), reason };
        let track = &movie.track;
        if !matches!(&track.codec, b"avc1" | b"avc3") {
            let name = crate::mp4::read::letters(track.codec);
            return Err(needs(format!("its codec is {name}")));
        }
        options.check_size(path, track.width.into(), track.height.into())?;
        let configuration =
            read_configuration(&track.entry).ok_or_else(|| MediaError::Damaged {
                path: path.to_path_buf(),
                detail: "its H.264 configuration (avcC) is wrong".to_owned(),
            })?;
        let sps = &configuration.sps;
        options.check_size(path, sps.coded_width, sps.coded_height)?;
        if let Some(reason) = sps.unsupported() {
            return Err(needs(reason));
        }
        // The container's word goes over the stream's.
        let aspect = pixel_aspect(&track.entry).or(sps.pixel_aspect);
        if aspect.is_some_and(|(width, height)| is_oblong(width, height)) {
            return Err(needs("its pixels are not square".to_owned()));
        }
        let (width, height) = match track.quarter_turns % 2 {
            0 => (track.width, track.height),
            _ => (track.height, track.width),
        };
        let (from_pts, timescale) = (track.edit_start, track.timescale);
        let fps = movie.frame_rate()?;
        let brought_to = options.other_rate(fps);
        let info = VideoInfo {
            width,
            height,
            fps,
            frames: Some(movie.frame_count()),
            brought_to,
            codec: "h264".to_owned(),
            cut_off: movie.cut_off,
            through_ffmpeg: false,
        };
        let reader = Self {
            path: path.to_path_buf(),
            options: options.clone(),
            movie,
            configuration,
            decoder: None,
            next_chunk: 0,
            waiting: VecDeque::new(),
            in_decoder: BTreeMap::new(),
            ready: BTreeMap::new(),
            fed: 0,
            flushed: false,
            from_pts,
            pace: brought_to.zip(fps).map(|(rate, fps)| Pace::new(rate, timescale, fps)),
        };
        Ok((reader, info))
    }

    /// The next picture in order of presentation, at the rate that was asked for.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.pace.as_mut().and_then(Pace::next_frame) {
                return Ok(Some(frame));
            }
            let picture = self.next_picture()?;
            let Some(pace) = &mut self.pace else { return Ok(picture.map(|(_, frame)| frame)) };
            match picture {
                Some((pts, frame)) => pace.show(pts, frame).map_err(|s| {
                    self.damaged(format!("one of its frames is shown for {s} seconds"))
                })?,
                None if pace.has_ended() => return Ok(None),
                None => pace.end(),
            }
        }
    }

    /// The next picture in order of presentation, and its time.
    fn next_picture(&mut self) -> Result<Option<(i64, Frame)>> {
        loop {
            self.look_ahead()?;
            if let Some(picture) = self.take_ready() {
                return Ok(Some(picture));
            }
            match self.waiting.pop_front() {
                Some(sample) => self.feed(&sample)?,
                None if !self.flushed => self.flush()?,
                None if self.ready.is_empty() => {
                    return match self.in_decoder.len() {
                        0 => Ok(None),
                        lost => Err(self.damaged(format!("{lost} of its frames gave no picture"))),
                    };
                }
                None => {
                    // The decoder has given all it has: what is ready is in order.
                    self.in_decoder.clear();
                }
            }
        }
    }

    /// The last `count` frames by starting at a key frame near the end; `None` when the file's
    /// index does not lead there, and everything has to be decoded.
    pub(super) fn tail(&mut self, count: usize) -> Result<Option<Vec<Frame>>> {
        // Which frames are given at another rate goes by the times of all of them.
        if self.pace.is_some() {
            return Ok(None);
        }
        // Times of the samples behind the last suitable key frame, found from the end.
        let mut times: Vec<i64> = Vec::new();
        let mut start = None;
        'chunks: for chunk in (0..self.movie.chunk_count()).rev() {
            let samples = self.movie.samples_of(chunk)?;
            for (index, sample) in samples.iter().enumerate().rev() {
                times.push(sample.pts);
                if !sample.sync || times.len() < count {
                    continue;
                }
                let shown = times.iter().filter(|&&pts| pts >= sample.pts).count();
                if shown >= count {
                    start = Some((chunk, index, sample.pts, shown));
                    break 'chunks;
                }
            }
        }
        let Some((chunk, index, pts, shown)) = start else { return Ok(None) };
        let samples = self.movie.samples_of(chunk)?;
        self.waiting = samples.into_iter().skip(index).collect();
        self.next_chunk = chunk + 1;
        self.from_pts = self.from_pts.max(pts);
        let mut kept = VecDeque::new();
        let mut seen = 0;
        loop {
            match self.next_frame() {
                Ok(Some(frame)) => {
                    seen += 1;
                    kept.push_back(frame);
                    if kept.len() > count {
                        kept.pop_front();
                    }
                }
                Ok(None) if seen == shown => return Ok(Some(kept.into())),
                // An open group of pictures cannot be entered here; from the start it can.
                Ok(None) | Err(MediaError::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn look_ahead(&mut self) -> Result<()> {
        while self.waiting.len() < LOOK_AHEAD && self.next_chunk < self.movie.chunk_count() {
            let samples = self.movie.samples_of(self.next_chunk)?;
            self.waiting.extend(samples);
            self.next_chunk += 1;
        }
        Ok(())
    }

    /// The earliest picture, when no coded frame that is still to come can precede it.
    fn take_ready(&mut self) -> Option<(i64, Frame)> {
        loop {
            let (&(pts, _), _) = self.ready.first_key_value()?;
            let ahead = self.waiting.iter().take(LOOK_AHEAD).map(|s| s.pts).min();
            let inside = self.in_decoder.values().min().copied();
            if ahead.into_iter().chain(inside).any(|other| other < pts) {
                return None;
            }
            let (_, frame) = self.ready.pop_first()?;
            if pts >= self.from_pts {
                return Some((pts, frame));
            }
        }
    }

    fn feed(&mut self, sample: &SampleRef) -> Result<()> {
        let bytes = self.movie.read_sample(sample)?;
        let mut stream = Vec::with_capacity(bytes.len() + 64);
        if sample.sync {
            stream.extend_from_slice(&self.configuration.parameter_sets);
        }
        let units = sample_units(&bytes, self.configuration.length_size)
            .ok_or_else(|| self.damaged(format!("coded frame {} is cut short", self.fed)))?;
        for unit in units {
            if nal::kind(unit) == nal::SPS {
                self.check_inner_sps(unit)?;
            }
            stream.extend_from_slice(&[0, 0, 0, 1]);
            stream.extend_from_slice(unit);
        }
        let tag = self.fed;
        self.fed += 1;
        self.in_decoder.insert(tag, sample.pts);
        let (in_decoder, ready) = (&mut self.in_decoder, &mut self.ready);
        let convert = Converter::new(&self.movie, &self.configuration.sps);
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => self.decoder.insert(Decoder::new()?),
        };
        let result =
            decoder.decode(&stream, tag, |picture| store(in_decoder, ready, &convert, &picture));
        result.map_err(|e| self.damaged(format!("coded frame {tag} cannot be decoded ({e})")))?;
        if self.in_decoder.len() > 2 * LOOK_AHEAD {
            return Err(self.damaged("its frames give no pictures".to_owned()));
        }
        Ok(())
    }

    /// A parameter set between frames may change the size; the limits hold for it too.
    fn check_inner_sps(&self, unit: &[u8]) -> Result<()> {
        let sps = Sps::parse(unit)
            .ok_or_else(|| self.damaged("a parameter set in it is wrong".to_owned()))?;
        let first = &self.configuration.sps;
        self.options.check_size(&self.path, sps.coded_width, sps.coded_height)?;
        if (sps.coded_width, sps.coded_height) != (first.coded_width, first.coded_height) {
            return Err(MediaError::NeedsFfmpeg {
                path: self.path.clone(),
                reason: "its size changes on the way".to_owned(),
            });
        }
        match sps.unsupported() {
            Some(reason) => Err(MediaError::NeedsFfmpeg { path: self.path.clone(), reason }),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.flushed = true;
        let (in_decoder, ready) = (&mut self.in_decoder, &mut self.ready);
        let convert = Converter::new(&self.movie, &self.configuration.sps);
        match &mut self.decoder {
            Some(decoder) => decoder.flush(|picture| store(in_decoder, ready, &convert, &picture)),
            None => Ok(()),
        }
    }

    fn damaged(&self, detail: String) -> MediaError {
        MediaError::Damaged { path: self.path.clone(), detail }
    }
}

fn store(
    in_decoder: &mut BTreeMap<u64, i64>,
    ready: &mut BTreeMap<(i64, u64), Frame>,
    convert: &Converter,
    picture: &Picture<'_>,
) -> Result<()> {
    // A picture without a known coded frame has been given out already.
    if let Some(pts) = in_decoder.remove(&picture.tag) {
        ready.insert((pts, picture.tag), convert.frame(picture)?);
    }
    Ok(())
}

/// From planes to the frame that is shown.
struct Converter {
    colour: ColourSpace,
    quarter_turns: u8,
}

impl Converter {
    fn new(movie: &Movie, sps: &Sps) -> Self {
        Self { colour: sps.colour, quarter_turns: movie.track.quarter_turns }
    }

    fn frame(&self, picture: &Picture<'_>) -> Result<Frame> {
        let rgb = to_rgb(picture.width, picture.height, picture.planes, self.colour);
        let frame = Frame::new(picture.width as u32, picture.height as u32, rgb)?;
        Ok(crate::image::turned(frame, self.quarter_turns))
    }
}

/// The boxes of a visual sample entry, which come behind its own header and fixed fields.
fn boxes(entry: &[u8]) -> Option<Bytes<'_>> {
    Some(Bytes(entry.get(8 + 78..)?))
}

/// Width and height of a pixel as the container has it (`pasp`).
fn pixel_aspect(entry: &[u8]) -> Option<(u32, u32)> {
    let mut pasp = child(boxes(entry)?, b"pasp")?;
    Some((pasp.u32()?, pasp.u32()?))
}

fn read_configuration(entry: &[u8]) -> Option<Configuration> {
    let mut avcc = child(boxes(entry)?, b"avcC")?;
    avcc.take(4)?;
    let length_size = usize::from(avcc.u8()? & 3) + 1;
    let mut parameter_sets = Vec::new();
    let mut first_sps = None;
    for mask in [0x1f, 0xff] {
        for _ in 0..avcc.u8()? & mask {
            let length = usize::from(avcc.u16()?);
            let unit = avcc.take(length)?;
            if nal::kind(unit) == nal::SPS && first_sps.is_none() {
                first_sps = Some(Sps::parse(unit)?);
            }
            parameter_sets.extend_from_slice(&[0, 0, 0, 1]);
            parameter_sets.extend_from_slice(unit);
        }
    }
    Some(Configuration { length_size, parameter_sets, sps: first_sps? })
}
