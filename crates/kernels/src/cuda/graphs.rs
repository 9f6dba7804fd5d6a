//! Captured work of a card: CUDA graphs, by the functions that the driver has for them since CUDA 11.4.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use cudarc::driver::sys::{CUgraphExec, CUstream, CUstreamCaptureMode_enum as Mode};

use super::api::{GraphApi, StartedDriver};
use super::device::lock;
use super::error::check;
use crate::gpu::{Captured, GpuError};

/// `off` has every kernel started by itself.
const SWITCH: &str = "LONGREEL_GRAPHS";

/// The graphs of one stream.
#[derive(Default)]
pub struct Graphs {
    is_capturing: AtomicBool,
    /// By the number that they are known by.
    made: Mutex<HashMap<u64, Made>>,
    next: AtomicU64,
}

/// A graph that can be started, as long as the vendor's plans are those of when it was made.
struct Made {
    graph: CUgraphExec,
    plans: u64,
}

// SAFETY: the driver takes a graph from any thread that has made the context current, one at a time, which
// the map's lock sees to.
unsafe impl Send for Made {}

impl Graphs {
    /// Whether what the stream is asked for is written down.
    pub fn is_capturing(&self) -> bool {
        self.is_capturing.load(Ordering::Relaxed)
    }

    /// An error while it is: what waits, or takes values of this moment along, cannot be done again.
    pub fn refuse(&self, call: &'static str) -> Result<(), GpuError> {
        if !self.is_capturing() {
            return Ok(());
        }
        Err(GpuError::Call { call, reason: "it cannot be part of a CUDA graph".into() })
    }

    /// Begins a capture. The context has to be current.
    pub fn begin(&self, driver: &StartedDriver, stream: CUstream) -> Result<(), GpuError> {
        if std::env::var_os(SWITCH).is_some_and(|off| off == "off") {
            let reason = format!("{SWITCH}=off");
            return Err(GpuError::Library { library: "CUDA graphs", reason });
        }
        let api = usable(driver)?;
        // Relaxed: memory may be reserved meanwhile, and other cards' threads do as they like.
        let mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is ours.
        let status = unsafe { (api.cuStreamBeginCapture_v2)(stream, mode) };
        check(driver, "beginning a CUDA graph", status)?;
        self.is_capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends it; `plans` counts the changes of the vendor's plans. The context has to be current.
    pub fn end(
        &self,
        driver: &StartedDriver,
        stream: CUstream,
        plans: u64,
    ) -> Result<Captured, GpuError> {
        self.is_capturing.store(false, Ordering::Relaxed);
        let api = usable(driver)?;
        let (mut captured, mut graph) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is ours; the driver writes handles, and a graph is not needed any more once it was
        // made ready to be started.
        unsafe {
            let status = (api.cuStreamEndCapture)(stream, &raw mut captured);
            check(driver, "ending a CUDA graph", status)?;
            let status = (api.cuGraphInstantiateWithFlags)(&raw mut graph, captured, 0);
            (api.cuGraphDestroy)(captured);
            check(driver, "making a CUDA graph ready", status)?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.made().insert(number, Made { graph, plans });
        Ok(Captured(number))
    }

    /// Starts a graph. The context has to be current.
    pub fn start(
        &self,
        driver: &StartedDriver,
        stream: CUstream,
        Captured(number): Captured,
        plans: u64,
    ) -> Result<(), GpuError> {
        let (api, made) = (usable(driver)?, self.made());
        let made = made.get(&number).expect("a graph that was not discarded");
        if made.plans != plans {
            // Its kernels may be gone with a plan.
            let reason = "cuDNN's plans are other ones since".into();
            return Err(GpuError::Call { call: "starting a CUDA graph", reason });
        }
        // SAFETY: graph and stream are ours.
        check(driver, "starting a CUDA graph", unsafe { (api.cuGraphLaunch)(made.graph, stream) })
    }

    /// Forgets a graph once it is done. The context has to be current.
    pub fn discard(&self, driver: &StartedDriver, stream: CUstream, Captured(number): Captured) {
        let (Ok(api), Some(Made { graph, .. })) = (usable(driver), self.made().remove(&number))
        else {
            return;
        };
        // SAFETY: graph and stream are ours, and what was started is waited for. What fails here has failed
        // before, and the next call says so.
        unsafe {
            (driver.api.cuStreamSynchronize)(stream);
            (api.cuGraphExecDestroy)(graph);
        }
    }

    /// Forgets all; the stream has to be done and the context to be current.
    pub fn close(&self, driver: &StartedDriver) {
        let Ok(api) = usable(driver) else { return };
        for (_, Made { graph, .. }) in self.made().drain() {
            // SAFETY: the graph is ours, and nothing uses it any more.
            unsafe { (api.cuGraphExecDestroy)(graph) };
        }
    }

    fn made(&self) -> MutexGuard<'_, HashMap<u64, Made>> {
        lock(&self.made)
    }
}

fn usable(driver: &StartedDriver) -> Result<&GraphApi, GpuError> {
    driver.graphs.as_ref().map_err(Clone::clone)
}
