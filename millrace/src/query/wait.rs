//! Read your own writes: waiting until a view has applied a command's events.
//!
//! Invariant: when the wait ends well, every row that is read afterwards contains the token's event. Three things would
//! break it, and each has its own answer. The checkpoint passes an event that an operator skipped: a skip record says so,
//! or `skipped_events` where it was parked before (410). It passes an event that was parked: that event stands in
//! `parked_events` of the live build (409). The checkpoint, the live build, skips and parking are read at different
//! moments while a swap or a batch commits between them: all are read by one statement, so from one snapshot. Test:
//! `query::a_token_…`.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::position::Token;
use crate::query::{QueryError, bounded};

/// First pause between two looks; the usual wait is a few milliseconds.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(25);

/// Returns once the view's rows contain the token's event. A partition without a checkpoint is waited for too.
pub async fn await_token(
    pool: &PgPool,
    view: &str,
    token: &Token,
    timeout: Duration,
) -> Result<(), QueryError> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match bounded(look(pool, view, token)).await? {
            Seen::Applied => return Ok(()),
            Seen::Skipped => {
                return Err(QueryError::Skipped {
                    view: view.to_owned(),
                    token: token.clone(),
                });
            }
            Seen::Parked(aggregate_id) => {
                return Err(QueryError::Parked {
                    view: view.to_owned(),
                    token: token.clone(),
                    aggregate_id,
                });
            }
            Seen::Behind => {}
        }
        let left = timeout.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(QueryError::Behind {
                view: view.to_owned(),
                token: token.clone(),
                waited_ms: timeout.as_millis(),
            });
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

enum Seen {
    Behind,
    Applied,
    Skipped,
    Parked(String),
}

async fn look(pool: &PgPool, view: &str, token: &Token) -> Result<Seen, QueryError> {
    // A skip without `to_*` holds no event. One without `from_*` began before the first event.
    let row: Option<(bool, bool, Option<String>)> = sqlx::query_as(
        "SELECT (c.generation, c.xid, c.position) >= ($4, $5, $6),
                EXISTS (SELECT FROM millrace_views.skips s
                        WHERE s.view = c.view AND s.topic = c.topic AND s.partition = c.partition
                          AND s.rebuilt_at IS NULL
                          AND (s.from_position IS NULL
                               OR (s.from_generation, s.from_xid, s.from_position) < ($4, $5, $6))
                          AND (s.to_generation, s.to_xid, s.to_position) >= ($4, $5, $6))
                OR EXISTS (SELECT FROM millrace_views.skipped_events s
                           WHERE s.view = c.view AND s.topic = c.topic AND s.partition = c.partition
                             AND (s.generation, s.xid, s.position) = ($4, $5, $6)),
                (SELECT p.aggregate_id FROM millrace_views.parked_events p
                 JOIN millrace_views.views v ON v.name = p.view AND v.live_build = p.build
                 WHERE p.view = c.view AND p.topic = c.topic AND p.partition = c.partition
                   AND (p.generation, p.xid, p.position) = ($4, $5, $6) LIMIT 1)
         FROM millrace_views.checkpoints c
         WHERE c.view = $1 AND c.topic = $2 AND c.partition = $3 AND c.position IS NOT NULL",
    )
    .bind(view)
    .bind(&token.topic)
    .bind(token.partition)
    .bind(token.position.generation)
    .bind(token.position.xid)
    .bind(token.position.position)
    .fetch_optional(pool)
    .await?;
    Ok(match row {
        None | Some((false, ..)) => Seen::Behind,
        Some((true, _, Some(aggregate_id))) => Seen::Parked(aggregate_id),
        Some((true, true, None)) => Seen::Skipped,
        Some((true, false, None)) => Seen::Applied,
    })
}
