//! Bringing an image to the size of a film, and saying what was done to it.

use super::resample::{Filter, resize, resize_region};
use crate::error::{MediaError, Result};
use crate::frame::Frame;
use std::fmt;

/// What to do when an image has another shape than the film.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Fill the film and cut off what hangs over, equally on both sides.
    #[default]
    Crop,
    /// Show all of the image, with black bars.
    Pad,
    /// Change the shape, as diffusers' `VideoProcessor` does.
    Stretch,
}

impl Fit {
    /// The way called `name`: `crop`, `pad` or `stretch`.
    ///
    /// # Errors
    /// [`MediaError::Setting`] with the names that exist.
    pub fn from_name(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "crop" => Ok(Self::Crop),
            "pad" => Ok(Self::Pad),
            "stretch" => Ok(Self::Stretch),
            _ => Err(MediaError::Setting {
                what: "fit",
                value: format!("\"{name}\""),
                rule: "images are fitted by crop, pad or stretch".to_owned(),
                cure: "leave it out for crop".to_owned(),
            }),
        }
    }
}

/// What [`fit`] did; its `Display` is a line for the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitReport {
    /// How.
    pub fit: Fit,
    /// Width and height of the image.
    pub from: (u32, u32),
    /// Width and height of the result.
    pub to: (u32, u32),
    /// The part of the image that is in the result: left, top, right, bottom in its pixels.
    pub source: [f64; 4],
    /// The part of the result that shows the image: left, top, width, height.
    pub target: [u32; 4],
}

impl fmt::Display for FitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((fw, fh), (tw, th)) = (self.from, self.to);
        if self.from == self.to {
            return write!(f, "{fw}x{fh} used as it is");
        }
        let [left, top, right, bottom] = self.source;
        let [_, _, inner_w, inner_h] = self.target;
        match self.fit {
            _ if fw as u64 * th as u64 == fh as u64 * tw as u64 => {
                write!(f, "{fw}x{fh} scaled to {tw}x{th}")
            }
            Fit::Crop => write!(
                f,
                "{fw}x{fh} cropped to its central {:.0}x{:.0} and scaled to {tw}x{th}",
                right - left,
                bottom - top
            ),
            Fit::Pad => write!(
                f,
                "{fw}x{fh} scaled to {inner_w}x{inner_h} and padded with black to {tw}x{th}"
            ),
            Fit::Stretch => write!(f, "{fw}x{fh} stretched to {tw}x{th}"),
        }
    }
}

impl FitReport {
    /// What [`fit`] does with an image of a width and height, which it need not have for that.
    pub fn of(from: (u32, u32), to: (u32, u32), how: Fit) -> Self {
        let (fw, fh) = (f64::from(from.0), f64::from(from.1));
        let (tw, th) = (f64::from(to.0), f64::from(to.1));
        let mut report =
            Self { fit: how, from, to, source: [0.0, 0.0, fw, fh], target: [0, 0, to.0, to.1] };
        match how {
            Fit::Stretch => {}
            Fit::Crop => {
                // The region of the film's shape, as large as fits, in the middle. Cutting before
                // scaling keeps the scale of both axes exactly equal.
                let scale = (tw / fw).max(th / fh);
                let (cw, ch) = ((tw / scale).min(fw), (th / scale).min(fh));
                let (left, top) = ((fw - cw) / 2.0, (fh - ch) / 2.0);
                report.source = [left, top, left + cw, top + ch];
            }
            Fit::Pad => {
                let scale = (tw / fw).min(th / fh);
                let side =
                    |from: f64, most: u32| ((from * scale).round() as u32).clamp(1, most.max(1));
                let (iw, ih) = (side(fw, to.0), side(fh, to.1));
                report.target = [(to.0.max(1) - iw) / 2, (to.1.max(1) - ih) / 2, iw, ih];
            }
        }
        report
    }
}

/// Brings `frame` to exactly `width` x `height`.
///
/// # Errors
/// [`MediaError::Setting`] for a side of zero.
pub fn fit(frame: &Frame, width: u32, height: u32, how: Fit) -> Result<(Frame, FitReport)> {
    let report = FitReport::of((frame.width(), frame.height()), (width, height), how);
    let fitted = match how {
        Fit::Stretch => resize(frame, width, height, Filter::Lanczos)?,
        Fit::Crop => resize_region(frame, report.source, width, height, Filter::Lanczos)?,
        Fit::Pad => {
            let [x, y, iw, ih] = report.target;
            let inner = resize(frame, iw, ih, Filter::Lanczos)?;
            let row = width as usize * 3;
            let mut rgb = vec![0; row * height as usize];
            for (line, source) in inner.rgb().chunks_exact(iw as usize * 3).enumerate() {
                let at = (y as usize + line) * row + x as usize * 3;
                if let Some(target) = rgb.get_mut(at..at + source.len()) {
                    target.copy_from_slice(source);
                }
            }
            Frame::new(width, height, rgb)?
        }
    };
    Ok((fitted, report))
}
