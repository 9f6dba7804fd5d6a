//! Matrix products by cuBLASLt, which counts in columns: our row-major `out = x W^T` is its
//! `D = A^T B` with `A = W` (`[inputs, outputs]`), `B = x` (`[inputs, rows]`), `D = out`
//! (`[outputs, rows]`), without any copy.
//!
//! 8-bit floats (e4m3) are taken by cards from Ada on where `A` is transposed and `B` is not, as here, and
//! where addresses and the lengths of columns are multiples of 16 bytes; factors of rows and columns by CUDA
//! 12.9 and newer on Hopper (9.0) and no other card: NVIDIA's table of scaling modes, and CUDALibrarySamples' issue
//! 270. What else a library and a card have together is its own answer. Sums are kept in full f32: fast accumulation
//! is off unless it is asked for, and of long sums in parts, which few rows have, the parts are (by itself the library may
//! round each of them to the result's type).

mod key;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys::{
    cublasComputeType_t as ComputeType, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t,
    cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulHeuristicResult_t, cublasLtMatmulMatrixScale_t as MatrixScale,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayout_t, cublasLtReductionScheme_t as Parts, cublasStatus_t as Status,
    cudaDataType_t as DataType,
};
use cudarc::driver::sys::CUstream;

use self::key::{BIAS_VALUES, Key, Kind, data_type, key};
use super::Places;
use super::api::{self, CublasLtApi, StartedDriver, cublaslt_api};
use super::error::check;
use crate::gpu::{Address, Arg, Driver, Element, GpuError, Launch, MatMul, Operands};

/// What the library may use beside its operands, in bytes; NVIDIA recommends 32 MiB for Hopper and newer
/// and 4 MiB for others, and more lets it split long sums.
const WORKSPACE_BYTES: [usize; 2] = [32 << 20, 64 << 20];
/// Shapes whose way is remembered; a film has some dozens.
const PLANS: usize = 1024;
/// The first version that takes a factor for each row and column: 12.9.
const OUTER_VECTORS: usize = 120_900;
/// The compute capability that it does so on: the newer ones have factors for blocks, in another form.
const OUTER_VECTORS_CARD: (u32, u32) = (9, 0);
/// `CUBLAS_OP_T` of cublas_api.h, which cuBLASLt's own header has from there.
const TRANSPOSED: u32 = 1;
/// The library, with a handle and memory of its own on a card.
pub struct CublasLt {
    api: CublasLtApi,
    /// Whether it has products of 8-bit floats with factors on this card.
    takes_factors: bool,
    handle: cublasLtHandle_t,
    workspace: u64,
    workspace_bytes: usize,
    /// Where a bias lies in bf16 for the product that comes after: work of a stream is done in order.
    bias: u64,
    /// `None` for what the library has no way for.
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

/// How a product is done.
struct Plan {
    desc: cublasLtMatmulDesc_t,
    /// Of A, B and D.
    layouts: [cublasLtMatrixLayout_t; 3],
    algorithm: cublasLtMatmulAlgo_t,
}

impl CublasLt {
    /// Loads the library and reserves its memory; the card's context has to be current.
    pub fn open(
        driver: &StartedDriver,
        places: &Places,
        cuda: u32,
        capability: (u32, u32),
    ) -> Result<Self, GpuError> {
        let api::CublasLt { api, number } = cublaslt_api(places, Some(cuda))?;
        let (mut handle, mut workspace, mut bias) = (std::ptr::null_mut(), 0, 0);
        let workspace_bytes = WORKSPACE_BYTES[usize::from(capability.0 >= 9)];
        // SAFETY: library and driver write a handle and addresses.
        unsafe {
            check_status("making a handle", (api.cublasLtCreate)(&raw mut handle))?;
            let alloc = driver.api.cuMemAlloc_v2;
            let status = match alloc(&raw mut workspace, workspace_bytes) {
                0 => alloc(&raw mut bias, BIAS_VALUES * Element::Bf16.bytes()),
                status => status,
            };
            if status != 0 {
                (driver.api.cuMemFree_v2)(workspace);
                (api.cublasLtDestroy)(handle);
                check(driver, "reserving memory for cuBLASLt", status)?;
            }
        }
        let plans = Mutex::default();
        let takes_factors = number >= OUTER_VECTORS && capability == OUTER_VECTORS_CARD;
        Ok(Self { api, takes_factors, handle, workspace, workspace_bytes, bias, plans })
    }

    /// Whether products of 8-bit floats may come with factors of their rows and columns.
    pub fn takes_factors(&self) -> bool {
        self.takes_factors
    }

    /// Does a product; `false` when there is no way for one of this kind.
    pub fn matmul(
        &self,
        device: &dyn Driver,
        stream: CUstream,
        what: &MatMul,
    ) -> Result<bool, GpuError> {
        if what.rows == 0 || what.outputs == 0 {
            return Ok(true);
        }
        let Some(key) = key(what, self.takes_factors) else { return Ok(false) };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS && !plans.contains_key(&key) {
            plans.drain().filter_map(|(_, plan)| plan).for_each(|plan| plan.destroy(&self.api));
        }
        let known = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(self.plan(&key)?),
        };
        let Some(plan) = known else { return Ok(false) };
        if let Some(bias) = what.bias {
            let bias = match key.operands.bias(what.out_element) {
                Element::F32 => bias,
                Element::Bf16 => {
                    self.narrow(device, bias, what.outputs)?;
                    Address(self.bias)
                }
            };
            plan.set(&self.api, DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)?;
        }
        if let Operands::E4m3 { factors: Some([x, weight]) } = what.operands {
            plan.set(&self.api, DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &weight.0)?;
            plan.set(&self.api, DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &x.0)?;
        }
        let (alpha, beta) = (1.0_f32, if what.add { 1.0_f32 } else { 0.0 });
        let [a, b, d] = plan.layouts;
        let pointer =
            |address: Address| std::ptr::without_provenance_mut::<c_void>(address.0 as usize);
        // SAFETY: operands are memory of the card of the sizes that the layouts say, as the caller has to see
        // to; the descriptors live as long as the plan.
        let status = unsafe {
            (self.api.cublasLtMatmul)(
                self.handle,
                plan.desc,
                (&raw const alpha).cast(),
                pointer(what.weight),
                a,
                pointer(what.x),
                b,
                (&raw const beta).cast(),
                pointer(what.out),
                d,
                pointer(what.out),
                d,
                &raw const plan.algorithm,
                pointer(Address(self.workspace)),
                self.workspace_bytes,
                stream.cast(),
            )
        };
        if is_refusal(status, matches!(key.operands, Kind::Codes { .. })) {
            if let Some(plan) = known.take() {
                plan.destroy(&self.api);
            }
            return Ok(false);
        }
        check_status("multiplying matrices", status).map(|()| true)
    }

    /// A bias has to be of the output's type. It is rounded for each product anew, a few microseconds: what
    /// lies at an address changes where weights are streamed.
    fn narrow(&self, device: &dyn Driver, bias: Address, count: usize) -> Result<(), GpuError> {
        // Eight values for each thread.
        let threads = 256;
        let blocks = count.div_ceil(8 * threads as usize);
        let launch = Launch {
            module: "convert",
            kernel: "convert_f32_bf16",
            grid: [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1],
            threads,
            shared_bytes: 0,
        };
        let args = [Arg::Pointer(Address(self.bias)), Arg::Pointer(bias), Arg::Long(count as i64)];
        device.launch(&launch, &args)
    }

    /// The way that the library thinks the fastest, or none.
    fn plan(&self, key: &Key) -> Result<Option<Plan>, GpuError> {
        let api = &self.api;
        let mut plan = Plan {
            desc: std::ptr::null_mut(),
            layouts: [std::ptr::null_mut(); 3],
            algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        let mut preference = std::ptr::null_mut();
        let found = self.fill(key, &mut plan, &mut preference);
        if !preference.is_null() {
            // SAFETY: it was made by the library.
            unsafe { (api.cublasLtMatmulPreferenceDestroy)(preference) };
        }
        match found {
            Ok(true) => Ok(Some(plan)),
            other => {
                plan.destroy(api);
                other.map(|_| None)
            }
        }
    }

    /// Whether there is a way, which is written to `plan` then.
    fn fill(
        &self,
        key: &Key,
        plan: &mut Plan,
        preference: &mut cublasLtMatmulPreference_t,
    ) -> Result<bool, GpuError> {
        let api = &self.api;
        let epilogue = match (key.has_bias, key.gelu) {
            (false, false) => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            (true, false) => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => Epilogue::CUBLASLT_EPILOGUE_GELU,
            (true, true) => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        let (of, out) = (key.operands.data_type(), data_type(key.out_element));
        let (m, n, k) = (key.outputs as u64, key.rows as u64, key.inputs as u64);
        // Sums are f32, also of f32 (and not of TF32).
        let compute = ComputeType::CUBLAS_COMPUTE_32F;
        // SAFETY: the library writes handles, and results up to the count that is asked for.
        unsafe {
            let scale = DataType::CUDA_R_32F;
            let status = (api.cublasLtMatmulDescCreate)(&raw mut plan.desc, compute, scale);
            check_status("describing a product", status)?;
            plan.set(api, DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
            plan.set(api, DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
            if key.has_bias {
                plan.set(api, DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &self.bias)?;
                let bias = key.operands.bias(key.out_element);
                if bias != key.out_element {
                    let bias = data_type(bias) as u32;
                    plan.set(api, DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias)?;
                }
            }
            if let Kind::Codes { with_factors: true } = key.operands {
                let outer = MatrixScale::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F as u32;
                // Any address: what is chosen does not depend on it, and it is set for each product.
                for what in [
                    DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                    DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
                ] {
                    plan.set(api, what, &self.bias)?;
                }
                for what in [
                    DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
                    DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
                ] {
                    plan.set(api, what, &outer)?;
                }
            }
            let shapes = [(of, k, m), (of, k, n), (out, m, n)];
            for (layout, (of, rows, columns)) in plan.layouts.iter_mut().zip(shapes) {
                let create = api.cublasLtMatrixLayoutCreate;
                let status = create(&raw mut *layout, of, rows, columns, rows as i64);
                check_status("describing a matrix", status)?;
            }
            let status = (api.cublasLtMatmulPreferenceCreate)(&raw mut *preference);
            check_status("describing what is preferred", status)?;
            let prefer = |what, value: *const c_void, bytes| {
                let set = api.cublasLtMatmulPreferenceSetAttribute;
                check_status("saying what is preferred", set(*preference, what, value, bytes))
            };
            let bytes = &raw const self.workspace_bytes;
            prefer(
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                bytes.cast(),
                size_of::<usize>(),
            )?;
            let parts = Parts::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            prefer(
                Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                (&raw const parts).cast(),
                size_of::<u32>(),
            )?;
            let [a, b, d] = &key.aligned;
            for (what, aligned) in [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, d),
            ] {
                prefer(what, (&raw const *aligned).cast(), size_of::<u32>())?;
            }
            let [a, b, d] = plan.layouts;
            let mut result = std::mem::MaybeUninit::<cublasLtMatmulHeuristicResult_t>::zeroed();
            let mut count = 0;
            let status = (api.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                plan.desc,
                a,
                b,
                d,
                d,
                *preference,
                1,
                result.as_mut_ptr(),
                &raw mut count,
            );
            let codes = matches!(key.operands, Kind::Codes { .. });
            if is_refusal(status, codes) || (status == 0 && count == 0) {
                return Ok(false);
            }
            check_status("finding a way for a product", status)?;
            // The status within is read as a number: a newer library may have more of them.
            let result = result.as_ptr();
            if (&raw const (*result).state).cast::<u32>().read() != 0 {
                return Ok(false);
            }
            plan.algorithm = (*result).algo;
        }
        Ok(true)
    }

    /// Gives everything back; all work has to be done and the context to be current.
    pub fn close(self, driver: &StartedDriver) {
        let plans = self.plans.into_inner().unwrap_or_else(PoisonError::into_inner);
        plans.into_values().flatten().for_each(|plan| plan.destroy(&self.api));
        // SAFETY: all of it is ours, and nothing uses it any more.
        unsafe {
            (self.api.cublasLtDestroy)(self.handle);
            (driver.api.cuMemFree_v2)(self.workspace);
            (driver.api.cuMemFree_v2)(self.bias);
        }
    }
}

impl Plan {
    fn set<T>(&self, api: &CublasLtApi, what: DescAttribute, value: &T) -> Result<(), GpuError> {
        // SAFETY: the library reads as many bytes as the value has.
        let status = unsafe {
            let value: *const T = value;
            (api.cublasLtMatmulDescSetAttribute)(self.desc, what, value.cast(), size_of::<T>())
        };
        check_status("describing a product", status)
    }

    fn destroy(self, api: &CublasLtApi) {
        // SAFETY: the library made them, or they are null.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                (api.cublasLtMatrixLayoutDestroy)(layout);
            }
            if !self.desc.is_null() {
                (api.cublasLtMatmulDescDestroy)(self.desc);
            }
        }
    }
}

/// Whether a status says that there is no way for a product. For 8-bit floats not all versions and cards say
/// it by the same one.
fn is_refusal(status: u32, codes: bool) -> bool {
    let of = |known: Status| status == known as u32;
    let others = [Status::CUBLAS_STATUS_INVALID_VALUE, Status::CUBLAS_STATUS_ARCH_MISMATCH];
    of(Status::CUBLAS_STATUS_NOT_SUPPORTED) || (codes && others.into_iter().any(of))
}

/// `Ok` for status 0.
fn check_status(call: &'static str, status: u32) -> Result<(), GpuError> {
    let reason = match status {
        0 => return Ok(()),
        1 => {
            "CUBLAS_STATUS_NOT_INITIALIZED: is the driver too old for cuBLASLt? See longreel doctor"
        }
        3 => {
            let reason =
                "CUBLAS_STATUS_ALLOC_FAILED: the machine or the card has no memory left".into();
            return Err(GpuError::NoMemoryFor { call, reason });
        }
        7 => "CUBLAS_STATUS_INVALID_VALUE: this is a bug of longreel: please report it",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH: cuBLASLt does not know this card; install a newer one",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED: see dmesg for lines with Xid",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR: update the driver or cuBLASLt",
        _ => {
            return Err(GpuError::Call { call, reason: format!("cuBLAS status {status}") });
        }
    };
    Err(GpuError::Call { call, reason: reason.to_owned() })
}
