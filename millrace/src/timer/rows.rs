//! The rows of `millrace.timers`: claimed by whoever fires them, and marked with what came of it.
//!
//! Firing holds no lock. (Broken by a row lock held while the command is decided: its own event may cancel the timer, the append
//! waits for the lock, and the lock for the append.) A claim is a time in the row instead, by the database's clock; one that
//! runs out is taken by another producer, and the outcome kept under the command's id settles what both did.
//!
//! The mark skips rows that an append has locked. (Broken by waiting for them: the append locks timers in the order of its
//! aggregates, the mark in another.) A row that was skipped is marked on the next try.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::TimerStatus;

/// How long a claim holds; above what a batch takes while all servers answer.
const CLAIM: &str = "5 seconds";

/// A timer that is due.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Due {
    pub(super) timer_id: Uuid,
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) name: String,
    pub(super) command_type: String,
    pub(super) command_id: String,
    pub(super) payload: Vec<u8>,
    pub(super) headers: serde_json::Value,
}

/// What came of a firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) timer_id: Uuid,
    /// `fired`, `rejected` or `failed`.
    pub(super) state: &'static str,
    pub(super) reason: Option<String>,
}

/// Claims what is due at `now` and claimed by nobody, oldest first.
pub(super) async fn claim(
    pool: &PgPool,
    aggregates: &[&str],
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Due>, sqlx::Error> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "UPDATE millrace.timers AS t SET claimed_until = clock_timestamp() + interval '{CLAIM}'
         WHERE t.timer_id IN (
             SELECT d.timer_id FROM millrace.timers d
             WHERE d.state = 'pending' AND d.due_at <= $1 AND d.aggregate_type = ANY ($2)
               AND (d.claimed_until IS NULL OR d.claimed_until < clock_timestamp())
             ORDER BY d.due_at LIMIT $3 FOR UPDATE SKIP LOCKED)
           AND t.state = 'pending'
         RETURNING t.timer_id, t.aggregate_type, t.aggregate_id, t.name, t.command_type, t.command_id,
                   t.payload, t.headers"
    )))
    .bind(now)
    .bind(aggregates)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Marks what came of firings; returns the timers that were marked.
pub(super) async fn mark(pool: &PgPool, ended: &[Ended]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE millrace.timers AS t SET state = e.state, reason = e.reason, ended_at = clock_timestamp()
         FROM unnest($1::uuid[], $2::text[], $3::text[]) AS e (id, state, reason)
         WHERE t.timer_id = e.id AND t.timer_id IN (
             SELECT l.timer_id FROM millrace.timers l WHERE l.timer_id = ANY ($1)
             FOR UPDATE SKIP LOCKED)
         RETURNING t.timer_id",
    )
    .bind(ended.iter().map(|one| one.timer_id).collect::<Vec<_>>())
    .bind(ended.iter().map(|one| one.state).collect::<Vec<_>>())
    .bind(
        ended
            .iter()
            .map(|one| one.reason.as_deref())
            .collect::<Vec<_>>(),
    )
    .fetch_all(pool)
    .await
}

/// How the timers of a journal are at a moment.
pub async fn status(pool: &PgPool, now: DateTime<Utc>) -> Result<TimerStatus, sqlx::Error> {
    let (pending, oldest, failed): (i64, Option<DateTime<Utc>>, i64) = sqlx::query_as(
        // Each by an index of its own: those that have fired are kept, and may be many.
        "SELECT (SELECT count(*) FROM millrace.timers WHERE state = 'pending'),
                (SELECT min(due_at) FROM millrace.timers WHERE state = 'pending'),
                (SELECT count(*) FROM millrace.timers WHERE state = 'failed')",
    )
    .fetch_one(pool)
    .await?;
    let age = oldest.map(|due| (now - due).num_milliseconds());
    Ok(TimerStatus {
        pending,
        oldest_due_age_ms: age.filter(|age| *age >= 0),
        failed,
    })
}
