//! What an operator does after the journal was restored or exchanged; the steps are in
//! `docs/runbooks/journal-restored.md`.
//!
//! The topics keep every published event for ever, with its id, sequence, place and bytes, so what a restored
//! journal lacks can be read back from them. [`compare`] says what differs; [`recover`] makes journal and position
//! agree with the topics again, or refuses and changes nothing. What was never published and is not in the journal
//! is lost, and so are the outcomes of lost commands and timers: no topic holds those.
//!
//! Invariant: after [`recover`] every event of the topics is in the journal under its old key, and every event that
//! is not on the topics has a key above all of those. The schedule that makes the second half necessary: a dump is
//! restored into a new cluster, whose transaction ids are low; a command is accepted before anybody looks; its event
//! stands below the position and would never be published.

mod scan;

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::config::{JournalConfig, KafkaConfig};
use crate::lease::{self, Attempt};
use crate::relay::position::{self, PositionRecord};
use crate::relay::publish::Publisher;
use crate::relay::{RelayConfig, RelayError, read, seat};

/// Why journal and topics were not made to agree. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RunbookError {
    /// Postgres or Kafka did not answer, or a record is not readable.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// Postgres did not answer or refused.
    #[error("journal: {0}")]
    Postgres(#[from] sqlx::Error),
    /// A relay holds the lease: stop all of them first.
    #[error("a relay is active ({0}): stop every relay first")]
    RelayActive(String),
    /// A record of an event topic is not an event of a journal.
    #[error("{topic}, partition {partition}, offset {offset}: {reason}")]
    Record {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Offset.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// The position was written for another journal.
    #[error(
        "the topics were published from journal {published}, this is journal {present}: restore that journal, or give this one topics of its own"
    )]
    OtherJournal {
        /// Journal of the position.
        published: Uuid,
        /// This journal.
        present: Uuid,
    },
    /// Journal and topics hold different events of the same aggregate and sequence.
    #[error(
        "{count} events of the journal contradict published ones, the first is {first}: commands were accepted after an older state was restored; it must be decided by hand which history holds"
    )]
    Forked {
        /// How many.
        count: i64,
        /// The first, as type, id and sequence.
        first: String,
    },
}

/// How journal and topics differ.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// The position that the relay would start from.
    pub position: Option<PositionRecord>,
    /// Events on the topics.
    pub published: i64,
    /// Events on the topics that the journal does not hold.
    pub only_in_topics: i64,
    /// Of those, events in whose place the journal holds another one.
    pub forked: i64,
    /// The first event of the latter.
    pub first_fork: Option<String>,
    /// Events of the journal that are not on the topics.
    pub unpublished: i64,
    /// Of those, events at or below the last published place, which no relay would publish.
    pub stranded: i64,
    /// Records on the topics that are no events of this journal, by their `ce_source`; they are left alone.
    pub foreign: i64,
}

/// What [`recover`] did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Recovery {
    /// What was found before.
    pub found: Comparison,
    /// Events that were read back from the topics into the journal.
    pub imported: u64,
    /// Events that were given a place above all published ones, to be published next.
    pub moved: u64,
    /// The journal's generation from now on.
    pub generation: i32,
}

/// Says how journal and topics differ; changes nothing. Reads the topics whole. Best with the relay stopped.
pub async fn compare(
    config: &RelayConfig,
    kafka: &KafkaConfig,
    journal: &JournalConfig,
) -> Result<Comparison, RunbookError> {
    let mut connection = read::connect(journal.database_url.expose()).await?;
    let mut transaction = connection.begin().await?;
    let found = look(config, kafka, &mut transaction).await?;
    transaction.rollback().await?;
    Ok(found)
}

/// Makes the journal and the relay's position agree with the topics, and raises the generation.
///
/// Every relay must be stopped, and producers should be: the journal's writers wait meanwhile. What the topics hold
/// and the journal lacks is read back; what they do not hold gets a place above everything published; the position
/// is written anew. Run again after a crash, it does what is left.
pub async fn recover(
    config: &RelayConfig,
    kafka: &KafkaConfig,
    journal: &JournalConfig,
) -> Result<Recovery, RunbookError> {
    let options = read::session(journal.database_url.expose(), "millrace-runbook")?;
    let lease = match lease::try_acquire(&options, &config.lease())
        .await
        .map_err(RelayError::from)?
    {
        Attempt::Held(lease) => lease,
        Attempt::Taken(holder) => return Err(RunbookError::RelayActive(holder.info)),
    };
    let result = recover_alone(config, kafka, journal).await;
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "the lease was not released, it expires by itself");
    }
    result
}

async fn recover_alone(
    config: &RelayConfig,
    kafka: &KafkaConfig,
    journal: &JournalConfig,
) -> Result<Recovery, RunbookError> {
    // Fences a relay that was frozen, so that it cannot publish while this looks.
    let (kafka_config, publisher) = (kafka.clone(), config.publisher());
    let publisher = blocking(move || Publisher::start(&kafka_config, publisher)).await?;
    let mut connection = read::connect(journal.database_url.expose()).await?;
    let identity = seat::identify(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    // Waits for every append that is under way, and keeps others out: a writer locks `streams` first of all.
    sqlx::raw_sql("SET LOCAL lock_timeout = '10s'; LOCK TABLE millrace.streams IN EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let found = look(config, kafka, &mut transaction).await?;
    if let Some(position) = found
        .position
        .as_ref()
        .filter(|p| p.journal != identity.journal)
    {
        return Err(RunbookError::OtherJournal {
            published: position.journal,
            present: identity.journal,
        });
    }
    if found.forked > 0 {
        return Err(RunbookError::Forked {
            count: found.forked,
            first: found.first_fork.unwrap_or_default(),
        });
    }
    let imported = import(&mut transaction).await?;
    let generation: i32 = sqlx::query_scalar(
        "UPDATE millrace.journal SET generation = 1 + greatest(generation, \
             (SELECT max(p.generation) FROM pg_temp.published AS p)) RETURNING generation",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let moved = move_unpublished(&mut transaction, generation).await?;
    let last = last_published(&mut transaction).await?;
    transaction.commit().await?;
    if let Some((generation, xid, place, event_id)) = last {
        let identity = seat::identify(&mut connection).await?;
        let record = PositionRecord {
            journal: identity.journal,
            generation,
            xid,
            position: place,
            event_id,
            system: identity.system,
            timeline: identity.timeline,
            wal_bytes: identity.wal_bytes,
        };
        let mut publisher = publisher;
        blocking(move || {
            publisher.stage(&[], &record)?;
            publisher.commit(&record)
        })
        .await?;
    }
    Ok(Recovery {
        found,
        imported,
        moved,
        generation,
    })
}

/// Reads topics and position, and compares.
async fn look(
    config: &RelayConfig,
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
) -> Result<Comparison, RunbookError> {
    let (kafka_config, topic) = (kafka.clone(), config.relay_position_topic.clone());
    let position = blocking(move || position::read_latest(&kafka_config, &topic)).await?;
    let foreign = scan::load(kafka, connection).await?;
    let (published, only_in_topics): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_temp.published), (SELECT count(*) FROM pg_temp.missing)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let (forked, first_fork): (i64, Option<String>) = sqlx::query_as(
        "SELECT count(*), min(format('%s %s, sequence %s', e.aggregate_type, e.aggregate_id, e.sequence)) \
         FROM pg_temp.missing AS m JOIN millrace.events AS e \
           USING (aggregate_type, aggregate_id, sequence)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let (unpublished, stranded): (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(*) FILTER (WHERE (e.generation, e.xid::text::bigint, e.position) <= l.key) \
         FROM millrace.events AS e \
         LEFT JOIN (SELECT (p.generation, p.xid, p.position) AS key FROM pg_temp.published AS p \
                    ORDER BY p.generation DESC, p.xid DESC, p.position DESC LIMIT 1) AS l ON true \
         WHERE NOT EXISTS (SELECT FROM pg_temp.published AS p WHERE p.event_id = e.event_id)",
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok(Comparison {
        position,
        published,
        only_in_topics,
        forked,
        first_fork,
        unpublished,
        stranded,
        foreign,
    })
}

/// Writes what only the topics hold into the journal, under its old keys.
async fn import(connection: &mut PgConnection) -> Result<u64, RunbookError> {
    let imported = sqlx::query(
        "INSERT INTO millrace.events (position, generation, xid, aggregate_type, aggregate_id, sequence, event_id, \
                                      event_type, schema_id, payload, headers, occurred_at) \
         SELECT m.position, m.generation, m.xid::text::xid8, m.aggregate_type, m.aggregate_id, m.sequence, \
                m.event_id, m.event_type, m.schema_id, m.payload, m.headers, m.occurred_at \
         FROM pg_temp.missing AS m ORDER BY m.aggregate_type, m.aggregate_id, m.sequence",
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    sqlx::query(
        "INSERT INTO millrace.streams AS s (aggregate_type, aggregate_id, version, appended) \
         SELECT m.aggregate_type, m.aggregate_id, max(m.sequence), 1 FROM pg_temp.missing AS m \
         GROUP BY m.aggregate_type, m.aggregate_id \
         ON CONFLICT (aggregate_type, aggregate_id) \
         DO UPDATE SET version = greatest(s.version, excluded.version), appended = 1",
    )
    .execute(&mut *connection)
    .await?;
    // Positions must follow the sequence within an aggregate, so none may be handed out twice.
    sqlx::query(
        "SELECT setval('millrace.events_position', \
                greatest((SELECT last_value FROM millrace.events_position), max(p.position))) \
         FROM pg_temp.published AS p HAVING max(p.position) IS NOT NULL",
    )
    .execute(connection)
    .await?;
    Ok(imported)
}

/// Gives every unpublished event the new generation and this transaction's id: among themselves they then stand in
/// the order of their positions, which follows the sequence within each aggregate, whatever clusters they came from.
async fn move_unpublished(
    connection: &mut PgConnection,
    generation: i32,
) -> Result<u64, RunbookError> {
    let moved = sqlx::query(
        "UPDATE millrace.events AS e SET generation = $1, xid = pg_current_xact_id() \
         WHERE NOT EXISTS (SELECT FROM pg_temp.published AS p WHERE p.event_id = e.event_id)",
    )
    .bind(generation)
    .execute(connection)
    .await?;
    Ok(moved.rows_affected())
}

/// The highest key among the published events, and its event.
async fn last_published(
    connection: &mut PgConnection,
) -> Result<Option<(i32, i64, i64, Uuid)>, RunbookError> {
    let last = sqlx::query_as(
        "SELECT p.generation, p.xid, p.position, p.event_id FROM pg_temp.published AS p \
         ORDER BY p.generation DESC, p.xid DESC, p.position DESC LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    Ok(last)
}

/// Runs Kafka calls off the runtime's workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RelayError> + Send + 'static,
) -> Result<T, RelayError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| RelayError::Thread(error.to_string()))?
}
