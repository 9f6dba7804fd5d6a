//! What there is on this machine for NVIDIA cards, as data: nothing is computed and no memory of a card
//! is taken.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::path::{Path, PathBuf};

use cudarc::driver::sys::{
    CUdevice, CUdevice_P2PAttribute as PeerAttribute, CUdevice_attribute as Attribute,
};

use super::api::{StartedDriver, driver_api};
use super::libraries::{Absent, Kind, Loaded, Refusal};
use super::management::Management;
use super::peers::reaches;
use super::{Places, cudnn, error, nccl};
use crate::gpu::GpuError;

/// Bytes of a card's name.
const NAME_BYTES: usize = 256;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The driver, or what keeps it from being used.
    pub driver: Result<DriverVersion, NoDriver>,
    /// The cards, in the order of their numbers; none without a driver.
    pub cards: Vec<Card>,
    /// Pairs of them that do not reach each other's memory, by their numbers.
    pub apart: Vec<[u32; 2]>,
    /// NVRTC, cuBLASLt, cuDNN and NCCL; nothing without a driver, see [`libraries_in`].
    pub libraries: Vec<(Kind, Result<Found, Absent>)>,
}

/// A driver that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverVersion {
    /// The newest CUDA that it knows: major, minor.
    pub cuda: (u32, u32),
    /// Its own version, such as `570.86.10`, where it tells.
    pub version: Option<String>,
    /// Its file.
    pub path: PathBuf,
}

/// Why there is no driver to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoDriver {
    /// There is no sign of one.
    NotInstalled,
    /// The system has one, and its library is not to be reached from here (a container without it) or of
    /// no use.
    NotReached(Absent),
    /// It does not start.
    Refuses {
        /// `CUresult`.
        status: u32,
        /// Its name.
        name: String,
        /// What to do, for the usual ones.
        cure: Option<&'static str>,
    },
    /// It is too old, or damaged.
    Unusable(String),
}

/// A card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its number, which `CUDA_VISIBLE_DEVICES` may have changed.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub total_bytes: u64,
    /// Free bytes, where the driver tells without a context.
    pub free_bytes: Option<u64>,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Peak clock in kHz; 0 where the driver does not tell.
    pub clock_khz: u32,
    /// How it hangs on the machine's bus, where the driver tells.
    pub pcie: Option<Pcie>,
}

/// A card's PCI Express: the fastest that card and slot do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pcie {
    /// Of the standard, from 1 on.
    pub generation: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Pcie {
    /// Bytes a second each way by the standard: transfers a second of a lane, less what the code takes of them (8 of 10
    /// bits carry data in the first two generations, 128 of 130 up to the fifth, 242 of 256 bytes from the sixth on).
    pub fn bytes_per_second(self) -> f64 {
        let lane = match self.generation {
            0 | 1 => 2.5e9 * 0.8,
            2 => 5e9 * 0.8,
            3..=5 => f64::from(1 << (self.generation - 3)) * 8e9 * 128.0 / 130.0,
            // A newer one is at least as fast.
            _ => 64e9 * 242.0 / 256.0,
        };
        lane / 8.0 * f64::from(self.lanes)
    }
}

impl fmt::Display for Pcie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCI Express {}.0 x{}", self.generation, self.lanes)
    }
}

/// How cards reach each other's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Connection {
    /// They do not: what goes from one to another goes by way of the host.
    Host,
    /// Over the machine's bus.
    Pcie,
    /// By links of their own.
    NvLink,
}

/// A library that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Such as `12.9.1`.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
    /// The oldest version that is used, where this one is older.
    pub least: Option<&'static str>,
}

/// Looks at this machine.
pub fn probe() -> Probe {
    probe_in(&Places::of_this_machine())
}

/// The cards alone, without a look at the libraries; none without a driver.
pub fn cards() -> Vec<Card> {
    let places = Places::of_this_machine();
    let Ok((driver, _)) = driver(&places) else { return Vec::new() };
    cards_of(driver, Management::start(&places).as_ref())
}

/// Looks at this machine, with other folders besides those of the system's linker.
pub fn probe_in(places: &Places) -> Probe {
    let (driver, cards, apart) = match driver(places) {
        Ok((driver, version)) => {
            let management = Management::start(places);
            let version = DriverVersion {
                version: management.as_ref().and_then(Management::driver_version),
                ..version
            };
            let cards = cards_of(driver, management.as_ref());
            let apart = apart(driver, &cards);
            (Ok(version), cards, apart)
        }
        Err(why) => (Err(why), Vec::new(), Vec::new()),
    };
    let cuda = driver.as_ref().ok().map(|driver| driver.cuda.0);
    let libraries = cuda.map(|cuda| libraries_in(places, Some(cuda))).unwrap_or_default();
    Probe { driver, cards, apart, libraries }
}

/// NVRTC, cuBLASLt, cuDNN and NCCL, of which a driver of that CUDA could use none that is newer. Only who
/// has loaded one knows its version and that it can be used, which takes hundreds of megabytes of memory
/// for all of them, until the process ends: nothing to look at where no card could use them.
pub fn libraries_in(places: &Places, driver: Option<u32>) -> Vec<(Kind, Result<Found, Absent>)> {
    let kinds = [Kind::Nvrtc, Kind::CublasLt, Kind::Cudnn, Kind::Nccl];
    kinds.map(|kind| (kind, library(kind, places, driver))).into()
}

/// Starts the driver.
fn driver(places: &Places) -> Result<(&'static StartedDriver, DriverVersion), NoDriver> {
    let driver = match driver_api(places) {
        Ok(driver) => driver,
        Err(error) => {
            // The error of a missing library is the text of the same search.
            return Err(match Loaded::find(Kind::Driver, places, None, "cuInit") {
                Err(absent) if absent.refused.is_empty() && !has_kernel_driver() => {
                    NoDriver::NotInstalled
                }
                Err(absent) => NoDriver::NotReached(absent),
                Ok(_) => NoDriver::Unusable(error.to_string()),
            });
        }
    };
    match start(driver) {
        Ok(cuda) => {
            let path = driver.library.path.clone();
            Ok((driver, DriverVersion { cuda, version: None, path }))
        }
        Err(status) => Err(NoDriver::Refuses {
            status,
            name: error::name(driver, status),
            cure: error::cure(status),
        }),
    }
}

/// Starts the driver, which may be done again and again, and says the CUDA it knows, or its status.
pub(super) fn start(driver: &StartedDriver) -> Result<(u32, u32), u32> {
    let mut version: c_int = 0;
    // SAFETY: 0 is the only flag there is; the driver writes one number.
    let status = unsafe {
        match (driver.api.cuInit)(0) {
            0 => (driver.api.cuDriverGetVersion)(&raw mut version),
            status => status,
        }
    };
    let version = u32::try_from(version).unwrap_or(0);
    if status == 0 { Ok((version / 1000, version % 1000 / 10)) } else { Err(status) }
}

/// Whether the system has a driver, whatever of it can be reached from here: its file in `/proc`, its
/// device, or that of Windows' subsystem for Linux.
fn has_kernel_driver() -> bool {
    ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"]
        .iter()
        .any(|path| Path::new(path).exists())
}

fn cards_of(driver: &StartedDriver, management: Option<&Management>) -> Vec<Card> {
    let mut count: c_int = 0;
    // SAFETY: the driver writes one number.
    if unsafe { (driver.api.cuDeviceGetCount)(&raw mut count) } != 0 {
        return Vec::new();
    }
    (0..u32::try_from(count).unwrap_or(0))
        .filter_map(|ordinal| card(driver, ordinal, management).ok())
        .collect()
}

/// How the cards with these numbers are connected: those of them that are connected worst. `None` for less than two
/// cards that are there.
pub fn connection(ordinals: &[u32]) -> Option<Connection> {
    let (driver, _) = driver(&Places::of_this_machine()).ok()?;
    let handles: Vec<_> = ordinals.iter().filter_map(|&ordinal| handle(driver, ordinal)).collect();
    let pairs = handles.iter().flat_map(|&one| handles.iter().map(move |&other| (one, other)));
    pairs.filter(|(one, other)| one != other).map(|(one, other)| between(driver, one, other)).min()
}

/// How a card reaches another one.
fn between(driver: &StartedDriver, card: CUdevice, other: CUdevice) -> Connection {
    if !reaches(driver, card, other) {
        return Connection::Host;
    }
    // Links of their own alone carry these.
    let which = PeerAttribute::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
    let mut atomics = 0;
    // SAFETY: the driver writes one number.
    let status =
        unsafe { (driver.api.cuDeviceGetP2PAttribute)(&raw mut atomics, which, card, other) };
    if status == 0 && atomics != 0 { Connection::NvLink } else { Connection::Pcie }
}

/// What the driver knows a card by.
fn handle(driver: &StartedDriver, ordinal: u32) -> Option<CUdevice> {
    let (mut handle, number) = (0, c_int::try_from(ordinal).unwrap_or(c_int::MAX));
    // SAFETY: the driver writes a handle.
    let status = unsafe { (driver.api.cuDeviceGet)(&raw mut handle, number) };
    (status == 0).then_some(handle)
}

/// Pairs of cards that do not reach each other's memory.
fn apart(driver: &StartedDriver, cards: &[Card]) -> Vec<[u32; 2]> {
    let of = |card: &Card| Some((card.ordinal, handle(driver, card.ordinal)?));
    let handles: Vec<_> = cards.iter().filter_map(of).collect();
    let mut found = Vec::new();
    for (n, &(first, one)) in handles.iter().enumerate() {
        for &(second, other) in &handles[n + 1..] {
            if !reaches(driver, one, other) || !reaches(driver, other, one) {
                found.push([first, second]);
            }
        }
    }
    found
}

/// What the driver tells of a card.
pub(super) fn card(
    driver: &StartedDriver,
    ordinal: u32,
    management: Option<&Management>,
) -> Result<Card, GpuError> {
    let api = &driver.api;
    let check = |call, status| error::check(driver, call, status);
    let mut device = 0;
    let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
    // SAFETY: the driver writes a handle, one number and texts that it ends with a zero within the buffer.
    unsafe {
        check("finding the card", (api.cuDeviceGet)(&raw mut device, number))?;
        let attribute = |which: Attribute| {
            let mut value: c_int = 0;
            let status = (api.cuDeviceGetAttribute)(&raw mut value, which, device);
            check("asking what the card is", status).map(|()| u32::try_from(value).unwrap_or(0))
        };
        let mut text = [0 as c_char; NAME_BYTES];
        let room = NAME_BYTES as c_int - 1;
        check("asking the card's name", (api.cuDeviceGetName)(text.as_mut_ptr(), room, device))?;
        let name = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
        let mut total = 0;
        check("asking the card's memory", (api.cuDeviceTotalMem_v2)(&raw mut total, device))?;
        text.fill(0);
        let status = (api.cuDeviceGetPCIBusId)(text.as_mut_ptr(), room, device);
        let address = CStr::from_ptr(text.as_ptr()).to_string_lossy();
        let told = management.filter(|_| status == 0);
        let free_bytes = told.and_then(|management| management.free_bytes(&address));
        let pcie = told.and_then(|management| management.pcie(&address));
        Ok(Card {
            ordinal,
            name,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            total_bytes: total as u64,
            free_bytes,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            // Not told everywhere, and needed for an estimate alone.
            clock_khz: attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).unwrap_or(0),
            pcie,
        })
    }
}

/// Loads a library and asks its version.
fn library(kind: Kind, places: &Places, driver: Option<u32>) -> Result<Found, Absent> {
    let function = match kind {
        Kind::Nvrtc => "nvrtcVersion",
        Kind::CublasLt => "cublasLtGetVersion",
        Kind::Cudnn => "cudnnGetVersion",
        Kind::Nccl => "ncclGetVersion",
        Kind::Driver | Kind::Management => unreachable!("they have no version of their own"),
    };
    let loaded = Loaded::find(kind, places, driver, function)?;
    let (number, version) = version(&loaded, function).unwrap_or_default();
    let (needed, text) = match kind {
        Kind::Cudnn => (cudnn::LEAST_VERSION, cudnn::LEAST_VERSION_TEXT),
        Kind::Nccl => (nccl::LEAST_VERSION, nccl::LEAST_VERSION_TEXT),
        _ => (0, ""),
    };
    let least = (number < needed).then_some(text);
    if least.is_none()
        && let Some(reason) = loaded.cuda().and_then(|cuda| cudnn::missing(cuda, places))
    {
        let refused = vec![Refusal { file: loaded.path, reason }];
        return Err(Absent { kind, folders: places.folders().to_vec(), refused });
    }
    Ok(Found { version, path: loaded.path, least })
}

/// The version as the library counts it (0 for NVRTC, which does not) and in the usual writing.
fn version(library: &Loaded, function: &str) -> Option<(usize, String)> {
    // SAFETY: the signatures are those of nvrtc.h, cublasLt.h, cudnn_version.h and nccl.h.
    unsafe {
        let number = match library.kind {
            Kind::Nvrtc => {
                let (mut major, mut minor) = (0, 0);
                let of: unsafe extern "C" fn(*mut c_int, *mut c_int) -> u32 =
                    library.function(function).ok()?;
                let status = of(&raw mut major, &raw mut minor);
                return (status == 0).then(|| (0, format!("{major}.{minor}")));
            }
            Kind::Nccl => {
                let mut number: c_int = 0;
                let of: unsafe extern "C" fn(*mut c_int) -> u32 =
                    library.function(function).ok()?;
                if of(&raw mut number) != 0 {
                    return None;
                }
                usize::try_from(number).ok()?
            }
            _ => library.function::<unsafe extern "C" fn() -> usize>(function).ok()?(),
        };
        Some((number, written(library.kind, number)))
    }
}

/// `120901` is cuBLASLt 12.9.1, `91002` cuDNN 9.10.2 (`8902` was 8.9.2), `22703` NCCL 2.27.3.
pub(super) fn written(kind: Kind, number: usize) -> String {
    let large = match kind {
        Kind::Cudnn if number < 10_000 => 1_000,
        _ => 10_000,
    };
    format!("{}.{}.{}", number / large, number % large / 100, number % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_carries_what_its_standard_says() {
        for (generation, lanes, gigabytes) in [
            (1, 16, 4.0),
            (2, 8, 4.0),
            (3, 16, 15.75),
            (4, 16, 31.51),
            (4, 8, 15.75),
            (5, 16, 63.02),
            (6, 16, 121.0),
        ] {
            let found = Pcie { generation, lanes }.bytes_per_second() / 1e9;
            assert!((found / gigabytes - 1.0).abs() < 1e-3, "{generation}.0 x{lanes}: {found}");
        }
        assert_eq!(Pcie { generation: 4, lanes: 16 }.to_string(), "PCI Express 4.0 x16");
    }

    #[test]
    fn versions_are_written_as_their_makers_do() {
        assert_eq!(written(Kind::CublasLt, 120_901), "12.9.1");
        assert_eq!(written(Kind::CublasLt, 130_002), "13.0.2");
        assert_eq!(written(Kind::Cudnn, 91_002), "9.10.2");
        assert_eq!(written(Kind::Cudnn, 8_902), "8.9.2");
        assert_eq!(written(Kind::Nccl, 22_703), "2.27.3");
    }
}
