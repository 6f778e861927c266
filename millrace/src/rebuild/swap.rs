//! The swap: one transaction in which readers change from the old rows to the new ones.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::projection::{Build, builds, source};
use crate::rebuild::fill::{Fill, live};
use crate::rebuild::reader::Key;
use crate::rebuild::{RebuildError, fail_point};

/// Longest that the live sink is held up for the last records.
const FILL_DEADLINE: Duration = Duration::from_secs(3);

/// Longest that a swap may take: the rows of some partitions are moved in it, however many they are.
pub(super) const LIMIT: Duration = Duration::from_secs(600);

/// What a swap came to.
pub(super) enum Outcome {
    /// Readers see the new rows.
    Swapped,
    /// Rolled back; what was read for it is to be read again.
    NotYet(&'static str),
}

/// Swaps, or changes nothing.
///
/// Locks are taken in the order of the sink's claims (the view's row, then checkpoints in partition order), each for
/// at most the lock timeout: a slow reader makes the swap wait and try again, not all later readers wait behind it.
pub(super) async fn swap(
    fill: &mut Fill<'_>,
    conn: &mut PgConnection,
) -> Result<Outcome, RebuildError> {
    let (plan, view) = (&fill.job.plan, fill.job.plan.build.view.clone());
    let mut tx = conn.begin().await?;
    sqlx::raw_sql("SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '600s'")
        .execute(&mut *tx)
        .await?;
    let old: (i32, String) = sqlx::query_as(
        "SELECT v.live_build, b.schema_name FROM millrace_views.views v
         JOIN millrace_views.builds b ON b.view = v.name AND b.build = v.live_build
         WHERE v.name = $1 FOR UPDATE OF v",
    )
    .bind(&view)
    .fetch_one(&mut *tx)
    .await?;
    fill.job.tenure.hold(&mut tx, plan).await?;
    let mut until = live(&mut tx, &view, true).await?;
    if !plan.partial && until.keys().any(|key| !fill.next.contains_key(key)) {
        return Ok(Outcome::NotYet(
            "a partition was claimed for the first time",
        ));
    }
    until.retain(|key, _| fill.next.contains_key(key));
    let begun = Instant::now();
    while until.iter().any(|(key, until)| fill.next[key] < *until) {
        if begun.elapsed() > FILL_DEADLINE {
            return Ok(Outcome::NotYet("the last records did not come in time"));
        }
        let batch = fill.read(&until)?;
        fill.job.apply(&mut tx, &batch).await?;
        fill.moved(&batch);
    }
    if until.iter().any(|(key, until)| fill.next[key] > *until) {
        return Err(fill.job.fenced(
            "the shadow is ahead of the live checkpoint: the views' database was set back",
        ));
    }
    let covered: Vec<Key> = until.into_keys().collect();
    carry_requests(&mut tx, &plan.build, old.0).await?;
    if fill.job.plan.partial {
        move_rows(fill, &mut tx, &old, &covered).await?;
    } else {
        replace(fill, &mut tx, old.0).await?;
    }
    settle(fill, &mut tx, &covered).await?;
    fail_point("rebuild.in-swap")?;
    tx.commit().await?;
    tracing::info!(
        view,
        build = fill.job.plan.build.number,
        held_up_ms = begun.elapsed().as_millis(),
        "rebuild swapped in"
    );
    Ok(Outcome::Swapped)
}

/// What operators asked for an aggregate that is parked in both builds is asked of the new one. A skip leaves out
/// the first waiting event, so it is carried only where that is the same one.
async fn carry_requests(
    tx: &mut PgConnection,
    build: &Build,
    live: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH first AS (
             SELECT build, topic, partition, aggregate_id, min(\"offset\") AS at
             FROM millrace_views.parked_events WHERE view = $1 AND build IN ($2, $3)
             GROUP BY build, topic, partition, aggregate_id
         )
         UPDATE millrace_views.parked n SET request = o.request
         FROM millrace_views.parked o
         JOIN first a ON a.build = $3 AND (a.topic, a.partition, a.aggregate_id)
                                        = (o.topic, o.partition, o.aggregate_id)
         JOIN first b ON b.build = $2 AND (b.topic, b.partition, b.aggregate_id)
                                        = (a.topic, a.partition, a.aggregate_id)
         WHERE n.view = $1 AND n.build = $2 AND o.view = $1 AND o.build = $3
           AND (n.topic, n.partition, n.aggregate_id) = (o.topic, o.partition, o.aggregate_id)
           AND (o.request = 'retry' OR o.request = 'skip' AND a.at = b.at)",
    )
    .bind(&build.view)
    .bind(build.number)
    .bind(live)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whole view: the SQL view reads the new build's tables from now on.
async fn replace(fill: &Fill<'_>, tx: &mut PgConnection, old: i32) -> Result<(), RebuildError> {
    let (projector, build) = (&*fill.job.projector, &fill.job.plan.build);
    builds::publish(tx, projector, &build.schema).await?;
    sqlx::query("UPDATE millrace_views.views SET live_build = $2, definition = $3 WHERE name = $1")
        .bind(&build.view)
        .bind(build.number)
        .bind(builds::definition(projector))
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE millrace_views.builds
         SET state = CASE build WHEN $2 THEN 'live' ELSE 'retired' END, finished_at = now()
         WHERE view = $1 AND build IN ($2, $3)",
    )
    .bind(&build.view)
    .bind(build.number)
    .bind(old)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM millrace_views.parked WHERE view = $1 AND build = $2")
        .bind(&build.view)
        .bind(old)
        .execute(tx)
        .await?;
    Ok(())
}

/// Some partitions: their rows in the live tables are replaced by the shadow's, and parking with them.
async fn move_rows(
    fill: &Fill<'_>,
    tx: &mut PgConnection,
    (live, live_schema): &(i32, String),
    covered: &[Key],
) -> Result<(), RebuildError> {
    let build = &fill.job.plan.build;
    let sources: Vec<String> = covered
        .iter()
        .map(|(topic, partition)| source(topic, *partition))
        .collect();
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)
         FROM information_schema.columns
         WHERE table_schema = $1 AND is_generated = 'NEVER' GROUP BY table_name ORDER BY table_name",
    )
    .bind(&build.schema)
    .fetch_all(&mut *tx)
    .await?;
    for (table, columns) in tables {
        // Names come from the catalogue; the schemas are the library's own.
        let delete = format!("DELETE FROM {live_schema}.{table} WHERE source = ANY($1)");
        sqlx::query(AssertSqlSafe(delete))
            .bind(&sources)
            .execute(&mut *tx)
            .await?;
        let insert = format!(
            "INSERT INTO {live_schema}.{table} ({columns}) OVERRIDING SYSTEM VALUE
             SELECT {columns} FROM {}.{table}",
            build.schema
        );
        sqlx::query(AssertSqlSafe(insert)).execute(&mut *tx).await?;
    }
    let (topics, partitions): (Vec<&str>, Vec<i32>) = unzip(covered);
    for statement in [
        "DELETE FROM millrace_views.parked p USING unnest($4::text[], $5::int[]) u (topic, partition)
         WHERE p.view = $1 AND p.build = $2 AND p.topic = u.topic AND p.partition = u.partition
           AND $3 > 0",
        "INSERT INTO millrace_views.parked
             (view, build, topic, partition, aggregate_id, reason, attempts, request, parked_at)
         SELECT view, $2, topic, partition, aggregate_id, reason, attempts, request, parked_at
         FROM millrace_views.parked WHERE view = $1 AND build = $3
           AND topic = ANY($4) AND partition = ANY($5)",
        "INSERT INTO millrace_views.parked_events
             (view, build, topic, partition, \"offset\", aggregate_id, sequence, generation, xid,
              position, key, payload, headers)
         SELECT view, $2, topic, partition, \"offset\", aggregate_id, sequence, generation, xid,
                position, key, payload, headers
         FROM millrace_views.parked_events WHERE view = $1 AND build = $3
           AND topic = ANY($4) AND partition = ANY($5)",
        "DELETE FROM millrace_views.parked WHERE view = $1 AND build = $3 AND $2 > 0
           AND topic = ANY($4) AND partition = ANY($5)",
    ] {
        sqlx::query(statement)
            .bind(&build.view)
            .bind(live)
            .bind(build.number)
            .bind(&topics)
            .bind(&partitions)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "UPDATE millrace_views.builds SET state = 'retired', finished_at = now()
         WHERE view = $1 AND build = $2",
    )
    .bind(&build.view)
    .bind(build.number)
    .execute(tx)
    .await?;
    Ok(())
}

/// What both kinds share: fences, skips and resets.
async fn settle(
    fill: &Fill<'_>,
    tx: &mut PgConnection,
    covered: &[Key],
) -> Result<(), RebuildError> {
    let build = &fill.job.plan.build;
    let (topics, partitions) = unzip(covered);
    for statement in [
        "UPDATE millrace_views.checkpoints c SET epoch = c.epoch + 1
         FROM unnest($2::text[], $3::int[]) u (topic, partition)
         WHERE c.view = $1 AND c.topic = u.topic AND c.partition = u.partition",
        "UPDATE millrace_views.skips s SET rebuilt_at = now()
         FROM unnest($2::text[], $3::int[]) u (topic, partition)
         WHERE s.view = $1 AND s.topic = u.topic AND s.partition = u.partition
           AND s.rebuilt_at IS NULL",
        "DELETE FROM millrace_views.skipped_events s
         USING unnest($2::text[], $3::int[]) u (topic, partition)
         WHERE s.view = $1 AND s.topic = u.topic AND s.partition = u.partition",
    ] {
        sqlx::query(statement)
            .bind(&build.view)
            .bind(&topics)
            .bind(&partitions)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "UPDATE millrace_views.resets SET done_at = now()
         WHERE view = $1 AND build = $2 AND done_at IS NULL",
    )
    .bind(&build.view)
    .bind(build.number)
    .execute(tx)
    .await?;
    Ok(())
}

fn unzip(keys: &[Key]) -> (Vec<&str>, Vec<i32>) {
    keys.iter()
        .map(|(topic, partition)| (topic.as_str(), *partition))
        .unzip()
}
