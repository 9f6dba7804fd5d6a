//! What is done to frames between the model and the film's file, one after another: what it takes is a
//! function of the sizes.

use longreel_kernels::Tensor;
use longreel_media::{Filter, Frame, MAX_PART_FRAMES, Resizer, encoder_bytes};
use longreel_models::{Upscaler, UpscalerShape};

use crate::between::between;
use crate::error::FilmError;
use crate::request::{FilmRequest, Finish};

/// Brings frames of one size to the film's, and puts frames between them.
pub struct Finisher {
    how: Finish,
    resizer: Option<Resizer>,
}

impl Finisher {
    /// For the frames of one film.
    pub fn new(how: Finish) -> Self {
        Self { how, resizer: None }
    }

    /// Hands `frame` to `sink` as the film has it, after those that go between `before`, the values of
    /// the frame before it and of its size, and `frame`.
    ///
    /// # Errors
    /// A size that no frame can have, and those of `sink`.
    pub fn put(
        &mut self,
        upscaler: Option<&Upscaler>,
        before: Option<Vec<u8>>,
        frame: &Frame,
        sink: &mut dyn FnMut(&Frame) -> Result<(), FilmError>,
    ) -> Result<(), FilmError> {
        if let Some(before) = before.filter(|_| self.inserts()) {
            let before = Frame::new(frame.width(), frame.height(), before)?;
            for frame in between(&before, frame, self.how.frames - 1) {
                self.sized(upscaler, &frame, sink)?;
            }
        }
        self.sized(upscaler, frame, sink)
    }

    /// Whether frames go between others.
    pub fn inserts(&self) -> bool {
        self.how.frames > 1
    }

    fn sized(
        &mut self,
        upscaler: Option<&Upscaler>,
        frame: &Frame,
        sink: &mut dyn FnMut(&Frame) -> Result<(), FilmError>,
    ) -> Result<(), FilmError> {
        let Some(to) = self.how.size.map(|size| size.map(|side| side as u32)) else {
            return sink(frame);
        };
        let enlarged = upscaler.map(|upscaler| enlarge(upscaler, frame)).transpose()?;
        let frame = enlarged.as_ref().unwrap_or(frame);
        let from = [frame.width(), frame.height()];
        if from == to {
            return sink(frame);
        }
        let resizer = match self.resizer.take() {
            Some(resizer) => resizer,
            None => Resizer::new(from, to, Filter::Lanczos)?,
        };
        sink(self.resizer.insert(resizer).resize(frame))
    }
}

/// By the network, by its own factor.
fn enlarge(upscaler: &Upscaler, frame: &Frame) -> Result<Frame, FilmError> {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let values = frame.rgb().iter().map(|&value| f32::from(value) / 255.0).collect();
    let picture = Tensor::from_vec(&[1, height, width, 3], values);
    let enlarged = upscaler.forward(&picture);
    let to_byte = |value: &f32| (value.clamp(0.0, 1.0) * 255.0).round() as u8;
    let rgb = enlarged.data().iter().map(to_byte).collect();
    Ok(Frame::new(enlarged.dim(2) as u32, enlarged.dim(1) as u32, rgb)?)
}

/// Bytes that finishing takes: `frame` besides the decoder while frames are written, `part` from a
/// part's first frame to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FinishBytes {
    pub frame: u64,
    pub part: u64,
}

impl FinishBytes {
    /// Of a film whose segments have `frames` frames of the model, by the built-in encoder. What ffmpeg
    /// takes is its own.
    pub fn of(request: &FilmRequest, upscaler: Option<UpscalerShape>, frames: u64) -> Self {
        let (width, height) = (request.width, request.height);
        let how = request.finish;
        let rgb = |[width, height]: [usize; 2]| 3 * (width * height) as u64;
        let own = rgb([width, height]);
        // The frame; those before it and between them.
        let mut frame = own + if how.frames > 1 { 2 * own } else { 0 };
        if let Some(to) = how.size {
            let from = match upscaler {
                None => [width, height],
                Some(shape) => {
                    let enlarged = [width, height].map(|side| side * shape.factor);
                    // Picture and result are single floats, and then the result is made into bytes.
                    let forward = shape.bytes(height, width);
                    frame += forward.max(4 * own + 5 * rgb(enlarged));
                    enlarged
                }
            };
            if from != to {
                frame += Resizer::bytes(from, to) as u64;
            }
        }
        let [width, height] = request.film_size();
        // A fortieth of a byte a pixel: 10 Mbit a second at 1080p.
        let in_part = (frames * u64::from(how.frames)).min(MAX_PART_FRAMES);
        let samples = in_part * (width * height) as u64 / 40;
        Self { frame, part: encoder_bytes(width, height) + samples }
    }
}
