//! Pictures and videos that a film starts from or ends in, as latents and image embeddings.

use std::path::Path;

use longreel_kernels::Tensor;
use longreel_media::{
    Filter, Fit, FitReport, Frame, FrameRate, ImageLimits, MediaError, VideoInfo, VideoOptions,
    VideoReader, fit, last_frames, load_image, resize,
};
use longreel_models::{ClipPreprocess, ClipVision, VaeEncoder, VaeEncoderState};

use crate::error::{FilmError, PlanError};
use crate::events::{Event, Observer};
use crate::plan::human_frames;
use crate::request::{FilmRequest, FitMode};

/// Scratch memory of one encoder or decoder call.
pub const VAE_BUDGET_BYTES: usize = 1 << 30;

/// What the networks are given besides the prompt.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Latents the first window begins with, `[prefix, C, h, w]`.
    pub prefix: Option<Tensor>,
    /// The last image's latent, `[1, C, h, w]`.
    pub end: Option<Tensor>,
    /// Extra input channels of image-to-video models, `[T, mask + C, h, w]`.
    pub extra_channels: Option<Tensor>,
}

/// Frames `[F, H, W, 3]` in [-1, 1] from 8-bit ones.
pub fn to_tensor(frames: &[Frame]) -> Tensor {
    let (height, width) = frames.first().map_or((0, 0), |f| (f.height(), f.width()));
    let data = frames
        .iter()
        .flat_map(|f| f.rgb())
        // The reference divides by 255 first and doubles after; f32 rounds each step.
        .map(|&v| 2.0 * (f32::from(v) / 255.0) - 1.0)
        .collect();
    Tensor::from_vec(&[frames.len(), height as usize, width as usize, 3], data)
}

/// Reads a picture.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn read_image(path: &Path) -> Result<Frame, MediaError> {
    Ok(load_image(path, &ImageLimits::default())?.frame)
}

/// Brings a picture to the film's size, and says what was done when anything was.
///
/// # Errors
/// When it cannot be resized.
pub fn fit_frame(
    frame: &Frame,
    request: &FilmRequest,
) -> Result<(Frame, Option<String>), MediaError> {
    let (width, height) = (request.width as u32, request.height as u32);
    let note = fit_note((frame.width(), frame.height()), request);
    if note.is_none() {
        return Ok((frame.clone(), None));
    }
    let (frame, _) = fit(frame, width, height, way_of(request.fit))?;
    Ok((frame, note))
}

/// What is done with a picture of a width and height so that it has the film's size, where anything is.
pub fn fit_note(from: (u32, u32), request: &FilmRequest) -> Option<String> {
    let to = (request.width as u32, request.height as u32);
    (from != to).then(|| FitReport::of(from, to, way_of(request.fit)).to_string())
}

fn way_of(fit: FitMode) -> Fit {
    match fit {
        FitMode::Crop => Fit::Crop,
        FitMode::Pad => Fit::Pad,
        FitMode::Stretch => Fit::Stretch,
    }
}

/// Reads a picture and brings it to the film's size. The second frame is the picture as it was.
///
/// # Errors
/// When it cannot be read.
pub fn load_fitted(
    path: &Path,
    request: &FilmRequest,
    observer: &mut dyn Observer,
) -> Result<(Frame, Frame), FilmError> {
    let original = read_image(path)?;
    let (fitted, done) = fit_frame(&original, request)?;
    if let Some(what) = done {
        observer.event(Event::Warning { message: format!("{}: {what}", path.display()) });
    }
    Ok((fitted, original))
}

/// The last `count` frames of a video, brought to the film's size.
///
/// # Errors
/// When it cannot be read, or has fewer frames.
pub fn load_tail(
    path: &Path,
    count: usize,
    request: &FilmRequest,
    observer: &mut dyn Observer,
) -> Result<Vec<Frame>, FilmError> {
    let (info, tail) = last_frames(path, count, &video_options(request))?;
    if tail.len() < count {
        return Err(too_short(path, &info, tail.len() as u64, count).into());
    }
    let mut note = None;
    let mut frames = Vec::with_capacity(count);
    for frame in &tail {
        let (frame, done) = fit_frame(frame, request)?;
        note = note.or(done);
        frames.push(frame);
    }
    if let Some(what) = note {
        observer.event(Event::Warning { message: format!("{}: {what}", path.display()) });
    }
    Ok(frames)
}

/// Counts the frames that a video has at the film's rate, by decoding all of it.
///
/// # Errors
/// When it cannot be read to its end, or has fewer than `least` frames.
pub fn frames_of_video(video: VideoReader, path: &Path, least: usize) -> Result<u64, FilmError> {
    let (info, mut frames) = (video.info().clone(), 0);
    for frame in video {
        frame?;
        frames += 1;
    }
    if frames < least as u64 {
        return Err(too_short(path, &info, frames, least).into());
    }
    Ok(frames)
}

/// How a video is read that becomes part of a film: at the film's rate, so that it keeps its pace.
pub fn video_options(request: &FilmRequest) -> VideoOptions {
    VideoOptions::at(FrameRate::whole(request.fps))
}

/// What is told of a video that is brought to the film's rate.
pub fn rate_note(path: &Path, info: &VideoInfo) -> Option<String> {
    let (rate, fps) = (info.brought_to?.as_f64(), info.fps?);
    let how = if fps > rate { "left out" } else { "repeated" };
    Some(format!(
        "{} has {} frames a second and the film {rate}: frames are {how}, so that it keeps its pace; --fps {:.0} \
         takes each as it is",
        path.display(),
        (fps * 1e3).round() / 1e3,
        fps.round().max(1.0)
    ))
}

/// A video that gives `frames` frames, of which `history` should be the first window's beginning.
pub fn too_short(path: &Path, info: &VideoInfo, frames: u64, history: usize) -> PlanError {
    let rate = info.brought_to.map(|rate| format!(" at {} a second", rate.as_f64()));
    PlanError::value(
        "--video",
        path.display(),
        format!(
            "has {}{}, and --overlap-history {history} needs that many",
            human_frames(frames),
            rate.unwrap_or_default()
        ),
        match frames.checked_sub(1) {
            Some(n) => format!("use --overlap-history {}, or a longer video", n / 4 * 4 + 1),
            None => "give a video with frames".into(),
        },
    )
}

/// Latents of frames encoded on their own, normalised: `[F, H, W, 3]` in [-1, 1] to
/// `[(F - 1) / 4 + 1, C, h, w]`.
///
/// # Errors
/// Those of the encoder.
pub fn encode(encoder: &VaeEncoder, frames: &Tensor) -> Result<Tensor, FilmError> {
    Ok(encoder.encode(frames, &mut VaeEncoderState::new(), VAE_BUDGET_BYTES)?)
}

/// The extra input channels of image-to-video models: a mask of `4` channels that marks given
/// pixel frames, then the latents of the given frames among grey ones. `[T, 4 + C, h, w]` for
/// `frames` pixel frames. See `prepare_latents` of `pipeline_skyreels_v2_i2v.py` (diffusers 0.42.1).
///
/// # Errors
/// Those of the encoder.
pub fn image_to_video_channels(
    encoder: &VaeEncoder,
    first: &Frame,
    last: Option<&Frame>,
    frames: usize,
) -> Result<Tensor, FilmError> {
    let (height, width) = (first.height() as usize, first.width() as usize);
    let mut state = VaeEncoderState::new();
    let mut parts = vec![encoder.encode(
        &to_tensor(std::slice::from_ref(first)),
        &mut state,
        VAE_BUDGET_BYTES,
    )?];
    let mut done = 1;
    while done < frames {
        // A few groups of four at a time: grey frames need no more memory than that.
        let count = (frames - done).min(16);
        let mut grey = Tensor::zeros(&[count, height, width, 3]);
        if let Some(last) = last.filter(|_| done + count == frames) {
            let start = (count - 1) * height * width * 3;
            grey.data_mut()[start..].copy_from_slice(to_tensor(std::slice::from_ref(last)).data());
        }
        parts.push(encoder.encode(&grey, &mut state, VAE_BUDGET_BYTES)?);
        done += count;
    }
    let latents = Tensor::concat0(&parts.iter().collect::<Vec<_>>());
    let (t, c, plane) = (latents.dim(0), latents.dim(1), latents.dim(2) * latents.dim(3));
    let mut joined = Vec::with_capacity(t * (4 + c) * plane);
    for frame in 0..t {
        for sub in 0..4 {
            // The first latent frame stands for one pixel frame, told four times.
            let given = frame == 0 || (last.is_some() && frame + 1 == t && sub == 3);
            joined.extend(std::iter::repeat_n(if given { 1.0 } else { 0.0 }, plane));
        }
        joined.extend_from_slice(&latents.data()[frame * c * plane..(frame + 1) * c * plane]);
    }
    Ok(Tensor::from_vec(&[t, 4 + c, latents.dim(2), latents.dim(3)], joined))
}

/// CLIP's view of one or two images, joined along the tokens.
///
/// # Errors
/// Those of the network.
pub fn image_embeds(
    clip: &ClipVision,
    preprocess: &ClipPreprocess,
    images: &[&Frame],
) -> Result<Tensor, FilmError> {
    let views = images
        .iter()
        .map(|image| {
            let (width, height) =
                preprocess.resized(image.width() as usize, image.height() as usize)?;
            let image = resize(image, width as u32, height as u32, Filter::Bicubic)?;
            let pixels = preprocess.apply(image.rgb(), width, height)?;
            Ok::<_, FilmError>(clip.encode(&pixels)?)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::concat0(&views.iter().collect::<Vec<_>>()))
}
