//! Calls to RunPod.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::StatusCode;

use super::{Bucket, RunPodOptions};
use crate::own::{Tries, blocking, own_agent};

/// How long RunPod may hold a poll open.
const POLL_TIME: Duration = Duration::from_secs(90);
/// How long other calls may take.
const CALL_TIME: Duration = Duration::from_secs(30);
/// How long a film may take on its way into a bucket.
const UPLOAD_TIME: Duration = Duration::from_secs(3600);
/// Tries of what has to get there, and the wait after the first.
const TRIES: Tries = Tries { most: 6, wait: Duration::from_millis(500) };
/// A poll that is answered sooner than this was not held open.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Longest job or list of names that is read.
const JOB_BYTES: u64 = 32 << 20;

/// What a poll for a job gave.
#[derive(Debug)]
pub enum Taken {
    Job { id: String, input: Value },
    Nothing { at_once: bool },
    TooOften,
}

/// Calls to RunPod. What fails is told in words.
pub struct Client {
    options: RunPodOptions,
    polls: Agent,
    calls: Agent,
    uploads: Agent,
}

impl Client {
    pub fn new(options: RunPodOptions) -> Self {
        let (polls, calls) = (own_agent(POLL_TIME), own_agent(CALL_TIME));
        Self { options, polls, calls, uploads: own_agent(UPLOAD_TIME) }
    }

    pub fn bucket(&self) -> Option<&Bucket> {
        self.options.bucket.as_ref()
    }

    pub fn uploads(&self) -> &Agent {
        &self.uploads
    }

    /// Asks for a job, and waits while RunPod holds the question.
    pub async fn take(&self, is_busy: bool) -> Result<Taken, String> {
        let url = with_query(&self.options.take, &format!("job_in_progress={}", u8::from(is_busy)));
        let started = Instant::now();
        let (status, body) = self.get(&self.polls, url).await?;
        let at_once = started.elapsed() < AT_ONCE;
        match status.as_u16() {
            // The second one is what a worker hears that is put to sleep and woken again.
            204 | 400 => Ok(Taken::Nothing { at_once }),
            429 => Ok(Taken::TooOften),
            200 if body.is_empty() => Ok(Taken::Nothing { at_once }),
            200 => {
                let job: Value = serde_json::from_slice(&body)
                    .map_err(|error| format!("what it gives is no job: {error}"))?;
                let id = job["id"].as_str().filter(|id| !id.is_empty());
                let id = id.ok_or("it gives a job without an id")?.to_owned();
                Ok(Taken::Job { id, input: job["input"].clone() })
            }
            status => Err(format!("it answers with HTTP status {status}")),
        }
    }

    /// Asks which jobs are called off; `None` where that cannot be asked.
    pub async fn stops(&self) -> Result<Option<Vec<String>>, String> {
        if !self.options.take.contains("/job-take/") {
            return Ok(None);
        }
        let url = self.options.take.replace("/job-take/", "/job-stop/");
        let (status, body) = self.get(&self.polls, url).await?;
        match status.as_u16() {
            204 => Ok(Some(Vec::new())),
            200 => {
                let told: Value = serde_json::from_slice(&body).unwrap_or_default();
                let names = told["jobsToStop"].as_array().map(Vec::as_slice).unwrap_or_default();
                Ok(Some(names.iter().filter_map(Value::as_str).map(str::to_owned).collect()))
            }
            status => Err(format!("it answers with HTTP status {status}")),
        }
    }

    pub async fn ping(&self, jobs: &[String]) -> Result<(), String> {
        let Some(ping) = &self.options.ping else { return Ok(()) };
        let url = with_query(ping, &format!("job_id={}", jobs.join(",")));
        let (status, _) = self.get(&self.calls, url).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answers with HTTP status {status}"))
        }
    }

    /// Says how far a job is. One that does not get there is followed by another.
    pub async fn progress(&self, job: &str, output: Value) {
        let body = json!({"status": "IN_PROGRESS", "output": output});
        let told = self.post(&self.options.done, job, &body, false).await;
        if let Err(error) = told {
            tracing::debug!(job, error, "RunPod was not told how far it is");
        }
    }

    /// Gives a part of a result.
    pub async fn stream(&self, job: &str, output: Value) {
        let Some(stream) = self.options.stream.clone() else { return };
        self.deliver(&stream, job, &json!({"output": output}), false).await;
    }

    /// Gives the result: `{"output": …}` or `{"error": …}`; `has_parts` when parts of it were given before, which is
    /// what its own SDK says of a worker that streams.
    pub async fn done(&self, job: &str, result: &Value, has_parts: bool) {
        let is_stream = has_parts && self.options.stream.is_some();
        self.deliver(&self.options.done.clone(), job, result, is_stream).await;
    }

    /// Tries until it is there, or cannot be.
    async fn deliver(&self, template: &str, job: &str, body: &Value, is_stream: bool) {
        if let Err(error) = TRIES.of(|| self.post(template, job, body, is_stream)).await {
            tracing::error!(job, error, "a result did not get to RunPod");
        }
    }

    async fn post(
        &self,
        template: &str,
        job: &str,
        body: &Value,
        is_stream: bool,
    ) -> Result<(), String> {
        let url = with_query(&template.replace("$ID", job), &format!("isStream={is_stream}"));
        let request = self
            .calls
            .post(url)
            .header("authorization", &self.options.key)
            // What its own SDK says of JSON.
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-request-id", job);
        let text = body.to_string();
        let (status, _) = blocking(move || answer(request.send(text))).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answers with HTTP status {status}"))
        }
    }

    async fn get(&self, agent: &Agent, url: String) -> Result<(StatusCode, Vec<u8>), String> {
        let request = agent.get(url).header("authorization", &self.options.key);
        blocking(move || answer(request.call())).await
    }
}

/// An address with one more parameter.
fn with_query(url: &str, query: &str) -> String {
    let between = if url.contains('?') { '&' } else { '?' };
    format!("{url}{between}{query}")
}

fn answer(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<(StatusCode, Vec<u8>), String> {
    let mut answer = answer.map_err(|error| format!("it cannot be reached: {error}"))?;
    let body = answer.body_mut().with_config().limit(JOB_BYTES).read_to_vec();
    Ok((answer.status(), body.map_err(|error| format!("its answer broke off: {error}"))?))
}
