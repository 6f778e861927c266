//! Replays in the views' Postgres.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::window::Planned;
use super::{PartitionReplay, Replay, ReplayError, Wanted};
use crate::rebuild;
use crate::stats::HandlerKind;

/// A replay as it is stored.
pub(super) struct Stored {
    pub(super) id: Uuid,
    pub(super) event_type: Option<String>,
    pub(super) since: DateTime<Utc>,
    pub(super) asked_at: DateTime<Utc>,
    pub(super) done: bool,
    pub(super) handlers: Vec<StoredHandler>,
}

pub(super) struct StoredHandler {
    pub(super) kind: HandlerKind,
    pub(super) name: String,
    pub(super) group: String,
    pub(super) done: bool,
    /// Of a view: offsets that its rebuild has left, none when it is done.
    pub(super) rebuild_left: Option<i64>,
    pub(super) partitions: Vec<PartitionReplay>,
}

fn word(kind: HandlerKind) -> &'static str {
    match kind {
        HandlerKind::View => "view",
        HandlerKind::Processor => "processor",
        HandlerKind::Effect => "effect",
    }
}

fn kind(word: &str) -> HandlerKind {
    match word {
        "view" => HandlerKind::View,
        "effect" => HandlerKind::Effect,
        _ => HandlerKind::Processor,
    }
}

/// None of them follows a replay at this moment; [`begin`] makes sure of it.
pub(super) async fn check_free(pool: &PgPool, groups: &[&str]) -> Result<(), ReplayError> {
    match busy(pool, groups).await? {
        Some((group, replay)) => Err(ReplayError::Busy { group, replay }),
        None => Ok(()),
    }
}

/// The first of them that follows a replay, and which one.
async fn busy(
    executor: impl PgExecutor<'_>,
    groups: &[&str],
) -> Result<Option<(String, Uuid)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT group_name, replay FROM millrace_views.replay_handlers
         WHERE group_name = ANY ($1) AND done_at IS NULL ORDER BY group_name LIMIT 1",
    )
    .bind(groups)
    .fetch_optional(executor)
    .await
}

/// Writes it down, sets effects back and asks for rebuilds, all or nothing.
pub(super) async fn begin(
    pool: &PgPool,
    (id, wanted): (Uuid, &Wanted),
    plan: &[Planned],
) -> Result<(), ReplayError> {
    let mut tx = pool.begin().await?;
    sqlx::query("INSERT INTO millrace_views.replays (id, event_type, since) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(&wanted.event_type)
        .bind(wanted.since)
        .execute(&mut *tx)
        .await?;
    for one in plan {
        // Waits for one who asks for the same handler at this moment, and then finds theirs.
        let mine = sqlx::query(
            "INSERT INTO millrace_views.replay_handlers (replay, group_name, kind, name)
             VALUES ($1, $2, $3, $4) ON CONFLICT (group_name) WHERE done_at IS NULL DO NOTHING",
        )
        .bind(id)
        .bind(&one.group)
        .bind(word(one.kind))
        .bind(&one.name)
        .execute(&mut *tx)
        .await?;
        if mine.rows_affected() == 0 {
            let found = busy(&mut *tx, &[&one.group]).await?;
            let replay = found.map(|(_, replay)| replay).unwrap_or_default();
            return Err(ReplayError::Busy {
                group: one.group.clone(),
                replay,
            });
        }
        match one.kind {
            HandlerKind::View => rebuild_view(&mut tx, id, one).await?,
            HandlerKind::Effect => set_back(&mut tx, id, one).await?,
            HandlerKind::Processor => {
                for partition in &one.partitions {
                    add(&mut tx, (id, &one.group), partition).await?;
                }
            }
        }
    }
    tx.commit().await?;
    Ok(())
}

async fn add(
    tx: &mut PgConnection,
    (id, group): (Uuid, &str),
    partition: &PartitionReplay,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO millrace_views.replay_partitions
             (replay, group_name, topic, partition, from_offset, to_offset)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id)
    .bind(group)
    .bind(&partition.topic)
    .bind(partition.partition)
    .bind(partition.from)
    .bind(partition.to)
    .execute(tx)
    .await?;
    Ok(())
}

/// The checkpoint goes back and its epoch up, which fences its owner; the mark stays, so nothing is called again. The rows
/// are locked in the order in which every batch locks them.
async fn set_back(tx: &mut PgConnection, id: Uuid, one: &Planned) -> Result<(), sqlx::Error> {
    let mut partitions: Vec<&PartitionReplay> = one.partitions.iter().collect();
    partitions.sort_by(|one, two| (&one.topic, one.partition).cmp(&(&two.topic, two.partition)));
    for partition in partitions {
        let stood: Option<i64> = sqlx::query_scalar(
            "SELECT next FROM millrace_effects.checkpoints
             WHERE effect = $1 AND topic = $2 AND partition = $3 AND next > $4 FOR UPDATE",
        )
        .bind(&one.name)
        .bind(&partition.topic)
        .bind(partition.partition)
        .bind(partition.from)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(stood) = stood else { continue };
        sqlx::query(
            "UPDATE millrace_effects.checkpoints SET next = $4, epoch = epoch + 1, updated_at = now()
             WHERE effect = $1 AND topic = $2 AND partition = $3",
        )
        .bind(&one.name)
        .bind(&partition.topic)
        .bind(partition.partition)
        .bind(partition.from)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO millrace_effects.resets (effect, topic, partition, from_offset, to_offset)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&one.name)
        .bind(&partition.topic)
        .bind(partition.partition)
        .bind(stood)
        .bind(partition.from)
        .execute(&mut *tx)
        .await?;
        let partition = PartitionReplay {
            to: stood,
            ..partition.clone()
        };
        add(tx, (id, &one.group), &partition).await?;
    }
    Ok(())
}

/// A rebuild of the topics that were chosen.
async fn rebuild_view(tx: &mut PgConnection, id: Uuid, one: &Planned) -> Result<(), sqlx::Error> {
    let mut topics: Vec<&str> = one
        .partitions
        .iter()
        .map(|one| one.topic.as_str())
        .collect();
    topics.sort_unstable();
    topics.dedup();
    let mut resets = Vec::new();
    for topic in topics {
        resets.extend(rebuild::ask_for(&mut *tx, &one.name, Some(topic)).await?);
    }
    sqlx::query(
        "UPDATE millrace_views.replay_handlers SET resets = $3 WHERE replay = $1 AND group_name = $2",
    )
    .bind(id)
    .bind(&one.group)
    .bind(resets)
    .execute(&mut *tx)
    .await?;
    for partition in &one.partitions {
        add(tx, (id, &one.group), partition).await?;
    }
    Ok(())
}

/// Those that are not done, oldest first.
pub(super) async fn open(pool: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT id FROM millrace_views.replays WHERE done_at IS NULL ORDER BY asked_at",
    )
    .fetch_all(pool)
    .await
}

/// One, with its plan.
pub(super) async fn replay(pool: &PgPool, id: Uuid) -> Result<Option<Stored>, sqlx::Error> {
    type Found = (Option<String>, DateTime<Utc>, DateTime<Utc>, bool);
    let mut conn = pool.acquire().await?;
    let found: Option<Found> = sqlx::query_as(
        "SELECT event_type, since, asked_at, done_at IS NOT NULL FROM millrace_views.replays WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((event_type, since, asked_at, done)) = found else {
        return Ok(None);
    };
    let rows: Vec<(String, String, String, bool, Vec<i64>)> = sqlx::query_as(
        "SELECT kind, name, group_name, done_at IS NOT NULL, resets FROM millrace_views.replay_handlers
         WHERE replay = $1 ORDER BY group_name",
    )
    .bind(id)
    .fetch_all(&mut *conn)
    .await?;
    let mut handlers = Vec::new();
    for (word, name, group, done, resets) in rows {
        let kind = kind(&word);
        let rebuild_left = match kind == HandlerKind::View && !done {
            true => left_to_build(&mut conn, &name, &resets).await?,
            false => None,
        };
        handlers.push(StoredHandler {
            partitions: partitions(&mut conn, (id, &group)).await?,
            kind,
            name,
            group,
            done,
            rebuild_left,
        });
    }
    Ok(Some(Stored {
        id,
        event_type,
        since,
        asked_at,
        done,
        handlers,
    }))
}

async fn left_to_build(
    conn: &mut PgConnection,
    view: &str,
    resets: &[i64],
) -> Result<Option<i64>, sqlx::Error> {
    let progress = rebuild::progress(conn, view, resets).await?;
    Ok(match (progress.open, progress.build) {
        (0, _) => None,
        // It has not begun.
        (_, None) => Some(i64::MAX),
        (_, Some(_)) => Some((progress.target - progress.read).max(1)),
    })
}

async fn partitions(
    conn: &mut PgConnection,
    (id, group): (Uuid, &str),
) -> Result<Vec<PartitionReplay>, sqlx::Error> {
    let rows: Vec<(String, i32, i64, i64)> = sqlx::query_as(
        "SELECT topic, partition, from_offset, to_offset FROM millrace_views.replay_partitions
         WHERE replay = $1 AND group_name = $2 ORDER BY topic, partition",
    )
    .bind(id)
    .bind(group)
    .fetch_all(conn)
    .await?;
    let partition = |(topic, partition, from, to)| PartitionReplay {
        topic,
        partition,
        from,
        to,
        begun: false,
        left: to - from,
    };
    Ok(rows.into_iter().map(partition).collect())
}

/// Notes what is done of it, so that its handlers are free for the next.
pub(super) async fn finish(pool: &PgPool, replay: &Replay) -> Result<(), sqlx::Error> {
    let done = replay.handlers.iter().filter(|one| one.done);
    let groups: Vec<&str> = done.map(|one| one.group.as_str()).collect();
    if groups.is_empty() {
        return Ok(());
    }
    let mut tx = pool.begin().await?;
    sqlx::query(
        "UPDATE millrace_views.replay_handlers SET done_at = now()
         WHERE replay = $1 AND group_name = ANY($2) AND done_at IS NULL",
    )
    .bind(replay.id)
    .bind(groups)
    .execute(&mut *tx)
    .await?;
    if replay.done {
        sqlx::query(
            "UPDATE millrace_views.replays SET done_at = now() WHERE id = $1 AND done_at IS NULL",
        )
        .bind(replay.id)
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await
}
