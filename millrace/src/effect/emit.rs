//! What goes back to Kafka: outcome commands, dead letters, and that a call was given up or is in doubt; at least once and
//! always under the same id.
//!
//! Invariant: a row is settled, dead, or told of only after the broker has acknowledged its records. A crash between the two
//! repeats them: the command side drops a command by its id, and a letter repeats `ce_id` and offset.

use std::borrow::Cow;
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

use super::erased::Calling;
use super::run::{Core, EffectError};
use super::store::{self, Letter};
use super::{CallError, Setback, crash_point, dead_letters_topic, setback_id};
use crate::config::KafkaConfig;
use crate::event::{commands_topic, snake_case};
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
pub(super) async fn run(core: &Arc<Core>, mut producer: EffectProducer, done: &CancellationToken) {
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
                if matches!(error, EffectError::Kafka(_)) {
                    producer = renewed(core, producer);
                }
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

/// Another client in the place of one that could not deliver. After a broker was killed an idempotent producer was seen that let
/// every record time out for minutes, while other clients of the same process were served: it is not waited for. What it
/// had in hand has been reported as failed, and is produced again under the same id.
fn renewed(core: &Core, old: EffectProducer) -> EffectProducer {
    match producer(&core.config.kafka) {
        Ok(new) => {
            // Its end can take a while.
            tokio::task::spawn_blocking(move || drop(old));
            new
        }
        Err(error) => {
            tracing::warn!(effect = core.name(), %error, "no other producer");
            old
        }
    }
}

/// One page of records; returns how many rows are through.
async fn page(core: &Core, producer: &EffectProducer) -> Result<usize, EffectError> {
    let claims = core.claims();
    if claims.is_empty() {
        return Ok(0);
    }
    let rule = core.registered.effect.rule();
    let rows = store::to_emit(&core.pool, core.name(), &claims, (rule, PAGE)).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut sent = Vec::with_capacity(rows.len());
    for row in &rows {
        sent.push((row, send(core, producer, row).await));
    }
    let mut failed = None;
    let mut through = Through::default();
    for (row, sent) in sent {
        match acknowledged(sent).await {
            Ok(()) => through.add(row),
            Err(error) => failed = Some(error),
        }
    }
    crash_point("effect.after-produce");
    through.mark(core).await?;
    match failed {
        Some(error) => Err(error),
        None => Ok(rows.len()),
    }
}

/// Rows whose records the broker has.
#[derive(Default)]
struct Through {
    settled: Vec<Uuid>,
    dead: Vec<Uuid>,
    told: Vec<Uuid>,
    calls: Vec<i32>,
}

impl Through {
    fn add(&mut self, row: &Letter) {
        match row.state.as_str() {
            "done" => self.settled.push(row.event_id),
            "failed" => self.dead.push(row.event_id),
            _ => {
                self.told.push(row.event_id);
                self.calls.push(row.calls);
            }
        }
    }

    /// Writes down that nothing is left to produce.
    async fn mark(self, core: &Core) -> Result<(), EffectError> {
        if !self.settled.is_empty() {
            store::settle(&core.pool, core.name(), &self.settled).await?;
            let count = self.settled.len() as u64;
            core.health.count(|report| report.commands += count);
            crash_point("effect.after-settled");
        }
        if !self.dead.is_empty() {
            store::dead(&core.pool, core.name(), &self.dead).await?;
            let count = self.dead.len() as u64;
            core.health.count(|report| report.dead_letters += count);
            crash_point("effect.after-dead");
        }
        if !self.told.is_empty() {
            store::told(&core.pool, core.name(), (&self.told, &self.calls)).await?;
        }
        Ok(())
    }
}

/// The broker's word about one record, to come.
type Waiting = oneshot::Receiver<Result<(), KafkaError>>;

async fn acknowledged(sent: Result<Vec<Waiting>, EffectError>) -> Result<(), EffectError> {
    for waiting in sent? {
        waiting.await.unwrap_or(Err(KafkaError::Canceled))?;
    }
    Ok(())
}

/// Produces what this row is about, and does not wait for it.
async fn send(
    core: &Core,
    producer: &EffectProducer,
    row: &Letter,
) -> Result<Vec<Waiting>, EffectError> {
    if row.state == "done" {
        return Ok(vec![send_command(core, producer, row, &outcome(row)?)?]);
    }
    let mut waiting = Vec::new();
    if let Some(command) = setback(core, row).await? {
        waiting.push(send_command(core, producer, row, &command)?);
    }
    if row.state == "failed" {
        waiting.push(send_letter(core, producer, row)?);
    }
    Ok(waiting)
}

/// A command as it is produced.
struct Sending<'r> {
    topic: Cow<'r, str>,
    key: Cow<'r, str>,
    kind: Cow<'r, str>,
    version: Option<u32>,
    id: Uuid,
    payload: Cow<'r, [u8]>,
}

/// The outcome command that was recorded with the call's end.
fn outcome(row: &Letter) -> Result<Sending<'_>, KafkaError> {
    let (Some(topic), Some(key), Some(id)) = (&row.command_topic, &row.command_key, row.command_id)
    else {
        return Err(KafkaError::MessageProduction(
            rdkafka::types::RDKafkaErrorCode::InvalidMessage,
        ));
    };
    Ok(Sending {
        topic: topic.into(),
        key: key.into(),
        kind: row.command_type.as_deref().unwrap_or_default().into(),
        version: row
            .command_version
            .and_then(|version| version.try_into().ok()),
        id,
        payload: row.command_payload.as_deref().unwrap_or_default().into(),
    })
}

/// What the aggregate hears of a call that was given up or is in doubt. Made anew each time it is produced: the event and
/// the row's reason stay as they are, so it says the same.
async fn setback(core: &Core, row: &Letter) -> Result<Option<Sending<'static>>, EffectError> {
    // Nothing was called, because the record is no event.
    if row.calls == 0 {
        return Ok(None);
    }
    let calling = Calling {
        key: row.call_key,
        number: u32::try_from(row.calls).unwrap_or(u32::MAX),
        timeout: core.registered.registration.call_timeout,
    };
    let reason = row.reason.as_deref().unwrap_or_default();
    let setback = match row.state.as_str() {
        "failed" => Setback::GivenUp { reason },
        _ => Setback::InDoubt { reason },
    };
    let (effect, record) = (&core.registered.effect, row.record());
    match effect
        .setback(&core.decoder, &record, calling, setback)
        .await
    {
        Ok(command) => Ok(command.map(|command| Sending {
            topic: commands_topic(&command.aggregate).into(),
            key: command.aggregate_id.into(),
            kind: command.command_type,
            version: Some(command.schema_version),
            id: setback_id(row.call_key, &row.state, row.calls),
            payload: command.payload.into(),
        })),
        Err(CallError::Outage(away)) => Err(EffectError::Schemas(away)),
        Err(error) => {
            tracing::error!(effect = core.name(), event = %row.event_id, %error, "the aggregate is not told of a setback");
            Ok(None)
        }
    }
}

fn send_command(
    core: &Core,
    producer: &EffectProducer,
    row: &Letter,
    command: &Sending<'_>,
) -> Result<Waiting, KafkaError> {
    let aggregate = command.topic.trim_end_matches(".commands");
    let metadata = row.metadata();
    let mut all = vec![
        (headers::SPECVERSION, "1.0".to_owned()),
        (headers::ID, command.id.to_string()),
        (headers::SOURCE, format!("/millrace/effect/{}", core.name())),
        (
            headers::TYPE,
            format!("{aggregate}.{}", snake_case(&command.kind)),
        ),
        (headers::SUBJECT, command.key.to_string()),
        (headers::CONTENT_TYPE, "application/avro".to_owned()),
        (headers::CAUSATION_ID, row.event_id.to_string()),
    ];
    let version = command.version;
    all.extend(version.map(|version| (headers::SCHEMA_VERSION, version.to_string())));
    // The time that was recorded: a repeat says the same.
    let at = row.ended_at.or(row.called_at);
    all.extend(at.map(|at| (headers::TIME, headers::time(at))));
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
    let (report, waiting) = oneshot::channel();
    let record = BaseRecord::with_opaque_to(&command.topic, Box::new(report))
        .key(command.key.as_bytes())
        .payload(&*command.payload)
        .headers(owned);
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(waiting)
}

/// The record as it stood on its topic, with why it is here.
fn send_letter(
    core: &Core,
    producer: &EffectProducer,
    row: &Letter,
) -> Result<Waiting, KafkaError> {
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
    let (report, waiting) = oneshot::channel();
    let mut record: BaseRecord<'_, [u8], [u8], _> =
        BaseRecord::with_opaque_to(&topic, Box::new(report))
            // Beside its key's, also where it has none.
            .partition(row.partition)
            .headers(owned);
    record.key = row.record_key.as_deref();
    record.payload = row.payload.as_deref();
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(waiting)
}
