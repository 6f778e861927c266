//! What goes back to Kafka: outcome commands and dead letters, at least once and always under the same id.
//!
//! Invariant: a row is settled, or dead, only after the broker has acknowledged its record. A crash between the two repeats
//! the record: the command side drops it by its id, and a letter repeats `ce_id` and offset.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::run::{Core, EffectError};
use super::store::{self, Letter};
use super::{crash_point, dead_letters_topic};
use crate::config::KafkaConfig;
use crate::event::snake_case;
use crate::log::{client, headers};
use crate::projection::HeaderBlock;

/// Most records produced before their rows are marked.
const PAGE: i64 = 500;
/// Longest reason that a letter carries; a receiver may say anything.
const REASON_CHARS_MAX: usize = 2_000;
const TICK: Duration = Duration::from_millis(250);

/// Delivery reports, each to whoever waits for it.
pub(super) struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let report = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        let _ = waiting.send(report);
    }
}

pub(super) type EffectProducer = ThreadedProducer<Reports>;

pub(super) fn producer(config: &KafkaConfig) -> Result<EffectProducer, KafkaError> {
    ThreadedProducer::from_config_and_context(&client::producer(config, "effect"), Reports)
}

/// Produces until `done`, and then what is left once more.
pub(super) async fn run(core: &Arc<Core>, producer: EffectProducer, done: &CancellationToken) {
    loop {
        let last = done.is_cancelled();
        match page(core, &producer).await {
            Ok(0) => {}
            Ok(_) => {
                core.wake.notify_one();
                continue;
            }
            Err(error) => {
                tracing::warn!(effect = core.name(), %error, "nothing was produced");
                core.health.failed(error.to_string());
            }
        }
        if last {
            return;
        }
        tokio::select! {
            () = core.ended.notified() => {}
            () = done.cancelled() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// One page of records; returns how many rows are through.
async fn page(core: &Core, producer: &EffectProducer) -> Result<usize, EffectError> {
    let claims = core.claims();
    if claims.is_empty() {
        return Ok(0);
    }
    let rows = store::to_emit(&core.pool, core.name(), &claims, PAGE).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut reports = Vec::with_capacity(rows.len());
    for row in &rows {
        let (report, waits) = oneshot::channel();
        let sent = match row.state.as_str() {
            "done" => send_command(core, producer, row, report),
            _ => send_letter(core, producer, row, report),
        };
        reports.push((row, sent.map(|()| waits)));
    }
    let mut failed = None;
    let (mut settled, mut dead): (Vec<Uuid>, Vec<Uuid>) = (Vec::new(), Vec::new());
    for (row, sent) in reports {
        let delivered = match sent {
            Ok(waits) => waits.await.unwrap_or(Err(KafkaError::Canceled)),
            Err(error) => Err(error),
        };
        match (delivered, row.state.as_str()) {
            (Ok(()), "done") => settled.push(row.event_id),
            (Ok(()), _) => dead.push(row.event_id),
            (Err(error), _) => failed = Some(error),
        }
    }
    crash_point("effect.after-produce");
    if !settled.is_empty() {
        store::settle(&core.pool, core.name(), &settled).await?;
        core.health
            .count(|report| report.commands += settled.len() as u64);
        crash_point("effect.after-settled");
    }
    if !dead.is_empty() {
        store::dead(&core.pool, core.name(), &dead).await?;
        core.health
            .count(|report| report.dead_letters += dead.len() as u64);
        crash_point("effect.after-dead");
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(settled.len() + dead.len()),
    }
}

type Report = oneshot::Sender<Result<(), KafkaError>>;

fn send_command(
    core: &Core,
    producer: &EffectProducer,
    row: &Letter,
    report: Report,
) -> Result<(), KafkaError> {
    let (Some(topic), Some(key), Some(id)) = (&row.command_topic, &row.command_key, row.command_id)
    else {
        return Err(KafkaError::MessageProduction(
            rdkafka::types::RDKafkaErrorCode::InvalidMessage,
        ));
    };
    let aggregate = topic.trim_end_matches(".commands");
    let record_type = row.command_type.clone().unwrap_or_default();
    let metadata = row.metadata();
    let mut all = vec![
        (headers::SPECVERSION, "1.0".to_owned()),
        (headers::ID, id.to_string()),
        (headers::SOURCE, format!("/millrace/effect/{}", core.name())),
        (
            headers::TYPE,
            format!("{aggregate}.{}", snake_case(&record_type)),
        ),
        (headers::SUBJECT, key.clone()),
        (headers::CONTENT_TYPE, "application/avro".to_owned()),
        (headers::CAUSATION_ID, row.event_id.to_string()),
    ];
    let version = row.command_version;
    all.extend(version.map(|version| (headers::SCHEMA_VERSION, version.to_string())));
    // The time that was recorded: a repeat says the same.
    all.extend(row.ended_at.map(|at| (headers::TIME, headers::time(at))));
    if let Some(metadata) = metadata {
        let event_id = row.event_id.to_string();
        let correlation = metadata.correlation_id.unwrap_or(event_id);
        let optional = [
            (headers::CORRELATION_ID, Some(correlation)),
            (headers::TENANT_ID, metadata.tenant_id),
            (headers::TRACEPARENT, metadata.traceparent),
        ];
        all.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    }
    let mut owned = OwnedHeaders::new_with_capacity(all.len());
    for (key, value) in &all {
        owned = owned.insert(Header {
            key,
            value: Some(value),
        });
    }
    let payload = row.command_payload.as_deref().unwrap_or_default();
    let record = BaseRecord::with_opaque_to(topic, Box::new(report))
        .key(key.as_bytes())
        .payload(payload)
        .headers(owned);
    producer.send(record).map_err(|(error, _)| error)
}

/// The record as it stood on its topic, with why it is here.
fn send_letter(
    core: &Core,
    producer: &EffectProducer,
    row: &Letter,
    report: Report,
) -> Result<(), KafkaError> {
    let topic = dead_letters_topic(core.name());
    let original: HeaderBlock = row.headers();
    let reason = row.reason.as_deref().unwrap_or_default();
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let why = [
        ("millrace_dlq_topic", row.topic.clone()),
        ("millrace_dlq_partition", row.partition.to_string()),
        ("millrace_dlq_offset", row.offset.to_string()),
        ("millrace_dlq_cause", row.class.clone().unwrap_or_default()),
        ("millrace_dlq_reason", reason),
        ("millrace_dlq_attempts", row.attempts.to_string()),
        (
            "millrace_dlq_time",
            row.ended_at.map(headers::time).unwrap_or_default(),
        ),
    ];
    let mut owned = OwnedHeaders::new();
    // A letter that was redriven and came back must not carry the reasons of before.
    let ours: HashSet<&str> = why.iter().map(|(name, _)| *name).collect();
    for (key, value) in original.iter().filter(|(name, _)| !ours.contains(name)) {
        owned = owned.insert(Header { key, value });
    }
    for (key, value) in &why {
        owned = owned.insert(Header {
            key,
            value: Some(value),
        });
    }
    let mut record: BaseRecord<'_, [u8], [u8], _> =
        BaseRecord::with_opaque_to(&topic, Box::new(report))
            // Beside its key's, also where it has none.
            .partition(row.partition)
            .headers(owned);
    record.key = row.record_key.as_deref();
    record.payload = row.payload.as_deref();
    producer.send(record).map_err(|(error, _)| error)
}
