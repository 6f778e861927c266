//! What an operator sees of the views and asks of them.

mod ends;
mod status;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, PgPool};

use crate::config::KafkaConfig;
use crate::log::client;
use crate::projection::Request;

pub(crate) use ends::ends_and_rest;
pub use status::{
    BuildStatus, PartitionStatus, ResetStatus, SkipStatus, ViewStatus, status, stored_status,
};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(4);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// No process has ever run this view here.
    #[error("view {0} is not known: `millrace status` lists the views")]
    UnknownView(String),
    /// The aggregate is not parked.
    #[error(
        "aggregate {aggregate_id} is not parked by view {view}: `millrace parked list` shows who is"
    )]
    NotParked {
        /// Which view.
        view: String,
        /// Which aggregate.
        aggregate_id: String,
    },
    /// Members are still there.
    #[error(
        "group {group} still has {members} members after {waited_s} s: a process runs that does not read this database"
    )]
    StillMembers {
        /// Which group.
        group: String,
        /// How many.
        members: usize,
        /// How long it was waited for.
        waited_s: u64,
    },
    /// Kafka.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Postgres.
    #[error("postgres: {0}")]
    Database(#[from] sqlx::Error),
}

/// The consumer group of a view.
pub fn group(view: &str) -> String {
    format!("millrace.view.{view}")
}

/// Stops a view until [`resume`]; stored, so it survives restarts. Returns when its group is empty, which
/// is what the stock tools need to reset it.
pub async fn pause(
    kafka: &KafkaConfig,
    pool: &PgPool,
    view: &str,
    timeout: Duration,
) -> Result<(), OpsError> {
    set_paused(pool, view, true).await?;
    let group = group(view);
    let started = Instant::now();
    loop {
        let members = members(kafka.clone(), group.clone()).await?;
        if members == 0 {
            return Ok(());
        }
        if started.elapsed() > timeout {
            return Err(OpsError::StillMembers {
                group,
                members,
                waited_s: timeout.as_secs(),
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Lets a view go on; its sinks join the group within half a second.
pub async fn resume(pool: &PgPool, view: &str) -> Result<(), OpsError> {
    set_paused(pool, view, false).await
}

async fn set_paused(pool: &PgPool, view: &str, paused: bool) -> Result<(), OpsError> {
    let found = sqlx::query("UPDATE millrace_views.views SET paused = $2 WHERE name = $1")
        .bind(view)
        .bind(paused)
        .execute(pool)
        .await?
        .rows_affected();
    if found == 0 {
        return Err(OpsError::UnknownView(view.to_owned()));
    }
    Ok(())
}

/// Members of a consumer group, joining ones included.
pub async fn members(kafka: KafkaConfig, group: String) -> Result<usize, OpsError> {
    let all = blocking(move || members_by_group(&kafka, Some(&group))).await?;
    Ok(all.into_values().sum())
}

/// Members of every consumer group, joining ones included; a group that nobody joined need not be in it.
pub async fn members_of_all(kafka: KafkaConfig) -> Result<BTreeMap<String, usize>, OpsError> {
    Ok(blocking(move || members_by_group(&kafka, None)).await?)
}

/// Of one group, or of all. Blocks the thread.
pub(crate) fn members_by_group(
    kafka: &KafkaConfig,
    group: Option<&str>,
) -> Result<BTreeMap<String, usize>, KafkaError> {
    let consumer: BaseConsumer = client::reader(kafka, "groups").create()?;
    let groups = consumer.fetch_group_list(group, KAFKA_TIMEOUT)?;
    let listed = groups
        .groups()
        .iter()
        .filter(|listed| group.is_none_or(|group| listed.name() == group));
    Ok(listed
        .map(|listed| (listed.name().to_owned(), listed.members().len()))
        .collect())
}

/// librdkafka's calls block, so they run on threads made for it.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(call)
        .await
        .expect("the call neither panics nor is aborted")
}

/// A parked aggregate of a live build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct Parked {
    /// Which view.
    pub view: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The aggregate's id; `@<partition>/<offset>` for a record that is no event of any.
    pub aggregate_id: String,
    /// What was wrong with the first event.
    pub reason: String,
    /// How often it was tried.
    pub attempts: i32,
    /// What was asked for and is not executed yet.
    pub request: Option<String>,
    /// Since when.
    pub parked_at: DateTime<Utc>,
    /// Events that wait, the bad one included.
    pub events: i64,
}

/// Who is parked in the live builds, of one view or of all.
pub async fn parked(pool: &PgPool, view: Option<&str>) -> Result<Vec<Parked>, OpsError> {
    Ok(sqlx::query_as(
        "SELECT p.view, p.topic, p.partition, p.aggregate_id, p.reason, p.attempts, p.request,
                p.parked_at,
                (SELECT count(*) FROM millrace_views.parked_events e
                 WHERE (e.view, e.build, e.topic, e.partition, e.aggregate_id)
                     = (p.view, p.build, p.topic, p.partition, p.aggregate_id)) AS events
         FROM millrace_views.parked p
         JOIN millrace_views.views v ON v.name = p.view AND v.live_build = p.build
         WHERE $1::text IS NULL OR p.view = $1
         ORDER BY p.view, p.parked_at, p.aggregate_id",
    )
    .bind(view)
    .fetch_all(pool)
    .await?)
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct ParkedEvent {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Version of the aggregate; null for a record that is no event.
    pub sequence: Option<i64>,
    /// The record's headers.
    pub headers: Value,
    /// The record's value as it stands on the topic.
    pub payload: Option<Vec<u8>>,
}

/// The waiting events of a parked aggregate, the bad one first.
pub async fn parked_events(
    pool: &PgPool,
    view: &str,
    aggregate_id: &str,
) -> Result<Vec<ParkedEvent>, OpsError> {
    let events: Vec<ParkedEvent> = sqlx::query_as(
        "SELECT e.topic, e.partition, e.\"offset\", e.sequence, e.headers, e.payload
         FROM millrace_views.parked_events e
         JOIN millrace_views.views v ON v.name = e.view AND v.live_build = e.build
         WHERE e.view = $1 AND e.aggregate_id = $2 ORDER BY e.topic, e.partition, e.\"offset\"",
    )
    .bind(view)
    .bind(aggregate_id)
    .fetch_all(pool)
    .await?;
    if events.is_empty() {
        return Err(OpsError::NotParked {
            view: view.to_owned(),
            aggregate_id: aggregate_id.to_owned(),
        });
    }
    Ok(events)
}

/// Asks the partition's owner to retry or skip; it does so within half a second, in order.
pub async fn request(
    pool: &PgPool,
    view: &str,
    aggregate_id: &str,
    request: Request,
) -> Result<(), OpsError> {
    let asked = sqlx::query(
        "UPDATE millrace_views.parked p SET request = $3
         FROM millrace_views.views v
         WHERE v.name = p.view AND v.live_build = p.build AND p.view = $1 AND p.aggregate_id = $2",
    )
    .bind(view)
    .bind(aggregate_id)
    .bind(request.as_str())
    .execute(pool)
    .await?
    .rows_affected();
    if asked == 0 {
        return Err(OpsError::NotParked {
            view: view.to_owned(),
            aggregate_id: aggregate_id.to_owned(),
        });
    }
    Ok(())
}

/// Asks Kafka whether it is there; at most four seconds.
pub async fn kafka_answers(kafka: &KafkaConfig) -> Result<(), OpsError> {
    let kafka = kafka.clone();
    let asked = blocking(move || {
        let reader: BaseConsumer = client::reader(&kafka, "status").create()?;
        reader.client().fetch_metadata(None, KAFKA_TIMEOUT)?;
        Ok(())
    });
    Ok(asked.await?)
}
