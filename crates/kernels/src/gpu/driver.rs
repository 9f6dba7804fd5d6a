//! What a GPU has to offer, so that everything above it runs on a card and, in tests, without one.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::ops::Windows;
use super::{Gpu, Link, LinkKind};

/// An address in a device's memory; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub u64);

impl Address {
    /// So many bytes on.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// One argument of a kernel, in the order and of the types of its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// A pointer.
    Pointer(Address),
    /// An `int`.
    Int(i32),
    /// A `long long`.
    Long(i64),
    /// A `float`.
    Float(f32),
}

/// How a kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// The source file it is in, without its ending: a key of [`SOURCES`](super::SOURCES).
    pub module: &'static str,
    /// Its name there (`extern "C"`).
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block, along x alone.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// How many streams a driver has: work of one stream is done in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Where the operations run.
    Compute,
    /// Where weights are brought ahead of their use.
    Copy,
}

/// Points that can be marked in streams.
pub const POINTS: usize = 16;

/// What a matrix product multiplies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operands {
    /// Values of this type.
    Plain(super::Element),
    /// 8-bit floats (`float8_e4m3fn`).
    E4m3 {
        /// What rows of `x` and rows of `weight` are multiplied by, `[rows]` and `[outputs]` of f32; nothing
        /// where the product is one of the codes alone.
        factors: Option<[Address; 2]>,
    },
}

/// A matrix product that a vendor's library may do faster than our kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatMul {
    /// `[rows, inputs]`, row-major.
    pub x: Address,
    /// `[outputs, inputs]`, row-major.
    pub weight: Address,
    /// `[rows, outputs]`, row-major.
    pub out: Address,
    /// `[outputs]` of f32, or none.
    pub bias: Option<Address>,
    /// Rows of `x`.
    pub rows: usize,
    /// Columns of `x`.
    pub inputs: usize,
    /// Columns of `out`.
    pub outputs: usize,
    /// What `x` and `weight` are.
    pub operands: Operands,
    /// Of `out`.
    pub out_element: super::Element,
    /// Whether GELU (tanh) follows the bias.
    pub gelu: bool,
    /// `out += x W^T` instead of `out = x W^T`.
    pub add: bool,
}

/// Softmax attention in which every query sees every key and nothing is added to the scores, that a
/// vendor's library may do faster than our kernel. All values are bf16.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxAttention {
    /// `[queries, heads * size]`.
    pub q: Address,
    /// `[keys, heads * size]`.
    pub k: Address,
    /// `[keys, heads * size]`.
    pub v: Address,
    /// `[queries, heads * size]`.
    pub out: Address,
    /// Rows of `q` and `out`.
    pub queries: usize,
    /// Rows of `k` and `v`.
    pub keys: usize,
    /// Heads, side by side in each row.
    pub heads: usize,
    /// Values of a head.
    pub size: usize,
    /// Factor on the scores.
    pub scale: f32,
}

/// One frame of a convolution, channels last, that a vendor's library may do faster than our kernel. All values are
/// bf16; what is summed is rounded once, at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameConvolution {
    /// `[kt, height, width, inputs]`: the frames under the window.
    pub x: Address,
    /// `[outputs, kt, kh, kw, inputs]`.
    pub weight: Address,
    /// `[outputs]`, or none.
    pub bias: Option<Address>,
    /// What is added, in the result's shape, or nothing. It has to lie apart from `out`.
    pub added: Option<Address>,
    /// One frame as of [`Windows::result`], `[.., outputs]`.
    pub out: Address,
    /// Lines of a frame.
    pub height: usize,
    /// Pixels of a line.
    pub width: usize,
    /// Channels of `x`.
    pub inputs: usize,
    /// Channels of `out`.
    pub outputs: usize,
    /// The windows; their steps in time say nothing of one frame.
    pub windows: Windows,
}

impl FrameConvolution {
    /// One of a frame of `height` and `width` from `inputs` to `outputs` channels, with a bias and something added or
    /// not: its shape alone, all addresses 0.
    pub fn without_addresses(
        windows: Windows,
        [height, width]: [usize; 2],
        [inputs, outputs]: [usize; 2],
        [with_bias, with_added]: [bool; 2],
    ) -> Self {
        let none = Address(0);
        Self {
            x: none,
            weight: none,
            bias: with_bias.then_some(none),
            added: with_added.then_some(none),
            out: none,
            height,
            width,
            inputs,
            outputs,
            windows,
        }
    }

    /// The same without addresses: equal for all that a library does in the same way.
    pub fn shape(&self) -> Self {
        Self::without_addresses(
            self.windows,
            [self.height, self.width],
            [self.inputs, self.outputs],
            [self.bias.is_some(), self.added.is_some()],
        )
    }

    /// Height and width of the result.
    pub fn result(&self) -> [usize; 2] {
        let [_, height, width] = self.windows.result([1, self.height, self.width, self.inputs]);
        [height, width]
    }

    /// Operations, additions counted as such.
    pub fn flops(&self) -> f64 {
        let window = self.windows.kernel.iter().product::<usize>() * self.inputs;
        let outputs = self.result().iter().product::<usize>() * self.outputs;
        2.0 * window as f64 * outputs as f64
    }
}

/// Work that is compared with our kernel's when a vendor's library has done it for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VendorWork {
    /// [`SoftmaxAttention`].
    Attention,
    /// [`FrameConvolution`].
    Convolution,
}

/// Whether a vendor's library has done what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// There is none, or it has no way for this: our kernel is to be used.
    Refused,
    /// In a way that was not used before and is to be compared with our kernel.
    First,
    /// In a way that was used before.
    Done,
}

/// Work that was written down instead of done, and can be done again: a number of its driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Captured(pub u64);

/// What there is to say of a device's libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// A sentence.
    pub text: String,
    /// Whether something is not as good as it could be.
    pub warning: bool,
}

/// What writes the part of some bytes that begins there.
pub type Write<'a> = dyn Fn(usize, &mut [u8]) + Sync + 'a;

/// A device: memory, copies, kernels. Calls return before the work is done, in the order of their
/// stream, but for [`alloc`](Self::alloc), [`free`](Self::free), [`download`](Self::download) and
/// [`wait`](Self::wait).
pub trait Driver: Any + fmt::Debug + Send + Sync {
    /// What to call it.
    fn name(&self) -> String;

    /// Reserves device memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// [`GpuError::Memory`] when there is not enough.
    fn alloc(&self, bytes: usize) -> Result<Address, GpuError>;

    /// Gives memory back once all work is done that was asked for before.
    fn free(&self, address: Address);

    /// Free and total bytes of the card.
    ///
    /// # Errors
    /// When the card does not answer.
    fn memory(&self) -> Result<(usize, usize), GpuError>;

    /// Copies to the device; `bytes` may be changed after the call has returned.
    ///
    /// # Errors
    /// When the card refuses.
    fn upload(&self, stream: Stream, to: Address, bytes: &[u8]) -> Result<(), GpuError>;

    /// Copies so many bytes to the device that are made on the way: `write` is given where in them a part begins,
    /// a multiple of 64, and the part. Parts may be asked for side by side.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    fn upload_made(
        &self,
        stream: Stream,
        to: Address,
        bytes: usize,
        write: &Write<'_>,
    ) -> Result<(), GpuError> {
        let mut all = vec![0; bytes];
        write(0, &mut all);
        self.upload(stream, to, &all)
    }

    /// Waits for the compute stream and copies from the device.
    ///
    /// # Errors
    /// When the card refuses, or work before has failed.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), GpuError>;

    /// Copies within the device, on the compute stream.
    ///
    /// # Errors
    /// When the card refuses.
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), GpuError>;

    /// Sets bytes to zero, on the compute stream.
    ///
    /// # Errors
    /// When the card refuses.
    fn zero(&self, to: Address, bytes: usize) -> Result<(), GpuError>;

    /// Starts a kernel on the compute stream, compiling its module at first use.
    ///
    /// # Errors
    /// When it cannot be compiled or started.
    fn launch(&self, launch: &Launch, args: &[Arg]) -> Result<(), GpuError>;

    /// Does a matrix product by the vendor's library, on the compute stream. `false` when there is
    /// none, or it has none of this kind: our own kernel is used then.
    ///
    /// # Errors
    /// When the library fails.
    fn matmul(&self, what: &MatMul) -> Result<bool, GpuError>;

    /// Whether the vendor's library may have products of 8-bit floats with the factors of rows and columns; what has to
    /// be made for one is in vain where it has none.
    fn takes_factors(&self) -> bool {
        true
    }

    /// Operations of bf16 that one kernel may be given. Only where something else has to wait for its end: a screen
    /// at the card, whose driver ends a kernel that takes seconds.
    fn most_flops(&self) -> f64 {
        f64::INFINITY
    }

    /// Does an attention by the vendor's library, on the compute stream; see [`Vendor`].
    ///
    /// # Errors
    /// When the card refuses. A library that fails is no error: our kernel is used then.
    fn attention(&self, _: &SoftmaxAttention) -> Result<Vendor, GpuError> {
        Ok(Vendor::Refused)
    }

    /// Whether the vendor's library has a way for such a convolution that is likely to be the faster one, so that
    /// memory is worth being taken for it; no address is looked at.
    ///
    /// # Errors
    /// When the card refuses.
    fn has_convolution(&self, _: &FrameConvolution) -> Result<bool, GpuError> {
        Ok(false)
    }

    /// Does a convolution of a frame by the vendor's library, on the compute stream; see [`Vendor`].
    ///
    /// # Errors
    /// As of [`attention`](Self::attention).
    fn convolution(&self, _: &FrameConvolution) -> Result<Vendor, GpuError> {
        Ok(Vendor::Refused)
    }

    /// Leaves all work of a kind to our kernels from now on, for this reason.
    fn distrust(&self, _: VendorWork, _: &str) {}

    /// What there is to say of the vendors' libraries so far, in order.
    fn notes(&self) -> Vec<Note> {
        Vec::new()
    }

    /// What `stream` is asked for from now on waits for what the other one was asked for so far.
    ///
    /// # Errors
    /// When the card refuses.
    fn follow(&self, stream: Stream) -> Result<(), GpuError>;

    /// Marks what `stream` was asked for so far as `point`, below [`POINTS`]; what was so before is forgotten.
    ///
    /// # Errors
    /// When the card refuses.
    fn mark(&self, _stream: Stream, _point: usize) -> Result<(), GpuError> {
        Ok(())
    }

    /// What `stream` is asked for from now on waits for `point` of the other one, if it was ever marked. A device that
    /// knows no points waits for all that was asked for so far.
    ///
    /// # Errors
    /// When the card refuses.
    fn reach(&self, stream: Stream, _point: usize) -> Result<(), GpuError> {
        self.follow(stream)
    }

    /// Connects the devices of a group, of which this is the first: `group` has each once, in the order of their
    /// ranks.
    ///
    /// # Errors
    /// Why it cannot be done in this way: [`GpuError::Absent`] and [`GpuError::Library`] when something is not there, which is no fault of
    /// the devices.
    fn link(&self, kind: LinkKind, _group: &[Arc<Gpu>]) -> Result<Box<dyn Link>, GpuError> {
        let reason = format!("{} has no such way", self.name());
        Err(GpuError::Library { library: kind.library(), reason })
    }

    /// Waits until everything that was asked for is done.
    ///
    /// # Errors
    /// What went wrong in it.
    fn wait(&self) -> Result<(), GpuError>;

    /// Begins to write down what the compute stream is asked for, instead of doing it.
    ///
    /// Until [`end_capture`](Self::end_capture) whatever would wait for the work, or take values of this
    /// moment along, is refused: uploads, downloads, waits, and streams that follow each other. Memory may
    /// be reserved, and none be given back.
    ///
    /// # Errors
    /// When the card refuses, or there is no way for it.
    fn begin_capture(&self) -> Result<(), GpuError> {
        let reason = "this device has no way for it".into();
        Err(GpuError::Library { library: "captured work", reason })
    }

    /// What was written down since [`begin_capture`](Self::begin_capture). Nothing of it is done yet.
    ///
    /// # Errors
    /// When something cannot be done again; what was written down is forgotten then.
    fn end_capture(&self) -> Result<Captured, GpuError> {
        Err(GpuError::Call { call: "ending a capture", reason: "none was begun".into() })
    }

    /// Does what was written down, with the same arguments, on the compute stream.
    ///
    /// # Errors
    /// When the card refuses.
    fn replay(&self, _: Captured) -> Result<(), GpuError> {
        Err(GpuError::Call { call: "replaying a graph", reason: "there is none".into() })
    }

    /// Forgets what was written down.
    fn discard(&self, _: Captured) {}
}

/// What a GPU could not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// Not enough memory.
    #[error(
        "the GPU's memory is not enough: {asked} bytes more were wanted and {free} of {total} are free; \
         a smaller picture, fewer frames at once or weights of fewer bits need less"
    )]
    Memory {
        /// Bytes wanted.
        asked: usize,
        /// Bytes free.
        free: usize,
        /// Bytes the card has.
        total: usize,
    },
    /// Not enough memory for what the driver or a library reserves by itself, which does not say how much that is.
    #[error("the GPU's memory is not enough for {call}: {reason}")]
    NoMemoryFor {
        /// What was asked for.
        call: &'static str,
        /// What the driver said, and what to do.
        reason: String,
    },
    /// A library that is not there, or was switched off: nothing is wrong with the machine.
    #[error("{library} cannot be used: {reason}")]
    Absent {
        /// Its name.
        library: &'static str,
        /// Where it was looked for, and what to do.
        reason: String,
    },
    /// A library that is there and of no use, or too old.
    #[error("{library} cannot be used: {reason}")]
    Library {
        /// Its name.
        library: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// A kernel that does not compile: a bug of ours, or a card that is not known yet.
    #[error("the kernels of {module} do not compile for this GPU: {log}")]
    Compile {
        /// The source file.
        module: &'static str,
        /// What the compiler said.
        log: String,
    },
    /// A call that failed.
    #[error("the GPU failed at {call}: {reason}")]
    Call {
        /// What was asked for.
        call: &'static str,
        /// What the driver said.
        reason: String,
    },
}

impl GpuError {
    /// Whether the memory was not enough: with less in it the device does the same.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Memory { .. } | Self::NoMemoryFor { .. })
    }
}
