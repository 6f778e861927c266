//! Reads the event topics whole, into two temporary tables: what was published, and what of it the journal lacks.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use sqlx::postgres::PgConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::RunbookError;
use crate::codec;
use crate::config::KafkaConfig;
use crate::event::{Metadata, ce_type, events_topic};
use crate::log::{client, headers};
use crate::relay::{RelayError, seat};

/// Records that are compared with the journal at once.
const BATCH: usize = 1000;
/// Longest wait for a topic to go on.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// An event as a topic holds it.
struct Published {
    aggregate_type: String,
    aggregate_id: String,
    sequence: i64,
    metadata: Metadata,
    ce_type: String,
    schema_id: i32,
    payload: Vec<u8>,
    further: String,
    partition: i32,
    offset: i64,
}

/// Fills `pg_temp.published` and `pg_temp.missing`, which end with the transaction. Returns the number of records that
/// are none of this journal's events: something else wrote them, they are no part of any history.
pub(super) async fn load(
    kafka: &KafkaConfig,
    connection: &mut PgConnection,
) -> Result<i64, RunbookError> {
    let journal: Uuid = sqlx::query_scalar("SELECT uuid FROM millrace.journal")
        .fetch_one(&mut *connection)
        .await?;
    let source = format!("/millrace/{journal}");
    sqlx::raw_sql(
        "CREATE TEMPORARY TABLE published (event_id uuid PRIMARY KEY, generation integer, xid bigint, position bigint)
             ON COMMIT DROP;
         CREATE TEMPORARY TABLE missing (LIKE millrace.events) ON COMMIT DROP;
         ALTER TABLE pg_temp.missing ALTER COLUMN xid TYPE bigint USING 0;
         CREATE UNIQUE INDEX ON pg_temp.missing (event_id)",
    )
    .execute(&mut *connection)
    .await?;
    let mut foreign = 0;
    for aggregate in seat::aggregate_types(connection).await? {
        let (batches, mut incoming) = mpsc::channel(2);
        let kafka = kafka.clone();
        let (name, source) = (aggregate.clone(), source.clone());
        let reading = tokio::task::spawn_blocking(move || read(&kafka, &name, &source, &batches));
        while let Some(batch) = incoming.recv().await {
            store(connection, &batch).await?;
        }
        foreign += reading
            .await
            .map_err(|error| RelayError::Thread(error.to_string()))??;
    }
    Ok(foreign)
}

/// Reads all partitions of one topic to their ends, read committed. Returns the number of foreign records.
fn read(
    kafka: &KafkaConfig,
    aggregate: &str,
    source: &str,
    batches: &mpsc::Sender<Vec<Published>>,
) -> Result<i64, RunbookError> {
    let topic = events_topic(aggregate);
    let failed = |source: KafkaError| RelayError::Kafka {
        doing: "reading an event topic",
        source,
    };
    let consumer: BaseConsumer = client::reader(kafka, "runbook").create().map_err(failed)?;
    let metadata = consumer
        .fetch_metadata(Some(&topic), READ_TIMEOUT)
        .map_err(failed)?;
    let partitions = metadata
        .topics()
        .first()
        .map_or(0, |found| found.partitions().len());
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions as i32 {
        assignment
            .add_partition_offset(&topic, partition, Offset::Beginning)
            .map_err(failed)?;
    }
    consumer.assign(&assignment).map_err(failed)?;
    let (mut open, mut batch, mut foreign) = (partitions, Vec::with_capacity(BATCH), 0);
    let mut deadline = Instant::now() + READ_TIMEOUT;
    while open > 0 {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                if header(&message, headers::SOURCE).as_deref() == Some(source) {
                    batch.push(published(aggregate, &message)?);
                } else {
                    foreign += 1;
                }
                deadline = Instant::now() + READ_TIMEOUT;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(failed(error).into()),
            None if Instant::now() > deadline => {
                let reason = format!("nothing came for {} s", READ_TIMEOUT.as_secs());
                return Err(RelayError::PositionUnread { topic, reason }.into());
            }
            None => {}
        }
        if batch.len() == BATCH {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            // Whoever took the batches has failed with a reason of its own.
            if batches.blocking_send(full).is_err() {
                return Ok(foreign);
            }
        }
    }
    let _ = batches.blocking_send(batch);
    Ok(foreign)
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let mut all = message.headers()?.iter();
    let value = all.find(|header| header.key == name)?.value?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn published(aggregate: &str, message: &BorrowedMessage<'_>) -> Result<Published, RunbookError> {
    let refuse = |reason: String| RunbookError::Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        reason,
    };
    let (sequence, metadata) = headers::read(message).map_err(|error| refuse(error.to_string()))?;
    let payload = message.payload().unwrap_or_default();
    let (schema_id, _) = codec::unframe(payload).map_err(|error| refuse(error.to_string()))?;
    let key = message.key().unwrap_or_default().to_vec();
    let ce_type = header(message, headers::TYPE);
    let mut further = serde_json::Map::new();
    for (name, value) in [
        ("correlationid", &metadata.correlation_id),
        ("causationid", &metadata.causation_id),
        ("tenantid", &metadata.tenant_id),
        ("traceparent", &metadata.traceparent),
    ] {
        if let Some(value) = value {
            further.insert(name.to_owned(), value.as_str().into());
        }
    }
    Ok(Published {
        aggregate_type: aggregate.to_owned(),
        aggregate_id: String::from_utf8(key)
            .map_err(|_| refuse("the key is not UTF-8".to_owned()))?,
        sequence,
        ce_type: ce_type.ok_or_else(|| refuse(format!("header {} is missing", headers::TYPE)))?,
        schema_id: schema_id as i32,
        payload: payload.to_vec(),
        further: serde_json::Value::Object(further).to_string(),
        partition: message.partition(),
        offset: message.offset(),
        metadata,
    })
}

/// Notes a batch as published, and whole as missing what the journal does not hold.
async fn store(connection: &mut PgConnection, batch: &[Published]) -> Result<(), RunbookError> {
    let column = |of: fn(&Published) -> i64| batch.iter().map(of).collect::<Vec<i64>>();
    let ids: Vec<_> = batch.iter().map(|one| one.metadata.event_id).collect();
    sqlx::query(
        "INSERT INTO pg_temp.published SELECT * FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::bigint[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(&ids)
    .bind(
        batch
            .iter()
            .map(|one| one.metadata.position.generation)
            .collect::<Vec<_>>(),
    )
    .bind(column(|one| one.metadata.position.xid))
    .bind(column(|one| one.metadata.position.position))
    .execute(&mut *connection)
    .await?;
    let missing: Vec<i64> = sqlx::query_scalar(
        "SELECT w.ordinality FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[]) WITH ORDINALITY \
                 AS w (aggregate_type, aggregate_id, sequence, event_id, ordinality) \
         WHERE NOT EXISTS (SELECT FROM millrace.events AS e \
             WHERE e.aggregate_type = w.aggregate_type COLLATE \"C\" AND e.sequence = w.sequence \
               AND e.aggregate_id = w.aggregate_id COLLATE \"C\" AND e.event_id = w.event_id)",
    )
    .bind(batch.iter().map(|one| one.aggregate_type.as_str()).collect::<Vec<_>>())
    .bind(batch.iter().map(|one| one.aggregate_id.as_str()).collect::<Vec<_>>())
    .bind(column(|one| one.sequence))
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    for ordinality in missing {
        if let Some(one) = batch.get((ordinality - 1) as usize) {
            keep(connection, one).await?;
        }
    }
    Ok(())
}

/// Notes one event that the journal lacks, with everything that a journal row holds.
async fn keep(connection: &mut PgConnection, one: &Published) -> Result<(), RunbookError> {
    let event_type = event_type(connection, one).await?;
    let position = one.metadata.position;
    sqlx::query(
        "INSERT INTO pg_temp.missing (position, generation, xid, aggregate_type, aggregate_id, sequence, event_id, \
                                      event_type, schema_id, payload, headers, occurred_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12) ON CONFLICT DO NOTHING",
    )
    .bind(position.position)
    .bind(position.generation)
    .bind(position.xid)
    .bind(&one.aggregate_type)
    .bind(&one.aggregate_id)
    .bind(one.sequence)
    .bind(one.metadata.event_id)
    .bind(event_type)
    .bind(one.schema_id)
    .bind(&one.payload)
    .bind(&one.further)
    .bind(one.metadata.occurred_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The record name of an event, from its schema: the headers carry only its CloudEvents form.
async fn event_type(
    connection: &mut PgConnection,
    one: &Published,
) -> Result<String, RunbookError> {
    let subjects: Vec<String> =
        sqlx::query_scalar("SELECT s.subject FROM millrace.schemas AS s WHERE s.id = $1")
            .bind(one.schema_id)
            .fetch_all(connection)
            .await?;
    let record = subjects
        .iter()
        .filter_map(|subject| subject.rsplit('.').next())
        .find(|record| ce_type(&one.aggregate_type, record) == one.ce_type);
    record.map(str::to_owned).ok_or_else(|| {
        RunbookError::Record {
            topic: events_topic(&one.aggregate_type),
            partition: one.partition,
            offset: one.offset,
            reason: format!(
                "its schema id {} is not in millrace.schemas for {}: start a producer once, which registers its schemas, then try again",
                one.schema_id, one.ce_type
            ),
        }
    })
}
