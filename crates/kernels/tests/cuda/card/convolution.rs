//! Convolutions by the vendor's library.

use longreel_kernels::gpu::ops::Windows;
use longreel_kernels::gpu::{Address, Driver, FrameConvolution, Vendor, VendorWork};

use super::{captured, card, card_alone, fractions, get_bf16, put_bf16};

/// A convolution of a frame with everything that it takes, and what each of it holds.
struct Frame {
    what: FrameConvolution,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    added: Vec<f32>,
}

impl Frame {
    fn put(
        card: &dyn Driver,
        windows: Windows,
        [height, width]: [usize; 2],
        [inputs, outputs]: [usize; 2],
        [with_bias, with_added]: [bool; 2],
    ) -> Self {
        let [kt, kh, kw] = windows.kernel;
        let what = FrameConvolution::without_addresses(
            windows,
            [height, width],
            [inputs, outputs],
            [with_bias, with_added],
        );
        let values = what.result().iter().product::<usize>() * outputs;
        let x = fractions(kt * height * width * inputs, 1);
        let weight: Vec<f32> =
            fractions(outputs * kt * kh * kw * inputs, 2).iter().map(|w| w / 8.0).collect();
        let (bias, added) = (fractions(outputs, 3), fractions(values, 4));
        let what = FrameConvolution {
            x: put_bf16(card, &x),
            weight: put_bf16(card, &weight),
            bias: with_bias.then(|| put_bf16(card, &bias)),
            added: with_added.then(|| put_bf16(card, &added)),
            // Behind the last value lies one that nothing may touch.
            out: put_bf16(card, &vec![7.0; values + 1]),
            ..what
        };
        Self { what, x, weight, bias, added }
    }

    fn values(&self) -> usize {
        self.what.result().iter().product::<usize>() * self.what.outputs
    }

    fn expected(&self) -> Vec<f64> {
        let FrameConvolution { height, width, inputs, outputs, windows, .. } = self.what;
        let [kt, kh, kw] = windows.kernel;
        let ([_, down, across], [top, _, left, _]) = (windows.stride, windows.padding);
        let [_, out_width] = self.what.result();
        (0..self.values())
            .map(|n| {
                let (y, x, o) = (n / outputs / out_width, n / outputs % out_width, n % outputs);
                let mut sum = 0.0;
                if self.what.bias.is_some() {
                    sum += f64::from(self.bias[o]);
                }
                if self.what.added.is_some() {
                    sum += f64::from(self.added[n]);
                }
                for tap in 0..kt * kh * kw {
                    let (t, dy, dx) = (tap / kh / kw, tap / kw % kh, tap % kw);
                    let line = (y * down + dy).checked_sub(top).filter(|&line| line < height);
                    let pixel = (x * across + dx).checked_sub(left).filter(|&pixel| pixel < width);
                    let (Some(line), Some(pixel)) = (line, pixel) else { continue };
                    for i in 0..inputs {
                        let from = ((t * height + line) * width + pixel) * inputs + i;
                        let by = (o * kt * kh * kw + tap) * inputs + i;
                        sum += f64::from(self.x[from]) * f64::from(self.weight[by]);
                    }
                }
                sum
            })
            .collect()
    }
}

const CAUSAL: Windows = Windows { kernel: [3; 3], stride: [1; 3], padding: [1; 4] };
const FLAT: Windows = Windows { kernel: [1, 3, 3], ..CAUSAL };
const IN_TIME: Windows = Windows { kernel: [3, 1, 1], stride: [2, 1, 1], padding: [0; 4] };
const HALVING: Windows = Windows { kernel: [1, 3, 3], stride: [1, 2, 2], padding: [0, 1, 0, 1] };

#[test]
fn convolution_by_the_vendor_is_the_sum_over_each_window() {
    let Some(card) = card() else { return };
    for (windows, size, channels, with) in [
        (CAUSAL, [6, 9], [16, 24], [true, false]),
        (CAUSAL, [5, 7], [8, 8], [true, true]),
        (CAUSAL, [4, 4], [24, 16], [false, true]),
        (FLAT, [7, 6], [16, 8], [true, false]),
        (FLAT, [3, 3], [8, 16], [false, false]),
        (IN_TIME, [4, 5], [16, 16], [true, false]),
        (HALVING, [8, 6], [8, 24], [true, false]),
        (HALVING, [7, 9], [8, 8], [true, true]),
    ] {
        let frame = Frame::put(&*card, windows, size, channels, with);
        let what = frame.what;
        let first = card.convolution(&what).expect("no failure");
        if first == Vendor::Refused {
            eprintln!("cuDNN is not there, or has no way for {what:?}: {:?}", card.notes());
            continue;
        }
        assert_eq!(first, Vendor::First, "{what:?}");
        assert_eq!(card.convolution(&what).expect("no failure"), Vendor::Done);
        let found = get_bf16(&*card, what.out, frame.values() + 1);
        assert_eq!(found[frame.values()], 7.0, "behind the last value of {what:?}");
        for (n, (found, expected)) in found.iter().zip(frame.expected()).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error <= 1e-3 + expected.abs() / 256.0,
                "{what:?}: value {n}: {found}, not {expected}"
            );
        }
        // No address of a way that is known is kept, and a frame does not depend on its steps in time.
        let mut other =
            FrameConvolution { out: put_bf16(&*card, &vec![7.0; frame.values() + 1]), ..what };
        other.windows.stride[0] = 5;
        assert_eq!(card.convolution(&other).expect("no failure"), Vendor::Done);
        assert_eq!(get_bf16(&*card, other.out, frame.values() + 1), found);
        let unaligned = FrameConvolution { x: Address(what.x.0 + 2), ..what };
        assert_eq!(card.convolution(&unaligned).expect("no failure"), Vendor::Refused);
        assert!(!card.has_convolution(&what).expect("no failure"), "so small a frame is ours");
    }
    let odd = Frame::put(&*card, CAUSAL, [4, 4], [12, 8], [true, false]).what;
    assert_eq!(card.convolution(&odd).expect("no failure"), Vendor::Refused);
}

#[test]
fn large_frames_are_the_vendors_before_there_is_memory_for_them() {
    let Some(card) = card() else { return };
    let frame = Frame::put(&*card, CAUSAL, [2, 2], [8, 8], [true, false]).what;
    // That of the VAE's last layers at 540P.
    let large = FrameConvolution { height: 544, width: 960, inputs: 96, outputs: 96, ..frame };
    if !card.has_convolution(&large).expect("no failure") {
        eprintln!("cuDNN is not there, or has no way for {large:?}: {:?}", card.notes());
        return;
    }
    let notes = card.notes();
    let said = "convolution of 3 x 3 x 3 from 96 to 96 channels of 960 x 544 by cuDNN";
    assert!(notes.iter().any(|note| note.text.starts_with(said) && !note.warning), "{notes:?}");
}

#[test]
fn convolutions_that_are_not_trusted_any_more_leave_attention_alone() {
    let Some(card) = card() else { return };
    let frame = Frame::put(&*card, FLAT, [4, 4], [8, 8], [true, false]).what;
    if card.convolution(&frame).expect("no failure") == Vendor::Refused {
        eprintln!("cuDNN is not there, or has no way for {frame:?}: {:?}", card.notes());
        return;
    }
    card.distrust(VendorWork::Convolution, "this test says so");
    assert_eq!(card.convolution(&frame).expect("no failure"), Vendor::Refused);
    let large = FrameConvolution { height: 544, width: 960, inputs: 96, outputs: 96, ..frame };
    assert!(!card.has_convolution(&large).expect("no failure"));
    let notes = card.notes();
    let warnings: Vec<_> = notes.iter().filter(|note| note.warning).collect();
    assert_eq!(warnings.len(), 1, "{notes:?}");
    let said = &warnings[0].text;
    assert!(said.contains("for convolutions any more: this test says so"), "{notes:?}");
    let what = super::small_attention(&*card);
    assert_eq!(card.attention(&what).expect("no failure"), Vendor::First);
}

#[test]
fn a_convolution_by_the_vendor_is_captured_where_its_way_was_used_before() {
    let Some(card) = card_alone() else { return };
    let frame = Frame::put(&*card, CAUSAL, [4, 6], [16, 8], [true, true]);
    let what = frame.what;
    if card.convolution(&what).expect("no failure") == Vendor::Refused {
        eprintln!("cuDNN is not there, or has no way for {what:?}: {:?}", card.notes());
        return;
    }
    let expected = get_bf16(&*card, what.out, frame.values());
    let graph = captured(&*card, || {
        assert_eq!(card.convolution(&what).expect("no failure"), Vendor::Done);
        let other = FrameConvolution { added: None, ..what };
        let error = card.convolution(&other).expect_err("not now").to_string();
        assert!(error.contains("cuDNN has no plan for convolution of 3 x 3 x 3"), "{error}");
    });
    let Some(graph) = graph else { return };
    card.zero(what.out, 2 * frame.values()).expect("to zero");
    card.replay(graph).expect("to start");
    assert_eq!(get_bf16(&*card, what.out, frame.values()), expected);
    card.distrust(VendorWork::Convolution, "this test says so");
    let error = card.replay(graph).expect_err("it would be used still").to_string();
    assert!(error.contains("cuDNN's plans are other ones"), "{error}");
}
