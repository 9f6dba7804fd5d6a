//! Convolution by the vendor's library, frame by frame of the result. So a plan is of a size of picture and of
//! nothing else: how many frames come at once changes neither the way that the library takes nor a bit of a
//! frame, as streams that are cut differently have to be equal.

use super::super::convert;
use super::super::vendor::{Comparison, TOLERANCE};
use super::{Conv, Frames, Places, Windows};
use crate::gpu::{Address, Array, Element, FrameConvolution, Vendor, VendorWork};

/// What has become of a convolution.
pub(super) enum Done {
    /// Nothing: our kernel is to be used.
    No,
    /// It is where it was to be.
    InPlace,
    /// The sum is here. The library is given what is added and the result as two tensors, and nothing says that
    /// they may be one.
    Apart(Array),
}

/// A convolution of all frames, where the library has a way for it.
pub(super) fn conv(conv: &Conv<'_>) -> Done {
    let Conv { x, windows, weight, .. } = *conv;
    let elements = [x.values.element(), weight.element, conv.out.element()];
    if elements != [Element::Bf16; 3] || x.values.is_empty() {
        return Done::No;
    }
    let [_, height, width, inputs] = x.shape;
    // So far without addresses: memory is taken when it is sure that it is for something.
    let frame = FrameConvolution::without_addresses(
        *windows,
        [height, width],
        [inputs, weight.outputs],
        [conv.bias.is_some(), conv.add],
    );
    let gpu = x.values.gpu();
    if gpu.attempt(|driver| driver.has_convolution(&frame)) != Some(true) {
        return Done::No;
    }
    let bias = conv.bias.map(|bias| convert(bias, Element::Bf16));
    let apart = conv.add.then(|| Array::unset(gpu, Element::Bf16, conv.out.len()));
    let out = apart.as_ref().unwrap_or(conv.out);
    let early = Early::of(&x, windows);
    let (frame_in, frame_out) =
        (height * width * inputs * 2, conv.result[1] * conv.result[2] * weight.outputs * 2);
    for index in 0..conv.result[0] {
        let at = index * frame_out;
        let what = FrameConvolution {
            x: early.window(&x, index, frame_in),
            weight: weight.address,
            bias: bias.as_ref().map(Array::address),
            added: conv.add.then(|| conv.out.address().plus(at)),
            out: out.address().plus(at),
            ..frame
        };
        // After a failure nothing is started, by either way.
        match gpu.attempt(|driver| driver.convolution(&what)).unwrap_or(Vendor::Done) {
            Vendor::Done => {}
            Vendor::First if agrees(conv, &what) => {}
            Vendor::First | Vendor::Refused => return Done::No,
        }
    }
    apart.map_or(Done::InPlace, Done::Apart)
}

/// The frames under the first windows, which begin before the input, in one run: the library knows no history.
struct Early {
    frames: Option<Array>,
    /// The first results are of it, so many.
    windows: usize,
    stride: usize,
    before: usize,
}

impl Early {
    fn of(x: &Frames<'_>, windows: &Windows) -> Self {
        let (before, stride) = (windows.kernel[0] - 1, windows.stride[0]);
        // A window that ends at frame `before` of the input has all of its frames there.
        let count = before.min(x.shape[0]).div_ceil(stride);
        let early = |frames| Self { frames, windows: count, stride, before };
        if count == 0 {
            return early(None);
        }
        let frame: usize = x.shape[1..].iter().product();
        let history = x.history.map_or(0, |history| history.len() / frame);
        let ends = (count - 1) * stride + 1;
        let (gpu, element) = (x.values.gpu(), x.values.element());
        let mut frames = Array::unset(gpu, element, (before + ends) * frame);
        let missing = before - history;
        let address = frames.address();
        if missing > 0 {
            let bytes = missing * frame * element.bytes();
            gpu.attempt(|driver| driver.zero(address, bytes));
        }
        if let Some(history) = x.history {
            frames.copy_from(missing * frame, history, 0..history.len());
        }
        frames.copy_from(before * frame, x.values, 0..ends * frame);
        early(Some(frames))
    }

    /// Where the frames under the window of a result begin.
    fn window(&self, x: &Frames<'_>, index: usize, frame_bytes: usize) -> Address {
        let first = index * self.stride;
        match &self.frames {
            Some(frames) if index < self.windows => frames.address().plus(first * frame_bytes),
            _ => x.values.address().plus((first - self.before) * frame_bytes),
        }
    }
}

/// Whether some lines of a frame of the library's are our kernel's; says so to the driver when not.
fn agrees(conv: &Conv<'_>, what: &FrameConvolution) -> bool {
    let gpu = conv.x.values.gpu();
    let [height, width] = what.result();
    let line = width * what.outputs;
    let ours = Array::unset(gpu, Element::Bf16, height * line);
    if let Some(added) = what.added {
        gpu.attempt(|driver| driver.copy(ours.address(), added, ours.bytes()));
    }
    let frame_bytes = what.height * what.width * what.inputs * Element::Bf16.bytes();
    let history = what.windows.kernel[0] - 1;
    conv.start_at(&Places {
        frames: what.x.plus(history * frame_bytes),
        count: 1,
        before: what.x,
        history,
        out: ours.address(),
    });
    let mut comparison = Comparison::default();
    for first in [0, height / 2, height - 1] {
        let at = first * line * Element::Bf16.bytes();
        if !comparison.add(gpu, ours.address().plus(at), what.out.plus(at), line) {
            // Whoever reads the result gets the error.
            return true;
        }
    }
    let Some(distance) = comparison.too_far() else { return true };
    let [t, h, w] = what.windows.kernel;
    let why = format!(
        "its convolution of {t} x {h} x {w} from {} to {} channels of {} x {} is off by {distance:.1e} of our kernel's, \
         and {TOLERANCE:e} is allowed; a newer cuDNN or driver may do better",
        what.inputs, what.outputs, what.width, what.height
    );
    gpu.attempt(|driver| {
        driver.distrust(VendorWork::Convolution, &why);
        Ok(())
    });
    false
}
