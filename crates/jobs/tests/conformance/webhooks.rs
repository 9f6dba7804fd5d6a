//! What receivers are owed.

use longreel_jobs::{
    Backoff, Delivery, DeliveryEvent, DeliveryFilter, DeliveryOutcome, DeliveryState, JobError,
    NewJob, StoreError, StoreOptions,
};

use super::{Bench, film};

pub fn adjust(options: &mut StoreOptions) {
    options.backoff = Backoff { first_ms: 1_000, factor: 10, ceiling_ms: 60_000, max_attempts: 4 };
}

const LEASE_MS: i64 = 30_000;

fn answer(status: u16) -> DeliveryOutcome {
    DeliveryOutcome { status: Some(status), error: None, duration_ms: 12, retry_after_ms: None }
}

fn watched() -> NewJob {
    NewJob { webhook_url: Some("https://example.com/hook".into()), ..film("ann") }
}

/// A delivery that is due now.
async fn owed(bench: &Bench) -> Delivery {
    let job = bench.create(watched()).await.id;
    bench.store.cancel(job).await.unwrap();
    let filter = DeliveryFilter { job: Some(job), ..DeliveryFilter::default() };
    bench.store.list_deliveries(filter).await.unwrap().remove(0)
}

async fn due(bench: &Bench) -> usize {
    let pending = DeliveryFilter { state: Some(DeliveryState::Pending), ..Default::default() };
    let before = bench.store.list_deliveries(pending.clone()).await.unwrap();
    let taken = bench.store.take_deliveries(100, LEASE_MS).await.unwrap();
    assert!(taken.iter().all(|lease| before.iter().any(|one| one.id == lease.delivery.id)));
    taken.len()
}

pub async fn every_end_owes_its_webhook_one_delivery(bench: Bench) {
    bench.create(film("nobody listens")).await;
    let lease = bench.lease().await.lease;
    bench.store.complete(&lease, Default::default()).await.unwrap();

    let mut jobs = Vec::new();
    for end in 0..3 {
        jobs.push(bench.create(watched()).await.id);
        match end {
            0 => {
                let lease = bench.lease().await.lease;
                bench.store.complete(&lease, Default::default()).await.map(|_| ())
            }
            1 => {
                let lease = bench.lease().await.lease;
                bench.store.fail(&lease, JobError::new("e", "m")).await.map(|_| ())
            }
            _ => bench.store.cancel(jobs[2]).await.map(|_| ()),
        }
        .unwrap();
    }
    let taken = bench.store.take_deliveries(100, LEASE_MS).await.unwrap();
    let found: Vec<_> = taken.iter().map(|one| (one.delivery.job, one.delivery.event)).collect();
    let events = [DeliveryEvent::Completed, DeliveryEvent::Failed, DeliveryEvent::Cancelled];
    assert_eq!(found, jobs.iter().copied().zip(events).collect::<Vec<_>>());
    for lease in &taken {
        let state = bench.store.record_delivery(lease, answer(204)).await.unwrap();
        assert_eq!(state, DeliveryState::Delivered);
    }
    bench.clock.advance_ms(1_000_000_000);
    assert_eq!(due(&bench).await, 0);
    let log = bench.store.delivery_log(taken[0].delivery.id).await.unwrap();
    assert_eq!((log.len(), log[0].number, &log[0].outcome), (1, 1, &answer(204)));
}

pub async fn a_failed_delivery_is_tried_again_later_and_later_and_then_given_up(bench: Bench) {
    let delivery = owed(&bench).await;
    for (attempt, wait_ms) in [(1, 1_000), (2, 10_000), (3, 60_000), (4, 0)] {
        let lease = bench.store.take_deliveries(1, LEASE_MS).await.unwrap().remove(0);
        let outcome = DeliveryOutcome { status: None, error: Some("é".repeat(999)), ..answer(0) };
        let outcome = if attempt % 2 == 0 { answer(500) } else { outcome };
        let state = bench.store.record_delivery(&lease, outcome).await.unwrap();
        let last = attempt == 4;
        let expected = if last { DeliveryState::GivenUp } else { DeliveryState::Pending };
        assert_eq!(state, expected, "attempt {attempt}");
        if !last {
            bench.clock.advance_ms(wait_ms - 1);
            assert_eq!(due(&bench).await, 0, "attempt {attempt}");
            bench.clock.advance_ms(1);
        }
    }
    bench.clock.advance_ms(1_000_000_000);
    assert_eq!(due(&bench).await, 0);
    let log = bench.store.delivery_log(delivery.id).await.unwrap();
    assert_eq!(log.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(log[0].outcome.error.as_ref().unwrap().len(), 1024);
    let given_up = DeliveryFilter { state: Some(DeliveryState::GivenUp), ..Default::default() };
    let listed = bench.store.list_deliveries(given_up).await.unwrap();
    assert_eq!((listed[0].attempts, listed[0].last_status), (4, Some(500)));
}

pub async fn a_receiver_that_is_gone_or_asks_for_time_is_heard(bench: Bench) {
    owed(&bench).await;
    let lease = bench.store.take_deliveries(1, LEASE_MS).await.unwrap().remove(0);
    let state = bench.store.record_delivery(&lease, answer(410)).await.unwrap();
    assert_eq!(state, DeliveryState::GivenUp);

    owed(&bench).await;
    let lease = bench.store.take_deliveries(1, LEASE_MS).await.unwrap().remove(0);
    let busy = DeliveryOutcome { retry_after_ms: Some(40_000), ..answer(429) };
    bench.store.record_delivery(&lease, busy).await.unwrap();
    bench.clock.advance_ms(39_999);
    assert_eq!(due(&bench).await, 0);
    bench.clock.advance_ms(1);
    let lease = bench.store.take_deliveries(1, LEASE_MS).await.unwrap().remove(0);
    let for_ever = DeliveryOutcome { retry_after_ms: Some(u64::MAX), ..answer(429) };
    bench.store.record_delivery(&lease, for_ever).await.unwrap();
    bench.clock.advance_ms(60_000);
    assert_eq!(due(&bench).await, 1, "no longer than the ceiling");
}

pub async fn a_delivery_is_taken_by_one_and_is_due_again_when_its_taker_dies(bench: Bench) {
    for _ in 0..20 {
        owed(&bench).await;
    }
    let mut takers = Vec::new();
    for _ in 0..4 {
        let store = bench.open_again().await;
        takers.push(tokio::spawn(async move {
            let mut taken = Vec::new();
            loop {
                let some = store.take_deliveries(3, LEASE_MS).await.unwrap();
                if some.is_empty() {
                    return taken;
                }
                taken.extend(some);
            }
        }));
    }
    let mut taken = Vec::new();
    for taker in takers {
        taken.extend(taker.await.unwrap());
    }
    taken.sort_by_key(|lease| lease.delivery.id);
    taken.dedup_by_key(|lease| lease.delivery.id);
    assert_eq!(taken.len(), 20);
    bench.clock.advance_ms(LEASE_MS);
    assert_eq!(due(&bench).await, 20);
    let late = bench.store.record_delivery(&taken[0], answer(200)).await;
    assert!(matches!(late, Err(StoreError::DeliveryLeaseLost { .. })), "{late:?}");
    let wrong = bench.store.take_deliveries(1, 10).await;
    assert!(matches!(wrong, Err(StoreError::Invalid { field: "duration_ms", .. })));
}

pub async fn deliveries_survive_a_clock_that_jumps_back(bench: Bench) {
    owed(&bench).await;
    owed(&bench).await;
    let leases = bench.store.take_deliveries(2, LEASE_MS).await.unwrap();
    bench.store.record_delivery(&leases[0], answer(500)).await.unwrap();
    bench.clock.advance_ms(-1_000_000_000);
    assert_eq!(due(&bench).await, 2, "neither waits for the old time to come again");
}
