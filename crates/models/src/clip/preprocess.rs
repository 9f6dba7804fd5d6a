//! Pictures as CLIP wants them: `CLIPImageProcessor` of transformers (`preprocessor_config.json`).
//!
//! The reference scales the shorter side to the tower's size, cuts the middle out, and brings each
//! channel to mean 0 and deviation 1. Scaling is left to the caller, who has a resampler for pictures
//! already: [`ClipPreprocess::resized`] says the size, and the filter is Pillow's bicubic one on 8-bit
//! channels. A bilinear one moves a whole run's latents by 6e-3.

use longreel_kernels::Tensor;
use serde::Deserialize;

use crate::error::{ModelError, config, input};

/// How a picture becomes CLIP's input.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipPreprocess {
    resize: Option<Resize>,
    /// Height and width of the middle that is cut out.
    crop: Option<[usize; 2]>,
    /// Factor that brings 0 to 255 into the range of `mean`.
    rescale: f64,
    mean: [f64; 3],
    deviation: [f64; 3],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Resize {
    ShortestEdge(usize),
    Exactly { height: usize, width: usize },
}

impl Default for ClipPreprocess {
    /// CLIP's own: 224 pixels, and the statistics of its training set.
    fn default() -> Self {
        Self {
            resize: Some(Resize::ShortestEdge(224)),
            crop: Some([224, 224]),
            rescale: 1.0 / 255.0,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            deviation: [0.268_629_54, 0.261_302_58, 0.275_777_11],
        }
    }
}

/// The largest side that a config may ask for, so that it cannot ask for all memory.
const MAX_SIDE: usize = 4096;

/// How much longer than its other side a picture's side may be, for the same reason: the shorter one is
/// scaled up to a fixed size.
const MAX_ASPECT: usize = 32;

#[derive(Deserialize)]
struct File {
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<u32>,
    do_center_crop: Option<bool>,
    crop_size: Option<Size>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
}

/// One number in old files, an object in newer ones.
#[derive(Deserialize, Debug, Clone, Copy)]
#[serde(untagged)]
enum Size {
    Number(usize),
    ShortestEdge { shortest_edge: usize },
    Both { height: usize, width: usize },
}

impl ClipPreprocess {
    /// Reads a `preprocessor_config.json`; what it leaves out is as in [`ClipPreprocess::default`].
    ///
    /// # Errors
    /// [`ModelError::Config`] if it is no such file, asks for another filter than the bicubic one, or
    /// for sizes or deviations that no picture can have.
    pub fn from_json(json: &str) -> Result<Self, ModelError> {
        let file: File = serde_json::from_str(json).map_err(|error| {
            refused(
                "preprocessor_config.json",
                error.to_string(),
                "it must be that of CLIP's images",
            )
        })?;
        let standard = Self::default();
        if let Some(filter) = file.resample.filter(|filter| *filter != 3) {
            return Err(refused("resample", filter, "only 3, bicubic, is known for CLIP"));
        }
        let wanted = |flag: Option<bool>| flag.unwrap_or(true);
        let resize = match file.size {
            None => standard.resize,
            Some(Size::Number(side) | Size::ShortestEdge { shortest_edge: side }) => {
                Some(Resize::ShortestEdge(side))
            }
            Some(Size::Both { height, width }) => Some(Resize::Exactly { height, width }),
        };
        let crop = match file.crop_size {
            None => standard.crop,
            Some(Size::Number(side) | Size::ShortestEdge { shortest_edge: side }) => {
                Some([side, side])
            }
            Some(Size::Both { height, width }) => Some([height, width]),
        };
        let normalize = wanted(file.do_normalize);
        let made = Self {
            resize: resize.filter(|_| wanted(file.do_resize)),
            crop: crop.filter(|_| wanted(file.do_center_crop)),
            rescale: match wanted(file.do_rescale) {
                true => file.rescale_factor.unwrap_or(standard.rescale),
                false => 1.0,
            },
            mean: if normalize { file.image_mean.unwrap_or(standard.mean) } else { [0.0; 3] },
            deviation: if normalize {
                file.image_std.unwrap_or(standard.deviation)
            } else {
                [1.0; 3]
            },
        };
        made.check()?;
        Ok(made)
    }

    fn check(&self) -> Result<(), ModelError> {
        let [resize_height, resize_width] = match self.resize {
            Some(Resize::ShortestEdge(side)) => [side, side],
            Some(Resize::Exactly { height, width }) => [height, width],
            None => [1, 1],
        };
        let [crop_height, crop_width] = self.crop.unwrap_or([1, 1]);
        for (field, side) in [
            ("size", resize_height),
            ("size", resize_width),
            ("crop_size", crop_height),
            ("crop_size", crop_width),
        ] {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(refused(field, side, format!("a side has 1 to {MAX_SIDE} pixels")));
            }
        }
        for (field, values, positive) in
            [("image_mean", self.mean, false), ("image_std", self.deviation, true)]
        {
            if values.iter().any(|v| !v.is_finite() || positive && *v <= 0.0) {
                return Err(refused(field, values, "a deviation is above 0, and all are finite"));
            }
        }
        Ok(())
    }

    /// The width and height to which a picture of `width` x `height` pixels is to be scaled before
    /// [`apply`](Self::apply), with Pillow's bicubic filter.
    ///
    /// # Errors
    /// [`ModelError::Input`] if the picture is empty, or more than 32 times as long as it is wide.
    pub fn resized(&self, width: usize, height: usize) -> Result<(usize, usize), ModelError> {
        let (short, long) = (width.min(height), width.max(height));
        if short == 0 || long / short > MAX_ASPECT {
            let rule = format!("one side has at most {MAX_ASPECT} times the pixels of the other");
            return Err(input("picture", format!("{width}x{height}"), rule));
        }
        Ok(match self.resize {
            None => (width, height),
            Some(Resize::Exactly { height, width }) => (width, height),
            Some(Resize::ShortestEdge(side)) => {
                // Rounded down, as `get_resize_output_image_size` does.
                let longer = (side as u128 * long as u128 / short as u128) as usize;
                if width <= height { (side, longer) } else { (longer, side) }
            }
        })
    }

    /// The middle of a picture that has been scaled to [`resized`](Self::resized): `rgb` has
    /// `height` rows of `width` pixels of 3 bytes. Gives `[3, S, S]`, each channel around 0.
    ///
    /// # Errors
    /// [`ModelError::Input`] if `rgb` has another length, or the picture has not been scaled, or cannot be.
    pub fn apply(&self, rgb: &[u8], width: usize, height: usize) -> Result<Tensor, ModelError> {
        let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if bytes != Some(rgb.len()) || rgb.is_empty() {
            let rule = format!("a picture of {width}x{height} pixels has three for each pixel");
            return Err(input("rgb", format!("{} bytes", rgb.len()), rule));
        }
        let (right_width, right_height) = self.resized(width, height)?;
        if (right_width, right_height) != (width, height) {
            let rule =
                format!("CLIP looks at {right_width}x{right_height}; scale the picture first");
            return Err(input("picture", format!("{width}x{height}"), rule));
        }
        let [out_height, out_width] = self.crop.unwrap_or([height, width]);
        // A picture that is smaller than the cut is put in the middle of black.
        let rows = Middle::new(height, out_height);
        let columns = Middle::new(width, out_width);
        let mut values = Vec::with_capacity(3 * out_height * out_width);
        for channel in 0..3 {
            let (mean, deviation) = (self.mean[channel] as f32, self.deviation[channel] as f32);
            let value = |v: u8| (f32::from(v) * self.rescale as f32 - mean) / deviation;
            for y in 0..out_height {
                for x in 0..out_width {
                    let pixel = match (rows.source(y), columns.source(x)) {
                        (Some(y), Some(x)) => rgb[(y * width + x) * 3 + channel],
                        _ => 0,
                    };
                    values.push(value(pixel));
                }
            }
        }
        Ok(Tensor::from_vec(&[3, out_height, out_width], values))
    }
}

/// Where the middle of a line lies in it.
struct Middle {
    length: usize,
    /// Pixels to skip, or, below zero, to add.
    start: isize,
}

impl Middle {
    fn new(length: usize, out: usize) -> Self {
        // Rounded as `center_crop` does: down when it cuts, up when it pads.
        let start = (length as isize - out as isize).div_euclid(2);
        Self { length, start }
    }

    fn source(&self, at: usize) -> Option<usize> {
        let at = self.start.checked_add_unsigned(at)?;
        usize::try_from(at).ok().filter(|at| *at < self.length)
    }
}

fn refused(
    field: &'static str,
    value: impl std::fmt::Debug,
    rule: impl Into<String>,
) -> ModelError {
    config("image processor", field, value, rule)
}
