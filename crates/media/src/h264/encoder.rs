//! The OpenH264 encoder with fixed settings: one thread, one slice, constant quantiser.
//!
//! The library is called through its C interface because what matters here is out of reach of the
//! safe wrapper: the constant quantiser (`iDLayerQp`) and CABAC. Rate control is off, so a
//! frame's bits depend on nothing but the frames since the last IDR picture; with one thread the
//! result is the same on every run, which is what makes a resumed film equal byte for byte.

use crate::error::{MediaError, Result};
use crate::frame::FrameRate;
use crate::yuv::Yuv420;
use openh264_sys2 as sys;
use openh264_sys2::source::APILoader;
use std::ffi::c_int;
use std::ptr;

/// One encoded picture, as MP4 wants it.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// Slice NAL units, each after a four-byte length.
    pub(crate) sample: Vec<u8>,
    /// Decoding can start here.
    pub(crate) is_idr: bool,
}

/// Sequence and picture parameter sets, without start codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParameterSets {
    pub(crate) sps: Vec<u8>,
    pub(crate) pps: Vec<u8>,
}

/// What an encoder is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncoderSettings {
    /// Even, 16..=3840.
    pub(crate) width: u32,
    /// Even, 16..=2160 (or the two exchanged).
    pub(crate) height: u32,
    pub(crate) rate: FrameRate,
    /// Quantiser, 0 (best) to 51.
    pub(crate) quantiser: u8,
}

/// An OpenH264 encoder. Made anew for each part of a film.
pub(crate) struct Encoder {
    raw: *mut sys::ISVCEncoder,
    table: sys::ISVCEncoderVtbl,
    info: Box<sys::SFrameBSInfo>,
    frames: u64,
    rate: FrameRate,
}

// SAFETY: the library keeps no thread-local state, and the encoder is reached only through `&mut`.
unsafe impl Send for Encoder {}

impl Encoder {
    /// Creates and initialises an encoder.
    ///
    /// # Errors
    /// [`MediaError::Setting`] for a size that H.264 at 4:2:0 or the library cannot hold,
    /// [`MediaError::Codec`] when the library refuses.
    pub(crate) fn new(settings: &EncoderSettings) -> Result<Self> {
        check_size(settings.width, settings.height)?;
        let mut raw: *mut sys::ISVCEncoder = ptr::null_mut();
        // SAFETY: the out-pointer is valid for the call.
        let code = unsafe { APILoader::WelsCreateSVCEncoder(&raw mut raw) };
        ok("encoder creation", code)?;
        if raw.is_null() {
            return Err(MediaError::Codec { what: "encoder creation", code: -1 });
        }
        // SAFETY: a successful creation gives a pointer to an object whose first word points to
        // the table of functions, both alive until the object is destroyed.
        let table = unsafe { **raw };
        let mut encoder = Self { raw, table, info: Box::default(), frames: 0, rate: settings.rate };
        encoder.initialise(settings)?;
        Ok(encoder)
    }

    fn initialise(&mut self, settings: &EncoderSettings) -> Result<()> {
        let (Some(defaults), Some(initialise), Some(set_option)) =
            (self.table.GetDefaultParams, self.table.InitializeExt, self.table.SetOption)
        else {
            return Err(MediaError::Codec { what: "encoder table", code: -1 });
        };
        let mut p = sys::SEncParamExt::default();
        // SAFETY: `raw` is a live encoder and `p` is valid for writing.
        ok("encoder defaults", unsafe { defaults(self.raw, &raw mut p) })?;
        let qp = c_int::from(settings.quantiser.min(51));
        let fps = settings.rate.as_f64() as f32;
        // Sizes were checked to be at most 3840.
        p.iPicWidth = settings.width as c_int;
        p.iPicHeight = settings.height as c_int;
        p.fMaxFrameRate = fps;
        // The screen-content mode was measured on drawn films too: the sizes and the PSNR of both
        // differ by less than 2 % and 0.3 dB, and this one is the better tested.
        p.iUsageType = sys::CAMERA_VIDEO_REAL_TIME;
        p.iRCMode = sys::RC_OFF_MODE;
        p.iTargetBitrate = sys::UNSPECIFIED_BIT_RATE as c_int;
        p.iMaxBitrate = sys::UNSPECIFIED_BIT_RATE as c_int;
        p.iMinQp = qp;
        p.iMaxQp = qp;
        p.iTemporalLayerNum = 1;
        p.iSpatialLayerNum = 1;
        p.iComplexityMode = sys::HIGH_COMPLEXITY;
        // IDR pictures come only where a part begins.
        p.uiIntraPeriod = 0;
        p.iNumRefFrame = 1;
        p.eSpsPpsIdStrategy = sys::CONSTANT_ID;
        p.iEntropyCodingModeFlag = 1;
        p.bEnableFrameSkip = false;
        p.bEnableLongTermReference = false;
        p.iMultipleThreadIdc = 1;
        p.bUseLoadBalancing = false;
        p.iLoopFilterDisableIdc = 0;
        p.bEnableDenoise = false;
        p.bEnableBackgroundDetection = false;
        p.bEnableAdaptiveQuant = false;
        p.bEnableSceneChangeDetect = false;
        p.bEnableFrameCroppingFlag = true;
        let layer = &mut p.sSpatialLayers[0];
        layer.iVideoWidth = p.iPicWidth;
        layer.iVideoHeight = p.iPicHeight;
        layer.fFrameRate = fps;
        layer.iSpatialBitrate = p.iTargetBitrate;
        layer.iMaxSpatialBitrate = p.iMaxBitrate;
        layer.uiProfileIdc = sys::PRO_MAIN;
        layer.iDLayerQp = qp;
        layer.sSliceArgument.uiSliceMode = sys::SM_SINGLE_SLICE;
        layer.sSliceArgument.uiSliceNum = 1;
        layer.bVideoSignalTypePresent = true;
        layer.uiVideoFormat = 5; // unspecified
        layer.bFullRange = false;
        layer.bColorDescriptionPresent = true;
        layer.uiColorPrimaries = 1; // BT.709
        layer.uiTransferCharacteristics = 1;
        layer.uiColorMatrix = 1;
        let mut quiet = sys::WELS_LOG_QUIET;
        // SAFETY: the option takes a pointer to an int, valid for the call.
        unsafe {
            set_option(self.raw, sys::ENCODER_OPTION_TRACE_LEVEL, (&raw mut quiet).cast());
        }
        // SAFETY: `p` is fully initialised and valid for reading.
        ok("encoder start", unsafe { initialise(self.raw, &raw const p) })
    }

    /// The parameter sets that every picture of this encoder refers to.
    pub(crate) fn parameter_sets(&mut self) -> Result<ParameterSets> {
        let Some(call) = self.table.EncodeParameterSets else {
            return Err(MediaError::Codec { what: "encoder table", code: -1 });
        };
        // SAFETY: the encoder is initialised and `info` is valid for writing.
        ok("parameter sets", unsafe { call(self.raw, &raw mut *self.info) })?;
        let (mut sps, mut pps) = (Vec::new(), Vec::new());
        self.for_each_unit(|nal| match super::nal::kind(nal) {
            super::nal::SPS => sps = nal.to_vec(),
            super::nal::PPS => pps = nal.to_vec(),
            _ => {}
        });
        if sps.len() < 4 || pps.is_empty() {
            return Err(MediaError::Codec { what: "parameter sets", code: -2 });
        }
        Ok(ParameterSets { sps, pps })
    }

    /// Encodes one picture of the size given at creation.
    pub(crate) fn encode(&mut self, picture: &Yuv420) -> Result<Encoded> {
        let Some(call) = self.table.EncodeFrame else {
            return Err(MediaError::Codec { what: "encoder table", code: -1 });
        };
        let (w, half) = (picture.width as c_int, (picture.width / 2) as c_int);
        let millis = self.frames * 1000 * u64::from(self.rate.den) / u64::from(self.rate.num);
        let source = sys::SSourcePicture {
            iColorFormat: sys::videoFormatI420,
            iStride: [w, half, half, 0],
            pData: [
                picture.y.as_ptr().cast_mut(),
                picture.u.as_ptr().cast_mut(),
                picture.v.as_ptr().cast_mut(),
                ptr::null_mut(),
            ],
            iPicWidth: w,
            iPicHeight: picture.height as c_int,
            uiTimeStamp: millis as i64,
            bPsnrY: false,
            bPsnrU: false,
            bPsnrV: false,
        };
        // SAFETY: the planes have the sizes that the strides and dimensions say (`Yuv420::new`),
        // they outlive the call, and the library only reads them.
        ok("encoding", unsafe { call(self.raw, &raw const source, &raw mut *self.info) })?;
        self.frames += 1;
        let mut out = Encoded::default();
        self.for_each_unit(|nal| match super::nal::kind(nal) {
            // The parameter sets live once, in the file's head.
            super::nal::SPS | super::nal::PPS => {}
            kind => {
                out.is_idr |= kind == super::nal::IDR;
                super::nal::push_with_length(&mut out.sample, nal);
            }
        });
        if out.sample.is_empty() {
            return Err(MediaError::Codec { what: "encoding (a frame was skipped)", code: -3 });
        }
        Ok(out)
    }

    /// Makes the next picture an IDR picture.
    pub(crate) fn force_idr(&mut self) -> Result<()> {
        let Some(call) = self.table.ForceIntraFrame else {
            return Err(MediaError::Codec { what: "encoder table", code: -1 });
        };
        // SAFETY: the encoder is initialised.
        ok("forcing an IDR picture", unsafe { call(self.raw, true) })
    }

    fn for_each_unit(&self, mut visit: impl FnMut(&[u8])) {
        let layers = (self.info.iLayerNum.max(0) as usize).min(self.info.sLayerInfo.len());
        for layer in &self.info.sLayerInfo[..layers] {
            let count = layer.iNalCount.max(0) as usize;
            if layer.pNalLengthInByte.is_null() || layer.pBsBuf.is_null() {
                continue;
            }
            // SAFETY: after a successful call the library guarantees `iNalCount` lengths and a
            // buffer of their sum, valid until the next call on this encoder.
            let bytes = unsafe {
                let lengths = std::slice::from_raw_parts(layer.pNalLengthInByte, count);
                let total = lengths.iter().map(|&n| n.max(0) as usize).sum();
                std::slice::from_raw_parts(layer.pBsBuf, total)
            };
            super::nal::annex_b_units(bytes).for_each(&mut visit);
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if let Some(uninitialise) = self.table.Uninitialize {
            // SAFETY: allowed in any state of a live encoder.
            unsafe { uninitialise(self.raw) };
        }
        // SAFETY: `raw` came from the matching creation and is not used again.
        unsafe { APILoader::WelsDestroySVCEncoder(self.raw) };
    }
}

/// Bytes that the built-in encoder takes for films of that size, its copy of a picture included. Measured
/// (`tests/encoder_memory.rs`): the library has two pictures for reference, a copy of the source, twice
/// an uncompressed picture for the bits, and a few hundred bytes for each macroblock, all with a border of
/// 32 pixels; its tables do not depend on the size.
pub fn encoder_bytes(width: usize, height: usize) -> u64 {
    let bordered = |side: usize| (side.next_multiple_of(16) + 64) as u64;
    6_400_000 + bordered(width) * bordered(height) * 21 / 2
}

/// Sizes that the built-in encoder can write.
pub(crate) fn check_size(width: u32, height: u32) -> Result<()> {
    let refuse = |rule: &str, cure: String| {
        Err(MediaError::Setting {
            what: "film size",
            value: format!("{width}x{height}"),
            rule: rule.to_owned(),
            cure,
        })
    };
    if width % 2 == 1 || height % 2 == 1 {
        let even = |n: u32| n + n % 2;
        return refuse(
            "4:2:0 video needs an even width and height",
            format!("use {}x{}, or write PNG frames or a GIF", even(width), even(height)),
        );
    }
    let (long, short) = (width.max(height), width.min(height));
    if short < 16 || long > 3840 || short > 2160 {
        return refuse(
            "the built-in H.264 encoder goes from 16x16 to 3840x2160",
            "choose another size, another codec (through ffmpeg) or PNG frames".to_owned(),
        );
    }
    Ok(())
}

fn ok(what: &'static str, code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(MediaError::Codec { what, code: i64::from(code) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;

    fn settings() -> EncoderSettings {
        EncoderSettings { width: 64, height: 48, rate: FrameRate::whole(16), quantiser: 20 }
    }

    fn encode_three() -> (ParameterSets, Vec<Encoded>) {
        let mut encoder = Encoder::new(&settings()).unwrap();
        let sets = encoder.parameter_sets().unwrap();
        let mut yuv = Yuv420::new(64, 48);
        let samples = (0..3u8)
            .map(|i| {
                yuv.fill(&Frame::filled(64, 48, [40 * i, 100, 200]));
                encoder.encode(&yuv).unwrap()
            })
            .collect();
        (sets, samples)
    }

    #[test]
    fn two_fresh_encoders_give_the_same_bytes() {
        let (a_sets, a) = encode_three();
        let (b_sets, b) = encode_three();
        assert_eq!(a_sets, b_sets);
        assert!(a[0].is_idr && !a[1].is_idr && !a[2].is_idr);
        for (x, y) in a.iter().zip(&b) {
            assert_eq!(x.sample, y.sample);
        }
    }

    #[test]
    fn an_odd_width_is_refused_with_the_even_one_beside_it() {
        let error = check_size(97, 96).unwrap_err().to_string();
        assert!(error.contains("97x96") && error.contains("98x96"), "{error}");
    }
}
