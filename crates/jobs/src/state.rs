//! The states of a job and the steps between them.
//!
//! ```text
//!                         lease
//!            ┌────────► queued ─────────────► running ──────────► completed
//!  create ───┘          │  ▲ │ deadline         │ │ │  complete
//!                cancel │  │ │                  │ │ │
//!                       │  │ └──────────┐  fail │ │ │ cancel
//!                       │  │            ▼       │ │ │ (worker let go, or died)
//!                       │  │          failed ◄──┘ │ └──────────► cancelled ◄─┐
//!                       │  └──────────────────────┘                          │
//!                       │    interrupted: handed back, paused, worker died   │
//!                       └────────────────────────────────────────────────────┘
//! ```
//!
//! *Paused* is a flag of a queued job: it is not leased until it is resumed. A running job that is
//! asked to pause or to cancel stays running until its worker lets it go, so that nobody writes to a
//! job that is already at rest; whoever asked sees [`crate::Job::stop`] until then.
//!
//! [`allows`] is the one table of steps. The database has the same table as a trigger and refuses
//! every other step, whatever code asks for it; a test compares the two.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// A worker holds a lease on it.
    Running,
    /// The film is whole.
    Completed,
    /// It ended with an error.
    Failed,
    /// Somebody called it off.
    Cancelled,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// True when nothing happens to the job any more but deletion.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// As it is written in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a job may go from one state to another. A job begins as queued.
pub fn allows(from: JobState, to: JobState) -> bool {
    use JobState::{Cancelled, Completed, Failed, Queued, Running};
    matches!(
        (from, to),
        (Queued, Running | Failed | Cancelled) | (Running, Queued | Completed | Failed | Cancelled)
    )
}

/// What a running job was asked to do at its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// To end as cancelled, within a step.
    Cancel,
    /// To finish its segment and wait in the queue, paused.
    Pause,
}

impl Stop {
    /// As it is written in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Cancel, Self::Pause].into_iter().find(|stop| stop.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_leads_out_of_a_final_state_and_every_state_is_reached() {
        for from in JobState::ALL {
            let steps = JobState::ALL.into_iter().filter(|&to| allows(from, to)).count();
            assert_eq!(steps == 0, from.is_final(), "{from}");
            assert!(!allows(from, from), "{from}");
            assert!(JobState::ALL.into_iter().any(|before| allows(before, from)), "{from}");
        }
    }
}
