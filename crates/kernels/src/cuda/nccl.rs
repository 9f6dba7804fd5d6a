//! Transfers between cards by NCCL: a communicator for each card, all of them in this process.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclResult_t};

use super::Places;
use super::api::{NcclLibrary, nccl_api};
use super::device::lock;
use crate::gpu::{Gpu, GpuError, Link, Transfer};

/// The oldest that is used: the oldest whose declarations ours can be compared with.
pub(super) const LEAST_VERSION: usize = 21_800;
/// As it is written.
pub(super) const LEAST_VERSION_TEXT: &str = "2.18.0";
/// `ncclInProgress`, which is no failure.
const IN_PROGRESS: u32 = ncclResult_t::ncclInProgress as u32;
/// How long whoever ends everything waits for a thread that is asking for transfers: a thread that waits for another
/// card in there is freed by the end alone.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// A card as NCCL knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NcclMember {
    /// Its number, as `CUDA_VISIBLE_DEVICES` orders them.
    pub ordinal: u32,
    /// The stream of its transfers, a `CUstream` of that card.
    pub stream: usize,
}

/// Communicators of one group of cards.
pub struct Nccl {
    library: &'static NcclLibrary,
    /// By rank.
    comms: Vec<ncclComm_t>,
    streams: Vec<cudaStream_t>,
    /// One group of calls at a time.
    calls: Mutex<()>,
    /// Nothing is asked for any more.
    aborted: AtomicBool,
    /// Nobody looks at communicators while they are ended. Looking is allowed during a group of calls, which
    /// may be what stands still.
    looking: Mutex<()>,
    /// The cards' streams are there as long as these are.
    _group: Vec<Arc<Gpu>>,
}

// SAFETY: the library takes calls from any thread, and ours are made one at a time but for those that may be
// made at any time.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl").field("cards", &self.comms.len()).finish_non_exhaustive()
    }
}

impl Nccl {
    /// Communicators for `members`, in the order of their ranks, which are the devices of `group`. The library is
    /// looked for where this machine has such.
    ///
    /// # Errors
    /// [`GpuError::Absent`] where it is not there, [`GpuError::Library`] where it is too old, [`GpuError::Call`] when it does not start with
    /// these cards.
    ///
    /// # Safety
    /// Each stream is one of its card's for as long as the device in `group` lives.
    pub unsafe fn open(group: &[Arc<Gpu>], members: &[NcclMember]) -> Result<Self, GpuError> {
        let library = nccl_api(&Places::of_this_machine())?;
        if library.number < LEAST_VERSION {
            let (path, version) = (library.path.display(), library.version());
            let reason = format!(
                "{path} is of version {version}, and {LEAST_VERSION_TEXT} is the oldest that is used: update it \
                 (`pip install nvidia-nccl-cu12`, or the image longreel:gpu)"
            );
            return Err(GpuError::Library { library: "NCCL", reason });
        }
        let number = |member: &NcclMember| c_int::try_from(member.ordinal).unwrap_or(c_int::MAX);
        let numbers: Vec<c_int> = members.iter().map(number).collect();
        let mut comms = vec![std::ptr::null_mut(); members.len()];
        let count = c_int::try_from(members.len()).unwrap_or(c_int::MAX);
        // SAFETY: the library reads `count` numbers and writes as many handles.
        let status =
            unsafe { (library.api.ncclCommInitAll)(comms.as_mut_ptr(), count, numbers.as_ptr()) };
        if status != 0 {
            return Err(failed(library, "starting NCCL", status));
        }
        Ok(Self {
            library,
            comms,
            streams: members.iter().map(|member| member.stream as cudaStream_t).collect(),
            calls: Mutex::new(()),
            aborted: AtomicBool::new(false),
            looking: Mutex::new(()),
            _group: group.to_vec(),
        })
    }

    /// The lock of the calls, unless that takes too long.
    fn calls_within(&self, patience: Duration) -> Option<MutexGuard<'_, ()>> {
        let begun = Instant::now();
        loop {
            match self.calls.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }

    /// All sends and receives of a group.
    fn ask(&self, transfers: &[Transfer]) -> Result<(), u32> {
        let api = &self.library.api;
        let ok = |status| if status == 0 { Ok(()) } else { Err(status) };
        let bytes = ncclDataType_t::ncclInt8;
        for &Transfer { from, to, source, target, bytes: count } in transfers {
            let (own, other) = (self.comms[from], self.comms[to]);
            let rank = |rank: usize| c_int::try_from(rank).expect("as many as there are cards");
            // SAFETY: communicators and streams are those of the group, and the memory is the cards', as the
            // caller has to see to.
            unsafe {
                let (source, target) = (source.0 as *const _, target.0 as *mut _);
                ok((api.ncclSend)(source, count, bytes, rank(to), own, self.streams[from]))?;
                ok((api.ncclRecv)(target, count, bytes, rank(from), other, self.streams[to]))?;
            }
        }
        Ok(())
    }
}

/// A failure of the library in its own words, with what to do.
fn failed(library: &NcclLibrary, call: &'static str, status: u32) -> GpuError {
    let said = |pointer: *const std::ffi::c_char| {
        // SAFETY: the library gives texts of its own that end with a zero, or none.
        let text = (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) });
        text.map(|text| text.to_string_lossy().trim().to_owned()).filter(|text| !text.is_empty())
    };
    // SAFETY: any status is taken, and no communicator means the last failure of all.
    let (name, last) =
        unsafe { ((library.name_of)(status), (library.last_words)(std::ptr::null_mut())) };
    let mut reason = said(name).unwrap_or_else(|| format!("ncclResult {status}"));
    if let Some(last) = said(last) {
        reason = format!("{reason} ({last})");
    }
    let cure = "NCCL_DEBUG=WARN has it say more; in a container it wants shared memory (--shm-size=1g); \
                LONGREEL_EXCHANGE=peer does without it";
    GpuError::Call { call, reason: format!("{reason}; {cure}") }
}

impl Link for Nccl {
    fn name(&self) -> String {
        format!("NCCL {}", self.library.version())
    }

    fn exchange(&self, transfers: &[Transfer]) -> Result<(), GpuError> {
        let _calls = lock(&self.calls);
        if self.aborted.load(Ordering::Acquire) {
            let reason = "it was ended after a failure; start longreel again".to_owned();
            return Err(GpuError::Call { call: "exchanging between cards by NCCL", reason });
        }
        let api = &self.library.api;
        // SAFETY: they take nothing. A group that was begun is ended in any case: whatever this thread asked for
        // next would be part of it.
        let (asked, ended) = unsafe {
            match (api.ncclGroupStart)() {
                0 => (self.ask(transfers), (api.ncclGroupEnd)()),
                status => (Err(status), 0),
            }
        };
        let status = asked.err().unwrap_or(ended);
        match status {
            0 => Ok(()),
            status => Err(failed(self.library, "exchanging between cards by NCCL", status)),
        }
    }

    fn check(&self) -> Result<(), GpuError> {
        let _looking = lock(&self.looking);
        if self.aborted.load(Ordering::Acquire) {
            return Ok(());
        }
        for &comm in &self.comms {
            let mut found = 0_u32;
            // SAFETY: the library writes one status, which has the size of a number.
            let status = unsafe {
                let found: *mut ncclResult_t = (&raw mut found).cast();
                (self.library.api.ncclCommGetAsyncError)(comm, found)
            };
            let status = if status == 0 { found } else { status };
            if status != 0 && status != IN_PROGRESS {
                return Err(failed(self.library, "exchanging between cards by NCCL", status));
            }
        }
        Ok(())
    }

    fn abort(&self) -> bool {
        let _looking = lock(&self.looking);
        if !self.aborted.swap(true, Ordering::AcqRel) {
            let _calls = self.calls_within(END_PATIENCE);
            for &comm in &self.comms {
                // SAFETY: the communicator is ours, and nothing is asked of it after this.
                unsafe { (self.library.api.ncclCommAbort)(comm) };
            }
        }
        true
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if *self.aborted.get_mut() {
            return;
        }
        for &comm in &self.comms {
            // SAFETY: the communicator is ours. What fails here has failed before.
            unsafe { (self.library.api.ncclCommDestroy)(comm) };
        }
    }
}
