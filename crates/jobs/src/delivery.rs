//! Webhook deliveries: what a receiver is still owed, and how often it is tried.

use serde::{Deserialize, Serialize};

use crate::id::{DeliveryId, JobId};

/// What a delivery reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeliveryEvent {
    /// The film is whole.
    #[serde(rename = "job.completed")]
    Completed,
    /// The job ended with an error.
    #[serde(rename = "job.failed")]
    Failed,
    /// The job was called off.
    #[serde(rename = "job.cancelled")]
    Cancelled,
}

impl DeliveryEvent {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::Cancelled];

    /// As it stands in the message's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "job.completed",
            Self::Failed => "job.failed",
            Self::Cancelled => "job.cancelled",
        }
    }

    /// The event of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == name)
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It will be tried, for the first time or again.
    Pending,
    /// The receiver took it.
    Delivered,
    /// It was tried as often as allowed, or the receiver wants no more.
    GivenUp,
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::GivenUp];

    /// As it is written in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A message that a job's end owes to its webhook. It is made in the same transaction as the end, so
/// that neither is without the other; its body is composed from the job, which does not change any
/// more, when it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its name, the same in each attempt.
    pub id: DeliveryId,
    /// The job. When it is deleted, what is still owed goes with it.
    pub job: JobId,
    /// What is reported.
    pub event: DeliveryEvent,
    /// Where to.
    pub url: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it is tried next, in milliseconds since 1970.
    pub next_ms: i64,
    /// Attempts whose outcome is known.
    pub attempts: u32,
    /// HTTP status of the last answer.
    pub last_status: Option<u16>,
}

/// The right to try a delivery once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryLease {
    /// What to deliver.
    pub delivery: Delivery,
    /// Goes with the outcome.
    pub token: String,
}

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryOutcome {
    /// HTTP status of the answer; `None` when there was none.
    pub status: Option<u16>,
    /// What went wrong, when there was no answer. Cut at 1 KiB.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How long the receiver asked to be left alone (`Retry-After`), in milliseconds. Beyond the
    /// ceiling of the [`Backoff`] it counts as the ceiling.
    pub retry_after_ms: Option<u64>,
}

impl DeliveryOutcome {
    /// True for the statuses 200 to 299, the only ones that count as taken.
    pub fn is_delivered(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// True for 410 Gone, by which a receiver says that it wants no more.
    pub fn is_gone(&self) -> bool {
        self.status == Some(410)
    }
}

/// An attempt, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// From 1.
    pub number: u32,
    /// When its outcome was recorded, in milliseconds since 1970.
    pub at_ms: i64,
    /// How it went.
    pub outcome: DeliveryOutcome,
}

/// When a failed delivery is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// After the first attempt, in milliseconds.
    pub first_ms: u64,
    /// Each wait is this many times the one before.
    pub factor: u32,
    /// No wait is longer than this, in milliseconds.
    pub ceiling_ms: u64,
    /// After as many attempts it is given up.
    pub max_attempts: u32,
}

impl Default for Backoff {
    /// 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, 6 h, then 12 h each: 12 attempts in about 55 hours.
    fn default() -> Self {
        Self { first_ms: 5_000, factor: 4, ceiling_ms: 43_200_000, max_attempts: 12 }
    }
}

impl Backoff {
    /// How long to wait after the `attempts`-th failure, from 1, in milliseconds.
    pub fn wait_ms(&self, attempts: u32) -> u64 {
        let factor = u64::from(self.factor).checked_pow(attempts.saturating_sub(1));
        factor.map_or(self.ceiling_ms, |f| self.first_ms.saturating_mul(f).min(self.ceiling_ms))
    }
}

/// Which deliveries a list shows, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Of this job only.
    pub job: Option<JobId>,
    /// In this state only.
    pub state: Option<DeliveryState>,
    /// Older than this one.
    pub after: Option<DeliveryId>,
    /// 1 to 100; 0 is 20.
    pub limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_never_overflow() {
        let backoff = Backoff::default();
        let waits: Vec<u64> = (1..=9).map(|n| backoff.wait_ms(n) / 1_000).collect();
        assert_eq!(waits, [5, 20, 80, 320, 1_280, 5_120, 20_480, 43_200, 43_200]);
        assert_eq!(backoff.wait_ms(u32::MAX), backoff.ceiling_ms);
        assert_eq!(backoff.wait_ms(0), 5_000);
    }
}
