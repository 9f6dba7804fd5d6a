//! The spans of a film, from what is kept of its job.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longreel_jobs::{Event, EventKind, Job, JobState};
use serde_json::Value;

use super::context::Context;
use super::{Kind, Span, random};

/// The span of a film, for attempt 0, or of an attempt at it, from 1. It follows from the job's id, so that
/// whoever tells of a part of it, before it has ended and in whichever process, names the same one.
pub fn span_id(job: &Job, attempt: u32) -> [u8; 8] {
    // The lower half of a UUID is random but for its first two bits, which are not zero. Ids of one moment
    // are counted up at its end, so that attempts are counted further up.
    let id = job.id.number() as u64;
    (id ^ u64::from(attempt) << 30).to_be_bytes()
}

/// A time in one hand: in the queue's, or in a worker's.
struct Stay {
    state: JobState,
    since_ms: i64,
    /// Which attempt, in a worker's hands.
    attempt: u32,
    was_paused: bool,
}

/// The film's own span, in its place `film`, and those of what became of it: its waits, its workers, its
/// segments.
pub fn spans_of(job: &Job, events: &[Event], film: &Context, parent: Option<[u8; 8]>) -> Vec<Span> {
    let timings = &job.timings;
    let end_ms = timings.finished_ms.unwrap_or(timings.created_ms);
    let whole = Span {
        context: film.clone(),
        parent,
        name: "film".into(),
        kind: Kind::Internal,
        begin: at(timings.created_ms),
        end: at(end_ms.max(timings.created_ms)),
        attributes: vec![
            ("longreel.job", job.id.to_string().into()),
            ("longreel.model", job.asked.model.clone().into()),
            ("longreel.state", job.state.as_str().into()),
            ("longreel.attempts", job.attempts.into()),
            ("longreel.frames", job.frames_done.into()),
        ],
        error: (job.state == JobState::Failed)
            .then(|| job.error.as_ref().map(|error| error.code.clone()).unwrap_or_default()),
    };
    let part = |name: &str, id, within, [from_ms, to_ms]: [i64; 2], attributes| Span {
        context: Context { span: id, ..film.clone() },
        parent: Some(within),
        name: name.into(),
        kind: Kind::Internal,
        begin: at(from_ms),
        // The clock may have jumped back.
        end: at(to_ms.max(from_ms)),
        attributes,
        error: None,
    };
    let left = |stay: &Stay, to_ms: i64| {
        let time = [stay.since_ms, to_ms];
        match stay.state {
            JobState::Running => {
                let attributes = vec![("longreel.attempt", stay.attempt.into())];
                part("worker", span_id(job, stay.attempt), film.span, time, attributes)
            }
            _ => {
                let attributes = vec![("longreel.paused", stay.was_paused.into())];
                part("queue", random(), film.span, time, attributes)
            }
        }
    };
    let since_ms = timings.created_ms;
    let mut stay = Stay { state: JobState::Queued, since_ms, attempt: 0, was_paused: false };
    let mut segment_ms = since_ms;
    let mut spans = Vec::new();
    for Event { at_ms, kind, data, .. } in events {
        match kind {
            EventKind::Segment => {
                let attributes = vec![
                    ("longreel.segment", data["segment"].clone()),
                    ("longreel.frames", data["frames"].clone()),
                ];
                let within = span_id(job, stay.attempt);
                let time = [segment_ms, *at_ms];
                spans.push(part("segment", random(), within, time, attributes));
                segment_ms = *at_ms;
            }
            EventKind::State | EventKind::Done => {
                stay.was_paused |= data["paused"] == true;
                let Some(state) = named(&data["state"]).filter(|state| *state != stay.state) else {
                    continue;
                };
                spans.push(left(&stay, *at_ms));
                let attempt = stay.attempt + u32::from(state == JobState::Running);
                let was_paused = data["paused"] == true;
                stay = Stay { state, since_ms: *at_ms, attempt, was_paused };
                segment_ms = *at_ms;
            }
            _ => {}
        }
    }
    // Of a very long film there are more events than were read.
    if !stay.state.is_final() {
        spans.push(left(&stay, end_ms));
    }
    spans.push(whole);
    spans
}

fn named(state: &Value) -> Option<JobState> {
    JobState::ALL.into_iter().find(|known| state == known.as_str())
}

fn at(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use longreel_jobs::{
        HandBack, JobStore, LeaseRequest, ManualClock, NewJob, SegmentDone, SqliteStore,
        StoreOptions, WorkStore, WorkerEvent,
    };
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn each_wait_and_each_worker_is_a_span_and_segments_are_their_workers() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(ManualClock::new(1_000_000));
        let options = StoreOptions { clock: clock.clone(), ..StoreOptions::default() };
        let store = SqliteStore::open(folder.path().join("jobs.db"), options).await.expect("new");
        let id = store.create(NewJob::new("a", "b", json!({}))).await.expect("room").into_job().id;
        clock.advance_ms(100);
        store.pause(id).await.expect("waits");
        store.resume(id).await.expect("is paused");
        for segment in 0..2 {
            clock.advance_ms(100);
            let lease =
                store.lease(LeaseRequest::new("w")).await.expect("good").expect("one").lease;
            clock.advance_ms(100);
            let done = WorkerEvent::SegmentDone(SegmentDone::new(segment, 9));
            store.append(&lease, vec![done], 0).await.expect("held");
            clock.advance_ms(100);
            match segment {
                0 => drop(store.hand_back(&lease, HandBack::Stopped).await.expect("held")),
                _ => {
                    // It jumps back before the end.
                    clock.advance_ms(-5_000);
                    store
                        .complete(&lease, longreel_jobs::Completion::default())
                        .await
                        .expect("held");
                }
            }
        }
        let job = store.get(id).await.expect("there");
        let events = store.events(id, 0, 1000).await.expect("there");
        let film = Context { trace: [1; 16], span: [2; 8], flags: 1, state: "a=1".into() };
        let spans = spans_of(&job, &events, &film, Some([3; 8]));
        let ms = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).expect("later").as_millis() as i64 - 1_000_000
        };
        let told: Vec<_> = spans
            .iter()
            .map(|span| (&*span.name, ms(span.begin), ms(span.end), span.parent.expect("one")))
            .collect();
        let [first, second] = [1, 2].map(|attempt| span_id(&job, attempt));
        let expected = [
            ("queue", 0, 200, film.span),
            ("segment", 200, 300, first),
            ("worker", 200, 400, film.span),
            ("queue", 400, 500, film.span),
            ("segment", 500, 600, second),
            ("worker", 500, 500, film.span),
            ("film", 0, 0, [3; 8]),
        ];
        assert_eq!(told, expected);
        assert_eq!(spans[0].attributes, [("longreel.paused", json!(true))]);
        assert_eq!(spans[3].attributes, [("longreel.paused", json!(false))]);
        assert_eq!((spans[2].context.span, spans[5].context.span), (first, second));
        assert_eq!(spans[6].context, film);
        let ids: BTreeSet<[u8; 8]> = spans.iter().map(|span| span.context.span).collect();
        assert_eq!(ids.len(), spans.len());
        assert!(
            spans.iter().all(|s| s.context == Context { span: s.context.span, ..film.clone() })
        );
    }
}
