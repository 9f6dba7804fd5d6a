//! What is done by time and by size, also when the time is wrong.

use longreel_jobs::{
    Artifact, ArtifactKind, ArtifactName, Completion, Counts, Format, JobId, JobState,
    LeaseRequest, NewJob, Renewal, Retention, StoreOptions,
};

use super::{Bench, assert_lost, film};

pub fn adjust(options: &mut StoreOptions) {
    options.max_deaths = 1_000;
}

const DAY_MS: i64 = 86_400_000;

/// A finished film of `size_bytes`.
async fn finished(bench: &Bench, size_bytes: u64) -> JobId {
    let id = bench.create(NewJob { priority: 9, ..film("ann") }).await.id;
    let leased = bench.lease().await;
    assert_eq!(leased.job.id, id);
    let name = ArtifactName { kind: ArtifactKind::Film, format: Format::Mp4 };
    let artifacts = vec![Artifact { name, size_bytes }];
    bench.store.complete(&leased.lease, Completion { artifacts, drift: None }).await.unwrap();
    bench.clock.advance_ms(1);
    id
}

pub async fn old_films_are_retired_by_age_but_never_running_ones(bench: Bench) {
    let old = finished(&bench, 10).await;
    let running = bench.create(film("ann")).await.id;
    bench.lease().await;
    let waiting = bench.create(film("ann")).await.id;
    bench.clock.advance_ms(DAY_MS);
    let fresh = finished(&bench, 10).await;
    let retention = Retention { max_age_ms: Some(DAY_MS), max_total_bytes: None };
    let removed = bench.store.retire(retention).await.unwrap();
    assert_eq!(removed.iter().map(|one| one.job).collect::<Vec<_>>(), [old]);
    assert!(bench.store.retire(retention).await.unwrap().is_empty());
    for kept in [running, waiting, fresh] {
        bench.get(kept).await;
    }
    assert_eq!(bench.store.pending_removals().await.unwrap(), [old]);
    assert!(bench.store.retire(Retention::default()).await.unwrap().is_empty());
}

pub async fn the_oldest_films_go_until_the_size_fits(bench: Bench) {
    let big = finished(&bench, 600).await;
    let empty = finished(&bench, 0).await;
    let small = finished(&bench, 300).await;
    let last = finished(&bench, 200).await;
    let fit = |bytes| Retention { max_age_ms: None, max_total_bytes: Some(bytes) };
    assert!(bench.store.retire(fit(1_100)).await.unwrap().is_empty());
    let removed = bench.store.retire(fit(400)).await.unwrap();
    assert_eq!(removed.iter().map(|one| one.job).collect::<Vec<_>>(), [big, small]);
    assert_eq!(bench.store.total_artifact_bytes().await.unwrap(), 200);
    // Nothing is gained by deleting what has no files.
    bench.get(empty).await;
    let removed = bench.store.retire(fit(0)).await.unwrap();
    assert_eq!(removed.iter().map(|one| one.job).collect::<Vec<_>>(), [last]);
}

pub async fn counts_tell_what_waits_runs_and_has_ended(bench: Bench) {
    assert_eq!(bench.store.counts().await.unwrap(), Counts::default());
    finished(&bench, 1).await;
    bench.create(film("ann")).await;
    bench.lease().await;
    let paused = bench.create(film("ann")).await.id;
    bench.store.pause(paused).await.unwrap();
    bench.clock.advance_ms(5);
    let waiting = bench.create(film("ann")).await;
    bench.clock.advance_ms(5);
    bench.create(film("ann")).await;
    let webhook_url = Some("https://example.com".into());
    let watched = bench.create(NewJob { webhook_url, ..film("ann") }).await.id;
    bench.store.cancel(watched).await.unwrap();
    let expected = Counts {
        queued: 3,
        paused: 1,
        running: 1,
        completed: 1,
        failed: 0,
        cancelled: 1,
        oldest_waiting_ms: Some(waiting.timings.created_ms),
        pending_deliveries: 1,
    };
    assert_eq!(bench.store.counts().await.unwrap(), expected);
}

pub async fn a_clock_that_jumps_back_does_not_keep_a_dead_workers_job(bench: Bench) {
    let job = bench.create(film("ann")).await.id;
    let dead = bench.lease().await.lease;
    bench.clock.advance_ms(-30 * DAY_MS);
    assert!(bench.store.sweep().await.unwrap().is_empty(), "it may be alive");
    bench.clock.advance_ms(30_000);
    let swept = bench.store.sweep().await.unwrap();
    assert_eq!((swept.len(), swept[0].job), (1, job));
    assert_lost(bench.store.renew(&dead, Renewal::default()).await, &dead);
    assert_eq!(bench.lease().await.job.id, job);
}

pub async fn a_clock_that_jumps_about_loses_and_repeats_no_job(bench: Bench) {
    let jumps = [7 * DAY_MS, -9 * DAY_MS, 1, -1, 40_000, -40_000, 365 * DAY_MS, -365 * DAY_MS];
    let mut asked = Vec::new();
    for jump in jumps {
        asked.push(bench.create(film("ann")).await.id);
        bench.clock.advance_ms(jump);
    }
    let mut done = Vec::new();
    for jump in jumps.into_iter().rev().cycle().take(100) {
        let Some(leased) = bench.store.lease(LeaseRequest::new("w")).await.unwrap() else { break };
        bench.clock.advance_ms(jump);
        // The worker is alive: it keeps the job unless another was given it.
        let renewed = bench.store.renew(&leased.lease, Renewal::default()).await;
        renewed.unwrap();
        bench.clock.advance_ms(-jump / 2);
        bench.store.complete(&leased.lease, Completion::default()).await.unwrap();
        done.push(leased.job.id);
    }
    assert_eq!(done, asked, "each once, in the order of asking");
    for id in asked {
        let job = bench.get(id).await;
        assert_eq!((job.state, job.attempts, job.deaths), (JobState::Completed, 1, 0));
    }
}
