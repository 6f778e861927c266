//! What an operator sees of the views and asks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, FromRow, PgPool};

use crate::config::KafkaConfig;
use crate::log::client;
use crate::projection::Request;

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
    let listed = blocking(move || {
        let consumer: BaseConsumer = client::reader(&kafka, "groups").create()?;
        let groups = consumer.fetch_group_list(Some(&group), KAFKA_TIMEOUT)?;
        Ok(groups
            .groups()
            .iter()
            .filter(|listed| listed.name() == group)
            .map(|listed| listed.members().len())
            .sum())
    });
    Ok(listed.await?)
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

/// A view as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewStatus {
    /// Its name.
    pub view: String,
    /// Its consumer group.
    pub group: String,
    /// Stopped by an operator.
    pub paused: bool,
    /// Number of the build that readers see.
    pub live_build: i32,
    /// Its tables, with their schema.
    pub tables: Vec<String>,
    /// True if no record of any partition is left to apply.
    pub caught_up: bool,
    /// Where it stands.
    pub partitions: Vec<PartitionStatus>,
    /// What was skipped on purpose.
    pub skips: Vec<SkipStatus>,
    /// Aggregates whose rows miss skipped events.
    pub incomplete_aggregates: i64,
    /// Parked aggregates.
    pub parked_aggregates: i64,
    /// Resets that wait for a rebuild or are covered by one under way.
    pub resets: Vec<ResetStatus>,
    /// Builds under way.
    pub building: Vec<BuildStatus>,
}

/// A partition of a view.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartitionStatus {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset of the next record to apply.
    pub next: i64,
    /// The topic's end, up to which transactions are finished; unknown while Kafka is away.
    pub end: Option<i64>,
    /// At most this many records are left: transaction markers count, so a view that has caught up can show some.
    pub lag: Option<i64>,
    /// Offsets behind `end` that a transaction under way withholds; one that stays above 0 hangs.
    pub withheld: Option<i64>,
    /// True if none is left, as far as Kafka could be asked.
    pub caught_up: bool,
    /// Time of the last event applied.
    pub event_time: Option<DateTime<Utc>>,
    /// Raised by every claim.
    pub epoch: i64,
    /// Process that claimed it last.
    pub claimed_by: Option<String>,
    /// Why it stands still.
    pub error: Option<String>,
    /// Since when.
    pub error_at: Option<DateTime<Utc>>,
    /// When its position last moved or was claimed.
    pub updated_at: DateTime<Utc>,
}

/// A skip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct SkipStatus {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset skipped.
    pub from_offset: i64,
    /// First offset not skipped.
    pub to_offset: i64,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
}

/// A reset that asks for a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct ResetStatus {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset that the operator chose.
    pub target: i64,
    /// The build that covers it, once there is one.
    pub build: Option<i32>,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
}

/// A build under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct BuildStatus {
    /// Its number.
    pub build: i32,
    /// Why it was started.
    pub reason: String,
    /// When.
    pub started_at: DateTime<Utc>,
    /// Offsets applied, over its partitions.
    pub applied: i64,
    /// Offsets to apply until it stands where the live build does.
    pub total: i64,
    /// What interrupted it last and will do so again until an operator acts; it is tried again meanwhile.
    pub error: Option<String>,
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

/// Every view that was ever run on this database.
pub async fn status(kafka: &KafkaConfig, pool: &PgPool) -> Result<Vec<ViewStatus>, OpsError> {
    status_of(Some(kafka), pool).await
}

/// The same without asking Kafka: no partition has an end or a lag, none counts as caught up.
pub async fn stored_status(pool: &PgPool) -> Result<Vec<ViewStatus>, OpsError> {
    status_of(None, pool).await
}

async fn status_of(
    kafka: Option<&KafkaConfig>,
    pool: &PgPool,
) -> Result<Vec<ViewStatus>, OpsError> {
    type Row = (String, i32, bool, String);
    let views: Vec<Row> = sqlx::query_as(
        "SELECT v.name, v.live_build, v.paused, b.schema_name FROM millrace_views.views v
         JOIN millrace_views.builds b ON b.view = v.name AND b.build = v.live_build
         ORDER BY v.name",
    )
    .fetch_all(pool)
    .await?;
    let mut statuses = Vec::with_capacity(views.len());
    for (view, live_build, paused, schema) in views {
        let partitions = partitions(kafka, pool, &view).await?;
        let (tables, incomplete_aggregates) = tables(pool, &schema).await?;
        statuses.push(ViewStatus {
            group: group(&view),
            paused,
            live_build,
            tables,
            caught_up: partitions.iter().all(|partition| partition.caught_up),
            partitions,
            skips: rows(
                pool,
                "SELECT topic, partition, from_offset, to_offset, created_at
                 FROM millrace_views.skips WHERE view = $1 AND rebuilt_at IS NULL ORDER BY id",
                &view,
            )
            .await?,
            incomplete_aggregates,
            parked_aggregates: sqlx::query_scalar(
                "SELECT count(*) FROM millrace_views.parked WHERE view = $1 AND build = $2",
            )
            .bind(&view)
            .bind(live_build)
            .fetch_one(pool)
            .await?,
            resets: rows(
                pool,
                "SELECT topic, partition, target, build, created_at
                 FROM millrace_views.resets WHERE view = $1 AND done_at IS NULL ORDER BY id",
                &view,
            )
            .await?,
            building: rows(
                pool,
                "SELECT b.build, b.reason, b.started_at, b.error,
                        coalesce(sum(p.next), 0)::bigint AS applied,
                        coalesce(sum(c.next), 0)::bigint AS total
                 FROM millrace_views.builds b
                 LEFT JOIN millrace_views.build_checkpoints p
                     ON p.view = b.view AND p.build = b.build
                 LEFT JOIN millrace_views.checkpoints c
                     ON c.view = p.view AND c.topic = p.topic AND c.partition = p.partition
                 WHERE b.view = $1 AND b.state = 'building'
                 GROUP BY b.build, b.reason, b.started_at, b.error ORDER BY b.build",
                &view,
            )
            .await?,
            view,
        });
    }
    Ok(statuses)
}

async fn rows<T>(pool: &PgPool, sql: &'static str, view: &str) -> Result<Vec<T>, sqlx::Error>
where
    T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    sqlx::query_as(sql).bind(view).fetch_all(pool).await
}

/// A build's tables, and how many aggregates are marked incomplete in them.
async fn tables(pool: &PgPool, schema: &str) -> Result<(Vec<String>, i64), sqlx::Error> {
    let found: Vec<(String, bool)> = sqlx::query_as(
        "SELECT t.table_name::text, EXISTS (
             SELECT FROM information_schema.columns c
             WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name
               AND c.column_name = 'incomplete')
         FROM information_schema.tables t WHERE t.table_schema = $1 ORDER BY 1",
    )
    .bind(schema)
    .fetch_all(pool)
    .await?;
    let marked: Vec<String> = found
        .iter()
        .filter(|(_, marks)| *marks)
        .map(|(table, _)| {
            format!("SELECT aggregate_id FROM \"{schema}\".\"{table}\" WHERE incomplete")
        })
        .collect();
    let incomplete = if marked.is_empty() {
        0
    } else {
        let count = format!(
            "SELECT count(*) FROM ({}) AS marked",
            marked.join(" UNION ")
        );
        sqlx::query_scalar(AssertSqlSafe(count))
            .fetch_one(pool)
            .await?
    };
    let tables = found
        .into_iter()
        .map(|(table, _)| format!("{schema}.{table}"))
        .collect();
    Ok((tables, incomplete))
}

#[derive(FromRow)]
struct Checkpoint {
    topic: String,
    partition: i32,
    next: i64,
    epoch: i64,
    event_time: Option<DateTime<Utc>>,
    claimed_by: Option<String>,
    error: Option<String>,
    error_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

async fn partitions(
    kafka: Option<&KafkaConfig>,
    pool: &PgPool,
    view: &str,
) -> Result<Vec<PartitionStatus>, OpsError> {
    let checkpoints: Vec<Checkpoint> = sqlx::query_as(
        "SELECT topic, partition, next, epoch, event_time, claimed_by, error, error_at, updated_at
         FROM millrace_views.checkpoints WHERE view = $1 ORDER BY topic, partition",
    )
    .bind(view)
    .fetch_all(pool)
    .await?;
    let positions: Vec<(String, i32, i64)> = checkpoints
        .iter()
        .map(|row| (row.topic.clone(), row.partition, row.next))
        .collect();
    let behind = match kafka.cloned() {
        Some(kafka) => blocking(move || ends_and_rest(&kafka, &positions)).await?,
        None => Ends::new(),
    };
    let rows = checkpoints.into_iter().map(|row| {
        let seen = behind.get(&(row.topic.clone(), row.partition)).copied();
        PartitionStatus {
            next: row.next,
            end: seen.map(|seen| seen.stable),
            lag: seen.map(|seen| (seen.stable - row.next).max(0)),
            withheld: seen.map(|seen| (seen.last - seen.stable).max(0)),
            caught_up: seen.is_some_and(|seen| !seen.left),
            topic: row.topic,
            partition: row.partition,
            event_time: row.event_time,
            epoch: row.epoch,
            claimed_by: row.claimed_by,
            error: row.error,
            error_at: row.error_at,
            updated_at: row.updated_at,
        }
    });
    Ok(rows.collect())
}

pub(crate) type Ends = BTreeMap<(String, i32), End>;

/// The end of a partition.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// Up to which transactions are finished.
    pub(crate) stable: i64,
    /// With those under way.
    pub(crate) last: i64,
    /// True if a record stands between the position and `stable`.
    pub(crate) left: bool,
}

/// The end of each partition, and whether a record stands between the position and it.
///
/// An end above the position does not say so: transactions leave markers, which are offsets without a
/// record. Only reading tells them apart.
pub(crate) fn ends_and_rest(
    kafka: &KafkaConfig,
    positions: &[(String, i32, i64)],
) -> Result<Ends, KafkaError> {
    let reader: BaseConsumer = client::reader(kafka, "status").create()?;
    let all: BaseConsumer = client::reader(kafka, "status")
        .set("isolation.level", "read_uncommitted")
        .create()?;
    let mut ends = Ends::new();
    let mut open: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
    for (topic, partition, next) in positions {
        let (_, end) = reader.fetch_watermarks(topic, *partition, KAFKA_TIMEOUT)?;
        let (_, last) = all.fetch_watermarks(topic, *partition, KAFKA_TIMEOUT)?;
        let left = end > *next;
        let stable = end;
        ends.insert((topic.clone(), *partition), End { stable, last, left });
        if end > *next {
            open.entry(topic).or_default().push((*partition, *next));
        }
    }
    // The end-of-partition event names no topic, so topics are read one after another.
    for (topic, partitions) in open {
        for partition in empty_from(&reader, topic, &partitions)? {
            if let Some(end) = ends.get_mut(&(topic.to_owned(), partition)) {
                end.left = false;
            }
        }
    }
    Ok(ends)
}

/// Which of the partitions hold no record from the offset on.
fn empty_from(
    reader: &BaseConsumer,
    topic: &str,
    partitions: &[(i32, i64)],
) -> Result<Vec<i32>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, next) in partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
    }
    reader.assign(&assignment)?;
    let mut waiting: BTreeSet<i32> = partitions.iter().map(|(partition, _)| *partition).collect();
    let mut empty = Vec::new();
    let started = Instant::now();
    while !waiting.is_empty() && started.elapsed() < KAFKA_TIMEOUT {
        let settled = match reader.poll(Duration::from_millis(100)) {
            None => continue,
            Some(Ok(message)) => message.partition(),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                if waiting.contains(&partition) {
                    empty.push(partition);
                }
                partition
            }
            // Such as an offset that the log no longer holds: not caught up, and `error` says why.
            Some(Err(error)) => {
                tracing::debug!(topic, %error, "status reader");
                continue;
            }
        };
        if waiting.remove(&settled) {
            let mut done = TopicPartitionList::new();
            done.add_partition(topic, settled);
            reader.pause(&done)?;
        }
    }
    reader.unassign()?;
    Ok(empty)
}
