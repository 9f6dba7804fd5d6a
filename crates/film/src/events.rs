//! What a run tells while it works, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

use crate::drift::SegmentDrift;
use crate::plan::PlanSummary;
use crate::request::TimedPrompt;

/// Something that happened in a run. Serialised, each is one line of `--json`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The plan, before any weight is loaded.
    Plan(Box<PlanSummary>),
    /// A stage that has no steps has begun, such as loading weights or encoding the prompt.
    Stage {
        /// What is being done, in a few words.
        what: String,
    },
    /// Something the person should know; the run goes on.
    Warning {
        /// The text.
        message: String,
    },
    /// A segment begins.
    Segment {
        /// From 0.
        segment: usize,
        /// How many there are, unless endless.
        segments: Option<usize>,
        /// The prompt it is made from.
        prompt: String,
    },
    /// A denoising row is done.
    Step {
        /// From 0.
        segment: usize,
        /// Rows done in this segment.
        step: usize,
        /// Rows of this segment.
        steps: usize,
        /// Seconds this row took.
        seconds: f64,
        /// Estimated seconds until the film is done, unless endless.
        left_seconds: Option<f64>,
        /// Share of the keys that attention kept where it left some out, counted by queries and keys, when the film
        /// has such rows and this is one of them.
        #[serde(skip_serializing_if = "Option::is_none")]
        kept_share: Option<f64>,
    },
    /// A segment's frames are in the file, which is playable up to here, and the checkpoint is on
    /// disk. Where a device decodes beside the others, the next segment has begun by then.
    Part {
        /// From 0.
        segment: usize,
        /// Frames in the film so far.
        frames: u64,
        /// Film seconds so far.
        film_seconds: f64,
        /// The prompt it was made from.
        prompt: String,
        /// The seed it was made from.
        seed: u64,
        /// First byte of this part and byte behind its last one, when it lies in one file as whole
        /// fragments (MP4). Counted from the end of the file's head, where the first part begins, since
        /// the head may be written anew.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<[u64; 2]>,
        /// A picture of this part, when previews are asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        preview: Option<String>,
        /// The state after this part, which a later film can begin with, when checkpoints are asked
        /// for. It is removed after the next part but one, and with the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        checkpoint: Option<String>,
    },
    /// There is a picture of the segment in work, when the film is made live.
    Preview {
        /// From 0.
        segment: usize,
        /// Rows done in this segment.
        step: usize,
        /// Seconds that it took.
        seconds: f64,
        /// The picture, beside the film. It is the reader's to remove.
        path: String,
    },
    /// How a segment differs from the first.
    Drift(SegmentDrift),
    /// The film is complete and closed.
    Done {
        /// The film.
        path: String,
        /// Frames in it.
        frames: u64,
        /// Seconds of work in this process.
        seconds: f64,
        /// Peak resident memory of this process in bytes, where the system tells.
        peak_memory_bytes: Option<u64>,
        /// Rows in which the network was not evaluated, thanks to a step cache.
        reused_steps: usize,
        /// Share of the keys that attention kept where it left some out, of all rows of this process.
        #[serde(skip_serializing_if = "Option::is_none")]
        kept_share: Option<f64>,
        /// True when it ends early because it was asked to; `resume` goes on.
        stopped: bool,
    },
}

/// Prompts that a film goes on with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// All of them, those of the segments that are made included, which have to stay as they were.
    pub prompts: Vec<TimedPrompt>,
    /// The command that makes the film with them, kept in its metadata; `None` keeps the one before.
    pub command: Option<String>,
}

/// Whether a segment may be made.
#[derive(Debug, Clone, PartialEq)]
pub enum Leave {
    /// It may, from these prompts when there are any, else from those before.
    Given(Option<Change>),
    /// Nobody has said yet.
    NotYet,
}

/// Receives what a run tells, and says what is to change.
pub trait Observer {
    /// Called from the thread that runs the film; should return soon.
    fn event(&mut self, event: Event);

    /// Asked before each segment, the first one of a resumed run included, whether it may be made
    /// and from which prompts. While there is no answer the run begins with the segment as it is
    /// planned and asks again after each step; it begins anew when other prompts are wanted. The last
    /// time it asks it has to `wait`: what is not allowed then ends the run.
    fn leave(&mut self, segment: usize, wait: bool) -> Leave {
        let _ = (segment, wait);
        Leave::Given(None)
    }
}

impl<F: FnMut(Event)> Observer for F {
    fn event(&mut self, event: Event) {
        self(event)
    }
}

/// When a run should end before its film does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// It should not.
    No = 0,
    /// After the segment in work: its frames are written and the file is closed.
    AfterSegment = 1,
    /// At the next step: the segment in work is given up, what is finished stays.
    Now = 2,
}

/// A switch that another thread or a signal handler turns.
#[derive(Debug, Clone, Default)]
pub struct StopSignal(Arc<AtomicU8>);

impl StopSignal {
    /// Asks for a stop; a stronger wish stands.
    pub fn request(&self, stop: Stop) {
        self.0.fetch_max(stop as u8, Ordering::SeqCst);
    }

    /// What is asked for.
    pub fn get(&self) -> Stop {
        match self.0.load(Ordering::SeqCst) {
            0 => Stop::No,
            1 => Stop::AfterSegment,
            _ => Stop::Now,
        }
    }
}
