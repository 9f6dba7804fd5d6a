//! Bytes, seconds and large numbers for people.

/// A byte count for people: `1.3 GB`.
pub fn human_bytes(bytes: u64) -> String {
    scaled(bytes as f64, "B")
}

/// A number of frames for people: `97 frames`, `1 frame`.
pub fn human_frames(frames: u64) -> String {
    format!("{frames} frame{}", if frames == 1 { "" } else { "s" })
}

/// A duration for people: `7.6 years`, `2 h 05 min`, `3 min 20 s`, `1.4 s`.
pub fn human_seconds(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        172_800..63_115_200 => format!("{:.1} days", seconds / 86400.0),
        _ => format!("{:.1} years", seconds / 31_557_600.0),
    }
}

pub(super) fn scaled(value: f64, unit: &str) -> String {
    for (limit, prefix) in
        [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
    {
        if value >= limit {
            return format!("{:.1} {prefix}{unit}", value / limit);
        }
    }
    format!("{value:.0} {unit}")
}
