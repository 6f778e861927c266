//! What the checkpoints of views and of effects have in common: one row for each (owner, topic, partition), fenced by the epoch
//! of its claim. The statements are the same; schema and owner's column differ.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::handled;
use crate::log::Key;
use crate::position::JournalPosition;
use crate::projection::checkpoint::{Beginning, Checkpoint, Move, position_of};

/// The statements over one table of checkpoints. `$1` is the owner in all of them.
pub(crate) struct Table {
    known: &'static str,
    create: &'static str,
    raise: &'static str,
    advance: &'static str,
    record_error: &'static str,
    count_error: &'static str,
    fenced: &'static str,
}

macro_rules! table {
    ($schema:literal, $owner:literal) => {
        Table {
            known: concat!(
                "SELECT c.topic, c.partition FROM ", $schema, ".checkpoints c
                 JOIN unnest($2::text[], $3::int[]) u (topic, partition) USING (topic, partition)
                 WHERE c.", $owner, " = $1"
            ),
            create: concat!(
                "INSERT INTO ", $schema, ".checkpoints
                     (", $owner, ", topic, partition, next, generation, xid, position)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
            ),
            raise: concat!(
                "WITH mine AS (
                     SELECT c.topic, c.partition FROM ", $schema, ".checkpoints c
                     JOIN unnest($2::text[], $3::int[]) u (topic, partition) USING (topic, partition)
                     WHERE c.", $owner, " = $1 ORDER BY c.topic, c.partition FOR UPDATE OF c
                 )
                 UPDATE ", $schema, ".checkpoints c
                 SET epoch = c.epoch + 1, claimed_by = $4, claimed_at = now(), error = NULL, error_at = NULL
                 FROM mine WHERE c.", $owner, " = $1 AND c.topic = mine.topic AND c.partition = mine.partition
                 RETURNING c.topic, c.partition, c.epoch, c.next, c.generation, c.xid, c.position"
            ),
            advance: concat!(
                "WITH batch AS (
                     SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[],
                                          $7::bigint[], $8::bigint[], $9::bigint[], $10::timestamptz[],
                                          $11::uuid[], $12::bigint[])
                         u (topic, partition, epoch, expected, next, generation, xid, position, event_time,
                            event_id, events)
                 ), mine AS (
                     SELECT c.topic, c.partition FROM ", $schema, ".checkpoints c
                     JOIN batch u ON u.topic = c.topic AND u.partition = c.partition
                     WHERE c.", $owner, " = $1 AND ($13 OR (c.epoch = u.epoch AND c.next = u.expected))
                     ORDER BY c.topic, c.partition FOR UPDATE OF c
                 )
                 UPDATE ", $schema, ".checkpoints c
                 SET next = u.next, generation = coalesce(u.generation::int, c.generation),
                     xid = coalesce(u.xid, c.xid), position = coalesce(u.position, c.position),
                     event_time = coalesce(u.event_time, c.event_time),
                     event_id = coalesce(u.event_id, c.event_id), events = c.events + u.events,
                     first_seen = CASE WHEN u.events > 0 THEN coalesce(c.first_seen, now()) ELSE c.first_seen END,
                     last_seen = CASE WHEN u.events > 0 THEN now() ELSE c.last_seen END,
                     updated_at = now(), error = NULL, error_at = NULL
                 FROM mine JOIN batch u ON u.topic = mine.topic AND u.partition = mine.partition
                 WHERE c.", $owner, " = $1 AND c.topic = mine.topic AND c.partition = mine.partition
                 RETURNING c.topic, c.partition"
            ),
            record_error: concat!(
                "UPDATE ", $schema, ".checkpoints
                 SET error = $5, error_at = now(), errors = errors + 1, last_error = $5, last_error_at = now()
                 WHERE ", $owner, " = $1 AND topic = $2 AND partition = $3 AND epoch = $4"
            ),
            count_error: concat!(
                "UPDATE ", $schema, ".checkpoints
                 SET errors = errors + 1, last_error = $4, last_error_at = now()
                 WHERE ", $owner, " = $1 AND topic = $2 AND partition = $3"
            ),
            fenced: concat!(
                "SELECT c.topic, c.partition FROM ", $schema, ".checkpoints c
                 JOIN unnest($2::text[], $3::int[], $4::bigint[]) u (topic, partition, epoch)
                   ON u.topic = c.topic AND u.partition = c.partition
                 WHERE c.", $owner, " = $1 AND c.epoch <> u.epoch ORDER BY c.topic, c.partition"
            ),
        }
    };
}

/// Checkpoints of views.
pub(crate) const VIEWS: Table = table!("millrace_views", "view");
/// Checkpoints of effects.
pub(crate) const EFFECTS: Table = table!("millrace_effects", "effect");

fn columns(partitions: &[Key]) -> (Vec<&str>, Vec<i32>) {
    partitions
        .iter()
        .map(|(topic, partition)| (topic.as_str(), *partition))
        .unzip()
}

impl Table {
    /// Partitions of these that have a checkpoint already.
    pub(crate) async fn known(
        &self,
        conn: &mut PgConnection,
        owner: &str,
        partitions: &[Key],
    ) -> Result<Vec<Key>, sqlx::Error> {
        let (topics, numbers) = columns(partitions);
        sqlx::query_as(self.known)
            .bind(owner)
            .bind(topics)
            .bind(numbers)
            .fetch_all(conn)
            .await
    }

    /// Begins a partition's checkpoint; false if there is one already.
    pub(crate) async fn create(
        &self,
        conn: &mut PgConnection,
        owner: &str,
        beginning: &Beginning,
    ) -> Result<bool, sqlx::Error> {
        let created = sqlx::query(self.create)
            .bind(owner)
            .bind(&beginning.topic)
            .bind(beginning.partition)
            .bind(beginning.next)
            .bind(beginning.last.map(|last| last.generation))
            .bind(beginning.last.map(|last| last.xid))
            .bind(beginning.last.map(|last| last.position))
            .execute(conn)
            .await?;
        Ok(created.rows_affected() == 1)
    }

    /// Raises the epochs, which fences whoever held the partitions before. The rows are locked in partition order, as every
    /// batch and every swap locks them, so none waits for another in a circle.
    pub(crate) async fn raise(
        &self,
        conn: &mut PgConnection,
        owner: &str,
        partitions: &[Key],
        holder: &str,
    ) -> Result<Vec<Checkpoint>, sqlx::Error> {
        let (topics, numbers) = columns(partitions);
        type Row = (String, i32, i64, i64, Option<i32>, Option<i64>, Option<i64>);
        let rows: Vec<Row> = sqlx::query_as(self.raise)
            .bind(owner)
            .bind(topics)
            .bind(numbers)
            .bind(holder)
            .fetch_all(conn)
            .await?;
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

    /// Moves the checkpoints; first statement of a transaction that writes. Returns which of them did not stand as
    /// expected: then nothing may be written, and the transaction is to be rolled back. `unfenced` moves them all the
    /// same, to prove that tests see the fence missing.
    pub(crate) async fn advance(
        &self,
        tx: &mut PgConnection,
        owner: &str,
        moves: &[Move],
        unfenced: bool,
    ) -> Result<Vec<Key>, sqlx::Error> {
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
        let ids: Vec<Option<Uuid>> = moves.iter().map(|step| step.event_id).collect();
        let moved: Vec<Key> = sqlx::query_as(self.advance)
            .bind(owner)
            .bind(topics)
            .bind(numbers)
            .bind(column(|step| step.epoch))
            .bind(column(|step| step.expected))
            .bind(column(|step| step.next))
            .bind(part(|position| i64::from(position.generation)))
            .bind(part(|position| position.xid))
            .bind(part(|position| position.position))
            .bind(times)
            .bind(ids)
            .bind(column(|step| step.events))
            .bind(unfenced)
            .fetch_all(tx)
            .await?;
        Ok(moves
            .iter()
            .map(|step| (step.topic.clone(), step.partition))
            .filter(|key| !moved.contains(key))
            .collect())
    }

    /// Claims of these that are no longer the newest: another member claimed, or the checkpoint was set back.
    pub(crate) async fn fenced(
        &self,
        conn: &mut PgConnection,
        owner: &str,
        claims: &[Checkpoint],
    ) -> Result<Vec<Key>, sqlx::Error> {
        let topics: Vec<&str> = claims.iter().map(|claim| claim.topic.as_str()).collect();
        let partitions: Vec<i32> = claims.iter().map(|claim| claim.partition).collect();
        let epochs: Vec<i64> = claims.iter().map(|claim| claim.epoch).collect();
        sqlx::query_as(self.fenced)
            .bind(owner)
            .bind(topics)
            .bind(partitions)
            .bind(epochs)
            .fetch_all(conn)
            .await
    }

    /// Writes down why a partition stands still, for `status`; only while it is still ours.
    pub(crate) async fn record_error(
        &self,
        conn: &mut PgConnection,
        owner: &str,
        claim: &Checkpoint,
        error: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(self.record_error)
            .bind(owner)
            .bind(&claim.topic)
            .bind(claim.partition)
            .bind(claim.epoch)
            // The reason may quote an event, and Postgres stores no NUL.
            .bind(error.replace('\0', "\u{fffd}"))
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Counts a failure that does not stop the partition.
    pub(crate) async fn count_error(
        &self,
        conn: impl PgExecutor<'_>,
        owner: &str,
        (topic, partition): (&str, i32),
        error: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(self.count_error)
            .bind(owner)
            .bind(topic)
            .bind(partition)
            .bind(handled::short(error))
            .execute(conn)
            .await?;
        Ok(())
    }
}
