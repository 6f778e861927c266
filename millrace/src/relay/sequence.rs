//! Within an aggregate every event must follow the one before it: sequence = last + 1, or the relay stops.
//!
//! The newest sequence of recently seen aggregates is kept; of any other aggregate the event before must stand in
//! the journal at a lower key. Invariant: a batch passes only if, for each of its events, sequence - 1 was published
//! before it or stands before it in the batch.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use lru::LruCache;
use sqlx::postgres::PgConnection;

use crate::position::JournalPosition;
use crate::relay::RelayError;
use crate::relay::read::JournalEvent;

/// Aggregates of one type that are remembered: some 20 MB for a type with ids of ordinary length.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(200_000).expect("not zero");

/// The newest sequence of aggregates that were seen lately, by type.
#[derive(Default)]
pub(super) struct Sequences {
    last: HashMap<String, LruCache<Box<str>, i64>>,
}

impl Sequences {
    /// Checks a batch that follows all those checked before.
    pub(super) async fn check(
        &mut self,
        connection: &mut PgConnection,
        events: &[JournalEvent],
    ) -> Result<(), RelayError> {
        let mut unknown: Vec<&JournalEvent> = Vec::new();
        for event in events {
            if let Some(expected) = self.expected(event) {
                if event.sequence != expected {
                    return Err(violation(event, expected.to_string()));
                }
            } else if event.sequence != 1 {
                unknown.push(event);
            }
            self.remember(event);
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let before = predecessors(connection, &unknown).await?;
        for (event, predecessor) in unknown.iter().zip(before) {
            match predecessor {
                Some(key) if key < event.position => {}
                Some(key) => {
                    let text = format!(
                        "sequence {} below it, which is at {key}",
                        event.sequence - 1
                    );
                    return Err(violation(event, text));
                }
                None => {
                    let text =
                        format!("sequence {} below it, which is missing", event.sequence - 1);
                    return Err(violation(event, text));
                }
            }
        }
        Ok(())
    }

    fn expected(&mut self, event: &JournalEvent) -> Option<i64> {
        let last = self.last.get_mut(event.aggregate_type.as_ref())?;
        last.get(event.aggregate_id.as_str()).map(|last| last + 1)
    }

    fn remember(&mut self, event: &JournalEvent) {
        if !self.last.contains_key(event.aggregate_type.as_ref()) {
            self.last.insert(
                event.aggregate_type.to_string(),
                LruCache::new(REMEMBERED_MAX),
            );
        }
        if let Some(last) = self.last.get_mut(event.aggregate_type.as_ref()) {
            match last.get_mut(event.aggregate_id.as_str()) {
                Some(sequence) => *sequence = event.sequence,
                None => {
                    last.put(event.aggregate_id.as_str().into(), event.sequence);
                }
            }
        }
    }
}

/// Where the event before each of these stands, in the same order.
async fn predecessors(
    connection: &mut PgConnection,
    events: &[&JournalEvent],
) -> Result<Vec<Option<JournalPosition>>, RelayError> {
    let types: Vec<&str> = events
        .iter()
        .map(|event| event.aggregate_type.as_ref())
        .collect();
    let ids: Vec<&str> = events
        .iter()
        .map(|event| event.aggregate_id.as_str())
        .collect();
    let before: Vec<i64> = events.iter().map(|event| event.sequence - 1).collect();
    let rows: Vec<(i64, i32, i64, i64)> = sqlx::query_as(
        "SELECT w.ordinality, e.generation, e.xid::text::bigint, e.position \
         FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY \
                  AS w (aggregate_type, aggregate_id, sequence, ordinality) \
         JOIN millrace.events AS e ON e.aggregate_type = w.aggregate_type COLLATE \"C\" \
              AND e.aggregate_id = w.aggregate_id COLLATE \"C\" AND e.sequence = w.sequence",
    )
    .bind(types)
    .bind(ids)
    .bind(before)
    .fetch_all(connection)
    .await?;
    let mut found = vec![None; events.len()];
    for (ordinality, generation, xid, position) in rows {
        if let Some(place) = found.get_mut((ordinality - 1) as usize) {
            *place = Some(JournalPosition {
                generation,
                xid,
                position,
            });
        }
    }
    Ok(found)
}

fn violation(event: &JournalEvent, expected: String) -> RelayError {
    RelayError::Sequence {
        aggregate_type: event.aggregate_type.to_string(),
        aggregate_id: event.aggregate_id.clone(),
        position: event.position,
        expected,
        found: event.sequence,
    }
}
