//! Reports of films that have ended, sent to the addresses that were given with their requests, by the
//! Standard Webhooks scheme (<https://www.standardwebhooks.com>).
//!
//! What is owed is in the database, made in the transaction that ended the job, so that no end is
//! without its report. Sending, waiting after a failure and giving up go by what the store says; a
//! server that dies while it sends may send once more, with the same `webhook-id`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longreel_jobs::{
    Clock, DeliveryLease, DeliveryOutcome, DeliveryState, Job, StoreError, SystemClock,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::http::view;
use crate::shared::{Ending, Shared};

/// Reports on their way at once.
const AT_ONCE: usize = 8;
/// How long the store keeps a report for the one who sends it, in milliseconds: longer than a
/// receiver may take.
const LEASE_MS: i64 = 60_000;
/// How often the store is asked for what nobody woke us for: what is due again.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long the end of the server waits for reports on their way.
const END_TIME: Duration = Duration::from_secs(2);

/// Sends what is owed until the server ends.
pub async fn run(shared: Arc<Shared>) {
    let mut ending = shared.ending.subscribe();
    let mut wakes = shared.wakes.subscribe();
    let mut sending = JoinSet::new();
    loop {
        wakes.mark_unchanged();
        while sending.try_join_next().is_some() {}
        let room = AT_ONCE.saturating_sub(sending.len());
        if room > 0 {
            match shared.store.take_deliveries(room as u32, LEASE_MS).await {
                Ok(leases) => {
                    for lease in leases {
                        sending.spawn(deliver(shared.clone(), lease));
                    }
                }
                Err(error) => tracing::error!(%error, "webhooks that are owed are not known"),
            }
        }
        tokio::select! {
            Some(_) = sending.join_next() => {}
            _ = wakes.changed(), if room > 0 => {}
            () = sleep(ASK_EVERY) => {}
            _ = ending.wait_for(|ending| *ending == Ending::Closed) => break,
        }
    }
    // What is cut off here is due again when its lease is over.
    let _ = timeout(END_TIME, async { while sending.join_next().await.is_some() {} }).await;
}

async fn deliver(shared: Arc<Shared>, lease: DeliveryLease) {
    let delivery = &lease.delivery;
    let job = match shared.store.get(delivery.job).await {
        Ok(job) => job,
        // Deleted meanwhile, and the report with it.
        Err(StoreError::NotFound { .. }) => return,
        Err(error) => {
            tracing::error!(%error, "a webhook waits: its job cannot be read");
            return;
        }
    };
    let body = message(delivery.event.as_str(), &job).to_string().into_bytes();
    let (id, now_s) = (delivery.id.to_string(), SystemClock.now_s());
    let calling = shared.traces.webhook(&job, delivery.attempts);
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("webhook-signature", shared.webhook_secret.sign(&id, now_s, &body)),
        ("webhook-id", id),
        ("webhook-timestamp", now_s.to_string()),
    ];
    headers.extend(calling.headers());
    let started = Instant::now();
    let answered = shared.fetcher.post(&delivery.url, headers, body).await;
    let outcome = DeliveryOutcome {
        status: answered.as_ref().ok().map(|answered| answered.status),
        error: answered.as_ref().err().map(ToString::to_string),
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        retry_after_ms: answered.ok().and_then(|a| a.retry_after_s?.checked_mul(1000)),
    };
    let (status, error) = (outcome.status, outcome.error.clone().unwrap_or_default());
    let failed = (!outcome.is_delivered()).then(|| match status {
        Some(status) => format!("status {status}"),
        None => error.clone(),
    });
    shared.traces.end(calling, status, failed);
    let recorded = shared.store.record_delivery(&lease, outcome).await;
    shared.metrics.webhook(matches!(recorded, Ok(DeliveryState::Delivered)));
    match recorded {
        Ok(DeliveryState::Delivered) => {
            tracing::info!(job = %job.id, event = delivery.event.as_str(), "a webhook is delivered");
        }
        Ok(DeliveryState::Pending) => {
            tracing::warn!(job = %job.id, ?status, error, "a webhook is not taken; tried again later");
        }
        Ok(DeliveryState::GivenUp) => {
            tracing::error!(job = %job.id, ?status, error, "a webhook is given up");
        }
        Err(error) => tracing::error!(job = %job.id, %error, "a webhook's outcome is not noted"),
    }
}

/// The message about a job that has ended: the same in each attempt, since nothing of the job changes
/// any more.
fn message(event: &str, job: &Job) -> Value {
    let mut data = view::video(job, None);
    if let Some(data) = data.as_object_mut() {
        // As long as the film; whoever wants it asks for the film.
        data.remove("drift");
    }
    let ended_ms = job.timings.finished_ms.unwrap_or(job.timings.created_ms);
    json!({"type": event, "timestamp": rfc_3339(ended_ms), "data": data})
}

/// A time as the scheme wants it, such as `2022-11-03T20:26:10.344Z`.
fn rfc_3339(ms: i64) -> String {
    let (day, in_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days to a date of the Gregorian calendar, counted from 1 March of year 0 so that the leap day is
    // the last of its year (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let day = day + 719_468;
    let (era, day_of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (in_day / 1000, in_day % 1000);
    format!(
        "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_667_507_170_344, "2022-11-03T20:26:10.344Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc_3339(ms), text, "{ms}");
        }
    }
}
