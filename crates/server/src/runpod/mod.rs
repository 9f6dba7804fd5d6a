//! A RunPod serverless worker: jobs come from RunPod's queue and become jobs of this server, whose
//! progress, finished segments and end are told to RunPod.
//!
//! The protocol is that of the worker loop of RunPod's Python SDK (1.12): a job is taken by a long poll
//! that answers 204 when there is none, progress and result go to one address, parts of a result to
//! another, a ping says which jobs are in work, and a second long poll tells which of them are called
//! off.

mod bucket;
mod client;
mod job;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longreel_jobs::JobId;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

pub use self::bucket::Bucket;
use self::client::{Client, Taken};
use crate::shared::{Ending, Shared};
use crate::upkeep;

/// How long to wait after a call that failed, first and at most.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long to wait when RunPod says that it is asked too often.
const TOO_OFTEN: Duration = Duration::from_secs(5);
/// Between two polls that were answered at once with nothing.
const NOTHING: Duration = Duration::from_secs(1);
/// Time between pings, where nothing is said.
const PING: Duration = Duration::from_secs(10);

/// Where RunPod is, as its environment says.
#[derive(Debug, Clone)]
pub struct RunPodOptions {
    /// Where jobs are taken.
    take: String,
    /// Where results and progress go, with `$ID` for the job.
    done: String,
    /// Where parts of results go, with `$ID` for the job.
    stream: Option<String>,
    /// Where pings go.
    ping: Option<String>,
    ping_every: Duration,
    /// What proves that this is the worker.
    key: String,
    /// Where films go that are too long for an answer.
    bucket: Option<Bucket>,
}

impl RunPodOptions {
    /// What the environment says; `None` where this is no RunPod worker.
    ///
    /// # Errors
    /// Variables that lack or contradict each other, by name.
    pub fn of_environment(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let Some(take) = set("RUNPOD_WEBHOOK_GET_JOB") else { return Ok(None) };
        let worker = set("RUNPOD_POD_ID").unwrap_or_else(|| "longreel".to_owned());
        let of_worker = |address: String| address.replace("$RUNPOD_POD_ID", &worker);
        let done = set("RUNPOD_WEBHOOK_POST_OUTPUT").ok_or(
            "RUNPOD_WEBHOOK_GET_JOB is set and RUNPOD_WEBHOOK_POST_OUTPUT is not; RunPod sets both",
        )?;
        let ping_every = match set("RUNPOD_PING_INTERVAL") {
            None => PING,
            Some(text) => {
                text.trim().parse().ok().filter(|ms| (100..=600_000).contains(ms)).map_or_else(
                    || {
                        Err(format!(
                            "RUNPOD_PING_INTERVAL is {text:?}; it is milliseconds, 100 to 600000"
                        ))
                    },
                    |ms| Ok(Duration::from_millis(ms)),
                )?
            }
        };
        Ok(Some(Self {
            take: of_worker(take).replace("$ID", &worker),
            done: of_worker(done),
            stream: set("RUNPOD_WEBHOOK_POST_STREAM").map(of_worker),
            ping: set("RUNPOD_WEBHOOK_PING").map(of_worker),
            ping_every,
            key: set("RUNPOD_AI_API_KEY").unwrap_or_default(),
            bucket: Bucket::of_environment(set)?,
        }))
    }
}

/// The jobs that were taken and are not done: RunPod's names and ours.
#[derive(Debug, Default)]
struct InWork(Mutex<BTreeMap<String, Option<JobId>>>);

impl InWork {
    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Option<JobId>>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn names(&self) -> Vec<String> {
        self.with(|jobs| jobs.keys().cloned().collect())
    }
}

struct Worker {
    shared: Arc<Shared>,
    client: Client,
    in_work: InWork,
    /// Rises when a job is done, so that another can be taken.
    freed: watch::Sender<u64>,
}

/// Takes and makes jobs until the server ends.
pub async fn run(shared: Arc<Shared>, options: RunPodOptions) {
    let ping_every = options.ping_every;
    let client = Client::new(options);
    let worker =
        Arc::new(Worker { shared, client, in_work: InWork::default(), freed: watch::channel(0).0 });
    tracing::info!("takes jobs from RunPod");
    tokio::join!(take(&worker), ping(&worker, ping_every), stops(&worker));
}

/// Takes a job for each worker process that is free.
async fn take(worker: &Arc<Worker>) {
    let mut ending = worker.shared.ending.subscribe();
    let mut freed = worker.freed.subscribe();
    let mut again = AGAIN_FIRST;
    // Whoever is asked for nothing has no model loaded, and a job would wait for it.
    while !worker.shared.slots.is_ready() {
        tokio::select! {
            () = sleep(Duration::from_millis(50)) => {}
            _ = ending.changed() => return,
        }
    }
    loop {
        if *ending.borrow() != Ending::No {
            return;
        }
        freed.mark_unchanged();
        let busy = worker.in_work.with(|jobs| jobs.len());
        if busy >= worker.shared.slots.get().len() {
            tokio::select! {
                _ = freed.changed() => {}
                _ = ending.changed() => {}
            }
            continue;
        }
        let taken = tokio::select! {
            taken = worker.client.take(busy > 0) => taken,
            _ = ending.changed() => return,
        };
        let wait = match taken {
            Ok(Taken::Job { id, input }) => {
                again = AGAIN_FIRST;
                begin(worker, id, input);
                continue;
            }
            Ok(Taken::Nothing { at_once }) => {
                again = AGAIN_FIRST;
                if at_once { NOTHING } else { Duration::ZERO }
            }
            Ok(Taken::TooOften) => TOO_OFTEN,
            Err(error) => {
                tracing::warn!(error, again_in = ?again, "no job could be taken from RunPod");
                let wait = again;
                again = again.saturating_mul(2).min(AGAIN_MAX);
                wait
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            _ = ending.changed() => {}
        }
    }
}

/// Has a job made beside what else is done. One that is in work already is not begun again.
fn begin(worker: &Arc<Worker>, id: String, input: Value) {
    if worker.in_work.with(|jobs| jobs.insert(id.clone(), None).is_some()) {
        return;
    }
    let worker = worker.clone();
    tokio::spawn(async move {
        job::make(&worker, &id, input).await;
        worker.in_work.with(|jobs| jobs.remove(&id));
        worker.freed.send_modify(|count| *count = count.wrapping_add(1));
    });
}

/// Says that this worker is alive, and what it has in work.
async fn ping(worker: &Arc<Worker>, every: Duration) {
    let mut ending = worker.shared.ending.subscribe();
    loop {
        if let Err(error) = worker.client.ping(&worker.in_work.names()).await {
            tracing::warn!(error, "RunPod was not told that this worker is alive");
        }
        tokio::select! {
            () = sleep(every) => {}
            _ = ending.wait_for(|ending| *ending == Ending::Closed) => return,
        }
    }
}

/// Calls jobs off that RunPod wants no more.
async fn stops(worker: &Arc<Worker>) {
    let mut ending = worker.shared.ending.subscribe();
    loop {
        let stopped = tokio::select! {
            stopped = worker.client.stops() => stopped,
            _ = ending.wait_for(|ending| *ending == Ending::Closed) => return,
        };
        let (names, wait) = match stopped {
            Ok(None) => return,
            Ok(Some(names)) if names.is_empty() => (names, NOTHING),
            Ok(Some(names)) => (names, Duration::ZERO),
            Err(error) => {
                tracing::warn!(error, "RunPod does not say what is called off");
                (Vec::new(), TOO_OFTEN)
            }
        };
        for name in names {
            let job = worker.in_work.with(|jobs| jobs.get(&name).copied().flatten());
            let Some(job) = job else { continue };
            tracing::info!(%job, name, "called off by RunPod");
            if let Err(error) = upkeep::cancel(&worker.shared, job).await {
                tracing::warn!(%job, %error, "could not be called off");
            }
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = ending.wait_for(|ending| *ending == Ending::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<RunPodOptions>, String> {
        RunPodOptions::of_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn addresses_are_those_of_this_worker() {
        assert!(of(&[]).expect("nothing is wrong").is_none());
        let options = of(&[
            ("RUNPOD_WEBHOOK_GET_JOB", "https://api.example/v2/e/job-take/$ID?gpu=x"),
            (
                "RUNPOD_WEBHOOK_POST_OUTPUT",
                "https://api.example/v2/e/job-done/$RUNPOD_POD_ID/$ID?gpu=x",
            ),
            ("RUNPOD_POD_ID", "pod1"),
            ("RUNPOD_PING_INTERVAL", "4000"),
        ]);
        let options = options.expect("nothing is wrong").expect("a worker");
        assert_eq!(options.take, "https://api.example/v2/e/job-take/pod1?gpu=x");
        assert_eq!(options.done, "https://api.example/v2/e/job-done/pod1/$ID?gpu=x");
        assert_eq!(options.ping_every, Duration::from_secs(4));
    }

    #[test]
    fn what_lacks_is_named() {
        let take = ("RUNPOD_WEBHOOK_GET_JOB", "https://api.example/job-take/$ID");
        let done = ("RUNPOD_WEBHOOK_POST_OUTPUT", "https://api.example/job-done/$ID");
        assert!(of(&[take]).expect_err("no way back").contains("RUNPOD_WEBHOOK_POST_OUTPUT"));
        let error = of(&[take, done, ("RUNPOD_PING_INTERVAL", "soon")]).expect_err("no number");
        assert!(error.contains("RUNPOD_PING_INTERVAL"), "{error}");
        let bucket = ("BUCKET_ENDPOINT_URL", "https://films.example");
        let error = of(&[take, done, bucket]).expect_err("no keys");
        assert!(error.contains("BUCKET_ACCESS_KEY_ID"), "{error}");
    }
}
