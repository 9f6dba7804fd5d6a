//! Attention by cuDNN's graph API, which has kernels for each generation of cards.
//!
//! Each shape has a plan, whose kernel the library compiles when the plan is made (a second or some); plans
//! are kept. What the library does not do, or does not do rightly, is left to our kernels, and said once.

mod descriptor;
mod plan;

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Sort, cudnnHandle_t,
};
use cudarc::driver::sys::CUstream;

use self::descriptor::{Descriptor, Refused, Value, check};
use self::plan::{ALIGN, ATTENTION_IDS, Plan, Target, attention, plan};
use super::Places;
use super::api::{Cudnn as Library, StartedDriver, cudnn_api};
use crate::gpu::{GpuError, Note, SoftmaxAttention, Vendor};

/// The oldest version that has the operation and was seen to make plans for every architecture.
pub(super) const LEAST_VERSION: usize = 91_301;
/// The same as it is written.
pub(super) const LEAST_VERSION_TEXT: &str = "9.13.1";
/// What a plan may use beside its tensors, in bytes. Those for attention take some hundred.
const WORKSPACE_BYTES: usize = 16 << 20;
/// Shapes whose plan is kept; a film has one for each length of its windows and causal blocks.
const PLANS: usize = 256;
/// Notes that are kept.
const NOTES: usize = 64;

/// What a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    heads: usize,
    size: usize,
    queries: usize,
    keys: usize,
}

/// The library, with a handle and memory of its own on a card.
pub struct Cudnn {
    library: &'static Library,
    handle: cudnnHandle_t,
    workspace: u64,
    /// `None` for what the library has no way for.
    plans: HashMap<Key, Option<Plan>>,
    trusted: bool,
    /// How often plans went or were not to be used any more.
    changes: u64,
    notes: Vec<Note>,
}

// SAFETY: a handle may be used by one thread after the other.
unsafe impl Send for Cudnn {}

impl Cudnn {
    /// Loads the library and reserves its memory; the card's context has to be current.
    pub fn open(
        driver: &StartedDriver,
        places: &Places,
        stream: CUstream,
    ) -> Result<Self, GpuError> {
        let library = usable(places)?;
        let (mut handle, mut workspace) = (std::ptr::null_mut(), 0);
        // SAFETY: library and driver write a handle and an address.
        unsafe {
            check(library, (library.api.cudnnCreate)(&raw mut handle)).map_err(unusable)?;
            let set = (library.api.cudnnSetStream)(handle, stream.cast());
            let status = (driver.api.cuMemAlloc_v2)(&raw mut workspace, WORKSPACE_BYTES);
            if set != 0 || status != 0 {
                (driver.api.cuMemFree_v2)(workspace);
                (library.api.cudnnDestroy)(handle);
                check(library, set).map_err(unusable)?;
                super::error::check(driver, "reserving memory for cuDNN", status)?;
            }
        }
        Ok(Self {
            library,
            handle,
            workspace,
            plans: HashMap::new(),
            trusted: true,
            changes: 0,
            notes: Vec::new(),
        })
    }

    /// Does an attention, or leaves it to our kernel.
    ///
    /// # Errors
    /// While the stream is `capturing` alone: what was not done before, whose first result has to be compared,
    /// and what the library refuses then, which says nothing of another time.
    pub fn attention(
        &mut self,
        what: &SoftmaxAttention,
        capturing: bool,
    ) -> Result<Vendor, GpuError> {
        let &SoftmaxAttention { q, k, v, out, queries, keys, heads, size, scale } = what;
        let aligned = [q, k, v, out].iter().all(|address| address.0.is_multiple_of(ALIGN));
        if !self.trusted || !aligned || [queries, keys, heads, size].contains(&0) {
            return Ok(Vendor::Refused);
        }
        let key = Key { heads, size, queries, keys };
        let is_new = !self.plans.contains_key(&key);
        let not_now = |reason: String| GpuError::Call { call: "attention in a CUDA graph", reason };
        if is_new && capturing {
            return Err(not_now(format!("cuDNN has no plan for {} any more", named(&key))));
        }
        if is_new {
            if self.plans.len() >= PLANS {
                self.plans.clear();
                self.changes += 1;
            }
            let target = Target::Handle(self.handle);
            let found = attention(self.library, &target, what)
                .and_then(|graph| plan(self.library, &target, graph, WORKSPACE_BYTES));
            let version = self.library.version();
            let text = match &found {
                Ok(_) => format!("{} by cuDNN {version}", named(&key)),
                Err(why) => format!("{} by our kernel; cuDNN {version}: {why}", named(&key)),
            };
            self.note(text, found.is_err());
            self.plans.insert(key, found.ok());
        }
        let Some(Some(plan)) = self.plans.get(&key) else { return Ok(Vendor::Refused) };
        let mut scale = scale;
        let pointers = [q.0, k.0, v.0, out.0]
            .map(|address| std::ptr::without_provenance_mut::<c_void>(address as usize));
        let [q, k, v, out] = pointers;
        let pointers = [q, k, v, out, (&raw mut scale).cast()];
        match start(self.library, self.handle, plan, &pointers, self.workspace) {
            Ok(()) if is_new => Ok(Vendor::First),
            Ok(()) => Ok(Vendor::Done),
            Err(why) if capturing => Err(not_now(why)),
            Err(why) => {
                self.note(
                    format!("{} by our kernel; cuDNN does not start: {why}", named(&key)),
                    true,
                );
                self.plans.insert(key, None);
                self.changes += 1;
                Ok(Vendor::Refused)
            }
        }
    }

    /// Leaves everything to our kernels from now on.
    pub fn distrust(&mut self, why: &str) {
        self.trusted = false;
        self.changes += 1;
        let version = self.library.version();
        self.note(format!("cuDNN {version} is not used any more: {why}"), true);
    }

    /// How often plans went or were not to be used any more: work that was captured before uses them still.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn note(&mut self, text: String, warning: bool) {
        if self.notes.len() < NOTES {
            self.notes.push(Note { text, warning });
        }
    }

    /// What there is to say of it so far.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Gives everything back; all work has to be done and the context to be current.
    pub fn close(mut self, driver: &StartedDriver) {
        self.plans.clear();
        // SAFETY: all of it is ours, and nothing uses it any more.
        unsafe {
            (self.library.api.cudnnDestroy)(self.handle);
            (driver.api.cuMemFree_v2)(self.workspace);
        }
    }
}

/// A shape for people.
fn named(&Key { heads, size, queries, keys }: &Key) -> String {
    format!("attention of {queries} queries and {keys} keys in {heads} heads of {size}")
}

/// Starts a plan for attention with its tensors; the last pointer is that of the scale, which is read before
/// this returns.
fn start(
    library: &'static Library,
    handle: cudnnHandle_t,
    plan: &Plan,
    pointers: &[*mut c_void; 5],
    workspace: u64,
) -> Result<(), Refused> {
    let workspace = std::ptr::without_provenance_mut::<c_void>(workspace as usize);
    let pack = Descriptor::new(library, Sort::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Value::Numbers(&ATTENTION_IDS))?
        .with(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Value::Pointers(pointers))?
        .with(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Value::Pointers(&[workspace]))?
        .finished()?;
    // SAFETY: the addresses are of tensors of the plan's sizes, as whoever asks for the attention has to see
    // to; the workspace is at least what the plan wants.
    unsafe { plan.way.execute(handle, &pack) }
}

fn unusable(reason: Refused) -> GpuError {
    GpuError::Library { library: "cuDNN", reason }
}

/// The library, unless it is too old.
fn usable(places: &Places) -> Result<&'static Library, GpuError> {
    let library = cudnn_api(places)?;
    if library.number < LEAST_VERSION {
        return Err(unusable(format!(
            "{} is of version {}, and {LEAST_VERSION_TEXT} is the oldest whose attention is used; \
             `pip install --upgrade nvidia-cudnn-cu12` has a newer one",
            library.path.display(),
            library.version()
        )));
    }
    Ok(library)
}

/// Plans for a card that need not be there: whether the library has a way for what we ask, and which.
/// The driver's library is needed all the same, since cuDNN is linked with it.
pub struct Deviceless {
    library: &'static Library,
    target: Target,
}

impl Deviceless {
    /// For the card that `properties` describe, in the JSON that cuDNN writes for
    /// `CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION`.
    ///
    /// # Errors
    /// When the library is not there or too old, or does not know such a card.
    pub fn open(places: &Places, properties: &str) -> Result<Self, GpuError> {
        let library = usable(places)?;
        let text = [properties.as_bytes(), &[0]].concat();
        let card = || {
            Descriptor::new(library, Sort::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?
                .with(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, Value::Text(&text))?
                .finished()
        };
        Ok(Self { library, target: Target::Described(card().map_err(unusable)?) })
    }

    /// The library's version, such as `9.13.1`.
    pub fn version(&self) -> String {
        self.library.version()
    }

    /// The number of the engine that would compute an attention of these sizes (no address is looked at), and
    /// the bytes that it would take beside the tensors.
    ///
    /// # Errors
    /// What cuDNN says against it.
    pub fn attention(&self, what: &SoftmaxAttention) -> Result<(i64, usize), String> {
        let graph = attention(self.library, &self.target, what)?;
        let plan = plan(self.library, &self.target, graph, WORKSPACE_BYTES)?;
        Ok((plan.engine, plan.workspace))
    }
}
