//! Many hands, dead workers, wrong clocks, crashes: what must hold all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use longreel_jobs::{
    Completion, EventKind, HandBack, Instead, Job, JobError, JobId, JobState, Lease, LeaseRequest,
    ListFilter, NewJob, Progress, PromptChange, Renewal, Retention, SegmentDone, Store, StoreError,
    StoreOptions, WorkerEvent,
};

use super::{Bench, film};

pub fn adjust(options: &mut StoreOptions) {
    options.max_deaths = 4;
}

/// Random numbers that are the same each time (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let at = self.below(all.len().max(1) as u64) as usize;
        all.get(at)
    }
}

fn progress(random: &mut Random) -> Option<Progress> {
    (random.below(2) == 0)
        .then(|| Progress { step: random.below(30) as u32, ..Progress::default() })
}

/// What has to hold for every job at any time.
async fn check(store: &dyn Store, job: &Job) {
    let about = format!("{job:?}");
    let running = job.state == JobState::Running;
    assert_eq!(job.worker.is_some(), running, "{about}");
    assert_eq!(job.timings.finished_ms.is_some(), job.state.is_final(), "{about}");
    assert_eq!(job.error.is_some(), job.state == JobState::Failed, "{about}");
    assert!(!job.paused || job.state == JobState::Queued, "{about}");
    assert!(job.stop.is_none() || running, "{about}");
    assert!(job.deaths <= job.attempts && job.deaths_in_row <= job.deaths, "{about}");
    let events = store.events(job.id, 0, 1000).await.unwrap();
    assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq), "{about}");
    assert_eq!(events.last().map(|event| event.seq), Some(job.last_event), "{about}");
    let dones = events.iter().filter(|event| event.kind == EventKind::Done).count();
    assert_eq!(dones, usize::from(job.state.is_final()), "{about}");
    assert_eq!(events.last().unwrap().kind == EventKind::Done, job.state.is_final(), "{about}");
}

pub async fn random_operations_never_break_an_invariant(bench: Bench) {
    let mut random = Random(4);
    let mut stores = [bench.store.clone(), bench.open_again().await];
    // Every lease that was ever given, and the one that is valid for each job as far as is known.
    let mut leases: Vec<Lease> = Vec::new();
    let mut valid: HashMap<JobId, Lease> = HashMap::new();
    let mut ended: HashMap<JobId, JobState> = HashMap::new();
    let mut jobs: Vec<JobId> = Vec::new();
    let mut lost = 0;
    for round in 0..1_500 {
        let store = stores[random.below(2) as usize].clone();
        let job = random.one_of(&jobs).copied().unwrap_or(JobId::new(0));
        let lease = random.one_of(&leases).cloned();
        let lease = lease.unwrap_or(Lease { job, token: "none".into() });
        let is_valid = valid.get(&lease.job) == Some(&lease);
        let mut by_lease: Option<Result<(), StoreError>> = None;
        let mut ends = false;
        match random.below(20) {
            0..=2 => {
                let deadline_ms = (random.below(8) == 0)
                    .then(|| 1_750_000_000_000 + random.below(4_000_000) as i64 - 1_000_000);
                let owner = ["ann", "bob", "cid"][random.below(3) as usize];
                let priority = random.below(3) as i32;
                let new = NewJob { deadline_ms, priority, ..film(owner) };
                match store.create(new).await {
                    Ok(created) => jobs.push(created.into_job().id),
                    Err(StoreError::Invalid { field: "deadline_ms", .. }) => {}
                    Err(other) => panic!("round {round}: {other}"),
                }
            }
            3..=6 => {
                let leased = store.lease(LeaseRequest::new("w")).await.unwrap();
                if let Some(leased) = leased {
                    assert_eq!(leased.job.state, JobState::Running);
                    assert!(!leases.contains(&leased.lease));
                    leases.push(leased.lease.clone());
                    valid.insert(leased.job.id, leased.lease);
                }
            }
            7 => {
                let renewal = Renewal { progress: progress(&mut random), prompts_revision: 0 };
                by_lease = Some(store.renew(&lease, renewal).await.map(|_| ()));
            }
            8 | 9 => {
                let segment = random.below(5) as u32;
                let done = WorkerEvent::SegmentDone(SegmentDone::new(segment, 97));
                by_lease = Some(store.append(&lease, vec![done], 0).await.map(|_| ()));
            }
            10 => {
                ends = true;
                by_lease = Some(store.complete(&lease, Completion::default()).await.map(|_| ()));
            }
            11 => {
                ends = true;
                by_lease = Some(store.fail(&lease, JobError::new("e", "m")).await.map(|_| ()));
            }
            12 => {
                ends = true;
                let how = match random.below(4) {
                    0 => HandBack::Stopped,
                    1 => HandBack::OutOfMemory { reason: "no memory".into(), instead: None },
                    2 => {
                        let instead = Some(Instead {
                            resolved: serde_json::json!({"smaller": true}),
                            prompts_revision: random.below(2) as u32,
                            prompts: Vec::new(),
                            warning: "smaller".into(),
                        });
                        HandBack::OutOfMemory { reason: "no memory".into(), instead }
                    }
                    _ => HandBack::Died { reason: "killed".into() },
                };
                by_lease = Some(store.hand_back(&lease, how).await.map(|_| ()));
            }
            13 => drop(store.cancel(job).await),
            14 => drop(store.pause(job).await),
            15 => drop(store.resume(job).await),
            16 => {
                let change =
                    PromptChange { from_segment: random.below(6) as u32, prompt: "p".into() };
                drop(store.steer(job, change).await);
            }
            17 => {
                let before = store.get(job).await.map(|job| job.state);
                if store.delete(job).await.is_ok() {
                    assert_ne!(before.unwrap(), JobState::Running);
                    jobs.retain(|&known| known != job);
                    valid.remove(&job);
                    store.removal_done(job).await.unwrap();
                }
            }
            18 => {
                bench.clock.advance_ms(random.below(90_000) as i64 - 30_000);
                store.sweep().await.unwrap();
                let retention = Retention { max_age_ms: Some(3_600_000), max_total_bytes: None };
                for removed in store.retire(retention).await.unwrap() {
                    jobs.retain(|&known| known != removed.job);
                    valid.remove(&removed.job);
                }
            }
            _ => {
                // One process crashes and another one starts.
                stores[1] = bench.open_again().await;
            }
        }
        match by_lease {
            // A lease that is valid as far as is known may have been swept; none comes back.
            Some(Err(StoreError::LeaseLost { job })) => {
                lost += 1;
                if is_valid {
                    valid.remove(&job);
                }
            }
            Some(Ok(())) => {
                assert!(is_valid, "round {round}: {lease:?} was given up and worked again");
                if ends {
                    valid.remove(&lease.job);
                }
            }
            Some(Err(other)) => panic!("round {round}: {other}"),
            None => {}
        }
        if round % 10 == 0 {
            for &id in &jobs {
                let now = bench.get(id).await;
                check(&*stores[1], &now).await;
                if let Some(&state) = ended.get(&id) {
                    assert_eq!(now.state, state, "round {round}: {id} ended twice");
                }
                if now.state.is_final() {
                    ended.insert(id, now.state);
                }
            }
        }
    }
    let states: Vec<_> = ended.values().collect();
    assert!(lost > 50 && states.len() > 50, "{lost} lost leases and {} ends", states.len());
    for state in [JobState::Completed, JobState::Failed, JobState::Cancelled] {
        assert!(states.contains(&&state), "{state} never came about");
    }
}

pub async fn many_processes_finish_every_job_exactly_once(bench: Bench) {
    const JOBS: u64 = 60;
    for n in 0..JOBS {
        bench.create(film(["ann", "bob", "cid"][n as usize % 3])).await;
    }
    let completed = Arc::new(AtomicU64::new(0));
    let mut workers = Vec::new();
    for process in 0..3 {
        let store = bench.open_again().await;
        for task in 0..3 {
            let (store, completed, clock) = (store.clone(), completed.clone(), bench.clock.clone());
            workers.push(tokio::spawn(async move {
                let name = format!("{process}/{task}");
                let mut random = Random(process * 100 + task);
                while completed.load(Ordering::SeqCst) < JOBS {
                    let Some(leased) = store.lease(LeaseRequest::new(&name)).await.unwrap() else {
                        // Others hold the rest, or died with it.
                        clock.advance_ms(5_000);
                        tokio::task::yield_now().await;
                        continue;
                    };
                    let lease = leased.lease;
                    let segment = leased.job.segments_done;
                    let result = match random.below(8) {
                        // Death, seen by nobody.
                        0 => {
                            let done = WorkerEvent::SegmentDone(SegmentDone::new(segment, 1));
                            let _ = store.append(&lease, vec![done], 0).await;
                            clock.advance_ms(if random.below(4) == 0 { -20_000 } else { 20_000 });
                            continue;
                        }
                        1 => {
                            let done = WorkerEvent::SegmentDone(SegmentDone::new(segment, 1));
                            let _ = store.append(&lease, vec![done], 0).await;
                            store.hand_back(&lease, HandBack::Stopped).await.map(|_| 0)
                        }
                        _ => store.complete(&lease, Completion::default()).await.map(|_| 1),
                    };
                    match result {
                        Ok(ends) => completed.fetch_add(ends, Ordering::SeqCst),
                        Err(StoreError::LeaseLost { .. }) => 0,
                        Err(other) => panic!("{other}"),
                    };
                }
            }));
        }
    }
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(completed.load(Ordering::SeqCst), JOBS);
    let (mut after, mut found) = (None, 0);
    loop {
        let filter = ListFilter { after, limit: 100, ..ListFilter::default() };
        let page = bench.store.list(filter).await.unwrap();
        for job in &page.jobs {
            assert_eq!(job.state, JobState::Completed, "{job:?}");
            check(&*bench.store, job).await;
        }
        found += page.jobs.len() as u64;
        after = page.jobs.last().map(|job| job.id);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(found, JOBS);
}

pub async fn what_was_acknowledged_is_there_after_a_crash(bench: Bench) {
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let store = bench.open_again().await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for _ in 0..3 {
            let (store, stop) = (store.clone(), stop.clone());
            clients.push(tokio::spawn(async move {
                let mut known = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    known.push(store.create(film("ann")).await.unwrap().into_job().id);
                }
                known
            }));
        }
        // One that is cut off in the middle of its calls, whatever they are doing.
        let cut = tokio::spawn({
            let store = store.clone();
            async move {
                while let Ok(created) = store.create(film("cut")).await {
                    let _ = store.pause(created.into_job().id).await;
                }
            }
        });
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        cut.abort();
        let _ = cut.await;
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            acknowledged.extend(client.await.unwrap());
        }
        drop(store);
        let after = bench.open_again().await;
        for &id in &acknowledged {
            assert_eq!(after.get(id).await.unwrap().state, JobState::Queued, "round {round}");
        }
        // Nothing is half there, and the write lock is free.
        let owner = Some("cut".to_owned());
        let page = after.list(ListFilter { owner, limit: 100, ..ListFilter::default() });
        for job in page.await.unwrap().jobs {
            check(&*after, &job).await;
        }
    }
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
}
