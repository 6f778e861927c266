//! Why the relay cannot go on: for now, or until a person has looked.

use rdkafka::error::KafkaError;
use uuid::Uuid;

use crate::lease::LeaseError;
use crate::log::topics::TopicError;
use crate::log::transaction::TransactionError;
use crate::position::JournalPosition;

/// The runbook for every case in which journal and topics do not belong together.
pub const RUNBOOK: &str = "docs/runbooks/journal-restored.md";

/// Why the relay cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Postgres did not answer or refused; tried again.
    #[error("journal: {0}")]
    Postgres(#[from] sqlx::Error),
    /// Postgres did not answer in time; tried again.
    #[error("journal: postgres did not answer within {0} ms")]
    PostgresTimeout(u64),
    /// The server is a replica: rows become visible there in another order; tried again.
    #[error(
        "the journal's server is a replica (pg_is_in_recovery): DATABASE_URL must name the primary"
    )]
    Replica,
    /// Kafka did not answer or refused; tried again with a new producer.
    #[error("kafka, {doing}: {source}")]
    Kafka {
        /// What was being done.
        doing: &'static str,
        /// What the client said.
        source: KafkaError,
    },
    /// Records of a transaction were not delivered, so it was not committed; tried again.
    #[error("kafka: {failed} records were not delivered, the first because of: {first}")]
    Undelivered {
        /// How many.
        failed: u64,
        /// The first report's error.
        first: String,
    },
    /// The position topic could not be read to its end; tried again. Never taken for an empty topic.
    #[error("position topic {topic} could not be read to its end: {reason}")]
    PositionUnread {
        /// Which topic.
        topic: String,
        /// What stood in the way.
        reason: String,
    },
    /// A topic is missing or not as configured; tried again.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Leadership could not be asked for; tried again.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Another relay may be leader by now; stands by.
    #[error("the lease ran out, another relay may lead by now")]
    LeaseLost,
    /// The relay's thread could not be started, or ended by a panic.
    #[error("the relay's thread: {0}")]
    Thread(String),
    /// Journal and topics do not belong together; a person must look.
    #[error(
        "the journal was restored or exchanged: {reason}; nothing is published until {RUNBOOK} was followed"
    )]
    JournalRestored {
        /// What was seen.
        reason: String,
    },
    /// There are events on the topics but no position that says up to where; a person must look.
    #[error(
        "position topic {topic} holds no position, but {events_topic} holds events: it is not known what was published; follow {RUNBOOK}"
    )]
    PositionMissing {
        /// The position topic.
        topic: String,
        /// The first event topic that is not empty.
        events_topic: String,
    },
    /// The newest position record is not one; a person must look.
    #[error(
        "position topic {topic} holds a record at offset {offset} that is no position: {reason}; follow {RUNBOOK}"
    )]
    PositionUnreadable {
        /// The position topic.
        topic: String,
        /// Where.
        offset: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// An aggregate's events are not gapless in the journal's order; publishing on would break every reader.
    #[error(
        "sequence of {aggregate_type} {aggregate_id} is broken at {position}: expected {expected}, found {found}; a writer broke the journal's rules, see {RUNBOOK}"
    )]
    Sequence {
        /// Aggregate type.
        aggregate_type: String,
        /// Aggregate id.
        aggregate_id: String,
        /// Where the event stands.
        position: JournalPosition,
        /// What was expected there, in words.
        expected: String,
        /// The event's sequence.
        found: i64,
    },
    /// An event's schema is not in the journal, though it is written there before its first use.
    #[error(
        "event {event_id} at {position} was written with schema id {schema_id}, which millrace.schemas does not know for {record} of {aggregate_type}: insert that row, then restart the relay"
    )]
    SchemaUnknown {
        /// Which event.
        event_id: Uuid,
        /// Where it stands.
        position: JournalPosition,
        /// Id in the registry.
        schema_id: i32,
        /// Record name.
        record: String,
        /// Aggregate type.
        aggregate_type: String,
    },
    /// Kafka refuses an event for its size, and always will; what follows it may not overtake it.
    #[error(
        "topic {topic} does not take event {event_id} of aggregate {aggregate_id}, {bytes} bytes of payload: raise max.message.bytes of that topic above the event's size and 1000000, and message.max.bytes in KAFKA_PROPERTIES where the event is above 1 MB, then restart the relay; until then nothing is published"
    )]
    EventTooLarge {
        /// The event's topic.
        topic: String,
        /// The record's key.
        aggregate_id: String,
        /// Which event; the largest of those that were refused together.
        event_id: Uuid,
        /// Size of its payload.
        bytes: usize,
    },
}

impl From<TransactionError> for RelayError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Kafka { doing, source } => Self::Kafka { doing, source },
            TransactionError::Undelivered { failed, first } => Self::Undelivered { failed, first },
            TransactionError::TooLarge(refused) => Self::EventTooLarge {
                topic: refused.topic,
                aggregate_id: refused.key,
                event_id: refused.event_id.unwrap_or_default(),
                bytes: refused.bytes,
            },
            TransactionError::Thread(error) => Self::Thread(error.to_string()),
        }
    }
}

impl RelayError {
    /// True when trying again cannot help: the relay stops, frees its lease and waits for a restart.
    pub fn stops(&self) -> bool {
        matches!(
            self,
            Self::JournalRestored { .. }
                | Self::PositionMissing { .. }
                | Self::PositionUnreadable { .. }
                | Self::Sequence { .. }
                | Self::SchemaUnknown { .. }
                | Self::EventTooLarge { .. }
        )
    }
}
