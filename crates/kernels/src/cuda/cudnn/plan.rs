//! From an operation to the way that cuDNN thinks the fastest: operation graph, heuristics, execution
//! plan.

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Sort,
    cudnnBackendHeurMode_t as Mode, cudnnBackendNumericalNote_t as Note, cudnnHandle_t,
};

use super::descriptor::{Descriptor, Refused, Value};
use crate::cuda::api::Cudnn as Library;

/// Ways that are tried one after the other.
const WAYS: usize = 8;

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

/// The first way in the library's order that wants no more than `room` bytes, multiplies on the tensor cores and
/// gives the same bits each time. The library is not asked for its own fallbacks, which are slower than our
/// kernels.
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
    let notes = engine.notes()?;
    if notes.contains(&(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as u32)) {
        return Err("its way does not give the same bits each time".into());
    }
    if !notes.contains(&(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE as u32)) {
        return Err("its way does without the tensor cores".into());
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
