//! Rows of the database as the types of this crate. A value that this crate cannot have written is a
//! damaged database, not a panic.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::failure::{Attempted, Failure};
use crate::error::StoreError;
use crate::id::JobId;
use crate::job::{Job, JobError, NewJob, Parent, Relation, Timings, TraceContext};
use crate::lease::Lease;
use crate::state::{JobState, Stop};

/// A query for whole jobs, with what follows `FROM jobs`. Indexes are named where SQLite, which keeps
/// no statistics here, would take one that reads the whole queue.
macro_rules! job_query {
    ($rest:literal) => {
        concat!(
            "SELECT jobs.*, (
                SELECT json_group_array(json_object('name', name, 'size_bytes', size_bytes))
                FROM artifacts INDEXED BY artifacts_of_record
                WHERE artifacts.job = jobs.id AND per_segment = 0
             ) AS artifacts FROM jobs ",
            $rest
        )
    };
}
pub(super) use job_query;

/// A number that SQLite can hold.
pub(super) fn integer(field: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value)
        .map_err(|_| StoreError::invalid(field, value, format!("it can be at most {}", i64::MAX)))
}

pub(super) fn unreadable(what: &str, value: &str) -> Failure {
    Failure::Unreadable(format!("{what} is {value:?}"))
}

/// A text column that is parsed.
pub(super) fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> Attempted<T> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| unreadable(column, &text))
}

/// A text column that is one of a set of names.
pub(super) fn named<T>(
    row: &SqliteRow,
    column: &str,
    from_name: impl Fn(&str) -> Option<T>,
) -> Attempted<T> {
    let text: String = row.try_get(column)?;
    from_name(&text).ok_or_else(|| unreadable(column, &text))
}

/// A text column of JSON.
pub(super) fn json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Attempted<T> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|e| unreadable(column, &e.to_string()))
}

/// The same where the column may be null.
pub(super) fn optional_json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &str,
) -> Attempted<Option<T>> {
    match row.try_get::<Option<String>, _>(column)? {
        None => Ok(None),
        Some(_) => json(row, column).map(Some),
    }
}

/// An integer column of a type smaller than SQLite's.
pub(super) fn number<T: TryFrom<i64>>(row: &SqliteRow, column: &str) -> Attempted<T> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| unreadable(column, &value.to_string()))
}

/// The same where the column may be null.
pub(super) fn optional_number<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &str,
) -> Attempted<Option<T>> {
    let value: Option<i64> = row.try_get(column)?;
    value
        .map(|value| T::try_from(value).map_err(|_| unreadable(column, &value.to_string())))
        .transpose()
}

/// A job from a row of [`job_query`].
pub(super) fn job(row: &SqliteRow) -> Attempted<Job> {
    let parent = match row.try_get::<Option<String>, _>("parent")? {
        None => None,
        Some(_) => Some(Parent {
            job: parsed(row, "parent")?,
            relation: named(row, "relation", relation_from_name)?,
            segment: optional_number(row, "parent_segment")?,
        }),
    };
    let stop = match row.try_get::<Option<String>, _>("stop")? {
        None => None,
        Some(_) => Some(named(row, "stop", Stop::from_name)?),
    };
    let error = match row.try_get::<Option<String>, _>("error_code")? {
        None => None,
        Some(code) => Some(JobError { code, message: row.try_get("error_message")? }),
    };
    let trace = match row.try_get::<Option<String>, _>("traceparent")? {
        None => None,
        Some(traceparent) => {
            Some(TraceContext { traceparent, tracestate: row.try_get("tracestate")? })
        }
    };
    Ok(Job {
        id: parsed(row, "id")?,
        asked: NewJob {
            owner: row.try_get("owner")?,
            idempotency_key: row.try_get("idempotency_key")?,
            prompt: row.try_get("prompt")?,
            request: json(row, "request")?,
            resolved: json(row, "resolved")?,
            seed: parsed(row, "seed")?,
            model: row.try_get("model")?,
            model_revision: row.try_get("model_revision")?,
            program_version: row.try_get("program_version")?,
            priority: number(row, "priority")?,
            frames: optional_number(row, "frames")?,
            parent,
            webhook_url: row.try_get("webhook_url")?,
            deadline_ms: row.try_get("deadline_ms")?,
            trace,
        },
        state: named(row, "state", JobState::from_name)?,
        paused: row.try_get::<i64, _>("paused")? != 0,
        stop,
        attempts: number(row, "attempts")?,
        deaths: number(row, "deaths")?,
        deaths_in_row: number(row, "deaths_in_row")?,
        timings: Timings {
            created_ms: row.try_get("created_ms")?,
            started_ms: row.try_get("started_ms")?,
            first_frame_ms: row.try_get("first_frame_ms")?,
            finished_ms: row.try_get("finished_ms")?,
        },
        progress: optional_json(row, "progress")?,
        segments_done: number(row, "segments_done")?,
        frames_done: number(row, "frames_done")?,
        prompts: json(row, "prompts")?,
        prompts_revision: number(row, "prompts_revision")?,
        drift: optional_json(row, "drift")?,
        error,
        artifacts: json(row, "artifacts")?,
        worker: row.try_get("worker")?,
        last_event: number(row, "last_event")?,
    })
}

pub(super) fn relation_name(relation: Relation) -> &'static str {
    match relation {
        Relation::Remix => "remix",
        Relation::Extend => "extend",
        Relation::Branch => "branch",
    }
}

fn relation_from_name(name: &str) -> Option<Relation> {
    let all = [Relation::Remix, Relation::Extend, Relation::Branch];
    all.into_iter().find(|relation| relation_name(*relation) == name)
}

pub(super) fn no_job(id: JobId) -> StoreError {
    StoreError::NotFound { what: "job", id: id.to_string() }
}

/// One job, as it is now.
pub(super) async fn job_by_id(connection: &mut SqliteConnection, id: JobId) -> Attempted<Job> {
    let row = sqlx::query(job_query!("WHERE id = ?"))
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    job(&row.ok_or_else(|| no_job(id))?)
}

/// The job that a lease is for, as long as the lease holds.
pub(super) async fn job_by_lease(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Attempted<Job> {
    let row = sqlx::query(job_query!("WHERE id = ? AND lease_token = ?"))
        .bind(lease.job.to_string())
        .bind(&lease.token)
        .fetch_optional(connection)
        .await?;
    job(&row.ok_or(StoreError::LeaseLost { job: lease.job })?)
}
