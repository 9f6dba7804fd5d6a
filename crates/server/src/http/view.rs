//! Jobs as clients see them.

use longreel_film::{FilmRequest, Length};
use longreel_jobs::{Job, JobState};
use serde_json::{Value, json};

use crate::films::Resolved;

/// The error of a job that was called off, in APIs that know no such state.
const CANCELLED: &str = "the film was called off before it was finished";

/// A job in the shape of the OpenAI videos API, with what this server knows beyond it; but for when it is
/// deleted, which is the server's to say and not the job's.
pub fn video(job: &Job, queue_position: Option<u64>) -> Value {
    let resolved = Resolved::of(job).ok();
    let request = resolved.as_ref().map(|resolved| &resolved.request);
    let status = match job.state {
        JobState::Queued => "queued",
        JobState::Running => "in_progress",
        JobState::Completed => "completed",
        JobState::Failed | JobState::Cancelled => "failed",
    };
    let is_whole = job.state == JobState::Completed;
    let left = job.progress.and_then(|p| p.left_seconds).filter(|_| job.state == JobState::Running);
    json!({
        "id": job.id,
        "object": "video",
        "model": job.asked.model,
        "status": status,
        "progress": (100.0 * fraction(job)).floor() as u64,
        "created_at": job.timings.created_ms / 1000,
        "completed_at": job.timings.finished_ms.filter(|_| is_whole).map(|ms| ms / 1000),
        "expires_at": null,
        "prompt": job.asked.prompt,
        "prompts": job.prompts,
        "prompts_revision": job.prompts_revision,
        "size": request.map(|r| {
            let [width, height] = r.film_size();
            format!("{width}x{height}")
        }),
        "seconds": request.and_then(seconds),
        "remixed_from_video_id": job.asked.parent.map(|parent| parent.job),
        "parent": job.asked.parent,
        "error": error(job),
        "state": job.state,
        "paused": job.paused,
        "stopping": job.stop,
        "queue_position": queue_position,
        "attempts": job.attempts,
        "owner": job.asked.owner,
        "priority": job.asked.priority,
        "deadline_at": job.asked.deadline_ms.map(|ms| ms / 1000),
        "webhook_url": job.asked.webhook_url,
        "seed": job.asked.seed,
        "model_revision": job.asked.model_revision,
        "num_frames": job.asked.frames,
        "fps": request.map(FilmRequest::film_fps),
        "steps": request.map(|r| r.steps),
        "guidance_scale": request.map(|r| r.guidance_scale),
        "segments": job.progress.and_then(|p| p.segments),
        "segments_done": job.segments_done,
        "frames_done": job.frames_done,
        "left_seconds": left,
        "expected_seconds": resolved.as_ref().map(|r| r.expected_seconds),
        "warnings": resolved.as_ref().map(|r| &r.warnings),
        "command": resolved.as_ref().map(|r| &r.command),
        "drift": job.drift,
        "timings": job.timings,
        "artifacts": job.artifacts,
    })
}

/// A job in the shape of the first API, which knew four states and progress from 0 to 1.
pub fn task(job: &Job) -> Value {
    let resolved = Resolved::of(job).ok();
    let status = match job.state {
        JobState::Queued => "queued",
        JobState::Running => "processing",
        JobState::Completed => "completed",
        JobState::Failed | JobState::Cancelled => "failed",
    };
    json!({
        "task_id": job.id,
        "status": status,
        "progress": fraction(job),
        "warnings": resolved.map(|r| r.warnings).unwrap_or_default(),
        "error": error(job).map(|error| error["message"].clone()),
    })
}

/// The part of the film that is done.
fn fraction(job: &Job) -> f64 {
    match job.state {
        JobState::Completed => 1.0,
        _ => job.progress.and_then(|progress| progress.fraction()).unwrap_or(0.0),
    }
}

fn error(job: &Job) -> Option<Value> {
    match (&job.error, job.state) {
        (Some(error), _) => Some(json!({"code": error.code, "message": error.message})),
        (None, JobState::Cancelled) => Some(json!({"code": "cancelled", "message": CANCELLED})),
        _ => None,
    }
}

/// The length as a text, which is what clients of this API expect.
fn seconds(request: &FilmRequest) -> Option<String> {
    let Length::Frames(frames) = request.length else { return None };
    let milliseconds = frames.saturating_mul(1000) / u64::from(request.fps.max(1));
    let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
}
