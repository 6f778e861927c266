//! Publishes a batch and the position after it in one Kafka transaction.
//!
//! All calls block and belong on a thread of their own. After any error the publisher must be dropped: what became
//! of the transaction is then unknown (librdkafka lacks KIP-890 part 2, so a late answer could hit the next one),
//! and only a new producer's `init_transactions` followed by reading the position settles it.

use std::fmt::Write as _;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use serde::Deserialize;
use uuid::Uuid;

use crate::config::KafkaConfig;
use crate::log::headers;
use crate::log::transaction::{TransactionError, TransactionalProducer};
use crate::relay::RelayError;
use crate::relay::position::{KEY, PositionRecord};
use crate::relay::read::JournalEvent;

/// Where a publisher writes.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// Fences every earlier publisher of the same id.
    pub transactional_id: String,
    /// The compacted topic of positions.
    pub position_topic: String,
}

/// A transactional producer that has fenced its predecessors.
pub struct Publisher {
    producer: TransactionalProducer,
    config: PublisherConfig,
    text: Text,
}

/// Buffers for header values, reused from event to event.
#[derive(Default)]
struct Text {
    source: String,
    source_of: Uuid,
    id: String,
    time: String,
    sequence: String,
    position: String,
}

/// Further headers of an event, as they stand in the journal.
#[derive(Default, Deserialize)]
struct Further {
    correlationid: Option<String>,
    causationid: Option<String>,
    tenantid: Option<String>,
    traceparent: Option<String>,
}

impl Publisher {
    /// Builds a producer and ends whatever its predecessor left open; from then on the predecessor is fenced.
    pub fn start(kafka_config: &KafkaConfig, config: PublisherConfig) -> Result<Self, RelayError> {
        Ok(Self {
            producer: TransactionalProducer::start(kafka_config, &config.transactional_id, None)?,
            config,
            text: Text::default(),
        })
    }

    /// Opens a transaction, hands over the events and the position after them, and waits until all are delivered.
    pub fn stage(
        &mut self,
        events: &[JournalEvent],
        position: &PositionRecord,
    ) -> Result<(), RelayError> {
        crash_point!("relay.before-begin");
        self.producer.begin()?;
        for event in events {
            self.send_event(event, position.journal)?;
        }
        crash_point!("relay.after-produce");
        if !position_outside() {
            self.send_position(position)?;
        }
        crash_point!("relay.after-position");
        Ok(self.producer.drain()?)
    }

    /// Commits what was staged. An error means that the outcome is unknown.
    pub fn commit(&mut self, position: &PositionRecord) -> Result<(), RelayError> {
        crash_point!("relay.before-commit");
        self.producer.commit()?;
        crash_point!("relay.after-commit");
        if position_outside() {
            self.producer.begin()?;
            self.send_position(position)?;
            self.producer.drain()?;
            self.producer.commit()?;
        }
        Ok(())
    }

    /// Serves the client while there is nothing to publish; an error if it can never publish again.
    pub fn idle(&self) -> Result<(), RelayError> {
        Ok(self.producer.idle()?)
    }

    fn send_position(&self, position: &PositionRecord) -> Result<(), RelayError> {
        let value = serde_json::to_vec(position).expect("plain fields always serialise");
        let record = BaseRecord::to(&self.config.position_topic)
            .partition(0)
            .key(KEY.as_bytes())
            .payload(value.as_slice());
        Ok(self.producer.produce(record)?)
    }

    fn send_event(&mut self, event: &JournalEvent, journal: Uuid) -> Result<(), RelayError> {
        let headers = self.text.headers(event, journal);
        let record = BaseRecord::to(&event.kind.topic)
            .key(event.aggregate_id.as_bytes())
            .payload(event.payload.as_slice())
            .headers(headers);
        self.producer.produce(record).map_err(|error| match error {
            TransactionError::TooLarge(mut refused) => {
                refused.event_id = Some(event.event_id);
                TransactionError::TooLarge(refused).into()
            }
            other => other.into(),
        })
    }
}

impl Text {
    fn headers(&mut self, event: &JournalEvent, journal: Uuid) -> OwnedHeaders {
        if self.source.is_empty() || self.source_of != journal {
            self.source_of = journal;
            self.source.clear();
            write_text(&mut self.source, format_args!("/millrace/{journal}"));
        }
        self.id.clear();
        write_text(
            &mut self.id,
            format_args!("{}", event.event_id.hyphenated()),
        );
        self.time.clear();
        self.time.push_str(&headers::time(event.occurred_at));
        self.sequence.clear();
        write_text(&mut self.sequence, format_args!("{}", event.sequence));
        self.position.clear();
        write_text(&mut self.position, format_args!("{}", event.position));
        let further = event.headers.as_deref().map(further).unwrap_or_default();
        let all = [
            (headers::SPECVERSION, Some("1.0")),
            (headers::ID, Some(self.id.as_str())),
            (headers::SOURCE, Some(self.source.as_str())),
            (headers::TYPE, Some(event.kind.ce_type.as_str())),
            (headers::SUBJECT, Some(event.aggregate_id.as_str())),
            (headers::TIME, Some(self.time.as_str())),
            (headers::CONTENT_TYPE, Some("application/avro")),
            (headers::SEQUENCE, Some(self.sequence.as_str())),
            (
                headers::SCHEMA_VERSION,
                Some(event.kind.schema_version.as_str()),
            ),
            (headers::POSITION, Some(self.position.as_str())),
            (headers::CORRELATION_ID, further.correlationid.as_deref()),
            (headers::CAUSATION_ID, further.causationid.as_deref()),
            (headers::TENANT_ID, further.tenantid.as_deref()),
            (headers::TRACEPARENT, further.traceparent.as_deref()),
        ];
        let mut owned = OwnedHeaders::new_with_capacity(all.len());
        for (key, value) in all {
            if let Some(value) = value {
                owned = owned.insert(Header {
                    key,
                    value: Some(value),
                });
            }
        }
        owned
    }
}

/// Headers that are no object of texts are the writer's fault; the event is published without them, not withheld.
fn further(json: &str) -> Further {
    serde_json::from_str(json).unwrap_or_else(|error| {
        tracing::warn!(%error, "further headers of an event are not readable, published without them");
        Further::default()
    })
}

fn write_text(buffer: &mut String, text: std::fmt::Arguments<'_>) {
    buffer
        .write_fmt(text)
        .expect("writing to a String cannot fail");
}

/// For the crash test, which must be able to fail: the position written after the transaction, not in it.
fn position_outside() -> bool {
    fail::fail_point!("sabotage.relay.position", |_| true);
    false
}
