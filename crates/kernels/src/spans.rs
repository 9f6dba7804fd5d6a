//! How long operations take, when somebody measures. Otherwise it costs each operation one look at a
//! switch.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::Tensor;
use crate::gpu::Gpu;

/// One call of an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// The operation.
    pub name: &'static str,
    /// When it began, since the first measurement of this process.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// Floating-point operations; a multiply-add counts as two. 0 where there are few.
    pub flops: f64,
    /// Bytes of what it reads and writes, each once.
    pub bytes: f64,
}

static ON: AtomicBool = AtomicBool::new(false);
static SPANS: Mutex<Vec<Span>> = Mutex::new(Vec::new());

thread_local! {
    /// Operations that call others are measured as one.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Measures the operations that `body` calls on this thread, which do their work on all threads.
pub fn measured<R>(body: impl FnOnce() -> R) -> (R, Vec<Span>) {
    beginning();
    spans().clear();
    ON.store(true, Ordering::Relaxed);
    let result = body();
    ON.store(false, Ordering::Relaxed);
    (result, std::mem::take(&mut *spans()))
}

fn spans() -> MutexGuard<'static, Vec<Span>> {
    SPANS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn beginning() -> Instant {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    *BEGINNING.get_or_init(Instant::now)
}

/// Whether operations are measured at this moment.
pub(crate) fn are_measured() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Measures an operation until it is dropped. `cost` is its floating-point operations and the bytes that it reads and
/// writes, in the elements that they have where it runs.
pub(crate) fn begin(name: &'static str, cost: impl FnOnce() -> (f64, usize)) -> Option<Timer> {
    if !are_measured() || INSIDE.replace(true) {
        return None;
    }
    let (flops, bytes) = cost();
    Some(Timer { name, started: Instant::now(), flops, bytes: bytes as f64 })
}

/// Bytes of as many values as `x` has in what its device keeps activations in, which a result is kept in where nothing
/// else is said.
pub(crate) fn narrow_bytes(x: &Tensor) -> usize {
    x.len() * x.array().map_or(size_of::<f32>(), |array| array.gpu().compute().bytes())
}

/// Waits for a GPU when operations are measured, for its work is done after the call has returned.
pub(crate) fn settle(gpu: &Gpu) {
    if are_measured() {
        // What goes wrong is told when the results are read.
        gpu.attempt(|driver| driver.wait());
    }
}

/// See [`begin`].
pub(crate) struct Timer {
    name: &'static str,
    started: Instant,
    flops: f64,
    bytes: f64,
}

impl Drop for Timer {
    fn drop(&mut self) {
        INSIDE.set(false);
        let took = self.started.elapsed();
        let at = self.started.duration_since(beginning());
        let Self { name, flops, bytes, .. } = *self;
        spans().push(Span { name, at, took, flops, bytes });
    }
}
