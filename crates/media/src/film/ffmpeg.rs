//! Parts encoded by ffmpeg.
//!
//! Each part is a run of ffmpeg of its own, into a file beside the film. For MP4 the coded frames
//! are then taken out of that file and appended as a fragment, as the built-in encoder's are: so
//! films by every codec grow, play and resume in the same way.

use super::mp4::PartEncoder;
use super::options::{Codec, FilmOptions};
use crate::error::{MediaError, Result};
use crate::ffmpeg::{Process, file_argument, require};
use crate::files::beside;
use crate::frame::Frame;
use crate::mp4::demux::Movie;
use crate::mp4::fragment::Samples;
use crate::mp4::read::{Bytes, children};
use crate::yuv::Yuv420;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a codec is asked for: the encoders that can do it, best first.
fn encoders(codec: Codec) -> &'static [(&'static str, &'static [&'static str])] {
    match codec {
        Codec::BuiltIn => &[],
        Codec::H264 => &[("libx264", &["-preset", "medium", "-bf", "3", "-g", "250"])],
        Codec::H265 => &[(
            "libx265",
            &[
                "-preset",
                "medium",
                "-bf",
                "3",
                "-tag:v",
                "hvc1",
                "-x265-params",
                "open-gop=0:log-level=error",
            ],
        )],
        Codec::Av1 => &[
            ("libsvtav1", &["-preset", "8", "-g", "250"]),
            ("libaom-av1", &["-cpu-used", "6", "-g", "250"]),
        ],
        Codec::Vp9 => {
            &[("libvpx-vp9", &["-b:v", "0", "-cpu-used", "3", "-row-mt", "1", "-g", "250"])]
        }
    }
}

/// Frames by which a codec's output may have to wait for reordering.
fn reorder_delay(codec: Codec) -> u32 {
    match codec {
        // Three B-frames in a pyramid: two frames are decoded ahead.
        Codec::H264 | Codec::H265 => 2,
        Codec::BuiltIn | Codec::Av1 | Codec::Vp9 => 0,
    }
}

/// One run of ffmpeg that takes frames and writes one file.
pub(super) struct FrameEncoder {
    process: Process,
    picture: Yuv420,
    target: PathBuf,
}

impl FrameEncoder {
    /// Gives a frame to the one that runs, or to the one that `start` makes.
    pub(super) fn push_to(
        running: &mut Option<Self>,
        frame: &Frame,
        start: impl FnOnce() -> Result<Self>,
    ) -> Result<()> {
        let encoder = match running {
            Some(running) => running,
            None => running.insert(start()?),
        };
        if let Err(broken) = encoder.push(frame) {
            // What ffmpeg printed before it ended says more than the broken pipe.
            let reason = running.take().map_or(Ok(()), Self::finish);
            return reason.and(Err(broken));
        }
        Ok(())
    }

    /// Starts encoding into `target` with encoder number `choice` of the codec.
    pub(super) fn start(
        ffmpeg: &Path,
        options: &FilmOptions,
        codec: Codec,
        choice: usize,
        target: &Path,
    ) -> Result<Self> {
        let (encoder, extra) = encoders(codec)
            .get(choice)
            .ok_or(MediaError::Codec { what: "choice of an encoder", code: choice as i64 })?;
        let mut command = Command::new(ffmpeg);
        // What goes in is what the built-in encoder gets: BT.709 planes, so that every codec shows
        // the same colours.
        command
            .args(["-v", "error", "-nostats", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p"])
            .arg("-video_size")
            .arg(format!("{}x{}", options.width, options.height))
            .arg("-framerate")
            .arg(format!("{}/{}", options.rate.num, options.rate.den))
            .args(["-i", "pipe:0", "-an", "-pix_fmt", "yuv420p"])
            .args(["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"])
            .args(["-color_range", "tv", "-c:v", encoder])
            .args(*extra)
            .arg("-crf")
            .arg(options.crf_for(codec).to_string())
            // Nothing that changes from run to run, such as dates and random identifiers.
            .args(["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"])
            .arg(file_argument(target))
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Ok(Self {
            process: Process::start(&mut command, target, "encoding")?,
            picture: Yuv420::new(options.width as usize, options.height as usize),
            target: target.to_path_buf(),
        })
    }

    /// Hands a frame over. When ffmpeg has died, says why.
    pub(super) fn push(&mut self, frame: &Frame) -> Result<()> {
        self.picture.fill(frame);
        let mut write = || -> std::io::Result<()> {
            let pipe = self.process.child.stdin.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
            for plane in [&self.picture.y, &self.picture.u, &self.picture.v] {
                pipe.write_all(plane)?;
            }
            Ok(())
        };
        write().map_err(|e| MediaError::Ffmpeg {
            action: "encoding",
            path: self.target.clone(),
            message: format!("it stopped taking frames ({e})"),
        })
    }

    /// Waits until the file is complete.
    pub(super) fn finish(self) -> Result<()> {
        self.process.finish(&self.target, "encoding")
    }
}

/// The first encoder of `codec` that works for this film, found by encoding a few frames into
/// `target`, which is left for the caller to look at.
pub(super) fn choose_encoder(
    ffmpeg: &Path,
    options: &FilmOptions,
    codec: Codec,
    target: &Path,
) -> Result<usize> {
    let grey = Frame::filled(options.width, options.height, [128; 3]);
    let mut first_error = None;
    for choice in 0..encoders(codec).len() {
        let attempt =
            FrameEncoder::start(ffmpeg, options, codec, choice, target).and_then(|mut e| {
                // A failing push means that ffmpeg has ended; `finish` then tells why.
                let pushed = (0..4).try_for_each(|_| e.push(&grey));
                e.finish().and(pushed)
            });
        match attempt {
            Ok(()) => return Ok(choice),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    let _ = std::fs::remove_file(target);
    Err(first_error.unwrap_or(MediaError::Codec { what: "choice of an encoder", code: -1 }))
}

/// Finds out by encoding a few frames whether there is an ffmpeg that can write the film at `path`.
pub(super) fn check(path: &Path, options: &FilmOptions, codec: Codec, ending: &str) -> Result<()> {
    check_folder(path)?;
    let ffmpeg = require(options.ffmpeg.as_deref(), codec)?;
    let probe = beside(path, &format!("probe.{ending}"));
    choose_encoder(&ffmpeg, options, codec, &probe)?;
    let _ = std::fs::remove_file(&probe);
    Ok(())
}

/// Encodes the parts of an MP4 film.
pub(super) struct FfmpegEncoder {
    ffmpeg: PathBuf,
    options: FilmOptions,
    codec: Codec,
    choice: usize,
    part_file: PathBuf,
    entry: Vec<u8>,
    running: Option<FrameEncoder>,
    pushed: u64,
}

impl FfmpegEncoder {
    /// Finds an encoder that works; returns it with the sample entry and the reordering delay that
    /// the film's head needs.
    pub(super) fn new(
        path: &Path,
        options: &FilmOptions,
        codec: Codec,
    ) -> Result<(Self, Vec<u8>, u32)> {
        check_folder(path)?;
        let ffmpeg = require(options.ffmpeg.as_deref(), codec)?;
        let part_file = beside(path, "part.mp4");
        let choice = choose_encoder(&ffmpeg, options, codec, &part_file)?;
        let entry = Movie::open(&part_file).map(|movie| essential_entry(&movie.track.entry));
        let _ = std::fs::remove_file(&part_file);
        let entry = entry?;
        let encoder = Self {
            ffmpeg,
            options: options.clone(),
            codec,
            choice,
            part_file,
            entry: entry.clone(),
            running: None,
            pushed: 0,
        };
        Ok((encoder, entry, reorder_delay(codec)))
    }

    fn read_part(&self) -> Result<Samples> {
        let refuse = |message: String| MediaError::Ffmpeg {
            action: "encoding",
            path: self.part_file.clone(),
            message,
        };
        let mut movie = Movie::open(&self.part_file)?;
        if essential_entry(&movie.track.entry) != self.entry {
            return Err(refuse("its parts differ in their decoder configuration".to_owned()));
        }
        let mut refs = Vec::new();
        for chunk in 0..movie.chunk_count() {
            refs.extend(movie.samples_of(chunk)?);
        }
        if refs.len() as u64 != self.pushed {
            return Err(refuse(format!("it made {} frames of {}", refs.len(), self.pushed)));
        }
        let mut order: Vec<usize> = (0..refs.len()).collect();
        order.sort_by_key(|&i| refs[i].pts);
        let mut rank = vec![0usize; refs.len()];
        order.iter().enumerate().for_each(|(place, &i)| rank[i] = place);
        let delay = reorder_delay(self.codec) as usize;
        let mut samples = Samples::default();
        for (i, sample) in refs.iter().enumerate() {
            let shift = (rank[i] + delay)
                .checked_sub(i)
                .ok_or_else(|| refuse(format!("frame {i} waits for more than {delay} others")))?;
            samples.push(&movie.read_sample(sample)?, shift as u32, sample.sync);
        }
        Ok(samples)
    }
}

impl PartEncoder for FfmpegEncoder {
    fn push(&mut self, frame: &Frame, _part: u32) -> Result<()> {
        FrameEncoder::push_to(&mut self.running, frame, || {
            FrameEncoder::start(
                &self.ffmpeg,
                &self.options,
                self.codec,
                self.choice,
                &self.part_file,
            )
        })?;
        self.pushed += 1;
        Ok(())
    }

    fn pending(&self) -> u64 {
        self.pushed
    }

    fn take_part(&mut self) -> Result<Samples> {
        if let Some(running) = self.running.take() {
            running.finish()?;
        }
        let samples = self.read_part();
        let _ = std::fs::remove_file(&self.part_file);
        self.pushed = 0;
        samples
    }
}

impl Drop for FfmpegEncoder {
    fn drop(&mut self) {
        if self.running.take().is_some() {
            let _ = std::fs::remove_file(&self.part_file);
        }
    }
}

/// Refuses a film whose folder is missing before ffmpeg complains in its own words.
pub(super) fn check_folder(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(crate::error::write_error(path, std::io::ErrorKind::NotFound.into()))
        }
        _ => Ok(()),
    }
}

/// A sample entry without the boxes that differ from part to part, such as the bit rate.
fn essential_entry(entry: &[u8]) -> Vec<u8> {
    // Box header, then the fixed fields of a visual sample entry.
    const FIXED: usize = 8 + 78;
    let Some((fixed, rest)) = entry.split_at_checked(FIXED) else { return entry.to_vec() };
    let mut kept = fixed.to_vec();
    for inner in children(Bytes(rest)) {
        if [b"avcC", b"hvcC", b"av1C", b"vpcC", b"colr", b"pasp"].contains(&&inner.kind) {
            kept.extend_from_slice(inner.whole);
        }
    }
    let length = (kept.len() as u32).to_be_bytes();
    kept[..4].copy_from_slice(&length);
    kept
}
