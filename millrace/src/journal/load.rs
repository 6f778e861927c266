//! Loading: outcomes, snapshots and events, for many aggregates in a few statements.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chrono::{DateTime, Utc};
use fail::fail_point;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::codec::{Codec, CodecError};
use crate::position::JournalPosition;

/// Why an aggregate could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Postgres does not answer or refused.
    #[error("journal: {0}")]
    Postgres(#[from] sqlx::Error),
    /// A stored event could not be decoded.
    #[error("{aggregate} {id} event {sequence}: {source}")]
    Event {
        /// Aggregate type.
        aggregate: &'static str,
        /// Aggregate id.
        id: String,
        /// Which event.
        sequence: i64,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The aggregate's own code panicked on a stored event.
    #[error("{aggregate} {id} event {sequence}: evolve panicked, see the log")]
    Evolve {
        /// Aggregate type.
        aggregate: &'static str,
        /// Aggregate id.
        id: String,
        /// Which event.
        sequence: i64,
    },
}

impl LoadError {
    /// The schema id that must be learnt before the event can be read.
    pub(crate) fn unknown_schema(&self) -> Option<u32> {
        match self {
            Self::Event {
                source: CodecError::UnknownSchema(schema_id),
                ..
            } => Some(*schema_id),
            _ => None,
        }
    }
}

/// An aggregate as far as it was loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded<A> {
    pub(crate) state: A,
    /// Sequence of the last event in `state`; 0 for none.
    pub(crate) version: i64,
    /// Sequence of the newest usable snapshot; 0 for none.
    pub(crate) snapshot: i64,
}

/// An outcome as it was kept.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Outcome {
    pub(crate) aggregate_id: String,
    pub(crate) command_id: String,
    pub(crate) data_hash: Vec<u8>,
    pub(crate) version: i64,
    pub(crate) events: i32,
    pub(crate) rejection: Option<String>,
}

/// Outcomes of these commands, as far as there are any; `keys` are (aggregate id, command id).
pub(crate) async fn outcomes(
    connection: &mut PgConnection,
    aggregate_type: &str,
    keys: &[(&str, &str)],
) -> Result<HashMap<(String, String), Outcome>, sqlx::Error> {
    fail_point!("sabotage.journal.outcomes", |_| Ok(HashMap::new()));
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<Outcome> = sqlx::query_as(
        "SELECT c.aggregate_id, c.command_id, c.data_hash, c.version, c.events, c.rejection
         FROM unnest($2::text[], $3::text[]) AS k (aggregate_id, command_id), LATERAL (
             SELECT * FROM millrace.commands c
             WHERE c.aggregate_type = $1 AND c.aggregate_id = k.aggregate_id AND c.command_id = k.command_id
             LIMIT 1
         ) AS c",
    )
    .bind(aggregate_type)
    .bind(keys.iter().map(|key| key.0).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.1).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ((row.aggregate_id.clone(), row.command_id.clone()), row))
        .collect())
}

#[derive(FromRow)]
struct SnapshotRow {
    aggregate_id: String,
    sequence: Option<i64>,
    state: Option<serde_json::Value>,
}

#[derive(FromRow)]
struct EventRow {
    aggregate_id: String,
    sequence: i64,
    payload: Vec<u8>,
}

/// Loads these aggregates: newest snapshot of the code's shape, then the events after it.
///
/// One that has no events comes back as the default at version 0.
pub(crate) async fn aggregates<A: Aggregate>(
    connection: &mut PgConnection,
    codec: &Codec,
    aggregate_type: &'static str,
    ids: &[&str],
) -> Result<HashMap<String, Loaded<A>>, LoadError> {
    let rows: Vec<SnapshotRow> = sqlx::query_as(
        "SELECT s.aggregate_id, n.sequence, n.state
         FROM unnest($2::text[]) AS i (id), LATERAL (
             SELECT aggregate_id FROM millrace.streams
             WHERE aggregate_type = $1 AND aggregate_id = i.id LIMIT 1
         ) AS s LEFT JOIN LATERAL (
             SELECT sequence, state FROM millrace.snapshots
             WHERE aggregate_type = $1 AND aggregate_id = i.id AND shape = $3 LIMIT 1
         ) AS n ON true",
    )
    .bind(aggregate_type)
    .bind(ids)
    .bind(A::SHAPE)
    .fetch_all(&mut *connection)
    .await?;
    let mut loaded: HashMap<String, Loaded<A>> = ids
        .iter()
        .map(|id| ((*id).to_owned(), Loaded::default()))
        .collect();
    let mut after = Vec::with_capacity(rows.len());
    for row in rows {
        // A state that no longer reads is as good as none: SHAPE should have been raised.
        let snapshot = row
            .sequence
            .zip(row.state)
            .and_then(|(sequence, state)| Some((sequence, serde_json::from_value(state).ok()?)));
        let sequence = snapshot.as_ref().map_or(0, |(sequence, _)| *sequence);
        if let Some((_, state)) = snapshot {
            loaded.insert(
                row.aggregate_id.clone(),
                Loaded {
                    state,
                    version: sequence,
                    snapshot: sequence,
                },
            );
        }
        after.push((row.aggregate_id, sequence));
    }
    if !after.is_empty() {
        replay(connection, codec, aggregate_type, &after, &mut loaded).await?;
    }
    Ok(loaded)
}

async fn replay<A: Aggregate>(
    connection: &mut PgConnection,
    codec: &Codec,
    aggregate_type: &'static str,
    after: &[(String, i64)],
    loaded: &mut HashMap<String, Loaded<A>>,
) -> Result<(), LoadError> {
    let events: Vec<EventRow> = sqlx::query_as(
        "SELECT e.aggregate_id, e.sequence, e.payload
         FROM unnest($2::text[], $3::bigint[]) AS a (id, after), LATERAL (
             SELECT aggregate_id, sequence, payload FROM millrace.events
             WHERE aggregate_type = $1 AND aggregate_id = a.id AND sequence > a.after
             ORDER BY sequence
         ) AS e
         ORDER BY e.aggregate_id, e.sequence",
    )
    .bind(aggregate_type)
    .bind(after.iter().map(|one| one.0.as_str()).collect::<Vec<_>>())
    .bind(after.iter().map(|one| one.1).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    for row in events {
        let event = codec
            .decode::<A::Event>(&row.payload)
            .map_err(|source| LoadError::Event {
                aggregate: aggregate_type,
                id: row.aggregate_id.clone(),
                sequence: row.sequence,
                source,
            })?;
        let entry = loaded.entry(row.aggregate_id.clone()).or_default();
        catch_unwind(AssertUnwindSafe(|| entry.state.evolve(&event))).map_err(|_| {
            LoadError::Evolve {
                aggregate: aggregate_type,
                id: row.aggregate_id,
                sequence: row.sequence,
            }
        })?;
        entry.version = row.sequence;
    }
    Ok(())
}

/// A stored event without its payload.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct StoredEvent {
    pub(crate) aggregate_id: String,
    pub(crate) sequence: i64,
    pub(crate) event_id: Uuid,
    pub(crate) event_type: String,
    generation: i32,
    xid: i64,
    position: i64,
}

impl StoredEvent {
    pub(crate) fn position(&self) -> JournalPosition {
        JournalPosition {
            generation: self.generation,
            xid: self.xid,
            position: self.position,
        }
    }
}

/// Events `first..=last` of several aggregates, in order: what an earlier answer said.
pub(crate) async fn ranges(
    connection: &mut PgConnection,
    aggregate_type: &str,
    ranges: &[(&str, i64, i64)],
) -> Result<Vec<StoredEvent>, sqlx::Error> {
    sqlx::query_as(
        "SELECT e.aggregate_id, e.sequence, e.event_id, e.event_type, e.generation,
                e.xid::text::bigint AS xid, e.position
         FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS r (id, first, last), LATERAL (
             SELECT * FROM millrace.events
             WHERE aggregate_type = $1 AND aggregate_id = r.id AND sequence BETWEEN r.first AND r.last
             ORDER BY sequence
         ) AS e
         ORDER BY e.aggregate_id, e.sequence",
    )
    .bind(aggregate_type)
    .bind(ranges.iter().map(|range| range.0).collect::<Vec<_>>())
    .bind(ranges.iter().map(|range| range.1).collect::<Vec<_>>())
    .bind(ranges.iter().map(|range| range.2).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Writes snapshots; one that is older than what stands there changes nothing.
pub(crate) async fn save_snapshots(
    connection: &mut PgConnection,
    aggregate_type: &str,
    shape: i32,
    snapshots: &[(String, i64, String)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO millrace.snapshots AS s (aggregate_type, aggregate_id, sequence, shape, state)
         SELECT $1, n.id, n.sequence, $2, n.state::json
         FROM unnest($3::text[], $4::bigint[], $5::text[]) AS n (id, sequence, state)
         ORDER BY n.id
         ON CONFLICT (aggregate_type, aggregate_id)
         DO UPDATE SET sequence = excluded.sequence, shape = excluded.shape, state = excluded.state
         WHERE s.shape <> excluded.shape OR s.sequence < excluded.sequence",
    )
    .bind(aggregate_type)
    .bind(shape)
    .bind(
        snapshots
            .iter()
            .map(|one| one.0.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(snapshots.iter().map(|one| one.1).collect::<Vec<_>>())
    .bind(
        snapshots
            .iter()
            .map(|one| one.2.as_str())
            .collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A stored event as history shows it.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct HistoryRow {
    pub(crate) sequence: i64,
    pub(crate) event_id: Uuid,
    pub(crate) event_type: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: serde_json::Value,
    pub(crate) occurred_at: DateTime<Utc>,
    pub(crate) generation: i32,
    pub(crate) xid: i64,
    pub(crate) position: i64,
}

/// Events of one aggregate after a sequence, in order.
pub(crate) async fn history(
    connection: &mut PgConnection,
    aggregate_type: &str,
    aggregate_id: &str,
    after_sequence: i64,
    limit: i64,
) -> Result<Vec<HistoryRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT e.sequence, e.event_id, e.event_type, e.payload, e.headers, e.occurred_at,
                e.generation, e.xid::text::bigint AS xid, e.position
         FROM millrace.events e
         WHERE e.aggregate_type = $1 AND e.aggregate_id = $2 AND e.sequence > $3
         ORDER BY e.sequence LIMIT $4",
    )
    .bind(aggregate_type)
    .bind(aggregate_id)
    .bind(after_sequence)
    .bind(limit)
    .fetch_all(connection)
    .await
}
