//! The GPU's side of the arithmetic: memory, arrays and one body for each operation, above a
//! [`Driver`] that is a card's or, in tests, a stand-in that runs the same kernels on the CPU.
//!
//! Operations do not fail; a device does. What goes wrong is kept in the [`Gpu`] (the first of it),
//! everything after that is skipped, and whoever reads results back gets it as an error. That is the
//! way of the cards themselves, whose work fails after the call has returned.

mod arena;
mod check;
mod course;
mod driver;
mod graphs;
mod host_rate;
mod incoming;
mod layer;
mod link;
pub mod ops;
#[cfg(test)]
mod tests;
mod weight_plan;
mod weights;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use self::arena::Arena;
use self::course::Course;
pub use self::driver::{
    Address, Arg, Captured, Driver, FrameConvolution, GpuError, Launch, MatMul, Note, Operands,
    POINTS, SoftmaxAttention, Stream, Vendor, VendorWork, Write,
};
pub use self::graphs::{Graphs, MOST_GRAPHS, Recurring, Tally};
pub(crate) use self::layer::{Layer, Ready, ReadyCodes};
pub use self::link::{Link, LinkKind, Transfer};
pub use self::weight_plan::{Use, WeightGroup, WeightPlan};
use self::weights::Weights;
use self::weights::{Handle, Present};

/// The kernels' sources by name: `(name, CUDA C)`. `common` comes before each of the others.
pub const SOURCES: &[(&str, &str)] = &[
    ("common", include_str!("../../cuda/common.cu")),
    ("convert", include_str!("../../cuda/convert.cu")),
    ("gemm", concat!(include_str!("../../cuda/tile.cu"), include_str!("../../cuda/gemm.cu"))),
    ("conv", concat!(include_str!("../../cuda/tile.cu"), include_str!("../../cuda/conv.cu"))),
    (
        "attention",
        concat!(
            include_str!("../../cuda/keys.cu"),
            include_str!("../../cuda/attention.cu"),
            include_str!("../../cuda/attention_all.cu")
        ),
    ),
    (
        "sparse",
        concat!(
            include_str!("../../cuda/keys.cu"),
            include_str!("../../cuda/select.cu"),
            include_str!("../../cuda/attention.cu"),
            include_str!("../../cuda/attention_kept.cu")
        ),
    ),
    ("dequantize", include_str!("../../cuda/dequantize.cu")),
    (
        "fp8",
        concat!(
            include_str!("../../cuda/tile.cu"),
            include_str!("../../cuda/rows.cu"),
            include_str!("../../cuda/fp8.cu")
        ),
    ),
    ("layout", include_str!("../../cuda/layout.cu")),
    ("norm", concat!(include_str!("../../cuda/rows.cu"), include_str!("../../cuda/norm.cu"))),
    ("pointwise", include_str!("../../cuda/pointwise.cu")),
    ("solver", include_str!("../../cuda/solver.cu")),
];

/// The type of an array's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
}

impl Element {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Values of this kind as `f32`.
    pub fn singles(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => {
                let values = bytes.as_chunks::<4>().0.iter();
                values.map(|&four| f32::from_le_bytes(four)).collect()
            }
            Self::Bf16 => {
                let values = bytes.as_chunks::<2>().0.iter();
                values.map(|&[a, b]| f32::from_le_bytes([0, 0, a, b])).collect()
            }
        }
    }
}

/// A device with its memory, in the way the operations use it.
pub struct Gpu {
    driver: Box<dyn Driver>,
    /// What activations between operations are kept in. Sums along a film (hidden state, latents)
    /// are f32 in any case.
    compute: Element,
    arena: Mutex<Arena>,
    weights: Mutex<Weights>,
    scarce: AtomicBool,
    course: Course,
    /// Notes of the driver's that were told.
    told: AtomicUsize,
    /// Whether work that recurs is captured, and how often it was.
    replays: AtomicBool,
    tally: Mutex<Tally>,
    /// See [`host_rate`](Self::host_rate).
    host_rate: OnceLock<f64>,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("driver", &self.driver).finish_non_exhaustive()
    }
}

fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: a slice of floats is so many bytes, each of them any.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

/// A panic elsewhere cannot leave these half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// A device whose operations keep their results as `compute`.
    pub fn new(driver: Box<dyn Driver>, compute: Element) -> Arc<Self> {
        Arc::new(Self {
            driver,
            compute,
            arena: Mutex::default(),
            weights: Mutex::default(),
            scarce: AtomicBool::new(false),
            course: Course::default(),
            told: AtomicUsize::new(0),
            replays: AtomicBool::new(true),
            tally: Mutex::default(),
            host_rate: OnceLock::new(),
        })
    }

    /// What to call it.
    pub fn name(&self) -> String {
        self.driver.name()
    }

    /// What activations are kept in.
    pub fn compute(&self) -> Element {
        self.compute
    }

    /// The device itself.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// How the weights of the models that come next share the memory.
    pub fn plan_weights(&self, plan: WeightPlan) {
        let _turn = self.course.turn();
        lock(&self.weights).plan(&*self.driver, plan);
    }

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// What went wrong, in this or before.
    pub fn finish(&self) -> Result<(), GpuError> {
        self.attempt(|driver| driver.wait());
        self.check()
    }

    /// Says whether there is too little memory for what networks remember between their turns.
    pub fn set_scarce(&self, scarce: bool) {
        self.scarce.store(scarce, Ordering::Relaxed);
    }

    /// Whether what a network remembers between its turns is to be kept by the host.
    pub fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// Makes room for activations of so many bytes in all: what none is in is given back, and when that
    /// is not enough, the weights are too, which are brought again when they are used.
    ///
    /// # Errors
    /// When the card does not answer.
    pub fn make_room(&self, bytes: usize) -> Result<(), GpuError> {
        self.shrink();
        let _turn = self.course.turn();
        if self.driver.memory()?.0 < bytes {
            lock(&self.weights).release(&*self.driver);
        }
        Ok(())
    }

    /// Gives memory back that no activation is in.
    pub fn shrink(&self) {
        let _turn = self.course.turn();
        lock(&self.arena).shrink(&*self.driver);
    }

    /// Bytes of the card's memory that are held: for activations, and for weights.
    pub fn bytes(&self) -> (usize, usize) {
        (lock(&self.arena).bytes().0, lock(&self.weights).bytes())
    }

    /// Bytes of weights that do not stay and were brought so far.
    pub fn brought_bytes(&self) -> u64 {
        lock(&self.weights).brought()
    }

    /// What is not as good as it could be with the vendor's libraries, each told once.
    pub fn warnings(&self) -> Vec<String> {
        let notes = self.driver.notes();
        let told = self.told.swap(notes.len(), Ordering::Relaxed);
        notes.into_iter().skip(told).filter(|note| note.warning).map(|note| note.text).collect()
    }

    /// What went wrong since the last look, if anything did; the device is usable again after it.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn check(&self) -> Result<(), GpuError> {
        self.course.turn().take_failure().map_or(Ok(()), Err)
    }

    /// Does something unless something has failed before.
    pub(crate) fn attempt<T>(
        &self,
        body: impl FnOnce(&dyn Driver) -> Result<T, GpuError>,
    ) -> Option<T> {
        let mut turn = self.course.turn();
        if turn.has_failed() {
            return None;
        }
        turn.is_asked();
        body(&*self.driver).map_err(|error| turn.fail(error)).ok()
    }

    /// As [`attempt`](Self::attempt), for what takes memory: where there is too little of it, all that
    /// nothing is in is given back, and `body` gets a second try. What was left by pictures of another size is
    /// in pieces of other lengths. While work is captured nothing is given back, and the capture ends in vain.
    pub(crate) fn attempt_with_room<T>(
        &self,
        body: impl Fn(&dyn Driver) -> Result<T, GpuError>,
    ) -> Option<T> {
        let mut turn = self.course.turn();
        if turn.has_failed() {
            return None;
        }
        let driver = &*self.driver;
        let done = match body(driver) {
            Err(error) if error.is_memory() && !turn.is_capturing() => {
                lock(&self.arena).shrink(driver);
                lock(&self.weights).shrink(driver);
                body(driver)
            }
            other => other,
        };
        done.map_err(|error| turn.fail(error)).ok()
    }

    /// As [`attempt_with_room`](Self::attempt_with_room), for what is computed: of work that is captured a new part begins
    /// with the next weight that is brought.
    pub(crate) fn work_with_room<T>(
        &self,
        body: impl Fn(&dyn Driver) -> Result<T, GpuError>,
    ) -> Option<T> {
        self.course.turn().is_asked();
        self.attempt_with_room(body)
    }

    /// Starts a kernel, whose code takes memory when it is first used.
    pub(crate) fn launch(&self, launch: Launch, args: &[Arg]) {
        if launch.grid.contains(&0) {
            return;
        }
        self.work_with_room(|driver| driver.launch(&launch, args));
    }
}

impl Drop for Gpu {
    /// Nothing is on the device any more, for whatever is has hold of it. Its memory would stay: vendors'
    /// libraries keep the card's context as long as the process lives.
    fn drop(&mut self) {
        self.shrink();
        lock(&self.weights).shrink(&*self.driver);
    }
}

/// Values in a device's memory, in one run; given back to the arena when dropped.
#[derive(Debug)]
pub struct Array {
    gpu: Arc<Gpu>,
    element: Element,
    len: usize,
    /// Address 0 when there was no memory; nothing is started then.
    address: Address,
    /// Whether it lies among the weights, as what a network keeps does: activations come and go in
    /// memory of their own.
    kept: bool,
}

impl Array {
    /// An array whose values are not set.
    pub fn unset(gpu: &Arc<Gpu>, element: Element, len: usize) -> Self {
        let bytes = len * element.bytes();
        let address = gpu.attempt_with_room(|driver| lock(&gpu.arena).take(driver, bytes));
        let address = address.unwrap_or(Address(0));
        Self { gpu: gpu.clone(), element, len, address, kept: false }
    }

    /// A copy of host values for as long as a network is there.
    pub(crate) fn kept(gpu: &Arc<Gpu>, values: &[f32]) -> Self {
        let mut array = Self::unset_kept(gpu, Element::F32, values.len());
        if array.write(bytes_of(values)).is_none() {
            // Nobody may take it for what it should hold.
            lock(&gpu.weights).give(array.address);
            array.address = Address(0);
        }
        array
    }

    /// An array whose values are not set, where [`kept`](Self::kept) ones lie.
    fn unset_kept(gpu: &Arc<Gpu>, element: Element, len: usize) -> Self {
        let bytes = len * element.bytes();
        let address = gpu.attempt_with_room(|driver| lock(&gpu.weights).take(driver, bytes));
        let address = address.unwrap_or(Address(0));
        Self { gpu: gpu.clone(), element, len, address, kept: true }
    }

    /// Memory for activations that a network keeps.
    pub(crate) fn room(gpu: &Arc<Gpu>, len: usize) -> Self {
        Self::unset_kept(gpu, gpu.compute, len)
    }

    /// The same values where activations that come and go leave them out of their way: a small array goes to
    /// where [`kept`](Self::kept) ones lie, and a large one stays, since it has a slab to itself.
    pub(crate) fn into_kept(self) -> Self {
        if Arena::is_apart(self.bytes()) {
            return self;
        }
        let mut copy = Self::unset_kept(&self.gpu, self.element, self.len);
        copy.copy_from(0, &self, 0..self.len);
        copy
    }

    /// An array of zeros.
    pub fn zeros(gpu: &Arc<Gpu>, element: Element, len: usize) -> Self {
        let array = Self::unset(gpu, element, len);
        gpu.attempt(|driver| driver.zero(array.address, array.bytes()));
        array
    }

    /// A copy of host values, as they are.
    pub fn from_host(gpu: &Arc<Gpu>, values: &[f32]) -> Self {
        Self::from_bytes(gpu, Element::F32, bytes_of(values))
    }

    /// A copy of values as an array holds them.
    pub fn from_bytes(gpu: &Arc<Gpu>, element: Element, bytes: &[u8]) -> Self {
        let array = Self::unset(gpu, element, bytes.len() / element.bytes());
        array.write(bytes);
        array
    }

    /// `None` after a failure.
    fn write(&self, bytes: &[u8]) -> Option<()> {
        self.gpu.attempt(|driver| driver.upload(Stream::Compute, self.address, bytes))
    }

    /// Copies `range` of `from` to the place of value `at`; both have the same element.
    pub fn copy_from(&mut self, at: usize, from: &Array, range: Range<usize>) {
        assert!(
            self.element == from.element && range.end <= from.len && at + range.len() <= self.len,
            "Array::copy_from: {range:?} of {} to {at} of {}",
            from.len,
            self.len
        );
        let size = self.element.bytes();
        let (to, from) = (self.address.plus(at * size), from.address.plus(range.start * size));
        if !range.is_empty() {
            self.gpu.attempt(|driver| driver.copy(to, from, range.len() * size));
        }
    }

    /// The values on the host, once all work before is done.
    ///
    /// # Errors
    /// What went wrong, in this or before.
    pub fn to_host(&self) -> Result<Vec<f32>, GpuError> {
        Ok(self.element.singles(&self.to_bytes()?))
    }

    /// The values as they are here, once all work before is done.
    ///
    /// # Errors
    /// As [`to_host`](Self::to_host).
    pub fn to_bytes(&self) -> Result<Vec<u8>, GpuError> {
        let mut bytes = vec![0u8; self.bytes()];
        self.gpu.attempt(|driver| driver.download(self.address, &mut bytes));
        self.gpu.check()?;
        Ok(bytes)
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The type of its values.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.len * self.element.bytes()
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        let mut copy = Self::unset(&self.gpu, self.element, self.len);
        copy.copy_from(0, self, 0..self.len);
        copy
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        match self.address {
            Address(0) => {}
            address if self.kept => lock(&self.gpu.weights).give(address),
            address => lock(&self.gpu.arena).give(address),
        }
    }
}
