//! A shim whose work is watched, and done otherwise where a test wants that.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longreel_kernels::gpu::{
    Address, Arg, Captured, Driver, FrameConvolution, GpuError, Launch, MatMul, Note,
    SoftmaxAttention, Stream, Vendor, VendorWork,
};

use crate::Shim;

/// What a test sees of a device's work, and does in its place. What is not said otherwise is the shim's.
pub trait Watch: Send + Sync {
    /// Memory of so many bytes is about to be reserved.
    fn alloc(&self, _: usize) {}

    /// Bytes are about to be copied to the device.
    fn upload(&self, _: &[u8]) {}

    /// See [`Driver::upload`].
    ///
    /// # Errors
    /// Those of the shim.
    fn send(&self, shim: &Shim, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        shim.upload(stream, to, bytes)
    }

    /// See [`Driver::follow`].
    ///
    /// # Errors
    /// Those of the shim.
    fn follow(&self, shim: &Shim, stream: Stream) -> Result<(), GpuError> {
        shim.follow(stream)
    }

    /// So many bytes are about to be copied to the host.
    fn download(&self, _: usize) {}

    /// See [`Driver::launch`].
    ///
    /// # Errors
    /// Those of the shim.
    fn launch(&self, shim: &Shim, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        shim.launch(launch, args)
    }

    /// See [`Driver::matmul`].
    ///
    /// # Errors
    /// Those of the shim.
    fn matmul(&self, shim: &Shim, what: &MatMul) -> Result<bool, GpuError> {
        shim.matmul(what)
    }

    /// See [`Driver::most_flops`].
    fn most_flops(&self, shim: &Shim) -> f64 {
        shim.most_flops()
    }

    /// See [`Driver::attention`].
    ///
    /// # Errors
    /// Those of the shim.
    fn attention(&self, shim: &Shim, what: &SoftmaxAttention) -> Result<Vendor, GpuError> {
        shim.attention(what)
    }

    /// See [`Driver::has_convolution`].
    ///
    /// # Errors
    /// Those of the shim.
    fn has_convolution(&self, shim: &Shim, what: &FrameConvolution) -> Result<bool, GpuError> {
        shim.has_convolution(what)
    }

    /// See [`Driver::convolution`].
    ///
    /// # Errors
    /// Those of the shim.
    fn convolution(&self, shim: &Shim, what: &FrameConvolution) -> Result<Vendor, GpuError> {
        shim.convolution(what)
    }

    /// See [`Driver::distrust`].
    fn distrust(&self, shim: &Shim, work: VendorWork, why: &str) {
        shim.distrust(work, why);
    }

    /// See [`Driver::begin_capture`].
    ///
    /// # Errors
    /// Those of the shim.
    fn begin_capture(&self, shim: &Shim) -> Result<(), GpuError> {
        shim.begin_capture()
    }

    /// See [`Driver::replay`]; what is done of it is the shim's affair, and not told of.
    ///
    /// # Errors
    /// Those of the shim.
    fn replay(&self, shim: &Shim, what: Captured) -> Result<(), GpuError> {
        shim.replay(what)
    }

    /// See [`Driver::notes`].
    fn notes(&self, shim: &Shim) -> Vec<Note> {
        shim.notes()
    }
}

/// Bytes of each copy to the host and to the device.
#[derive(Debug, Default)]
pub struct Copies(Mutex<[Vec<usize>; 2]>);

impl Copies {
    /// Those since the last look: to the host, and to the device.
    pub fn take(&self) -> [Vec<usize>; 2] {
        std::mem::take(&mut *self.all())
    }

    fn all(&self) -> MutexGuard<'_, [Vec<usize>; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Copies {
    fn upload(&self, bytes: &[u8]) {
        self.all()[1].push(bytes.len());
    }

    fn download(&self, bytes: usize) {
        self.all()[0].push(bytes);
    }
}

/// A shim and who watches it.
pub struct Watched<W> {
    shim: Shim,
    watch: Arc<W>,
}

impl<W: Watch> Watched<W> {
    /// Of which `watch` is told.
    pub fn new(shim: Shim, watch: Arc<W>) -> Self {
        Self { shim, watch }
    }
}

impl<W> fmt::Debug for Watched<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("shim", &self.shim).finish_non_exhaustive()
    }
}

impl<W: Watch + 'static> Driver for Watched<W> {
    fn name(&self) -> String {
        self.shim.name()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        self.watch.alloc(bytes);
        self.shim.alloc(bytes)
    }

    fn free(&self, address: Address) {
        self.shim.free(address);
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        self.shim.memory()
    }

    fn upload(&self, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        self.watch.upload(bytes);
        self.watch.send(&self.shim, stream, to, bytes)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.watch.download(bytes.len());
        self.shim.download(from, bytes)
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        self.shim.copy(to, from, bytes)
    }

    fn zero(&self, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.shim.zero(to, bytes)
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        self.watch.launch(&self.shim, launch, args)
    }

    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError> {
        self.watch.matmul(&self.shim, what)
    }

    fn most_flops(&self) -> f64 {
        self.watch.most_flops(&self.shim)
    }

    fn attention(&self, what: &SoftmaxAttention) -> Result<Vendor, GpuError> {
        self.watch.attention(&self.shim, what)
    }

    fn has_convolution(&self, what: &FrameConvolution) -> Result<bool, GpuError> {
        self.watch.has_convolution(&self.shim, what)
    }

    fn convolution(&self, what: &FrameConvolution) -> Result<Vendor, GpuError> {
        self.watch.convolution(&self.shim, what)
    }

    fn distrust(&self, work: VendorWork, why: &str) {
        self.watch.distrust(&self.shim, work, why);
    }

    fn notes(&self) -> Vec<Note> {
        self.watch.notes(&self.shim)
    }

    fn follow(&self, stream: Stream) -> Result<(), GpuError> {
        self.watch.follow(&self.shim, stream)
    }

    fn wait(&self) -> Result<(), GpuError> {
        self.shim.wait()
    }

    fn begin_capture(&self) -> Result<(), GpuError> {
        self.watch.begin_capture(&self.shim)
    }

    fn end_capture(&self) -> Result<Captured, GpuError> {
        self.shim.end_capture()
    }

    fn replay(&self, what: Captured) -> Result<(), GpuError> {
        self.watch.replay(&self.shim, what)
    }

    fn discard(&self, what: Captured) {
        self.shim.discard(what);
    }
}
