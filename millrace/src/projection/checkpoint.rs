//! Checkpoints: where a view stands in each partition, claimed by one sink at a time.
//!
//! Invariant: whoever moves `next` holds the newest epoch, and moves it in the transaction that writes
//! the rows. The schedule that would break it: a sink is stopped for longer than its session, another
//! one is assigned the partition and writes on, the first wakes up and writes what it had in hand. Its
//! epoch is no longer the newest, so its update matches no row and it rolls back. The row lock orders the
//! two if they run at the same moment. Test: `a_stale_owner_writes_nothing_and_the_true_owner_goes_on`.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::checkpoints::VIEWS;
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
    VIEWS.known(conn, view, partitions).await
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
        let created = VIEWS.create(&mut tx, view, beginning).await?;
        if created && beginning.next > beginning.first {
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
    let claimed = VIEWS.raise(&mut tx, view, partitions, holder).await?;
    tx.commit().await?;
    Ok(claimed)
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
    /// Its id.
    pub event_id: Option<Uuid>,
    /// How many records are taken in.
    pub events: i64,
}

impl Checkpoint {
    /// A move that stays where the checkpoint is: it proves that it is still ours, and records extend it.
    pub fn stay(&self) -> Move {
        Move {
            topic: self.topic.clone(),
            partition: self.partition,
            epoch: self.epoch,
            expected: self.next,
            next: self.next,
            position: None,
            event_time: None,
            event_id: None,
            events: 0,
        }
    }
}

impl Move {
    /// Takes in a record that follows.
    pub fn extend(&mut self, record: &Record) {
        self.next = record.offset + 1;
        self.events += 1;
        if let Ok(envelope) = &record.envelope {
            self.position = Some(envelope.metadata.position);
            self.event_time = Some(envelope.metadata.occurred_at);
            self.event_id = Some(envelope.metadata.event_id);
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
    VIEWS.advance(tx, view, moves, unfenced()).await
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
        next: target,
        position: last,
        ..checkpoint.stay()
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
    VIEWS.record_error(conn, view, checkpoint, error).await
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
