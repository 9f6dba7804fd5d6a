//! What is done to frames between the model and the film's file.

use longreel_kernels::Tensor;
use longreel_media::{Filter, Frame, resize};
use longreel_models::Upscaler;

use crate::between::between;
use crate::error::FilmError;
use crate::request::Finish;

/// The frames that go between `before`, the values of the frame before `frame` and of its size, and
/// `frame`.
///
/// # Errors
/// None for frames of one size.
pub fn inserted(
    how: &Finish,
    before: Option<&[u8]>,
    frame: &Frame,
) -> Result<Vec<Frame>, FilmError> {
    let Some(before) = before.filter(|_| how.frames > 1) else { return Ok(Vec::new()) };
    let before = Frame::new(frame.width(), frame.height(), before.to_vec())?;
    Ok(between(&before, frame, how.frames - 1))
}

/// A frame in the film's size.
///
/// # Errors
/// A size that no frame can have.
pub fn sized(how: &Finish, upscaler: Option<&Upscaler>, frame: Frame) -> Result<Frame, FilmError> {
    let Some([width, height]) = how.size.map(|size| size.map(|side| side as u32)) else {
        return Ok(frame);
    };
    let frame = match upscaler {
        Some(upscaler) => enlarge(upscaler, &frame)?,
        None => frame,
    };
    if (frame.width(), frame.height()) == (width, height) {
        return Ok(frame);
    }
    Ok(resize(&frame, width, height, Filter::Lanczos)?)
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
