//! Parked aggregates: what a view cannot apply waits in order, and blocks nobody else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::PgConnection;

use crate::event::Recorded;
use crate::projection::{
    Applied, ApplyError, Aside, Build, Decoder, HeaderBlock, Projector, Record,
};

/// Topic, partition and the aggregate's id, or `@<partition>/<offset>` for a record of none.
type Key = (String, i32, String);

/// Who is parked already and who becomes so by this batch.
///
/// A bad event parks its aggregate from its own offset on: events before it were good.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    /// With the first offset that is held; `i64::MIN` for who was parked before.
    held: BTreeMap<Key, i64>,
    reasons: BTreeMap<Key, String>,
}

impl Parking {
    /// Reads which aggregates of the batch are parked.
    pub(crate) async fn load(
        tx: &mut PgConnection,
        build: &Build,
        records: &[Record],
    ) -> Result<Self, sqlx::Error> {
        let mut parking = Self::default();
        let any: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM millrace_views.parked WHERE view = $1 AND build = $2)",
        )
        .bind(&build.view)
        .bind(build.number)
        .fetch_one(&mut *tx)
        .await?;
        if !any {
            return Ok(parking);
        }
        let ids: BTreeSet<&str> = records.iter().filter_map(Record::aggregate_id).collect();
        let parked: Vec<Key> = sqlx::query_as(
            "SELECT topic, partition, aggregate_id FROM millrace_views.parked
             WHERE view = $1 AND build = $2 AND aggregate_id = ANY($3)",
        )
        .bind(&build.view)
        .bind(build.number)
        .bind(ids.into_iter().collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        parking.held = parked.into_iter().map(|key| (key, i64::MIN)).collect();
        Ok(parking)
    }

    fn holds_at(&self, topic: &str, partition: i32, id: &str, offset: i64) -> bool {
        // The usual case must cost nothing: no key is built while nobody is parked.
        !self.held.is_empty()
            && self
                .held
                .get(&(topic.to_owned(), partition, id.to_owned()))
                .is_some_and(|first| offset >= *first)
    }

    /// True if the record has to wait.
    pub(crate) fn holds(&self, record: &Record) -> bool {
        record
            .aggregate_id()
            .is_some_and(|id| self.holds_at(&record.topic, record.partition, id, record.offset))
    }

    /// The same for a decoded event.
    pub(crate) fn holds_event<P>(&self, event: &Recorded<P>) -> bool {
        self.holds_at(
            &event.topic,
            event.partition,
            &event.aggregate_id,
            event.offset,
        )
    }

    /// Parks the record's aggregate from it on; a record of none parks alone.
    pub(crate) fn park(&mut self, record: &Record, reason: String) {
        self.hold(key(record), record.offset, reason);
    }

    /// The same for a decoded event.
    pub(crate) fn park_event<P>(&mut self, event: &Recorded<P>, reason: String) {
        let key = (
            event.topic.clone(),
            event.partition,
            event.aggregate_id.clone(),
        );
        self.hold(key, event.offset, reason);
    }

    /// True if this batch alone parks more aggregates of a partition than may be parked.
    pub(crate) fn exceeds(&self, parked_max: i64) -> bool {
        let max = usize::try_from(parked_max).unwrap_or_default();
        if self.reasons.len() <= max {
            return false;
        }
        let mut counts: BTreeMap<(&str, i32), usize> = BTreeMap::new();
        for (topic, partition, _) in self.reasons.keys() {
            *counts.entry((topic, *partition)).or_default() += 1;
        }
        counts.values().any(|count| *count > max)
    }

    /// An earlier bad event than the one already found takes its place, reason included.
    fn hold(&mut self, key: Key, offset: i64, reason: String) {
        match self.held.get(&key) {
            Some(first) if *first <= offset => {}
            _ => {
                self.held.insert(key.clone(), offset);
                self.reasons.insert(key, reason);
            }
        }
    }
}

impl Parking {
    /// Topic, partition and reason of every aggregate that this batch parks.
    pub(crate) fn reasons(&self) -> Vec<(String, i32, String)> {
        let reasons = self.reasons.iter();
        reasons
            .map(|((topic, partition, _), reason)| (topic.clone(), *partition, reason.clone()))
            .collect()
    }
}

fn key(record: &Record) -> Key {
    let id = match record.aggregate_id() {
        Some(id) => id.to_owned(),
        None => format!("@{}/{}", record.partition, record.offset),
    };
    (record.topic.to_string(), record.partition, id)
}

/// Writes what is parked by this batch; returns which records that is, by index.
pub(crate) async fn store(
    tx: &mut PgConnection,
    build: &Build,
    records: &[Record],
    parking: &Parking,
) -> Result<BTreeMap<usize, Aside>, ApplyError> {
    let mut aside = BTreeMap::new();
    if parking.held.is_empty() {
        return Ok(aside);
    }
    for ((topic, partition, id), reason) in &parking.reasons {
        tracing::warn!(
            view = build.view,
            topic,
            partition,
            aggregate = id,
            reason,
            "parked"
        );
        sqlx::query(
            "INSERT INTO millrace_views.parked (view, build, topic, partition, aggregate_id, reason)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&build.view)
        .bind(build.number)
        .bind(topic)
        .bind(partition)
        .bind(id)
        .bind(reason.replace('\0', "\u{fffd}"))
        .execute(&mut *tx)
        .await?;
    }
    for (index, record) in records.iter().enumerate() {
        let key = key(record);
        if parking
            .held
            .get(&key)
            .is_none_or(|first| record.offset < *first)
        {
            continue;
        }
        store_event(tx, build, record, &key.2).await?;
        let first = parking.held.get(&key) == Some(&record.offset);
        aside.insert(index, if first { Aside::Bad } else { Aside::Behind });
    }
    check_cap(tx, build, parking).await?;
    Ok(aside)
}

async fn store_event(
    tx: &mut PgConnection,
    build: &Build,
    record: &Record,
    id: &str,
) -> Result<(), sqlx::Error> {
    let envelope = record.envelope.as_ref().ok();
    let position = envelope.map(|envelope| envelope.metadata.position);
    sqlx::query(
        "INSERT INTO millrace_views.parked_events
             (view, build, topic, partition, \"offset\", aggregate_id, sequence,
              generation, xid, position, key, payload, headers)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT DO NOTHING",
    )
    .bind(&build.view)
    .bind(build.number)
    .bind(&*record.topic)
    .bind(record.partition)
    .bind(record.offset)
    .bind(id)
    .bind(envelope.map(|envelope| envelope.sequence))
    .bind(position.map(|position| position.generation))
    .bind(position.map(|position| position.xid))
    .bind(position.map(|position| position.position))
    .bind(&record.key)
    .bind(&record.payload)
    .bind(record.headers.to_json())
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// More parked aggregates than the cap are no longer a few bad events: the code or the data is wrong.
async fn check_cap(
    tx: &mut PgConnection,
    build: &Build,
    parking: &Parking,
) -> Result<(), ApplyError> {
    let new: BTreeSet<(&str, i32)> = parking
        .reasons
        .keys()
        .map(|(topic, partition, _)| (topic.as_str(), *partition))
        .collect();
    for (topic, partition) in new {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM millrace_views.parked
             WHERE view = $1 AND build = $2 AND topic = $3 AND partition = $4",
        )
        .bind(&build.view)
        .bind(build.number)
        .bind(topic)
        .bind(partition)
        .fetch_one(&mut *tx)
        .await?;
        if count > build.parked_max {
            let mut newest: Vec<(i64, &str, &str)> = parking
                .reasons
                .iter()
                .filter(|(key, _)| key.0 == topic && key.1 == partition)
                .map(|(key, reason)| (parking.held[key], key.2.as_str(), reason.as_str()))
                .collect();
            newest.sort_unstable();
            // Those before it are parked and can be retried or skipped, which makes room.
            let room = build.parked_max - (count - newest.len() as i64);
            let first = usize::try_from(room).unwrap_or_default();
            let (offset, id, reason) = newest[first.min(newest.len() - 1)];
            return Err(ApplyError::Stop {
                topic: topic.to_owned(),
                partition,
                offset,
                reason: format!(
                    "{count} aggregates would be parked, the cap is {}; the newest, {id}: {reason}; \
                     correct the view or retry and skip with `millrace parked`",
                    build.parked_max
                ),
            });
        }
    }
    Ok(())
}

/// What an operator asks for a parked aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Apply all waiting events, in order.
    Retry,
    /// Leave the first one out for good, mark the rows incomplete, apply the rest.
    Skip,
}

impl Request {
    /// As it stands in the `request` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
        }
    }

    /// The opposite of [`as_str`](Self::as_str).
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "retry" => Some(Self::Retry),
            "skip" => Some(Self::Skip),
            _ => None,
        }
    }
}

/// A parked aggregate of a build.
#[derive(Debug, Clone, Copy)]
pub struct ParkedKey<'k> {
    /// Topic.
    pub topic: &'k str,
    /// Partition.
    pub partition: i32,
    /// The aggregate's id, or `@<partition>/<offset>`.
    pub aggregate_id: &'k str,
}

/// Executes a request, in the transaction of the partition's owner, before any newer event of the
/// partition. What fails again is parked again, with one attempt more.
pub async fn release(
    projector: &dyn Projector,
    tx: &mut PgConnection,
    build: &Build,
    decoder: &Decoder,
    parked: ParkedKey<'_>,
    request: Request,
) -> Result<Applied, ApplyError> {
    let records = waiting(tx, build, parked).await?;
    let attempts: Option<i32> = sqlx::query_scalar(
        "DELETE FROM millrace_views.parked
         WHERE view = $1 AND build = $2 AND topic = $3 AND partition = $4 AND aggregate_id = $5
         RETURNING attempts",
    )
    .bind(&build.view)
    .bind(build.number)
    .bind(parked.topic)
    .bind(parked.partition)
    .bind(parked.aggregate_id)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(attempts) = attempts else {
        return Ok(Applied::default());
    };
    let rest = match (request, records.split_first()) {
        (Request::Skip, Some((first, rest))) => {
            projector.pass_over(tx, build, first).await?;
            store_skipped(tx, build, first).await?;
            rest
        }
        _ => &records[..],
    };
    let applied = projector.apply(tx, build, decoder, rest).await?;
    sqlx::query(
        "UPDATE millrace_views.parked SET attempts = $6 + 1
         WHERE view = $1 AND build = $2 AND topic = $3 AND partition = $4 AND aggregate_id = $5",
    )
    .bind(&build.view)
    .bind(build.number)
    .bind(parked.topic)
    .bind(parked.partition)
    .bind(parked.aggregate_id)
    .bind(attempts)
    .execute(&mut *tx)
    .await?;
    Ok(applied)
}

/// Remembers a skipped event, so that whoever waits for it is told.
async fn store_skipped(
    tx: &mut PgConnection,
    build: &Build,
    record: &Record,
) -> Result<(), sqlx::Error> {
    let Ok(envelope) = &record.envelope else {
        return Ok(());
    };
    let position = envelope.metadata.position;
    sqlx::query(
        "INSERT INTO millrace_views.skipped_events
             (view, topic, partition, generation, xid, position)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(&build.view)
    .bind(&*record.topic)
    .bind(record.partition)
    .bind(position.generation)
    .bind(position.xid)
    .bind(position.position)
    .execute(tx)
    .await?;
    Ok(())
}

/// Answers a request that cannot be executed: takes it back and says why.
pub(crate) async fn refuse(
    conn: &mut PgConnection,
    view: &str,
    parked: ParkedKey<'_>,
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_views.parked SET request = NULL, reason = $5
         WHERE view = $1 AND topic = $2 AND partition = $3 AND aggregate_id = $4
           AND request IS NOT NULL",
    )
    .bind(view)
    .bind(parked.topic)
    .bind(parked.partition)
    .bind(parked.aggregate_id)
    .bind(reason.replace('\0', "\u{fffd}"))
    .execute(conn)
    .await?;
    Ok(())
}

async fn waiting(
    tx: &mut PgConnection,
    build: &Build,
    parked: ParkedKey<'_>,
) -> Result<Vec<Record>, sqlx::Error> {
    type Waiting = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Value);
    let rows: Vec<Waiting> = sqlx::query_as(
        "SELECT \"offset\", key, payload, headers FROM millrace_views.parked_events
         WHERE view = $1 AND build = $2 AND topic = $3 AND partition = $4 AND aggregate_id = $5
         ORDER BY \"offset\"",
    )
    .bind(&build.view)
    .bind(build.number)
    .bind(parked.topic)
    .bind(parked.partition)
    .bind(parked.aggregate_id)
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(offset, key, payload, headers)| {
            Record::new(
                (parked.topic.into(), parked.partition, offset),
                key,
                payload,
                HeaderBlock::from_json(&headers),
            )
        })
        .collect())
}
