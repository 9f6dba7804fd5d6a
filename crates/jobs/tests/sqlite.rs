//! The SQLite store: the conformance suite on a real file, and what only a file can do.

mod conformance;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use conformance::{Bench, options};
use longreel_jobs::{
    JobState, JobStore, LeaseRequest, Limits, ListFilter, ManualClock, NewJob, SqliteStore, Store,
    StoreError, StoreOptions, UpkeepStore, WorkStore, state,
};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};

/// A store in a file of its own, and how to open the same file once more.
async fn bench(adjust: impl FnOnce(&mut StoreOptions)) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let clock = Arc::new(ManualClock::new(1_750_000_000_000));
    let mut options = options(&clock);
    adjust(&mut options);
    let open = {
        let options = options.clone();
        move || {
            let (path, options) = (path.clone(), options.clone());
            let open = async move {
                Arc::new(SqliteStore::open(&path, options).await.unwrap()) as Arc<dyn Store>
            };
            Box::pin(open) as conformance::Opening
        }
    };
    Bench::new(clock, Box::new(open), Box::new(folder)).await
}

macro_rules! conforms {
    ($($module:ident: $($test:ident)+;)+) => {
        $(
            mod $module {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $test() {
                        crate::conformance::$module::$test(
                            super::bench(crate::conformance::$module::adjust).await,
                        )
                        .await;
                    }
                )+
            }
        )+
    };
}

conforms! {
    asking:
        a_job_keeps_everything_it_was_asked_with
        the_same_request_with_the_same_key_is_the_same_job
        a_key_used_for_another_request_is_refused_with_the_job_it_made
        a_full_queue_says_the_limit_and_when_to_come_back
        films_longer_than_the_limit_are_refused_and_waiting_does_not_help
        limits_of_an_owner_replace_those_of_all
        values_out_of_their_range_are_refused_by_name
        lists_are_newest_first_and_pages_fit_together
        a_list_goes_on_after_a_job_that_was_deleted
        search_takes_the_text_literally
        a_parent_has_to_exist
        files_that_come_before_their_job_belong_to_it_or_are_removed;
    leasing:
        higher_priority_goes_first_then_age
        owners_share_by_the_work_they_were_given_lately
        an_owner_at_its_limit_is_passed_over
        a_worker_gets_only_jobs_of_its_models
        paused_and_overdue_jobs_are_not_given_out
        a_lost_lease_changes_nothing_whatever_is_called
        a_dead_workers_job_goes_back_to_the_queue
        three_deaths_in_a_row_fail_a_job_and_leave_others_alone
        a_finished_segment_forgives_deaths
        a_lease_that_ran_out_but_was_not_taken_back_still_counts
        a_worker_known_to_be_gone_loses_its_jobs_at_once
        no_job_is_given_twice_to_many_workers_leasing_at_once
        the_limit_of_an_owner_holds_among_many_workers;
    ending:
        a_completed_job_has_its_film_timings_and_last_event
        cancelling_a_waiting_job_ends_it_and_a_running_one_when_its_worker_lets_go
        a_worker_that_dies_while_cancelling_leaves_a_cancelled_job
        pausing_waits_for_the_segment_and_resuming_goes_on
        a_pause_is_taken_back_before_it_comes_about
        an_ended_job_refuses_everything_but_deletion
        a_deadline_fails_waiting_jobs_and_stops_running_ones
        a_running_job_is_not_deleted_and_a_deleted_one_leaves_its_files_to_remove
        a_film_that_others_are_made_from_is_kept;
    memory:
        a_job_that_ran_out_of_memory_is_made_as_said_instead
        what_has_a_finished_segment_or_new_prompts_is_not_made_otherwise
        a_job_that_runs_out_of_memory_again_and_again_fails_and_says_so
        what_was_called_off_is_not_made_otherwise;
    steering:
        a_changed_prompt_reaches_the_worker_once
        a_segment_that_is_begun_keeps_its_prompt
        a_segment_report_brings_the_orders_for_the_next_one
        a_change_for_a_segment_that_was_made_unheard_holds_from_the_next_one_on;
    reading:
        a_reader_goes_on_after_the_last_event_it_saw
        events_are_added_all_or_none
        segments_are_kept_as_they_were_first_reported
        a_picture_that_takes_the_place_of_another_takes_its_event_too
        progress_in_a_row_is_thinned_out_to_the_last
        one_poll_names_the_jobs_with_new_events
        previews_become_artifacts_but_do_not_swell_the_record;
    upkeep:
        old_films_are_retired_by_age_but_never_running_ones
        counts_tell_what_waits_runs_and_has_ended
        the_oldest_films_go_until_the_size_fits
        a_clock_that_jumps_back_does_not_keep_a_dead_workers_job
        a_clock_that_jumps_about_loses_and_repeats_no_job;
    keys:
        a_key_is_verified_by_its_secret_and_only_shown_in_part
        revoked_expired_and_unknown_keys_are_told_apart
        last_use_is_noted_to_the_minute
        a_key_without_scopes_or_with_a_rate_of_nothing_is_refused;
    webhooks:
        every_end_owes_its_webhook_one_delivery
        a_failed_delivery_is_tried_again_later_and_later_and_then_given_up
        a_receiver_that_is_gone_or_asks_for_time_is_heard
        a_delivery_is_taken_by_one_and_is_due_again_when_its_taker_dies
        deliveries_survive_a_clock_that_jumps_back;
    chaos:
        random_operations_never_break_an_invariant
        many_processes_finish_every_job_exactly_once
        what_was_acknowledged_is_there_after_a_crash;
}

async fn raw(path: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, StoreOptions { busy_timeout_ms: 200, ..Default::default() }).await
}

#[tokio::test]
async fn the_database_allows_exactly_the_steps_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let mut connection = raw(&path).await;
    for from in JobState::ALL {
        for to in JobState::ALL.into_iter().filter(|&to| to != from) {
            let job = store.create(NewJob::new("a", "b", json!({}))).await.unwrap().into_job();
            let id = job.id.to_string();
            if from != JobState::Queued {
                // Every state is reached from running.
                set_state(&mut connection, &id, JobState::Running).await.unwrap();
            }
            if from.is_final() {
                set_state(&mut connection, &id, from).await.unwrap();
            }
            let allowed = set_state(&mut connection, &id, to).await.is_ok();
            assert_eq!(allowed, state::allows(from, to), "{from} to {to}");
            let is = store.get(job.id).await.unwrap().state;
            assert_eq!(is, if allowed { to } else { from });
        }
    }
}

/// What [`a_killed_process_loses_nothing_it_acknowledged`] kills: asks for films and makes them, and
/// says what was acknowledged. Does nothing when it is run by itself.
#[tokio::test]
#[ignore = "the other half of a_killed_process_loses_nothing_it_acknowledged"]
async fn works_until_it_is_killed() {
    let Some(path) = std::env::var_os("LONGREEL_TEST_JOBS") else { return };
    let store = SqliteStore::open(path, StoreOptions::default()).await.unwrap();
    loop {
        let job = store.create(NewJob::new("a", "b", json!({}))).await.unwrap().into_job();
        println!("created {}", job.id);
        let leased = store.lease(LeaseRequest::new("killed")).await.unwrap().unwrap();
        println!("leased {}", leased.job.id);
        store.complete(&leased.lease, Default::default()).await.unwrap();
        println!("completed {}", leased.job.id);
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let mut completed = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["works_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env("LONGREEL_TEST_JOBS", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Killed after another step in each round, while it goes on with the next.
        let mut said = Vec::new();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(|line| line.unwrap()).filter(|line| line.contains('-'));
        said.extend(lines.by_ref().take(10 + round));
        child.kill().unwrap();
        child.wait().unwrap();
        said.extend(lines);

        let store = open(&path).await.unwrap();
        for line in &said {
            let (what, id) = line.rsplit_once(' ').unwrap();
            let job = store.get(id.parse().unwrap()).await.unwrap();
            if what.ends_with("completed") {
                assert_eq!(job.state, JobState::Completed, "{line}");
                completed += 1;
            }
        }
        // What it held goes on.
        for swept in store.worker_gone("killed").await.unwrap() {
            assert_eq!(swept.state, JobState::Queued);
        }
        let running =
            ListFilter { states: vec![JobState::Running], limit: 1, ..ListFilter::default() };
        assert!(store.list(running).await.unwrap().jobs.is_empty());
        store.close().await;
    }
    assert!(completed >= 20, "{completed}");
}

/// Sets the state and all that has to go with it.
async fn set_state(
    connection: &mut SqliteConnection,
    id: &str,
    to: JobState,
) -> Result<(), sqlx::Error> {
    let running = (to == JobState::Running).then_some(1);
    let failed = (to == JobState::Failed).then_some("error");
    sqlx::query(
        "UPDATE jobs SET state = ?1, attempts = 1, worker = ?2, lease_token = ?2 || id,
            lease_ms = ?2, lease_renewed_ms = ?2, lease_expires_ms = ?2, finished_ms = ?3,
            error_code = ?4, error_message = ?4 WHERE id = ?5",
    )
    .bind(to.as_str())
    .bind(running)
    .bind(to.is_final().then_some(1))
    .bind(failed)
    .bind(id)
    .execute(connection)
    .await
    .map(|_| ())
}

#[tokio::test]
async fn the_database_refuses_what_no_code_should_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    store.create(NewJob::new("a", "b", json!({}))).await.unwrap();
    let job = store.create(NewJob::new("a", "b", json!({}))).await.unwrap().into_job();
    store.lease(LeaseRequest::new("w")).await.unwrap().unwrap();
    let mut connection = raw(&path).await;
    for sql in [
        "DELETE FROM jobs WHERE state = 'running'",
        "UPDATE jobs SET lease_token = 'another' WHERE state = 'running'",
        "UPDATE jobs SET lease_token = NULL WHERE state = 'running'",
        "UPDATE jobs SET paused = 1 WHERE state = 'running'",
        "UPDATE jobs SET stop = 'cancel' WHERE state = 'queued'",
        "UPDATE jobs SET state = 'failed', finished_ms = 1 WHERE state = 'queued'",
        "UPDATE jobs SET state = 'cancelled' WHERE state = 'queued'",
        "UPDATE jobs SET finished_ms = 1 WHERE state = 'queued'",
        "UPDATE jobs SET state = 'lost'",
        "UPDATE jobs SET request = '{\"other\": 1}'",
        "UPDATE jobs SET resolved = '{\"other\": 1}' WHERE state = 'queued'",
        "UPDATE jobs SET deaths_in_row = 2",
        "UPDATE jobs SET attempts = 'many'",
    ] {
        assert!(sqlx::query(sql).execute(&mut connection).await.is_err(), "{sql}");
    }
    assert_eq!(store.get(job.id).await.unwrap(), job);
}

#[tokio::test]
async fn a_damaged_database_is_named_with_the_way_to_save_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    std::fs::write(&path, b"this is no database, however long one looks at it".repeat(99)).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(".recover"), "{error}");

    let path = folder.path().join("torn.db");
    let store = open(&path).await.unwrap();
    for _ in 0..100 {
        store.create(NewJob::new("a", "b".repeat(1_999), json!({}))).await.unwrap();
    }
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let (start, end) = (bytes.len() / 4, bytes.len() / 2);
    bytes[start..end].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_value_nobody_wrote_is_a_damaged_database_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let job = store.create(NewJob::new("a", "b", json!({}))).await.unwrap().into_job();
    let mut connection = raw(&path).await;
    for sql in [
        "UPDATE jobs SET prompts = '{'",
        "UPDATE jobs SET prompts = '[]', priority = 99999999999",
        "UPDATE jobs SET priority = 0, progress = '[]'",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        let error = store.get(job.id).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{sql}: {error}");
    }
}

#[tokio::test]
async fn a_locked_database_is_an_error_that_says_so_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let mut other = raw(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store.create(NewJob::new("a", "b", json!({}))).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { waited_ms: 200, .. }), "{error}");
    assert!(error.is_transient());
    // Readers go on.
    assert!(store.list(Default::default()).await.unwrap().jobs.is_empty());
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.create(NewJob::new("a", "b", json!({}))).await.unwrap();
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    open(&path).await.unwrap().close().await;
    let sql = "INSERT INTO migrations VALUES (999, 0)";
    sqlx::query(sql).execute(&mut raw(&path).await).await.unwrap();
    let error = open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 999, .. }), "{error}");
}

#[tokio::test]
async fn jobs_of_a_database_from_before_traces_were_kept_are_kept_and_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path).await.unwrap();
    let job = store.create(NewJob::new("a", "b", json!({}))).await.unwrap().into_job();
    store.close().await;
    let mut connection = raw(&path).await;
    for sql in [
        "ALTER TABLE jobs DROP COLUMN tracestate",
        "ALTER TABLE jobs DROP COLUMN traceparent",
        "DELETE FROM migrations WHERE version >= 6",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    drop(connection);
    let store = open(&path).await.unwrap();
    assert_eq!(store.get(job.id).await.unwrap(), job);
    assert_eq!(job.asked.trace, None);
}

#[tokio::test]
async fn a_folder_that_is_missing_or_an_option_of_nothing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = open(&folder.path().join("no/such/jobs.db")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    let options = StoreOptions {
        limits: Limits { queue_length: 0, ..Limits::default() },
        ..StoreOptions::default()
    };
    let error = SqliteStore::open(folder.path().join("jobs.db"), options).await.unwrap_err();
    assert!(error.to_string().contains("limits.queue_length"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_can_make_one_new_database_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move { SqliteStore::open(path, StoreOptions::default()).await })
        })
        .collect();
    for task in tasks {
        let store = task.await.unwrap().unwrap();
        store.create(NewJob::new("a", "b", json!({}))).await.unwrap();
    }
    assert_eq!(open(&path).await.unwrap().list(Default::default()).await.unwrap().jobs.len(), 8);
}
