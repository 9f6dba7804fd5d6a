//! Sample tables: where each frame of a movie is, and when it is shown.

use super::read::{Bytes, child, children};

/// One coded frame in the file, in decoding order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SampleRef {
    /// Position in the file.
    pub(crate) offset: u64,
    pub(crate) size: u32,
    /// Presentation time in ticks, before the edit list.
    pub(crate) pts: i64,
    /// Decoding time in ticks.
    pub(crate) dts: i64,
    /// Decoding can start here.
    pub(crate) sync: bool,
}

/// No movie of more frames is read: 16.7 million are eight days at 24 per second.
pub(crate) const MAX_SAMPLES: usize = 1 << 24;

/// Why a table could not be read.
pub(crate) type Reason = &'static str;

/// Reads the tables of a progressive movie (`stbl`). `file_length` bounds what they may claim.
pub(crate) fn progressive(stbl: Bytes<'_>, file_length: u64) -> Result<Vec<SampleRef>, Reason> {
    let sizes = sizes(stbl, file_length).ok_or("its table of frame sizes is wrong")?;
    let mut samples: Vec<SampleRef> = sizes
        .into_iter()
        .map(|size| SampleRef { offset: 0, size, pts: 0, dts: 0, sync: true })
        .collect();
    offsets(stbl, &mut samples).ok_or("its table of positions is wrong")?;
    times(stbl, &mut samples).ok_or("its table of times is wrong")?;
    if let Some(mut stss) = child(stbl, b"stss") {
        let read = || -> Option<()> {
            stss.full()?;
            samples.iter_mut().for_each(|s| s.sync = false);
            for _ in 0..stss.count(4)? {
                samples.get_mut((stss.u32()? as usize).checked_sub(1)?)?.sync = true;
            }
            Some(())
        };
        let mut read = read;
        read().ok_or("its table of key frames is wrong")?;
    }
    Ok(samples)
}

fn sizes(stbl: Bytes<'_>, file_length: u64) -> Option<Vec<u32>> {
    let mut stsz = child(stbl, b"stsz")?;
    stsz.full()?;
    let fixed = stsz.u32()?;
    if fixed == 0 {
        let count = stsz.count(4).filter(|&n| n <= MAX_SAMPLES)?;
        return (0..count).map(|_| stsz.u32()).collect();
    }
    // One size for all: the count stands alone, so the file's length has to vouch for it.
    let count = stsz.u32()? as usize;
    let bytes = u64::from(fixed).checked_mul(count as u64)?;
    (count <= MAX_SAMPLES && bytes <= file_length).then(|| vec![fixed; count])
}

fn offsets(stbl: Bytes<'_>, samples: &mut [SampleRef]) -> Option<()> {
    let (mut chunks, wide) = match child(stbl, b"co64") {
        Some(table) => (table, true),
        None => (child(stbl, b"stco")?, false),
    };
    chunks.full()?;
    let chunk_count = chunks.count(if wide { 8 } else { 4 })?;
    let mut runs = child(stbl, b"stsc")?;
    runs.full()?;
    let run_count = runs.count(12)?;
    let mut next_run = || -> Option<(usize, u32)> {
        let (first, per_chunk) = (runs.u32()?, runs.u32()?);
        runs.u32()?;
        Some(((first as usize).checked_sub(1)?, per_chunk))
    };
    let mut upcoming = (run_count > 0).then(&mut next_run).flatten();
    let mut per_chunk = 0;
    let mut samples = samples.iter_mut();
    for index in 0..chunk_count {
        if let Some((first, count)) = upcoming.filter(|run| run.0 == index) {
            debug_assert_eq!(first, index);
            per_chunk = count;
            upcoming = next_run();
        }
        let mut offset = if wide { chunks.u64()? } else { u64::from(chunks.u32()?) };
        for _ in 0..per_chunk {
            let Some(sample) = samples.next() else { return Some(()) };
            sample.offset = offset;
            offset = offset.checked_add(u64::from(sample.size))?;
        }
    }
    samples.next().is_none().then_some(())
}

fn times(stbl: Bytes<'_>, samples: &mut [SampleRef]) -> Option<()> {
    let mut stts = child(stbl, b"stts")?;
    stts.full()?;
    let mut dts = 0i64;
    let mut at = 0usize;
    for _ in 0..stts.count(8)? {
        let (count, duration) = (stts.u32()? as usize, stts.u32()?);
        // The count may be anything; the samples that exist are the bound.
        let end = at.saturating_add(count).min(samples.len());
        for sample in &mut samples[at..end] {
            (sample.dts, sample.pts) = (dts, dts);
            dts = dts.checked_add(i64::from(duration))?;
        }
        at = end;
    }
    if at != samples.len() {
        return None;
    }
    let Some(mut ctts) = child(stbl, b"ctts") else { return Some(()) };
    ctts.full()?;
    let mut at = 0usize;
    for _ in 0..ctts.count(8)? {
        let (count, shift) = (ctts.u32()? as usize, ctts.u32()? as i32);
        let end = at.saturating_add(count).min(samples.len());
        // Version 0 says unsigned, but writers store negative shifts in it too, and no real shift
        // reaches 2^31.
        samples[at..end].iter_mut().for_each(|s| s.pts += i64::from(shift));
        at = end;
    }
    Some(())
}

/// Defaults for the samples of fragments, from `trex`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FragmentDefaults {
    pub(crate) duration: u32,
    pub(crate) size: u32,
    pub(crate) flags: u32,
}

/// Most frames that one fragment may hold.
const MAX_FRAGMENT_SAMPLES: usize = 1 << 20;

/// Reads the samples of `track` from a `moof` at `moof_offset`. Returns them and the decoding time
/// after the last; `start` is the time to go on from when the fragment says none.
pub(crate) fn fragment_samples(
    moof: Bytes<'_>,
    moof_offset: u64,
    track: u32,
    defaults: FragmentDefaults,
    start: i64,
    file_length: u64,
) -> Option<(Vec<SampleRef>, i64)> {
    let mut samples = Vec::new();
    let mut dts = start;
    for traf in children(moof).filter(|c| &c.kind == b"traf") {
        let mut tfhd = child(traf.body, b"tfhd")?;
        let (_, flags) = tfhd.full()?;
        if tfhd.u32()? != track {
            continue;
        }
        let base = if flags & 0x1 != 0 { tfhd.u64()? } else { moof_offset };
        if flags & 0x2 != 0 {
            tfhd.u32()?;
        }
        let mut own = defaults;
        for (bit, field) in
            [(0x8, &mut own.duration), (0x10, &mut own.size), (0x20, &mut own.flags)]
        {
            if flags & bit != 0 {
                *field = tfhd.u32()?;
            }
        }
        if let Some(mut tfdt) = child(traf.body, b"tfdt") {
            let (version, _) = tfdt.full()?;
            let time = if version == 1 { tfdt.u64()? } else { u64::from(tfdt.u32()?) };
            dts = i64::try_from(time).ok()?;
        }
        let mut offset = base;
        for run in children(traf.body).filter(|c| &c.kind == b"trun") {
            read_run(run.body, base, &mut offset, own, &mut dts, &mut samples, file_length)?;
        }
    }
    Some((samples, dts))
}

fn read_run(
    mut run: Bytes<'_>,
    base: u64,
    offset: &mut u64,
    own: FragmentDefaults,
    dts: &mut i64,
    samples: &mut Vec<SampleRef>,
    file_length: u64,
) -> Option<()> {
    let (_, flags) = run.full()?;
    let count = run.u32()? as usize;
    if flags & 0x1 != 0 {
        *offset = base.checked_add_signed(i64::from(run.u32()? as i32))?;
    }
    let first_flags = if flags & 0x4 != 0 { Some(run.u32()?) } else { None };
    if count > MAX_FRAGMENT_SAMPLES.checked_sub(samples.len())? {
        return None;
    }
    for index in 0..count {
        let field = |run: &mut Bytes<'_>, bit: u32, default: u32| {
            if flags & bit != 0 { run.u32() } else { Some(default) }
        };
        let duration = field(&mut run, 0x100, own.duration)?;
        let size = field(&mut run, 0x200, own.size)?;
        let default_flags = if index == 0 { first_flags.unwrap_or(own.flags) } else { own.flags };
        let sample_flags = field(&mut run, 0x400, default_flags)?;
        let shift = field(&mut run, 0x800, 0)? as i32;
        let end = offset.checked_add(u64::from(size))?;
        if end > file_length {
            return None;
        }
        samples.push(SampleRef {
            offset: *offset,
            size,
            pts: dts.checked_add(i64::from(shift))?,
            dts: *dts,
            sync: sample_flags & 0x0001_0000 == 0,
        });
        *offset = end;
        *dts = dts.checked_add(i64::from(duration))?;
    }
    Some(())
}
