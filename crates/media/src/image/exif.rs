//! The one EXIF field that matters: which way is up.

/// The orientation (1 to 8) in an EXIF block, with or without its `Exif\0\0` mark; 1 when it says
/// nothing or is damaged, because a picture shown sideways beats one that is refused.
pub(super) fn orientation(block: &[u8]) -> u8 {
    read(block).filter(|v| (1..=8).contains(v)).map_or(1, |v| v as u8)
}

fn read(block: &[u8]) -> Option<u16> {
    let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let little = match tiff.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let bytes = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let u32_at = |at: usize| -> Option<u32> {
        let bytes = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = u32_at(4)? as usize;
    for index in 0..usize::from(u16_at(directory)?) {
        let entry = directory.checked_add(2 + 12 * index)?;
        // Tag 0x0112, type 3 (16 bits), whose value is in the entry itself.
        if u16_at(entry)? == 0x0112 && u16_at(entry + 2)? == 3 {
            return u16_at(entry + 8);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_byte_orders_are_read_and_damage_means_upright() {
        let mut little =
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".to_vec();
        assert_eq!(orientation(&little), 6);
        assert_eq!(orientation(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0"), 8);
        for end in 0..little.len() - 4 {
            assert_eq!(orientation(&little[..end]), 1, "cut at {end}");
        }
        little[10..14].copy_from_slice(&[0xff; 4]);
        assert_eq!(orientation(&little), 1);
    }
}
