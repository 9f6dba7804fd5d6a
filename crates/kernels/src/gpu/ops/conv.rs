//! Convolution, causal in time, channels last: by the vendor's library where it does the same (`vendor.rs`), and
//! by `conv.cu`, a matrix product whose left side, the windows, is gathered tile by tile and never stands in
//! memory. On the tensor cores for bf16 with a multiple of 8 channels, in f32 for everything else. Checked without
//! a card; its speed and the choice of tiles were not measured on one.

mod vendor;

use self::vendor::Done;
use super::linear::{Dense, FILLING, Product, tensor_tile_bytes};
use super::{blocks, int, kernel, pointer_or_none};
use crate::Weight;
use crate::gpu::{Address, Arg, Array, Element};
use crate::ops::folded_quarter;

/// The windows of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Windows {
    /// In time, height and width.
    pub kernel: [usize; 3],
    /// In time, height and width.
    pub stride: [usize; 3],
    /// Zeros before and after: `[top, bottom, left, right]`.
    pub padding: [usize; 4],
}

/// Frames on a device, `[T, H, W, C]`, and those just before them, at most `kt - 1`; what is missing
/// of these counts as zeros.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// The values.
    pub values: &'a Array,
    /// `[T, H, W, C]`.
    pub shape: [usize; 4],
    /// The frames before, `[<= kt - 1, H, W, C]`, of the same element.
    pub history: Option<&'a Array>,
}

impl Windows {
    /// The result's frames, height and width for frames of that shape.
    pub fn result(&self, [frames, height, width, _]: [usize; 4]) -> [usize; 3] {
        let [top, bottom, left, right] = self.padding;
        let [_, kh, kw] = self.kernel;
        let [st, sh, sw] = self.stride;
        assert!(
            frames > 0 && height + top + bottom >= kh && width + left + right >= kw,
            "conv3d: {frames} frames of {height} x {width} under {self:?}"
        );
        [
            (frames - 1) / st + 1,
            (height + top + bottom - kh) / sh + 1,
            (width + left + right - kw) / sw + 1,
        ]
    }
}

/// The weight of a convolution, `[O, I, kt, kh, kw]` or `[O, I, kh, kw]`, in the order of the windows:
/// `[O, kt * kh * kw * I]`.
pub fn window_weight(weight: &Weight) -> Weight {
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
    let taps = weight.shape()[2..].iter().product();
    in_window_order(&weight.to_f32(), outputs, inputs, taps)
}

/// Values `[outputs, inputs, taps]` as `[outputs, taps * inputs]`.
pub(super) fn in_window_order(
    values: &[f32],
    outputs: usize,
    inputs: usize,
    taps: usize,
) -> Weight {
    let depth = taps * inputs;
    let value = |i: usize| {
        let (output, tap, input) = (i / depth, i % depth / inputs, i % inputs);
        values[(output * inputs + input) * taps + tap]
    };
    let ordered: Vec<f32> = (0..outputs * depth).map(value).collect();
    Weight::from_f32(&[outputs, depth], &ordered)
}

/// The weight of a convolution after nearest doubling, `[O, I, 3, 3]`, as the four kernels of 2 x 2
/// that see the picture itself, for the output's even and odd rows and columns: `[4 * O, 4 * I]`.
pub fn quarter_weight(weight: &Weight) -> Weight {
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
    let dense = weight.to_f32();
    let quarters: Vec<f32> = (0..4).flat_map(|q| folded_quarter(&dense, q / 2, q % 2)).collect();
    in_window_order(&quarters, 4 * outputs, inputs, 4)
}

/// Causal convolution with a weight as of [`window_weight`], `bias` `[O]` of f32. The result, as
/// `out`, is `[.., O]` after [`Windows::result`].
pub fn conv3d(
    x: Frames<'_>,
    windows: &Windows,
    weight: &Dense,
    bias: Option<&Array>,
    out: Element,
) -> Array {
    let pixels: usize = windows.result(x.shape).iter().product();
    let result = Array::unset(x.values.gpu(), out, pixels * weight.outputs);
    run("conv3d", x, windows, weight, bias, &result, false);
    result
}

/// `into += conv3d(x)`.
pub fn conv3d_add(
    into: &mut Array,
    x: Frames<'_>,
    windows: &Windows,
    weight: &Dense,
    bias: Option<&Array>,
) {
    if let Some(sum) = run("conv3d_add", x, windows, weight, bias, into, true) {
        *into = sum;
    }
}

/// The convolution of 3 x 3 with a border of one zero after nearest doubling of height and width, with
/// a weight as of [`quarter_weight`]: `[T, H, W, I]` to `[T, 2H, 2W, O]` as `out`.
pub fn upsampled_conv(x: Frames<'_>, weight: &Dense, bias: Option<&Array>, out: Element) -> Array {
    let [frames, height, width, channels] = x.shape;
    let outputs = weight.outputs / 4;
    let result = Array::unset(x.values.gpu(), out, 4 * frames * height * width * outputs);
    // The windows of even rows and columns begin one pixel before; the kernel knows the odd ones.
    let windows = Windows { kernel: [1, 2, 2], stride: [1; 3], padding: [1, 1, 1, 1] };
    let quarter = Dense { outputs, ..*weight };
    assert!(weight.outputs == 4 * outputs && x.history.is_none(), "upsampled_conv: {x:?}");
    let conv = Conv {
        x,
        windows: &windows,
        weight: &quarter,
        bias,
        out: &result,
        add: false,
        quarters: true,
        result: [frames, height, width],
    };
    conv.check("upsampled_conv", channels);
    conv.start();
    result
}

/// Into `out`, or, of a sum by the vendor's library, apart from it.
fn run(
    name: &str,
    x: Frames<'_>,
    windows: &Windows,
    weight: &Dense,
    bias: Option<&Array>,
    out: &Array,
    add: bool,
) -> Option<Array> {
    let result = windows.result(x.shape);
    let conv = Conv { x, windows, weight, bias, out, add, quarters: false, result };
    conv.check(name, x.shape[3]);
    let pixels = Windows { kernel: [1; 3], stride: [1; 3], padding: [0; 4] };
    if *windows == pixels {
        let rows = result.iter().product();
        Product { add, ..Product::new(x.values, rows, weight, bias, out) }.run();
        return None;
    }
    match vendor::conv(&conv) {
        Done::No => conv.start(),
        Done::InPlace => {}
        Done::Apart(sum) => return Some(sum),
    }
    None
}

#[derive(Clone, Copy)]
struct Conv<'a> {
    x: Frames<'a>,
    windows: &'a Windows,
    weight: &'a Dense,
    bias: Option<&'a Array>,
    out: &'a Array,
    add: bool,
    quarters: bool,
    /// Frames, height and width of what one pass computes.
    result: [usize; 3],
}

/// Where our kernel finds frames, and where their results go.
struct Places {
    frames: Address,
    /// Frames of the result.
    count: usize,
    /// Frames before, `history` of them.
    before: Address,
    history: usize,
    out: Address,
}

impl Conv<'_> {
    fn history(&self) -> usize {
        let frame: usize = self.x.shape[1..].iter().product();
        self.x.history.map_or(0, |history| history.len() / frame.max(1))
    }

    fn check(&self, name: &str, channels: usize) {
        let Self { x, windows, weight, bias, out, result, .. } = self;
        let frame: usize = x.shape[1..].iter().product();
        let taps: usize = windows.kernel.iter().product();
        let times = if self.quarters { 4 } else { 1 };
        let history = self.history();
        assert!(
            x.values.len() == x.shape[0] * frame
                && x.history.is_none_or(|h| {
                    h.len() == history * frame && h.element() == x.values.element()
                })
                && history < windows.kernel[0]
                && weight.inputs == taps * channels
                && out.len() == times * result.iter().product::<usize>() * weight.outputs
                && bias.is_none_or(|b| b.len() == weight.outputs && b.element() == Element::F32),
            "{name}: {x:?} under {windows:?} with {weight:?} to {out:?}"
        );
    }

    fn start(&self) {
        let Self { x, out, .. } = self;
        self.start_at(&Places {
            frames: x.values.address(),
            count: self.result[0],
            before: x.history.map_or(Address(0), Array::address),
            history: self.history(),
            out: out.address(),
        });
    }

    /// Starts our kernel for frames at these places.
    fn start_at(&self, at: &Places) {
        let Self { x, windows, weight, .. } = self;
        let [_, height, width, channels] = x.shape;
        let [_, out_height, out_width] = self.result;
        let (rows, outputs) = (at.count * out_height * out_width, weight.outputs);
        let in_pieces = |address: Address| address.0.is_multiple_of(16);
        let element = x.values.element();
        let tensor = element == Element::Bf16
            && weight.element == Element::Bf16
            && channels.is_multiple_of(8)
            && [at.frames, at.before, weight.address].into_iter().all(in_pieces);
        let tiles = |rows_each: usize, columns_each: usize| {
            rows.div_ceil(rows_each) * outputs.div_ceil(columns_each)
        };
        let (kernel, [down, across], threads) = if tensor {
            let (kernel, size) = tile(rows, outputs);
            (kernel, size, 128)
        } else {
            (kernel!("conv", element, weight.element), [64, 64], 256)
        };
        let mut launch = blocks("conv", kernel, tiles(down, across), threads);
        launch.grid[2] = if self.quarters { 4 } else { 1 };
        if tensor {
            launch.shared_bytes = tensor_tile_bytes(down, across);
        }
        let ([kt, kh, kw], [st, sh, sw]) = (windows.kernel, windows.stride);
        let args = [
            Arg::Pointer(at.frames),
            Arg::Pointer(at.before),
            int(at.history),
            Arg::Pointer(weight.address),
            Arg::Pointer(at.out),
            int(usize::from(self.out.element() == Element::Bf16)),
            pointer_or_none(self.bias),
            int(usize::from(self.add)),
            int(usize::from(self.quarters)),
            int(height),
            int(width),
            int(channels),
            int(kt),
            int(kh),
            int(kw),
            int(st),
            int(sh),
            int(sw),
            int(windows.padding[0]),
            int(windows.padding[2]),
            int(out_height),
            int(out_width),
            int(rows),
            int(outputs),
        ];
        // Pixels are counted in 32 bits.
        let _ = int(x.shape[0] * height * width);
        x.values.gpu().launch(launch, &args);
    }
}

/// The kernel on the tensor cores, and its tile, that computes the fewest columns in vain; small tiles
/// where large ones would not fill a card.
fn tile(rows: usize, outputs: usize) -> (&'static str, [usize; 2]) {
    const SMALL: (&str, [usize; 2]) = ("conv_64x64", [64, 64]);
    const LARGE: [(&str, [usize; 2]); 3] =
        [("conv_128x128", [128, 128]), ("conv_128x96", [128, 96]), ("conv_128x16", [128, 16])];
    let columns = |(_, [_, across]): (&str, [usize; 2])| outputs.next_multiple_of(across);
    let blocks =
        |(_, [down, across]): (&str, [usize; 2])| rows.div_ceil(down) * outputs.div_ceil(across);
    // The narrow tile reads the windows again for each 16 columns.
    let fitting = LARGE.into_iter().filter(|&(_, [_, across])| across > 16 || outputs <= 16);
    let best = fitting.min_by_key(|&large| columns(large)).unwrap_or(SMALL);
    let few = blocks(best) < FILLING && outputs > 16;
    if few || columns(SMALL) < columns(best) { SMALL } else { best }
}
