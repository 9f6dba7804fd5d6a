//! Everything else, decoded by ffmpeg.
//!
//! Frames come through a pipe as PPM pictures, which carry their own size, so that rotation and
//! odd files need no guessing.

use super::{VideoInfo, VideoOptions, is_oblong};
use crate::error::{MediaError, Result};
use crate::ffmpeg::{Process, ffprobe_path, file_argument};
use crate::frame::{Frame, FrameRate};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

/// Containers that ffmpeg may open. Playlists are not among them: those can name other files.
const CONTAINERS: &str = "matroska,webm,mov,mp4,avi,mpegts,mpeg,mpegvideo,flv,ogg,gif,apng,asf,mxf,\
                          h264,hevc,av1,obu,ivf,dv,yuv4mpegpipe,m4v,nut,webp_pipe";

pub(super) struct FfmpegReader {
    path: PathBuf,
    options: VideoOptions,
    process: Option<Process>,
    pipe: BufReader<ChildStdout>,
    /// The first frame, decoded to learn the size as shown.
    first: Option<Frame>,
}

impl FfmpegReader {
    pub(super) fn open(
        path: &Path,
        options: &VideoOptions,
        ffmpeg: &Path,
    ) -> Result<(Self, VideoInfo)> {
        let probed = probe(path, ffmpeg);
        if let Some((width, height)) = probed.size {
            options.check_size(path, width, height)?;
        }
        let brought_to = options.other_rate(probed.fps);
        let mut command = Command::new(ffmpeg);
        command
            .args(["-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe"])
            .args(["-format_whitelist", CONTAINERS, "-i"])
            .arg(file_argument(path))
            .args(["-map", "0:v:0", "-sws_flags", "bicubic+accurate_rnd+full_chroma_int"])
            .args(filters(&probed, brought_to).iter().flat_map(|all| ["-vf", all]))
            .args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command, path, "decoding")?;
        let pipe = process.child.stdout.take().ok_or_else(|| MediaError::Ffmpeg {
            action: "decoding",
            path: path.to_path_buf(),
            message: "its output could not be opened".to_owned(),
        })?;
        let mut reader = Self {
            path: path.to_path_buf(),
            options: options.clone(),
            process: Some(process),
            pipe: BufReader::with_capacity(1 << 20, pipe),
            first: None,
        };
        let Some(first) = reader.next_frame()? else {
            return Err(MediaError::Damaged {
                path: path.to_path_buf(),
                detail: "ffmpeg finds no picture in it".to_owned(),
            });
        };
        let info = VideoInfo {
            width: first.width(),
            height: first.height(),
            fps: probed.fps,
            frames: probed.frames,
            brought_to,
            codec: probed.codec.unwrap_or_else(|| "unknown".to_owned()),
            cut_off: false,
            through_ffmpeg: true,
        };
        reader.first = Some(first);
        Ok((reader, info))
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some((width, height)) = self.read_header()? else {
            // The end of the pipe is the end of the video only when ffmpeg says so too.
            return match self.process.take() {
                Some(process) => process.finish(&self.path, "decoding").map(|()| None),
                None => Ok(None),
            };
        };
        self.options.check_size(&self.path, width.into(), height.into())?;
        let mut rgb = vec![0; width as usize * height as usize * 3];
        self.pipe.read_exact(&mut rgb).map_err(|_| MediaError::Ffmpeg {
            action: "decoding",
            path: self.path.clone(),
            message: "it stopped in the middle of a picture".to_owned(),
        })?;
        Frame::new(width, height, rgb).map(Some)
    }

    /// `P6`, width, height, 255, each after white space.
    fn read_header(&mut self) -> Result<Option<(u32, u32)>> {
        let mut words: [String; 4] = Default::default();
        for (index, word) in words.iter_mut().enumerate() {
            loop {
                let mut byte = [0u8; 1];
                match self.pipe.read(&mut byte) {
                    Ok(1) if !byte[0].is_ascii_whitespace() && word.len() < 10 => {
                        word.push(byte[0] as char);
                    }
                    Ok(1) if byte[0].is_ascii_whitespace() && !word.is_empty() => break,
                    Ok(0) if index == 0 && word.is_empty() => return Ok(None),
                    _ => return Err(self.wrong_header()),
                }
            }
        }
        match (words[0].as_str(), words[1].parse(), words[2].parse(), words[3].as_str()) {
            ("P6", Ok(width), Ok(height), "255") => Ok(Some((width, height))),
            _ => Err(self.wrong_header()),
        }
    }

    fn wrong_header(&self) -> MediaError {
        MediaError::Ffmpeg {
            action: "decoding",
            path: self.path.clone(),
            message: "what it sent is not a picture".to_owned(),
        }
    }
}

/// What pictures go through before they come here.
fn filters(probed: &Probed, brought_to: Option<FrameRate>) -> Option<String> {
    let rate = brought_to.map(|FrameRate { num, den }| {
        // As `Pace` has it.
        format!("setpts=PTS-STARTPTS,fps=fps={num}/{den}:round=near")
    });
    // As wide as it is shown: frames here have square pixels.
    let shape = probed.oblong.then(|| "scale=max(1\\,round(iw*sar)):ih".to_owned());
    let all: Vec<_> = rate.into_iter().chain(shape).collect();
    (!all.is_empty()).then(|| all.join(","))
}

#[derive(Default)]
struct Probed {
    size: Option<(u64, u64)>,
    fps: Option<f64>,
    frames: Option<u64>,
    codec: Option<String>,
    /// Its pixels are not square.
    oblong: bool,
}

/// Asks ffprobe; what it does not tell stays unknown.
fn probe(path: &Path, ffmpeg: &Path) -> Probed {
    let mut probed = Probed::default();
    let Some(program) = ffprobe_path(ffmpeg) else { return probed };
    let output = Command::new(program)
        .args(["-v", "error", "-protocol_whitelist", "file,pipe"])
        .args(["-format_whitelist", CONTAINERS, "-select_streams", "v:0"])
        .args([
            "-show_entries",
            "stream=codec_name,width,height,avg_frame_rate,nb_frames,sample_aspect_ratio",
        ])
        .args(["-of", "default=noprint_wrappers=1"])
        .arg(file_argument(path))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return probed };
    let text = String::from_utf8_lossy(&output.stdout);
    let field = |name: &str| {
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    probed.codec = field("codec_name");
    // 0:1 and N/A where it does not say.
    probed.oblong = field("sample_aspect_ratio")
        .and_then(|ratio| {
            let (width, height) = ratio.split_once(':')?;
            Some((width.parse::<u32>().ok()?, height.parse::<u32>().ok()?))
        })
        .is_some_and(|(width, height)| is_oblong(width, height));
    probed.size = field("width")
        .zip(field("height"))
        .and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    probed.frames = field("nb_frames").and_then(|n| n.parse().ok());
    probed.fps = field("avg_frame_rate")
        .and_then(|r| {
            let (num, den) = r.split_once('/')?;
            Some(num.parse::<f64>().ok()? / den.parse::<f64>().ok()?)
        })
        .filter(|r| r.is_finite() && *r > 0.0);
    probed
}
