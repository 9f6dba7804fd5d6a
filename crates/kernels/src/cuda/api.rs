//! The functions that we call. `cudarc` has their signatures from NVIDIA's headers; an assertion for
//! each compares ours with them.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::cublaslt::sys as cublaslt;
use cudarc::cudnn::sys as cudnn;
use cudarc::driver::sys as driver;
use cudarc::nccl::sys as nccl;
use cudarc::nvrtc::sys as nvrtc;

use self::cublaslt::*;
use self::cudnn::{
    cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, cudnnBackendDescriptor_t,
    cudnnBackendDescriptorType_t, cudnnHandle_t,
};
use self::driver::*;
use self::nccl::{ncclComm_t, ncclDataType_t, ncclResult_t};
use self::nvrtc::nvrtcProgram;
use super::Places;
use super::libraries::{Kind, Loaded};
use super::probe::written;
use crate::gpu::GpuError;

/// A table of functions whose result is a status. It is kept as a number, since a newer library may
/// return one that an enumeration of today does not have.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident: $header:ident, $status:ident;
     $($name:ident($($argument:ty),* $(,)?);)*) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        #[derive(Debug)]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> u32,)*
        }
        const _: () = assert!(size_of::<$header::$status>() == 4);
        $(const _: unsafe fn($($argument),*) -> $header::$status = $header::$name;)*
        impl $table {
            fn of(library: &Loaded) -> Result<Self, GpuError> {
                // SAFETY: the types are those of the headers, as is asserted above.
                unsafe { Ok(Self { $($name: library.function(stringify!($name))?,)* }) }
            }
        }
    };
}

functions! {
    /// The driver.
    DriverApi: driver, CUresult;
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGet(*mut CUdevice, c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGetName(*mut c_char, c_int, CUdevice);
    cuDeviceGetAttribute(*mut c_int, CUdevice_attribute, CUdevice);
    cuDeviceTotalMem_v2(*mut usize, CUdevice);
    cuDeviceGetPCIBusId(*mut c_char, c_int, CUdevice);
    cuDevicePrimaryCtxSetFlags_v2(CUdevice, c_uint);
    cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    cuDevicePrimaryCtxRelease_v2(CUdevice);
    cuCtxSetCurrent(CUcontext);
    cuCtxEnablePeerAccess(CUcontext, c_uint);
    cuDeviceCanAccessPeer(*mut c_int, CUdevice, CUdevice);
    cuDeviceGetP2PAttribute(*mut c_int, CUdevice_P2PAttribute, CUdevice, CUdevice);
    cuStreamCreate(*mut CUstream, c_uint);
    cuStreamDestroy_v2(CUstream);
    cuStreamSynchronize(CUstream);
    cuStreamWaitEvent(CUstream, CUevent, c_uint);
    cuEventCreate(*mut CUevent, c_uint);
    cuEventRecord(CUevent, CUstream);
    cuEventSynchronize(CUevent);
    cuEventDestroy_v2(CUevent);
    cuMemAlloc_v2(*mut CUdeviceptr, usize);
    cuMemFree_v2(CUdeviceptr);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
    cuMemcpyPeerAsync(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, usize, CUstream);
    cuMemsetD8Async(CUdeviceptr, c_uchar, usize, CUstream);
    cuModuleLoadDataEx(*mut CUmodule, *const c_void, c_uint, *mut CUjit_option, *mut *mut c_void);
    cuModuleUnload(CUmodule);
    cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    cuFuncSetAttribute(CUfunction, CUfunction_attribute, c_int);
    cuLaunchKernel(
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream,
        *mut *mut c_void, *mut *mut c_void,
    );
}

functions! {
    /// Work of a stream that is captured and done again.
    GraphApi: driver, CUresult;
    cuStreamBeginCapture_v2(CUstream, CUstreamCaptureMode);
    cuStreamEndCapture(CUstream, *mut CUgraph);
    cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
    cuGraphDestroy(CUgraph);
    cuGraphLaunch(CUgraphExec, CUstream);
    cuGraphExecDestroy(CUgraphExec);
}

functions! {
    /// The compiler.
    NvrtcApi: nvrtc, nvrtcResult;
    nvrtcVersion(*mut c_int, *mut c_int);
    nvrtcGetNumSupportedArchs(*mut c_int);
    nvrtcGetSupportedArchs(*mut c_int);
    nvrtcCreateProgram(
        *mut nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char,
        *const *const c_char,
    );
    nvrtcDestroyProgram(*mut nvrtcProgram);
    nvrtcCompileProgram(nvrtcProgram, c_int, *const *const c_char);
    nvrtcGetProgramLogSize(nvrtcProgram, *mut usize);
    nvrtcGetProgramLog(nvrtcProgram, *mut c_char);
    nvrtcGetCUBINSize(nvrtcProgram, *mut usize);
    nvrtcGetCUBIN(nvrtcProgram, *mut c_char);
    nvrtcGetPTXSize(nvrtcProgram, *mut usize);
    nvrtcGetPTX(nvrtcProgram, *mut c_char);
}

functions! {
    /// Matrix products.
    CublasLtApi: cublaslt, cublasStatus_t;
    cublasLtCreate(*mut cublasLtHandle_t);
    cublasLtDestroy(cublasLtHandle_t);
    cublasLtMatmulDescCreate(*mut cublasLtMatmulDesc_t, cublasComputeType_t, cudaDataType_t);
    cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t);
    cublasLtMatmulDescSetAttribute(
        cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, *const c_void, usize,
    );
    cublasLtMatrixLayoutCreate(*mut cublasLtMatrixLayout_t, cudaDataType, u64, u64, i64);
    cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t);
    cublasLtMatmulPreferenceCreate(*mut cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceSetAttribute(
        cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, *const c_void, usize,
    );
    cublasLtMatmulAlgoGetHeuristic(
        cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
        cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, c_int,
        *mut cublasLtMatmulHeuristicResult_t, *mut c_int,
    );
    cublasLtMatmul(
        cublasLtHandle_t, cublasLtMatmulDesc_t, *const c_void, *const c_void,
        cublasLtMatrixLayout_t, *const c_void, cublasLtMatrixLayout_t, *const c_void,
        *const c_void, cublasLtMatrixLayout_t, *mut c_void, cublasLtMatrixLayout_t,
        *const cublasLtMatmulAlgo_t, *mut c_void, usize, cudaStream_t,
    );
}

functions! {
    /// Attention and convolutions.
    CudnnApi: cudnn, cudnnStatus_t;
    cudnnCreate(*mut cudnnHandle_t);
    cudnnDestroy(cudnnHandle_t);
    cudnnSetStream(cudnnHandle_t, cudnn::cudaStream_t);
    cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t, *mut cudnnBackendDescriptor_t);
    cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t);
    cudnnBackendFinalize(cudnnBackendDescriptor_t);
    cudnnBackendSetAttribute(
        cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, i64,
        *const c_void,
    );
    cudnnBackendGetAttribute(
        cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, i64,
        *mut i64, *mut c_void,
    );
    cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t);
}

functions! {
    /// Exchanges between cards.
    NcclApi: nccl, ncclResult_t;
    ncclCommInitAll(*mut ncclComm_t, c_int, *const c_int);
    ncclCommDestroy(ncclComm_t);
    ncclCommAbort(ncclComm_t);
    ncclCommGetAsyncError(ncclComm_t, *mut ncclResult_t);
    ncclGroupStart();
    ncclGroupEnd();
    ncclSend(*const c_void, usize, ncclDataType_t, c_int, ncclComm_t, nccl::cudaStream_t);
    ncclRecv(*mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, nccl::cudaStream_t);
}

/// A status of the driver in its own words.
type Words = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;

/// The driver's library, loaded and started.
#[derive(Debug)]
pub struct StartedDriver {
    pub api: DriverApi,
    /// An old driver may lack them, and everything works without.
    pub graphs: Result<GraphApi, GpuError>,
    pub name_of: Words,
    pub text_of: Words,
    pub library: Loaded,
}

/// The driver's functions; `cuInit` has not been called. Loaded once, tried again after a failure.
pub fn driver_api(places: &Places) -> Result<&'static StartedDriver, GpuError> {
    static DRIVER: OnceLock<StartedDriver> = OnceLock::new();
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let library = Loaded::find(Kind::Driver, places, None, "cuInit")?;
    let api = DriverApi::of(&library)?;
    // SAFETY: as in cuda.h, but for the enumeration, whose values come from the driver alone.
    let (name_of, text_of) =
        unsafe { (library.function("cuGetErrorName")?, library.function("cuGetErrorString")?) };
    let graphs = GraphApi::of(&library);
    Ok(DRIVER.get_or_init(|| StartedDriver { api, graphs, name_of, text_of, library }))
}

/// The compiler's functions, for a driver of this CUDA version.
pub fn nvrtc_api(places: &Places, driver: Option<u32>) -> Result<(NvrtcApi, Loaded), GpuError> {
    let library = Loaded::find(Kind::Nvrtc, places, driver, "nvrtcVersion")?;
    Ok((NvrtcApi::of(&library)?, library))
}

/// cuBLASLt, loaded.
#[derive(Debug)]
pub struct CublasLt {
    pub api: CublasLtApi,
    /// `120901` for 12.9.1.
    pub number: usize,
}

/// cuBLASLt for a driver of this CUDA version.
pub fn cublaslt_api(places: &Places, driver: Option<u32>) -> Result<CublasLt, GpuError> {
    const VERSION: &str = "cublasLtGetVersion";
    let library = Loaded::find(Kind::CublasLt, places, driver, VERSION)?;
    let api = CublasLtApi::of(&library)?;
    // SAFETY: as in cublasLt.h.
    let number = unsafe { library.function::<unsafe extern "C" fn() -> usize>(VERSION)?() };
    Ok(CublasLt { api, number })
}

/// cuDNN, loaded.
#[derive(Debug)]
pub struct Cudnn {
    pub api: CudnnApi,
    pub name_of: unsafe extern "C" fn(u32) -> *const c_char,
    /// Writes what there is to say of the last failure, within so many bytes.
    pub last_words: unsafe extern "C" fn(*mut c_char, usize),
    /// `91301` for 9.13.1.
    pub number: usize,
    /// The CUDA that it was built for, such as 12.
    pub cuda: u32,
    pub path: PathBuf,
}

impl Cudnn {
    /// Such as `9.13.1`.
    pub fn version(&self) -> String {
        written(Kind::Cudnn, self.number)
    }
}

/// The functions of cuDNN, for a driver of this CUDA version. Loaded once, tried again after a failure.
pub fn cudnn_api(places: &Places, driver: Option<u32>) -> Result<&'static Cudnn, GpuError> {
    static CUDNN: OnceLock<Cudnn> = OnceLock::new();
    if let Some(cudnn) = CUDNN.get() {
        return Ok(cudnn);
    }
    let library = Loaded::find(Kind::Cudnn, places, driver, "cudnnGetVersion")?;
    let api = CudnnApi::of(&library)?;
    let cuda = library.cuda().unwrap_or(0);
    // SAFETY: as in cudnn_graph.h, but for the enumeration, whose values come from the library alone.
    let cudnn = unsafe {
        let number = library.function::<unsafe extern "C" fn() -> usize>("cudnnGetVersion")?();
        let name_of = library.function("cudnnGetErrorString")?;
        let last_words = library.function("cudnnGetLastErrorString")?;
        Cudnn { api, name_of, last_words, number, cuda, path: library.path.clone() }
    };
    Ok(CUDNN.get_or_init(|| cudnn))
}

/// NCCL, loaded.
#[derive(Debug)]
pub struct NcclLibrary {
    pub api: NcclApi,
    pub name_of: unsafe extern "C" fn(u32) -> *const c_char,
    /// What there is to say of the last failure; of any communicator where none is given.
    pub last_words: unsafe extern "C" fn(ncclComm_t) -> *const c_char,
    /// `22703` for 2.27.3.
    pub number: usize,
    pub path: PathBuf,
}

impl NcclLibrary {
    /// Such as `2.27.3`.
    pub fn version(&self) -> String {
        written(Kind::Nccl, self.number)
    }
}

/// The functions of NCCL. Loaded once, tried again after a failure.
pub fn nccl_api(places: &Places) -> Result<&'static NcclLibrary, GpuError> {
    static NCCL: OnceLock<NcclLibrary> = OnceLock::new();
    if let Some(library) = NCCL.get() {
        return Ok(library);
    }
    let library = Loaded::find(Kind::Nccl, places, None, "ncclGetVersion")?;
    let api = NcclApi::of(&library)?;
    let mut number: c_int = 0;
    // SAFETY: as in nccl.h, but for the enumeration, whose values come from the library alone.
    let nccl = unsafe {
        let version: unsafe extern "C" fn(*mut c_int) -> u32 =
            library.function("ncclGetVersion")?;
        // A failure leaves 0, which is too old for everything.
        version(&raw mut number);
        NcclLibrary {
            api,
            name_of: library.function("ncclGetErrorString")?,
            last_words: library.function("ncclGetLastError")?,
            number: usize::try_from(number).unwrap_or(0),
            path: library.path.clone(),
        }
    };
    Ok(NCCL.get_or_init(|| nccl))
}
