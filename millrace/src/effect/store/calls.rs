//! Calls: who may begin one, how it ended, and what is still to be produced.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::effect::policy::Next;
use crate::effect::{Order, OutcomeCommand, RuleName};
use crate::event::Metadata;
use crate::projection::checkpoint::Checkpoint;
use crate::projection::{HeaderBlock, Record};

/// Our partitions, as columns.
fn held(claims: &[Checkpoint]) -> (Vec<&str>, Vec<i32>, Vec<i64>) {
    let topics = claims.iter().map(|claim| claim.topic.as_str()).collect();
    let partitions = claims.iter().map(|claim| claim.partition).collect();
    let epochs = claims.iter().map(|claim| claim.epoch).collect();
    (topics, partitions, epochs)
}

/// A row as it is worked on.
#[derive(Debug, Clone, FromRow)]
pub(in crate::effect) struct Row {
    pub(in crate::effect) event_id: Uuid,
    pub(in crate::effect) call_key: Uuid,
    pub(in crate::effect) calls: i32,
    pub(in crate::effect) attempts: i32,
    pub(in crate::effect) misses: i32,
    topic: String,
    partition: i32,
    offset: i64,
    record_key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Value,
}

impl Row {
    /// Topic and partition.
    pub(in crate::effect) fn place(&self) -> (&str, i32) {
        (&self.topic, self.partition)
    }

    /// The record that it was claimed from.
    pub(in crate::effect) fn record(&self) -> Record {
        Record::new(
            (self.topic.as_str().into(), self.partition, self.offset),
            self.record_key.clone(),
            self.payload.clone(),
            HeaderBlock::from_json(&self.headers),
        )
    }
}

const TAKE: &str = "WITH held AS MATERIALIZED (
             SELECT p.topic, p.partition FROM millrace_effects.checkpoints p
             JOIN unnest($2::text[], $3::int[], $4::bigint[]) u (topic, partition, epoch)
               ON u.topic = p.topic AND u.partition = p.partition AND u.epoch = p.epoch
             WHERE p.effect = $1 ORDER BY p.topic, p.partition FOR SHARE OF p
         ), due AS MATERIALIZED (
             SELECT c.event_id FROM millrace_effects.calls c
             JOIN held ON held.topic = c.topic AND held.partition = c.partition
             WHERE c.effect = $1 AND c.state = 'pending' AND c.due_at <= clock_timestamp()
               AND ($5 OR NOT EXISTS (
                   SELECT FROM millrace_effects.calls b
                   WHERE b.effect = $1 AND b.topic = c.topic AND b.partition = c.partition
                     AND b.aggregate_id = c.aggregate_id AND b.\"offset\" < c.\"offset\"
                     AND b.state <> 'settled'))
             ORDER BY c.\"offset\" LIMIT $6 FOR UPDATE OF c
         )
         UPDATE millrace_effects.calls c
         SET state = 'calling', calls = c.calls + 1, owner = $7, called_at = clock_timestamp(),
             deadline = clock_timestamp() + $8 * interval '1 second'
         FROM due WHERE c.effect = $1 AND c.event_id = due.event_id AND c.state = 'pending'
         RETURNING c.event_id, c.call_key, c.calls, c.attempts, c.misses, c.topic, c.partition,
                   c.\"offset\", c.record_key, c.payload, c.headers";

/// The crash test takes the durable mark out, to see that it notices: the call is only put off.
fn take_statement() -> Cow<'static, str> {
    fail::fail_point!("sabotage.effect.calling", |_| TAKE
        .replace(
            "state = 'calling', calls",
            "due_at = clock_timestamp() + $8 * interval '1 second', calls"
        )
        .into());
    TAKE.into()
}

/// Begins calls: the rows are `calling` when this returns.
///
/// Invariant: only the owner of the newest epoch of a partition begins calls of its rows. The row lock on the
/// checkpoint orders this against a claim: either the claim waits and then finds the row `calling`, or the epoch
/// is no longer ours and nothing is taken. In order of an aggregate, a row is taken only if none before it is open.
pub(in crate::effect) async fn take(
    conn: impl PgExecutor<'_>,
    effect: &str,
    claims: &[Checkpoint],
    (order, limit): (Order, usize),
    (owner, lasts): (&str, Duration),
) -> Result<Vec<Row>, sqlx::Error> {
    let (topics, partitions, epochs) = held(claims);
    sqlx::query_as(sqlx::AssertSqlSafe(take_statement()))
        .bind(effect)
        .bind(topics)
        .bind(partitions)
        .bind(epochs)
        .bind(order == Order::Any)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(owner)
        .bind(lasts.as_secs_f64())
        .fetch_all(conn)
        .await
}

/// Calls of our partitions that can no longer be under way and whose outcome nobody recorded: in doubt, or to be
/// made again where that is safe. Returns how many.
pub(in crate::effect) async fn expire(
    conn: impl PgExecutor<'_>,
    effect: &str,
    claims: &[Checkpoint],
    rule: RuleName,
) -> Result<u64, sqlx::Error> {
    let (topics, partitions, _) = held(claims);
    let state = match rule {
        RuleName::SafeToRepeat => "pending",
        RuleName::AskByKey | RuleName::NeverRepeat => "uncertain",
    };
    let done = sqlx::query(
        "UPDATE millrace_effects.calls c
         SET state = $4, class = 'unknown', due_at = now(),
             reason = 'the process that made the call, ' || c.owner || ', did not record how it ended'
         FROM unnest($2::text[], $3::int[]) u (topic, partition)
         WHERE c.effect = $1 AND c.topic = u.topic AND c.partition = u.partition
           AND c.state = 'calling' AND c.deadline < clock_timestamp()",
    )
    .bind(effect)
    .bind(topics)
    .bind(partitions)
    .bind(state)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Uncertain rows that are to be asked about; nobody else asks for `lasts`.
pub(in crate::effect) async fn take_uncertain(
    conn: impl PgExecutor<'_>,
    effect: &str,
    claims: &[Checkpoint],
    (limit, lasts): (usize, Duration),
) -> Result<Vec<Row>, sqlx::Error> {
    let (topics, partitions, epochs) = held(claims);
    sqlx::query_as(
        "WITH due AS MATERIALIZED (
             SELECT c.event_id FROM millrace_effects.calls c
             JOIN millrace_effects.checkpoints p
               ON p.effect = c.effect AND p.topic = c.topic AND p.partition = c.partition
             JOIN unnest($2::text[], $3::int[], $4::bigint[]) u (topic, partition, epoch)
               ON u.topic = p.topic AND u.partition = p.partition AND u.epoch = p.epoch
             WHERE c.effect = $1 AND c.state = 'uncertain' AND c.due_at <= clock_timestamp()
             ORDER BY c.\"offset\" LIMIT $5 FOR UPDATE OF c
         )
         UPDATE millrace_effects.calls c SET due_at = clock_timestamp() + $6 * interval '1 second'
         FROM due WHERE c.effect = $1 AND c.event_id = due.event_id AND c.state = 'uncertain'
         RETURNING c.event_id, c.call_key, c.calls, c.attempts, c.misses, c.topic, c.partition,
                   c.\"offset\", c.record_key, c.payload, c.headers",
    )
    .bind(effect)
    .bind(topics)
    .bind(partitions)
    .bind(epochs)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(lasts.as_secs_f64())
    .fetch_all(conn)
    .await
}

/// How a call ended.
#[derive(Debug, Clone)]
pub(in crate::effect) enum Ending {
    /// Carried out.
    Done(Option<OutcomeCommand>),
    /// Not.
    Failed(Next),
}

/// Records how our call ended; false if another call was begun since, or an operator settled the row.
pub(in crate::effect) async fn record(
    conn: impl PgExecutor<'_>,
    (effect, owner): (&str, &str),
    row: &Row,
    ending: &Ending,
) -> Result<bool, sqlx::Error> {
    write(conn, effect, row, ending, Some(owner)).await
}

/// Records what the outside answered about an uncertain call; false if the row is uncertain no longer.
pub(in crate::effect) async fn record_answer(
    conn: impl PgExecutor<'_>,
    effect: &str,
    row: &Row,
    ending: &Ending,
) -> Result<bool, sqlx::Error> {
    write(conn, effect, row, ending, None).await
}

async fn write(
    conn: impl PgExecutor<'_>,
    effect: &str,
    row: &Row,
    ending: &Ending,
    owner: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let (state, next, command) = match ending {
        Ending::Done(None) => ("settled", None, None),
        Ending::Done(Some(command)) => ("done", None, Some(command)),
        Ending::Failed(next) => (next.state, Some(next), None),
    };
    let result = match state {
        "settled" | "done" => Some("done"),
        "failed" => Some("failed"),
        _ => None,
    };
    let pause = next.map_or(Duration::ZERO, |next| next.pause);
    let done = sqlx::query(
        "UPDATE millrace_effects.calls c
         SET state = $4, result = $5, class = $6, reason = $7,
             attempts = coalesce($8, attempts), misses = coalesce($9, misses),
             due_at = clock_timestamp() + $10 * interval '1 second',
             ended_at = CASE WHEN $5::text IS NULL THEN NULL ELSE clock_timestamp() END,
             settled_at = CASE WHEN $4 = 'settled' THEN clock_timestamp() END,
             command_topic = $11, command_key = $12, command_type = $13, command_id = $14,
             command_payload = $15, command_version = $17,
             record_key = CASE WHEN $4 = 'settled' THEN NULL ELSE record_key END,
             payload = CASE WHEN $4 = 'settled' THEN NULL ELSE payload END,
             headers = CASE WHEN $4 = 'settled' THEN NULL ELSE headers END
         WHERE c.effect = $1 AND c.event_id = $2 AND c.calls = $3
           AND CASE WHEN $16::text IS NULL THEN c.state = 'uncertain'
                    ELSE c.owner = $16 AND c.state IN ('calling', 'uncertain', 'pending') END",
    )
    .bind(effect)
    .bind(row.event_id)
    .bind(row.calls)
    .bind(state)
    .bind(result)
    .bind(next.map(|next| next.class))
    .bind(next.map(|next| next.reason.replace('\0', "\u{fffd}")))
    .bind(next.map(|next| i32::try_from(next.attempts).unwrap_or(i32::MAX)))
    .bind(next.map(|next| i32::try_from(next.misses).unwrap_or(i32::MAX)))
    .bind(pause.as_secs_f64())
    .bind(command.map(|command| crate::event::commands_topic(&command.aggregate)))
    .bind(command.map(|command| command.aggregate_id.as_str()))
    .bind(command.map(|command| command.command_type.as_ref()))
    .bind(command.map(|_| crate::effect::outcome_id(effect, row.event_id)))
    .bind(command.map(|command| command.payload.as_slice()))
    .bind(owner)
    .bind(command.map(|command| i32::try_from(command.schema_version).unwrap_or(i32::MAX)))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A row with something to produce: the outcome command, the dead letter, or that it is in doubt.
#[derive(Debug, Clone, FromRow)]
pub(in crate::effect) struct Letter {
    pub(in crate::effect) event_id: Uuid,
    pub(in crate::effect) call_key: Uuid,
    pub(in crate::effect) calls: i32,
    pub(in crate::effect) state: String,
    pub(in crate::effect) attempts: i32,
    pub(in crate::effect) class: Option<String>,
    pub(in crate::effect) reason: Option<String>,
    pub(in crate::effect) topic: String,
    pub(in crate::effect) partition: i32,
    pub(in crate::effect) offset: i64,
    pub(in crate::effect) record_key: Option<Vec<u8>>,
    pub(in crate::effect) payload: Option<Vec<u8>>,
    headers: Value,
    pub(in crate::effect) called_at: Option<DateTime<Utc>>,
    pub(in crate::effect) ended_at: Option<DateTime<Utc>>,
    pub(in crate::effect) command_topic: Option<String>,
    pub(in crate::effect) command_key: Option<String>,
    pub(in crate::effect) command_type: Option<String>,
    pub(in crate::effect) command_version: Option<i32>,
    pub(in crate::effect) command_id: Option<Uuid>,
    pub(in crate::effect) command_payload: Option<Vec<u8>>,
}

impl Letter {
    /// The record that it was claimed from.
    pub(in crate::effect) fn record(&self) -> Record {
        Record::new(
            (self.topic.as_str().into(), self.partition, self.offset),
            self.record_key.clone(),
            self.payload.clone(),
            self.headers(),
        )
    }

    /// The headers of the record that it was claimed from.
    pub(in crate::effect) fn headers(&self) -> HeaderBlock {
        HeaderBlock::from_json(&self.headers)
    }

    /// What these say, where the record is an event.
    pub(in crate::effect) fn metadata(&self) -> Option<Metadata> {
        let headers = self.headers();
        let read = crate::log::headers::parse(headers.iter());
        read.ok().map(|(_, metadata)| metadata)
    }
}

/// Rows of our partitions with something to produce, oldest first; those in doubt only where nobody asks about them, and once
/// for each call. The epoch keeps a member that lost its partitions, and does
/// not know it yet, from producing what the new owner produces; a repeat would do no harm.
pub(in crate::effect) async fn to_emit(
    conn: impl PgExecutor<'_>,
    effect: &str,
    claims: &[Checkpoint],
    (rule, limit): (RuleName, i64),
) -> Result<Vec<Letter>, sqlx::Error> {
    let (topics, partitions, epochs) = held(claims);
    sqlx::query_as(
        "SELECT c.event_id, c.call_key, c.calls, c.state, c.attempts, c.class, c.reason, c.topic, c.partition, c.\"offset\",
                c.record_key, c.payload, c.headers, c.called_at, c.ended_at, c.command_topic, c.command_key,
                c.command_type, c.command_version, c.command_id, c.command_payload
         FROM millrace_effects.calls c
         JOIN millrace_effects.checkpoints p
           ON p.effect = c.effect AND p.topic = c.topic AND p.partition = c.partition
         JOIN unnest($2::text[], $3::int[], $5::bigint[]) u (topic, partition, epoch)
           ON u.topic = p.topic AND u.partition = p.partition AND u.epoch = p.epoch
         WHERE c.effect = $1 AND (c.state IN ('done', 'failed')
               OR $6 AND c.state = 'uncertain' AND c.told IS DISTINCT FROM c.calls)
         ORDER BY c.\"offset\" LIMIT $4",
    )
    .bind(effect)
    .bind(topics)
    .bind(partitions)
    .bind(limit)
    .bind(epochs)
    .bind(rule == RuleName::NeverRepeat)
    .fetch_all(conn)
    .await
}

/// The outcome commands of these stand on their topics: nothing is left to do.
pub(in crate::effect) async fn settle(
    conn: impl PgExecutor<'_>,
    effect: &str,
    events: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_effects.calls
         SET state = 'settled', settled_at = clock_timestamp(), record_key = NULL, payload = NULL,
             headers = NULL, command_payload = NULL
         WHERE effect = $1 AND event_id = ANY ($2) AND state = 'done'",
    )
    .bind(effect)
    .bind(events)
    .execute(conn)
    .await?;
    Ok(())
}

/// The dead letters of these stand on their topic.
pub(in crate::effect) async fn dead(
    conn: impl PgExecutor<'_>,
    effect: &str,
    events: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_effects.calls SET state = 'dead'
         WHERE effect = $1 AND event_id = ANY ($2) AND state = 'failed'",
    )
    .bind(effect)
    .bind(events)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whoever waits for these calls, which are in doubt, was told so.
pub(in crate::effect) async fn told(
    conn: impl PgExecutor<'_>,
    effect: &str,
    (events, calls): (&[Uuid], &[i32]),
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_effects.calls c SET told = u.calls
         FROM unnest($2::uuid[], $3::int[]) u (event_id, calls)
         WHERE c.effect = $1 AND c.event_id = u.event_id AND c.calls = u.calls",
    )
    .bind(effect)
    .bind(events)
    .bind(calls)
    .execute(conn)
    .await?;
    Ok(())
}
