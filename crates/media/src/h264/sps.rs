//! The sequence parameter set: what a stream is, before any of it is decoded (H.264, 7.3.2.1).

use crate::yuv::ColourSpace;

/// Shapes of pixels by number, from 1 on (H.264, table E-1).
const PIXEL_ASPECTS: [(u32, u32); 16] = [
    (1, 1),
    (12, 11),
    (10, 11),
    (16, 11),
    (40, 33),
    (24, 11),
    (20, 11),
    (32, 11),
    (80, 33),
    (18, 11),
    (15, 11),
    (64, 33),
    (160, 99),
    (4, 3),
    (3, 2),
    (2, 1),
];

/// What a decoder and a limit need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sps {
    pub(crate) profile: u8,
    /// Coded size, a multiple of 16, in pixels.
    pub(crate) coded_width: u64,
    pub(crate) coded_height: u64,
    /// 1 is 4:2:0.
    pub(crate) chroma_format: u32,
    pub(crate) bit_depth: u32,
    /// Fields instead of frames may occur.
    pub(crate) interlaced: bool,
    pub(crate) colour: ColourSpace,
    /// Width and height of a pixel as shown, where it is said.
    pub(crate) pixel_aspect: Option<(u32, u32)>,
}

impl Sps {
    /// Reads a NAL unit of type 7; `None` when it is damaged.
    pub(crate) fn parse(nal: &[u8]) -> Option<Self> {
        let payload = without_emulation_prevention(nal.get(1..)?);
        let mut bits = Bits { data: &payload, at: 0 };
        let profile = bits.read(8)? as u8;
        bits.read(16)?;
        bits.ue()?; // its identifier
        let (mut chroma_format, mut bit_depth) = (1, 8);
        if matches!(
            profile,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        ) {
            chroma_format = bits.ue()?;
            if chroma_format == 3 {
                bits.read(1)?;
            }
            bit_depth = bits.ue()?.checked_add(8)?.max(bits.ue()?.checked_add(8)?);
            bits.read(1)?;
            if bits.read(1)? == 1 {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.read(1)? == 1 {
                        bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.ue()?; // log2_max_frame_num
        match bits.ue()? {
            0 => {
                bits.ue()?;
            }
            1 => {
                bits.read(1)?;
                bits.ue()?;
                bits.ue()?;
                for _ in 0..bits.ue().filter(|&n| n <= 255)? {
                    bits.ue()?;
                }
            }
            _ => {}
        }
        bits.ue()?; // reference frames
        bits.read(1)?;
        let width_units = u64::from(bits.ue()?) + 1;
        let height_units = u64::from(bits.ue()?) + 1;
        let interlaced = bits.read(1)? == 0;
        if interlaced {
            bits.read(1)?;
        }
        bits.read(1)?;
        if bits.read(1)? == 1 {
            for _ in 0..4 {
                bits.ue()?;
            }
        }
        let unknown = ColourSpace { matrix: 2, full_range: false };
        let (mut pixel_aspect, mut colour) = (None, unknown);
        if bits.read(1)? == 1 {
            pixel_aspect = bits.pixel_aspect().unwrap_or(None);
            colour = bits.colour().unwrap_or(unknown);
        }
        Some(Self {
            profile,
            coded_width: width_units * 16,
            coded_height: height_units * 16 * if interlaced { 2 } else { 1 },
            chroma_format,
            bit_depth,
            interlaced,
            colour,
            pixel_aspect,
        })
    }

    /// Why the built-in decoder cannot decode this stream, if so.
    pub(crate) fn unsupported(&self) -> Option<String> {
        if self.bit_depth != 8 {
            return Some(format!("its samples have {} bits", self.bit_depth));
        }
        if self.chroma_format != 1 {
            return Some("its colour is not subsampled as 4:2:0".to_owned());
        }
        if self.interlaced {
            return Some("it is interlaced".to_owned());
        }
        if !matches!(self.profile, 66 | 77 | 100) {
            return Some(format!("its H.264 profile is number {}", self.profile));
        }
        // Level 5.2, the library's limit.
        if self.coded_width * self.coded_height > 36864 * 256 {
            return Some(format!("it has {}x{} pixels", self.coded_width, self.coded_height));
        }
        None
    }
}

fn without_emulation_prevention(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: usize) -> Option<u32> {
        let mut value = 0u32;
        for _ in 0..count {
            let byte = *self.data.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// An unsigned Exp-Golomb number (9.1).
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.read(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.read(zeros)?)
    }

    fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) })
    }

    fn skip_scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..size {
            if next != 0 {
                next = (last + self.se()?).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
        Some(())
    }

    /// What the video usability information begins with (E.1.1).
    fn pixel_aspect(&mut self) -> Option<Option<(u32, u32)>> {
        if self.read(1)? == 0 {
            return Some(None);
        }
        let number = self.read(8)?;
        Some(match number {
            255 => Some((self.read(16)?, self.read(16)?)),
            _ => PIXEL_ASPECTS.get((number as usize).wrapping_sub(1)).copied(),
        })
    }

    /// The colour fields, which come behind it.
    fn colour(&mut self) -> Option<ColourSpace> {
        if self.read(1)? == 1 {
            self.read(1)?;
        }
        let mut colour = ColourSpace { matrix: 2, full_range: false };
        if self.read(1)? == 1 {
            self.read(3)?;
            colour.full_range = self.read(1)? == 1;
            if self.read(1)? == 1 {
                self.read(16)?;
                colour.matrix = self.read(8)? as u8;
            }
        }
        Some(colour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameRate;
    use crate::h264::encoder::{Encoder, EncoderSettings};

    #[test]
    fn our_own_encoder_announces_bt709_and_its_size() {
        let settings =
            EncoderSettings { width: 98, height: 64, rate: FrameRate::whole(24), quantiser: 20 };
        let sets = Encoder::new(&settings).unwrap().parameter_sets().unwrap();
        let sps = Sps::parse(&sets.sps).unwrap();
        assert_eq!((sps.coded_width, sps.coded_height, sps.profile), (112, 64, 77));
        assert_eq!(sps.colour, ColourSpace { matrix: 1, full_range: false });
        assert_eq!(sps.unsupported(), None);
    }

    #[test]
    fn every_cut_of_a_parameter_set_is_refused_or_read_without_a_panic() {
        let settings =
            EncoderSettings { width: 64, height: 64, rate: FrameRate::whole(24), quantiser: 20 };
        let sps = Encoder::new(&settings).unwrap().parameter_sets().unwrap().sps;
        for end in 0..sps.len() {
            let _ = Sps::parse(&sps[..end]);
        }
        assert_eq!(Sps::parse(&sps[..4]), None);
        assert_eq!(Sps::parse(&[0x67, 100, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
