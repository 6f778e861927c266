//! What every handler has handled and what it has left: views, processors and effects in one list, for `GET /events/stats`.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::error::KafkaError;
use serde::Serialize;
use sqlx::{FromRow, PgPool};

use crate::config::KafkaConfig;
use crate::handled::{self, Handled};
use crate::log::Key;
use crate::log::offsets::Committed;
use crate::processor::Handler;
use crate::processor::ops::committed;
use crate::projection::ops::ends_and_rest;
use crate::{effect, projection};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Postgres.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
}

/// What a handler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HandlerKind {
    /// Keeps rows.
    View,
    /// Sends commands.
    Processor,
    /// Calls the outside.
    Effect,
}

/// A handler over all its partitions.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct HandlerStats {
    /// What it is.
    pub kind: HandlerKind,
    /// Its name.
    pub name: String,
    /// Its consumer group.
    pub group: String,
    /// Records handled since it first ran; a replay counts again.
    pub processed: i64,
    /// At most this many are left: transaction markers between them count. 0 where nothing is.
    pub unprocessed: i64,
    /// What waits for an operator, as [`Handled::failed`].
    pub failed: i64,
    /// How often it failed, as [`Handled::errors`].
    pub errors: i64,
    /// By topic and partition.
    pub partitions: Vec<PartitionStats>,
}

/// A handler on one partition.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct PartitionStats {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// At most this many records are left.
    pub unprocessed: i64,
    /// What it has handled.
    #[serde(flatten)]
    pub handled: Handled,
}

/// Where a handler stands, as it is stored.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Position {
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) next: i64,
    #[sqlx(flatten)]
    pub(crate) handled: Handled,
}

/// Every view and effect that ever ran on this database, and these processors.
pub async fn collect(
    kafka: &KafkaConfig,
    pool: &PgPool,
    processors: Vec<Arc<dyn Handler>>,
) -> Result<Vec<HandlerStats>, StatsError> {
    let all = positions(kafka, pool, processors).await?;
    let kafka = kafka.clone();
    Ok(blocking(move || of_handlers(&kafka, all)).await?)
}

/// Where each of them stands.
pub(crate) async fn positions(
    kafka: &KafkaConfig,
    pool: &PgPool,
    processors: Vec<Arc<dyn Handler>>,
) -> Result<Vec<Placed>, StatsError> {
    let views = stored(pool, VIEWS, "millrace_views.checkpoints").await?;
    let effects = stored(pool, EFFECTS, "millrace_effects.checkpoints").await?;
    let kafka = kafka.clone();
    let processors = blocking(move || of_processors(&kafka, &processors)).await?;
    let views = views
        .into_iter()
        .map(|one| (HandlerKind::View, projection::ops::group(&one.name), one));
    let effects = effects
        .into_iter()
        .map(|one| (HandlerKind::Effect, effect::group(&one.name), one));
    Ok(views.chain(processors).chain(effects).collect())
}

/// librdkafka's calls block, so they run on threads made for it.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

const VIEWS: &str = concat!(
    "SELECT c.view AS name, c.topic, c.partition, c.next, ",
    handled::columns!(),
    ", ",
    handled::parked!(),
    " FROM millrace_views.checkpoints c ORDER BY c.view, c.topic, c.partition"
);

const EFFECTS: &str = concat!(
    "SELECT c.effect AS name, c.topic, c.partition, c.next, ",
    handled::columns!(),
    ", ",
    handled::dead!(),
    " FROM millrace_effects.checkpoints c ORDER BY c.effect, c.topic, c.partition"
);

async fn stored(
    pool: &PgPool,
    sql: &'static str,
    table: &str,
) -> Result<Vec<Position>, sqlx::Error> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(pool)
        .await?;
    match there {
        true => sqlx::query_as(sql).fetch_all(pool).await,
        false => Ok(Vec::new()),
    }
}

/// What a handler is, its consumer group, and where it stands.
pub(crate) type Placed = (HandlerKind, String, Position);

/// Processors keep nothing but what stands with their group's offsets.
fn of_processors(
    kafka: &KafkaConfig,
    processors: &[Arc<dyn Handler>],
) -> Result<Vec<Placed>, KafkaError> {
    let mut placed = Vec::new();
    for (processor, committed) in processors.iter().zip(committed(kafka, processors)?) {
        for ((topic, partition), committed) in committed {
            let position = Position {
                name: processor.name().to_owned(),
                topic,
                partition,
                next: committed.offset,
                handled: Committed::handled(&committed),
            };
            placed.push((HandlerKind::Processor, processor.group(), position));
        }
    }
    Ok(placed)
}

/// How many records are left behind each position.
fn left(kafka: &KafkaConfig, all: &[Placed]) -> Result<BTreeMap<(Key, i64), i64>, KafkaError> {
    let positions: Vec<(String, i32, i64)> = all
        .iter()
        .map(|(_, _, at)| (at.topic.clone(), at.partition, at.next))
        .collect();
    let ends = ends_and_rest(kafka, &positions)?;
    let left = ends.into_iter().map(|((key, next), end)| {
        let records = if end.left() { end.stable - next } else { 0 };
        ((key, next), records)
    });
    Ok(left.collect())
}

fn of_handlers(kafka: &KafkaConfig, all: Vec<Placed>) -> Result<Vec<HandlerStats>, KafkaError> {
    let left = left(kafka, &all)?;
    let mut handlers: BTreeMap<(HandlerKind, String), HandlerStats> = BTreeMap::new();
    for (kind, group, at) in all {
        let key = (at.topic, at.partition);
        let unprocessed = left.get(&(key.clone(), at.next)).copied().unwrap_or(0);
        let handler = handlers
            .entry((kind, at.name.clone()))
            .or_insert_with(|| HandlerStats {
                kind,
                name: at.name,
                group,
                processed: 0,
                unprocessed: 0,
                failed: 0,
                errors: 0,
                partitions: Vec::new(),
            });
        handler.processed += at.handled.events;
        handler.unprocessed += unprocessed;
        handler.failed += at.handled.failed;
        handler.errors += at.handled.errors;
        handler.partitions.push(PartitionStats {
            topic: key.0,
            partition: key.1,
            unprocessed,
            handled: at.handled,
        });
    }
    Ok(handlers.into_values().collect())
}
