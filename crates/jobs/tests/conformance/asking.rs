//! Taking jobs in, and finding them again.

use longreel_jobs::{
    Artifact, ArtifactKind, ArtifactName, Created, Format, JobId, JobState, Limit, LimitValue,
    ListFilter, ListOrder, NewJob, OwnerLimits, Parent, Relation, StoreError, StoreOptions,
    TraceContext,
};
use serde_json::json;

use super::{Bench, film, is_new};

pub fn adjust(options: &mut StoreOptions) {
    options.limits.queue_length = 130;
    options.limits.owner = OwnerLimits { queued: 120, running: 4, frames: Some(10_000) };
}

pub async fn a_job_keeps_everything_it_was_asked_with(bench: Bench) {
    let parent = bench.create(film("ann")).await.id;
    let asked = NewJob {
        owner: "ann".into(),
        idempotency_key: Some("k".into()),
        prompt: "灯塔 \"in\" the fog\n\u{1f30a}".into(),
        request: json!({"seed": u64::MAX, "guidance_scale": 6.1, "x": [null, true, "é"]}),
        resolved: json!({"steps": 30}),
        seed: u64::MAX,
        model: "SkyReels-V2-DF-1.3B-540P".into(),
        model_revision: "abc".into(),
        program_version: "0.1.0".into(),
        priority: i32::MIN,
        frames: Some(9_999),
        parent: Some(Parent { job: parent, relation: Relation::Branch, segment: Some(7) }),
        webhook_url: Some("https://example.com/hook".into()),
        deadline_ms: Some(i64::MAX),
        trace: Some(trace("vendor=a b,other=1")),
    };
    let job = bench.create(asked.clone()).await;
    assert_eq!(job.asked, asked);
    assert_eq!((job.state, job.paused, job.attempts), (JobState::Queued, false, 0));
    assert_eq!(job.timings.created_ms, 1_750_000_000_000);
    assert_eq!(bench.get(job.id).await, job);
    assert_eq!(bench.open_again().await.get(job.id).await.unwrap(), job);
}

fn trace(state: &str) -> TraceContext {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    TraceContext { traceparent, tracestate: (!state.is_empty()).then(|| state.to_owned()) }
}

pub async fn the_same_request_with_the_same_key_is_the_same_job(bench: Bench) {
    // Numbers that do not survive a careless way to text and back.
    let request = json!({"cfg": [0.1 + 0.2, 5e-324, 1.797_693_134_862_315_7e308, -0.0, u64::MAX]});
    let asked = NewJob { idempotency_key: Some("k".into()), request, ..film("ann") };
    let first = bench.store.create(asked.clone()).await.unwrap();
    assert!(is_new(&first));
    // The server may fill in other defaults, or draw another seed, the second time, and whoever repeats
    // a request is in another trace.
    let again = NewJob { seed: 5, resolved: json!({}), trace: Some(trace("")), ..asked.clone() };
    let again = bench.open_again().await.create(again).await.unwrap();
    assert_eq!(again, Created::Known(first.into_job()));
    let other = bench.store.create(NewJob { owner: "bob".into(), ..asked.clone() }).await.unwrap();
    assert!(is_new(&other), "keys are by owner");
    let unkeyed = bench.store.create(NewJob { idempotency_key: None, ..asked }).await.unwrap();
    assert!(is_new(&unkeyed));
}

pub async fn a_key_used_for_another_request_is_refused_with_the_job_it_made(bench: Bench) {
    let asked = NewJob { idempotency_key: Some("k".into()), ..film("ann") };
    let first = bench.create(asked.clone()).await;
    let other = NewJob { request: json!({"prompt": "another"}), ..asked };
    match bench.store.create(other).await {
        Err(StoreError::IdempotencyConflict { key, job }) => {
            assert_eq!((key.as_str(), job), ("k", first.id));
        }
        other => panic!("{other:?}"),
    }
}

pub async fn a_full_queue_says_the_limit_and_when_to_come_back(bench: Bench) {
    for n in 0..130 {
        bench.create(film(if n < 120 { "ann" } else { "bob" })).await;
    }
    let refuse = async |owner| match bench.store.create(film(owner)).await {
        Err(error @ StoreError::LimitReached { .. }) => {
            assert!(error.is_transient());
            error
        }
        other => panic!("{other:?}"),
    };
    let error = refuse("ann").await;
    let text = error.to_string();
    assert!(text.contains("this owner is 120, this would be 121"), "{text}");
    let StoreError::LimitReached { limit: Limit::QueueLength, value, max, retry_after_ms } =
        refuse("bob").await
    else {
        panic!()
    };
    assert_eq!((value, max), (LimitValue::Number(131), 130));
    assert_eq!(retry_after_ms, Some(60_000), "a minute as long as nothing is known");

    // Two films of ten minutes each, one after the other, with one running.
    for _ in 0..2 {
        let leased = bench.lease().await;
        bench.clock.advance_ms(600_000);
        bench.store.complete(&leased.lease, Default::default()).await.unwrap();
    }
    bench.lease().await;
    bench.create(film("bob")).await;
    bench.create(film("bob")).await;
    bench.create(film("bob")).await;
    let StoreError::LimitReached { retry_after_ms, .. } = refuse("bob").await else { panic!() };
    assert_eq!(retry_after_ms, Some(600_000));
}

pub async fn films_longer_than_the_limit_are_refused_and_waiting_does_not_help(bench: Bench) {
    for (frames, value) in [(Some(10_001), LimitValue::Number(10_001)), (None, LimitValue::Endless)]
    {
        let error = bench.store.create(NewJob { frames, ..film("ann") }).await.unwrap_err();
        assert!(!error.is_transient(), "{error}");
        match error {
            StoreError::LimitReached { limit, value: found, max, retry_after_ms } => {
                assert_eq!((limit, found, max), (Limit::Frames, value, 10_000));
                assert_eq!(retry_after_ms, None);
            }
            other => panic!("{other:?}"),
        }
    }
    bench.create(NewJob { frames: Some(10_000), ..film("ann") }).await;
}

pub async fn limits_of_an_owner_replace_those_of_all(bench: Bench) {
    let own = OwnerLimits { queued: 1, running: 1, frames: None };
    bench.store.set_owner_limits("ann", Some(own)).await.unwrap();
    bench.create(NewJob { frames: None, ..film("ann") }).await;
    assert!(bench.store.create(film("ann")).await.is_err());
    bench.create(film("bob")).await;
    bench.store.set_owner_limits("ann", None).await.unwrap();
    bench.create(film("ann")).await;
    let nothing = OwnerLimits { running: 0, ..own };
    assert!(bench.store.set_owner_limits("ann", Some(nothing)).await.is_err());
}

pub async fn values_out_of_their_range_are_refused_by_name(bench: Bench) {
    let cases = [
        ("owner", NewJob { owner: String::new(), ..film("a") }),
        ("owner", NewJob { owner: "o".repeat(129), ..film("a") }),
        ("idempotency_key", NewJob { idempotency_key: Some(String::new()), ..film("a") }),
        ("prompt", NewJob { prompt: "p".repeat(65_537), ..film("a") }),
        ("prompt", NewJob { prompt: "a\0b".into(), ..film("a") }),
        ("request", NewJob { request: json!("r".repeat(1 << 20)), ..film("a") }),
        ("deadline_ms", NewJob { deadline_ms: Some(1_750_000_000_000), ..film("a") }),
        ("webhook_url", NewJob { webhook_url: Some("u".repeat(2_049)), ..film("a") }),
        ("tracestate", NewJob { trace: Some(trace(&"s".repeat(513))), ..film("a") }),
        (
            "traceparent",
            NewJob {
                trace: Some(TraceContext { traceparent: "00".into(), ..trace("") }),
                ..film("a")
            },
        ),
    ];
    for (name, new) in cases {
        match bench.store.create(new).await {
            Err(StoreError::Invalid { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let filter = ListFilter { limit: 101, ..ListFilter::default() };
    assert!(matches!(bench.store.list(filter).await, Err(StoreError::Invalid { .. })));
    let filter = ListFilter { text: "%".repeat(1_025), ..ListFilter::default() };
    assert!(matches!(bench.store.list(filter).await, Err(StoreError::Invalid { .. })));
    let states = vec![JobState::Queued; 100_000];
    let page = bench.store.list(ListFilter { states, ..ListFilter::default() }).await.unwrap();
    assert!(page.jobs.is_empty());
}

pub async fn lists_are_newest_first_and_pages_fit_together(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..25 {
        ids.push(bench.create(film(if n % 5 == 0 { "bob" } else { "ann" })).await.id);
        // Ids keep their order when the clock does not.
        bench.clock.advance_ms(if n % 3 == 0 { -50_000 } else { 7 });
    }
    let read = async |filter: ListFilter| {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = bench.store.list(ListFilter { after, limit: 10, ..filter.clone() });
            let page = page.await.unwrap();
            seen.extend(page.jobs.iter().map(|job| job.id));
            if !page.has_more {
                return seen;
            }
            assert_eq!(page.jobs.len(), 10);
            after = page.jobs.last().map(|job| job.id);
        }
    };
    let newest: Vec<JobId> = ids.iter().rev().copied().collect();
    assert_eq!(read(ListFilter::default()).await, newest);
    let oldest = ListFilter { order: ListOrder::Ascending, ..ListFilter::default() };
    assert_eq!(read(oldest).await, ids);
    let bobs = ListFilter { owner: Some("bob".into()), ..ListFilter::default() };
    assert_eq!(read(bobs).await, [20, 15, 10, 5, 0].map(|n| ids[n]));

    bench.store.cancel(ids[3]).await.unwrap();
    let states = vec![JobState::Cancelled, JobState::Failed];
    assert_eq!(read(ListFilter { states, ..ListFilter::default() }).await, [ids[3]]);
}

pub async fn a_list_goes_on_after_a_job_that_was_deleted(bench: Bench) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(bench.create(film("ann")).await.id);
    }
    bench.store.delete(ids[1]).await.unwrap();
    let filter = ListFilter { after: Some(ids[1]), ..ListFilter::default() };
    let page = bench.store.list(filter).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [ids[0]]);
}

pub async fn search_takes_the_text_literally(bench: Bench) {
    for prompt in ["100% wool", "100 sheep", "a_b", "aXb", r"back\slash", "灯塔在雾中", "Fog"]
    {
        bench.create(NewJob { prompt: prompt.into(), ..film("ann") }).await;
    }
    for (text, found) in [
        ("100%", vec!["100% wool"]),
        ("a_b", vec!["a_b"]),
        (r"k\s", vec![r"back\slash"]),
        ("雾", vec!["灯塔在雾中"]),
        ("fOG", vec!["Fog"]),
        ("' OR 1=1 --", vec![]),
    ] {
        let filter = ListFilter { text: text.into(), ..ListFilter::default() };
        let page = bench.store.list(filter).await.unwrap();
        let prompts: Vec<&str> = page.jobs.iter().map(|job| job.asked.prompt.as_str()).collect();
        assert_eq!(prompts, found, "{text}");
    }
}

pub async fn a_parent_has_to_exist(bench: Bench) {
    let parent = Parent { job: JobId::new(7), relation: Relation::Extend, segment: None };
    let orphan = NewJob { parent: Some(parent), ..film("ann") };
    assert!(matches!(
        bench.store.create(orphan).await,
        Err(StoreError::NotFound { what: "job", .. })
    ));
    assert!(matches!(bench.store.get(JobId::new(7)).await, Err(StoreError::NotFound { .. })));
}

pub async fn files_that_come_before_their_job_belong_to_it_or_are_removed(bench: Bench) {
    let name = ArtifactName { kind: ArtifactKind::Input(0), format: Format::Png };
    let picture = Artifact { name, size_bytes: 9 };
    let store = &bench.store;
    let (asked, refused, late) = (
        store.reserve().await.unwrap(),
        store.reserve().await.unwrap(),
        store.reserve().await.unwrap(),
    );
    let job = store.create_reserved(asked, film("ann"), vec![picture]).await.unwrap().into_job();
    assert_eq!((job.id, &job.artifacts), (asked, &vec![picture]));
    assert_eq!(bench.get(asked).await, job);
    let long = NewJob { frames: None, ..film("ann") };
    assert!(store.create_reserved(refused, long, vec![picture]).await.is_err());
    let again = store.create_reserved(asked, film("ann"), vec![]).await;
    assert!(matches!(again, Err(StoreError::NotFound { what: "reservation", .. })), "{again:?}");
    assert!(store.pending_removals().await.unwrap().is_empty());
    bench.clock.advance_ms(3_600_000);
    assert_eq!(store.pending_removals().await.unwrap(), [refused, late]);
    let late = store.create_reserved(late, film("ann"), vec![picture]).await;
    assert!(matches!(late, Err(StoreError::NotFound { what: "reservation", .. })), "{late:?}");
}
