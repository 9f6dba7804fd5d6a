//! Prompts that change while a film is made.

use longreel_jobs::{
    HandBack, PromptChange, Renewal, SegmentDone, StoreError, StoreOptions, WorkerEvent,
};

use super::{Bench, film};

pub fn adjust(_: &mut StoreOptions) {}

fn change(from_segment: u32, prompt: &str) -> PromptChange {
    PromptChange { from_segment, prompt: prompt.into() }
}

pub async fn a_changed_prompt_reaches_the_worker_once(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    bench.store.steer(job.id, change(5, "dusk")).await.unwrap();
    bench.store.steer(job.id, change(2, "rain")).await.unwrap();
    let job = bench.store.steer(job.id, change(5, "night")).await.unwrap();
    assert_eq!(job.prompts, [change(2, "rain"), change(5, "night")]);
    let orders = bench.store.renew(&lease, Renewal::default()).await.unwrap();
    assert_eq!((orders.prompts_revision, orders.prompts), (3, Some(job.prompts.clone())));
    let known = Renewal { prompts_revision: 3, ..Renewal::default() };
    assert_eq!(bench.store.renew(&lease, known).await.unwrap().prompts, None);
    // The next worker finds them with the job.
    bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    assert_eq!(bench.lease().await.job.prompts, job.prompts);
}

pub async fn a_segment_that_is_begun_keeps_its_prompt(bench: Bench) {
    let job = bench.create(film("ann")).await;
    bench.store.steer(job.id, change(0, "waiting jobs take any")).await.unwrap();
    let lease = bench.lease().await.lease;
    let refused =
        async |from_segment| match bench.store.steer(job.id, change(from_segment, "p")).await {
            Err(StoreError::SegmentBegun { first_open, .. }) => Some(first_open),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        };
    assert_eq!(refused(0).await, Some(1));
    let done = WorkerEvent::SegmentDone(SegmentDone::new(0, 97));
    bench.store.append(&lease, vec![done], 0).await.unwrap();
    assert_eq!(refused(1).await, Some(2));
    assert_eq!(refused(2).await, None);
    bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    assert_eq!(refused(0).await, Some(1));
    assert_eq!(refused(1).await, None);
}

pub async fn a_segment_report_brings_the_orders_for_the_next_one(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let lease = bench.lease().await.lease;
    bench.store.steer(job.id, change(1, "rain")).await.unwrap();
    let done = WorkerEvent::SegmentDone(SegmentDone::new(0, 97));
    let orders = bench.store.append(&lease, vec![done], 0).await.unwrap();
    assert_eq!(orders.prompts, Some(vec![change(1, "rain")]));
}

pub async fn a_change_for_a_segment_that_was_made_unheard_holds_from_the_next_one_on(bench: Bench) {
    let job = bench.create(film("ann")).await;
    let made = |segment, prompt: &str| {
        let frames = 97 * (u64::from(segment) + 1);
        let done = SegmentDone { prompt: prompt.into(), ..SegmentDone::new(segment, frames) };
        vec![WorkerEvent::SegmentDone(done)]
    };
    let lease = bench.lease().await.lease;
    bench.store.append(&lease, made(0, "sun"), 0).await.unwrap();
    bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    bench.store.steer(job.id, change(1, "rain")).await.unwrap();
    // Segments 1 and 2 were made before the change.
    let lease = bench.lease().await.lease;
    let orders = bench.store.append(&lease, made(1, "sun"), 1).await.unwrap();
    assert_eq!(orders.prompts, Some(vec![change(2, "rain")]));
    let orders = bench.store.append(&lease, made(2, "sun"), 2).await.unwrap();
    assert_eq!(orders.prompts, Some(vec![change(3, "rain")]));
    // From here on it is known, and another change takes its place where there is one.
    let orders = bench.store.append(&lease, made(3, "rain"), 3).await.unwrap();
    assert_eq!((orders.prompts, orders.prompts_revision), (None, 3));
    bench.store.hand_back(&lease, HandBack::Stopped).await.unwrap();
    bench.store.steer(job.id, change(4, "dusk")).await.unwrap();
    bench.store.steer(job.id, change(5, "night")).await.unwrap();
    let lease = bench.lease().await.lease;
    let orders = bench.store.append(&lease, made(4, "rain"), 5).await.unwrap();
    assert_eq!(orders.prompts, Some(vec![change(3, "rain"), change(5, "night")]));
}
