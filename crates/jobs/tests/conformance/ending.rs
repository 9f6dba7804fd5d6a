//! How jobs end, wait and go.

use longreel_jobs::{
    Artifact, ArtifactKind, ArtifactName, Completion, EventKind, Format, HandBack, JobError,
    JobState, LeaseRequest, NewJob, Parent, Proceed, PromptChange, Relation, Renewal, SegmentDone,
    Stop, StoreError, StoreOptions, WorkerEvent,
};
use serde_json::json;

use super::{Bench, film};

pub fn adjust(_: &mut StoreOptions) {}

fn film_file(size_bytes: u64) -> Artifact {
    let name = ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 };
    Artifact { name, size_bytes }
}

pub async fn a_completed_job_has_its_film_timings_and_last_event(bench: Bench) {
    let created = bench.create(film("ann")).await.timings.created_ms;
    bench.clock.advance_ms(10);
    let leased = bench.lease().await;
    bench.store.append(&leased.lease, vec![WorkerEvent::Stored(film_file(1))], 0).await.unwrap();
    bench.clock.advance_ms(10);
    let done = |segment| WorkerEvent::SegmentDone(SegmentDone::new(segment, 97));
    bench.store.append(&leased.lease, vec![done(0)], 0).await.unwrap();
    bench.clock.advance_ms(10);
    bench.store.append(&leased.lease, vec![done(1)], 0).await.unwrap();
    let drift = Some(json!({"seams": [0.1]}));
    let completion = Completion { artifacts: vec![film_file(2)], drift: drift.clone() };
    let job = bench.store.complete(&leased.lease, completion).await.unwrap();
    assert_eq!((job.state, job.worker.clone(), job.stop), (JobState::Completed, None, None));
    assert_eq!((job.artifacts.clone(), job.drift.clone()), (vec![film_file(2)], drift));
    let times = [job.timings.started_ms, job.timings.first_frame_ms, job.timings.finished_ms];
    assert_eq!(times, [10, 20, 30].map(|ms| Some(created + ms)));
    assert_eq!(bench.get(job.id).await, job);
    let events = bench.store.events(job.id, 0, 1000).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.kind, last.seq), (EventKind::Done, job.last_event));
    assert_eq!(last.data, json!({"state": "completed", "error": null}));
}

pub async fn cancelling_a_waiting_job_ends_it_and_a_running_one_when_its_worker_lets_go(
    bench: Bench,
) {
    let waiting = bench.create(film("ann")).await;
    for _ in 0..2 {
        let job = bench.store.cancel(waiting.id).await.unwrap();
        assert_eq!(job.state, JobState::Cancelled);
    }
    let running = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    for _ in 0..2 {
        let job = bench.store.cancel(running.id).await.unwrap();
        assert_eq!((job.state, job.stop), (JobState::Running, Some(Stop::Cancel)));
    }
    for refused in [bench.store.resume(running.id).await, bench.store.pause(running.id).await] {
        assert!(matches!(refused, Err(StoreError::NotAllowed { .. })), "{refused:?}");
    }
    let orders = bench.store.renew(&lease, Renewal::default()).await.unwrap();
    assert_eq!(orders.proceed, Proceed::Stop);
    let job = bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    assert_eq!((job.state, job.stop, job.worker), (JobState::Cancelled, None, None));
}

pub async fn a_worker_that_dies_while_cancelling_leaves_a_cancelled_job(bench: Bench) {
    let job = bench.create(film("ann")).await;
    bench.lease().await;
    bench.store.cancel(job.id).await.unwrap();
    bench.clock.advance_ms(30_000);
    assert_eq!(bench.store.sweep().await.unwrap()[0].state, JobState::Cancelled);
    let job = bench.get(job.id).await;
    assert_eq!((job.state, job.error, job.deaths), (JobState::Cancelled, None, 1));
}

pub async fn pausing_waits_for_the_segment_and_resuming_goes_on(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    let asked = bench.store.pause(job.id).await.unwrap();
    assert_eq!(
        (asked.state, asked.paused, asked.stop),
        (JobState::Running, false, Some(Stop::Pause))
    );
    let orders = bench.store.renew(&lease, Renewal::default()).await.unwrap();
    assert_eq!(orders.proceed, Proceed::Pause);
    let done = WorkerEvent::SegmentDone(SegmentDone::new(0, 97));
    let orders = bench.store.append(&lease, vec![done], 0).await.unwrap();
    assert_eq!(orders.proceed, Proceed::Pause);
    let job = bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    assert_eq!((job.state, job.paused, job.stop), (JobState::Queued, true, None));
    assert_eq!(bench.store.lease(LeaseRequest::new("w")).await.unwrap(), None);
    let job = bench.store.resume(job.id).await.unwrap();
    assert!(!job.paused);
    let leased = bench.lease().await;
    assert_eq!((leased.job.id, leased.job.segments_done), (job.id, 1));
}

pub async fn a_pause_is_taken_back_before_it_comes_about(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    bench.store.pause(job.id).await.unwrap();
    bench.store.resume(job.id).await.unwrap();
    let orders = bench.store.renew(&lease, Renewal::default()).await.unwrap();
    assert_eq!(orders.proceed, Proceed::GoOn);
    // A cancel after a pause is a cancel.
    bench.store.pause(job.id).await.unwrap();
    bench.store.cancel(job.id).await.unwrap();
    let job = bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    assert_eq!(job.state, JobState::Cancelled);
}

pub async fn an_ended_job_refuses_everything_but_deletion(bench: Bench) {
    bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    let long = "é".repeat(4_000);
    let job = bench.store.fail(&lease, JobError::new("out_of_memory", long)).await.unwrap();
    assert_eq!(job.state, JobState::Failed);
    let error = job.error.clone().unwrap();
    assert_eq!((error.code.as_str(), error.message.len()), ("out_of_memory", 4096));
    let change = PromptChange { from_segment: 9, prompt: "p".into() };
    for refused in [
        bench.store.cancel(job.id).await,
        bench.store.pause(job.id).await,
        bench.store.resume(job.id).await,
        bench.store.steer(job.id, change).await,
    ] {
        assert!(matches!(refused, Err(StoreError::NotAllowed { .. })), "{refused:?}");
    }
    assert_eq!(bench.get(job.id).await, job);
    bench.store.delete(job.id).await.unwrap();
    assert!(matches!(bench.store.delete(job.id).await, Err(StoreError::NotFound { .. })));
}

pub async fn a_deadline_fails_waiting_jobs_and_stops_running_ones(bench: Bench) {
    let deadline_ms = Some(1_750_000_000_000 + 60_000);
    let running = bench.create(NewJob { deadline_ms, ..film("ann") }).await;
    let waiting = bench.create(NewJob { deadline_ms, ..film("ann") }).await;
    let lease = bench.lease().await.lease;
    bench.clock.advance_ms(59_999);
    let orders = bench.store.renew(&lease, Renewal::default()).await.unwrap();
    assert_eq!(orders.proceed, Proceed::GoOn);
    bench.clock.advance_ms(1);
    let orders = bench.store.renew(&lease, Renewal::default()).await.unwrap();
    assert_eq!(orders.proceed, Proceed::Stop);
    let swept = bench.store.sweep().await.unwrap();
    assert_eq!((swept.len(), swept[0].job), (1, waiting.id));
    bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    for id in [running.id, waiting.id] {
        let job = bench.get(id).await;
        assert_eq!(job.state, JobState::Failed);
        assert_eq!(job.error.unwrap().code, JobError::DEADLINE_EXCEEDED);
    }
}

pub async fn a_running_job_is_not_deleted_and_a_deleted_one_leaves_its_files_to_remove(
    bench: Bench,
) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    bench.store.append(&lease, vec![WorkerEvent::Stored(film_file(5))], 0).await.unwrap();
    let refused = bench.store.delete(job.id).await;
    assert!(matches!(refused, Err(StoreError::NotAllowed { .. })), "{refused:?}");
    bench.store.complete(&lease, Completion::default()).await.unwrap();
    let removed = bench.store.delete(job.id).await.unwrap();
    assert_eq!((removed.job, removed.artifacts), (job.id, vec![film_file(5).name]));
    assert!(matches!(bench.store.events(job.id, 0, 10).await, Err(StoreError::NotFound { .. })));
    // Whoever comes after a crash still knows what has to go.
    let later = bench.open_again().await;
    assert_eq!(later.pending_removals().await.unwrap(), [job.id]);
    later.removal_done(job.id).await.unwrap();
    assert!(bench.store.pending_removals().await.unwrap().is_empty());
    assert_eq!(bench.store.total_artifact_bytes().await.unwrap(), 0);
}

pub async fn a_film_that_others_are_made_from_is_kept(bench: Bench) {
    let origin = bench.create(film("ann")).await.id;
    let lease = bench.lease().await.lease;
    bench.store.complete(&lease, Completion::default()).await.unwrap();
    let parent = |relation| Some(Parent { job: origin, relation, segment: None });
    bench.create(NewJob { parent: parent(Relation::Remix), ..film("ann") }).await;
    let branch = bench.create(NewJob { parent: parent(Relation::Branch), ..film("ann") }).await;
    match bench.store.delete(origin).await {
        Err(StoreError::NeededBy { job, child }) => assert_eq!((job, child), (origin, branch.id)),
        other => panic!("{other:?}"),
    }
    bench.store.cancel(branch.id).await.unwrap();
    bench.store.delete(origin).await.unwrap();
    assert_eq!(bench.get(branch.id).await.asked.parent.unwrap().job, origin);
}
