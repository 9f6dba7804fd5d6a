//! NAL units: splitting start codes (Annex B) and length prefixes (MP4).

/// NAL unit type: a slice of an IDR picture.
pub(crate) const IDR: u8 = 5;
/// NAL unit type: sequence parameter set.
pub(crate) const SPS: u8 = 7;
/// NAL unit type: picture parameter set.
pub(crate) const PPS: u8 = 8;

/// The type of a NAL unit, from its first byte.
pub(crate) fn kind(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |b| b & 0x1f)
}

/// The NAL units of an Annex B stream, without start codes and trailing zeros.
pub(crate) fn annex_b_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        let unit = rest?;
        let end = unit.windows(3).position(|w| w == [0, 0, 1]);
        let (this, next) = match end {
            Some(at) => (&unit[..at], Some(&unit[at + 3..])),
            None => (unit, None),
        };
        rest = next;
        let zeros = this.iter().rev().take_while(|&&b| b == 0).count();
        Some(&this[..this.len() - zeros])
    })
    .filter(|unit| !unit.is_empty())
}

fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    let at = stream.windows(3).position(|w| w == [0, 0, 1])?;
    Some(&stream[at + 3..])
}

/// Appends `nal` with the four-byte length that MP4 wants in front of it.
pub(crate) fn push_with_length(out: &mut Vec<u8>, nal: &[u8]) {
    // One NAL unit of one encoded picture is far below 4 GiB.
    out.extend_from_slice(&(nal.len() as u32).to_be_bytes());
    out.extend_from_slice(nal);
}

/// The NAL units of an MP4 sample whose lengths take `length_size` bytes (1, 2 or 4); `None` when a
/// length points past the end.
pub(crate) fn sample_units(sample: &[u8], length_size: usize) -> Option<Vec<&[u8]>> {
    let mut units = Vec::new();
    let mut rest = sample;
    while !rest.is_empty() {
        let head = rest.get(..length_size)?;
        let len = head.iter().fold(0usize, |n, &b| n << 8 | usize::from(b));
        rest = &rest[length_size..];
        units.push(rest.get(..len)?);
        rest = &rest[len..];
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_codes_of_three_and_four_bytes_are_split() {
        let stream = [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0, 0];
        let units: Vec<_> = annex_b_units(&stream).collect();
        assert_eq!(units, [&[0x67u8, 1, 2][..], &[0x68, 3], &[0x65]]);
    }

    #[test]
    fn a_length_past_the_end_of_the_sample_is_refused() {
        assert_eq!(sample_units(&[0, 0, 0, 2, 9, 8], 4), Some(vec![&[9u8, 8][..]]));
        assert_eq!(sample_units(&[0, 0, 0, 3, 9, 8], 4), None);
        assert_eq!(sample_units(&[255, 255, 255, 255, 9, 8], 4), None);
        assert_eq!(sample_units(&[0, 0, 0], 4), None);
    }
}
