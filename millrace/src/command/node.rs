//! All aggregate types behind one door: commands by name, history, and state at any moment.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::codec::{Codec, unframe};
use crate::command::handler::{Pending, WriteSide};
use crate::command::{Accepted, CommandError, CommandHandler, CommandSet, Envelope, WriteConfig};
use crate::event::{Event, RecordSchema};
use crate::http::api::any_object;
use crate::journal::{Journal, load};
use crate::position::JournalPosition;
use crate::registry::Registry;
use crate::telemetry::commands::Observed;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, CommandError>> + Send + 'a>>;

/// Events that are read at a time.
const PAGE_MAX: i64 = 1000;

/// A moment in an aggregate's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// After its newest event.
    Now,
    /// After this event.
    Sequence(i64),
    /// After the last event before the first one that is later than this.
    Time(DateTime<Utc>),
}

impl std::str::FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self::Sequence(sequence));
        }
        text.parse().map(Self::Time).map_err(|_| {
            format!("{text:?} is neither a sequence nor a time: write 7 or 2026-01-31T12:00:00Z")
        })
    }
}

/// One event as history shows it.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct HistoryEntry {
    /// Version of the aggregate after it.
    pub sequence: i64,
    /// `ce_id`.
    pub id: Uuid,
    /// Record name.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When it was accepted.
    pub time: DateTime<Utc>,
    /// Its content, in the shape that it was written in.
    #[schemars(schema_with = "any_object")]
    pub data: serde_json::Value,
    /// What set off the chain.
    pub correlation_id: Option<String>,
    /// Id of the command.
    pub causation_id: Option<String>,
    /// Place in the journal.
    pub position: JournalPosition,
}

/// A part of an aggregate's history.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct HistoryPage {
    /// Aggregate type.
    pub aggregate: &'static str,
    /// Aggregate id.
    pub id: String,
    /// Events in order.
    pub events: Vec<HistoryEntry>,
    /// Sequence to ask for events after, where there may be more.
    pub next_after_sequence: Option<i64>,
}

/// An aggregate's state at a moment.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct StateAt {
    /// Aggregate type.
    pub aggregate: &'static str,
    /// Aggregate id.
    pub id: String,
    /// Version at that moment; 0 where nothing had happened yet.
    pub version: i64,
    /// Time of the last event in it.
    pub at: Option<DateTime<Utc>>,
    /// The state.
    #[schemars(schema_with = "any_object")]
    pub state: serde_json::Value,
}

/// One aggregate type, its Rust types erased.
pub trait Node: Send + Sync {
    /// The processors and timers that alone send a command of this type; none where anybody may.
    fn sent_by(&self, command_type: &str) -> &'static [&'static str];
    /// Queues a command that waits for the journal as long as it takes, in order with others to the same aggregate.
    #[doc(hidden)]
    fn submit(&self, envelope: Envelope) -> Result<Pending, CommandError>;
    /// Decides a command.
    fn handle(&self, envelope: Envelope) -> Answer<'_, Accepted>;
    /// Events after a sequence, at most `limit` of them.
    fn history(&self, id: String, after_sequence: i64, limit: i64) -> Answer<'_, HistoryPage>;
    /// The state at a moment.
    fn state(&self, id: String, at: Moment) -> Answer<'_, StateAt>;
}

struct TypedNode<A: Aggregate> {
    handler: CommandHandler<A>,
    observed: Arc<Observed>,
    side: WriteSide,
}

impl<A: Aggregate> Node for TypedNode<A> {
    fn sent_by(&self, command_type: &str) -> &'static [&'static str] {
        A::Command::sent_by(command_type)
    }

    fn submit(&self, mut envelope: Envelope) -> Result<Pending, CommandError> {
        let seen = self.observed.begin(&mut envelope);
        let answer = self.handler.submit(envelope)?;
        Ok(Box::pin(async move { Ok(seen.end(answer.await?)) }))
    }

    fn handle(&self, mut envelope: Envelope) -> Answer<'_, Accepted> {
        let seen = self.observed.begin(&mut envelope);
        Box::pin(async move { seen.end(self.handler.handle(envelope).await) })
    }

    fn history(&self, id: String, after_sequence: i64, limit: i64) -> Answer<'_, HistoryPage> {
        Box::pin(async move {
            let limit = limit.clamp(1, PAGE_MAX);
            let rows = page::<A>(&self.side, &id, after_sequence, limit).await?;
            learn(&self.side, &rows).await?;
            let full = rows.len() as i64 == limit;
            let next_after_sequence = rows.last().map(|row| row.sequence).filter(|_| full);
            let events = rows
                .into_iter()
                .map(|row| entry(self.side.registry.codec(), row))
                .collect::<Result<_, _>>()?;
            Ok(HistoryPage {
                aggregate: A::Event::AGGREGATE,
                id,
                events,
                next_after_sequence,
            })
        })
    }

    fn state(&self, id: String, at: Moment) -> Answer<'_, StateAt> {
        Box::pin(async move {
            let mut state = A::default();
            let (mut version, mut time) = (0, None);
            // From the first event on: a snapshot may be later than the moment, or of another shape.
            'pages: loop {
                let rows = page::<A>(&self.side, &id, version, PAGE_MAX).await?;
                learn(&self.side, &rows).await?;
                let full = rows.len() as i64 == PAGE_MAX;
                for row in rows {
                    let past = match at {
                        Moment::Now => false,
                        Moment::Sequence(sequence) => row.sequence > sequence,
                        Moment::Time(moment) => row.occurred_at > moment,
                    };
                    if past {
                        break 'pages;
                    }
                    let codec = self.side.registry.codec();
                    let event = codec.decode::<A::Event>(&row.payload);
                    state.evolve(&event.map_err(fault)?);
                    (version, time) = (row.sequence, Some(row.occurred_at));
                }
                if !full {
                    break;
                }
            }
            Ok(StateAt {
                aggregate: A::Event::AGGREGATE,
                id,
                version,
                at: time,
                state: serde_json::to_value(&state).map_err(fault)?,
            })
        })
    }
}

async fn page<A: Aggregate>(
    side: &WriteSide,
    id: &str,
    after_sequence: i64,
    limit: i64,
) -> Result<Vec<load::HistoryRow>, CommandError> {
    let away = |error: sqlx::Error| CommandError::Unavailable(format!("journal: {error}"));
    let mut connection = side.journal.pool().acquire().await.map_err(away)?;
    load::history(
        &mut connection,
        A::Event::AGGREGATE,
        id,
        after_sequence,
        limit,
    )
    .await
    .map_err(away)
}

/// Schemas that a newer producer wrote with are met here for the first time.
async fn learn(side: &WriteSide, rows: &[load::HistoryRow]) -> Result<(), CommandError> {
    for row in rows {
        let unknown = unframe(&row.payload)
            .map(|(schema_id, _)| schema_id)
            .ok()
            .filter(|schema_id| !side.registry.codec().can_read(*schema_id));
        if let Some(schema_id) = unknown {
            let learnt = side.registry.learn(schema_id).await;
            learnt.map_err(|error| match error.is_transient() {
                true => CommandError::Unavailable(error.to_string()),
                false => fault(error),
            })?;
        }
    }
    Ok(())
}

fn entry(codec: &Codec, row: load::HistoryRow) -> Result<HistoryEntry, CommandError> {
    let (_, data) = codec.decode_json(&row.payload).map_err(fault)?;
    let header = |name: &str| row.headers.get(name)?.as_str().map(str::to_owned);
    Ok(HistoryEntry {
        sequence: row.sequence,
        id: row.event_id,
        time: row.occurred_at,
        data,
        correlation_id: header("correlationid"),
        causation_id: header("causationid"),
        position: JournalPosition {
            generation: row.generation,
            xid: row.xid,
            position: row.position,
        },
        event_type: row.event_type,
    })
}

fn fault(error: impl std::fmt::Display) -> CommandError {
    CommandError::Fault(error.to_string())
}

/// An aggregate type that the write side takes commands for: one line in the list that a producer starts with.
#[derive(Clone, Copy)]
pub struct AggregateType {
    /// Its name, such as `counter`.
    pub name: &'static str,
    /// Its command types.
    pub command_types: &'static [&'static str],
    /// Fields of a command that stand in no id, hash, log or rejects file.
    pub secret_fields: fn(&str) -> &'static [&'static str],
    /// The processors and timers that alone send a command of this type; none where anybody may.
    pub sent_by: fn(&str) -> &'static [&'static str],
    /// Every released schema of its commands, oldest version first within a record.
    pub command_schemas: &'static [RecordSchema],
    /// The same of its events.
    pub event_schemas: &'static [RecordSchema],
    start: fn(&WriteSide) -> Arc<dyn Node>,
}

impl AggregateType {
    /// The entry of `A`.
    pub const fn of<A: Aggregate>() -> Self {
        Self {
            name: A::Event::AGGREGATE,
            command_types: A::Command::TYPES,
            secret_fields: A::Command::secret_fields,
            sent_by: A::Command::sent_by,
            command_schemas: A::Command::SCHEMAS,
            event_schemas: A::Event::SCHEMAS,
            start: |side| {
                Arc::new(TypedNode::<A> {
                    handler: CommandHandler::start(side),
                    observed: Arc::new(Observed::of(A::Event::AGGREGATE)),
                    side: side.clone(),
                })
            },
        }
    }
}

/// The write side: takes a command for any of its aggregate types.
#[derive(Clone)]
pub struct Commands {
    nodes: BTreeMap<&'static str, Arc<dyn Node>>,
    aggregates: Arc<[AggregateType]>,
}

impl Commands {
    /// Starts the writers of these aggregate types. `appended` is notified after every append: the relay's wake-up.
    pub fn start(
        aggregates: &[AggregateType],
        journal: Journal,
        registry: Registry,
        config: WriteConfig,
        topic_partitions: i32,
        appended: Arc<Notify>,
    ) -> Self {
        let side = WriteSide {
            journal,
            registry,
            config,
            topic_partitions,
            appended,
        };
        let started = |one: &AggregateType| (one.name, (one.start)(&side));
        Self {
            nodes: aggregates.iter().map(started).collect(),
            aggregates: aggregates.into(),
        }
    }

    /// The aggregate types that it was started with.
    pub fn aggregates(&self) -> &[AggregateType] {
        &self.aggregates
    }

    /// The node of an aggregate type, for one who keeps it.
    pub(crate) fn shared_node(&self, aggregate: &str) -> Option<Arc<dyn Node>> {
        self.nodes.get(aggregate).cloned()
    }

    /// The node of an aggregate type.
    pub fn node(&self, aggregate: &str) -> Result<&dyn Node, CommandError> {
        self.nodes
            .get(aggregate)
            .map(AsRef::as_ref)
            .ok_or_else(|| CommandError::UnknownAggregate {
                aggregate: aggregate.to_owned(),
                known: self.nodes.keys().copied().collect::<Vec<_>>().join(", "),
            })
    }
}
