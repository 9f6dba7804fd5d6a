use longreel_kernels::gpu::{Array, Element, ops};
use longreel_kernels::{DType, Weight};

use crate::{ELEMENTS, Numbers, array, assert_close, device, rounded};

struct Case {
    /// T, H, W, I.
    shape: [usize; 4],
    outputs: usize,
    windows: ops::Windows,
    history: usize,
}

fn case(
    shape: [usize; 4],
    outputs: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 4],
    history: usize,
) -> Case {
    Case { shape, outputs, windows: ops::Windows { kernel, stride, padding }, history }
}

impl Case {
    fn check(&self, element: Element) {
        let Some(gpu) = device() else { return };
        let [frames, height, width, inputs] = self.shape;
        let [kt, kh, kw] = self.windows.kernel;
        let mut numbers = Numbers::new((height * 7 + width * 3 + inputs + self.outputs) as u64);
        let frame = height * width * inputs;
        let x = numbers.vec(frames * frame);
        let before = numbers.vec(self.history * frame);
        let taps = kt * kh * kw;
        let factor = 2.0 / ((taps * inputs) as f32).sqrt();
        let weight: Vec<f32> =
            numbers.vec(self.outputs * inputs * taps).iter().map(|w| w * factor).collect();
        let bias = numbers.vec(self.outputs);

        let stored = Weight::from_f32(&[self.outputs, inputs, kt, kh, kw], &weight);
        let packed = ops::window_weight(&stored).to_f32();
        let packed = array(&gpu, &packed, element);
        let dense = ops::Dense::of(&packed, self.outputs, taps * inputs);
        let (values, history) = (array(&gpu, &x, element), array(&gpu, &before, element));
        let source = ops::Frames {
            values: &values,
            shape: self.shape,
            history: (self.history > 0).then_some(&history),
        };
        let biases = Array::from_host(&gpu, &bias);

        let expected = self.reference(
            &[rounded(&before, element), rounded(&x, element)].concat(),
            &rounded(&weight, element),
            &bias,
        );
        let what = format!("{:?} to {} by {:?}", self.shape, self.outputs, self.windows);
        for out in ELEMENTS {
            let found = ops::conv3d(source, &self.windows, &dense, Some(&biases), out);
            assert_close(&what, found, &expected, 3e-6);
            let old = rounded(&numbers.vec(expected.len()), out);
            let mut into = array(&gpu, &old, out);
            ops::conv3d_add(&mut into, source, &self.windows, &dense, Some(&biases));
            let sums: Vec<f64> =
                expected.iter().zip(&old).map(|(e, old)| e + f64::from(*old)).collect();
            assert_close(&format!("added {what}"), into, &sums, 3e-6);
        }
    }

    /// Of frames after their history.
    fn reference(&self, frames: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let [_, height, width, inputs] = self.shape;
        let [kt, kh, kw] = self.windows.kernel;
        let [st, sh, sw] = self.windows.stride;
        let [top, _, left, _] = self.windows.padding;
        let [out_frames, out_height, out_width] = self.windows.result(self.shape);
        let mut out = Vec::new();
        let places = (0..out_frames * out_height * out_width)
            .map(|i| (i / out_height / out_width, i / out_width % out_height, i % out_width));
        for ((t, y, x), o) in places.flat_map(|place| (0..bias.len()).map(move |o| (place, o))) {
            let mut sum = f64::from(bias[o]);
            for (dt, dy, dx) in (0..kt * kh * kw).map(|i| (i / kh / kw, i / kw % kh, i % kw)) {
                let frame = (self.history + t * st + dt).checked_sub(kt - 1);
                let line = (y * sh + dy).checked_sub(top).filter(|&line| line < height);
                let column = (x * sw + dx).checked_sub(left).filter(|&column| column < width);
                let (Some(frame), Some(line), Some(column)) = (frame, line, column) else {
                    continue;
                };
                for i in 0..inputs {
                    let value = frames[((frame * height + line) * width + column) * inputs + i];
                    let w = weight[(((o * inputs + i) * kt + dt) * kh + dy) * kw + dx];
                    sum += f64::from(value) * f64::from(w);
                }
            }
            out.push(sum);
        }
        out
    }
}

#[test]
fn windows_of_every_kind_equal_the_reference() {
    let cases = [
        case([1, 1, 1, 1], 1, [1; 3], [1; 3], [0; 4], 0),
        case([2, 5, 7, 3], 16, [3; 3], [1; 3], [1; 4], 0),
        case([2, 5, 7, 16], 3, [3; 3], [1; 3], [1; 4], 2),
        case([1, 4, 9, 8], 20, [3; 3], [1; 3], [1; 4], 1),
        case([3, 6, 10, 12], 24, [3; 3], [1; 3], [1; 4], 2),
        case([2, 9, 11, 24], 20, [1, 3, 3], [1, 2, 2], [0, 1, 0, 1], 0),
        case([5, 3, 4, 16], 9, [3, 1, 1], [2, 1, 1], [0; 4], 2),
        case([4, 3, 4, 10], 18, [3, 1, 1], [1; 3], [0; 4], 1),
        case([2, 5, 6, 40], 70, [3; 3], [1; 3], [1; 4], 2),
        case([2, 5, 7, 16], 20, [2, 3, 3], [1; 3], [1, 1, 1, 2], 1),
        case([3, 4, 5, 32], 66, [1; 3], [1; 3], [0; 4], 0),
        case([1, 14, 28, 3], 30, [1, 7, 7], [1, 7, 7], [0; 4], 0),
        case([1, 3, 2, 5], 6, [2, 5, 5], [1; 3], [2; 4], 1),
    ];
    for case in &cases {
        for element in ELEMENTS {
            case.check(element);
        }
    }
}

#[test]
fn pictures_too_large_for_small_tiles_equal_the_reference() {
    // One for each of the large tiles: 128, 96 and 16 outputs wide.
    for outputs in [120, 90, 10] {
        case([1, 120, 140, 8], outputs, [1, 1, 5], [1; 3], [0, 0, 2, 2], 0).check(Element::Bf16);
    }
}

#[test]
fn a_doubled_picture_is_convolved_without_being_made() {
    let Some(gpu) = device() else { return };
    for (frames, height, width, inputs, outputs) in
        [(2, 5, 6, 16, 24), (1, 1, 1, 3, 5), (1, 3, 4, 8, 3), (3, 7, 9, 24, 66)]
    {
        for element in ELEMENTS {
            let mut numbers = Numbers::new((height + inputs) as u64);
            let x = numbers.vec(frames * height * width * inputs);
            let factor = 1.0 / (inputs as f32).sqrt();
            let weight: Vec<f32> =
                numbers.vec(outputs * inputs * 9).iter().map(|w| w * factor).collect();
            let bias = numbers.vec(outputs);
            let folded = ops::quarter_weight(&Weight::from_f32(&[outputs, inputs, 3, 3], &weight));
            assert_eq!(
                (folded.shape(), folded.dtype()),
                (&[4 * outputs, 4 * inputs][..], DType::F32)
            );
            let folded = array(&gpu, &folded.to_f32(), element);
            let values = array(&gpu, &x, element);
            let shape = [frames, height, width, inputs];
            let source = ops::Frames { values: &values, shape, history: None };
            let dense = ops::Dense::of(&folded, 4 * outputs, 4 * inputs);
            let biases = Array::from_host(&gpu, &bias);

            let plain = case(
                [frames, 2 * height, 2 * width, inputs],
                outputs,
                [1, 3, 3],
                [1; 3],
                [1; 4],
                0,
            );
            let x = rounded(&x, element);
            let doubled: Vec<f32> = (0..frames * 4 * height * width)
                .map(|i| (i / width / 2 / 2 * width + i % (2 * width) / 2) * inputs)
                .flat_map(|at| x[at..at + inputs].iter().copied())
                .collect();
            let expected = plain.reference(&doubled, &weight, &bias);
            for out in ELEMENTS {
                let found = ops::upsampled_conv(source, &dense, Some(&biases), out);
                // The sums of weights are rounded to bf16 once, so they differ from the weights.
                let tolerance = if element == Element::F32 { 3e-6 } else { 1e-2 };
                let what = format!("{frames} x {height} x {width} x {inputs} to {outputs}");
                assert_close(&what, found, &expected, tolerance);
            }
        }
    }
}
