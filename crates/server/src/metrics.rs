//! What the service counts, for Prometheus: [`Metrics::text`] is what it reads at `/metrics`.
//!
//! What the database knows (jobs by state, the queue's age) is looked up when it is read; the rest is
//! counted where it happens and begins at zero with the server.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use longreel_jobs::{Counts, Job, JobState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::process::{Cause, resident_bytes};
use crate::room::Room;
use crate::shared::{Slot, SlotState};

const DELIVERED: &str = "delivered";
const FAILED: &str = "failed";

/// A fractional gauge.
type Real = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    method: String,
    /// The address as it stands in the router, so that ids do not make one metric each.
    path: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProcess {
    process: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCause {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: Family<OfState, Gauge>,
    oldest: Real,
    deliveries: Gauge,
    workers: Family<OfState, Gauge>,
    memory: Family<OfProcess, Gauge>,
    memory_available: Gauge,
    disk_free: Gauge,
    disk_size: Gauge,
    ended: Family<OfState, Counter>,
    first_segment: Histogram,
    waited: Histogram,
    work: Histogram,
    step: Histogram,
    segments: Counter,
    frames: Counter,
    reused: Counter,
    deaths: Family<OfCause, Counter>,
    drift: Real,
    requests: Family<OfRequest, Counter>,
    request: Histogram,
    webhooks: Family<OfResult, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("longreel");
        let m = &mut registry;
        // From a tenth of a second to about a day, and from a tenth of a millisecond to a minute.
        let long = || Histogram::new(exponential_buckets(0.1, 2.0, 20));
        let short = || Histogram::new(exponential_buckets(1e-4, 2.0, 20));
        let (jobs, workers) = (Family::default(), Family::default());
        m.register("jobs", "Jobs by state", Family::clone(&jobs));
        m.register("workers", "Worker processes by what they do", Family::clone(&workers));
        let oldest = Real::default();
        let help = "How long the job that waits longest has waited";
        m.register_with_unit("queue_oldest", help, Unit::Seconds, oldest.clone());
        let deliveries = Gauge::default();
        m.register("webhooks_pending", "Webhook deliveries still owed", deliveries.clone());
        let memory = Family::default();
        let help = "Resident memory of the server and of each worker";
        m.register_with_unit("memory", help, Unit::Bytes, Family::clone(&memory));
        let (memory_available, disk_free, disk_size) =
            (Gauge::default(), Gauge::default(), Gauge::default());
        let help = "Memory that the service may still take";
        m.register_with_unit("memory_available", help, Unit::Bytes, memory_available.clone());
        let help = "Room on the disk of the data folder";
        m.register_with_unit("disk_free", help, Unit::Bytes, disk_free.clone());
        let help = "Size of the disk of the data folder";
        m.register_with_unit("disk_size", help, Unit::Bytes, disk_size.clone());
        let ended = Family::<OfState, Counter>::default();
        // What is counted from the first time on has no increase that time: begin with zero.
        for state in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            drop(ended.get_or_create(&OfState { state: state.as_str() }));
        }
        m.register("jobs_ended", "Jobs that came to an end, by how", Family::clone(&ended));
        let (first_segment, waited, work, step) = (long(), long(), long(), short());
        let help = "From the request to the first segment that could be played";
        m.register_with_unit("first_segment", help, Unit::Seconds, first_segment.clone());
        let help = "From the request to the first work on it";
        m.register_with_unit("queue_wait", help, Unit::Seconds, waited.clone());
        let help = "Seconds of work for a second of film";
        m.register("work_per_film_second", help, work.clone());
        let help = "A denoising step";
        m.register_with_unit("step", help, Unit::Seconds, step.clone());
        let (segments, frames, reused) =
            (Counter::default(), Counter::default(), Counter::default());
        m.register("segments", "Finished segments", segments.clone());
        m.register("frames", "Frames of jobs that have ended", frames.clone());
        m.register("cached_steps", "Steps that a step cache took over", reused.clone());
        let deaths = Family::<OfCause, Counter>::default();
        for cause in Cause::ALL {
            drop(deaths.get_or_create(&OfCause { cause: cause.as_str() }));
        }
        let help = "Workers that died in the middle of a job, by cause";
        m.register("worker_deaths", help, Family::clone(&deaths));
        let drift = Real::default();
        let help = "How far the last finished segment's mean colour was from its film's first with the same prompt, of 255";
        m.register("drift_colour", help, drift.clone());
        let (requests, request) = (Family::default(), short());
        m.register("http_requests", "Requests by address and status", Family::clone(&requests));
        let help = "Until the first byte of an answer";
        m.register_with_unit("http_request", help, Unit::Seconds, request.clone());
        let webhooks = Family::<OfResult, Counter>::default();
        for result in [DELIVERED, FAILED] {
            drop(webhooks.get_or_create(&OfResult { result }));
        }
        m.register("webhook_attempts", "Webhook attempts by result", Family::clone(&webhooks));
        Self {
            registry,
            jobs,
            oldest,
            deliveries,
            workers,
            memory,
            memory_available,
            disk_free,
            disk_size,
            ended,
            first_segment,
            waited,
            work,
            step,
            segments,
            frames,
            reused,
            deaths,
            drift,
            requests,
            request,
            webhooks,
        }
    }
}

impl Metrics {
    /// A denoising step was done.
    pub fn step(&self, seconds: f64) {
        self.step.observe(seconds);
    }

    /// A segment was finished.
    pub fn segment(&self) {
        self.segments.inc();
    }

    /// How far a segment's mean colour is from the first one's, of 255.
    pub fn drift(&self, distance: f64) {
        self.drift.set(distance);
    }

    /// Steps that a step cache took over in a film.
    pub fn reused(&self, steps: u64) {
        self.reused.inc_by(steps);
    }

    /// A worker died with a job in its hands.
    pub fn death(&self, cause: Cause) {
        self.deaths.get_or_create(&OfCause { cause: cause.as_str() }).inc();
    }

    /// A webhook was tried.
    pub fn webhook(&self, delivered: bool) {
        let result = if delivered { DELIVERED } else { FAILED };
        self.webhooks.get_or_create(&OfResult { result }).inc();
    }

    /// A job came to its end.
    pub fn ended(&self, job: &Job, film_seconds: Option<f64>) {
        self.ended.get_or_create(&OfState { state: job.state.as_str() }).inc();
        self.frames.inc_by(job.frames_done);
        let timings = &job.timings;
        let since = |from: i64, to: Option<i64>| to.map(|to| (to - from).max(0) as f64 / 1000.0);
        if let Some(seconds) = since(timings.created_ms, timings.started_ms) {
            self.waited.observe(seconds);
        }
        if let Some(seconds) = since(timings.created_ms, timings.first_frame_ms) {
            self.first_segment.observe(seconds);
        }
        let work = timings.started_ms.and_then(|started| since(started, timings.finished_ms));
        if let (JobState::Completed, Some(work), Some(film)) = (job.state, work, film_seconds)
            && film > 0.0
        {
            self.work.observe(work / film);
        }
    }

    /// A request was answered.
    pub fn request(&self, method: &str, path: &str, status: u16, took: Duration) {
        let labels = OfRequest { method: method.to_owned(), path: path.to_owned(), status };
        self.requests.get_or_create(&labels).inc();
        self.request.observe(took.as_secs_f64());
    }

    /// Everything, as Prometheus reads it. `workers` are what each worker does, and its process.
    pub fn text(&self, counts: &Counts, now_ms: i64, workers: &[Slot], room: Room) -> String {
        let jobs = [
            ("queued", counts.queued),
            ("paused", counts.paused),
            ("running", counts.running),
            ("completed", counts.completed),
            ("failed", counts.failed),
            ("cancelled", counts.cancelled),
        ];
        for (state, count) in jobs {
            self.jobs.get_or_create(&OfState { state }).set(count as i64);
        }
        let waited = counts.oldest_waiting_ms.map_or(0, |since| now_ms.saturating_sub(since));
        self.oldest.set(waited.max(0) as f64 / 1000.0);
        self.deliveries.set(counts.pending_deliveries as i64);
        for state in SlotState::ALL {
            let count = workers.iter().filter(|worker| worker.state == state).count();
            self.workers.get_or_create(&OfState { state: state.as_str() }).set(count as i64);
        }
        // A worker that is gone has no memory any more.
        self.memory.clear();
        let resident = |process: String, id: u32| {
            if let Some(bytes) = resident_bytes(id) {
                self.memory.get_or_create(&OfProcess { process }).set(bytes as i64);
            }
        };
        resident("server".into(), std::process::id());
        for (slot, worker) in workers.iter().enumerate() {
            if let Some(id) = worker.process {
                resident(format!("worker-{slot}"), id);
            }
        }
        let gauges = [
            (&self.memory_available, room.memory_bytes),
            (&self.disk_free, room.disk_free_bytes),
            (&self.disk_size, room.disk_size_bytes),
        ];
        for (gauge, bytes) in gauges {
            // What the system does not say stays at zero, with a size of zero beside it.
            gauge.set(bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or_default());
        }
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(state: SlotState, process: Option<u32>) -> Slot {
        Slot { state, process, model: None }
    }

    #[test]
    fn a_worker_that_is_gone_is_not_counted_any_more() {
        let metrics = Metrics::default();
        metrics.step(0.25);
        metrics.request("GET", "/v1/videos/{id}", 200, Duration::from_millis(3));
        let counts = Counts { queued: 2, oldest_waiting_ms: Some(1_000), ..Counts::default() };
        let me = std::process::id();
        metrics.death(Cause::Killed);
        let room = Room { disk_free_bytes: Some(7), ..Room::default() };
        let text = metrics.text(&counts, 5_500, &[slot(SlotState::Working, Some(me))], room);
        for line in [
            "longreel_jobs{state=\"queued\"} 2",
            "longreel_queue_oldest_seconds 4.5",
            "longreel_workers{state=\"working\"} 1",
            "longreel_step_seconds_count 1",
            "longreel_worker_deaths_total{cause=\"killed\"} 1",
            "longreel_worker_deaths_total{cause=\"silent\"} 0",
            "longreel_webhook_attempts_total{result=\"failed\"} 0",
            "longreel_disk_free_bytes 7",
            "longreel_http_requests_total{method=\"GET\",path=\"/v1/videos/{id}\",status=\"200\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
        assert_eq!(cfg!(target_os = "linux"), text.contains("{process=\"worker-0\"}"));
        let text = metrics.text(&counts, 0, &[slot(SlotState::Down, None)], Room::default());
        assert!(!text.contains("worker-0") && text.contains("longreel_workers{state=\"down\"} 1"));
    }
}
