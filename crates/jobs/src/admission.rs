//! How much is taken in: limits of the queue and of one owner.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Limits that hold for everybody, and for owners without limits of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Jobs that may wait at once, paused ones included. At least 1.
    pub queue_length: u64,
    /// For each owner.
    pub owner: OwnerLimits,
}

/// Limits of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerLimits {
    /// Jobs that may wait at once, paused ones included. At least 1.
    pub queued: u64,
    /// Jobs that may run at once; the others wait. At least 1.
    pub running: u64,
    /// Pixel frames of one film; `None` allows any length, endless films too.
    pub frames: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue_length: 1_000, owner: OwnerLimits { queued: 100, running: 4, frames: None } }
    }
}

/// Which limit a job met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// [`Limits::queue_length`].
    QueueLength,
    /// [`OwnerLimits::queued`].
    OwnerQueued,
    /// [`OwnerLimits::frames`].
    Frames,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueueLength => "waiting jobs of all owners",
            Self::OwnerQueued => "waiting jobs of this owner",
            Self::Frames => "frames of one film",
        })
    }
}

/// When a place in the queue can be expected, in milliseconds: the mean time of recent jobs shared by
/// what runs at once, between 5 seconds and an hour; a minute when nothing is known.
pub(crate) fn retry_after_ms(recent_durations_ms: &[i64], running: u64) -> u64 {
    if recent_durations_ms.is_empty() {
        return 60_000;
    }
    let sum: i64 = recent_durations_ms.iter().fold(0, |sum, &ms| sum.saturating_add(ms.max(0)));
    let mean = sum as u64 / recent_durations_ms.len() as u64;
    (mean / running.max(1)).clamp(5_000, 3_600_000)
}

/// Work given to an owner, in frames, worth half as much after each `half_life_ms`. A clock that
/// jumped back takes nothing off.
pub(crate) fn decayed_work(work: f64, since_ms: i64, now_ms: i64, half_life_ms: i64) -> f64 {
    let age = now_ms.saturating_sub(since_ms).max(0) as f64;
    work * 0.5_f64.powf(age / half_life_ms.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_promised_by_what_jobs_took_and_how_many_run() {
        assert_eq!(retry_after_ms(&[], 3), 60_000);
        assert_eq!(retry_after_ms(&[60_000, 120_000], 3), 30_000);
        assert_eq!(retry_after_ms(&[10, 20], 0), 5_000);
        assert_eq!(retry_after_ms(&[i64::MAX, i64::MAX], 1), 3_600_000);
    }

    #[test]
    fn work_is_worth_half_after_a_half_life_and_not_less_when_the_clock_goes_back() {
        assert_eq!(decayed_work(80.0, 0, 1_000, 1_000), 40.0);
        assert_eq!(decayed_work(80.0, 5_000, 0, 1_000), 80.0);
    }
}
