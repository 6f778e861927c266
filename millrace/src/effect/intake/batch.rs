//! One batch: which records become rows, and their transaction.

use std::collections::BTreeMap;

use sqlx::Connection;

use crate::checkpoints::EFFECTS;
use crate::effect::erased::Selection;
use crate::effect::run::{Core, EffectError};
use crate::effect::store::{self, Claimed};
use crate::effect::{call_key, crash_point, foreign_id};
use crate::log::consumer::Key;
use crate::position::JournalPosition;
use crate::projection::Record;
use crate::projection::checkpoint::Move;

/// What a try to write came to.
pub(super) enum Outcome {
    /// New rows.
    Written(u64),
    /// These checkpoints are not where we left them.
    Lost(Vec<Key>),
}

/// Checkpoints and rows, in one transaction.
pub(super) fn write(
    core: &Core,
    records: &[Record],
    moves: &BTreeMap<Key, Move>,
) -> Result<Outcome, EffectError> {
    let marks: BTreeMap<Key, Option<JournalPosition>> = core
        .running()
        .into_iter()
        .map(|claim| ((claim.topic, claim.partition), claim.position))
        .collect();
    let moves: Vec<Move> = moves.values().cloned().collect();
    // Before the transaction: an unknown schema is asked for over the network.
    let rows = core.runtime.block_on(select(core, records, &marks))?;
    core.on_database(async |conn| {
        crash_point("effect.before-checkpoint");
        let mut tx = conn.begin().await?;
        let lost = EFFECTS.advance(&mut tx, core.name(), &moves, false).await?;
        if !lost.is_empty() {
            tx.rollback().await?;
            return Ok(Outcome::Lost(lost));
        }
        crash_point("effect.after-checkpoint");
        let new = match rows.is_empty() {
            true => 0,
            false => store::insert(&mut tx, core.name(), &rows).await?,
        };
        crash_point("effect.after-rows");
        tx.commit().await?;
        crash_point("effect.after-commit");
        Ok(Outcome::Written(new))
    })
}

/// The records that the effect acts on: above the mark, and its own to act on.
async fn select(
    core: &Core,
    records: &[Record],
    marks: &BTreeMap<Key, Option<JournalPosition>>,
) -> Result<Vec<Claimed>, EffectError> {
    let mut rows = Vec::new();
    for record in records {
        let key = (record.topic.to_string(), record.partition);
        let mark = marks.get(&key).copied().flatten();
        let position = record.envelope.as_ref().ok();
        let position = position.map(|envelope| envelope.metadata.position);
        if position.is_some() && position <= mark {
            continue;
        }
        let selected = core.registered.effect.select(&core.decoder, record).await;
        let poison = match selected.map_err(|error| EffectError::Schemas(error.to_string()))? {
            Selection::No => continue,
            Selection::Yes => None,
            Selection::Poison(reason) => Some(reason),
        };
        let (event_id, aggregate_id) = match &record.envelope {
            Ok(envelope) => (envelope.metadata.event_id, envelope.aggregate_id.clone()),
            Err(_) => (
                foreign_id(&record.topic, record.partition, record.offset),
                format!("@{}/{}", record.partition, record.offset),
            ),
        };
        rows.push(Claimed {
            event_id,
            call_key: call_key(core.name(), event_id),
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            aggregate_id,
            poison,
            key: record.key.clone(),
            payload: record.payload.clone(),
            headers: record.headers.to_json(),
        });
    }
    Ok(rows)
}
