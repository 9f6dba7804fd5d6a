//! One job of RunPod's queue, from its input to its result.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::prelude::*;
use longreel_jobs::{
    ArtifactKind, ArtifactName, Event, EventKind, Format, Job, JobId, JobState, StoreError,
};
use serde_json::{Value, json};

use super::Worker;
use crate::access::Caller;
use crate::http::{Problem, asked, body};
use crate::live::Follower;
use crate::own::blocking;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Longest film that an answer holds: with a third more for its form it stays below the 10 MB that
/// RunPod takes.
const ANSWER_BYTES: u64 = 7 << 20;

/// Makes a job and gives its result.
pub(super) async fn make(worker: &Worker, name: &str, input: Value) {
    let mut has_parts = false;
    let result = match begin(worker, name, input).await {
        Ok(job) => {
            worker.in_work.with(|jobs| jobs.insert(name.to_owned(), Some(job)));
            match follow(worker, name, job, &mut has_parts).await {
                Some(result) => result,
                // The server ends. The job is not done: another worker will have it from RunPod.
                None => return,
            }
        }
        Err(problem) => json!({"error": problem.in_words()}),
    };
    worker.client.done(name, &result, has_parts).await;
}

/// The job of ours that an input asks for: a body of `POST /v1/videos`. The same job that comes again
/// is the one that is there.
async fn begin(worker: &Worker, name: &str, input: Value) -> Result<JobId, Problem> {
    let shared = &worker.shared;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(key) = HeaderValue::from_str(&format!("runpod-{name}")) {
        headers.insert("idempotency-key", key);
    }
    let wanted = body::read(shared, &headers, Body::from(input.to_string()), 0).await?;
    let created = asked::create(shared, &Caller::local(), wanted, Vec::new(), &headers).await?;
    Ok(created.into_job().id)
}

/// Tells of a job until it has ended; its result, and in `has_parts` whether parts were given. `None` when the server
/// ends before.
async fn follow(worker: &Worker, name: &str, job: JobId, has_parts: &mut bool) -> Option<Value> {
    let mut follower = Follower::new(&worker.shared, job, 0, None);
    let mut told: Option<Instant> = None;
    while let Some(Event { kind, data, .. }) = follower.next().await {
        match kind {
            EventKind::Progress if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) => {
                told = Some(Instant::now());
                worker.client.progress(name, data).await;
            }
            EventKind::Preview => {
                if let Some(picture) = picture(worker, job, &data).await {
                    *has_parts = true;
                    worker.client.stream(name, picture).await;
                }
            }
            EventKind::Segment | EventKind::Drift => {
                let mut part = data;
                part["event"] = kind.as_str().into();
                *has_parts = true;
                worker.client.stream(name, part).await;
            }
            _ => {}
        }
    }
    let job = match worker.shared.store.get(job).await {
        Ok(job) => job,
        Err(StoreError::NotFound { .. }) => return Some(json!({"error": "the film was deleted"})),
        Err(error) => return Some(json!({"error": error.to_string()})),
    };
    Some(match job.state {
        JobState::Completed => match output(worker, &job).await {
            Ok(output) => json!({"output": output}),
            Err(error) => json!({"error": error}),
        },
        JobState::Failed => {
            let error = job.error.as_ref();
            let (code, message) = error.map_or(("failed", "it failed"), |e| (&e.code, &e.message));
            json!({"error": format!("{code}: {message}")})
        }
        JobState::Cancelled => json!({"error": "cancelled: it was called off"}),
        JobState::Queued | JobState::Running => return None,
    })
}

/// A picture of a segment, for whoever looks at the stream.
async fn picture(worker: &Worker, job: JobId, data: &Value) -> Option<Value> {
    let segment = u32::try_from(data["segment"].as_u64()?).ok()?;
    let name = ArtifactName { kind: ArtifactKind::Preview(segment), format: Format::Jpeg };
    let bytes = worker.shared.artifacts.get(job, name).await.ok()?;
    let url = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(bytes));
    Some(json!({"event": "preview", "segment": segment, "image": url}))
}

/// What is told of a film that is done, and the film: in a bucket, or in the answer where it is short.
async fn output(worker: &Worker, job: &Job) -> Result<Value, String> {
    let name = ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 };
    let artifacts = &worker.shared.artifacts;
    let failed = |error: &dyn std::fmt::Display| format!("the film cannot be read: {error}");
    let size = artifacts.size_bytes(job.id, name).await.map_err(|error| failed(&error))?;
    let mut output = json!({
        "id": job.id.to_string(),
        "frames": job.frames_done,
        "segments": job.segments_done,
        "seed": job.asked.seed,
        "model": job.asked.model,
        "model_revision": job.asked.model_revision,
        "bytes": size,
        "drift": job.drift,
    });
    if let Some(bucket) = worker.client.bucket() {
        let file = worker.shared.work_folder(job.id).with_extension("upload");
        artifacts.save(job.id, name, &file).await.map_err(|error| failed(&error))?;
        let (bucket, agent) = (bucket.clone(), worker.client.uploads().clone());
        let (key, path) = (format!("{}.mp4", job.id), file.clone());
        let put = blocking(move || bucket.put(&agent, &key, "video/mp4", &path)).await;
        let _ = tokio::fs::remove_file(&file).await;
        output["video_url"] = put?.into();
    } else if size <= ANSWER_BYTES {
        let bytes = artifacts.get(job.id, name).await.map_err(|error| failed(&error))?;
        output["video"] = format!("data:video/mp4;base64,{}", BASE64_STANDARD.encode(bytes)).into();
    } else {
        return Err(format!(
            "film_too_long: the film has {size} bytes and an answer holds {ANSWER_BYTES}; set \
             BUCKET_ENDPOINT_URL, BUCKET_NAME, BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY, and it \
             goes into that bucket. It is kept as {}",
            job.id
        ));
    }
    Ok(output)
}
