//! Which job goes next.

use sqlx::SqliteConnection;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::SqliteStore;
use super::failure::Attempted;
use super::rows::{job_by_id, number, optional_number, parsed};
use super::steps::work_left;
use crate::admission::decayed_work;
use crate::job::Job;

/// An owner with waiting jobs.
struct Candidate {
    owner: String,
    /// The highest priority among them.
    priority: i64,
    /// Age of the oldest of that priority.
    oldest: i64,
    /// Work given lately.
    work: f64,
}

impl SqliteStore {
    /// The next job, charged to its owner. See [`crate::WorkStore::lease`] for the rule.
    pub(super) async fn choose(
        &self,
        tx: &mut SqliteConnection,
        models: &[String],
        now_ms: i64,
    ) -> Attempted<Option<Job>> {
        let candidates = self.candidates(tx, models, now_ms).await?;
        let best = candidates.into_iter().min_by(|a, b| {
            let by_priority = b.priority.cmp(&a.priority);
            by_priority.then(a.work.total_cmp(&b.work)).then(a.oldest.cmp(&b.oldest))
        });
        let Some(best) = best else { return Ok(None) };
        let row = sqlx::query("SELECT id FROM jobs WHERE seq = ?")
            .bind(best.oldest)
            .fetch_one(&mut *tx)
            .await?;
        let job = job_by_id(tx, parsed(&row, "id")?).await?;
        let work = best.work + work_left(&job) as f64;
        sqlx::query(
            "INSERT INTO owners (owner, work, work_ms) VALUES (?, ?, ?)
             ON CONFLICT (owner) DO UPDATE SET work = excluded.work, work_ms = excluded.work_ms",
        )
        .bind(&best.owner)
        .bind(work)
        .bind(now_ms)
        .execute(tx)
        .await?;
        Ok(Some(job))
    }

    /// Owners who have a job that may be given out now.
    async fn candidates(
        &self,
        tx: &mut SqliteConnection,
        models: &[String],
        now_ms: i64,
    ) -> Attempted<Vec<Candidate>> {
        // From owner to owner along the index, one step each, so that a long queue of few owners costs
        // no more than a short one.
        let mut query = QueryBuilder::<Sqlite>::new(
            "WITH RECURSIVE waiting (owner) AS (
                SELECT MIN(owner) FROM jobs INDEXED BY jobs_waiting WHERE state = 'queued'
                UNION ALL
                SELECT (SELECT MIN(jobs.owner) FROM jobs INDEXED BY jobs_waiting
                        WHERE state = 'queued' AND jobs.owner > waiting.owner)
                FROM waiting WHERE waiting.owner IS NOT NULL
             )
             SELECT waiting.owner, job.priority, job.seq, work, work_ms, running_limit,
                (SELECT COUNT(*) FROM jobs INDEXED BY jobs_running
                 WHERE state = 'running' AND jobs.owner = waiting.owner) AS running
             FROM waiting
             JOIN jobs AS job ON job.seq = (
                SELECT seq FROM jobs INDEXED BY jobs_waiting
                WHERE state = 'queued' AND jobs.owner = waiting.owner AND paused = 0
                    AND (deadline_ms IS NULL OR deadline_ms > ",
        );
        query.push_bind(now_ms).push(")");
        if !models.is_empty() {
            query.push(" AND model IN (");
            let mut list = query.separated(", ");
            for model in models {
                list.push_bind(model);
            }
            query.push(")");
        }
        query.push(
            " ORDER BY jobs.priority DESC, seq LIMIT 1)
             LEFT JOIN owners ON owners.owner = waiting.owner",
        );
        let mut candidates = Vec::new();
        for row in query.build().fetch_all(tx).await? {
            let limit = optional_number(&row, "running_limit")?;
            if number::<u64>(&row, "running")? >= limit.unwrap_or(self.options.limits.owner.running)
            {
                continue;
            }
            let work: Option<f64> = row.try_get("work")?;
            let work_ms: Option<i64> = row.try_get("work_ms")?;
            candidates.push(Candidate {
                owner: row.try_get("owner")?,
                priority: row.try_get("priority")?,
                oldest: row.try_get("seq")?,
                work: decayed_work(
                    work.unwrap_or(0.0),
                    work_ms.unwrap_or(now_ms),
                    now_ms,
                    self.options.share_half_life_ms,
                ),
            });
        }
        Ok(candidates)
    }
}
