//! Events and those who read them.

use longreel_jobs::{
    Artifact, ArtifactKind, ArtifactName, Completion, EventKind, Format, PartBytes, Progress,
    Renewal, SegmentDone, StoreError, StoreOptions, WorkerEvent,
};
use serde_json::json;

use super::{Bench, film};

pub fn adjust(_: &mut StoreOptions) {}

fn step(step: u32) -> Progress {
    Progress { segment: 0, segments: Some(2), step, steps: 30, left_seconds: Some(1.5) }
}

pub async fn a_reader_goes_on_after_the_last_event_it_saw(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    let drift = WorkerEvent::Drift { segment: 0, drift: json!({"contrast": 1.25}) };
    let done = WorkerEvent::SegmentDone(SegmentDone::new(0, 97));
    bench.store.append(&lease, vec![done, drift], 0).await.unwrap();
    bench.store.complete(&lease, Default::default()).await.unwrap();
    let all = bench.store.events(job.id, 0, 1000).await.unwrap();
    let kinds: Vec<EventKind> = all.iter().map(|event| event.kind).collect();
    use EventKind::{Done, Drift, Segment, State};
    assert_eq!(kinds, [State, State, Segment, Drift, Done]);
    assert_eq!(all[2].data, json!({"segment": 0, "frames": 97}));
    assert_eq!(all[3].data, json!({"segment": 0, "drift": {"contrast": 1.25}}));
    let (mut seen, mut after) = (Vec::new(), 0);
    while let Some(event) = bench.store.events(job.id, after, 1).await.unwrap().pop() {
        after = event.seq;
        seen.push(event);
    }
    assert_eq!(seen, all);
    assert!(bench.store.events(job.id, u64::MAX, 1).await.unwrap().is_empty());
    let refused = bench.store.events(job.id, 0, 0).await;
    assert!(matches!(refused, Err(StoreError::Invalid { field: "limit", .. })));
}

pub async fn events_are_added_all_or_none(bench: Bench) {
    let job = bench.create(film("ann")).await.id;
    let lease = bench.lease().await.lease;
    let before = bench.get(job).await;
    let done = |frames| WorkerEvent::SegmentDone(SegmentDone::new(0, frames));
    let refused = bench.store.append(&lease, vec![done(97), done(u64::MAX)], 0).await;
    assert!(matches!(refused, Err(StoreError::Invalid { field: "frames", .. })), "{refused:?}");
    let large = WorkerEvent::Drift { segment: 0, drift: json!("d".repeat(65_537)) };
    let refused = bench.store.append(&lease, vec![done(97), large], 0).await;
    assert!(matches!(refused, Err(StoreError::Invalid { field: "drift", .. })), "{refused:?}");
    assert_eq!(bench.get(job).await, before);
}

pub async fn segments_are_kept_as_they_were_first_reported(bench: Bench) {
    let job = bench.create(film("ann")).await.id;
    assert!(bench.store.segments(job, None, 10).await.unwrap().is_empty());
    assert!(bench.store.parts(job).await.unwrap().is_empty());
    let lease = bench.lease().await.lease;
    let done = |segment: u32| SegmentDone {
        segment,
        frames: 97 + 80 * u64::from(segment),
        prompt: format!("prompt {segment}"),
        seed: u64::MAX - u64::from(segment),
        bytes: Some(PartBytes {
            start: 1000 * u64::from(segment),
            end: 1000 * u64::from(segment) + 900,
        }),
    };
    for segment in 0..3 {
        let drift = WorkerEvent::Drift { segment, drift: json!({"contrast": segment}) };
        let events = vec![WorkerEvent::SegmentDone(done(segment)), drift];
        bench.store.append(&lease, events, 0).await.unwrap();
        bench.clock.advance_ms(1_000);
    }
    let again = SegmentDone { prompt: "another".into(), ..SegmentDone::new(1, 5) };
    bench.store.append(&lease, vec![WorkerEvent::SegmentDone(again)], 0).await.unwrap();
    let backwards = SegmentDone { bytes: Some(PartBytes { start: 2, end: 1 }), ..done(3) };
    let refused = bench.store.append(&lease, vec![WorkerEvent::SegmentDone(backwards)], 0).await;
    assert!(matches!(refused, Err(StoreError::Invalid { field: "bytes.end", .. })), "{refused:?}");

    let all = bench.store.segments(job, None, 1000).await.unwrap();
    let kept: Vec<SegmentDone> = all.iter().map(|segment| segment.done.clone()).collect();
    assert_eq!(kept, (0..3).map(done).collect::<Vec<_>>());
    assert_eq!(all[1].drift, Some(json!({"contrast": 1})));
    assert_eq!(all[1].at_ms - all[0].at_ms, 1_000);
    assert_eq!(bench.store.segments(job, Some(0), 1).await.unwrap(), all[1..2]);
    let parts = bench.store.parts(job).await.unwrap();
    assert_eq!(
        parts,
        kept.iter().map(|s| (s.segment, s.frames, s.bytes.unwrap())).collect::<Vec<_>>()
    );

    let part = |number| stored(ArtifactKind::Part(number), Format::M4s);
    bench
        .store
        .append(&lease, vec![WorkerEvent::Stored(part(0)), WorkerEvent::Stored(part(1))], 0)
        .await
        .unwrap();
    let film = stored(ArtifactKind::Film, Format::Mp4);
    let completion = Completion { artifacts: vec![film], drift: None };
    bench.store.complete(&lease, completion).await.unwrap();
    assert_eq!(bench.store.artifacts(job).await.unwrap(), [film], "the film holds its parts");
    bench.store.delete(job).await.unwrap();
    let gone = bench.store.segments(job, None, 1).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
    let gone = bench.store.parts(job).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
}

fn stored(kind: ArtifactKind, format: Format) -> Artifact {
    Artifact { name: ArtifactName { kind, format }, size_bytes: 10 }
}

pub async fn a_picture_that_takes_the_place_of_another_takes_its_event_too(bench: Bench) {
    let job = bench.create(film("ann")).await.id;
    let lease = bench.lease().await.lease;
    let picture = |segment| WorkerEvent::Preview {
        segment,
        artifact: stored(ArtifactKind::Preview(segment), Format::Jpeg),
    };
    for segment in [0, 0, 1, 0, 1, 1] {
        bench.store.append(&lease, vec![picture(segment)], 0).await.unwrap();
    }
    let events = bench.store.events(job, 0, 1000).await.unwrap();
    let previews = events.iter().filter(|event| event.kind == EventKind::Preview);
    let segments: Vec<_> = previews.map(|event| event.data["segment"].clone()).collect();
    assert_eq!(segments, [json!(0), json!(1)]);
    assert_eq!(events.last().map(|event| event.seq), Some(bench.get(job).await.last_event));
}

pub async fn progress_in_a_row_is_thinned_out_to_the_last(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    for n in 1..=20 {
        let renewal = Renewal { progress: Some(step(n)), prompts_revision: 0 };
        bench.store.renew(&lease, renewal).await.unwrap();
    }
    let done = WorkerEvent::SegmentDone(SegmentDone::new(0, 97));
    let events = vec![WorkerEvent::Progress(step(29)), WorkerEvent::Progress(step(30)), done];
    bench.store.append(&lease, events, 0).await.unwrap();
    bench.store.append(&lease, vec![WorkerEvent::Progress(step(1))], 0).await.unwrap();
    let events = bench.store.events(job.id, 0, 1000).await.unwrap();
    let steps: Vec<_> = events
        .iter()
        .filter(|event| event.kind == EventKind::Progress)
        .map(|event| event.data["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [30, 1]);
    assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    let job = bench.get(job.id).await;
    assert_eq!(job.progress, Some(step(1)));
    assert_eq!(events.last().unwrap().seq, job.last_event);
    assert_eq!(job.progress.unwrap().fraction(), Some(1.0 / 60.0));
}

pub async fn one_poll_names_the_jobs_with_new_events(bench: Bench) {
    let first = bench.create(film("ann")).await.id;
    let start = bench.store.changes(None).await.unwrap();
    assert!(start.jobs.is_empty());
    let second = bench.create(film("ann")).await.id;
    bench.store.pause(first).await.unwrap();
    bench.store.resume(first).await.unwrap();
    let other = bench.open_again().await;
    let changes = other.changes(Some(start.cursor)).await.unwrap();
    let mut expected = vec![first, second];
    expected.sort();
    assert_eq!(changes.jobs, expected);
    let quiet = other.changes(Some(changes.cursor)).await.unwrap();
    assert_eq!((quiet.jobs.len(), quiet.cursor), (0, changes.cursor));
    // A deleted job takes its events along, and no later event is missed for it.
    bench.store.delete(second).await.unwrap();
    bench.store.pause(first).await.unwrap();
    assert_eq!(other.changes(Some(quiet.cursor)).await.unwrap().jobs, [first]);
}

pub async fn previews_become_artifacts_but_do_not_swell_the_record(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    let name = |kind| ArtifactName { kind, format: Format::Webp };
    for segment in 0..3 {
        let name = name(ArtifactKind::Preview(segment));
        let artifact = Artifact { name, size_bytes: 10 };
        let event = WorkerEvent::Preview { segment, artifact };
        bench.store.append(&lease, vec![event], 0).await.unwrap();
    }
    let thumbnail = Artifact { name: name(ArtifactKind::Thumbnail), size_bytes: 5 };
    bench.store.append(&lease, vec![WorkerEvent::Stored(thumbnail)], 0).await.unwrap();
    assert_eq!(bench.get(job.id).await.artifacts, [thumbnail]);
    assert_eq!(bench.store.artifacts(job.id).await.unwrap().len(), 4);
    assert_eq!(bench.store.total_artifact_bytes().await.unwrap(), 35);
    let events = bench.store.events(job.id, 0, 1000).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.data, json!({"segment": 2, "artifact": "preview-00000002.webp"}));
}
