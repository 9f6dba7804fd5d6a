//! Convolution, causal in time, channels last.
//!
//! With channels last the `kw` pixels a window covers on one line are one run of `kw * I` values, and
//! the windows of neighbouring output pixels are the same run some pixels on. So the input is, as it
//! stands, the left side of a matrix product whose rows overlap: one product for each line of the
//! window, all summed in one tile. Nothing is copied but the windows that reach over an edge.

mod lines;
mod packed;
mod winograd;

use std::sync::{Arc, OnceLock};

use self::lines::{Output, Source};
use self::packed::Packed;
use self::winograd::Winograd;
use super::linear::{Linear, rows_to};
use crate::gpu::ops::{self as body, Frames, Windows};
use crate::gpu::{Array, Element, Gpu, Layer, Ready};
use crate::spans;
use crate::{Activation, DType, Tensor, Vector, Weight};

/// Rows and columns of output pixels that a convolution of 3 x 3 computes together; see [`conv3d`]. A part of
/// a picture is convolved as within the whole, to the bit, where it begins and ends at multiples of this many
/// pixels, but for the outermost pixels at its cuts, which alone see a pixel from beyond them.
pub const CONV_SQUARE: usize = winograd::SIDE;

/// A 3-D convolution (1- and 2-D cases included), causal in time.
#[derive(Debug, Clone)]
pub struct Conv3d {
    weight: Weight,
    bias: Option<Vector>,
    inputs: usize,
    outputs: usize,
    windows: Windows,
    /// For the processor, made at the first use.
    packed: OnceLock<Body>,
    gpu: OnGpu,
}

/// A convolution's weight on a GPU, made at the first use.
#[derive(Debug, Clone, Default)]
struct OnGpu {
    layer: Layer,
    /// In the order of the windows.
    weight: OnceLock<Weight>,
}

impl OnGpu {
    /// The weight that `order` makes, `[outputs, inputs]`, for an input of `element`.
    fn ready(&self, gpu: &Arc<Gpu>, element: Element, order: impl FnOnce() -> Weight) -> Ready {
        let weight = self.weight.get_or_init(|| {
            let weight = order();
            match element {
                Element::F32 => weight,
                Element::Bf16 => Weight::narrowed(weight.shape(), &weight.to_f32(), DType::BF16),
            }
        });
        let shape = [weight.shape()[0], weight.shape()[1]];
        self.layer.ready(gpu, weight, element, shape)
    }
}

#[derive(Debug, Clone)]
enum Body {
    /// One pixel in, one pixel out: a linear layer.
    Pixel(Box<Linear>),
    Window(Packed),
    /// 3 x 3 in space.
    Squares(Winograd),
}

/// A 2-D convolution of 3 x 3 with a border of one zero, after nearest-neighbour doubling of height
/// and width. The doubled picture is never made. On a GPU each of the four kinds of output pixel has a
/// window of 2 x 2 on the picture itself, with the weights that fall together added: 4/9 of the
/// arithmetic. The processor turns patches of the doubled picture, which takes 1/4.
#[derive(Debug, Clone)]
pub struct UpsampledConv {
    weight: Weight,
    bias: Option<Vector>,
    inputs: usize,
    outputs: usize,
    /// For the processor, made at the first use.
    turned: OnceLock<Winograd>,
    gpu: OnGpu,
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
        assert!(
            shape.iter().all(|&d| d > 0)
                && stride.iter().all(|&s| s > 0)
                && bias.as_ref().is_none_or(|b| b.len() == outputs),
            "Conv3d::new: weight {shape:?}, stride {stride:?}, bias {:?}",
            bias.as_ref().map(Vec::len)
        );
        Self {
            weight: weight.clone(),
            bias: bias.map(Vector::from),
            inputs,
            outputs,
            windows: Windows { kernel, stride, padding },
            packed: OnceLock::new(),
            gpu: OnGpu::default(),
        }
    }

    /// The weight as the processor's ways want it.
    fn packed(&self) -> &Body {
        self.packed.get_or_init(|| {
            let Self { weight, inputs, outputs, .. } = self;
            let Windows { kernel, stride, padding } = self.windows;
            let bias = self.bias.as_deref().map(<[f32]>::to_vec);
            if kernel == [1; 3] && stride == [1; 3] && padding == [0; 4] {
                Body::Pixel(Box::new(Linear::new(weight.clone(), bias)))
            } else if Winograd::fits(*inputs, kernel, stride, padding) {
                Body::Squares(Winograd::new(&weight.to_f32(), *inputs, *outputs, kernel[0], bias))
            } else {
                Body::Window(Packed::new(&weight.to_f32(), *inputs, *outputs, kernel, bias))
            }
        })
    }

    /// How many frames before the input an output may look at: `kt - 1`.
    pub fn history_len(&self) -> usize {
        self.windows.kernel[0] - 1
    }

    /// Channels in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Operations, as by plain windows, and bytes for a result of that shape, which has the element of `x`, as the
    /// weights have.
    fn cost(&self, shape: &[usize; 4], x: &Tensor) -> (f64, usize) {
        let outputs = shape.iter().product::<usize>();
        let window = self.windows.kernel.iter().product::<usize>() * self.inputs;
        let value = x.bytes() / x.len().max(1);
        let bytes = x.bytes() + value * (outputs + window * self.outputs);
        (2.0 * outputs as f64 * window as f64, bytes)
    }

    /// The result's shape for `x`; panics when `x` or `history` do not fit.
    fn output_shape(&self, x: &Tensor, history: Option<&Tensor>) -> [usize; 4] {
        let &[frames, height, width, channels] = x.shape() else {
            panic!("conv3d: {:?} is not [T, H, W, C]", x.shape());
        };
        let [kt, kh, kw] = self.windows.kernel;
        let [top, bottom, left, right] = self.windows.padding;
        let fits = frames > 0
            && channels == self.inputs
            && height + top + bottom >= kh
            && width + left + right >= kw
            && history.is_none_or(|h| h.shape()[1..] == x.shape()[1..] && h.dim(0) < kt);
        assert!(
            fits,
            "conv3d: {:?} after {:?} with {} inputs, {:?}",
            x.shape(),
            history.map(Tensor::shape),
            self.inputs,
            self.windows
        );
        let [frames, height, width] = self.windows.result([frames, height, width, channels]);
        [frames, height, width, self.outputs]
    }

    /// By windows. A convolution of single pixels has a way of its own.
    fn run(&self, source: &Source<'_>, output: &Output) {
        match self.packed() {
            Body::Pixel(_) => unreachable!("a convolution of single pixels is a linear layer"),
            Body::Window(packed) => lines::run(source, packed, output),
            Body::Squares(weights) => winograd::run(source, false, weights, output),
        }
    }

    /// The weight on a GPU for an input.
    fn on_gpu(&self, x: &Array) -> Ready {
        self.gpu.ready(x.gpu(), x.element(), || body::window_weight(&self.weight))
    }

    fn source<'a>(&self, x: &'a Tensor, history: Option<&'a Tensor>) -> Source<'a> {
        Source {
            frames: x.data(),
            history: history.map_or(&[], Tensor::data),
            height: x.dim(1),
            width: x.dim(2),
            stride: self.windows.stride,
            top: self.windows.padding[0],
            left: self.windows.padding[2],
        }
    }
}

/// A tensor's frames as a GPU's bodies take them.
fn frames<'a>(x: &Tensor, values: &'a Array, history: Option<&'a Array>) -> Frames<'a> {
    Frames { values, shape: std::array::from_fn(|axis| x.dim(axis)), history }
}

/// Causal convolution. `x` is `[T, H, W, I]`; `history` holds the frames just before `x`, at most
/// `kt - 1` of them (`[<= kt - 1, H, W, I]`), and what is missing counts as zeros. The result is
/// `[(T + kt - 1 - kt) / st + 1, (H + top + bottom - kh) / sh + 1, (W + left + right - kw) / sw + 1, O]`.
///
/// On the processor windows of 3 x 3 are computed in squares of [`CONV_SQUARE`] output pixels, which lie at
/// multiples of it. How a pixel is rounded depends on its place within its square and on the input pixels
/// under the square; those beside the square change its outermost pixels alone.
pub fn conv3d(x: &Tensor, history: Option<&Tensor>, conv: &Conv3d) -> Tensor {
    let _span = spans::begin("convolution", || conv.cost(&conv.output_shape(x, history), x));
    let shape = conv.output_shape(x, history);
    if let Some(array) = x.array() {
        let gpu = array.gpu();
        let ready = conv.on_gpu(array);
        let bias = conv.bias.as_ref().map(|bias| bias.on(gpu));
        let history = history.map(|history| history.array_as(gpu, array.element()));
        let frames = frames(x, array, history.as_deref());
        let (weight, out) = (&ready.weight, array.element());
        let out = body::conv3d(frames, &conv.windows, weight, bias.as_deref(), out);
        spans::settle(gpu);
        return Tensor::from_array(&shape, out);
    }
    match conv.packed() {
        Body::Pixel(layer) => rows_to(&shape, x.data(), layer, Activation::None),
        // SAFETY: both write every pixel of an output with steps of one.
        Body::Window(_) | Body::Squares(_) => unsafe {
            Tensor::fill(&shape, |out| {
                conv.run(&conv.source(x, history), &Output::whole(out, shape, false));
            })
        },
    }
}

/// `into += conv3d(x)`: a residual block's last convolution. `into` has the convolution's shape.
pub fn conv3d_add(x: &Tensor, history: Option<&Tensor>, conv: &Conv3d, into: &mut Tensor) {
    let _span = spans::begin("convolution", || {
        let (flops, bytes) = conv.cost(&conv.output_shape(x, history), x);
        // The sum is read too, and both may be wider than the input.
        let value = x.bytes() / x.len().max(1);
        (flops, bytes + 2 * into.bytes() - value * into.len())
    });
    let shape = conv.output_shape(x, history);
    assert_eq!(into.shape(), shape, "conv3d_add: shape of the sum");
    if let Some(array) = x.array() {
        let gpu = array.gpu();
        let ready = conv.on_gpu(array);
        let bias = conv.bias.as_ref().map(|bias| bias.on(gpu));
        let history = history.map(|history| history.array_as(gpu, array.element()));
        let frames = frames(x, array, history.as_deref());
        let into = into.array_mut().expect("conv3d_add: on different devices");
        body::conv3d_add(into, frames, &conv.windows, &ready.weight, bias.as_deref());
        return spans::settle(gpu);
    }
    match conv.packed() {
        Body::Pixel(layer) => {
            layer.add_rows(into.data_mut(), x.data());
        }
        Body::Window(_) | Body::Squares(_) => {
            let out = crate::gemm::Shared::new(into.data_mut().as_mut_ptr());
            conv.run(&conv.source(x, history), &Output::whole(out, shape, true));
        }
    }
}

impl UpsampledConv {
    /// `weight` is `[O, I, 3, 3]`, `bias` `[O]`.
    pub fn new(weight: &Weight, bias: Option<Vec<f32>>) -> Self {
        let shape = weight.shape();
        assert!(
            shape.len() == 4
                && shape[2..] == [3, 3]
                && bias.as_ref().is_none_or(|b| b.len() == shape[0]),
            "UpsampledConv::new: weight of shape {shape:?}"
        );
        Self {
            weight: weight.clone(),
            inputs: shape[1],
            outputs: shape[0],
            bias: bias.map(Vector::from),
            turned: OnceLock::new(),
            gpu: OnGpu::default(),
        }
    }

    /// The weight as the processor's way wants it.
    fn turned(&self) -> &Winograd {
        self.turned.get_or_init(|| {
            let bias = self.bias.as_deref().map(<[f32]>::to_vec);
            Winograd::new(&self.weight.to_f32(), self.inputs, self.outputs, 1, bias)
        })
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

/// Of a weight `[O, I, 3, 3]` of a convolution after nearest doubling, the weight `[O, I, 2, 2]` that
/// gives the output's pixels in rows of parity `a` and columns of parity `b` from the picture itself.
pub(crate) fn folded_quarter(dense: &[f32], a: usize, b: usize) -> Vec<f32> {
    // Output row 2y + a sees the doubled rows 2y + a - 1 ..= 2y + a + 1: for a = 0 the rows
    // y - 1, y, y of the picture, for a = 1 the rows y, y, y + 1.
    let place = |parity: usize, tap: usize| (tap + parity).div_ceil(2).min(1 + parity) - parity;
    let mut folded = vec![0.0f64; dense.len() / 9 * 4];
    for (i, w) in dense.iter().enumerate() {
        let (pair, dy, dx) = (i / 9, i / 3 % 3, i % 3);
        folded[pair * 4 + place(a, dy) * 2 + place(b, dx)] += f64::from(*w);
    }
    folded.into_iter().map(|w| w as f32).collect()
}

/// The convolution of the doubled picture: `[T, H, W, I]` to `[T, 2H, 2W, O]`. Rounded in squares as
/// [`conv3d`] says, here of the doubled picture.
pub fn upsampled_conv(x: &Tensor, conv: &UpsampledConv) -> Tensor {
    let _span = spans::begin("convolution", || {
        // As the doubled picture's convolution would have them.
        let outputs = 4 * x.len() / conv.inputs.max(1) * conv.outputs;
        let values = x.len() + outputs + conv.weight.len();
        (18.0 * outputs as f64 * conv.inputs as f64, x.bytes() / x.len().max(1) * values)
    });
    let &[frames, height, width, channels] = x.shape() else {
        panic!("upsampled_conv: {:?} is not [T, H, W, C]", x.shape());
    };
    assert_eq!(channels, conv.inputs, "upsampled_conv: {:?}", x.shape());
    let shape = [frames, 2 * height, 2 * width, conv.outputs];
    if let Some(array) = x.array() {
        let order = || body::quarter_weight(&conv.weight);
        let ready = conv.gpu.ready(array.gpu(), array.element(), order);
        let bias = conv.bias.as_ref().map(|bias| bias.on(array.gpu()));
        let (frames, out) = (self::frames(x, array, None), array.element());
        let out = body::upsampled_conv(frames, &ready.weight, bias.as_deref(), out);
        spans::settle(array.gpu());
        return Tensor::from_array(&shape, out);
    }
    let source =
        Source { frames: x.data(), history: &[], height, width, stride: [1; 3], top: 1, left: 1 };
    // SAFETY: the squares together cover every pixel.
    unsafe {
        Tensor::fill(&shape, |out| {
            winograd::run(&source, true, conv.turned(), &Output::whole(out, shape, false));
        })
    }
}
