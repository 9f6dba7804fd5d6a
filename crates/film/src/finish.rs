//! What is done to frames between the model and the film's file.

use longreel_kernels::Tensor;
use longreel_media::{Filter, Frame, resize};
use longreel_models::Upscaler;

use crate::between::between;
use crate::error::FilmError;
use crate::request::Finish;

/// The frames of the film that `frame` brings, `before` being the one before it: those between the two,
/// and itself.
///
/// # Errors
/// A size that no frame can have.
pub fn finish(
    how: &Finish,
    upscaler: Option<&Upscaler>,
    before: Option<&Frame>,
    frame: &Frame,
) -> Result<Vec<Frame>, FilmError> {
    let mut frames = match before {
        Some(before) if how.frames > 1 => between(before, frame, how.frames - 1),
        _ => Vec::new(),
    };
    frames.push(frame.clone());
    let Some([width, height]) = how.size.map(|size| size.map(|side| side as u32)) else {
        return Ok(frames);
    };
    let larger = frames.into_iter().map(|frame| {
        let frame = match upscaler {
            Some(upscaler) => enlarge(upscaler, &frame)?,
            None => frame,
        };
        if (frame.width(), frame.height()) == (width, height) {
            return Ok(frame);
        }
        Ok(resize(&frame, width, height, Filter::Lanczos)?)
    });
    larger.collect()
}

/// By the network, as often as it enlarges.
fn enlarge(upscaler: &Upscaler, frame: &Frame) -> Result<Frame, FilmError> {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let values = frame.rgb().iter().map(|&value| f32::from(value) / 255.0).collect();
    let picture = Tensor::from_vec(&[1, height, width, 3], values);
    let enlarged = upscaler.forward(&picture);
    let to_byte = |value: &f32| (value.clamp(0.0, 1.0) * 255.0).round() as u8;
    let rgb = enlarged.data().iter().map(to_byte).collect();
    Ok(Frame::new(enlarged.dim(2) as u32, enlarged.dim(1) as u32, rgb)?)
}
