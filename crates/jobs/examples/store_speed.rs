//! How long the calls of the SQLite store take with a full queue: `cargo run --release -p longreel-jobs
//! --example store_speed [jobs] [folder]`, 5000 jobs in a folder of its own when nothing is said.

use std::time::{Duration, Instant};

use longreel_jobs::{
    JobStore, KeyStore, LeaseRequest, Limits, ListFilter, NewJob, NewKey, OwnerLimits, Progress,
    Renewal, Retention, Scope, SegmentDone, SqliteStore, StoreOptions, UpkeepStore, WorkStore,
    WorkerEvent,
};
use serde_json::json;

/// Prints the median and the slowest of some calls.
fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:28} {:8.3} ms {:8.3} ms",
        ms(times[times.len() / 2]),
        ms(times[times.len() - 1])
    );
}

macro_rules! time {
    ($times:expr, $call:expr) => {{
        let started = Instant::now();
        let result = $call.await?;
        $times.push(started.elapsed());
        result
    }};
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let jobs: usize = args.next().map_or(Ok(5_000), |text| text.parse())?;
    let own = tempfile::tempdir()?;
    let folder = args.next().map_or(own.path().to_path_buf(), Into::into);
    let owner = OwnerLimits { queued: u32::MAX.into(), running: u32::MAX.into(), frames: None };
    let options = StoreOptions {
        limits: Limits { queue_length: u32::MAX.into(), owner },
        ..StoreOptions::default()
    };
    let store = SqliteStore::open(folder.join("jobs.db"), options.clone()).await?;
    println!("{jobs} jobs of 20 owners {:>16} {:>11}", "median", "slowest");

    let mut times = Vec::new();
    let mut ids = Vec::new();
    for n in 0..jobs {
        let request = json!({"prompt": "a lighthouse in the fog", "n": n, "seconds": 60});
        let new = NewJob {
            frames: Some(1_441),
            idempotency_key: Some(n.to_string()),
            ..NewJob::new(format!("owner {}", n % 20), format!("lighthouse number {n}"), request)
        };
        ids.push(time!(times, store.create(new)).into_job().id);
    }
    tell("create, as the queue fills", times);

    let (mut lease, mut renew, mut append, mut complete) = (vec![], vec![], vec![], vec![]);
    for _ in 0..jobs.min(500) {
        let leased = time!(lease, store.lease(LeaseRequest::new("worker"))).ok_or("no job")?;
        for step in 0..3 {
            let progress = Some(Progress { step, steps: 30, ..Progress::default() });
            time!(renew, store.renew(&leased.lease, Renewal { progress, prompts_revision: 0 }));
        }
        let done = vec![WorkerEvent::SegmentDone(SegmentDone::new(0, 97))];
        time!(append, store.append(&leased.lease, done, 0));
        time!(complete, store.complete(&leased.lease, Default::default()));
    }
    tell("lease", lease);
    tell("renew with progress", renew);
    tell("append a segment", append);
    tell("complete", complete);

    let (mut get, mut events, mut list, mut own, mut search) =
        (vec![], vec![], vec![], vec![], vec![]);
    let (mut place, mut changes, mut sweep, mut retire) = (vec![], vec![], vec![], vec![]);
    let mut cursor = store.changes(None).await?.cursor;
    for n in 0..200 {
        let id = ids[n * 7919 % ids.len()];
        time!(get, store.get(id));
        time!(events, store.events(id, 0, 100));
        let filter = ListFilter { after: Some(id), ..ListFilter::default() };
        time!(list, store.list(filter.clone()));
        let owner = Some(format!("owner {}", n % 20));
        time!(own, store.list(ListFilter { owner, ..filter }));
        let text = format!("number {}", n * 13);
        time!(search, store.list(ListFilter { text, ..ListFilter::default() }));
        time!(place, store.queue_position(id));
        cursor = time!(changes, store.changes(Some(cursor))).cursor;
        time!(sweep, store.sweep());
        let retention = Retention { max_age_ms: Some(86_400_000), max_total_bytes: Some(u64::MAX) };
        time!(retire, store.retire(retention));
    }
    tell("get", get);
    tell("events", events);
    tell("list", list);
    tell("list of one owner", own);
    tell("search", search);
    tell("queue position", place);
    tell("changes", changes);
    tell("sweep", sweep);
    tell("retire nothing", retire);

    let key = NewKey {
        name: "a".into(),
        owner: "a".into(),
        scopes: vec![Scope::JobsRead],
        rate_limit: None,
        expires_ms: None,
    };
    let issued = store.create_key(key).await?;
    let mut verify = Vec::new();
    for _ in 0..200 {
        time!(verify, store.verify_key(issued.secret.reveal()));
    }
    tell("verify a key", verify);

    store.close().await;
    let mut open = Vec::new();
    time!(open, SqliteStore::open(folder.join("jobs.db"), options));
    tell("open again", open);
    Ok(())
}
