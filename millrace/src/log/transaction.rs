//! A transactional producer: the relay's, and that of consume-transform-produce.
//!
//! All calls block and belong on a thread of their own. After any error the producer must be dropped: what became
//! of the transaction is then unknown (librdkafka lacks KIP-890 part 2, so a late answer could hit the next one),
//! and only a new producer's `init_transactions` followed by reading the committed offsets settles it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::statistics::Statistics;

use uuid::Uuid;

use super::client::{self, TRANSACTION_TIMEOUT};
use super::contact::{self, Contact};
use super::headers;
use super::record::HeaderBlock;
use super::watchdog::Watched;
use crate::config::KafkaConfig;

/// Longest value with headers that a processor's takes: a dead letter is an event of the largest size with some headers more.
pub(crate) const MESSAGE_MAX_BYTES: u32 = 2_097_152;

/// Between two looks at what is in flight. The client's own wait, below a millisecond, is a loop that takes a whole core
/// from the broker it waits for: at 100 events a second the relay burnt 0.6 of one.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// Longer than `message.timeout.ms`, after which the client itself reports that a record was not delivered.
const REPORTS_WITHIN: Duration = TRANSACTION_TIMEOUT;

/// Why a transaction did not commit, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// A call failed.
    #[error("{doing}: {source}")]
    Kafka {
        /// Which one.
        doing: &'static str,
        /// How.
        source: KafkaError,
    },
    /// Records were not delivered.
    #[error("{failed} records were not delivered, the first because of: {first}")]
    Undelivered {
        /// How many.
        failed: u64,
        /// Of the first one.
        first: String,
    },
    /// A record is larger than the client or the broker takes.
    #[error("topic {} does not take a record of {} bytes under key {}", .0.topic, .0.bytes, .0.key)]
    TooLarge(TooLarge),
    /// No thread for the client's calls.
    #[error("no thread for the kafka client's calls: {0}")]
    Thread(std::io::Error),
}

/// The largest record of those that were refused together for their size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// Its topic.
    pub topic: String,
    /// Its key, as far as it is text.
    pub key: String,
    /// Of an event.
    pub event_id: Option<Uuid>,
    /// Of its value.
    pub bytes: usize,
}

fn kafka(doing: &'static str) -> impl Fn(KafkaError) -> TransactionError {
    move |source| TransactionError::Kafka { doing, source }
}

/// Counts what was not delivered; a transaction with one such record is not committed.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
    first: Mutex<Option<String>>,
    too_large: Mutex<Option<TooLarge>>,
    fatal: AtomicBool,
    contact: Contact,
}

impl Deliveries {
    /// The broker refuses whole batches; the record to look at is the largest.
    fn refused_for_size(&self, record: &BorrowedMessage<'_>) {
        let bytes = record.payload_len();
        let mut largest = self
            .too_large
            .lock()
            .expect("no thread panics while it holds this");
        if largest.as_ref().is_none_or(|largest| largest.bytes < bytes) {
            *largest = Some(TooLarge {
                topic: record.topic().to_owned(),
                key: String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned(),
                event_id: headers::read(record).ok().map(|(_, event)| event.event_id),
                bytes,
            });
        }
    }
}

impl ClientContext for Deliveries {
    fn stats(&self, statistics: Statistics) {
        self.contact.measured(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.store(true, Ordering::Release);
        }
        tracing::warn!(%error, reason, "kafka producer");
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

/// Whether the client has forgotten its brokers; what it counts comes with a poll.
fn is_lost(producer: &BaseProducer<Deliveries>) -> bool {
    // With no time at all it brings one event, and others wait before the figures.
    producer.poll(Duration::from_millis(5));
    producer.context().contact.check().is_err()
}

/// A record to be produced; borrowed, because a transaction holds thousands.
pub(crate) struct ToProduce<'r> {
    pub(crate) topic: &'r str,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'r [u8]>,
    pub(crate) payload: Option<&'r [u8]>,
    pub(crate) headers: &'r HeaderBlock,
}

/// A producer that has ended whatever its predecessor of the same id left open.
pub(crate) struct TransactionalProducer {
    watched: Watched<BaseProducer<Deliveries>>,
}

impl TransactionalProducer {
    /// Builds it; from then on its predecessor is fenced. `max_bytes` bounds a record, else the operator's settings do.
    pub(crate) fn start(
        config: &KafkaConfig,
        id: &str,
        max_bytes: Option<u32>,
    ) -> Result<Self, TransactionError> {
        let mut client = client::transactional_producer(config, id);
        client.set("statistics.interval.ms", contact::LOOK_MS);
        if let Some(max_bytes) = max_bytes {
            client.set("message.max.bytes", max_bytes.to_string());
        }
        let producer = BaseProducer::from_config_and_context(&client, Deliveries::default())
            .map_err(kafka("building the producer"))?;
        let watched = Watched::start(config, producer).map_err(TransactionError::Thread)?;
        let this = Self { watched };
        this.call("init_transactions", |producer| {
            producer.init_transactions(TRANSACTION_TIMEOUT)
        })?;
        Ok(this)
    }

    fn producer(&self) -> &BaseProducer<Deliveries> {
        self.watched.client()
    }

    /// One call under watch; its error says which.
    fn call(
        &self,
        doing: &'static str,
        call: impl FnOnce(&BaseProducer<Deliveries>) -> KafkaResult<()> + Send + 'static,
    ) -> Result<(), TransactionError> {
        if let Some(result) = self.watched.call(call, is_lost) {
            return result.map_err(kafka(doing));
        }
        self.producer()
            .context()
            .contact
            .check()
            .map_err(kafka(doing))?;
        tracing::error!(
            call = doing,
            "a transactional call hangs although kafka answers: its client is given up, another one fences it"
        );
        let hangs = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
        Err(kafka(doing)(hangs))
    }

    /// Opens a transaction.
    pub(crate) fn begin(&self) -> Result<(), TransactionError> {
        // Nothing is asked of the brokers.
        self.producer()
            .begin_transaction()
            .map_err(kafka("begin_transaction"))
    }

    /// Hands over one record; while the client's queue is full, waits for deliveries.
    pub(crate) fn send(&self, one: &ToProduce<'_>) -> Result<(), TransactionError> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in one.headers.iter() {
            headers = headers.insert(Header { key, value });
        }
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(one.topic).headers(headers);
        record.partition = one.partition;
        record.key = one.key;
        record.payload = one.payload;
        self.produce(record)
    }

    /// The same for a record that the client's headers were built for.
    pub(crate) fn produce(
        &self,
        mut record: BaseRecord<'_, [u8], [u8]>,
    ) -> Result<(), TransactionError> {
        let deadline = Instant::now() + TRANSACTION_TIMEOUT;
        loop {
            match self.producer().send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    record = back;
                    self.look();
                }
                Err((
                    KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge),
                    back,
                )) => {
                    return Err(TransactionError::TooLarge(TooLarge {
                        topic: back.topic.to_owned(),
                        key: String::from_utf8_lossy(back.key.unwrap_or_default()).into_owned(),
                        event_id: None,
                        bytes: back.payload.map_or(0, <[u8]>::len),
                    }));
                }
                Err((error, _)) => return Err(kafka("producing")(error)),
            }
        }
    }

    fn look(&self) {
        thread::sleep(LOOK_EVERY);
        self.producer().poll(Duration::ZERO);
    }

    /// Waits for every delivery report. Must come before the commit: with anything in flight, rust-rdkafka polls in steps
    /// of 100 ms there.
    ///
    /// `message.timeout.ms` bounds it, but for a client that has forgotten its brokers: that one was seen not to report.
    pub(crate) fn drain(&self) -> Result<(), TransactionError> {
        self.producer().poll(Duration::ZERO);
        let context = self.producer().context();
        let deadline = Instant::now() + REPORTS_WITHIN;
        let unknown = loop {
            // What the client has to tell besides counts too, so one figure decides.
            let in_flight = self.producer().in_flight_count();
            if in_flight <= 0 || Instant::now() >= deadline {
                break in_flight;
            }
            self.look();
            context
                .contact
                .check()
                .map_err(kafka("waiting for deliveries"))?;
        };
        let failed = context.failed.load(Ordering::Acquire);
        if failed == 0 && unknown <= 0 {
            return Ok(());
        }
        let too_large = context
            .too_large
            .lock()
            .expect("no thread panics while it holds this")
            .take();
        if let Some(too_large) = too_large {
            return Err(TransactionError::TooLarge(too_large));
        }
        let first = context
            .first
            .lock()
            .expect("no thread panics while it holds this");
        Err(TransactionError::Undelivered {
            failed: failed + u64::try_from(unknown).unwrap_or(0),
            first: first
                .clone()
                .unwrap_or_else(|| format!("no word about it within {REPORTS_WITHIN:?}")),
        })
    }

    /// Adds the group's offsets. The coordinator refuses a member or a generation that is not the present one.
    pub(crate) fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &Arc<ConsumerGroupMetadata>,
    ) -> Result<(), TransactionError> {
        let (offsets, group) = (offsets.clone(), Arc::clone(group));
        self.call("send_offsets_to_transaction", move |producer| {
            producer.send_offsets_to_transaction(&offsets, &group, TRANSACTION_TIMEOUT)
        })
    }

    /// Commits. An error means that the outcome is unknown.
    pub(crate) fn commit(&self) -> Result<(), TransactionError> {
        self.call("commit_transaction", |producer| {
            producer.commit_transaction(TRANSACTION_TIMEOUT)
        })
    }

    /// Serves the client while there is nothing to produce; an error if it can never produce again.
    pub(crate) fn idle(&self) -> Result<(), TransactionError> {
        self.producer().poll(Duration::ZERO);
        match self.producer().client().fatal_error() {
            Some((code, _)) => Err(kafka("idling")(KafkaError::Global(code))),
            None if self.producer().context().contact.check().is_err() => Err(kafka("idling")(
                KafkaError::Global(RDKafkaErrorCode::AllBrokersDown),
            )),
            None if self.producer().context().fatal.load(Ordering::Acquire) => {
                Err(kafka("idling")(KafkaError::Global(RDKafkaErrorCode::Fatal)))
            }
            None => Ok(()),
        }
    }
}
