//! Where every view stands.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgPool};

use super::ends::{Ends, ends_and_rest};
use super::{OpsError, blocking, group};
use crate::config::KafkaConfig;
use crate::handled::{self, Handled};

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
    /// What it has handled here.
    #[serde(flatten)]
    pub handled: Handled,
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
    let mut partitions = partitions(kafka, pool).await?;
    let mut statuses = Vec::with_capacity(views.len());
    for (view, live_build, paused, schema) in views {
        let partitions = partitions.remove(&view).unwrap_or_default();
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
    view: String,
    topic: String,
    partition: i32,
    next: i64,
    epoch: i64,
    event_time: Option<DateTime<Utc>>,
    claimed_by: Option<String>,
    error: Option<String>,
    error_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
    #[sqlx(flatten)]
    handled: Handled,
}

/// By view. Kafka is asked once for all of them.
async fn partitions(
    kafka: Option<&KafkaConfig>,
    pool: &PgPool,
) -> Result<BTreeMap<String, Vec<PartitionStatus>>, OpsError> {
    let checkpoints: Vec<Checkpoint> = sqlx::query_as(concat!(
        "SELECT c.view, c.topic, c.partition, c.next, c.epoch, c.event_time, c.claimed_by, c.error, c.error_at,
                c.updated_at, ",
        handled::columns!(),
        ", ",
        handled::parked!(),
        " FROM millrace_views.checkpoints c ORDER BY c.view, c.topic, c.partition"
    ))
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
    let mut views: BTreeMap<String, Vec<PartitionStatus>> = BTreeMap::new();
    for row in checkpoints {
        let place = ((row.topic.clone(), row.partition), row.next);
        let seen = behind.get(&place).copied();
        let partition = PartitionStatus {
            next: row.next,
            end: seen.map(|seen| seen.stable),
            lag: seen.map(|seen| (seen.stable - row.next).max(0)),
            withheld: seen.map(|seen| (seen.last - seen.stable).max(0)),
            caught_up: seen.is_some_and(|seen| !seen.left()),
            topic: row.topic,
            partition: row.partition,
            event_time: row.event_time,
            epoch: row.epoch,
            claimed_by: row.claimed_by,
            error: row.error,
            error_at: row.error_at,
            updated_at: row.updated_at,
            handled: row.handled,
        };
        views.entry(row.view).or_default().push(partition);
    }
    Ok(views)
}
