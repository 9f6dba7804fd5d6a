//! What operations say that they move.

use longreel_kernels::ops::{
    PerFrame, feed_forward_residual, gate_residual, linear, linear_full, narrowed,
};
use longreel_kernels::spans::{Span, measured};
use longreel_kernels::{Activation, DType, Device, Linear, LinearInput, Products, Tensor, Weight};

use crate::device;

/// Rows, inputs and outputs that no other test's layer has, so that its spans are told apart from theirs.
const SHAPE: [usize; 3] = [7, 176, 336];

fn of<'a>(spans: &'a [Span], name: &str, flops: usize) -> &'a Span {
    let found = spans.iter().find(|span| span.name == name && span.flops == flops as f64);
    found.unwrap_or_else(|| panic!("no {name} of {flops} operations in {spans:?}"))
}

fn layer(outputs: usize, inputs: usize) -> Linear {
    let values: Vec<f32> = (0..outputs * inputs).map(|i| (i % 13) as f32 / 13.0).collect();
    Linear::new(Weight::narrowed(&[outputs, inputs], &values, DType::BF16), None)
}

/// Bytes are those of the element that each value has where it is: two on a GPU but for sums along the layers, which are
/// f32, and four on the host, whose weights stay as they are stored.
#[test]
fn operations_tell_bytes_by_the_elements_that_they_read_and_write() {
    let Some(gpu) = device() else { return };
    let [rows, inputs, outputs] = SHAPE;
    let (up, down) = (layer(outputs, inputs), layer(inputs, outputs));
    let x = Tensor::from_vec(&[rows, inputs], vec![0.5; rows * inputs]);
    let product = 2 * rows * inputs * outputs;
    let (values, results, weight) = (rows * inputs, rows * outputs, inputs * outputs);

    let (_, spans) = measured(|| linear(&x, &up, Activation::None));
    assert_eq!(of(&spans, "linear", product).bytes, (4 * (values + results) + 2 * weight) as f64);

    let there = x.on(&Device::Gpu(gpu.clone())).expect("a device").into_owned();
    let narrow = narrowed(there.clone());
    let (_, spans) = measured(|| linear(&narrow, &up, Activation::None));
    assert_eq!(of(&spans, "linear", product).bytes, (2 * (values + results + weight)) as f64);
    let (_, spans) = measured(|| linear_full(&narrow, &up));
    assert_eq!(
        of(&spans, "linear", product).bytes,
        (2 * (values + weight) + 4 * results) as f64,
        "a result that is kept in full"
    );

    let mut sum = there;
    let none = None::<PerFrame<'_>>;
    let given = LinearInput::new(narrow.clone(), Products::F32);
    let (_, spans) =
        measured(|| feed_forward_residual(&mut sum, &given, &up, &down, Activation::Gelu, none));
    // What is given, twice the hidden values, both weights, and the sum, which is read and written.
    let bytes = 2 * (values + 2 * results + 2 * weight) + 2 * 4 * values;
    assert_eq!(of(&spans, "feed-forward", 2 * product).bytes, bytes as f64);

    let (_, spans) = measured(|| gate_residual(&mut sum, &narrow, None));
    let expected = (2 * 4 * values + 2 * values) as f64;
    let found = spans.iter().any(|span| span.name == "pointwise" && span.bytes == expected);
    assert!(found, "{expected} bytes: {spans:?}");
    gpu.check().expect("no failure");
}
