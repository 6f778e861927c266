//! What operators see of effects and do to them; see `millrace effects` and `millrace status`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::handled::{self, Handled};

/// Why an operator's word was not followed.
#[derive(Debug, thiserror::Error)]
pub enum EffectOpsError {
    /// There is no such effect.
    #[error("effect {effect} is unknown; known are: {known}")]
    Unknown {
        /// What was asked for.
        effect: String,
        /// What there is.
        known: String,
    },
    /// There is no such row.
    #[error("effect {effect} has claimed no event {event_id}")]
    NoSuchEvent {
        /// Which effect.
        effect: String,
        /// Which event.
        event_id: Uuid,
    },
    /// The row goes on by itself, or has ended.
    #[error(
        "event {event_id} of effect {effect} is {state}: only one that is dead or uncertain waits for an operator"
    )]
    NotWaiting {
        /// Which effect.
        effect: String,
        /// Which event.
        event_id: Uuid,
        /// Its state.
        state: String,
    },
    /// Postgres.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
}

/// An effect, with how many of its rows are in which state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct EffectStatus {
    /// Its name.
    pub effect: String,
    /// An operator paused it.
    pub paused: bool,
    /// To be called, or to be called again; those behind a dead or uncertain one included.
    pub pending: i64,
    /// Of these: failed at least once, because the outside is away or asked to wait.
    pub retrying: i64,
    /// Of these: waiting behind an aggregate's dead or uncertain row.
    pub blocked: i64,
    /// Under way.
    pub calling: i64,
    /// Nobody knows whether they were carried out.
    pub uncertain: i64,
    /// Ended, and the record about it not yet produced.
    pub producing: i64,
    /// Given up, with a dead letter.
    pub dead: i64,
    /// Nothing left to do.
    pub settled: i64,
    /// When the oldest pending one was claimed.
    pub oldest_pending: Option<DateTime<Utc>>,
    /// Why partitions stand still, one sentence each.
    pub errors: Vec<String>,
    /// What it has handled, by partition.
    #[sqlx(skip)]
    pub partitions: Vec<PartitionStatus>,
}

/// An effect on one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct PartitionStatus {
    #[serde(skip)]
    effect: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset of the next record to claim.
    pub next: i64,
    /// What it has handled here; a failed call counts among the errors.
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub handled: Handled,
}

impl EffectStatus {
    /// The consumer group.
    pub fn group(&self) -> String {
        super::group(&self.effect)
    }
}

/// Every effect that ever ran; empty where none did.
pub async fn status(pool: &PgPool) -> Result<Vec<EffectStatus>, EffectOpsError> {
    let there: bool =
        sqlx::query_scalar("SELECT to_regclass('millrace_effects.calls') IS NOT NULL")
            .fetch_one(pool)
            .await?;
    if !there {
        return Ok(Vec::new());
    }
    let mut effects: Vec<EffectStatus> = sqlx::query_as(
        "SELECT e.name AS effect, e.paused,
                count(*) FILTER (WHERE c.state = 'pending') AS pending,
                count(*) FILTER (WHERE c.state = 'pending' AND c.class IS NOT NULL) AS retrying,
                count(*) FILTER (WHERE c.state = 'pending' AND EXISTS (
                    SELECT FROM millrace_effects.calls b
                    WHERE b.effect = c.effect AND b.topic = c.topic AND b.partition = c.partition
                      AND b.aggregate_id = c.aggregate_id AND b.\"offset\" < c.\"offset\"
                      AND b.state IN ('dead', 'uncertain'))) AS blocked,
                count(*) FILTER (WHERE c.state = 'calling') AS calling,
                count(*) FILTER (WHERE c.state = 'uncertain') AS uncertain,
                count(*) FILTER (WHERE c.state IN ('done', 'failed')) AS producing,
                count(*) FILTER (WHERE c.state = 'dead') AS dead,
                count(*) FILTER (WHERE c.state = 'settled') AS settled,
                min(c.claimed_at) FILTER (WHERE c.state = 'pending') AS oldest_pending,
                ARRAY(SELECT p.error FROM millrace_effects.checkpoints p
                      WHERE p.effect = e.name AND p.error IS NOT NULL ORDER BY p.topic, p.partition) AS errors
         FROM millrace_effects.effects e LEFT JOIN millrace_effects.calls c ON c.effect = e.name
         GROUP BY e.name ORDER BY e.name",
    )
    .fetch_all(pool)
    .await?;
    let partitions: Vec<PartitionStatus> = sqlx::query_as(concat!(
        "SELECT c.effect, c.topic, c.partition, c.next, ",
        handled::columns!(),
        ", ",
        handled::dead!(),
        " FROM millrace_effects.checkpoints c ORDER BY c.effect, c.topic, c.partition"
    ))
    .fetch_all(pool)
    .await?;
    for partition in partitions {
        let mut of = effects.iter_mut();
        if let Some(one) = of.find(|one| one.effect == partition.effect) {
            one.partitions.push(partition);
        }
    }
    Ok(effects)
}

/// A row, without the record that it was claimed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct CallStatus {
    /// Which effect.
    pub effect: String,
    /// The event.
    pub event_id: Uuid,
    /// Where it stands.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The aggregate.
    pub aggregate_id: String,
    /// `pending`, `calling`, `uncertain`, `done`, `failed`, `dead` or `settled`.
    pub state: String,
    /// What the outside knows the call by.
    pub call_key: Uuid,
    /// Calls begun.
    pub calls: i32,
    /// Failures that count.
    pub attempts: i32,
    /// Process that began the last call.
    pub owner: Option<String>,
    /// When it is looked at next.
    pub due_at: DateTime<Utc>,
    /// Class of the last failure.
    pub class: Option<String>,
    /// What was said.
    pub reason: Option<String>,
    /// `done` or `failed`, once it has ended.
    pub result: Option<String>,
    /// Id of the outcome command, where there is one.
    pub command_id: Option<Uuid>,
    /// Its type.
    pub command_type: Option<String>,
    /// When the event was claimed.
    pub claimed_at: DateTime<Utc>,
    /// When the last call was begun.
    pub called_at: Option<DateTime<Utc>>,
    /// When nothing was left to do.
    pub settled_at: Option<DateTime<Utc>>,
    /// What the operator wrote who settled it.
    pub settled_note: Option<String>,
    /// Headers of the event's record, until it is settled.
    pub headers: Option<Value>,
    /// Rows of the aggregate that wait behind it.
    pub waiting: i64,
}

/// Which rows to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one effect.
    pub effect: Option<String>,
    /// In one state; without it, those that wait for an operator.
    pub state: Option<String>,
    /// One event.
    pub event_id: Option<Uuid>,
    /// Of one aggregate.
    pub aggregate_id: Option<String>,
}

/// Rows, oldest first, at most 1,000.
pub async fn calls(pool: &PgPool, filter: &Filter) -> Result<Vec<CallStatus>, EffectOpsError> {
    Ok(sqlx::query_as(
        "SELECT c.*, (SELECT count(*) FROM millrace_effects.calls b
                      WHERE b.effect = c.effect AND b.topic = c.topic AND b.partition = c.partition
                        AND b.aggregate_id = c.aggregate_id AND b.\"offset\" > c.\"offset\"
                        AND b.state <> 'settled') AS waiting
         FROM millrace_effects.calls c
         WHERE ($1::text IS NULL OR c.effect = $1) AND ($3::uuid IS NULL OR c.event_id = $3)
           AND ($4::text IS NULL OR c.aggregate_id = $4)
           AND CASE WHEN $2::text IS NOT NULL THEN c.state = $2
                    ELSE $3::uuid IS NOT NULL OR c.state IN ('dead', 'uncertain') END
         ORDER BY c.claimed_at, c.\"offset\" LIMIT 1000",
    )
    .bind(&filter.effect)
    .bind(&filter.state)
    .bind(filter.event_id)
    .bind(&filter.aggregate_id)
    .fetch_all(pool)
    .await?)
}

/// What an operator decides about a row that waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It was carried out. No outcome command is made: if an aggregate waits for one, the operator sends it.
    Done,
    /// It was not, and will not be.
    Failed,
}

/// Lets a dead or uncertain row be called again, as if it never had been. The aggregate's later events follow it.
pub async fn retry(pool: &PgPool, effect: &str, event_id: Uuid) -> Result<(), EffectOpsError> {
    let done = sqlx::query(
        "UPDATE millrace_effects.calls
         SET state = 'pending', attempts = 0, misses = 0, due_at = now(), result = NULL, ended_at = NULL
         WHERE effect = $1 AND event_id = $2 AND state IN ('dead', 'uncertain')",
    )
    .bind(effect)
    .bind(event_id)
    .execute(pool)
    .await?;
    followed(pool, effect, event_id, done.rows_affected()).await
}

/// Ends a dead or uncertain row by an operator's word, with what they know about it.
pub async fn settle(
    pool: &PgPool,
    effect: &str,
    event_id: Uuid,
    (settlement, note): (Settlement, &str),
) -> Result<(), EffectOpsError> {
    let result = match settlement {
        Settlement::Done => "done",
        Settlement::Failed => "failed",
    };
    let done = sqlx::query(
        "UPDATE millrace_effects.calls
         SET state = 'settled', result = $3, settled_note = $4, settled_at = now(), ended_at = coalesce(ended_at, now()),
             record_key = NULL, payload = NULL, headers = NULL
         WHERE effect = $1 AND event_id = $2 AND state IN ('dead', 'uncertain')",
    )
    .bind(effect)
    .bind(event_id)
    .bind(result)
    .bind(note.replace('\0', "\u{fffd}"))
    .execute(pool)
    .await?;
    followed(pool, effect, event_id, done.rows_affected()).await
}

async fn followed(
    pool: &PgPool,
    effect: &str,
    event_id: Uuid,
    changed: u64,
) -> Result<(), EffectOpsError> {
    if changed == 1 {
        return Ok(());
    }
    let state: Option<String> = sqlx::query_scalar(
        "SELECT state FROM millrace_effects.calls WHERE effect = $1 AND event_id = $2",
    )
    .bind(effect)
    .bind(event_id)
    .fetch_optional(pool)
    .await?;
    let effect = effect.to_owned();
    Err(match state {
        None => EffectOpsError::NoSuchEvent { effect, event_id },
        Some(state) => EffectOpsError::NotWaiting {
            effect,
            event_id,
            state,
        },
    })
}

/// Pauses an effect, or lets it go on: its members leave the group within a second, calls under way end.
pub async fn pause(pool: &PgPool, effect: &str, paused: bool) -> Result<(), EffectOpsError> {
    let done = sqlx::query("UPDATE millrace_effects.effects SET paused = $2 WHERE name = $1")
        .bind(effect)
        .bind(paused)
        .execute(pool)
        .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    let known: Vec<String> =
        sqlx::query_scalar("SELECT name FROM millrace_effects.effects ORDER BY name")
            .fetch_all(pool)
            .await?;
    Err(EffectOpsError::Unknown {
        effect: effect.to_owned(),
        known: known.join(", "),
    })
}
