use std::ops::Range;

use longreel_kernels::ops::{CONV_SQUARE, conv3d, conv3d_add, upsampled_conv};
use longreel_kernels::{Conv3d, Tensor, UpsampledConv, Weight};

use crate::{
    Expected, Numbers, assert_close, assert_same_on_any_threads, host, on_every_device,
    on_every_isa,
};

struct Case {
    /// T, H, W, I, O.
    size: [usize; 5],
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 4],
    history: usize,
}

fn cases() -> Vec<Case> {
    let case =
        |size, kernel, stride, padding, history| Case { size, kernel, stride, padding, history };
    vec![
        case([1, 1, 1, 1, 1], [1; 3], [1; 3], [0; 4], 0),
        case([2, 5, 7, 3, 16], [3; 3], [1; 3], [1; 4], 0),
        case([2, 5, 7, 16, 3], [3; 3], [1; 3], [1; 4], 2),
        case([1, 4, 9, 8, 20], [3; 3], [1; 3], [1; 4], 1),
        case([3, 6, 40, 12, 24], [3; 3], [1; 3], [1; 4], 2),
        case([2, 9, 11, 20, 20], [1, 3, 3], [1, 2, 2], [0, 1, 0, 1], 0),
        case([2, 8, 26, 16, 33], [1, 3, 3], [1, 2, 2], [0, 1, 0, 1], 0),
        case([5, 3, 4, 10, 9], [3, 1, 1], [2, 1, 1], [0; 4], 2),
        case([4, 3, 4, 10, 18], [3, 1, 1], [1, 1, 1], [0; 4], 1),
        case([2, 5, 13, 96, 96], [3; 3], [1; 3], [1; 4], 2),
        case([1, 3, 3, 384, 40], [3; 3], [1; 3], [1; 4], 0),
        // In squares of 4 x 4: one pixel, one line, whole squares alone, one more than whole squares, the
        // most channels, a last vector that is not whole, more squares than a task has, more frames.
        case([2, 1, 1, 8, 8], [3; 3], [1; 3], [1; 4], 2),
        case([1, 1, 9, 17, 12], [1, 3, 3], [1; 3], [1; 4], 0),
        case([1, 8, 12, 9, 3], [1, 3, 3], [1; 3], [1; 4], 0),
        case([2, 9, 13, 19, 21], [3; 3], [1; 3], [1; 4], 0),
        case([2, 3, 2, 256, 9], [2, 3, 3], [1; 3], [1; 4], 1),
        case([2, 31, 30, 8, 5], [3; 3], [1; 3], [1; 4], 1),
        case([19, 6, 62, 8, 8], [3; 3], [1; 3], [1; 4], 1),
        // By windows, since one side is padded otherwise.
        case([2, 5, 7, 16, 20], [3; 3], [1; 3], [1, 1, 1, 2], 1),
        case([3, 4, 5, 32, 64], [1; 3], [1; 3], [0; 4], 0),
        case([1, 14, 28, 3, 30], [1, 7, 7], [1, 7, 7], [0; 4], 0),
        case([1, 3, 2, 5, 6], [2, 5, 5], [1, 1, 1], [2, 2, 2, 2], 1),
        case([1, 2, 300, 4, 4], [1, 3, 3], [1; 3], [1; 4], 0),
    ]
}

impl Case {
    fn make(&self, seed: u64) -> (Tensor, Option<Tensor>, Vec<f32>, Vec<f32>, Conv3d) {
        let [t, h, w, i, o] = self.size;
        let [kt, kh, kw] = self.kernel;
        let mut numbers = Numbers::new(seed);
        let x = numbers.tensor(&[t, h, w, i]);
        let history = (self.history > 0).then(|| numbers.tensor(&[self.history, h, w, i]));
        let weight = numbers.vec(o * i * kt * kh * kw);
        let bias = numbers.vec(o);
        let conv = Conv3d::new(
            &Weight::from_f32(&[o, i, kt, kh, kw], &weight),
            Some(bias.clone()),
            self.stride,
            self.padding,
        );
        (x, history, weight, bias, conv)
    }

    fn reference(
        &self,
        x: &Tensor,
        history: Option<&Tensor>,
        weight: &[f32],
        bias: &[f32],
    ) -> ([usize; 4], Vec<Expected>) {
        let [t, h, w, inputs, outputs] = self.size;
        let [kt, kh, kw] = self.kernel;
        let [top, bottom, left, right] = self.padding;
        let shape = [
            (t - 1) / self.stride[0] + 1,
            (h + top + bottom - kh) / self.stride[1] + 1,
            (w + left + right - kw) / self.stride[2] + 1,
            outputs,
        ];
        let pixel = |t: isize, y: isize, x_at: isize, c: usize| -> f64 {
            if y < 0 || x_at < 0 || y >= h as isize || x_at >= w as isize {
                return 0.0;
            }
            let (frames, t) = match history {
                _ if t >= 0 => (x, t),
                Some(history) if t + history.dim(0) as isize >= 0 => {
                    (history, t + history.dim(0) as isize)
                }
                _ => return 0.0,
            };
            let at = ((t as usize * h + y as usize) * w + x_at as usize) * inputs + c;
            f64::from(frames.data()[at])
        };
        let mut out = Vec::new();
        for at in 0..shape.iter().product() {
            let (o, x_at) = (at % shape[3], at / shape[3] % shape[2]);
            let (y, t) = (at / shape[3] / shape[2] % shape[1], at / shape[3] / shape[2] / shape[1]);
            let (mut value, mut size) = (f64::from(bias[o]), f64::from(bias[o].abs()));
            for c in 0..inputs {
                for (dt, dy, dx) in (0..kt * kh * kw).map(|i| (i / kh / kw, i / kw % kh, i % kw)) {
                    let term =
                        pixel(
                            (t * self.stride[0] + dt) as isize - (kt - 1) as isize,
                            (y * self.stride[1] + dy) as isize - top as isize,
                            (x_at * self.stride[2] + dx) as isize - left as isize,
                            c,
                        ) * f64::from(weight[(((o * inputs + c) * kt + dt) * kh + dy) * kw + dx]);
                    value += term;
                    size += term.abs();
                }
            }
            // Pixels beside a window share its square, and leave their rounding in it.
            out.push(Expected { value, tolerance: 2e-6 * size });
        }
        (shape, out)
    }
}

#[test]
fn convolution_equals_the_reference_at_awkward_shapes() {
    on_every_device(|place| {
        for (i, case) in cases().iter().enumerate() {
            let (x, history, weight, bias, conv) = case.make(i as u64);
            let there = history.as_ref().map(|history| place.on(history));
            let found = conv3d(&place.on(&x), there.as_ref(), &conv);
            let (shape, expected) = case.reference(&x, history.as_ref(), &weight, &bias);
            assert_eq!(found.shape(), shape);
            let name = format!("{place} conv3d {:?} kernel {:?}", case.size, case.kernel);
            assert_close(&name, host(found).data(), &expected);
        }
    });
}

/// A stream that carries its history gives the values of the whole, bit by bit: the sums run in the
/// same order.
#[test]
fn a_stream_with_history_equals_the_whole() {
    on_every_device(|place| {
        // In squares, and by windows.
        for inputs in [12, 5] {
            let case = Case {
                size: [6, 7, 9, inputs, 10],
                kernel: [3; 3],
                stride: [1; 3],
                padding: [1; 4],
                history: 0,
            };
            let (x, _, _, _, conv) = case.make(1);
            let x = place.on(&x);
            let whole = host(conv3d(&x, None, &conv));
            let mut parts = Vec::new();
            for (start, end) in [(0usize, 1usize), (1, 2), (2, 5), (5, 6)] {
                let history = (start > 0).then(|| x.slice0(start.saturating_sub(2)..start));
                parts.push(host(conv3d(&x.slice0(start..end), history.as_ref(), &conv)));
            }
            let joined = Tensor::concat0(&parts.iter().collect::<Vec<_>>());
            assert!(joined == whole, "{place} with {inputs} inputs");
        }
    });
}

type Way<'a> = &'a dyn Fn(&Tensor) -> Tensor;

/// A pixel is rounded by the patch under its square, and by nothing else of the picture.
#[test]
fn a_part_that_begins_at_a_whole_square_is_convolved_as_within_the_picture() {
    on_every_isa(|isa| {
        let (inputs, [height, width]) = (12, [18, 23]);
        let mut numbers = Numbers::new(6);
        let x = numbers.tensor(&[2, height, width, inputs]);
        let weight = |numbers: &mut Numbers, kernel: &[usize]| {
            let shape: Vec<usize> = [10, inputs].iter().chain(kernel).copied().collect();
            Weight::from_f32(&shape, &numbers.vec(shape.iter().product()))
        };
        let conv = Conv3d::new(&weight(&mut numbers, &[3; 3]), None, [1; 3], [1; 4]);
        let doubling = UpsampledConv::new(&weight(&mut numbers, &[3; 2]), None);
        let (rows, columns) = (CONV_SQUARE..4 * CONV_SQUARE, 2 * CONV_SQUARE..5 * CONV_SQUARE);
        let part = crop(&x, rows.clone(), columns.clone());
        // Without the squares at the cuts, under which the part has zeros.
        let inner =
            |scale: usize, range: &Range<usize>| CONV_SQUARE..scale * range.len() - CONV_SQUARE;
        let outer = |scale: usize, range: &Range<usize>| {
            scale * range.start + CONV_SQUARE..scale * range.end - CONV_SQUARE
        };
        let ways: [(usize, Way<'_>); 2] =
            [(1, &|x| conv3d(x, None, &conv)), (2, &|x| upsampled_conv(x, &doubling))];
        for (scale, way) in &ways {
            let whole = crop(&way(&x), outer(*scale, &rows), outer(*scale, &columns));
            let found = crop(&way(&part), inner(*scale, &rows), inner(*scale, &columns));
            assert!(found == whole, "{isa}, {scale} times the size");
        }
    });
}

/// Rows and columns of every frame of `x`, `[T, H, W, C]`.
fn crop(x: &Tensor, rows: Range<usize>, columns: Range<usize>) -> Tensor {
    let (frames, height, width, channels) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    let mut values = Vec::new();
    for line in (0..frames).flat_map(|t| rows.clone().map(move |y| t * height + y)) {
        let at = (line * width + columns.start) * channels;
        values.extend_from_slice(&x.data()[at..][..columns.len() * channels]);
    }
    Tensor::from_vec(&[frames, rows.len(), columns.len(), channels], values)
}

#[test]
fn convolution_does_not_depend_on_the_number_of_threads() {
    for inputs in [20, 7] {
        let case = Case {
            size: [2, 17, 31, inputs, 40],
            kernel: [3; 3],
            stride: [1; 3],
            padding: [1; 4],
            history: 1,
        };
        let (x, history, _, _, conv) = case.make(2);
        assert_same_on_any_threads("conv3d", || conv3d(&x, history.as_ref(), &conv));
    }
}

#[test]
fn convolution_adds_to_a_residual() {
    on_every_device(|place| {
        for case in cases() {
            let (x, history, weight, bias, conv) = case.make(3);
            let (shape, mut expected) = case.reference(&x, history.as_ref(), &weight, &bias);
            let sum = Numbers::new(4).tensor(&shape);
            for (e, old) in expected.iter_mut().zip(sum.data()) {
                e.value += f64::from(*old);
                e.tolerance += 1e-7;
            }
            let (mut sum, there) = (place.on(&sum), history.as_ref().map(|x| place.on(x)));
            conv3d_add(&place.on(&x), there.as_ref(), &conv, &mut sum);
            let name = format!("{place} conv3d_add {:?}", case.size);
            assert_close(&name, host(sum).data(), &expected);
        }
    });
}

#[test]
fn convolution_of_the_doubled_picture_equals_doubling_first() {
    on_every_device(|place| {
        for (size, outputs) in
            [([1, 1, 1, 3], 5), ([2, 3, 5, 16], 8), ([1, 4, 17, 20], 33), ([2, 7, 9, 12], 6)]
        {
            let mut numbers = Numbers::new(5);
            let (x, inputs) = (numbers.tensor(&size), size[3]);
            let weight = numbers.vec(outputs * inputs * 9);
            let bias = numbers.vec(outputs);
            let case = Case {
                size: [size[0], 2 * size[1], 2 * size[2], inputs, outputs],
                kernel: [1, 3, 3],
                stride: [1; 3],
                padding: [1; 4],
                history: 0,
            };
            let doubled = crate::upsample_nearest_2x(&x);
            let (shape, expected) = case.reference(&doubled, None, &weight, &bias);
            let weight = Weight::from_f32(&[outputs, inputs, 3, 3], &weight);
            let found = upsampled_conv(&place.on(&x), &UpsampledConv::new(&weight, Some(bias)));
            assert_eq!(found.shape(), shape);
            let name = format!("{place} upsampled_conv {size:?}");
            assert_close(&name, host(found).data(), &expected);
        }
    });
}
