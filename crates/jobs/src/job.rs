//! A film somebody asked for, and all that is kept of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact_name::Artifact;
use crate::id::JobId;
use crate::state::{JobState, Stop};

/// A job as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewJob {
    /// Who asks; shares and limits are by owner. 1 to 128 bytes.
    pub owner: String,
    /// The same key from the same owner gives the same job instead of another one, as long as that
    /// job exists. 1 to 255 bytes.
    pub idempotency_key: Option<String>,
    /// What search finds the job by. At most 64 KiB.
    pub prompt: String,
    /// The request exactly as it came. At most 1 MiB of JSON.
    pub request: Value,
    /// The request with every default filled in. At most 1 MiB of JSON.
    pub resolved: Value,
    /// The seed of everything random.
    pub seed: u64,
    /// Name of the model. Workers may ask for jobs of certain models only.
    pub model: String,
    /// Revision of the model's files.
    pub model_revision: String,
    /// Version of the program that took the job in.
    pub program_version: String,
    /// Higher goes first; 0 is usual.
    pub priority: i32,
    /// Pixel frames of the film; `None` is endless.
    pub frames: Option<u64>,
    /// The film this one is made from.
    pub parent: Option<Parent>,
    /// Where the end of the job is reported. Whether an address may be called is the caller's to
    /// check. At most 2048 bytes.
    pub webhook_url: Option<String>,
    /// When the job is no longer wanted, in milliseconds since 1970: it fails then, waiting or not.
    /// Not in the past.
    pub deadline_ms: Option<i64>,
    /// The trace that it is asked for in, for whoever tells of what becomes of it.
    pub trace: Option<TraceContext>,
}

impl NewJob {
    /// A job with nothing but who asks for what; every other field at its plainest.
    pub fn new(owner: impl Into<String>, prompt: impl Into<String>, request: Value) -> Self {
        Self {
            owner: owner.into(),
            idempotency_key: None,
            prompt: prompt.into(),
            resolved: request.clone(),
            request,
            seed: 0,
            model: String::new(),
            model_revision: String::new(),
            program_version: String::new(),
            priority: 0,
            frames: None,
            parent: None,
            webhook_url: None,
            deadline_ms: None,
            trace: None,
        }
    }
}

/// A place in a trace, in the words of W3C's Trace Context. Whether they are well formed is the
/// caller's to check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// Trace, parent and flags. 55 bytes.
    pub traceparent: String,
    /// What systems on the way want to find again. 1 to 512 bytes.
    pub tracestate: Option<String>,
}

/// How a film comes from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The same parameters with another prompt.
    Remix,
    /// The other film goes on.
    Extend,
    /// Another way on from one of its segments.
    Branch,
}

/// The film that a job is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its job. It cannot be deleted before this one is through with it.
    pub job: JobId,
    /// In which way.
    pub relation: Relation,
    /// First segment that is made anew, from 0.
    pub segment: Option<u32>,
}

/// A prompt that holds from a segment on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptChange {
    /// First segment it holds for, from 0.
    pub from_segment: u32,
    /// The prompt.
    pub prompt: String,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The segment in work, from 0.
    pub segment: u32,
    /// Segments of the film; `None` when it is endless.
    pub segments: Option<u32>,
    /// Denoising steps of the segment that are done.
    pub step: u32,
    /// Denoising steps of a segment.
    pub steps: u32,
    /// Expected seconds of work left.
    pub left_seconds: Option<f64>,
}

impl Progress {
    /// The part that is done, from 0 to 1; `None` of an endless film.
    pub fn fraction(&self) -> Option<f64> {
        let segments = f64::from(self.segments?.max(1));
        let within = f64::from(self.step) / f64::from(self.steps.max(1));
        Some(((f64::from(self.segment) + within.min(1.0)) / segments).clamp(0.0, 1.0))
    }
}

/// When things happened, in milliseconds since 1970 by the clock of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Taken in.
    pub created_ms: i64,
    /// First given to a worker.
    pub started_ms: Option<i64>,
    /// First segment finished, so there is something to play.
    pub first_frame_ms: Option<i64>,
    /// Reached a final state.
    pub finished_ms: Option<i64>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// A stable name, such as `out_of_memory`. 1 to 64 bytes.
    pub code: String,
    /// What happened and what to do, for people. Cut at 4 KiB.
    pub message: String,
}

impl JobError {
    /// [`JobError::code`] of a job that outlived too many workers.
    pub const WORKER_DIED: &str = "worker_died";
    /// The same where the last of them died because memory ran out.
    pub const OUT_OF_MEMORY: &str = "out_of_memory";
    /// [`JobError::code`] of a job whose deadline passed.
    pub const DEADLINE_EXCEEDED: &str = "deadline_exceeded";

    /// An error of this code and message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// All that is kept of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What was asked.
    pub asked: NewJob,
    /// Where it stands.
    pub state: JobState,
    /// True when it waits in the queue without being given out.
    pub paused: bool,
    /// What its worker was asked to do at the next step.
    pub stop: Option<Stop>,
    /// Times it was given to a worker.
    pub attempts: u32,
    /// Times its worker died.
    pub deaths: u32,
    /// Times its worker died since a segment was last finished, or something else is made instead of
    /// what was asked for ([`crate::HandBack::OutOfMemory`]).
    pub deaths_in_row: u32,
    /// When things happened.
    pub timings: Timings,
    /// How far it is, as last reported.
    pub progress: Option<Progress>,
    /// Segments that are finished.
    pub segments_done: u32,
    /// Pixel frames that are finished.
    pub frames_done: u64,
    /// Changed prompts, by segment.
    pub prompts: Vec<PromptChange>,
    /// Rises with each change of prompts.
    pub prompts_revision: u32,
    /// How the look of the film moved from segment to segment.
    pub drift: Option<Value>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// What there is of it, by name, without those of each segment
    /// ([`crate::ArtifactKind::is_per_segment`]); [`crate::JobStore::artifacts`] has all.
    pub artifacts: Vec<Artifact>,
    /// The worker that holds it.
    pub worker: Option<String>,
    /// Number of its last event; 0 before the first.
    pub last_event: u64,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    /// A new job.
    New(Job),
    /// The job that the same idempotency key made before.
    Known(Job),
}

impl Created {
    /// The job.
    pub fn into_job(self) -> Job {
        match self {
            Self::New(job) | Self::Known(job) => job,
        }
    }
}

/// In which order a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListOrder {
    /// The newest first.
    #[default]
    Descending,
    /// The oldest first.
    Ascending,
}

/// Which jobs a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Of this owner only.
    pub owner: Option<String>,
    /// For this model only.
    pub model: Option<String>,
    /// In one of these states; empty is any.
    pub states: Vec<JobState>,
    /// With this text in the prompt, letter case ignored for ASCII. Empty is any; at most
    /// 1 KiB.
    pub text: String,
    /// After this job in the order; it may be gone by now.
    pub after: Option<JobId>,
    /// In which order.
    pub order: ListOrder,
    /// 1 to 100; 0 is 20.
    pub limit: u32,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In the order asked for.
    pub jobs: Vec<Job>,
    /// True when there are more after the last one.
    pub has_more: bool,
}
