use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longreel_kernels::gpu::{
    Address, Arg, Array, Driver, Element, Gpu, GpuError, Launch, MatMul, Operands, SOURCES, Stream,
    ops,
};
use longreel_kernels::{Activation, Weight};
use longreel_shim::{Shim, Sources, Watch, Watched};

use crate::linear::activated;
use crate::{
    ELEMENTS, Numbers, array, assert_close, device, device_with_products, rounded, values,
};

/// A library that multiplies codes and has no way for factors of rows and columns, as those of Ada.
struct CodesAlone;

impl Watch for CodesAlone {
    fn matmul(&self, shim: &Shim, what: &MatMul) -> Result<bool, GpuError> {
        match what.operands {
            Operands::E4m3 { factors: Some(_) } => Ok(false),
            _ => shim.matmul(what),
        }
    }
}

/// Our kernel, a library that does all, and one that multiplies codes alone, whose sums wait in bf16.
fn ways() -> Vec<(&'static str, Arc<Gpu>)> {
    let codes_alone = || {
        let shim = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let shim = shim.with_arrays_apart().with_products();
        Some(Gpu::new(Box::new(Watched::new(shim, Arc::new(CodesAlone))), Element::Bf16))
    };
    let all = [
        ("our kernel", device()),
        ("library", device_with_products()),
        ("library of codes", codes_alone()),
    ];
    all.into_iter().filter_map(|(way, gpu)| Some((way, gpu?))).collect()
}

/// What rounding of sums to bf16 may add to the allowed error.
fn tolerance(way: &str, exact: f64) -> f64 {
    if way == "library of codes" { 6e-3 } else { exact }
}

/// A layer whose outputs are of about one, and rows for it whose sizes differ by thousands.
struct Layer {
    rows: usize,
    inputs: usize,
    x: Vec<f32>,
    weight: Weight,
    bias: Vec<f32>,
}

impl Layer {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        let mut numbers = Numbers::new((rows * 31 + inputs * 7 + outputs) as u64);
        let factor = 3.0 / (inputs as f32).sqrt();
        let mut weight = numbers.vec(outputs * inputs);
        for (n, row) in weight.chunks_mut(inputs).enumerate() {
            row.iter_mut().for_each(|w| *w *= factor * [1.0, 1e-3, 0.2][n % 3]);
        }
        let mut x = numbers.vec(rows * inputs);
        for (n, row) in x.chunks_mut(inputs).enumerate() {
            row.iter_mut().for_each(|x| *x *= [1.0, 1e-3, 0.3, 0.0, 2.0][n % 5]);
        }
        let weight = Weight::e4m3(&[outputs, inputs], &weight);
        Self { rows, inputs, x, weight, bias: numbers.vec(outputs) }
    }

    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// `x W^T + b` of what e4m3 leaves of `x` in an element.
    fn expected(&self, element: Element) -> Vec<f64> {
        let x = rounded(&self.x, element);
        let x = Weight::e4m3(&[self.rows, self.inputs], &x).to_f32();
        let weight = self.weight.to_f32();
        let value = |i: usize| {
            let (row, column) = (i / self.outputs(), i % self.outputs());
            let x = &x[row * self.inputs..][..self.inputs];
            let w = &weight[column * self.inputs..][..self.inputs];
            let product: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            product + f64::from(self.bias[column])
        };
        (0..self.rows * self.outputs()).map(value).collect()
    }

    fn on(&self, gpu: &Arc<Gpu>, element: Element) -> On {
        let factors = self.weight.scales().expect("one for each row");
        // No element has one byte; what lies behind an odd last one is not read.
        let mut bytes = self.weight.bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(2), 0x7f);
        On {
            x: array(gpu, &self.x, element),
            codes: Array::from_bytes(gpu, Element::Bf16, &bytes),
            factors: Array::from_host(gpu, factors),
            bias: Array::from_host(gpu, &self.bias),
            inputs: self.inputs,
        }
    }
}

struct On {
    x: Array,
    codes: Array,
    factors: Array,
    bias: Array,
    inputs: usize,
}

impl On {
    fn weight(&self) -> ops::DenseCodes<'_> {
        let address = self.codes.address();
        ops::DenseCodes { address, factors: &self.factors, inputs: self.inputs }
    }
}

/// Rows, inputs, outputs: one of each, edges of tiles and stages, inputs that are not in pieces of 16 bytes or of
/// 8 values, an odd number of outputs, more inputs than a block has threads for at once.
const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [1, 16, 64],
    [7, 80, 5],
    [64, 64, 64],
    [65, 208, 66],
    [129, 128, 7],
    [20, 33, 31],
    [7, 104, 16],
    [6, 2064, 16],
];

#[test]
fn a_layer_equals_the_reference_of_its_codes() {
    for (way, gpu) in ways() {
        for [rows, inputs, outputs] in SHAPES {
            let layer = Layer::new(rows, inputs, outputs);
            for element in ELEMENTS {
                let on = layer.on(&gpu, element);
                let codes = ops::Codes::of(&on.x, rows, inputs);
                let expected = layer.expected(element);
                for out in ELEMENTS {
                    let none = Activation::None;
                    let found = ops::linear_codes(&codes, &on.weight(), Some(&on.bias), none, out);
                    let what = format!("{rows} x {inputs} x {outputs} of {element:?} by {way}");
                    assert_close(&what, found, &expected, tolerance(way, 4e-6));
                }
            }
        }
    }
}

#[test]
fn a_layer_too_large_for_small_tiles_equals_the_reference() {
    let Some(gpu) = device() else { return };
    let layer = Layer::new(1030, 48, 2050);
    let on = layer.on(&gpu, Element::Bf16);
    let codes = ops::Codes::of(&on.x, 1030, 48);
    let none = Activation::None;
    let found = ops::linear_codes(&codes, &on.weight(), Some(&on.bias), none, Element::F32);
    assert_close("large", found, &layer.expected(Element::Bf16), 4e-6);
}

#[test]
fn every_activation_follows_the_bias() {
    for (way, gpu) in ways() {
        let layer = Layer::new(9, 48, 35);
        let on = layer.on(&gpu, Element::F32);
        let codes = ops::Codes::of(&on.x, 9, 48);
        for activation in [Activation::GeluTanh, Activation::Silu] {
            let expected = layer.expected(Element::F32).into_iter();
            let expected: Vec<f64> = expected.map(|v| activated(v, activation)).collect();
            let (weight, bias) = (on.weight(), Some(&on.bias));
            let found = ops::linear_codes(&codes, &weight, bias, activation, Element::F32);
            // A library knows one of them; sums wait in bf16 for the other.
            let whole = way != "library" || activation == Activation::GeluTanh;
            let tolerance = tolerance(way, if whole { 8e-6 } else { 6e-3 });
            assert_close(&format!("{activation:?} by {way}"), found, &expected, tolerance);
        }
    }
}

#[test]
fn a_residual_is_added_by_the_gate_of_its_frame() {
    for (way, gpu) in ways() {
        for (rows, inputs, outputs) in [(22, 32, 13), (67, 48, 66), (10, 9, 8)] {
            let layer = Layer::new(rows, inputs, outputs);
            let mut numbers = Numbers::new(5);
            let before = numbers.vec(rows * outputs);
            let on = layer.on(&gpu, Element::Bf16);
            let product = layer.expected(Element::Bf16);
            // Eight tokens a frame, the last frame not full; one row for all; none.
            for frames in [rows.div_ceil(8), 1, 0] {
                let gate = numbers.vec(frames * outputs);
                let gates = (frames > 0).then(|| Array::from_host(&gpu, &gate));
                let gates =
                    gates.as_ref().map(|values| ops::PerFrame { values, tokens_per_frame: 8 });
                let value = |i: usize| {
                    let frame = if frames == 1 { 0 } else { i / outputs / 8 };
                    let factor =
                        if frames == 0 { 1.0 } else { gate[frame * outputs + i % outputs] };
                    f64::from(before[i]) + f64::from(factor) * product[i]
                };
                let expected: Vec<f64> = (0..before.len()).map(value).collect();
                let mut into = array(&gpu, &before, Element::F32);
                let codes = ops::Codes::of(&on.x, rows, inputs);
                let (weight, bias) = (on.weight(), Some(&on.bias));
                ops::linear_residual_codes(&mut into, &codes, &weight, bias, gates);
                // A library's sums wait in bf16 for the gates of short frames.
                let exact = if way == "library" && frames > 1 { 6e-3 } else { 4e-6 };
                let what = format!("{rows} rows, {frames} gates by {way}");
                assert_close(&what, into, &expected, tolerance(way, exact));
            }
        }
    }
}

/// A layer of 16 by 16 added to rows of up to three frames with a gate each, and what the sums should be.
fn gated_by_frame(gpu: &Arc<Gpu>, rows: usize, tokens: usize) -> (Array, Vec<f64>) {
    let (inputs, outputs) = (16, 16);
    let layer = Layer::new(rows, inputs, outputs);
    let gate = Numbers::new(6).vec(3 * outputs);
    let gates = Array::from_host(gpu, &gate);
    let on = layer.on(gpu, Element::F32);
    let value = |(i, v): (usize, f64)| {
        let (frame, column) = (i / outputs / tokens, i % outputs);
        0.25 + f64::from(gate[frame * outputs + column]) * v
    };
    let expected = layer.expected(Element::F32).into_iter().enumerate().map(value).collect();
    let mut into = array(gpu, &vec![0.25; rows * outputs], Element::F32);
    let codes = ops::Codes::of(&on.x, rows, inputs);
    let gates = ops::PerFrame { values: &gates, tokens_per_frame: tokens };
    ops::linear_residual_codes(&mut into, &codes, &on.weight(), Some(&on.bias), Some(gates));
    (into, expected)
}

#[test]
fn gates_of_long_frames_go_into_the_factors_of_a_library() {
    let Some(gpu) = device_with_products() else { return };
    let (into, expected) = gated_by_frame(&gpu, 2500, 1024);
    // No sum was rounded to bf16 on the way.
    assert_close("long frames", into, &expected, 4e-6);
}

/// A library that takes factors where cuBLASLt does, and a count of products by our kernels.
#[derive(Default)]
struct InSixteens {
    ours: AtomicUsize,
}

impl Watch for InSixteens {
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        let is_product = ["fp8_plain", "fp8_64x64", "fp8_128x64"].contains(&launch.kernel);
        self.ours.fetch_add(usize::from(is_product), Ordering::Relaxed);
        shim.launch(launch, args)
    }

    fn matmul(&self, shim: &Shim, what: &MatMul) -> Result<bool, GpuError> {
        match what.operands {
            Operands::E4m3 { factors: Some(at) } if at.iter().any(|at| at.0 % 16 != 0) => Ok(false),
            _ => shim.matmul(what),
        }
    }
}

/// Frames of a number of tokens that is no multiple of four: of each but the first the factors begin between.
#[test]
fn no_gate_of_a_long_frame_takes_its_product_from_the_library() {
    let Some(shim) = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let watch = Arc::<InSixteens>::default();
    let watched = Watched::new(shim.with_arrays_apart().with_products(), watch.clone());
    let gpu = Gpu::new(Box::new(watched), Element::Bf16);
    for (rows, tokens, tolerance) in [(2500, 1030, 6e-3), (2500, 1032, 4e-6), (1029, 1030, 4e-6)] {
        let (into, expected) = gated_by_frame(&gpu, rows, tokens);
        assert_close(&format!("{rows} rows of {tokens}"), into, &expected, tolerance);
        assert_eq!(watch.ours.load(Ordering::Relaxed), 0, "{rows} rows of {tokens}");
    }
}

/// Rows that are enough for slices of the hidden layer are counted in `linear/tests.rs`, where none is computed.
#[test]
fn a_feed_forward_in_one_call_is_its_two_layers() {
    for (way, gpu) in ways() {
        let (rows, dim, hidden) = (37, 32, 64);
        let (up, mut down) = (Layer::new(rows, dim, hidden), Layer::new(rows, hidden, dim));
        let gate = Numbers::new(3).vec(5 * dim);
        let gates = Array::from_host(&gpu, &gate);
        let gate_of = |i: usize| f64::from(gate[i / dim / 8 * dim + i % dim]);
        let first = up.on(&gpu, Element::F32);
        let wide = up.expected(Element::F32).into_iter();
        down.x = wide.map(|v| activated(v, Activation::GeluTanh) as f32).collect();
        let second = down.on(&gpu, Element::F32);
        let narrow = down.expected(Element::F32);
        let expected: Vec<f64> =
            narrow.into_iter().enumerate().map(|(i, v)| 0.5 + gate_of(i) * v).collect();
        let mut into = array(&gpu, &vec![0.5; rows * dim], Element::F32);
        ops::feed_forward_residual_codes(
            &mut into,
            &ops::Codes::of(&first.x, rows, dim),
            (&first.weight(), Some(&first.bias)),
            (&second.weight(), Some(&second.bias)),
            Activation::GeluTanh,
            Some(ops::PerFrame { values: &gates, tokens_per_frame: 8 }),
            Element::F32,
        );
        let found = values(&format!("feed-forward by {way}"), into);
        let error = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2));
        let size = expected.iter().map(|v| (v - 0.5).powi(2)).sum::<f64>();
        let off = (error.sum::<f64>() / size).sqrt();
        // A hidden value that is off in its last place may become the next code, and more of those that were
        // rounded to bf16 do.
        let allowed = if way == "library of codes" { 3e-2 } else { 4e-3 };
        assert!(off < allowed, "feed-forward by {way}: {off:.1e}");
    }
}

/// Lengths of rows: one value, no whole packs, one pack a thread and several, as many as threads keep, and more.
const DIMS: [usize; 7] = [1, 33, 128, 2120, 5120, 13_824, 17_000];

#[test]
fn a_norm_that_gives_codes_gives_those_of_its_result_to_the_bit() {
    let Some(gpu) = device() else { return };
    for (i, dim) in DIMS.into_iter().enumerate() {
        let (rows, per_frame) = (5, 2);
        let mut numbers = Numbers::new(i as u64);
        let mut x: Vec<f32> = numbers.vec(rows * dim).iter().map(|v| v + 0.5).collect();
        // No number in one row, nothing in another.
        x[dim] = f32::NAN;
        x[2 * dim..3 * dim].fill(0.0);
        let mut parameters =
            [1, 1, 3, 1].map(|rows| array(&gpu, &numbers.vec(rows * dim), Element::F32));
        let [weight, bias, shift, scale] = &mut parameters;
        for (affine, modulated) in [(false, false), (true, false), (false, true), (true, true)] {
            let affine = affine.then_some((&*weight, &*bias));
            let frames = |values| ops::PerFrame { values, tokens_per_frame: per_frame };
            let modulation = modulated.then(|| [frames(shift), frames(scale)]);
            for element in ELEMENTS {
                let x = array(&gpu, &x, element);
                for through in ELEMENTS {
                    let normed = ops::layer_norm(&x, dim, affine, 1e-6, modulation, through);
                    let expected = ops::Codes::of(&normed, rows, dim).to_host().expect("it runs");
                    drop(normed);
                    gpu.shrink();
                    let found = ops::layer_norm_codes(&x, dim, affine, 1e-6, modulation, through);
                    assert_eq!(found.shape(), [rows, dim]);
                    let (codes, factors) = found.to_host().expect("it runs");
                    let what = format!("{dim} values of {element:?} by {through:?}");
                    assert_eq!(codes, expected.0, "{what}");
                    let bits =
                        |factors: &[f32]| factors.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&factors), bits(&expected.1), "{what}");
                    assert_eq!(codes[dim] & 0x7f, 0x7f, "{what}: a NaN stays one");
                }
            }
        }
    }
}

/// Of each way: the hidden layer's codes are those of its values, wherever they are made.
#[test]
fn a_feed_forward_in_one_call_has_the_bits_of_its_two_layers() {
    for (way, gpu) in ways() {
        for (rows, dim, hidden) in [(37, 32, 64), (9, 16, 33), (5, 24, 2120)] {
            let (up, down) = (Layer::new(rows, dim, hidden), Layer::new(rows, hidden, dim));
            let before = Numbers::new(8).vec(rows * dim);
            for element in ELEMENTS {
                let (first, second) = (up.on(&gpu, element), down.on(&gpu, element));
                let (first_bias, second_bias) = (Some(&first.bias), Some(&second.bias));
                let y = ops::Codes::of(&first.x, rows, dim);
                for activation in [Activation::GeluTanh, Activation::Silu] {
                    let mut expected = array(&gpu, &before, Element::F32);
                    let wide =
                        ops::linear_codes(&y, &first.weight(), first_bias, activation, element);
                    let codes = ops::Codes::of(&wide, rows, hidden);
                    let weight = second.weight();
                    ops::linear_residual_codes(&mut expected, &codes, &weight, second_bias, None);
                    let mut found = array(&gpu, &before, Element::F32);
                    ops::feed_forward_residual_codes(
                        &mut found,
                        &y,
                        (&first.weight(), first_bias),
                        (&weight, second_bias),
                        activation,
                        None,
                        element,
                    );
                    let [found, expected] =
                        [found, expected].map(|all| all.to_host().expect("it runs"));
                    let same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(
                        same,
                        "{rows} rows of {hidden} in {element:?}, {activation:?} by {way}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_that_are_no_numbers_say_so() {
    let Some(gpu) = device() else { return };
    let mut layer = Layer::new(4, 32, 16);
    layer.x[5] = f32::NAN;
    layer.x[32 + 7] = f32::INFINITY;
    let on = layer.on(&gpu, Element::F32);
    let codes = ops::Codes::of(&on.x, 4, 32);
    let found = ops::linear_codes(&codes, &on.weight(), None, Activation::None, Element::F32);
    let found = found.to_host().expect("it runs");
    let finite = |row: usize| found[row * 16..][..16].iter().all(|v| v.is_finite());
    assert_eq!([0, 1, 2, 3].map(finite), [false, false, true, true]);
    assert!(found[..32].iter().all(|v| !v.is_finite()), "{found:?}");
}

/// Of all codes but NaN, what cards without e4m3 make of a fragment beside what those with it do.
#[test]
fn a_fragment_by_way_of_bf16_is_that_of_e4m3() {
    const BOTH: &str = r#"
        extern "C" __global__ void both(const unsigned* a, const unsigned* b, float* by_bf16, float* by_e4m3) {
            int lane = threadIdx.x;
            float one[4] = {1, 2, 3, 4}, other[4] = {1, 2, 3, 4};
            mma_e4m3_by_bf16(one, a + lane * 4, b + lane * 2);
            mma_m16n8k32_e4m3(other, a + lane * 4, b + lane * 2);
            for (int i = 0; i < 4; i++) {
                by_bf16[lane * 4 + i] = one[i];
                by_e4m3[lane * 4 + i] = other[i];
            }
        }"#;
    let fp8 = SOURCES.iter().find(|row| row.0 == "fp8").expect("a module").1;
    let both: &'static str = format!("{fp8}{BOTH}").leak();
    let sources: Sources = vec![SOURCES[0], ("both", both)].leak();
    let Some(shim) = Shim::or_skip(Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let shim = shim.with_sources(sources);
    let mut numbers = Numbers::new(9);
    let mut code = || match (numbers.next().to_bits() >> 8) as u8 {
        nan @ (0x7f | 0xff) => nan ^ 1,
        code => code,
    };
    let put = |bytes: Vec<u8>| -> Address {
        let address = shim.alloc(bytes.len()).expect("memory");
        shim.upload(Stream::Compute, address, &bytes).expect("it fits");
        address
    };
    let a = put((0..512).map(|_| code()).collect());
    let b = put((0..256).map(|_| code()).collect());
    let [one, other] = [0; 2].map(|_| put(vec![0xff; 512]));
    let launch =
        Launch { module: "both", kernel: "both", grid: [1; 3], threads: 32, shared_bytes: 0 };
    shim.launch(&launch, &[a, b, one, other].map(Arg::Pointer)).expect("it runs");
    let [one, other] = [one, other].map(|from| {
        let mut bytes = vec![0; 512];
        shim.download(from, &mut bytes).expect("there");
        Element::F32.singles(&bytes)
    });
    for (i, (one, other)) in one.iter().zip(&other).enumerate() {
        let (error, size) = ((one - other).abs(), 32.0 * 448.0 * 448.0);
        assert!(error <= 1e-6 * size && one.is_finite(), "value {i}: {one}, not {other}");
    }
    assert!(one.iter().any(|v| v.abs() > 1e3), "{one:?}");
}
