//! Claims: partitions and their checkpoints, and the events that are taken in with them.

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::position::JournalPosition;
use crate::projection::checkpoint::{Beginning, Checkpoint, Move, position_of};

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

fn columns(partitions: &[(String, i32)]) -> (Vec<&str>, Vec<i32>) {
    partitions
        .iter()
        .map(|(topic, partition)| (topic.as_str(), *partition))
        .unzip()
}

/// Partitions of these that have a checkpoint already.
pub(in crate::effect) async fn known(
    conn: &mut PgConnection,
    effect: &str,
    partitions: &[(String, i32)],
) -> Result<Vec<(String, i32)>, sqlx::Error> {
    let (topics, numbers) = columns(partitions);
    sqlx::query_as(
        "SELECT c.topic, c.partition FROM millrace_effects.checkpoints c
         JOIN unnest($2::text[], $3::int[]) u (topic, partition) USING (topic, partition)
         WHERE c.effect = $1",
    )
    .bind(effect)
    .bind(topics)
    .bind(numbers)
    .fetch_all(conn)
    .await
}

/// Takes the partitions over: raises their epochs, which fences whoever held them before.
pub(in crate::effect) async fn claim(
    conn: &mut PgConnection,
    effect: &str,
    partitions: &[(String, i32)],
    beginnings: &[Beginning],
    holder: &str,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    for beginning in beginnings {
        // What lies before the beginning counts as passed over: the mark stands at its last event.
        sqlx::query(
            "INSERT INTO millrace_effects.checkpoints
                 (effect, topic, partition, next, generation, xid, position)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(effect)
        .bind(&beginning.topic)
        .bind(beginning.partition)
        .bind(beginning.next)
        .bind(beginning.last.map(|last| last.generation))
        .bind(beginning.last.map(|last| last.xid))
        .bind(beginning.last.map(|last| last.position))
        .execute(&mut *tx)
        .await?;
    }
    let (topics, numbers) = columns(partitions);
    // Locked in partition order, as every batch locks them.
    type Line = (String, i32, i64, i64, Option<i32>, Option<i64>, Option<i64>);
    let rows: Vec<Line> = sqlx::query_as(
        "WITH mine AS (
             SELECT c.topic, c.partition FROM millrace_effects.checkpoints c
             JOIN unnest($2::text[], $3::int[]) u (topic, partition) USING (topic, partition)
             WHERE c.effect = $1 ORDER BY c.topic, c.partition FOR UPDATE OF c
         )
         UPDATE millrace_effects.checkpoints c
         SET epoch = c.epoch + 1, claimed_by = $4, claimed_at = now(), error = NULL, error_at = NULL
         FROM mine WHERE c.effect = $1 AND c.topic = mine.topic AND c.partition = mine.partition
         RETURNING c.topic, c.partition, c.epoch, c.next, c.generation, c.xid, c.position",
    )
    .bind(effect)
    .bind(topics)
    .bind(numbers)
    .bind(holder)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(rows
        .into_iter()
        .map(
            |(topic, partition, epoch, next, generation, xid, position)| Checkpoint {
                topic,
                partition,
                epoch,
                next,
                position: position_of(generation, xid, position),
            },
        )
        .collect())
}

/// Moves the checkpoints; first statement of every transaction that claims events. Returns which of them did not stand
/// as expected: the transaction is to be rolled back then.
pub(in crate::effect) async fn advance(
    tx: &mut PgConnection,
    effect: &str,
    moves: &[Move],
) -> Result<Vec<(String, i32)>, sqlx::Error> {
    let column = |value: fn(&Move) -> i64| moves.iter().map(value).collect::<Vec<i64>>();
    let part = |value: fn(&JournalPosition) -> i64| {
        moves
            .iter()
            .map(|step| step.position.as_ref().map(value))
            .collect::<Vec<Option<i64>>>()
    };
    let topics: Vec<&str> = moves.iter().map(|step| step.topic.as_str()).collect();
    let numbers: Vec<i32> = moves.iter().map(|step| step.partition).collect();
    let times: Vec<_> = moves.iter().map(|step| step.event_time).collect();
    let moved: Vec<(String, i32)> = sqlx::query_as(
        "WITH batch AS (
             SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[],
                                  $7::bigint[], $8::bigint[], $9::bigint[], $10::timestamptz[])
                 u (topic, partition, epoch, expected, next, generation, xid, position, event_time)
         ), mine AS (
             SELECT c.topic, c.partition FROM millrace_effects.checkpoints c
             JOIN batch u ON u.topic = c.topic AND u.partition = c.partition
             WHERE c.effect = $1 AND c.epoch = u.epoch AND c.next = u.expected
             ORDER BY c.topic, c.partition FOR UPDATE OF c
         )
         UPDATE millrace_effects.checkpoints c
         SET next = u.next, generation = coalesce(u.generation::int, c.generation),
             xid = coalesce(u.xid, c.xid), position = coalesce(u.position, c.position),
             event_time = coalesce(u.event_time, c.event_time),
             updated_at = now(), error = NULL, error_at = NULL
         FROM mine JOIN batch u ON u.topic = mine.topic AND u.partition = mine.partition
         WHERE c.effect = $1 AND c.topic = mine.topic AND c.partition = mine.partition
         RETURNING c.topic, c.partition",
    )
    .bind(effect)
    .bind(topics)
    .bind(numbers)
    .bind(column(|step| step.epoch))
    .bind(column(|step| step.expected))
    .bind(column(|step| step.next))
    .bind(part(|position| i64::from(position.generation)))
    .bind(part(|position| position.xid))
    .bind(part(|position| position.position))
    .bind(times)
    .fetch_all(tx)
    .await?;
    Ok(moves
        .iter()
        .map(|step| (step.topic.clone(), step.partition))
        .filter(|key| !moved.contains(key))
        .collect())
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
        topic: claim.topic.clone(),
        partition: claim.partition,
        epoch: claim.epoch,
        expected: claim.next,
        next: target,
        position: mark.max(claim.position),
        event_time: None,
    };
    if !advance(&mut tx, effect, &[step]).await?.is_empty() {
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

/// Writes down why a partition stands still, for `status`; only while it is still ours.
pub(in crate::effect) async fn record_error(
    conn: &mut PgConnection,
    effect: &str,
    claim: &Checkpoint,
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_effects.checkpoints SET error = $5, error_at = now()
         WHERE effect = $1 AND topic = $2 AND partition = $3 AND epoch = $4",
    )
    .bind(effect)
    .bind(&claim.topic)
    .bind(claim.partition)
    .bind(claim.epoch)
    .bind(error.replace('\0', "\u{fffd}"))
    .execute(conn)
    .await?;
    Ok(())
}
