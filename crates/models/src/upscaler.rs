//! A learned upscaler: the compact network of Real-ESRGAN (`SRVGGNetCompact`: realesr-animevideov3,
//! realesr-general-x4v3 and their kind), from the file that its authors publish.
//!
//! Reference: `realesrgan/archs/srvgg_arch.py` of Real-ESRGAN: convolutions of 3 x 3 with a PReLU behind
//! each, a pixel shuffle at the end, and the picture itself, enlarged by nearest neighbour, added.

use std::path::Path;

use longreel_kernels::{Conv3d, Tensor, Vector, ops};
use longreel_weights::TensorSource;

use crate::ModelError;

/// Bytes of activations that one pass may take; a larger picture is done in strips.
const STRIP_BYTES: usize = 256 << 20;
/// Layers at most: the largest published one has 34.
const MAX_LAYERS: usize = 256;

/// The network.
#[derive(Debug)]
pub struct Upscaler {
    layers: Vec<Layer>,
    last: Conv3d,
    factor: usize,
}

/// Its sizes, which say what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpscalerShape {
    /// Convolutions before the last one.
    pub layers: usize,
    /// Channels between them.
    pub features: usize,
    /// How many times wider and higher its pictures are.
    pub factor: usize,
}

impl UpscalerShape {
    /// Operations for a picture of one pixel.
    pub fn flops_per_pixel(&self) -> f64 {
        let (features, colours) = (self.features as f64, 3.0);
        let between = (self.layers - 1) as f64 * features * features;
        let last = features * colours * (self.factor * self.factor) as f64;
        2.0 * 9.0 * (colours * features + between + last)
    }

    /// Rows of a picture of `width` that are done together, and those that they look at besides on
    /// either side.
    fn strip(&self, width: usize) -> (usize, usize) {
        // What a pixel of the result looks at.
        let halo = self.layers + 1;
        let fits = STRIP_BYTES / (3 * self.features * width.max(1) * size_of::<f32>());
        (fits.saturating_sub(2 * halo).max(halo), halo)
    }

    /// Bytes that [`Upscaler::forward`] takes for a picture of `height x width`, picture and result
    /// included.
    pub fn bytes(&self, height: usize, width: usize) -> u64 {
        let (rows, halo) = self.strip(width);
        let strip = (rows.min(height) + 2 * halo).min(height) * width;
        let enlarged = 3 * self.factor * self.factor;
        // Two layers stand at once; in the end the last one's, its values and those in their places.
        let layers = (2 * self.features).max(self.features + 2 * enlarged);
        let values = strip * (3 + layers) + height * width * (3 + enlarged);
        (values * size_of::<f32>()) as u64
    }
}

/// A convolution and the slopes of the PReLU behind it, one for each channel.
#[derive(Debug)]
struct Layer {
    conv: Conv3d,
    slopes: Vector,
}

impl Upscaler {
    /// Reads a `.pth` or safetensors file. The sizes come from the shapes in it.
    ///
    /// # Errors
    /// A file that cannot be read or holds another network.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mut source = TensorSource::open_file(path)?;
        let other = |what: &str| ModelError::Upscaler {
            file: path.display().to_string(),
            problem: format!(
                "{what}; those of the compact kind (SRVGGNetCompact, such as realesr-animevideov3.pth) \
                 can be used"
            ),
        };
        // The better half of a training run that averaged its weights comes first.
        let prefix = ["params_ema.", "params.", ""]
            .into_iter()
            .find(|prefix| source.has(&format!("{prefix}body.0.weight")))
            .ok_or_else(|| other("it has no tensor body.0.weight"))?;
        let unused: Vec<String> =
            source.names().filter(|name| !name.starts_with(prefix)).map(str::to_owned).collect();
        unused.iter().for_each(|name| source.skip(name));
        let name = |index: usize, part: &str| format!("{prefix}body.{index}.{part}");
        let shape = |source: &TensorSource, index| {
            source.shape(&name(index, "weight")).map(<[usize]>::to_vec)
        };
        let &[features, 3, 3, 3] = shape(&source, 0).unwrap_or_default().as_slice() else {
            return Err(other("its first layer is no convolution of 3 x 3 on colours"));
        };
        let conv = |source: &mut TensorSource, index, outputs, inputs| {
            let weight = source.take(&name(index, "weight"), &[outputs, inputs, 3, 3])?;
            let bias = source.take_f32(&name(index, "bias"), &[outputs])?;
            Ok::<_, ModelError>(Conv3d::new(&weight, Some(bias), [1; 3], [1; 4]))
        };
        let mut layers = Vec::new();
        let mut inputs = 3;
        // Each layer has a convolution and a PReLU; the last one has none.
        while source.has(&name(2 * layers.len() + 1, "weight")) {
            if layers.len() == MAX_LAYERS {
                return Err(other("it has too many layers"));
            }
            let at = 2 * layers.len();
            let conv = conv(&mut source, at, features, inputs)?;
            let slopes = source.take_f32(&name(at + 1, "weight"), &[features])?.into();
            layers.push(Layer { conv, slopes });
            inputs = features;
        }
        let at = 2 * layers.len();
        let outputs = shape(&source, at).unwrap_or_default().first().copied().unwrap_or_default();
        let factor = (1..=8).find(|factor| outputs == 3 * factor * factor);
        let factor = factor.filter(|_| !layers.is_empty());
        let factor = factor.ok_or_else(|| other("its last layer makes no enlarged picture"))?;
        let last = conv(&mut source, at, outputs, inputs)?;
        source.finish()?;
        Ok(Self { layers, last, factor })
    }

    /// How many times wider and higher its pictures are.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// Its sizes.
    pub fn shape(&self) -> UpscalerShape {
        let features = self.last.inputs();
        UpscalerShape { layers: self.layers.len(), features, factor: self.factor }
    }

    /// Enlarges a picture `[1, H, W, 3]` in [0, 1] to `[1, sH, sW, 3]`; values may lie a little outside.
    pub fn forward(&self, picture: &Tensor) -> Tensor {
        let &[1, height, width, 3] = picture.shape() else {
            panic!("Upscaler::forward: {:?} is not [1, H, W, 3]", picture.shape());
        };
        let (rows, halo) = self.shape().strip(width);
        let rows = rows.min(height);
        let line = width * 3;
        let wide = self.factor * line * self.factor;
        let mut result = Vec::with_capacity(height * wide);
        for first in (0..height).step_by(rows) {
            let end = (first + rows).min(height);
            let (from, to) = (first.saturating_sub(halo), (end + halo).min(height));
            let strip = picture.data()[from * line..to * line].to_vec();
            let strip = Tensor::from_vec(&[1, to - from, width, 3], strip);
            let enlarged = self.enlarge(&strip);
            result.extend_from_slice(&enlarged[(first - from) * wide..(end - from) * wide]);
        }
        Tensor::from_vec(&[1, height * self.factor, width * self.factor, 3], result)
    }

    fn enlarge(&self, strip: &Tensor) -> Vec<f32> {
        let mut hidden = None;
        for Layer { conv, slopes } in &self.layers {
            let mut next = ops::conv3d(hidden.as_ref().unwrap_or(strip), None, conv);
            ops::prelu_inplace(&mut next, slopes);
            hidden = Some(next);
        }
        let shuffled = ops::conv3d(hidden.as_ref().unwrap_or(strip), None, &self.last);
        let (height, width, s) = (strip.dim(1), strip.dim(2), self.factor);
        let mut result = vec![0.0; height * s * width * s * 3];
        for (y, lines) in result.chunks_exact_mut(width * s * 3 * s).enumerate() {
            for x in 0..width {
                let at = (y * width + x) * 3;
                let base = &strip.data()[at..at + 3];
                // Channel c of the pixel (i, j) below it is the c * s * s + i * s + j-th.
                let values = &shuffled.data()[at * s * s..(at + 3) * s * s];
                for (c, base) in base.iter().enumerate() {
                    for i in 0..s {
                        for j in 0..s {
                            lines[(i * width * s + x * s + j) * 3 + c] =
                                values[(c * s + i) * s + j] + base;
                        }
                    }
                }
            }
        }
        result
    }
}
