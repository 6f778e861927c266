//! Claims: partitions and their checkpoints, and the events that are taken in with them.

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::checkpoints::EFFECTS;
use crate::log::Key;
use crate::position::JournalPosition;
use crate::projection::checkpoint::{Beginning, Checkpoint, Move};

/// Makes the effect known.
pub(in crate::effect) async fn ensure(
    conn: &mut PgConnection,
    effect: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO millrace_effects.effects (name) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(effect)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether an operator paused it.
pub(in crate::effect) async fn paused(
    conn: &mut PgConnection,
    effect: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT paused FROM millrace_effects.effects WHERE name = $1")
        .bind(effect)
        .fetch_one(conn)
        .await
}

/// Takes the partitions over: raises their epochs, which fences whoever held them before. What lies before a beginning
/// counts as passed over: the mark stands at its last event.
pub(in crate::effect) async fn claim(
    conn: &mut PgConnection,
    effect: &str,
    partitions: &[Key],
    beginnings: &[Beginning],
    holder: &str,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    for beginning in beginnings {
        EFFECTS.create(&mut tx, effect, beginning).await?;
    }
    let claimed = EFFECTS.raise(&mut tx, effect, partitions, holder).await?;
    tx.commit().await?;
    Ok(claimed)
}

/// An event that is taken in.
#[derive(Debug, Clone)]
pub(in crate::effect) struct Claimed {
    pub(in crate::effect) event_id: Uuid,
    pub(in crate::effect) call_key: Uuid,
    pub(in crate::effect) topic: String,
    pub(in crate::effect) partition: i32,
    pub(in crate::effect) offset: i64,
    pub(in crate::effect) aggregate_id: String,
    /// Why it cannot be read; it becomes a dead letter then.
    pub(in crate::effect) poison: Option<String>,
    pub(in crate::effect) key: Option<Vec<u8>>,
    pub(in crate::effect) payload: Option<Vec<u8>>,
    pub(in crate::effect) headers: Value,
}

/// Adds the rows; one that is there already was claimed before and stays as it is. Returns how many are new.
pub(in crate::effect) async fn insert(
    tx: &mut PgConnection,
    effect: &str,
    rows: &[Claimed],
) -> Result<u64, sqlx::Error> {
    fn each<T>(rows: &[Claimed], value: impl Fn(&Claimed) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    let poison = |row: &Claimed| {
        row.poison
            .as_ref()
            .map(|text| text.replace('\0', "\u{fffd}"))
    };
    let done = sqlx::query(
        "INSERT INTO millrace_effects.calls
             (effect, event_id, call_key, topic, partition, \"offset\", aggregate_id, state, class, reason,
              result, ended_at, record_key, payload, headers)
         SELECT $1, event_id, call_key, topic, partition, \"offset\", aggregate_id,
                CASE WHEN reason IS NULL THEN 'pending' ELSE 'failed' END,
                CASE WHEN reason IS NULL THEN NULL ELSE 'poison' END, reason,
                CASE WHEN reason IS NULL THEN NULL ELSE 'failed' END,
                CASE WHEN reason IS NULL THEN NULL ELSE now() END,
                record_key, payload, headers
         FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::int[], $6::bigint[], $7::text[], $8::text[],
                     $9::bytea[], $10::bytea[], $11::jsonb[])
             u (event_id, call_key, topic, partition, \"offset\", aggregate_id, reason, record_key, payload, headers)
         ON CONFLICT DO NOTHING",
    )
    .bind(effect)
    .bind(each(rows, |row| row.event_id))
    .bind(each(rows, |row| row.call_key))
    .bind(each(rows, |row| row.topic.clone()))
    .bind(each(rows, |row| row.partition))
    .bind(each(rows, |row| row.offset))
    .bind(each(rows, |row| row.aggregate_id.clone()))
    .bind(each(rows, poison))
    .bind(each(rows, |row| row.key.clone()))
    .bind(each(rows, |row| row.payload.clone()))
    .bind(each(rows, |row| row.headers.clone()))
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Moves a claimed checkpoint where an operator set the group, and keeps a note of it. The mark moves up to `mark`
/// and never back. False, with nothing written, if the checkpoint was no longer ours.
pub(in crate::effect) async fn set(
    conn: &mut PgConnection,
    effect: &str,
    claim: &Checkpoint,
    target: i64,
    mark: Option<JournalPosition>,
) -> Result<bool, sqlx::Error> {
    let mut tx = conn.begin().await?;
    let step = Move {
        next: target,
        position: mark.max(claim.position),
        ..claim.stay()
    };
    if !EFFECTS
        .advance(&mut tx, effect, &[step], false)
        .await?
        .is_empty()
    {
        tx.rollback().await?;
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO millrace_effects.resets (effect, topic, partition, from_offset, to_offset)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(effect)
    .bind(&claim.topic)
    .bind(claim.partition)
    .bind(claim.next)
    .bind(target)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}
