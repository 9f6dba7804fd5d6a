//! From an operation to the way that cuDNN thinks the fastest: operation graph, heuristics, execution
//! plan.

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Sort,
    cudnnBackendHeurMode_t as Mode, cudnnBackendNumericalNote_t as Note,
    cudnnDataType_t as DataType, cudnnHandle_t,
};

use super::descriptor::{Descriptor, Refused, Value};
use crate::cuda::api::Cudnn as Library;
use crate::gpu::SoftmaxAttention;

/// Ways that are tried one after the other.
const WAYS: usize = 8;
/// What the addresses of tensors are multiples of, in bytes.
pub const ALIGN: u64 = 16;

/// The card that a plan is for.
pub enum Target {
    /// That of a handle.
    Handle(cudnnHandle_t),
    /// One that is described and need not be there.
    Described(Descriptor),
}

// SAFETY: a handle is used under its device's lock.
unsafe impl Send for Target {}

/// A way to compute an operation.
pub struct Plan {
    pub way: Descriptor,
    /// What it was made from, which it may look at.
    _made_from: [Descriptor; 2],
    /// Which of the library's engines computes it.
    pub engine: i64,
    /// Bytes that it wants beside its tensors.
    pub workspace: usize,
}

/// The tensors of [`attention`]: their places in a variant pack.
pub const ATTENTION_IDS: [i64; 5] = [1, 2, 3, 4, 5];

/// `softmax(q k^T * scale) v` of tensors in rows of `heads * size`, as one operation. The scale, f32 and given
/// by value, is the last of the tensors; those before it are q, k, v and the result.
pub fn attention(
    library: &'static Library,
    target: &Target,
    of: &SoftmaxAttention,
) -> Result<Descriptor, Refused> {
    let [heads, size, queries, keys] =
        [of.heads, of.size, of.queries, of.keys].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    let [q, k, v, out, scale] = ATTENTION_IDS;
    let tensor = |id: i64, dims: [i64; 4], strides: [i64; 4], of: DataType, by_value: bool| {
        Descriptor::new(library, Sort::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .with(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Value::DataType(of))?
            .with(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Value::Numbers(&dims))?
            .with(Name::CUDNN_ATTR_TENSOR_STRIDES, Value::Numbers(&strides))?
            .with(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Value::Numbers(&[id]))?
            .with(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Value::Numbers(&[ALIGN as i64]))?
            .with(Name::CUDNN_ATTR_TENSOR_IS_BY_VALUE, Value::Flag(by_value))?
            .finished()
    };
    let rows = |id: i64, rows: i64| {
        let strides = [rows * heads * size, size, heads * size, 1];
        tensor(id, [1, heads, rows, size], strides, DataType::CUDNN_DATA_BFLOAT16, false)
    };
    let (q, k, v) = (rows(q, queries)?, rows(k, keys)?, rows(v, keys)?);
    let out = rows(out, queries)?;
    let scale = tensor(scale, [1; 4], [1; 4], DataType::CUDNN_DATA_FLOAT, true)?;
    let operation = Descriptor::new(library, Sort::CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, Value::Descriptor(&q))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, Value::Descriptor(&k))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, Value::Descriptor(&v))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, Value::Descriptor(&out))?
        .with(Name::CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, Value::Descriptor(&scale))?
        .finished()?;
    let graph = Descriptor::new(library, Sort::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, Value::Descriptor(&operation))?;
    let graph = match target {
        Target::Handle(handle) => {
            graph.with(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Value::Handle(*handle))?
        }
        Target::Described(_) => graph,
    };
    graph.finished()
}

/// The first way in the library's order that wants no more than `room` bytes and gives the same bits each
/// time.
pub fn plan(
    library: &'static Library,
    target: &Target,
    graph: Descriptor,
    room: usize,
) -> Result<Plan, Refused> {
    let asked = Descriptor::new(library, Sort::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, Value::Descriptor(&graph))?
        .with(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Value::Heuristic(Mode::CUDNN_HEUR_MODE_A as u32))?;
    let asked = match target {
        Target::Handle(_) => asked,
        Target::Described(card) => {
            asked.with(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, Value::Descriptor(card))?
        }
    };
    let asked = asked.finished()?;
    let ways = asked.parts(
        Name::CUDNN_ATTR_ENGINEHEUR_RESULTS,
        Sort::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR,
        WAYS,
    )?;
    let mut why = "it has no way for it".to_owned();
    for way in ways {
        match plan_of(library, target, &way, room) {
            Ok((plan, engine, workspace)) => {
                return Ok(Plan { way: plan, _made_from: [graph, way], engine, workspace });
            }
            Err(refused) => why = refused,
        }
    }
    Err(why)
}

/// The plan of one way, its engine and its workspace.
fn plan_of(
    library: &'static Library,
    target: &Target,
    way: &Descriptor,
    room: usize,
) -> Result<(Descriptor, i64, usize), Refused> {
    let engine =
        way.parts(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Sort::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
    let engine = engine.first().ok_or("a way without an engine")?;
    if engine.notes()?.contains(&(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as u32)) {
        return Err("its way does not give the same bits each time".into());
    }
    let index = engine.number(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?;
    let plan = Descriptor::new(library, Sort::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, Value::Descriptor(way))?;
    let plan = match target {
        Target::Handle(handle) => {
            plan.with(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Value::Handle(*handle))?
        }
        Target::Described(card) => {
            plan.with(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, Value::Descriptor(card))?
        }
    };
    let plan = plan.finished()?;
    let workspace = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    let workspace = usize::try_from(workspace).map_err(|_| "a workspace below 0".to_owned())?;
    if workspace > room {
        return Err(format!("its way wants {workspace} bytes beside, and {room} are there"));
    }
    Ok((plan, index, workspace))
}
