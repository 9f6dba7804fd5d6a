//! A frame and the rate at which frames follow each other.

use crate::error::{MediaError, Result};

/// One picture: 8-bit sRGB, rows from the top, layout `[height, width, 3]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({}x{})", self.width, self.height)
    }
}

impl Frame {
    /// Wraps `rgb`, which must hold exactly `width * height * 3` bytes.
    ///
    /// # Errors
    /// [`MediaError::Setting`] when a side is zero or the length does not match.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        let want = (width as usize).checked_mul(height as usize).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || want != Some(rgb.len()) {
            return Err(MediaError::Setting {
                what: "frame",
                value: format!("{width}x{height} with {} bytes", rgb.len()),
                rule: "a frame has at least one pixel and three bytes for each".to_owned(),
                cure: "pass width * height * 3 bytes".to_owned(),
            });
        }
        Ok(Self { width, height, rgb })
    }

    /// A frame of one colour. Both sides are raised to at least 1.
    #[must_use]
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let rgb = colour.repeat(width as usize * height as usize);
        Self { width, height, rgb }
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, `[height, width, 3]`.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixels for writing, `[height, width, 3]`.
    pub fn rgb_mut(&mut self) -> &mut [u8] {
        &mut self.rgb
    }

    /// The pixels, without a copy.
    #[must_use]
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// The colour at column `x`, row `y`, or `None` outside the frame.
    #[must_use]
    pub fn pixel(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        Some([self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]])
    }

    /// Peak signal-to-noise ratio against `other` in dB over all channels; infinite when equal,
    /// `None` when the sizes differ.
    #[must_use]
    pub fn psnr(&self, other: &Frame) -> Option<f64> {
        if (self.width, self.height) != (other.width, other.height) {
            return None;
        }
        let sum: u64 =
            self.rgb.iter().zip(&other.rgb).map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2)).sum();
        let mean = sum as f64 / self.rgb.len() as f64;
        Some(10.0 * (255.0 * 255.0 / mean).log10())
    }
}

/// Frames per second as a fraction, so that 30000/1001 stays exact over any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrameRate {
    /// Frames in `den` seconds, 1 to 1,000,000.
    pub num: u32,
    /// Seconds for `num` frames, 1 to 1,000,000.
    pub den: u32,
}

impl FrameRate {
    /// A whole number of frames per second.
    #[must_use]
    pub const fn whole(fps: u32) -> Self {
        Self { num: fps, den: 1 }
    }

    /// The fraction nearest to `fps`, with the broadcast rates (23.976, 29.97, 59.94) recognised.
    ///
    /// # Errors
    /// [`MediaError::Setting`] outside 0.1 to 1000.
    pub fn from_f64(fps: f64) -> Result<Self> {
        if !(0.1..=1000.0).contains(&fps) {
            return Err(Self::out_of_range(fps.to_string()));
        }
        if (fps - fps.round()).abs() < 1e-6 {
            return Ok(Self::whole(fps.round() as u32));
        }
        let broadcast = (fps * 1.001).round();
        if (fps - broadcast / 1.001).abs() < 2e-3 {
            return Ok(Self { num: broadcast as u32 * 1000, den: 1001 });
        }
        Ok(Self { num: (fps * 1000.0).round() as u32, den: 1000 })
    }

    /// Frames per second.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den.max(1))
    }

    /// Checks the ranges of the fields.
    pub(crate) fn check(self) -> Result<Self> {
        let parts = 1..=1_000_000;
        if parts.contains(&self.num)
            && parts.contains(&self.den)
            && (0.1..=1000.0).contains(&self.as_f64())
        {
            Ok(self)
        } else {
            Err(Self::out_of_range(format!("{}/{}", self.num, self.den)))
        }
    }

    fn out_of_range(value: String) -> MediaError {
        MediaError::Setting {
            what: "fps",
            value,
            rule: "frames per second go from 0.1 to 1000".to_owned(),
            cure: "the models are made for 16 or 24".to_owned(),
        }
    }
}
