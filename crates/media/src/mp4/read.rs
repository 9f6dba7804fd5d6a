//! Reading boxes from bytes that somebody else wrote: every access is checked, nothing is
//! allocated from a count before the bytes that it counts are known to be there.

/// Bytes read in order, big-endian. Each read gives `None` past the end.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Version and flags.
    pub(crate) fn full(&mut self) -> Option<(u8, u32)> {
        let word = self.u32()?;
        Some(((word >> 24) as u8, word & 0x00ff_ffff))
    }

    /// A count that is followed by entries of `entry_bytes` each; `None` when they are not there.
    pub(crate) fn count(&mut self, entry_bytes: usize) -> Option<usize> {
        let count = self.u32()? as usize;
        (count.checked_mul(entry_bytes)? <= self.0.len()).then_some(count)
    }
}

/// A box inside another.
#[derive(Clone, Copy)]
pub(crate) struct Child<'a> {
    pub(crate) kind: [u8; 4],
    pub(crate) body: Bytes<'a>,
    /// Header and body.
    pub(crate) whole: &'a [u8],
}

/// The boxes in `data`. A box that claims to be longer than `data` ends the iteration: what follows
/// cannot be found anyway.
pub(crate) fn children(data: Bytes<'_>) -> impl Iterator<Item = Child<'_>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let start = rest.0;
        let mut head = rest;
        let short = head.u32()?;
        let kind = head.take(4)?.try_into().ok()?;
        let (size, header) = match short {
            0 => (start.len() as u64, 8),
            1 => (head.u64()?, 16),
            n => (u64::from(n), 8),
        };
        let size = usize::try_from(size).ok().filter(|&n| n >= header)?;
        let whole = rest.take(size)?;
        Some(Child { kind, body: Bytes(&whole[header..]), whole })
    })
}

/// The first child of `kind`.
pub(crate) fn child<'a>(data: Bytes<'a>, kind: &[u8; 4]) -> Option<Bytes<'a>> {
    children(data).find(|c| &c.kind == kind).map(|c| c.body)
}

/// Follows `path` from box to box.
pub(crate) fn descend<'a>(data: Bytes<'a>, path: &[&[u8; 4]]) -> Option<Bytes<'a>> {
    path.iter().try_fold(data, |data, kind| child(data, kind))
}

/// Four letters for a message: what cannot be printed becomes a dot.
pub(crate) fn letters(kind: [u8; 4]) -> String {
    kind.iter().map(|&b| if b.is_ascii_graphic() { b as char } else { '.' }).collect()
}
