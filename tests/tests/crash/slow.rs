//! Journal writers that keep their transactions open: what the relay's gate is there for.

use std::time::Duration;

use anyhow::{Result, bail};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dice::Dice;

const WRITERS: u64 = 12;

/// An append by the rules of the journal's writers: `streams` is locked before the transaction gets its id. The event is
/// a copy of one that the load appended, so its bytes are valid. It is one that leads to nothing else: these writers are
/// many, and they set no timers.
const APPEND: &str = "
WITH won AS (
    INSERT INTO millrace.streams AS s (aggregate_type, aggregate_id, version, appended)
    SELECT 'order', id, 1, 1 FROM unnest($1::text[]) AS i (id) ORDER BY id
    RETURNING s.aggregate_id
)
INSERT INTO millrace.events (generation, aggregate_type, aggregate_id, sequence, event_id, event_type,
                             schema_id, payload, headers, occurred_at)
SELECT e.generation, 'order', won.aggregate_id, 1, gen_random_uuid(), e.event_type, e.schema_id, e.payload, '{}', now()
FROM won CROSS JOIN (SELECT * FROM millrace.events WHERE event_type = 'OrderDrafted' LIMIT 1) AS e";

/// Starts them; each ends when it is told to.
pub(super) fn start(
    database_url: &str,
    seed: u64,
    stop: &CancellationToken,
) -> JoinSet<Result<()>> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (url, stop) = (database_url.to_owned(), stop.clone());
        let dice = Dice::new(seed ^ (1_000 + writer));
        writers.spawn(write(url, writer, dice, stop));
    }
    writers
}

async fn write(url: String, writer: u64, mut dice: Dice, stop: CancellationToken) -> Result<()> {
    let mut order = 0;
    let mut failing: Option<Instant> = None;
    while !stop.is_cancelled() {
        // Postgres is killed now and then; what a broken commit came to shows in the journal.
        match session(&url, writer, &mut order, &mut dice, &stop).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                let since = *failing.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_secs(600) {
                    bail!("slow writer {writer}: {error}");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    Ok(())
}

async fn session(
    url: &str,
    writer: u64,
    order: &mut u64,
    dice: &mut Dice,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    while !stop.is_cancelled() {
        let ids: Vec<String> = (0..1 + dice.roll(3))
            .map(|_| {
                *order += 1;
                format!("slow-{writer}-{order}")
            })
            .collect();
        let mut transaction = connection.begin().await?;
        let appended = sqlx::query(APPEND)
            .bind(&ids)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        sqlx::query("SELECT pg_sleep($1)")
            .bind((50 + dice.roll(250)) as f64 / 1000.0)
            .execute(&mut *transaction)
            .await?;
        // Nothing to copy yet: a stream without its event must not stay.
        if appended == 0 || dice.roll(5) == 0 {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
        }
    }
    Ok(())
}
