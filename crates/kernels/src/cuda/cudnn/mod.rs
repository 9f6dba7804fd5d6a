//! Attention and convolutions by cuDNN's graph API, which has kernels for each generation of cards.
//!
//! Each shape has a plan, which is kept. A kernel for attention is compiled when its plan is made (a second or
//! some); those for convolutions are in the library. What the library does not do, or does not do rightly, is left
//! to our kernels, and said once.

mod descriptor;
mod deviceless;
mod graph;
mod key;
mod plan;

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendDescriptorType_t as Sort, cudnnHandle_t,
};
use cudarc::driver::sys::CUstream;

use self::descriptor::{Descriptor, Refused, Value, check};
pub use self::deviceless::Deviceless;
use self::graph::{ALIGN, ATTENTION_IDS, CONVOLUTION_IDS};
use self::key::Key;
use self::plan::{Plan, Target, plan};
use super::Places;
use super::api::{Cudnn as Library, StartedDriver, cudnn_api};
use super::libraries::{Kind, Loaded, is_within_reach};
use crate::gpu::{Address, FrameConvolution, GpuError, Note, SoftmaxAttention, Vendor, VendorWork};

/// The oldest version that has the operations and was seen to make plans for every architecture.
pub(super) const LEAST_VERSION: usize = 91_301;
/// The same as it is written.
pub(super) const LEAST_VERSION_TEXT: &str = "9.13.1";
/// What a plan may use beside its tensors, in bytes. Those for attention take some hundred, those for convolutions
/// none or up to so much.
const WORKSPACE_BYTES: usize = 16 << 20;
/// Shapes whose plan is kept; a film has one for each length of its windows and causal blocks, and one for each
/// kind of convolution at each size of the picture.
const PLANS: usize = 256;
/// Notes that are kept.
const NOTES: usize = 128;
/// Operations of a frame at least: starting less than this takes longer than our kernel needs.
const LEAST_CONVOLUTION_FLOPS: f64 = 2e9;
/// What the kernels for convolutions in bf16 want numbers of channels to be multiples of.
const CHANNELS: usize = 8;

/// A plan, and whether it was started before.
struct Known {
    plan: Plan,
    used: bool,
}

/// The library, with a handle and memory of its own on a card.
pub struct Cudnn {
    library: &'static Library,
    driver: &'static StartedDriver,
    stream: CUstream,
    handle: cudnnHandle_t,
    workspace: u64,
    /// `None` for what the library has no way for.
    plans: HashMap<Key, Option<Known>>,
    /// What is done by our kernels alone.
    distrusted: Vec<VendorWork>,
    /// How often plans went or were not to be used any more.
    changes: u64,
    notes: Vec<Note>,
}

// SAFETY: a handle may be used by one thread after the other.
unsafe impl Send for Cudnn {}

impl Cudnn {
    /// Loads the library and reserves its memory; the card's context has to be current.
    pub fn open(
        driver: &'static StartedDriver,
        places: &Places,
        cuda: u32,
        stream: CUstream,
    ) -> Result<Self, GpuError> {
        let library = usable(places, Some(cuda))?;
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
            driver,
            stream,
            handle,
            workspace,
            plans: HashMap::new(),
            distrusted: Vec::new(),
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
        let &SoftmaxAttention { q, k, v, out, queries, keys, heads, size, mut scale } = what;
        let places = [q, k, v, out];
        if !are_aligned(&places) || [queries, keys, heads, size].contains(&0) {
            return Ok(Vendor::Refused);
        }
        let key = Key::of_attention(what);
        if !self
            .has_plan(key, capturing, |library, target| graph::attention(library, target, what))?
        {
            return Ok(Vendor::Refused);
        }
        let [q, k, v, out] = places.map(pointer);
        self.start(key, &ATTENTION_IDS, &[q, k, v, out, (&raw mut scale).cast()], capturing)
    }

    /// Whether a convolution is better done here than by our kernel; no address is looked at.
    ///
    /// # Errors
    /// As of [`attention`](Self::attention).
    pub fn has_convolution(
        &mut self,
        what: &FrameConvolution,
        capturing: bool,
    ) -> Result<bool, GpuError> {
        Ok(what.flops() >= LEAST_CONVOLUTION_FLOPS && self.has_way(what, capturing)?)
    }

    /// Whether there is a plan for a convolution, of whatever size.
    fn has_way(&mut self, what: &FrameConvolution, capturing: bool) -> Result<bool, GpuError> {
        let &FrameConvolution { inputs, outputs, .. } = what;
        let in_pieces = |channels: usize| channels > 0 && channels.is_multiple_of(CHANNELS);
        if !in_pieces(inputs) || !in_pieces(outputs) {
            return Ok(false);
        }
        self.has_plan(Key::of_convolution(what), capturing, |library, target| {
            graph::convolution(library, target, what)
        })
    }

    /// Does a convolution of a frame, or leaves it to our kernel.
    ///
    /// # Errors
    /// As of [`attention`](Self::attention).
    pub fn convolution(
        &mut self,
        what: &FrameConvolution,
        capturing: bool,
    ) -> Result<Vendor, GpuError> {
        let places = [Some(what.x), Some(what.weight), what.bias, what.added, Some(what.out)];
        let there: Vec<Address> = places.into_iter().flatten().collect();
        if !are_aligned(&there) || !self.has_way(what, capturing)? {
            return Ok(Vendor::Refused);
        }
        let ids = CONVOLUTION_IDS.into_iter().zip(places);
        let ids: Vec<i64> = ids.filter(|(_, place)| place.is_some()).map(|(id, _)| id).collect();
        let pointers: Vec<_> = there.into_iter().map(pointer).collect();
        self.start(Key::of_convolution(what), &ids, &pointers, capturing)
    }

    /// Whether there is a plan, which is made where nobody has asked for it before.
    fn has_plan(
        &mut self,
        key: Key,
        capturing: bool,
        graph: impl FnOnce(&'static Library, &Target) -> Result<Descriptor, Refused>,
    ) -> Result<bool, GpuError> {
        if self.distrusted.contains(&key.work()) {
            return Ok(false);
        }
        if let Some(known) = self.plans.get(&key) {
            return Ok(known.is_some());
        }
        if capturing {
            return Err(key.in_a_graph(format!("cuDNN has no plan for {key} any more")));
        }
        if self.plans.len() >= PLANS {
            self.settle()?;
            self.plans.clear();
            self.changes += 1;
        }
        let target = Target::Handle(self.handle);
        let found = graph(self.library, &target)
            .and_then(|graph| plan(self.library, &target, graph, WORKSPACE_BYTES));
        let version = self.library.version();
        let text = match &found {
            Ok(_) => format!("{key} by cuDNN {version}"),
            Err(why) => format!("{key} by our kernel; cuDNN {version}: {why}"),
        };
        self.note(text, found.is_err());
        let there = found.is_ok();
        self.plans.insert(key, found.ok().map(|plan| Known { plan, used: false }));
        Ok(there)
    }

    /// Waits for the stream: a kernel that was compiled for a plan goes with it, and may be at work.
    fn settle(&self) -> Result<(), GpuError> {
        // SAFETY: the stream is the device's, whose context is current.
        let status = unsafe { (self.driver.api.cuStreamSynchronize)(self.stream) };
        super::error::check(self.driver, "computing", status)
    }

    /// Starts a plan with its tensors; what is given by value is read before this returns.
    fn start(
        &mut self,
        key: Key,
        ids: &[i64],
        pointers: &[*mut c_void],
        capturing: bool,
    ) -> Result<Vendor, GpuError> {
        let Some(Some(known)) = self.plans.get_mut(&key) else { return Ok(Vendor::Refused) };
        let was_used = known.used;
        if !was_used && capturing {
            return Err(key.in_a_graph(format!("cuDNN's plan for {key} was not compared yet")));
        }
        known.used = true;
        match run(self.library, self.handle, &known.plan, ids, pointers, self.workspace) {
            Ok(()) if was_used => Ok(Vendor::Done),
            Ok(()) => Ok(Vendor::First),
            Err(why) if capturing => Err(key.in_a_graph(why)),
            Err(why) => {
                self.note(format!("{key} by our kernel; cuDNN does not start: {why}"), true);
                self.settle()?;
                self.plans.insert(key, None);
                self.changes += 1;
                Ok(Vendor::Refused)
            }
        }
    }

    /// Leaves all work of a kind to our kernels from now on.
    pub fn distrust(&mut self, work: VendorWork, why: &str) {
        self.distrusted.push(work);
        self.changes += 1;
        let version = self.library.version();
        let what = match work {
            VendorWork::Attention => "attention",
            VendorWork::Convolution => "convolutions",
        };
        self.note(format!("cuDNN {version} is not used for {what} any more: {why}"), true);
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

fn are_aligned(places: &[Address]) -> bool {
    places.iter().all(|address| address.0.is_multiple_of(ALIGN))
}

fn pointer(address: Address) -> *mut c_void {
    std::ptr::without_provenance_mut(address.0 as usize)
}

/// Starts a plan with its tensors, which have these numbers.
fn run(
    library: &'static Library,
    handle: cudnnHandle_t,
    plan: &Plan,
    ids: &[i64],
    pointers: &[*mut c_void],
    workspace: u64,
) -> Result<(), Refused> {
    let workspace = pointer(Address(workspace));
    let pack = Descriptor::new(library, Sort::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
        .with(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Value::Numbers(ids))?
        .with(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Value::Pointers(pointers))?
        .with(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Value::Pointers(&[workspace]))?
        .finished()?;
    // SAFETY: the addresses are of tensors of the plan's sizes, as whoever asks for the work has to see to; the
    // workspace is at least what the plan wants.
    unsafe { plan.way.execute(handle, &pack) }
}

/// What a cuDNN for that CUDA does not find of the cuBLASLt and the NVRTC that it asks for by name, and what has it. 9.28
/// looks for cuBLASLt when it looks for ways to do anything and ends the process where it is not there, and 9.13 has no
/// way for an attention without NVRTC. They are loaded for it from where we look.
pub(super) fn missing(cuda: u32, places: &Places) -> Option<Refused> {
    let mut missing = Vec::new();
    for (kind, probed) in [(Kind::CublasLt, "cublasLtGetVersion"), (Kind::Nvrtc, "nvrtcVersion")] {
        let within_reach = || is_within_reach(kind, cuda, probed);
        let loaded = within_reach().or_else(|_| {
            let _ = Loaded::find(kind, places, Some(cuda), probed);
            within_reach()
        });
        if let Err(reason) = loaded {
            let name = kind.name();
            let package = kind.package().unwrap_or_default().trim_end_matches("-cu12");
            // From 13 on their names say nothing of it.
            let package = match cuda {
                ..13 => format!("{package}-cu{cuda}"),
                _ => format!("'{package}=={cuda}.*'"),
            };
            missing.push(format!(
                "it needs the {name} of CUDA {cuda}, which cannot be loaded ({reason}); `pip install {package}` has it"
            ));
        }
    }
    (!missing.is_empty()).then(|| missing.join("; "))
}

fn unusable(reason: Refused) -> GpuError {
    GpuError::Library { library: "cuDNN", reason }
}

/// The library, unless it is too old, too new for a driver of that CUDA, or without what it needs itself.
fn usable(places: &Places, driver: Option<u32>) -> Result<&'static Library, GpuError> {
    let library = cudnn_api(places, driver)?;
    if library.number < LEAST_VERSION {
        return Err(unusable(format!(
            "{} is of version {}, and {LEAST_VERSION_TEXT} is the oldest that is used; \
             `pip install --upgrade nvidia-cudnn-cu12` has a newer one",
            library.path.display(),
            library.version()
        )));
    }
    match missing(library.cuda, places) {
        Some(missing) => {
            let (path, version) = (library.path.display(), library.version());
            Err(unusable(format!("{path} is of version {version}; {missing}")))
        }
        None => Ok(library),
    }
}
