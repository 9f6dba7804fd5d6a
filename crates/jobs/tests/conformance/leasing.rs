//! Who is given which job, and how it is lost.

use std::collections::HashSet;

use longreel_jobs::{
    Artifact, ArtifactKind, ArtifactName, Format, HandBack, JobError, JobId, JobState,
    LeaseRequest, NewJob, OwnerLimits, Renewal, SegmentDone, StoreError, StoreOptions, SweptReason,
    WorkerEvent,
};

use super::{Bench, assert_lost, film};

pub fn adjust(options: &mut StoreOptions) {
    options.max_deaths = 3;
}

async fn prioritised(bench: &Bench, owner: &str, priority: i32) -> JobId {
    bench.create(NewJob { priority, ..film(owner) }).await.id
}

pub async fn higher_priority_goes_first_then_age(bench: Bench) {
    let mut by_age = Vec::new();
    for priority in [0, 5, -1, 5, 0] {
        by_age.push(prioritised(&bench, "ann", priority).await);
        // Age is the order of arrival, whatever the clock says.
        bench.clock.advance_ms(-1_000);
    }
    assert_eq!(bench.store.queue_position(by_age[4]).await.unwrap(), Some(3));
    for n in [1, 3, 0, 4, 2] {
        assert_eq!(bench.store.queue_position(by_age[n]).await.unwrap(), Some(0));
        assert_eq!(bench.lease().await.job.id, by_age[n]);
        assert_eq!(bench.store.queue_position(by_age[n]).await.unwrap(), None);
    }
    assert_eq!(bench.store.lease(LeaseRequest::new("w")).await.unwrap(), None);
}

pub async fn owners_share_by_the_work_they_were_given_lately(bench: Bench) {
    for _ in 0..6 {
        bench.create(NewJob { frames: Some(1_000), ..film("long") }).await;
    }
    for _ in 0..12 {
        bench.create(NewJob { frames: Some(100), ..film("short") }).await;
    }
    let mut given = String::new();
    let mut leases = Vec::new();
    for _ in 0..12 {
        let leased = bench.lease().await;
        given.push_str(&leased.job.asked.owner[..1]);
        leases.push(leased.lease);
    }
    // One long film weighs as much as ten short ones.
    assert_eq!(given, "lssssssssssl");
    for lease in leases {
        bench.store.complete(&lease, Default::default()).await.unwrap();
    }

    // Work of long ago counts less than a little of now.
    bench.clock.advance_ms(24 * 3_600_000);
    bench.create(film("new")).await;
    bench.create(film("new")).await;
    let leased = bench.lease().await;
    assert_eq!(leased.job.asked.owner, "new");
    // What is handed back was not given.
    bench.store.hand_back(&leased.lease, HandBack::Stopped).await.unwrap();
    assert_eq!(bench.lease().await.job.asked.owner, "new");
    assert_ne!(bench.lease().await.job.asked.owner, "new");
}

pub async fn an_owner_at_its_limit_is_passed_over(bench: Bench) {
    let one = OwnerLimits { queued: 10, running: 1, frames: None };
    bench.store.set_owner_limits("ann", Some(one)).await.unwrap();
    prioritised(&bench, "ann", 9).await;
    let second = prioritised(&bench, "ann", 9).await;
    let bobs = prioritised(&bench, "bob", 0).await;
    let first = bench.lease().await;
    assert_eq!(bench.lease().await.job.id, bobs);
    assert_eq!(bench.store.lease(LeaseRequest::new("w")).await.unwrap(), None);
    bench.store.complete(&first.lease, Default::default()).await.unwrap();
    assert_eq!(bench.lease().await.job.id, second);
}

pub async fn a_worker_gets_only_jobs_of_its_models(bench: Bench) {
    bench.create(NewJob { model: "large".into(), priority: 9, ..film("ann") }).await;
    let small = bench.create(NewJob { model: "small".into(), ..film("ann") }).await;
    let request =
        LeaseRequest { models: vec!["tiny".into(), "small".into()], ..LeaseRequest::new("worker") };
    let leased = bench.store.lease(request.clone()).await.unwrap().unwrap();
    assert_eq!(leased.job.id, small.id);
    assert_eq!(bench.store.lease(request).await.unwrap(), None);
}

pub async fn paused_and_overdue_jobs_are_not_given_out(bench: Bench) {
    let paused = bench.create(film("ann")).await;
    bench.store.pause(paused.id).await.unwrap();
    let deadline_ms = Some(paused.timings.created_ms + 1_000);
    bench.create(NewJob { deadline_ms, ..film("ann") }).await;
    bench.clock.advance_ms(1_000);
    assert_eq!(bench.store.lease(LeaseRequest::new("w")).await.unwrap(), None);
    bench.store.resume(paused.id).await.unwrap();
    assert_eq!(bench.lease().await.job.id, paused.id);
}

pub async fn a_lost_lease_changes_nothing_whatever_is_called(bench: Bench) {
    bench.create(film("ann")).await;
    let lost = bench.lease().await.lease;
    bench.clock.advance_ms(30_000);
    let held = bench.lease().await;
    assert_eq!((held.lease.job, held.job.attempts), (lost.job, 2));
    let before = bench.get(lost.job).await;
    let name = ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 };
    let stored = vec![WorkerEvent::Stored(Artifact { name, size_bytes: 1 })];
    let done = vec![WorkerEvent::SegmentDone(SegmentDone::new(0, 97))];
    let store = &bench.store;
    assert_lost(store.renew(&lost, Renewal::default()).await, &lost);
    assert_lost(store.append(&lost, done, 0).await, &lost);
    assert_lost(store.append(&lost, stored, 0).await, &lost);
    assert_lost(store.complete(&lost, Default::default()).await, &lost);
    assert_lost(store.fail(&lost, JobError::new("e", "m")).await, &lost);
    assert_lost(store.hand_back(&lost, HandBack::Stopped).await, &lost);
    assert_lost(store.hand_back(&lost, HandBack::Died { reason: "x".into() }).await, &lost);
    assert_eq!(bench.get(lost.job).await, before);
    // So does a lease on a job that has ended, and one on a job that is gone.
    store.complete(&held.lease, Default::default()).await.unwrap();
    assert_lost(store.complete(&held.lease, Default::default()).await, &held.lease);
    store.delete(lost.job).await.unwrap();
    assert_lost(store.renew(&held.lease, Renewal::default()).await, &held.lease);
}

pub async fn a_dead_workers_job_goes_back_to_the_queue(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let leased = bench.lease().await;
    assert_eq!(leased.expires_ms, job.timings.created_ms + 30_000);
    bench.clock.advance_ms(29_000);
    bench.store.renew(&leased.lease, Renewal::default()).await.unwrap();
    bench.clock.advance_ms(29_999);
    assert!(bench.store.sweep().await.unwrap().is_empty());
    bench.clock.advance_ms(1);
    let swept = bench.store.sweep().await.unwrap();
    assert_eq!(swept.len(), 1);
    assert_eq!((swept[0].job, swept[0].state), (job.id, JobState::Queued));
    let job = bench.get(job.id).await;
    assert_eq!((job.deaths, job.attempts, job.worker), (1, 1, None));
    assert_eq!(bench.lease().await.job.timings.started_ms, Some(job.timings.created_ms));
}

pub async fn three_deaths_in_a_row_fail_a_job_and_leave_others_alone(bench: Bench) {
    let poison = bench.create(NewJob { priority: 1, ..film("ann") }).await;
    let other = bench.create(film("ann")).await;
    for death in 1..=3 {
        let leased = bench.lease().await;
        assert_eq!(leased.job.id, poison.id);
        let reason = "killed by signal 9".to_owned();
        let job = bench.store.hand_back(&leased.lease, HandBack::Died { reason }).await.unwrap();
        assert_eq!((job.deaths, job.state == JobState::Failed), (death, death == 3));
    }
    let error = bench.get(poison.id).await.error.unwrap();
    assert_eq!(error.code, JobError::WORKER_DIED);
    assert!(error.message.contains("3 times"), "{}", error.message);
    assert!(error.message.contains("killed by signal 9"), "{}", error.message);
    let leased = bench.lease().await;
    assert_eq!((leased.job.id, leased.job.deaths), (other.id, 0));
}

pub async fn a_finished_segment_forgives_deaths(bench: Bench) {
    bench.create(NewJob { frames: None, ..film("ann") }).await;
    for segment in 0..10 {
        let leased = bench.lease().await;
        let done = WorkerEvent::SegmentDone(SegmentDone::new(segment, 97));
        bench.store.append(&leased.lease, vec![done], 0).await.unwrap();
        bench.clock.advance_ms(30_000);
    }
    // Finishing the same segment again and again is no progress.
    for _ in 0..2 {
        let leased = bench.lease().await;
        let again = WorkerEvent::SegmentDone(SegmentDone::new(9, 97));
        bench.store.append(&leased.lease, vec![again], 0).await.unwrap();
        bench.clock.advance_ms(30_000);
    }
    let swept = bench.store.sweep().await.unwrap();
    let job = bench.get(swept[0].job).await;
    assert_eq!((job.state, job.deaths, job.segments_done), (JobState::Failed, 12, 10));
}

pub async fn a_lease_that_ran_out_but_was_not_taken_back_still_counts(bench: Bench) {
    bench.create(film("ann")).await;
    let leased = bench.lease().await;
    bench.clock.advance_ms(3_600_000);
    let orders = bench.store.renew(&leased.lease, Renewal::default()).await.unwrap();
    assert_eq!(orders.expires_ms, leased.expires_ms + 3_600_000);
    assert!(bench.store.sweep().await.unwrap().is_empty());
    bench.store.complete(&leased.lease, Default::default()).await.unwrap();
}

pub async fn a_worker_known_to_be_gone_loses_its_jobs_at_once(bench: Bench) {
    for worker in ["one", "one", "two"] {
        bench.create(film("ann")).await;
        bench.store.lease(LeaseRequest::new(worker)).await.unwrap().unwrap();
    }
    let swept = bench.store.worker_gone("one").await.unwrap();
    assert_eq!(swept.len(), 2);
    for one in swept {
        assert_eq!((one.reason, one.state), (SweptReason::WorkerGone, JobState::Queued));
        assert_eq!(bench.get(one.job).await.deaths, 1);
    }
    assert!(bench.store.worker_gone("one").await.unwrap().is_empty());
}

/// Workers of `processes`, each with a store of its own, lease until nothing is left.
async fn lease_all(bench: &Bench, processes: usize, tasks: usize) -> Vec<JobId> {
    let mut workers = Vec::new();
    for process in 0..processes {
        let store = bench.open_again().await;
        for task in 0..tasks {
            let store = store.clone();
            workers.push(tokio::spawn(async move {
                let mut given = Vec::new();
                let request = LeaseRequest::new(format!("{process}/{task}"));
                while let Some(leased) = store.lease(request.clone()).await.unwrap() {
                    given.push(leased.job.id);
                }
                given
            }));
        }
    }
    let mut given = Vec::new();
    for worker in workers {
        given.extend(worker.await.unwrap());
    }
    given
}

pub async fn no_job_is_given_twice_to_many_workers_leasing_at_once(bench: Bench) {
    let mut asked = HashSet::new();
    for n in 0..60 {
        asked.insert(bench.create(film(["ann", "bob", "cid"][n % 3])).await.id);
    }
    let given = lease_all(&bench, 4, 4).await;
    assert_eq!(given.len(), 60);
    assert_eq!(given.into_iter().collect::<HashSet<_>>(), asked);
}

pub async fn the_limit_of_an_owner_holds_among_many_workers(bench: Bench) {
    let three = OwnerLimits { queued: 100, running: 3, frames: None };
    bench.store.set_owner_limits("ann", Some(three)).await.unwrap();
    for _ in 0..20 {
        bench.create(film("ann")).await;
    }
    assert_eq!(lease_all(&bench, 3, 3).await.len(), 3);
    let wrong = LeaseRequest { duration_ms: 999, ..LeaseRequest::new("w") };
    assert!(matches!(bench.store.lease(wrong).await, Err(StoreError::Invalid { .. })));
}
