//! Operation graphs: what is to be computed, said of tensors by their numbers.

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Sort,
    cudnnConvolutionMode_t as ConvolutionMode, cudnnDataType_t as DataType,
    cudnnPointwiseMode_t as PointwiseMode,
};

use super::descriptor::{Descriptor, Refused, Value};
use super::plan::Target;
use crate::cuda::api::Cudnn as Library;
use crate::gpu::{FrameConvolution, SoftmaxAttention};

/// What the addresses of tensors are multiples of, in bytes.
pub const ALIGN: u64 = 16;

/// The tensors of [`attention`]: their places in a variant pack.
pub const ATTENTION_IDS: [i64; 5] = [1, 2, 3, 4, 5];
/// Those of [`convolution`]: frames, weight, bias, what is added, result.
pub const CONVOLUTION_IDS: [i64; 5] = [1, 2, 3, 4, 5];
/// What is between the operations of a convolution.
const BETWEEN_IDS: [i64; 2] = [6, 7];

/// Where a tensor's values are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    InMemory,
    /// In the variant pack.
    ByValue,
    /// Between two operations, and nowhere else.
    Within,
}

/// A tensor of these lengths, the distances between its values along each, and its number.
fn tensor(
    library: &'static Library,
    id: i64,
    dims: &[i64],
    strides: &[i64],
    of: DataType,
    held: Held,
) -> Result<Descriptor, Refused> {
    let tensor = Descriptor::new(library, Sort::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Value::DataType(of))?
        .with(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Value::Numbers(dims))?
        .with(Name::CUDNN_ATTR_TENSOR_STRIDES, Value::Numbers(strides))?
        .with(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Value::Numbers(&[id]))?
        .with(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Value::Numbers(&[ALIGN as i64]))?
        .with(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE, Value::Flag(held == Held::ByValue))?
        .with(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, Value::Flag(held == Held::Within))?;
    tensor.finished()
}

/// Operations, of which each may have what those before it give.
fn graph(
    library: &'static Library,
    target: &Target,
    operations: &[&Descriptor],
) -> Result<Descriptor, Refused> {
    let graph = Descriptor::new(library, Sort::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, Value::Descriptors(operations))?;
    let graph = match target {
        Target::Handle(handle) => {
            graph.with(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Value::Handle(*handle))?
        }
        Target::Described(_) => graph,
    };
    graph.finished()
}

fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// `softmax(q k^T * scale) v` of tensors in rows of `heads * size`, as one operation. The scale, f32 and given
/// by value, is the last of the tensors; those before it are q, k, v and the result.
pub fn attention(
    library: &'static Library,
    target: &Target,
    of: &SoftmaxAttention,
) -> Result<Descriptor, Refused> {
    let [heads, size, queries, keys] = [of.heads, of.size, of.queries, of.keys].map(number);
    let [q, k, v, out, scale] = ATTENTION_IDS;
    let rows = |id: i64, rows: i64| {
        let strides = [rows * heads * size, size, heads * size, 1];
        let dims = [1, heads, rows, size];
        tensor(library, id, &dims, &strides, DataType::CUDNN_DATA_BFLOAT16, Held::InMemory)
    };
    let (q, k, v) = (rows(q, queries)?, rows(k, keys)?, rows(v, keys)?);
    let out = rows(out, queries)?;
    let one = [1; 4];
    let scale = tensor(library, scale, &one, &one, DataType::CUDNN_DATA_FLOAT, Held::ByValue)?;
    let operation = Descriptor::new(library, Sort::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, Value::Descriptor(&q))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, Value::Descriptor(&k))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, Value::Descriptor(&v))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, Value::Descriptor(&out))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, Value::Descriptor(&scale))?
        .finished()?;
    graph(library, target, &[&operation])
}

/// Lengths `[batch, channels, time, height, width]`, without time where `flat`, of a tensor whose channels come
/// last, and the distances between its values.
fn channels_last(dims: [usize; 5], flat: bool) -> (Vec<i64>, Vec<i64>) {
    let [batch, channels, time, height, width] = dims.map(number);
    let (dims, strides) = (
        [batch, channels, time, height, width],
        [
            time * height * width * channels,
            1,
            height * width * channels,
            width * channels,
            channels,
        ],
    );
    let all = |values: [i64; 5]| {
        let axes = values.into_iter().enumerate();
        axes.filter(|&(axis, _)| !(flat && axis == 2)).map(|(_, value)| value).collect()
    };
    (all(dims), all(strides))
}

/// One frame of a convolution, and what is added to it: in this order, and with a bias of bf16, since the library
/// has kernels for that which need not be compiled first. Sums are f32 until all is added.
pub fn convolution(
    library: &'static Library,
    target: &Target,
    of: &FrameConvolution,
) -> Result<Descriptor, Refused> {
    let [x_id, weight_id, bias_id, added_id, out_id] = CONVOLUTION_IDS;
    let [kt, kh, kw] = of.windows.kernel;
    let [top, bottom, left, right] = of.windows.padding;
    let [_, stride_y, stride_x] = of.windows.stride;
    let flat = kt == 1;
    let channels_last_of = |id: i64, dims: [usize; 5], of: DataType, held: Held| {
        let (dims, strides) = channels_last(dims, flat);
        tensor(library, id, &dims, &strides, of, held)
    };
    let bf16 =
        |id: i64, dims| channels_last_of(id, dims, DataType::CUDNN_DATA_BFLOAT16, Held::InMemory);
    let [_, out_height, out_width] = of.windows.result([1, of.height, of.width, of.inputs]);
    let out_dims = [1, of.outputs, 1, out_height, out_width];
    let x = bf16(x_id, [1, of.inputs, kt, of.height, of.width])?;
    let weight = bf16(weight_id, [of.outputs, of.inputs, kt, kh, kw])?;
    let out = bf16(out_id, out_dims)?;

    // Each of these goes to what the operation before it gave, and the last one gives the result.
    let mut terms = Vec::new();
    if of.added.is_some() {
        terms.push(bf16(added_id, out_dims)?);
    }
    if of.bias.is_some() {
        terms.push(bf16(bias_id, [1, of.outputs, 1, 1, 1])?);
    }
    let mut given = Vec::new();
    for &id in &BETWEEN_IDS[..terms.len()] {
        given.push(channels_last_of(id, out_dims, DataType::CUDNN_DATA_FLOAT, Held::Within)?);
    }
    given.push(out);

    let spatial = |time: usize, height: usize, width: usize| -> Vec<i64> {
        let axes = [time, height, width].map(number);
        axes[usize::from(flat)..].to_vec()
    };
    let axes = number(3 - usize::from(flat));
    let how = Descriptor::new(library, Sort::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Value::DataType(DataType::CUDNN_DATA_FLOAT))?
        .with(
            Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
            Value::ConvolutionMode(ConvolutionMode::CUDNN_CROSS_CORRELATION as u32),
        )?
        .with(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, Value::Numbers(&[axes]))?
        .with(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, Value::Numbers(&spatial(1, 1, 1)))?
        .with(
            Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES,
            Value::Numbers(&spatial(1, stride_y, stride_x)),
        )?
        .with(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, Value::Numbers(&spatial(0, top, left)))?
        .with(
            Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS,
            Value::Numbers(&spatial(0, bottom, right)),
        )?
        .finished()?;
    let sort = Sort::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
    let mut operations = vec![
        Descriptor::new(library, sort)?
            .with(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, Value::Single(1.0))?
            .with(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, Value::Single(0.0))?
            .with(
                Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                Value::Descriptor(&how),
            )?
            .with(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, Value::Descriptor(&x))?
            .with(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, Value::Descriptor(&weight))?
            .with(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, Value::Descriptor(&given[0]))?
            .finished()?,
    ];
    for (term, both) in terms.iter().zip(given.windows(2)) {
        let plus = Descriptor::new(library, Sort::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
            .with(
                Name::CUDNN_ATTR_POINTWISE_MODE,
                Value::PointwiseMode(PointwiseMode::CUDNN_POINTWISE_ADD as u32),
            )?
            .with(
                Name::CUDNN_ATTR_POINTWISE_MATH_PREC,
                Value::DataType(DataType::CUDNN_DATA_FLOAT),
            )?
            .finished()?;
        let sum = Descriptor::new(library, Sort::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
            .with(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, Value::Descriptor(&plus))?
            .with(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, Value::Descriptor(&both[0]))?
            .with(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, Value::Descriptor(term))?
            .with(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, Value::Descriptor(&both[1]))?;
        operations.push(sum.finished()?);
    }
    graph(library, target, &operations.iter().collect::<Vec<_>>())
}
