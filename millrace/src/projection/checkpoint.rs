//! Checkpoints: where a view stands in each partition, claimed by one sink at a time.
//!
//! Invariant: whoever moves `next` holds the newest epoch, and moves it in the transaction that writes
//! the rows. The schedule that would break it: a sink is stopped for longer than its session, another
//! one is assigned the partition and writes on, the first wakes up and writes what it had in hand. Its
//! epoch is no longer the newest, so its update matches no row and it rolls back. The row lock orders the
//! two if they run at the same moment. Test: `a_stale_owner_writes_nothing_and_the_true_owner_goes_on`.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use crate::position::JournalPosition;
use crate::projection::{Record, Skip};

/// A claimed partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Raised by every claim.
    pub epoch: i64,
    /// Offset of the next record to apply.
    pub next: i64,
    /// Journal position of the last record applied.
    pub position: Option<JournalPosition>,
}

/// Where a partition without a checkpoint begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset that the topic holds.
    pub first: i64,
    /// First offset that the view applies; what lies between is a recorded skip.
    pub next: i64,
    /// Journal position of the last event skipped; none if that is none.
    pub last: Option<JournalPosition>,
}

/// Partitions of these that have a checkpoint already.
pub async fn known(
    conn: &mut PgConnection,
    view: &str,
    partitions: &[(String, i32)],
) -> Result<Vec<(String, i32)>, sqlx::Error> {
    let (topics, numbers) = columns(partitions);
    sqlx::query_as(
        "SELECT c.topic, c.partition FROM millrace_views.checkpoints c
         JOIN unnest($2::text[], $3::int[]) u (topic, partition) USING (topic, partition)
         WHERE c.view = $1",
    )
    .bind(view)
    .bind(topics)
    .bind(numbers)
    .fetch_all(conn)
    .await
}

fn columns(partitions: &[(String, i32)]) -> (Vec<&str>, Vec<i32>) {
    partitions
        .iter()
        .map(|(topic, partition)| (topic.as_str(), *partition))
        .unzip()
}

/// Takes the partitions over: raises their epochs, which fences whoever held them before.
pub async fn claim(
    conn: &mut PgConnection,
    view: &str,
    partitions: &[(String, i32)],
    beginnings: &[Beginning],
    holder: &str,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let mut tx = conn.begin().await?;
    for beginning in beginnings {
        let created = sqlx::query(
            "INSERT INTO millrace_views.checkpoints
                 (view, topic, partition, next, generation, xid, position)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(view)
        .bind(&beginning.topic)
        .bind(beginning.partition)
        .bind(beginning.next)
        .bind(beginning.last.map(|last| last.generation))
        .bind(beginning.last.map(|last| last.xid))
        .bind(beginning.last.map(|last| last.position))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if created == 1 && beginning.next > beginning.first {
            sqlx::query(
                "INSERT INTO millrace_views.skips
                     (view, topic, partition, from_offset, to_offset,
                      to_generation, to_xid, to_position)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(view)
            .bind(&beginning.topic)
            .bind(beginning.partition)
            .bind(beginning.first)
            .bind(beginning.next)
            .bind(beginning.last.map(|last| last.generation))
            .bind(beginning.last.map(|last| last.xid))
            .bind(beginning.last.map(|last| last.position))
            .execute(&mut *tx)
            .await?;
        }
    }
    let (topics, numbers) = columns(partitions);
    // Locked in partition order first: a swap locks in the same order, so neither waits for the other.
    type Row = (String, i32, i64, i64, Option<i32>, Option<i64>, Option<i64>);
    let rows: Vec<Row> = sqlx::query_as(
        "WITH mine AS (
             SELECT c.topic, c.partition FROM millrace_views.checkpoints c
             JOIN unnest($2::text[], $3::int[]) u (topic, partition) USING (topic, partition)
             WHERE c.view = $1 ORDER BY c.topic, c.partition FOR UPDATE OF c
         )
         UPDATE millrace_views.checkpoints c
         SET epoch = c.epoch + 1, claimed_by = $4, claimed_at = now(), error = NULL, error_at = NULL
         FROM mine WHERE c.view = $1 AND c.topic = mine.topic AND c.partition = mine.partition
         RETURNING c.topic, c.partition, c.epoch, c.next, c.generation, c.xid, c.position",
    )
    .bind(view)
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

/// A position from its three columns.
pub(crate) fn position_of(
    generation: Option<i32>,
    xid: Option<i64>,
    position: Option<i64>,
) -> Option<JournalPosition> {
    Some(JournalPosition {
        generation: generation?,
        xid: xid?,
        position: position?,
    })
}

/// A checkpoint's move by one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The epoch of our claim.
    pub epoch: i64,
    /// Where we believe it to stand.
    pub expected: i64,
    /// Where it goes.
    pub next: i64,
    /// Journal position of the last event among the records; none leaves the old one.
    pub position: Option<JournalPosition>,
    /// Its time.
    pub event_time: Option<DateTime<Utc>>,
}

impl Move {
    /// Takes in a record that follows.
    pub fn extend(&mut self, record: &Record) {
        self.next = record.offset + 1;
        if let Ok(envelope) = &record.envelope {
            self.position = Some(envelope.metadata.position);
            self.event_time = Some(envelope.metadata.occurred_at);
        }
    }
}

/// Takes the fence out, to prove that the tests see it missing.
fn unfenced() -> bool {
    fail::fail_point!("sabotage.sink.checkpoint", |_| true);
    false
}

/// Moves the checkpoints; first statement of every transaction that writes rows. Returns which of them
/// did not stand as expected: then nothing may be written, and the transaction is to be rolled back.
pub async fn advance(
    tx: &mut PgConnection,
    view: &str,
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
    let times: Vec<Option<DateTime<Utc>>> = moves.iter().map(|step| step.event_time).collect();
    let moved: Vec<(String, i32)> = sqlx::query_as(
        "WITH batch AS (
             SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[],
                                  $7::bigint[], $8::bigint[], $9::bigint[], $10::timestamptz[])
                 u (topic, partition, epoch, expected, next, generation, xid, position, event_time)
         ), mine AS (
             SELECT c.topic, c.partition FROM millrace_views.checkpoints c
             JOIN batch u ON u.topic = c.topic AND u.partition = c.partition
             WHERE c.view = $1 AND ($11 OR (c.epoch = u.epoch AND c.next = u.expected))
             ORDER BY c.topic, c.partition FOR UPDATE OF c
         )
         UPDATE millrace_views.checkpoints c
         SET next = u.next, generation = coalesce(u.generation::int, c.generation),
             xid = coalesce(u.xid, c.xid), position = coalesce(u.position, c.position),
             event_time = coalesce(u.event_time, c.event_time),
             updated_at = now(), error = NULL, error_at = NULL
         FROM mine JOIN batch u ON u.topic = mine.topic AND u.partition = mine.partition
         WHERE c.view = $1 AND c.topic = mine.topic AND c.partition = mine.partition
         RETURNING c.topic, c.partition",
    )
    .bind(view)
    .bind(topics)
    .bind(numbers)
    .bind(column(|step| step.epoch))
    .bind(column(|step| step.expected))
    .bind(column(|step| step.next))
    .bind(part(|position| i64::from(position.generation)))
    .bind(part(|position| position.xid))
    .bind(part(|position| position.position))
    .bind(times)
    .bind(unfenced())
    .fetch_all(tx)
    .await?;
    Ok(moves
        .iter()
        .map(|step| (step.topic.clone(), step.partition))
        .filter(|key| !moved.contains(key))
        .collect())
}

/// Records that an operator set the group back; the same reset is recorded once, however often it is seen.
/// False, with nothing recorded, if the checkpoint was no longer ours: its row is locked until `tx` ends.
pub async fn record_reset(
    tx: &mut PgConnection,
    view: &str,
    checkpoint: &Checkpoint,
    target: i64,
) -> Result<bool, sqlx::Error> {
    let ours: Option<bool> = sqlx::query_scalar(
        "SELECT true FROM millrace_views.checkpoints
         WHERE view = $1 AND topic = $2 AND partition = $3 AND epoch = $4 FOR UPDATE",
    )
    .bind(view)
    .bind(&checkpoint.topic)
    .bind(checkpoint.partition)
    .bind(checkpoint.epoch)
    .fetch_optional(&mut *tx)
    .await?;
    if ours.is_none() {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO millrace_views.resets (view, topic, partition, target, next)
         SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (
             SELECT FROM millrace_views.resets
             WHERE view = $1 AND topic = $2 AND partition = $3 AND target = $4 AND next = $5
               AND done_at IS NULL)",
    )
    .bind(view)
    .bind(&checkpoint.topic)
    .bind(checkpoint.partition)
    .bind(target)
    .bind(checkpoint.next)
    .execute(tx)
    .await?;
    Ok(true)
}

/// Records a skip and moves the checkpoint over it; `last` is the last event skipped. False if the
/// checkpoint was no longer ours.
pub async fn record_skip(
    tx: &mut PgConnection,
    view: &str,
    checkpoint: &Checkpoint,
    target: i64,
    last: Option<JournalPosition>,
) -> Result<bool, sqlx::Error> {
    let from = checkpoint.position;
    sqlx::query(
        "INSERT INTO millrace_views.skips
             (view, topic, partition, from_offset, to_offset,
              from_generation, from_xid, from_position, to_generation, to_xid, to_position)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(view)
    .bind(&checkpoint.topic)
    .bind(checkpoint.partition)
    .bind(checkpoint.next)
    .bind(target)
    .bind(from.map(|position| position.generation))
    .bind(from.map(|position| position.xid))
    .bind(from.map(|position| position.position))
    .bind(last.map(|position| position.generation))
    .bind(last.map(|position| position.xid))
    .bind(last.map(|position| position.position))
    .execute(&mut *tx)
    .await?;
    let step = Move {
        topic: checkpoint.topic.clone(),
        partition: checkpoint.partition,
        epoch: checkpoint.epoch,
        expected: checkpoint.next,
        next: target,
        position: last,
        event_time: None,
    };
    Ok(advance(tx, view, &[step]).await?.is_empty())
}

/// Skips of a view that no rebuild has undone.
pub async fn skips(conn: &mut PgConnection, view: &str) -> Result<Vec<Skip>, sqlx::Error> {
    let rows = sqlx::query_as(
        "SELECT topic, partition, from_offset, to_offset FROM millrace_views.skips
         WHERE view = $1 AND rebuilt_at IS NULL ORDER BY id",
    )
    .bind(view)
    .fetch_all(conn)
    .await?;
    Ok(skips_of(rows))
}

/// Where a build may pass a gap in an aggregate's events: from the beginning of every skip that was ever
/// recorded. A build reads what was skipped, so none of these holds an offset.
pub(crate) async fn gaps_allowed(
    conn: &mut PgConnection,
    view: &str,
) -> Result<Vec<Skip>, sqlx::Error> {
    let rows = sqlx::query_as(
        "SELECT DISTINCT ON (topic, partition) topic, partition, from_offset, from_offset
         FROM millrace_views.skips WHERE view = $1 ORDER BY topic, partition, from_offset",
    )
    .bind(view)
    .fetch_all(conn)
    .await?;
    Ok(skips_of(rows))
}

fn skips_of(rows: Vec<(String, i32, i64, i64)>) -> Vec<Skip> {
    rows.into_iter()
        .map(|(topic, partition, from, to)| Skip {
            topic,
            partition,
            from,
            to,
        })
        .collect()
}

/// Writes down why a partition stands still, for `status`; only while it is still ours.
pub async fn record_error(
    conn: &mut PgConnection,
    view: &str,
    checkpoint: &Checkpoint,
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_views.checkpoints SET error = $5, error_at = now()
         WHERE view = $1 AND topic = $2 AND partition = $3 AND epoch = $4",
    )
    .bind(view)
    .bind(&checkpoint.topic)
    .bind(checkpoint.partition)
    .bind(checkpoint.epoch)
    // The reason may quote an event, and Postgres stores no NUL.
    .bind(error.replace('\0', "\u{fffd}"))
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes back what [`record_error`] wrote, where the claim is still the newest.
pub async fn clear_error(
    conn: &mut PgConnection,
    view: &str,
    claim: &Checkpoint,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_views.checkpoints SET error = NULL, error_at = NULL
         WHERE view = $1 AND topic = $2 AND partition = $3 AND epoch = $4",
    )
    .bind(view)
    .bind(&claim.topic)
    .bind(claim.partition)
    .bind(claim.epoch)
    .execute(conn)
    .await?;
    Ok(())
}
