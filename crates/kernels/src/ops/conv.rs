//! Convolution, causal in time.

use rayon::prelude::*;

use crate::{Tensor, Weight};

/// A 3-D convolution (1- and 2-D cases included), causal in time.
#[derive(Debug, Clone)]
pub struct Conv3d {
    taps: Vec<f32>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    /// Zeros before and after: `[top, bottom, left, right]`.
    padding: [usize; 4],
}

impl Conv3d {
    /// `weight` is `[O, I, kt, kh, kw]` or `[O, I, kh, kw]`, `bias` `[O]`, `stride` `[t, h, w]`,
    /// `padding` `[top, bottom, left, right]`. In time nothing follows the input, and before it stand
    /// the frames of the history that [`conv3d`] is given, or zeros.
    pub fn new(
        weight: &Weight,
        bias: Option<Vec<f32>>,
        stride: [usize; 3],
        padding: [usize; 4],
    ) -> Self {
        let shape = weight.shape();
        let (outputs, inputs) = (shape[0], shape[1]);
        let kernel = match shape[2..] {
            [t, h, w] => [t, h, w],
            [h, w] => [1, h, w],
            _ => panic!("Conv3d::new: weight of shape {shape:?}"),
        };
        let taps_len: usize = kernel.iter().product();
        let dense = weight.to_f32();
        let mut taps = vec![0.0; dense.len()];
        for o in 0..outputs {
            for i in 0..inputs {
                for t in 0..taps_len {
                    taps[(t * inputs + i) * outputs + o] = dense[(o * inputs + i) * taps_len + t];
                }
            }
        }
        Self { taps, bias, inputs, outputs, kernel, stride, padding }
    }

    /// How many frames before the input an output may look at: `kt - 1`.
    pub fn history_len(&self) -> usize {
        self.kernel[0] - 1
    }

    /// Channels in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// Causal convolution. `x` is `[T, H, W, I]`; `history` holds the frames just before `x`, at most
/// `kt - 1` of them (`[<= kt - 1, H, W, I]`), and what is missing counts as zeros. The result is
/// `[(T + kt - 1 - kt) / st + 1, (H + top + bottom - kh) / sh + 1, (W + left + right - kw) / sw + 1, O]`.
pub fn conv3d(x: &Tensor, history: Option<&Tensor>, conv: &Conv3d) -> Tensor {
    let (frames, height, width) = (x.dim(0), x.dim(1), x.dim(2));
    assert_eq!(x.dim(3), conv.inputs, "conv3d: {:?} with {} inputs", x.shape(), conv.inputs);
    let past = history.map_or(0, |h| h.dim(0));
    let lead = conv.kernel[0] - 1;
    assert!(past <= lead, "conv3d: {past} frames of history, {lead} at most");
    let [kt, kh, kw] = conv.kernel;
    let [st, sh, sw] = conv.stride;
    let [top, bottom, left, right] = conv.padding;
    let (ot, oh, ow) = (
        (frames + lead - kt) / st + 1,
        (height + top + bottom - kh) / sh + 1,
        (width + left + right - kw) / sw + 1,
    );
    let (ci, co) = (conv.inputs, conv.outputs);
    let mut out = Tensor::zeros(&[ot, oh, ow, co]);
    out.data_mut().par_chunks_mut(ow * co).enumerate().for_each(|(line, out)| {
        let (t, y) = (line / oh, line % oh);
        for x_out in 0..ow {
            let out = &mut out[x_out * co..(x_out + 1) * co];
            if let Some(bias) = &conv.bias {
                out.copy_from_slice(bias);
            }
            for dt in 0..kt {
                let frame = (t * st + dt) as isize - lead as isize;
                let (data, frame) = if frame >= 0 {
                    (x.data(), frame as usize)
                } else if frame + past as isize >= 0 {
                    (history.expect("past > 0").data(), (frame + past as isize) as usize)
                } else {
                    continue;
                };
                for dy in 0..kh {
                    let Some(iy) = (y * sh + dy).checked_sub(top).filter(|&v| v < height) else {
                        continue;
                    };
                    for dx in 0..kw {
                        let Some(ix) = (x_out * sw + dx).checked_sub(left).filter(|&v| v < width)
                        else {
                            continue;
                        };
                        let input = &data[((frame * height + iy) * width + ix) * ci..][..ci];
                        let tap = (dt * kh + dy) * kw + dx;
                        let taps = &conv.taps[tap * ci * co..(tap + 1) * ci * co];
                        for (v, taps) in input.iter().zip(taps.chunks_exact(co)) {
                            out.iter_mut().zip(taps).for_each(|(o, w)| *o += v * w);
                        }
                    }
                }
            }
        }
    });
    out
}
