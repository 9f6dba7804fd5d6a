//! A card as a [`Driver`].

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{
    CUcontext, CUctx_flags_enum as ContextFlag, CUdevice, CUdevice_attribute as Attribute, CUevent,
    CUevent_flags_enum as EventFlag, CUstream, CUstream_flags_enum as StreamFlag,
};

use super::api::{StartedDriver, driver_api};
use super::compiler::Compiler;
use super::cudnn::Cudnn;
use super::error::{OUT_OF_MEMORY, check, failed};
use super::graphs::Graphs;
use super::matmul::CublasLt;
use super::modules::{Modules, about};
use super::peers::Peers;
use super::probe::{Card, card, start};
use super::staging::{Ring, SLOTS};
use super::{Cache, Nccl, NcclMember, Places};
use crate::gpu::{
    Address, Arg, Captured, Driver, FrameConvolution, Gpu, GpuError, Launch, Link, LinkKind,
    MatMul, Note, POINTS, SoftmaxAttention, Stream, Vendor, VendorWork, Write,
};

/// The lowest compute capability that has what our kernels use (products of bf16).
const LEAST_CAPABILITY: (u32, u32) = (8, 0);
/// Bytes of a pinned buffer for what the operations bring along, and for weights.
const SLOT_BYTES: [usize; 2] = [8 << 20, 32 << 20];
/// A weight that is brought ahead waits on the card for the work before. If it did not fit the buffers, so would the
/// host, with work in its hands that the card could begin: the largest of the published models fits in bf16, with
/// another one before it.
const _: () = assert!(SLOTS * SLOT_BYTES[1] > (13_824 + 5_120) * 5_120 * 2);
/// `off` leaves attention and convolutions to our kernels.
const CUDNN_SWITCH: &str = "LONGREEL_CUDNN";
/// Seconds that a kernel may take where a screen hangs at the card: the picture stands still for so long, and the
/// driver ends one that takes some (two on Windows, WSL included).
const SCREEN_SECONDS: f64 = 0.5;
/// Operations of bf16 that a multiprocessor of the cards for games does in a cycle, by their data sheets, and how many of
/// them are counted on.
const CYCLE_FLOPS: f64 = 512.0 / 2.0;
/// Arguments of a kernel at most.
const ARGUMENTS: usize = 48;

/// A card with its context, its streams and its kernels.
pub struct Device {
    driver: &'static StartedDriver,
    places: Places,
    card: Card,
    /// CUDA's major version of the driver.
    cuda: u32,
    handle: CUdevice,
    context: CUcontext,
    /// By [`Stream`].
    streams: [CUstream; 2],
    /// What each stream was last seen at.
    marks: Mutex<[CUevent; 2]>,
    /// By number; null until it is marked.
    points: Mutex<[CUevent; POINTS]>,
    rings: [Mutex<Ring>; 2],
    modules: Modules,
    /// Matrix products by the vendor's library, unless there is none.
    cublaslt: Option<CublasLt>,
    /// Attention and convolutions by the vendor's library, unless there is none or it is not wanted.
    cudnn: Option<Mutex<Cudnn>>,
    /// Why one of them is not used.
    without: Vec<Note>,
    /// Of the compute stream.
    graphs: Graphs,
    /// See [`Driver::most_flops`].
    most_flops: f64,
}

// SAFETY: the driver takes calls from any thread that has made the context current, which each of ours
// does; what changes is behind locks.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("card", &self.card).finish_non_exhaustive()
    }
}

/// Nothing that is locked is left half-changed by a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Opens a card by its number.
    pub fn open(ordinal: u32, places: &Places, cache: Cache) -> Result<Self, GpuError> {
        let driver = driver_api(places)?;
        let (cuda, _) =
            start(driver).map_err(|status| failed(driver, "starting the driver", status))?;
        let card = card(driver, ordinal, None)?;
        if card.capability < LEAST_CAPABILITY {
            let (major, minor) = card.capability;
            return Err(GpuError::Call {
                call: "opening the card",
                reason: format!(
                    "{} has compute capability {major}.{minor}; 8.0 and more is needed (RTX 30, A100 and newer): \
                     choose another card by CUDA_VISIBLE_DEVICES, or use --device cpu",
                    card.name
                ),
            });
        }
        let compiler = Compiler::load(places, Some(cuda))?;
        let target = compiler.target(card.capability.0 * 10 + card.capability.1)?;
        let (api, mut handle, mut context) = (&driver.api, 0, std::ptr::null_mut());
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        // SAFETY: the driver writes handles.
        unsafe {
            check(driver, "finding the card", (api.cuDeviceGet)(&raw mut handle, number))?;
            // Who waits sleeps: by itself the driver keeps a core busy for each card that is waited for, seconds at a
            // time. A driver that refuses does so still.
            let sleep = ContextFlag::CU_CTX_SCHED_BLOCKING_SYNC as u32;
            (api.cuDevicePrimaryCtxSetFlags_v2)(handle, sleep);
            let status = (api.cuDevicePrimaryCtxRetain)(&raw mut context, handle);
            check(driver, "making a context on the card", status)?;
        }
        let mut device = Self {
            driver,
            places: places.clone(),
            card,
            cuda,
            handle,
            context,
            streams: [std::ptr::null_mut(); 2],
            marks: Mutex::new([std::ptr::null_mut(); 2]),
            points: Mutex::new([std::ptr::null_mut(); POINTS]),
            rings: SLOT_BYTES.map(|bytes| Mutex::new(Ring::new(std::ptr::null_mut(), bytes))),
            modules: Modules::new(compiler, target, cache),
            cublaslt: None,
            cudnn: None,
            without: Vec::new(),
            graphs: Graphs::default(),
            most_flops: f64::INFINITY,
        };
        device.most_flops = device.most_flops_by_screen();
        // From here on what is there is given back by `drop`.
        device.enter()?;
        for (n, bytes) in SLOT_BYTES.into_iter().enumerate() {
            let (mut stream, mut event) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: the driver writes handles.
            unsafe {
                let flag = StreamFlag::CU_STREAM_NON_BLOCKING as u32;
                let status = (api.cuStreamCreate)(&raw mut stream, flag);
                check(driver, "making a stream", status)?;
                device.streams[n] = stream;
                let flag = EventFlag::CU_EVENT_DISABLE_TIMING as u32;
                check(driver, "making an event", (api.cuEventCreate)(&raw mut event, flag))?;
            }
            lock(&device.marks)[n] = event;
            device.rings[n] = Mutex::new(Ring::new(stream, bytes));
        }
        device.open_libraries();
        Ok(device)
    }

    /// Opens the vendor's libraries. Now, so that whoever asks for the free memory afterwards knows what they leave, and
    /// a card without them is told of before a film is begun.
    fn open_libraries(&mut self) {
        match CublasLt::open(self.driver, &self.places, self.cuda, self.card.capability) {
            Ok(library) => self.cublaslt = Some(library),
            // Most of a film's time.
            Err(why) => self.without.push(Note {
                text: format!("matrix products by our kernels, which are slower: {why}"),
                warning: true,
            }),
        }
        let cudnn = match std::env::var_os(CUDNN_SWITCH) {
            Some(off) if off == "off" => {
                Err(GpuError::Absent { library: "cuDNN", reason: format!("{CUDNN_SWITCH}=off") })
            }
            _ => Cudnn::open(self.driver, &self.places, self.cuda, self.compute()),
        };
        match cudnn {
            Ok(library) => self.cudnn = Some(Mutex::new(library)),
            // One that is not there is doctor's affair.
            Err(why) => self.without.push(Note {
                text: format!("attention and convolutions by our kernels: {why}"),
                warning: !matches!(why, GpuError::Absent { .. }),
            }),
        }
    }

    /// What a kernel may have to do where the driver says that it ends those that take too long.
    fn most_flops_by_screen(&self) -> f64 {
        let (mut ends, which) = (0, Attribute::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT);
        // SAFETY: the driver writes one number. One that does not tell is taken for one that ends none.
        let status =
            unsafe { (self.driver.api.cuDeviceGetAttribute)(&raw mut ends, which, self.handle) };
        if status != 0 || ends == 0 {
            return f64::INFINITY;
        }
        // A clock that is not told is a slow one.
        let hertz = 1e3 * f64::from(self.card.clock_khz.max(1_000_000));
        SCREEN_SECONDS * CYCLE_FLOPS * f64::from(self.card.multiprocessors) * hertz
    }

    /// A device of a group, if it is a card.
    pub(super) fn of(gpu: &Gpu) -> Result<&Self, GpuError> {
        let device: &dyn Any = gpu.driver();
        device.downcast_ref().ok_or_else(|| GpuError::Call {
            call: "connecting devices",
            reason: format!("{} is no NVIDIA card", gpu.name()),
        })
    }

    /// The driver, and what it knows the card, its context and the stream of the operations by.
    pub(super) fn handles(&self) -> (&'static StartedDriver, CUdevice, CUcontext, CUstream) {
        (self.driver, self.handle, self.context, self.compute())
    }

    /// Makes the context that of this thread.
    pub(super) fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: the context is retained as long as the device lives.
        let status = unsafe { (self.driver.api.cuCtxSetCurrent)(self.context) };
        self.check("making the card's context current", status)
    }

    fn check(&self, call: &'static str, status: u32) -> Result<(), GpuError> {
        check(self.driver, call, status)
    }

    fn stream(&self, stream: Stream) -> CUstream {
        self.streams[stream as usize]
    }

    /// Waits for both streams, and not for the context: somebody else may capture work in it, and must not be
    /// waited for. The status of the first that failed.
    ///
    /// # Safety
    /// The context is current.
    unsafe fn settle(&self) -> u32 {
        let made = self.streams.into_iter().filter(|stream| !stream.is_null());
        // SAFETY: the streams are ours.
        let wait = |stream| unsafe { (self.driver.api.cuStreamSynchronize)(stream) };
        made.map(wait).fold(0, |first, status| if first == 0 { status } else { first })
    }

    /// The stream that the operations run on.
    fn compute(&self) -> CUstream {
        self.stream(Stream::Compute)
    }

    fn cudnn(&self) -> Option<MutexGuard<'_, Cudnn>> {
        self.cudnn.as_ref().map(lock)
    }

    /// See [`Cudnn::changes`].
    fn changes_of_plans(&self) -> u64 {
        self.cudnn().map_or(0, |library| library.changes())
    }
}

impl Driver for Device {
    fn name(&self) -> String {
        self.card.name.clone()
    }

    fn alloc(&self, bytes: usize) -> Result<Address, GpuError> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: the driver writes an address.
        match unsafe { (self.driver.api.cuMemAlloc_v2)(&raw mut address, bytes.max(1)) } {
            OUT_OF_MEMORY => {
                let (free, total) = self.memory()?;
                Err(GpuError::Memory { asked: bytes, free, total })
            }
            status => self.check("reserving the card's memory", status).map(|()| Address(address)),
        }
    }

    fn free(&self, address: Address) {
        if address == Address(0) || self.enter().is_err() {
            return;
        }
        // SAFETY: the address is one of `alloc`'s, and what was asked for before is done. What fails here has
        // failed before, and the next call says so.
        unsafe {
            self.settle();
            (self.driver.api.cuMemFree_v2)(address.0);
        }
    }

    fn memory(&self) -> Result<(usize, usize), GpuError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes two numbers.
        let status = unsafe { (self.driver.api.cuMemGetInfo_v2)(&raw mut free, &raw mut total) };
        self.check("asking how much memory is free", status).map(|()| (free, total))
    }

    fn upload(&self, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError> {
        let write = |at: usize, to: &mut [u8]| to.copy_from_slice(&bytes[at..at + to.len()]);
        self.upload_made(stream, to, bytes.len(), &write)
    }

    fn upload_made(
        &self,
        stream: Stream,
        to: Address,
        bytes: usize,
        write: &Write<'_>,
    ) -> Result<(), GpuError> {
        self.graphs.refuse("copying to the card")?;
        self.enter()?;
        lock(&self.rings[stream as usize]).upload(self.driver, to, bytes, write)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.graphs.refuse("copying from the card")?;
        self.enter()?;
        let api = &self.driver.api;
        // SAFETY: the slice outlives the copy, which is waited for whether it could be asked for or not.
        unsafe {
            let asked = match bytes.len() {
                0 => 0,
                length => (api.cuMemcpyDtoHAsync_v2)(
                    bytes.as_mut_ptr().cast(),
                    from.0,
                    length,
                    self.compute(),
                ),
            };
            let done = (api.cuStreamSynchronize)(self.compute());
            self.check("copying from the card", asked)?;
            self.check("computing", done)
        }
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: both are memory of the card, as the caller has to see to; the driver checks it.
        let status =
            unsafe { (self.driver.api.cuMemcpyDtoDAsync_v2)(to.0, from.0, bytes, self.compute()) };
        self.check("copying within the card", status)
    }

    fn zero(&self, to: Address, bytes: usize) -> Result<(), GpuError> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: as above.
        let status = unsafe { (self.driver.api.cuMemsetD8Async)(to.0, 0, bytes, self.compute()) };
        self.check("setting memory to zero", status)
    }

    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), GpuError> {
        self.enter()?;
        let function = self.modules.kernel(self.driver, launch)?;
        assert!(args.len() <= ARGUMENTS, "{}: {} arguments", launch.kernel, args.len());
        // Each value at the start of eight bytes, and a pointer to each.
        let mut values = [[0_u8; 8]; ARGUMENTS];
        let mut pointers = [std::ptr::null_mut::<c_void>(); ARGUMENTS];
        for ((arg, value), pointer) in args.iter().zip(&mut values).zip(&mut pointers) {
            match *arg {
                Arg::Pointer(address) => *value = address.0.to_ne_bytes(),
                Arg::Long(number) => *value = number.to_ne_bytes(),
                Arg::Int(number) => value[..4].copy_from_slice(&number.to_ne_bytes()),
                Arg::Float(number) => value[..4].copy_from_slice(&number.to_ne_bytes()),
            }
            *pointer = value.as_mut_ptr().cast();
        }
        let ([x, y, z], threads) = (launch.grid, launch.threads);
        // SAFETY: the arguments are those of the kernel, as the caller has to see to; the driver has read them
        // when the call returns.
        let status = unsafe {
            (self.driver.api.cuLaunchKernel)(
                function,
                x,
                y,
                z,
                threads,
                1,
                1,
                launch.shared_bytes,
                self.compute(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        about(self.driver, launch, status)
    }

    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError> {
        self.enter()?;
        match &self.cublaslt {
            Some(library) => library.matmul(self, self.compute(), what),
            None => Ok(false),
        }
    }

    fn takes_factors(&self) -> bool {
        self.cublaslt.as_ref().is_some_and(CublasLt::takes_factors)
    }

    fn most_flops(&self) -> f64 {
        self.most_flops
    }

    fn attention(&self, what: &SoftmaxAttention) -> Result<Vendor, GpuError> {
        self.enter()?;
        let capturing = self.graphs.is_capturing();
        self.cudnn().map_or(Ok(Vendor::Refused), |mut library| library.attention(what, capturing))
    }

    fn has_convolution(&self, what: &FrameConvolution) -> Result<bool, GpuError> {
        self.enter()?;
        let capturing = self.graphs.is_capturing();
        self.cudnn().map_or(Ok(false), |mut library| library.has_convolution(what, capturing))
    }

    fn convolution(&self, what: &FrameConvolution) -> Result<Vendor, GpuError> {
        self.enter()?;
        let capturing = self.graphs.is_capturing();
        self.cudnn().map_or(Ok(Vendor::Refused), |mut library| library.convolution(what, capturing))
    }

    fn distrust(&self, work: VendorWork, why: &str) {
        if let Some(mut library) = self.cudnn() {
            library.distrust(work, why);
        }
    }

    fn notes(&self) -> Vec<Note> {
        let of_cudnn = self.cudnn().map(|library| library.notes().to_vec());
        self.without.iter().cloned().chain(of_cudnn.into_iter().flatten()).collect()
    }

    fn follow(&self, stream: Stream) -> Result<(), GpuError> {
        self.graphs.refuse("making a stream wait")?;
        self.enter()?;
        let other = match stream {
            Stream::Compute => Stream::Copy,
            Stream::Copy => Stream::Compute,
        };
        // Held, so that nobody marks another place in between.
        let marks = lock(&self.marks);
        let mark = marks[other as usize];
        // SAFETY: streams and events are ours.
        unsafe {
            let status = (self.driver.api.cuEventRecord)(mark, self.stream(other));
            self.check("marking a place in a stream", status)?;
            let status = (self.driver.api.cuStreamWaitEvent)(self.stream(stream), mark, 0);
            self.check("making a stream wait", status)
        }
    }

    fn mark(&self, stream: Stream, point: usize) -> Result<(), GpuError> {
        self.graphs.refuse("marking a place in a stream")?;
        self.enter()?;
        let api = &self.driver.api;
        let mut points = lock(&self.points);
        let event = &mut points[point];
        // SAFETY: the driver writes a handle; streams and events are ours.
        unsafe {
            if event.is_null() {
                let flag = EventFlag::CU_EVENT_DISABLE_TIMING as u32;
                self.check("making an event", (api.cuEventCreate)(event, flag))?;
            }
            self.check(
                "marking a place in a stream",
                (api.cuEventRecord)(*event, self.stream(stream)),
            )
        }
    }

    fn reach(&self, stream: Stream, point: usize) -> Result<(), GpuError> {
        self.graphs.refuse("making a stream wait")?;
        self.enter()?;
        let event = lock(&self.points)[point];
        if event.is_null() {
            return Ok(());
        }
        // SAFETY: streams and events are ours; what is marked anew later changes nothing of this.
        let status = unsafe { (self.driver.api.cuStreamWaitEvent)(self.stream(stream), event, 0) };
        self.check("making a stream wait", status)
    }

    fn link(&self, kind: LinkKind, group: &[Arc<Gpu>]) -> Result<Box<dyn Link>, GpuError> {
        let cards = group.iter().map(|gpu| Self::of(gpu)).collect::<Result<Vec<_>, _>>()?;
        match kind {
            LinkKind::Peer => Ok(Box::new(Peers::open(group, &cards)?)),
            LinkKind::Nccl => {
                let member = |card: &&Self| NcclMember {
                    ordinal: card.card.ordinal,
                    stream: card.compute() as usize,
                };
                let members: Vec<_> = cards.iter().map(member).collect();
                // SAFETY: each stream is its card's, which the group keeps.
                Ok(Box::new(unsafe { Nccl::open(group, &members)? }))
            }
        }
    }

    fn wait(&self) -> Result<(), GpuError> {
        self.graphs.refuse("waiting for the card")?;
        self.enter()?;
        // SAFETY: the context is current.
        self.check("computing", unsafe { self.settle() })
    }

    fn begin_capture(&self) -> Result<(), GpuError> {
        self.enter()?;
        self.graphs.begin(self.driver, self.compute())
    }

    fn end_capture(&self) -> Result<Captured, GpuError> {
        self.enter()?;
        self.graphs.end(self.driver, self.compute(), self.changes_of_plans())
    }

    fn replay(&self, what: Captured) -> Result<(), GpuError> {
        self.enter()?;
        self.graphs.start(self.driver, self.compute(), what, self.changes_of_plans())
    }

    fn discard(&self, what: Captured) {
        if self.enter().is_ok() {
            self.graphs.discard(self.driver, self.compute(), what);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let api = &self.driver.api;
        // SAFETY: all of it is ours, made by the driver or null, and nothing uses it after the synchronisation.
        // Errors have been told of by what failed first.
        unsafe {
            if (api.cuCtxSetCurrent)(self.context) == 0 {
                self.settle();
                // They have kernels of what goes after them.
                self.graphs.close(self.driver);
                if let Some(library) = self.cublaslt.take() {
                    library.close(self.driver);
                }
                if let Some(library) = self.cudnn.take() {
                    let library = library.into_inner().unwrap_or_else(PoisonError::into_inner);
                    library.close(self.driver);
                }
                for ring in &self.rings {
                    lock(ring).close(self.driver);
                }
                self.modules.close(self.driver);
                let marks = *lock(&self.marks);
                let events = marks.into_iter().chain(*lock(&self.points));
                for event in events.filter(|event| !event.is_null()) {
                    (api.cuEventDestroy_v2)(event);
                }
                for stream in self.streams.iter().filter(|stream| !stream.is_null()) {
                    (api.cuStreamDestroy_v2)(*stream);
                }
            }
            (api.cuDevicePrimaryCtxRelease_v2)(self.handle);
        }
    }
}
