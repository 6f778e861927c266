//! Writing a batch: decode, leave parked aggregates aside, find poison by halving, park it.
//!
//! Invariant: of one aggregate, events are applied in order and without holes. So what follows a parked
//! event is parked too, and a retry applies the waiting events before any newer one can.

use std::ops::Range;

use sqlx::PgConnection;

use crate::event::Recorded;
use crate::projection::park::{self, Parking};
use crate::projection::{
    Applied, ApplyError, BoxFuture, Build, Decoder, LearnError, Payload, Record, is_poison,
};

/// What one kind of view does with decoded events.
pub(crate) trait Write: Send + Sync {
    /// What it reads.
    type Payload: Payload;

    /// Writes the events' rows; after an error the savepoint before it is rolled back to.
    fn write<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        build: &'a Build,
        events: &'a [&'a Recorded<Self::Payload>],
    ) -> BoxFuture<'a, Result<Written, WriteError>>;
}

/// Counts of one write.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub(crate) applied: usize,
    pub(crate) repeated: usize,
    pub(crate) incomplete: usize,
}

/// Why a write failed.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// These events, by index, each the first bad one of its aggregate.
    Poison(Vec<(usize, String)>),
    /// One of the events, not known which.
    Data(String),
    /// None of the events' fault.
    Apply(ApplyError),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        if is_poison(&error) {
            Self::Data(error.to_string())
        } else {
            Self::Apply(error.into())
        }
    }
}

/// See [`Projector::apply`](crate::projection::Projector::apply).
pub(crate) async fn apply<W: Write>(
    writer: &W,
    tx: &mut PgConnection,
    build: &Build,
    decoder: &Decoder,
    records: &[Record],
) -> Result<Applied, ApplyError> {
    let mut parking = Parking::load(tx, build, records).await?;
    let events = decode(decoder, records, &mut parking).await?;
    let written = write(writer, tx, build, &events, &mut parking).await?;
    let aside = park::store(tx, build, records, &parking).await?;
    Ok(Applied {
        applied: written.applied,
        repeated: written.repeated,
        parked: aside.len(),
        incomplete: written.incomplete,
        aside,
        reasons: parking.reasons(),
    })
}

async fn decode<P: Payload>(
    decoder: &Decoder,
    records: &[Record],
    parking: &mut Parking,
) -> Result<Vec<Recorded<P>>, ApplyError> {
    let mut events = Vec::with_capacity(records.len());
    for record in records {
        if parking.holds(record) {
            continue;
        }
        let envelope = match &record.envelope {
            Ok(envelope) => envelope,
            Err(reason) => {
                parking.park(record, reason.to_string());
                continue;
            }
        };
        let Some(payload) = &record.payload else {
            parking.park(record, "the record has no value".to_owned());
            continue;
        };
        let decoded = decoder.decode::<P>(payload).await;
        match decoded.map_err(|error: LearnError| ApplyError::Unavailable(error.to_string()))? {
            Ok(event) => events.push(Recorded {
                topic: record.topic.to_string(),
                partition: record.partition,
                offset: record.offset,
                aggregate_id: envelope.aggregate_id.clone(),
                sequence: envelope.sequence,
                event,
                metadata: envelope.metadata.clone(),
            }),
            Err(reason) => parking.park(record, reason.to_string()),
        }
    }
    Ok(events)
}

/// Writes all events, in one go where none is bad; else halves until each bad one stands alone.
async fn write<W: Write>(
    writer: &W,
    tx: &mut PgConnection,
    build: &Build,
    events: &[Recorded<W::Payload>],
    parking: &mut Parking,
) -> Result<Written, ApplyError> {
    let mut total = Written::default();
    // Left halves are written before right ones, so an aggregate's events stay in order.
    let mut ranges: Vec<Range<usize>> = std::iter::once(0..events.len()).collect();
    while let Some(range) = ranges.pop() {
        // The cap stops the partition anyway; to find the rest one by one could take longer than a step may.
        if parking.exceeds(build.parked_max) {
            break;
        }
        let batch: Vec<&Recorded<W::Payload>> = events[range.clone()]
            .iter()
            .filter(|event| !parking.holds_event(event))
            .collect();
        if batch.is_empty() {
            continue;
        }
        savepoint(tx, "SAVEPOINT batch").await?;
        match writer.write(tx, build, &batch).await {
            Ok(written) => {
                savepoint(tx, "RELEASE SAVEPOINT batch").await?;
                total.applied += written.applied;
                total.repeated += written.repeated;
                total.incomplete += written.incomplete;
            }
            Err(WriteError::Poison(bad)) => {
                savepoint(tx, "ROLLBACK TO SAVEPOINT batch").await?;
                for (index, reason) in bad {
                    parking.park_event(batch[index], reason);
                }
                ranges.push(range);
            }
            Err(WriteError::Data(reason)) => {
                savepoint(tx, "ROLLBACK TO SAVEPOINT batch").await?;
                match batch[..] {
                    [event] => parking.park_event(event, reason),
                    _ => {
                        let middle = range.start + range.len() / 2;
                        ranges.push(middle..range.end);
                        ranges.push(range.start..middle);
                    }
                }
            }
            Err(WriteError::Apply(error)) => return Err(error),
        }
    }
    Ok(total)
}

async fn savepoint(tx: &mut PgConnection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statement).execute(tx).await.map(drop)
}
