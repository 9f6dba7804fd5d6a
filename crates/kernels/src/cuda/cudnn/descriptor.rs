//! Descriptors of cuDNN's backend API, each given back when it is dropped.

use std::ffi::{CStr, c_char, c_void};

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptor_t, cudnnBackendDescriptorType_t as Sort, cudnnDataType_t as DataType,
    cudnnHandle_t,
};

use crate::cuda::api::Cudnn as Library;

/// Bytes of the library's last words that are kept.
const WORDS: usize = 512;

/// What cuDNN says when it does not do something.
pub type Refused = String;

/// A value of an attribute.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    Handle(cudnnHandle_t),
    DataType(DataType),
    /// `cudnnBackendHeurMode_t`.
    Heuristic(u32),
    /// `cudnnConvolutionMode_t`.
    ConvolutionMode(u32),
    /// `cudnnPointwiseMode_t`.
    PointwiseMode(u32),
    Flag(bool),
    Single(f32),
    Numbers(&'a [i64]),
    Text(&'a [u8]),
    Pointers(&'a [*mut c_void]),
    Descriptor(&'a Descriptor),
    Descriptors(&'a [&'a Descriptor]),
}

/// A descriptor.
pub struct Descriptor {
    library: &'static Library,
    raw: cudnnBackendDescriptor_t,
}

// SAFETY: a descriptor belongs to no thread; those of a device are used under its lock.
unsafe impl Send for Descriptor {}

impl Descriptor {
    /// A new one, without attributes.
    pub fn new(library: &'static Library, sort: Sort) -> Result<Self, Refused> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes a pointer.
        let status = unsafe { (library.api.cudnnBackendCreateDescriptor)(sort, &raw mut raw) };
        check(library, status)?;
        Ok(Self { library, raw })
    }

    /// With an attribute more.
    pub fn with(self, name: Name, value: Value<'_>) -> Result<Self, Refused> {
        let several: Vec<_> = match value {
            Value::Descriptors(all) => all.iter().map(|other| other.raw).collect(),
            _ => Vec::new(),
        };
        let (kind, count, values): (_, usize, *const c_void) = match &value {
            Value::Handle(handle) => (Type::CUDNN_TYPE_HANDLE, 1, (&raw const *handle).cast()),
            Value::DataType(of) => (Type::CUDNN_TYPE_DATA_TYPE, 1, (&raw const *of).cast()),
            Value::Heuristic(mode) => (Type::CUDNN_TYPE_HEUR_MODE, 1, (&raw const *mode).cast()),
            Value::ConvolutionMode(mode) => {
                (Type::CUDNN_TYPE_CONVOLUTION_MODE, 1, (&raw const *mode).cast())
            }
            Value::PointwiseMode(mode) => {
                (Type::CUDNN_TYPE_POINTWISE_MODE, 1, (&raw const *mode).cast())
            }
            Value::Single(number) => (Type::CUDNN_TYPE_FLOAT, 1, (&raw const *number).cast()),
            Value::Flag(flag) => (Type::CUDNN_TYPE_BOOLEAN, 1, (&raw const *flag).cast()),
            Value::Numbers(all) => (Type::CUDNN_TYPE_INT64, all.len(), all.as_ptr().cast()),
            Value::Text(text) => (Type::CUDNN_TYPE_CHAR, text.len(), text.as_ptr().cast()),
            Value::Pointers(all) => (Type::CUDNN_TYPE_VOID_PTR, all.len(), all.as_ptr().cast()),
            Value::Descriptor(other) => {
                (Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, (&raw const other.raw).cast())
            }
            Value::Descriptors(_) => {
                (Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, several.len(), several.as_ptr().cast())
            }
        };
        // SAFETY: the library copies as many values of the type as are said to be there; other descriptors are
        // counted references within it.
        let status = unsafe {
            let set = self.library.api.cudnnBackendSetAttribute;
            set(self.raw, name, kind, count as i64, values)
        };
        check(self.library, status).map(|()| self)
    }

    /// Checked by the library and not changed any more.
    pub fn finished(self) -> Result<Self, Refused> {
        // SAFETY: the descriptor is ours.
        let status = unsafe { (self.library.api.cudnnBackendFinalize)(self.raw) };
        check(self.library, status).map(|()| self)
    }

    /// The values of an attribute, as many as there is room for.
    fn get<'a, T>(&self, name: Name, kind: Type, room: &'a mut [T]) -> Result<&'a [T], Refused> {
        let mut count = 0;
        // SAFETY: the library writes at most as many values as there is room for; `T` is a number or a pointer as
        // long as the type says.
        let status = unsafe {
            let get = self.library.api.cudnnBackendGetAttribute;
            let values = room.as_mut_ptr().cast();
            get(self.raw, name, kind, room.len() as i64, &raw mut count, values)
        };
        check(self.library, status)?;
        Ok(&room[..usize::try_from(count).unwrap_or(0).min(room.len())])
    }

    /// A number.
    pub fn number(&self, name: Name) -> Result<i64, Refused> {
        let mut room = [0_i64];
        let found = self.get(name, Type::CUDNN_TYPE_INT64, &mut room)?;
        found.first().copied().ok_or_else(|| "it tells no number".to_owned())
    }

    /// Which notes on its numbers an engine has (`cudnnBackendNumericalNote_t`).
    pub fn notes(&self) -> Result<Vec<u32>, Refused> {
        let mut room = [0_u32; 32];
        let name = Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE;
        self.get(name, Type::CUDNN_TYPE_NUMERICAL_NOTE, &mut room).map(<[u32]>::to_vec)
    }

    /// Descriptors of a sort that it has, at most so many.
    pub fn parts(&self, name: Name, sort: Sort, most: usize) -> Result<Vec<Self>, Refused> {
        let new = |_| Self::new(self.library, sort);
        let mut parts = (0..most).map(new).collect::<Result<Vec<_>, _>>()?;
        // The library fills descriptors that are there already.
        let mut raw: Vec<_> = parts.iter().map(|part| part.raw).collect();
        let count = self.get(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut raw)?.len();
        parts.truncate(count);
        Ok(parts)
    }

    /// Starts a plan, with its tensors, on the stream of a handle.
    ///
    /// # Safety
    /// The addresses in `pack` have to be those of tensors of the plan's sizes.
    pub unsafe fn execute(&self, handle: cudnnHandle_t, pack: &Self) -> Result<(), Refused> {
        let execute = self.library.api.cudnnBackendExecute;
        // SAFETY: as the caller has to see to.
        let status = unsafe { execute(handle, self.raw, pack.raw) };
        check(self.library, status)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the library made it, and nobody else has it.
        unsafe { (self.library.api.cudnnBackendDestroyDescriptor)(self.raw) };
    }
}

/// `Ok` for status 0.
pub fn check(library: &Library, status: u32) -> Result<(), Refused> {
    if status == 0 {
        return Ok(());
    }
    let mut words = [0 as c_char; WORDS];
    // SAFETY: the library writes a text that it ends with a zero within the buffer, which has one more at its
    // end in any case; the name of a status is a constant of the library's.
    let (name, words) = unsafe {
        (library.last_words)(words.as_mut_ptr(), WORDS - 1);
        (CStr::from_ptr((library.name_of)(status)), CStr::from_ptr(words.as_ptr()))
    };
    let (name, words) = (name.to_string_lossy(), words.to_string_lossy());
    let words = words.trim();
    Err(if words.is_empty() { name.into_owned() } else { format!("{name} ({words})") })
}
