//! Publishes a batch and the position after it in one Kafka transaction.
//!
//! All calls block and belong on a thread of their own. After any error the publisher must be dropped: what became
//! of the transaction is then unknown (librdkafka lacks KIP-890 part 2, so a late answer could hit the next one),
//! and only a new producer's `init_transactions` followed by reading the position settles it.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use serde::Deserialize;
use uuid::Uuid;

use crate::config::KafkaConfig;
use crate::log::client::{self, TRANSACTION_TIMEOUT};
use crate::log::headers;
use crate::log::watchdog::Watchdog;
use crate::relay::RelayError;
use crate::relay::position::{KEY, PositionRecord};
use crate::relay::read::JournalEvent;

/// Counts what was not delivered; a transaction with one such record is not committed.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
    first: Mutex<Option<String>>,
    too_large: Mutex<Option<TooLarge>>,
    fatal: AtomicBool,
}

/// The largest event of a batch that the broker refused for its size.
struct TooLarge {
    topic: String,
    aggregate_id: String,
    event_id: Uuid,
    bytes: usize,
}

impl Deliveries {
    /// The broker refuses whole batches; the event to look at is the largest.
    fn refused_for_size(&self, record: &BorrowedMessage<'_>) {
        let bytes = record.payload_len();
        let Ok((_, metadata)) = headers::read(record) else {
            return; // A position record: it has no headers and is never large.
        };
        let mut largest = self
            .too_large
            .lock()
            .expect("no thread panics while it holds this");
        if largest.as_ref().is_none_or(|largest| largest.bytes < bytes) {
            *largest = Some(TooLarge {
                topic: record.topic().to_owned(),
                aggregate_id: String::from_utf8_lossy(record.key().unwrap_or_default())
                    .into_owned(),
                event_id: metadata.event_id,
                bytes,
            });
        }
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.store(true, Ordering::Release);
        }
        tracing::warn!(%error, reason, "kafka producer of the relay");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = result {
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                self.refused_for_size(record);
            }
            self.failed.fetch_add(1, Ordering::AcqRel);
            let mut first = self
                .first
                .lock()
                .expect("no thread panics while it holds this");
            first.get_or_insert_with(|| error.to_string());
        }
    }
}

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
    producer: BaseProducer<Deliveries>,
    config: PublisherConfig,
    watchdog: Watchdog,
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

fn kafka(doing: &'static str) -> impl Fn(KafkaError) -> RelayError {
    move |source| RelayError::Kafka { doing, source }
}

impl Publisher {
    /// Builds a producer and ends whatever its predecessor left open; from then on the predecessor is fenced.
    pub fn start(kafka_config: &KafkaConfig, config: PublisherConfig) -> Result<Self, RelayError> {
        let client = client::transactional_producer(kafka_config, &config.transactional_id);
        let producer = BaseProducer::from_config_and_context(&client, Deliveries::default())
            .map_err(kafka("building the producer"))?;
        let watchdog = Watchdog::start().map_err(|error| RelayError::Thread(error.to_string()))?;
        watchdog
            .watch(|| producer.init_transactions(TRANSACTION_TIMEOUT))
            .map_err(kafka("init_transactions"))?;
        Ok(Self {
            producer,
            config,
            watchdog,
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
        self.begin()?;
        for event in events {
            self.send_event(event, position.journal)?;
        }
        crash_point!("relay.after-produce");
        if !position_outside() {
            self.send_position(position)?;
        }
        crash_point!("relay.after-position");
        self.drain()
    }

    /// Commits what was staged. An error means that the outcome is unknown.
    pub fn commit(&mut self, position: &PositionRecord) -> Result<(), RelayError> {
        crash_point!("relay.before-commit");
        self.end()?;
        crash_point!("relay.after-commit");
        if position_outside() {
            self.begin()?;
            self.send_position(position)?;
            self.drain()?;
            self.end()?;
        }
        Ok(())
    }

    /// Serves the client while there is nothing to publish; an error if it can never publish again.
    pub fn idle(&self) -> Result<(), RelayError> {
        self.producer.poll(Duration::ZERO);
        match self.producer.client().fatal_error() {
            Some((code, _)) => Err(kafka("idling")(KafkaError::Global(code))),
            None if self.producer.context().fatal.load(Ordering::Acquire) => {
                Err(kafka("idling")(KafkaError::Global(RDKafkaErrorCode::Fatal)))
            }
            None => Ok(()),
        }
    }

    fn begin(&self) -> Result<(), RelayError> {
        self.watchdog
            .watch(|| self.producer.begin_transaction())
            .map_err(kafka("begin_transaction"))
    }

    /// Must follow `drain`: with anything in flight, rust-rdkafka polls in steps of 100 ms here.
    fn end(&self) -> Result<(), RelayError> {
        self.watchdog
            .watch(|| self.producer.commit_transaction(TRANSACTION_TIMEOUT))
            .map_err(kafka("commit_transaction"))
    }

    /// Waits for every delivery report; `message.timeout.ms` bounds it.
    fn drain(&self) -> Result<(), RelayError> {
        self.watchdog.watch(|| {
            while self.producer.in_flight_count() > 0 {
                self.producer.poll(Duration::from_micros(200));
            }
        });
        let context = self.producer.context();
        let failed = context.failed.load(Ordering::Acquire);
        if failed == 0 {
            return Ok(());
        }
        let too_large = context
            .too_large
            .lock()
            .expect("no thread panics while it holds this")
            .take();
        if let Some(event) = too_large {
            return Err(RelayError::EventTooLarge {
                topic: event.topic,
                aggregate_id: event.aggregate_id,
                event_id: event.event_id,
                bytes: event.bytes,
            });
        }
        let first = context
            .first
            .lock()
            .expect("no thread panics while it holds this");
        Err(RelayError::Undelivered {
            failed,
            first: first.clone().unwrap_or_default(),
        })
    }

    fn send_position(&self, position: &PositionRecord) -> Result<(), RelayError> {
        let value = serde_json::to_vec(position).expect("plain fields always serialise");
        self.send(
            BaseRecord::to(&self.config.position_topic)
                .partition(0)
                .key(KEY.as_bytes())
                .payload(value.as_slice()),
        )
    }

    fn send_event(&mut self, event: &JournalEvent, journal: Uuid) -> Result<(), RelayError> {
        let headers = self.text.headers(event, journal);
        let sent = self.send(
            BaseRecord::to(&event.kind.topic)
                .key(event.aggregate_id.as_bytes())
                .payload(event.payload.as_slice())
                .headers(headers),
        );
        match sent {
            Err(RelayError::Kafka {
                source: KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge),
                ..
            }) => Err(RelayError::EventTooLarge {
                topic: event.kind.topic.clone(),
                aggregate_id: event.aggregate_id.clone(),
                event_id: event.event_id,
                bytes: event.payload.len(),
            }),
            other => other,
        }
    }

    /// Hands one record to the client; while its queue is full, waits for deliveries.
    fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), RelayError> {
        let deadline = Instant::now() + TRANSACTION_TIMEOUT;
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    record = back;
                    self.producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(kafka("producing")(error)),
            }
        }
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
