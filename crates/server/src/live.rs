//! Who has news for whom: one poll of the database for any number of readers.

use std::sync::Arc;
use std::time::Duration;

use longreel_jobs::{JobId, Store};
use tokio::sync::{Notify, broadcast};
use tokio::time::sleep;

/// How often the database is asked while somebody listens.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// How long the database is left alone after an error.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// Answers that a slow reader may be behind. One that is further behind looks for itself.
const BEHIND: usize = 64;

/// Tells which jobs have new events.
#[derive(Debug)]
pub struct Live {
    changes: broadcast::Sender<Arc<[JobId]>>,
    listened: Notify,
}

impl Default for Live {
    fn default() -> Self {
        Self { changes: broadcast::channel(BEHIND).0, listened: Notify::new() }
    }
}

impl Live {
    /// Listens. Whoever looks at a job's events after this call misses none.
    pub fn listen(&self) -> broadcast::Receiver<Arc<[JobId]>> {
        let receiver = self.changes.subscribe();
        self.listened.notify_one();
        receiver
    }

    /// Asks the database what is new after `cursor`, for as long as the program runs.
    pub async fn poll(&self, store: &dyn Store, mut cursor: i64) {
        // The cursor is kept while nobody listens: what a new listener sees itself and what the next
        // answer holds may overlap, but there is nothing between them.
        loop {
            if self.changes.receiver_count() == 0 {
                self.listened.notified().await;
            }
            match store.changes(Some(cursor)).await {
                Ok(changes) => {
                    cursor = changes.cursor;
                    if !changes.jobs.is_empty() {
                        // No receiver is no matter.
                        let _ = self.changes.send(changes.jobs.into());
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the database does not say what is new");
                    sleep(AFTER_ERROR).await;
                }
            }
            sleep(POLL_EVERY).await;
        }
    }
}
