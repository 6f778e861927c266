//! What is to be built: resets that wait, the build that covers them, and what is left of old ones.

use std::collections::BTreeSet;

use sqlx::postgres::PgArguments;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres};

use crate::projection::{Build, Projector, builds, checkpoint};
use crate::rebuild::lease::Tenure;
use crate::rebuild::reader::Key;
use crate::rebuild::{RebuildConfig, RebuildError};

/// A build under way.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Its tables.
    pub(super) build: Build,
    /// It covers some partitions only, and its rows are moved into the live tables.
    pub(super) partial: bool,
}

/// Asks for a rebuild of every partition of a view and returns the ids of the resets; `millrace rebuild VIEW`.
pub async fn ask(conn: &mut PgConnection, view: &str) -> Result<Vec<i64>, sqlx::Error> {
    ask_for(conn, view, None).await
}

/// The same for one of its topics alone.
pub async fn ask_for(
    conn: &mut PgConnection,
    view: &str,
    topic: Option<&str>,
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO millrace_views.resets (view, topic, partition, target, next)
         SELECT view, topic, partition, 0, next FROM millrace_views.checkpoints
         WHERE view = $1 AND ($2::text IS NULL OR topic = $2)
         RETURNING id",
    )
    .bind(view)
    .bind(topic)
    .fetch_all(conn)
    .await
}

/// Views that have read a topic, by name.
pub async fn readers(conn: &mut PgConnection, topic: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT DISTINCT view FROM millrace_views.checkpoints WHERE topic = $1 ORDER BY view",
    )
    .bind(topic)
    .fetch_all(conn)
    .await
}

/// How far a rebuild is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Number of the build that runs, if one does.
    pub build: Option<i32>,
    /// Offsets that it has read, over its partitions.
    pub read: i64,
    /// Offsets that the live view has read there.
    pub target: i64,
    /// Resets of those asked for that are not done.
    pub open: i64,
}

/// How far the rebuild is that covers these resets; done when `open` is 0.
pub async fn progress(
    conn: &mut PgConnection,
    view: &str,
    resets: &[i64],
) -> Result<Progress, sqlx::Error> {
    let (build, read, target, open) = sqlx::query_as(
        "SELECT (SELECT max(build) FROM millrace_views.builds WHERE view = $1 AND state = 'building'),
                coalesce(sum(b.next), 0)::bigint, coalesce(sum(c.next), 0)::bigint,
                (SELECT count(*) FROM millrace_views.resets WHERE id = ANY($2) AND done_at IS NULL)
         FROM millrace_views.builds s
         JOIN millrace_views.build_checkpoints b USING (view, build)
         JOIN millrace_views.checkpoints c USING (view, topic, partition)
         WHERE s.view = $1 AND s.state = 'building'",
    )
    .bind(view)
    .bind(resets)
    .fetch_one(conn)
    .await?;
    Ok(Progress {
        build,
        read,
        target,
        open,
    })
}

/// True if a build is under way, can begin, or left something to drop.
pub(super) async fn has_work(
    conn: &mut PgConnection,
    projector: &dyn Projector,
    config: &RebuildConfig,
) -> Result<bool, sqlx::Error> {
    let left: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM millrace_views.builds
                        WHERE view = $1 AND state = 'building')
             OR EXISTS (SELECT FROM millrace_views.builds b
                        JOIN information_schema.schemata s ON s.schema_name = b.schema_name
                        WHERE b.view = $1 AND b.state IN ('retired', 'abandoned'))",
    )
    .bind(projector.name())
    .fetch_one(&mut *conn)
    .await?;
    Ok(left || may_begin(conn, projector, config).await?)
}

/// A reset of the group's offsets shows partition by partition as each is claimed, so the first one found
/// waits for the others; a dead sink must not hold it up for ever. Resets of another definition are for the
/// program that has it; an operator's are for whoever has the definition that is live.
async fn may_begin(
    conn: &mut PgConnection,
    projector: &dyn Projector,
    config: &RebuildConfig,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "WITH open AS (SELECT topic, partition, created_at FROM millrace_views.resets
                       WHERE view = $1 AND build IS NULL AND done_at IS NULL
                         AND (definition = $3 OR definition IS NULL AND $3 = (
                             SELECT definition FROM millrace_views.views WHERE name = $1))),
              first AS (SELECT min(created_at) AS at FROM open)
         SELECT coalesce((SELECT at < now() - $2 * interval '1 second' FROM first), false)
             OR (EXISTS (SELECT FROM open) AND NOT EXISTS (
                 SELECT FROM millrace_views.checkpoints c, first
                 WHERE c.view = $1
                   AND (c.claimed_at IS NULL OR c.claimed_at < first.at - interval '100 milliseconds')
                   AND NOT EXISTS (SELECT FROM open o
                                   WHERE o.topic = c.topic AND o.partition = c.partition)))",
    )
    .bind(projector.name())
    .bind(config.claims_timeout.as_secs_f64())
    .bind(builds::definition(projector))
    .fetch_one(conn)
    .await
}

/// The build under way, if this program may go on with it. One for a definition that is neither
/// ours nor live is given up; one for another definition than ours, while ours is live, is a newer program's.
pub(super) async fn current(
    conn: &mut PgConnection,
    projector: &dyn Projector,
) -> Result<Option<Plan>, RebuildError> {
    type Row = (i32, String, bool, Option<Vec<u8>>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT build, schema_name, partial, definition FROM millrace_views.builds
         WHERE view = $1 AND state = 'building' ORDER BY build DESC LIMIT 1",
    )
    .bind(projector.name())
    .fetch_optional(&mut *conn)
    .await?;
    let Some((number, schema, partial, definition)) = row else {
        return Ok(None);
    };
    if definition.as_deref() == Some(&builds::definition(projector)) {
        return Ok(Some(Plan {
            build: build_of(conn, projector.name(), number, schema).await?,
            partial,
        }));
    }
    let live = builds::live(conn, projector).await?;
    if live.is_some_and(|live| live.current) {
        return Err(RebuildError::Fenced {
            view: projector.name().to_owned(),
            build: number,
            reason: "it is for another definition than this program's",
        });
    }
    abandon(conn, projector.name(), number).await?;
    Ok(None)
}

async fn abandon(conn: &mut PgConnection, view: &str, number: i32) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    for statement in [
        "UPDATE millrace_views.builds SET state = 'abandoned', finished_at = now()
         WHERE view = $1 AND build = $2 AND state = 'building'",
        "UPDATE millrace_views.resets SET build = NULL
         WHERE view = $1 AND build = $2 AND done_at IS NULL",
        "DELETE FROM millrace_views.parked WHERE view = $1 AND build = $2",
    ] {
        sqlx::query(statement)
            .bind(view)
            .bind(number)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// Creates the next build's tables and gives it the resets that wait; none if none may begin.
pub(super) async fn begin(
    conn: &mut PgConnection,
    projector: &dyn Projector,
    config: &RebuildConfig,
    tenure: &Tenure,
) -> Result<Option<Plan>, RebuildError> {
    let view = projector.name();
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT FROM millrace_views.views WHERE name = $1 FOR UPDATE")
        .bind(view)
        .execute(&mut *tx)
        .await?;
    let live = builds::live(&mut tx, projector).await?;
    let Some(live) = live else { return Ok(None) };
    if !tenure.check(&mut tx).await? || !may_begin(&mut tx, projector, config).await? {
        return Ok(None);
    }
    let definition = builds::definition(projector);
    let all = keys(sqlx::query_as(CHECKPOINTS).bind(view), &mut tx).await?;
    let open = sqlx::query_as(OPEN_RESETS).bind(view).bind(&definition);
    let asked = keys(open, &mut tx).await?;
    // Tables of another definition cannot take some partitions' rows.
    let partial = live.current && !all.is_subset(&asked);
    let number: i32 =
        sqlx::query_scalar("SELECT max(build) + 1 FROM millrace_views.builds WHERE view = $1")
            .bind(view)
            .fetch_one(&mut *tx)
            .await?;
    let schema = builds::create(&mut tx, projector, number).await?;
    sqlx::query(
        "INSERT INTO millrace_views.builds
             (view, build, schema_name, state, partial, reason, definition)
         VALUES ($1, $2, $3, 'building', $4, $5, $6)",
    )
    .bind(view)
    .bind(number)
    .bind(&schema)
    .bind(partial)
    .bind(if live.current {
        "reset"
    } else {
        "definition changed"
    })
    .bind(&definition)
    .execute(&mut *tx)
    .await?;
    let covered = if partial { asked } else { all };
    for key in &covered {
        add(&mut tx, (view, number), key).await?;
    }
    sqlx::query(
        "UPDATE millrace_views.resets SET build = $2
         WHERE view = $1 AND build IS NULL AND done_at IS NULL
           AND (definition IS NULL OR definition = $3)",
    )
    .bind(view)
    .bind(number)
    .bind(&definition)
    .execute(&mut *tx)
    .await?;
    let build = build_of(&mut tx, view, number, schema).await?;
    tx.commit().await?;
    tracing::info!(view, build = number, partial, "rebuild begins");
    Ok(Some(Plan { build, partial }))
}

async fn build_of(
    conn: &mut PgConnection,
    view: &str,
    number: i32,
    schema: String,
) -> Result<Build, sqlx::Error> {
    Ok(Build {
        view: view.to_owned(),
        number,
        schema,
        skips: checkpoint::gaps_allowed(conn, view).await?,
        parked_max: 0,
    })
}

/// Writes down for `status` what interrupted the build under way.
pub(super) async fn failed(
    conn: &mut PgConnection,
    projector: &dyn Projector,
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE millrace_views.builds SET error = $3, error_at = now()
         WHERE view = $1 AND state = 'building' AND definition = $2",
    )
    .bind(projector.name())
    .bind(builds::definition(projector))
    .bind(error.replace('\0', "\u{fffd}"))
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds a partition to a build, from the log's start. That is offset 0: event topics keep everything, and one that does
/// not is refused when it is read (`reader::whole`).
pub(super) async fn add(
    tx: &mut PgConnection,
    (view, number): (&str, i32),
    (topic, partition): &Key,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO millrace_views.build_checkpoints (view, build, topic, partition, next)
         VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING",
    )
    .bind(view)
    .bind(number)
    .bind(topic)
    .bind(partition)
    .execute(tx)
    .await?;
    Ok(())
}

const CHECKPOINTS: &str = "SELECT topic, partition FROM millrace_views.checkpoints WHERE view = $1";
const OPEN_RESETS: &str = "SELECT DISTINCT topic, partition FROM millrace_views.resets
     WHERE view = $1 AND build IS NULL AND done_at IS NULL
       AND (definition IS NULL OR definition = $2)";

async fn keys(
    query: sqlx::query::QueryAs<'_, Postgres, Key, PgArguments>,
    conn: &mut PgConnection,
) -> Result<BTreeSet<Key>, sqlx::Error> {
    Ok(query.fetch_all(conn).await?.into_iter().collect())
}

/// Drops what readers no longer see. A reader that still uses an old table holds it up, not the swap.
pub(super) async fn drop_old(
    conn: &mut PgConnection,
    projector: &dyn Projector,
) -> Result<(), RebuildError> {
    let schemas: Vec<String> = sqlx::query_scalar(
        "SELECT b.schema_name FROM millrace_views.builds b
         JOIN information_schema.schemata s ON s.schema_name = b.schema_name
         WHERE b.view = $1 AND b.state IN ('retired', 'abandoned')",
    )
    .bind(projector.name())
    .fetch_all(&mut *conn)
    .await?;
    for schema in schemas {
        let mut tx = conn.begin().await?;
        // CASCADE takes the tables, and views that others built on them in spite of the SQL view.
        let drop = format!(
            "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '600s'; DROP SCHEMA {schema} CASCADE;"
        );
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *tx).await?;
        tx.commit().await?;
        tracing::info!(view = projector.name(), schema, "old build dropped");
    }
    Ok(())
}
