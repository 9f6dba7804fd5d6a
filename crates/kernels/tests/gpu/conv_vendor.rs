//! Convolution by a vendor's library: what it is asked for, and what becomes of it when it is wrong.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use longreel_kernels::Weight;
use longreel_kernels::gpu::{
    Address, Arg, Array, Driver, Element, FrameConvolution, Gpu, GpuError, Launch, Note, Stream,
    Vendor, VendorWork, ops,
};
use longreel_shim::{Shim, Watch, Watched};

use crate::{Numbers, array, assert_close, rounded};

/// What a device was asked for.
#[derive(Debug, Default)]
struct Asked {
    frames: Vec<FrameConvolution>,
    /// Whether there is a way, how often.
    whether: usize,
    /// Convolutions by our kernel.
    ours: usize,
    distrusted: Option<(VendorWork, String)>,
}

/// A library that computes what a [`FrameConvolution`] says, `factor` times.
struct Library {
    factor: f64,
    /// The frame that it refuses, of all that it is asked for.
    refuses: Option<usize>,
    asked: Mutex<Asked>,
}

fn numbers(shim: &Shim, from: Address, count: usize) -> Vec<f64> {
    let mut bytes = vec![0; count * 2];
    shim.download(from, &mut bytes).expect("it is there");
    Element::Bf16.singles(&bytes).into_iter().map(f64::from).collect()
}

impl Library {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no panic")
    }

    fn compute(&self, shim: &Shim, what: &FrameConvolution) {
        let &FrameConvolution { height, width, inputs, outputs, windows, .. } = what;
        let ([kt, kh, kw], [top, _, left, _]) = (windows.kernel, windows.padding);
        let [_, down, across] = windows.stride;
        let [out_height, out_width] = what.result();
        let values = out_height * out_width * outputs;
        let x = numbers(shim, what.x, kt * height * width * inputs);
        let weight = numbers(shim, what.weight, outputs * kt * kh * kw * inputs);
        let bias = what.bias.map(|bias| numbers(shim, bias, outputs));
        let added = what.added.map(|added| numbers(shim, added, values));
        let mut bytes = Vec::with_capacity(2 * values);
        for n in 0..values {
            let (line, pixel, o) = (n / outputs / out_width, n / outputs % out_width, n % outputs);
            let mut sum = bias.as_ref().map_or(0.0, |bias| bias[o]);
            sum += added.as_ref().map_or(0.0, |added| added[n]);
            for tap in 0..kt * kh * kw {
                let (t, dy, dx) = (tap / kh / kw, tap / kw % kh, tap % kw);
                let y = (line * down + dy).checked_sub(top).filter(|&y| y < height);
                let x_at = (pixel * across + dx).checked_sub(left).filter(|&x| x < width);
                let (Some(y), Some(x_at)) = (y, x_at) else { continue };
                for i in 0..inputs {
                    let from = ((t * height + y) * width + x_at) * inputs + i;
                    sum += x[from] * weight[(o * kt * kh * kw + tap) * inputs + i];
                }
            }
            let value = half::bf16::from_f64(self.factor * sum);
            bytes.extend(value.to_le_bytes());
        }
        shim.upload(Stream::Compute, what.out, &bytes).expect("it is there");
    }
}

impl Watch for Library {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        self.asked().ours += usize::from(launch.module == "conv");
        shim.launch(launch, args)
    }

    fn has_convolution(&self, _: &Shim, _: &FrameConvolution) -> Result<bool, GpuError> {
        let mut asked = self.asked();
        asked.whether += 1;
        Ok(asked.distrusted.is_none())
    }

    fn convolution(&self, shim: &Shim, what: &FrameConvolution) -> Result<Vendor, GpuError> {
        let mut asked = self.asked();
        if asked.distrusted.is_some() || self.refuses == Some(asked.frames.len()) {
            return Ok(Vendor::Refused);
        }
        let known = asked.frames.iter().any(|other| other.shape() == what.shape());
        asked.frames.push(*what);
        self.compute(shim, what);
        Ok(if known { Vendor::Done } else { Vendor::First })
    }

    fn distrust(&self, _: &Shim, work: VendorWork, why: &str) {
        self.asked().distrusted = Some((work, why.to_owned()));
    }

    fn notes(&self, _: &Shim) -> Vec<Note> {
        let note = |(_, text): &(VendorWork, String)| Note { text: text.clone(), warning: true };
        self.asked().distrusted.as_ref().map(note).into_iter().collect()
    }
}

/// A device with such a library; `None` without a compiler.
fn device(factor: f64, refuses: Option<usize>) -> Option<(Arc<Gpu>, Arc<Library>)> {
    let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?.with_arrays_apart();
    let library = Arc::new(Library { factor, refuses, asked: Mutex::default() });
    let driver = Watched::new(shim, Arc::clone(&library));
    Some((Gpu::new(Box::new(driver), Element::Bf16), library))
}

/// Frames and a convolution of them.
struct Film {
    windows: ops::Windows,
    /// T, H, W, I, and channels of the result.
    shape: [usize; 4],
    outputs: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Film {
    fn new(windows: ops::Windows, shape: [usize; 4], outputs: usize) -> Self {
        let mut numbers = Numbers::new(shape.iter().product::<usize>() as u64);
        let taps = windows.kernel.iter().product::<usize>() * shape[3];
        let weight = numbers.vec(outputs * taps);
        let weight = weight.iter().map(|w| w / (taps as f32).sqrt()).collect();
        let x = numbers.vec(shape.iter().product());
        Self { windows, shape, outputs, x, weight, bias: numbers.vec(outputs) }
    }

    fn frame(&self) -> usize {
        self.shape[1..].iter().product()
    }

    fn weight(&self, gpu: &Arc<Gpu>) -> Array {
        let [kt, kh, kw] = self.windows.kernel;
        let stored = Weight::from_f32(&[self.outputs, self.shape[3], kt, kh, kw], &self.weight);
        array(gpu, &ops::window_weight(&stored).to_f32(), Element::Bf16)
    }

    /// Frames `range` after the `history` before them, `into` added where there is something.
    fn run(
        &self,
        gpu: &Arc<Gpu>,
        range: std::ops::Range<usize>,
        history: usize,
        into: Option<Array>,
    ) -> Array {
        let frame = self.frame();
        let on = |range: std::ops::Range<usize>| {
            array(gpu, &self.x[range.start * frame..range.end * frame], Element::Bf16)
        };
        let weight = self.weight(gpu);
        let dense = ops::Dense::of(&weight, self.outputs, weight.len() / self.outputs);
        let bias = Array::from_host(gpu, &self.bias);
        let before = (history > 0).then(|| on(range.start - history..range.start));
        let mut shape = self.shape;
        shape[0] = range.len();
        let values = on(range);
        let source = ops::Frames { values: &values, shape, history: before.as_ref() };
        match into {
            None => ops::conv3d(source, &self.windows, &dense, Some(&bias), Element::Bf16),
            Some(mut into) => {
                ops::conv3d_add(&mut into, source, &self.windows, &dense, Some(&bias));
                into
            }
        }
    }
}

const CAUSAL: ops::Windows = ops::Windows { kernel: [3; 3], stride: [1; 3], padding: [1; 4] };

#[test]
fn streams_that_are_cut_differently_are_equal_by_the_library_too() {
    let Some((gpu, library)) = device(1.0, None) else { return };
    let film = Film::new(CAUSAL, [6, 4, 5, 8], 16);
    let whole = film.run(&gpu, 0..6, 0, None).to_bytes().expect("no failure");
    for cuts in [&[1, 5][..], &[2, 2, 2], &[1, 1, 1, 1, 1, 1], &[3, 3], &[5, 1]] {
        let (mut start, mut parts) = (0, Vec::new());
        for &frames in cuts {
            let part = film.run(&gpu, start..start + frames, start.min(2), None);
            parts.extend(part.to_bytes().expect("no failure"));
            start += frames;
        }
        assert_eq!(parts, whole, "{cuts:?}");
    }
    let asked = library.asked();
    assert_eq!(asked.frames.len(), 6 * 6, "one frame at a time");
    assert!(asked.frames.iter().all(|frame| frame.shape() == asked.frames[0].shape()));
    assert_eq!(asked.ours, 1, "for the comparison");
    assert_eq!(asked.distrusted, None);
}

#[test]
fn windows_of_every_kind_are_what_our_kernel_computes() {
    let flat = ops::Windows { kernel: [1, 3, 3], ..CAUSAL };
    for (windows, shape, history) in [
        (CAUSAL, [1, 4, 4, 8], 0),
        (CAUSAL, [4, 3, 5, 16], 1),
        (flat, [3, 5, 4, 8], 0),
        (ops::Windows { stride: [1, 2, 2], padding: [0, 1, 0, 1], ..flat }, [2, 6, 7, 8], 0),
        (ops::Windows { kernel: [3, 1, 1], stride: [2, 1, 1], padding: [0; 4] }, [5, 3, 3, 16], 2),
        (ops::Windows { kernel: [3, 1, 1], stride: [2, 1, 1], padding: [0; 4] }, [4, 3, 3, 16], 1),
        (ops::Windows { kernel: [4, 1, 1], stride: [3, 1, 1], padding: [0; 4] }, [7, 2, 3, 8], 2),
        (
            ops::Windows { kernel: [2, 3, 3], stride: [1; 3], padding: [1, 1, 1, 2] },
            [3, 4, 3, 8],
            1,
        ),
    ] {
        let Some((gpu, library)) = device(1.0, None) else { return };
        let frames = shape[0] + history;
        let film = Film::new(windows, [frames, shape[1], shape[2], shape[3]], 16);
        let found = film.run(&gpu, history..frames, history, None);
        // The same where there is no library.
        let ours = crate::device().expect("a compiler, as before");
        let expected = film.run(&ours, history..frames, history, None);
        let expected: Vec<f64> =
            expected.to_host().expect("no failure").into_iter().map(f64::from).collect();
        assert_eq!(library.asked().frames.len(), windows.result(shape)[0], "{windows:?}");
        // The bias is rounded, as our kernel's is not.
        assert_close(&format!("{windows:?} of {shape:?}"), found, &expected, 6e-3);
        assert_eq!(library.asked().distrusted, None);
    }
}

#[test]
fn frames_whose_windows_lie_in_the_input_are_not_copied() {
    let Some((gpu, library)) = device(1.0, None) else { return };
    let film = Film::new(CAUSAL, [5, 4, 4, 8], 8);
    let first = film.run(&gpu, 0..5, 0, None);
    drop(first);
    let asked = library.asked();
    let bytes = 2 * film.frame();
    let at: Vec<u64> = asked.frames.iter().map(|frame| frame.x.0).collect();
    // Two that begin before the input, one behind the other, then those of the input.
    assert_eq!(at[1], at[0] + bytes as u64);
    assert_eq!([at[3], at[4]], [at[2] + bytes as u64, at[2] + 2 * bytes as u64]);
    assert!(at[2].abs_diff(at[1]) > bytes as u64, "{at:x?}");
}

#[test]
fn a_sum_is_made_apart_from_what_is_added_to() {
    let Some((gpu, library)) = device(1.0, None) else { return };
    let film = Film::new(CAUSAL, [3, 4, 4, 8], 16);
    let alone: Vec<f64> = {
        let ours = crate::device().expect("a compiler, as before");
        let alone = film.run(&ours, 0..3, 0, None).to_host().expect("no failure");
        alone.into_iter().map(f64::from).collect()
    };
    let old = rounded(&Numbers::new(5).vec(alone.len()), Element::Bf16);
    let into = array(&gpu, &old, Element::Bf16);
    let place = into.address();
    let found = film.run(&gpu, 0..3, 0, Some(into));
    let expected: Vec<f64> = alone.iter().zip(&old).map(|(a, b)| a + f64::from(*b)).collect();
    {
        let asked = library.asked();
        let frame = alone.len() / 3 * 2;
        for (index, what) in asked.frames.iter().enumerate() {
            assert_eq!(what.added, Some(place.plus(index * frame)));
            assert_eq!(what.out, found.address().plus(index * frame));
        }
        assert_eq!((asked.frames.len(), asked.ours, &asked.distrusted), (3, 1, &None));
    }
    assert_close("a sum", found, &expected, 1.5e-2);
}

#[test]
fn a_way_that_is_wrong_is_told_of_once_and_our_kernel_computes_instead() {
    let film = Film::new(CAUSAL, [3, 4, 4, 8], 16);
    let ours = |into: Option<&[f32]>| {
        let gpu = crate::device()?;
        let into = into.map(|values| array(&gpu, values, Element::Bf16));
        Some(film.run(&gpu, 0..3, 0, into).to_bytes().expect("no failure"))
    };
    let old = Numbers::new(5).vec(3 * 4 * 4 * 16);
    for into in [None, Some(&old[..])] {
        // Wrong from the first frame, and refused at the second one, which is no fault.
        for (factor, refuses, distrusts) in [(1.05, None, true), (1.0, Some(1), false)] {
            let Some((gpu, library)) = device(factor, refuses) else { return };
            let expected = ours(into).expect("a compiler");
            for _ in 0..2 {
                let into = into.map(|values| array(&gpu, values, Element::Bf16));
                let found = film.run(&gpu, 0..3, 0, into).to_bytes().expect("no failure");
                assert_eq!(found, expected, "{factor}");
            }
            let asked = library.asked();
            // The first frame, and all of them twice.
            assert_eq!((asked.frames.len(), asked.ours), (1, 3), "{factor}");
            let why = asked.distrusted.clone();
            drop(asked);
            let Some((work, why)) = why.filter(|_| distrusts) else {
                assert!(!distrusts && gpu.warnings().is_empty());
                continue;
            };
            assert_eq!(work, VendorWork::Convolution);
            assert!(why.contains("3 x 3 x 3 from 8 to 16 channels of 4 x 4 is off by"), "{why}");
            assert_eq!(gpu.warnings(), [why]);
            assert!(gpu.warnings().is_empty(), "told once");
        }
    }
}

#[test]
fn only_bf16_is_asked_for_and_pixels_are_products() {
    let Some((gpu, library)) = device(1.0, None) else { return };
    let film = Film::new(CAUSAL, [2, 3, 3, 8], 8);
    let singles = array(&gpu, &film.x, Element::F32);
    let weight = film.weight(&gpu);
    let dense = ops::Dense::of(&weight, 8, weight.len() / 8);
    let source = ops::Frames { values: &singles, shape: film.shape, history: None };
    drop(ops::conv3d(source, &CAUSAL, &dense, None, Element::Bf16));
    let values = array(&gpu, &film.x, Element::Bf16);
    let source = ops::Frames { values: &values, shape: film.shape, history: None };
    drop(ops::conv3d(source, &CAUSAL, &dense, None, Element::F32));
    let pixel = ops::Windows { kernel: [1; 3], stride: [1; 3], padding: [0; 4] };
    let square = array(&gpu, &film.weight[..64], Element::Bf16);
    let square = ops::Dense::of(&square, 8, 8);
    drop(ops::conv3d(source, &pixel, &square, None, Element::Bf16));
    gpu.check().expect("no failure");
    let asked = library.asked();
    assert_eq!((asked.whether, asked.frames.len()), (0, 0));
}
