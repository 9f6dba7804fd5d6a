//! The OpenH264 decoder.
//!
//! The library has a reorder buffer of its own for B-frames, which goes by the low bits of the
//! picture order count and now and then gives pictures out of order. Each picture therefore carries
//! the number of the coded frame that it came from, and the caller orders by presentation time.

use crate::error::{MediaError, Result};
use crate::yuv::Plane;
use openh264_sys2 as sys;
use openh264_sys2::source::APILoader;
use std::ffi::{c_int, c_long};
use std::ptr;

/// A decoded picture, valid until the next call on its decoder.
pub(crate) struct Picture<'a> {
    /// The number given with the coded frame.
    pub(crate) tag: u64,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) planes: [Plane<'a>; 3],
}

/// An OpenH264 decoder with error concealment off: a damaged picture is an error, not a guess.
pub(crate) struct Decoder {
    raw: *mut sys::ISVCDecoder,
    table: sys::ISVCDecoderVtbl,
}

// SAFETY: the library keeps no thread-local state, and the decoder is reached only through `&mut`.
unsafe impl Send for Decoder {}

impl Decoder {
    pub(crate) fn new() -> Result<Self> {
        let mut raw: *mut sys::ISVCDecoder = ptr::null_mut();
        // SAFETY: the out-pointer is valid for the call.
        let code = unsafe { APILoader::WelsCreateDecoder(&raw mut raw) };
        ok("decoder creation", code)?;
        if raw.is_null() {
            return Err(MediaError::Codec { what: "decoder creation", code: -1 });
        }
        // SAFETY: a successful creation gives a pointer to an object whose first word points to
        // the table of functions, both alive until the object is destroyed.
        let table = unsafe { **raw };
        let decoder = Self { raw, table };
        let (Some(initialise), Some(set_option)) = (table.Initialize, table.SetOption) else {
            return Err(MediaError::Codec { what: "decoder table", code: -1 });
        };
        let mut parameters = sys::SDecodingParam::default();
        parameters.sVideoProperty.eVideoBsType = sys::VIDEO_BITSTREAM_AVC;
        parameters.eEcActiveIdc = sys::ERROR_CON_DISABLE;
        let mut quiet = sys::WELS_LOG_QUIET;
        // SAFETY: the option takes a pointer to an int, valid for the call.
        unsafe {
            set_option(raw, sys::DECODER_OPTION_TRACE_LEVEL, (&raw mut quiet).cast());
        }
        // SAFETY: the parameters are valid for reading.
        ok("decoder start", unsafe { initialise(raw, &raw const parameters) })?;
        Ok(decoder)
    }

    /// Decodes one coded frame in Annex B form and hands over the pictures that became ready.
    ///
    /// # Errors
    /// The library's state bits as [`MediaError::Codec`] when the frame cannot be decoded.
    pub(crate) fn decode(
        &mut self,
        stream: &[u8],
        tag: u64,
        mut ready: impl FnMut(Picture<'_>) -> Result<()>,
    ) -> Result<()> {
        let Ok(length) = c_int::try_from(stream.len()) else {
            return Err(MediaError::Codec { what: "decoding (a frame of 2 GiB)", code: -1 });
        };
        self.step(stream.as_ptr(), length, tag, &mut ready)?;
        // Without this the picture is held back until the next coded frame shows that it is whole.
        self.step(ptr::null(), 0, tag, &mut ready)
    }

    /// Hands over the pictures that are still held for reordering.
    pub(crate) fn flush(&mut self, mut ready: impl FnMut(Picture<'_>) -> Result<()>) -> Result<()> {
        let Some(call) = self.table.FlushFrame else {
            return Err(MediaError::Codec { what: "decoder table", code: -1 });
        };
        // The reorder buffer has 16 places.
        for _ in 0..16 {
            let mut planes = [ptr::null_mut::<u8>(); 3];
            let mut info = sys::SBufferInfo::default();
            // SAFETY: both out-pointers are valid for the call.
            unsafe { call(self.raw, planes.as_mut_ptr(), &raw mut info) };
            if !self.hand_over(planes, &info, &mut ready)? {
                break;
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        stream: *const u8,
        length: c_int,
        tag: u64,
        ready: &mut impl FnMut(Picture<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(call) = self.table.DecodeFrame2 else {
            return Err(MediaError::Codec { what: "decoder table", code: -1 });
        };
        let mut planes = [ptr::null_mut::<u8>(); 3];
        let mut info = sys::SBufferInfo { uiInBsTimeStamp: tag, ..Default::default() };
        // SAFETY: `stream` is null with length 0 or valid for `length` bytes, which the library
        // only reads; the out-pointers are valid for the call.
        let state = unsafe { call(self.raw, stream, length, planes.as_mut_ptr(), &raw mut info) };
        if state & !sys::dsFramePending != 0 {
            return Err(MediaError::Codec { what: "decoding of a frame", code: i64::from(state) });
        }
        self.hand_over(planes, &info, ready)?;
        Ok(())
    }

    /// Hands over the picture that a call returned, if there is one.
    fn hand_over(
        &self,
        planes: [*mut u8; 3],
        info: &sys::SBufferInfo,
        ready: &mut impl FnMut(Picture<'_>) -> Result<()>,
    ) -> Result<bool> {
        if info.iBufferStatus != 1 || planes.iter().any(|p| p.is_null()) {
            return Ok(false);
        }
        // SAFETY: with status 1 the union holds the picture's layout, its only variant.
        let layout = unsafe { info.UsrData.sSystemBuffer };
        let positive = |n: c_int| usize::try_from(n).unwrap_or(0);
        let (width, height) = (positive(layout.iWidth), positive(layout.iHeight));
        let strides = [positive(layout.iStride[0]), positive(layout.iStride[1])];
        let sane = width >= 2
            && height >= 2
            && width % 2 == 0
            && height % 2 == 0
            && strides[0] >= width
            && strides[1] >= width / 2;
        if !sane {
            return Err(MediaError::Codec {
                what: "decoding (a picture of a wrong size)",
                code: -2,
            });
        }
        let plane = |at: *mut u8, stride: usize, rows: usize, columns: usize| Plane {
            // SAFETY: the library's picture has `rows` rows of `stride` bytes from here on, the
            // last one of at least `columns`, and keeps it until the next call on this decoder,
            // which `&mut self` of every such call excludes while the slice lives.
            data: unsafe { std::slice::from_raw_parts(at, (rows - 1) * stride + columns) },
            stride,
        };
        ready(Picture {
            tag: info.uiOutYuvTimeStamp,
            width,
            height,
            planes: [
                plane(planes[0], strides[0], height, width),
                plane(planes[1], strides[1], height / 2, width / 2),
                plane(planes[2], strides[1], height / 2, width / 2),
            ],
        })?;
        Ok(true)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        if let Some(uninitialise) = self.table.Uninitialize {
            // SAFETY: allowed in any state of a live decoder.
            unsafe { uninitialise(self.raw) };
        }
        // SAFETY: `raw` came from the matching creation and is not used again.
        unsafe { APILoader::WelsDestroyDecoder(self.raw) };
    }
}

fn ok(what: &'static str, code: c_long) -> Result<()> {
    match code {
        0 => Ok(()),
        // `c_long` is 32 bits wide on Windows.
        #[allow(clippy::useless_conversion)]
        code => Err(MediaError::Codec { what, code: i64::from(code) }),
    }
}
