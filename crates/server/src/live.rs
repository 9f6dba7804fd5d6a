//! Who has news for whom: one poll of the database for any number of readers, of whom those wake that
//! have news.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longreel_jobs::{Event, EventKind, JobId, KeyId, Store};
use tokio::sync::{Notify, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::shared::{Ending, Shared};

/// How often the database is asked while somebody listens, for what other processes write; what this one
/// does is heard of at once.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// How long the database is left alone after an error.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// Events read at once.
const PAGE: u32 = 200;
/// How often a reader's key is looked at.
const KEY_EVERY: Duration = Duration::from_secs(10);

/// Tells which jobs have new events.
#[derive(Debug, Default)]
pub struct Live {
    /// Rises when the job has news.
    followed: Mutex<HashMap<JobId, watch::Sender<u64>>>,
    listened: Notify,
    nudged: Notify,
}

impl Live {
    /// Listens for news of a job. Whoever looks at its events after this call misses none.
    fn listen(&self, job: JobId) -> watch::Receiver<u64> {
        let receiver = self.followed().entry(job).or_default().subscribe();
        self.listened.notify_one();
        receiver
    }

    /// There is news of this process's own: the database is asked now and not a moment later.
    pub fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// A job is deleted: whoever follows it looks once more, and finds that it is over.
    pub fn gone(&self, job: JobId) {
        if let Some(news) = self.followed().get(&job) {
            news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Asks the database what is new after `cursor`, for as long as the program runs.
    pub async fn poll(&self, store: &dyn Store, mut cursor: i64) {
        // The cursor is kept while nobody listens: what a new listener sees itself and what the next
        // answer holds may overlap, but there is nothing between them.
        loop {
            if self.is_alone() {
                self.listened.notified().await;
            }
            match store.changes(Some(cursor)).await {
                Ok(changes) => {
                    cursor = changes.cursor;
                    let followed = self.followed();
                    for news in changes.jobs.iter().filter_map(|job| followed.get(job)) {
                        news.send_modify(|count| *count = count.wrapping_add(1));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the database does not say what is new");
                    sleep(AFTER_ERROR).await;
                }
            }
            tokio::select! {
                () = sleep(POLL_EVERY) => {}
                () = self.nudged.notified() => {}
            }
        }
    }

    /// Whether nobody listens. Jobs that nobody listens for any more are forgotten.
    fn is_alone(&self) -> bool {
        let mut followed = self.followed();
        followed.retain(|_, news| news.receiver_count() > 0);
        followed.is_empty()
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<u64>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the events of a job as they come.
pub struct Follower {
    shared: Arc<Shared>,
    job: JobId,
    after: u64,
    news: watch::Receiver<u64>,
    ending: watch::Receiver<Ending>,
    /// Of whoever reads, where one was needed.
    key: Option<KeyId>,
    key_looks: Interval,
    ready: VecDeque<Event>,
    is_done: bool,
}

impl Follower {
    /// Reads the events behind number `after`, for as long as `key` is good.
    pub fn new(shared: &Arc<Shared>, job: JobId, after: u64, key: Option<KeyId>) -> Self {
        let mut key_looks = interval(KEY_EVERY);
        key_looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared: shared.clone(),
            job,
            after,
            news: shared.live.listen(job),
            ending: shared.ending.subscribe(),
            key,
            key_looks,
            ready: VecDeque::new(),
            is_done: false,
        }
    }

    /// The next event; `None` after the last one, when the job is deleted, when the key is good no
    /// more, and when the server ends.
    pub async fn next(&mut self) -> Option<Event> {
        while !self.is_done {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq;
                self.is_done = event.kind == EventKind::Done;
                return Some(event);
            }
            // Before the look: what comes after it is news.
            self.news.mark_unchanged();
            let events = self.shared.store.events(self.job, self.after, PAGE).await.ok()?;
            self.ready.extend(events);
            if self.ready.is_empty() {
                self.wait().await?;
            }
        }
        None
    }

    /// Until there may be something new.
    async fn wait(&mut self) -> Option<()> {
        loop {
            let is_time = tokio::select! {
                changed = self.news.changed() => return changed.ok(),
                _ = self.key_looks.tick(), if self.key.is_some() => true,
                ended = self.ending.wait_for(|ending| *ending == Ending::Closed) => {
                    drop(ended);
                    false
                }
            };
            let key = self.key.filter(|_| is_time)?;
            self.shared.store.check_key(key).await.ok()?;
        }
    }
}
