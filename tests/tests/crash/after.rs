//! What is done to a pipeline that has drained.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use uuid::Uuid;

use super::oracle::{Oracle, TOPIC};

/// Waits until every partition that holds anything was rebuilt for a reset newer than `last`, so that a replay that
/// never began is not taken for one that changed nothing.
pub(super) async fn until_rebuilt(oracle: &Oracle, last: i64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let left: Vec<String> = sqlx::query_scalar(
            "SELECT format('%s/%s', c.view, c.partition) FROM millrace_views.checkpoints c
             WHERE c.next > 0 AND NOT EXISTS (SELECT FROM millrace_views.resets r
                 WHERE r.view = c.view AND r.topic = c.topic AND r.partition = c.partition
                   AND r.id > $1 AND r.done_at IS NOT NULL)",
        )
        .bind(last)
        .fetch_all(&oracle.views)
        .await?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "not rebuilt within 120 s: {}",
            left.join(", ")
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How often the effect was set by an operator.
pub(super) async fn effect_resets(oracle: &Oracle) -> Result<i64> {
    let count = "SELECT count(*) FROM millrace_effects.resets";
    Ok(sqlx::query_scalar(count).fetch_one(&oracle.views).await?)
}

/// Partitions that the effect has read something of.
pub(super) async fn effect_partitions(oracle: &Oracle) -> Result<i64> {
    let held = "SELECT count(*) FROM millrace_effects.checkpoints WHERE next > 0";
    Ok(sqlx::query_scalar(held).fetch_one(&oracle.views).await?)
}

/// Waits until the effect has taken notice of as many resets.
pub(super) async fn until_effect_was_reset(oracle: &Oracle, resets: i64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let noted = effect_resets(oracle).await?;
        if noted >= resets {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the effect has taken notice of {noted} of {resets} resets after 120 s"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Produces an event of a draft a second time, bytes and headers as they stand in the topic.
pub(super) async fn plant_duplicate(oracle: &Oracle) -> Result<Uuid> {
    let draft: Uuid = sqlx::query_scalar(
        "SELECT e.event_id FROM millrace.events e WHERE e.event_type = 'OrderItemAdded' AND NOT EXISTS
            (SELECT FROM millrace.events p WHERE p.aggregate_id = e.aggregate_id
              AND p.event_type IN ('OrderPlaced', 'OrderCancelled')) LIMIT 1",
    )
    .fetch_one(&oracle.journal)
    .await
    .context("the load left no draft with items")?;
    tokio::task::block_in_place(|| {
        let topic = oracle.topics()?;
        let record = topic.iter().find(|record| record.event_id == draft);
        let record = record.context("the draft's event is not in the topic")?;
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &oracle.kafka)
            .create::<ThreadedProducer<rdkafka::producer::DefaultProducerContext>>()?;
        let again = BaseRecord::to(TOPIC)
            .partition(record.partition)
            .key(&record.key)
            .payload(&record.payload)
            .headers(record.headers.clone());
        producer.send(again).map_err(|(error, _)| error)?;
        producer.flush(Duration::from_secs(30))?;
        Ok(draft)
    })
}
